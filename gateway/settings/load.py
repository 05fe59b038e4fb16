"""Loads the settings from the environment once, and reports everything that is wrong, missing or unknown.

`gateway.settings.table` lists the settings, `gateway.settings.values` reads each type of value. No message repeats a
value.
"""

import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import jwt

from gateway.secrets import WrongTextError, read_value
from gateway.settings.model import Settings
from gateway.settings.table import PREFIX, SETTINGS, Setting
from gateway.settings.values import is_loopback

__all__ = ["SettingsError", "load", "named_project", "warnings"]

_SHORT_SECRET: Final = 32
"""VideoSDK's have 64 characters. Who holds a join token can try shorter ones offline."""

_CLIENTS: Final = frozenset({"GATEWAY_ADDRESS", "GATEWAY_KEY", "GATEWAY_KEY_FILE"})
"""What the terminal's client reads of the same environment; no setting of the gateway's."""
# What Kubernetes injects into every pod beside a Service called `gateway`, unless the pod forbids it.
_SERVICE_LINK: Final = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))")


class SettingsError(Exception):
    """The environment cannot be used; `problems` says everything that is wrong with it."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems: Final = problems


def load(environ: Mapping[str, str]) -> Settings:
    """Read the settings from the environment.

    Blanks around a value are dropped, and an empty value counts as absent.

    Raises:
        SettingsError: If anything is wrong, missing or unknown; it says all of it.
    """
    given = {name: text.strip() for name, text in environ.items() if name.startswith(PREFIX) and text.strip()}
    problems = list(_unknown(given))
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        try:
            values[setting.field] = _value(setting, given)
        except WrongTextError as wrong:
            problems.append(str(wrong))
    problems += _redis_problems(given, values)
    problems += _credential_problems(given)
    problems += _identity_problems(given, values)
    problems += _time_problems(values)
    if problems:
        raise SettingsError(tuple(problems))
    files = {
        row.field: Path(given[row.file_variable]) for row in SETTINGS if row.has_file and row.file_variable in given
    }
    return Settings(**values, mounted=files)


def warnings(settings: Settings) -> list[str]:
    """Return a warning for each valid setting that is seldom intended."""
    texts: list[str] = []
    if settings.auth == "none":
        texts.append("GATEWAY_AUTH=none lets in everyone who reaches the gateway")
    elif settings.join_tokens == "any-room":
        texts.append(
            "GATEWAY_JOIN_TOKENS=any-room: a token that names no room is good for its participant in all rooms"
        )
    if settings.auth != "none" and settings.callers_file is not None and _others_write(settings.callers_file):
        texts.append("GATEWAY_CALLERS_FILE can be written by every user of this machine, who can let in anyone")
    if settings.videosdk_url.lower().startswith("http://") and not is_loopback(settings.videosdk_url):
        texts.append("GATEWAY_VIDEOSDK_URL is not https: every host on the way can read and use the token")
    if settings.videosdk_secret is not None and len(settings.videosdk_secret.reveal()) < _SHORT_SECRET:
        texts.append(
            f"GATEWAY_VIDEOSDK_SECRET has fewer than {_SHORT_SECRET} characters: who holds a token can guess it"
        )
    if settings.videosdk_token is not None and named_project(settings) is None:
        texts.append(
            "GATEWAY_VIDEOSDK_TOKEN names no API key: replicas that start with another token do not know of this one's "
            "recordings, so restart all together"
        )
    if settings.jwt_jwks_url is not None and settings.jwt_jwks_url.lower().startswith("http://"):
        texts.append("GATEWAY_JWT_JWKS_URL is not https: any host that can answer for it decides who gets in")
    public = settings.public_url
    if public is not None and is_loopback(public) and not is_loopback(settings.videosdk_url):
        texts.append("GATEWAY_PUBLIC_URL is an address of this machine alone: VideoSDK cannot send webhooks to it")
    return texts


def named_project(settings: Settings) -> str | None:
    """Return the API key of the VideoSDK project: what is set, or what the token names; None where it names none."""
    if settings.videosdk_token is None:
        return settings.videosdk_api_key
    with suppress(jwt.InvalidTokenError):
        claims = jwt.decode(settings.videosdk_token.reveal(), options={"verify_signature": False})
        named = claims.get("apikey")
        return named if isinstance(named, str) and named else None
    return None


def _others_write(path: Path) -> bool:
    """Tell whether every user of this machine may change a file, or put another in its place."""
    try:
        file, folder = path.stat().st_mode, path.resolve().parent.stat().st_mode
    except OSError:
        return False
    # In a folder with the sticky bit a file can only be replaced by its owner.
    return bool(file & stat.S_IWOTH) or folder & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH


def _unknown(given: Mapping[str, str]) -> Iterator[str]:
    variables = {row.variable for row in SETTINGS} | {row.file_variable for row in SETTINGS if row.has_file}
    for name in sorted(given.keys() - variables - _CLIENTS):
        if _SERVICE_LINK.match(name):
            yield (
                f"{name}: unknown; Kubernetes sets it for a Service called gateway, "
                "expected enableServiceLinks: false in the pod"
            )
            continue
        nearest = get_close_matches(name, sorted(variables), n=1, cutoff=0)
        yield f"{name}: unknown; expected {nearest[0]}, if that is meant"


def _value(setting: Setting, given: Mapping[str, str]) -> object:
    """Read one variable, or the file named instead of it; `WrongTextError` then holds the whole problem."""
    text, path = given.get(setting.variable), None
    if setting.has_file:
        path = given.get(setting.file_variable)
    if text is not None and path is not None:
        raise WrongTextError(f"{setting.variable}: given also as {setting.file_variable}; expected one of the two")
    if path is not None:
        try:
            text = read_value(path)
        except WrongTextError as wrong:
            raise WrongTextError(
                f"{setting.file_variable}: {wrong}; expected the path of a readable file that holds the value"
            ) from None
    text = setting.default if text is None else text
    if text is None:
        if setting.required:
            raise WrongTextError(f"{setting.variable}: missing; expected {setting.value_type.expected}")
        return None
    try:
        return setting.value_type.parse(text)
    except WrongTextError as wrong:
        name = setting.variable if path is None else setting.file_variable
        raise WrongTextError(f"{name}: {wrong}; expected {setting.value_type.expected}") from None


# What must hold between several settings. `given` is what stands in the environment, `values` what it was read as,
# without what is wrong by itself.


def _redis_problems(given: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[str]:
    """Check that an authority is named only for a Redis over TLS."""
    if values.get("redis_ca_file") and not given.get("GATEWAY_REDIS_URL", "rediss").startswith("rediss"):
        yield "GATEWAY_REDIS_CA_FILE: useless without TLS; expected a GATEWAY_REDIS_URL that begins with rediss"


def _credential_problems(given: Mapping[str, str]) -> Iterator[str]:
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


def _identity_problems(given: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[str]:
    """Check that some caller can get in, and that every configured credential can be checked."""
    names = ("callers_file", "join_tokens", "jwt_jwks_url")
    none_is_set = all(name in values and values[name] in {None, "off"} for name in names)
    if values.get("auth") == "callers" and none_is_set:
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


def _time_problems(values: Mapping[str, Any]) -> Iterator[str]:
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
