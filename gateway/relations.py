"""What holds between several settings: each check says everything that is wrong, and repeats no value.

Args are what stands in the environment (`given`) and what it was read as (`values`, without what is wrong by itself).
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

__all__ = ["credential_problems", "identity_problems", "redis_problems", "time_problems"]


def redis_problems(given: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[str]:
    """Check that there is a certificate to be trusted, where it is said whom to trust."""
    if values.get("redis_ca_file") and not given.get("GATEWAY_REDIS_URL", "rediss").startswith("rediss"):
        yield "GATEWAY_REDIS_CA_FILE: useless without TLS; expected a GATEWAY_REDIS_URL that begins with rediss"


def credential_problems(given: Mapping[str, str]) -> Iterator[str]:
    """Check that there is exactly one way to get a token."""
    token, key, secret = "GATEWAY_VIDEOSDK_TOKEN", "GATEWAY_VIDEOSDK_API_KEY", "GATEWAY_VIDEOSDK_SECRET"
    has_token, has_key, has_secret = (name in given or f"{name}_FILE" in given for name in (token, key, secret))
    if has_token and (has_key or has_secret):
        yield f"{token}: given together with {key if has_key else secret}; expected one way to get a token, not two"
    elif has_key and not has_secret:
        yield f"{secret}: missing; expected together with {key}"
    elif has_secret and not has_key:
        yield f"{key}: missing; expected together with {secret}"
    elif not has_token and not has_key:
        yield f"{token}: missing; expected it, or {key} and {secret}; each also as …_FILE"


def identity_problems(given: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[str]:
    """Check that somebody is let in, and that what tells who it is can be checked."""
    names = ("callers_file", "join_tokens", "jwt_jwks_url")
    nobody = all(name in values and values[name] in {None, "off"} for name in names)
    if values.get("auth") == "callers" and nobody:
        yield (
            "GATEWAY_CALLERS_FILE: missing; expected it, GATEWAY_JOIN_TOKENS or GATEWAY_JWT_JWKS_URL, because "
            "GATEWAY_AUTH is callers (GATEWAY_AUTH=none lets in everyone who reaches the gateway)"
        )
    signs = {"GATEWAY_VIDEOSDK_SECRET", "GATEWAY_VIDEOSDK_SECRET_FILE"}
    if values.get("join_tokens") in {"on", "any-room"} and not signs & given.keys():
        yield "GATEWAY_JOIN_TOKENS: cannot be checked; expected GATEWAY_VIDEOSDK_API_KEY and GATEWAY_VIDEOSDK_SECRET"
    for name in ("GATEWAY_JWT_ISSUER", "GATEWAY_JWT_AUDIENCE"):
        if "GATEWAY_JWT_JWKS_URL" in given and name not in given:
            yield f"{name}: missing; expected together with GATEWAY_JWT_JWKS_URL"
        elif name in given and "GATEWAY_JWT_JWKS_URL" not in given:
            yield f"GATEWAY_JWT_JWKS_URL: missing; expected together with {name}"


def time_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Check the protocol's times against each other, as far as each of them is right by itself."""
    window, timeout, settle = (values.get(name) for name in ("send_window", "upstream_timeout", "settle"))
    lease, deadline = values.get("lease"), values.get("request_deadline")
    if window is not None and lease is not None and lease < window + timedelta(seconds=1):
        yield (
            "GATEWAY_LEASE_SECONDS: too short, a claim could lapse before its request is sent; "
            f"expected at least GATEWAY_SEND_WINDOW_SECONDS + 1 = {(window.total_seconds() + 1):g}"
        )
    if window is None or timeout is None or settle is None or deadline is None:
        return
    quiet = window + timeout + settle
    if deadline <= quiet:
        yield (
            "GATEWAY_REQUEST_DEADLINE_SECONDS: too short, callers whose leader crashed would never get an answer; "
            "expected more than the quiet time, GATEWAY_SEND_WINDOW_SECONDS + GATEWAY_UPSTREAM_TIMEOUT_SECONDS + "
            f"GATEWAY_SETTLE_SECONDS = {quiet.total_seconds():g}"
        )
