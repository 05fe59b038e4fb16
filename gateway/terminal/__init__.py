"""The command `gateway` as a person or a script uses it: its arguments, its exit codes, and what each command does.

`server` is what an operator runs beside a gateway's settings: serve, check, openapi, keys, sandbox. `client` and
`watch` speak to a running gateway over HTTP, as any caller does: they know its contract and none of its parts, and
start quickly because of that.
"""
