"""A fault harness: real gateways, a real server, a simulated VideoSDK, things that go wrong, and a checker.

`history` is what was seen, `checker` decides from it alone, `timeline` shows it to people. `proxy`, `stage` and
`clients` make a system to be disturbed; `nemeses` disturb it; `rows` is the table of disturbances; `run` plays one row.
"""
