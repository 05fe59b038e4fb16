"""`gateway check`: the settings, and whether what they name answers, with what to do where it does not."""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

import jwt
import msgspec

from gateway.app import create_client, create_connection, create_webhook_keys, fetch_jwks
from gateway.auth.api_keys import Callers, CallersFileError
from gateway.errors import CoordinationUnavailable, CredentialsRefused, UpstreamError
from gateway.settings.load import warnings
from gateway.settings.model import Settings
from gateway.settings.table import describe
from gateway.terminal.exit_codes import ExitCode
from gateway.terminal.screen import coloured, progress, show, table

__all__ = ["check"]

_WEBHOOKS_OFF: Final = (
    "VideoSDK is not asked to send them, as GATEWAY_PUBLIC_URL is not set; those of rooms made with this gateway's "
    "address are accepted"
)


class _Finding(NamedTuple):
    what: str
    ok: bool
    state: str
    advice: str = ""


async def check(settings: Settings, *, as_json: bool) -> int:
    """Say what the settings are and what answers; start nothing."""
    findings: list[_Finding] = []
    for what, find in (
        ("Redis", _redis),
        ("VideoSDK", _videosdk),
        ("Callers file", _callers_file),
        ("Identity provider", _identity_provider),
        ("Webhooks", _webhooks),
    ):
        async with progress(f"gateway check: asking, {what}"):
            found = await find(settings)
        if found is not None:
            findings.append(found)
    cautions = [*warnings(settings), *_ignored(os.environ)]
    if as_json:
        rows = [dict(zip(("name", "value", "from"), row, strict=True)) for row in describe(settings)]
        found = [finding._asdict() for finding in findings]
        show(msgspec.json.encode({"settings": rows, "checks": found, "warnings": cautions}).decode())
    else:
        show(
            table(
                [
                    ("SETTING", "VALUE", "FROM"),
                    *((name, value, f"({origin})") for name, value, origin in describe(settings)),
                ]
            )
        )
        looks = {finding.state: "good" if finding.ok else "bad" for finding in findings}
        rows = [("WHAT", "STATE", "WHAT TO DO")]
        rows += [(finding.what, finding.state, finding.advice) for finding in findings]
        show(table(rows, looks, 1))
        for warning in cautions:
            show(f"{coloured('WARNING', 'unknown')}: {warning}")
    return ExitCode.DONE if all(finding.ok for finding in findings) else ExitCode.REFUSED


def _ignored(environ: Mapping[str, str]) -> list[str]:
    """Name the variables that other programs would take a proxy from; their values may hold passwords."""
    set_ones = [name for name in environ if name.lower() in {"http_proxy", "https_proxy", "all_proxy"}]
    return [f"{name} is ignored; GATEWAY_UPSTREAM_PROXY names the proxy to VideoSDK" for name in sorted(set_ones)]


async def _redis(settings: Settings) -> _Finding:
    connection = create_connection(settings)
    try:
        await connection.now()
    except CoordinationUnavailable as error:
        return _Finding(
            "Redis",
            ok=False,
            state=f"DOES NOT ANSWER ({type(error.__cause__).__name__})",
            advice="See that it runs and that GATEWAY_REDIS_URL names it with its password; starts get 503 without it.",
        )
    finally:
        await connection.aclose()
    return _Finding("Redis", ok=True, state="answers")


async def _videosdk(settings: Settings) -> _Finding:
    videosdk = create_client(settings)
    try:
        await videosdk.check()
    except CredentialsRefused as error:
        return _Finding(
            "VideoSDK",
            ok=False,
            state=f"REFUSES THE TOKEN (status {error.status})",
            advice="Compare API key and secret with VideoSDK's dashboard; see that this machine's clock is right.",
        )
    except UpstreamError as error:
        return _Finding(
            "VideoSDK",
            ok=False,
            state=f"DOES NOT ANSWER AS EXPECTED ({error.status or error.message})",
            advice="See that GATEWAY_VIDEOSDK_URL can be reached from here; GATEWAY_UPSTREAM_PROXY names a proxy.",
        )
    finally:
        await videosdk.aclose()
    return _Finding("VideoSDK", ok=True, state="accepts the token")


async def _callers_file(settings: Settings) -> _Finding | None:
    if settings.auth == "none" or settings.callers_file is None:
        return None
    try:
        Callers.load(settings.callers_file)
    except CallersFileError as error:
        advice = (
            "Mend the file; `gateway keys new NAME` prints an entry. A gateway that serves keeps the last good one."
        )
        return _Finding("Callers file", ok=False, state=f"CANNOT BE USED ({error})", advice=advice)
    return _Finding("Callers file", ok=True, state="can be used")


async def _identity_provider(settings: Settings) -> _Finding | None:
    if settings.auth == "none" or settings.jwt_jwks_url is None:
        return None
    try:
        jwt.PyJWKSet.from_json((await fetch_jwks(settings.jwt_jwks_url)).decode())
    except (OSError, UnicodeDecodeError, jwt.PyJWTError, ValueError) as error:
        return _Finding(
            "Identity provider",
            ok=False,
            state=f"GIVES NO KEYS ({error if isinstance(error, OSError) else type(error).__name__})",
            advice="See that GATEWAY_JWT_JWKS_URL is its JWKS document, and can be reached from here.",
        )
    return _Finding("Identity provider", ok=True, state="answers")


async def _webhooks(settings: Settings) -> _Finding:
    if settings.public_url is None:
        return _Finding("Webhooks", ok=True, state=_WEBHOOKS_OFF)  # and a key that is pinned was read with the settings
    videosdk = create_client(settings)
    try:
        if await create_webhook_keys(settings, videosdk).current():
            return _Finding("Webhooks", ok=True, state="can be checked")
    finally:
        await videosdk.aclose()
    return _Finding(
        "Webhooks",
        ok=False,
        state="CANNOT BE CHECKED (no key)",
        advice="VideoSDK gives its public key to any client: mend its line above first, or pin the key.",
    )
