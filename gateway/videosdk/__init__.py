"""VideoSDK as the gateway sees it: the client, its tokens. The only package that knows httpx."""
