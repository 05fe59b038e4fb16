"""A VideoSDK that runs on this machine, for trying the gateway and for its tests."""
