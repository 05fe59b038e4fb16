"""The settings as they stand in the environment: read once, and everything that is wrong, missing or unknown is said.

What there is to set stands in `gateway.settings.table`, how each sort of value is read in `gateway.settings.values`, and what must hold
between several in `gateway.settings.load`. No message repeats a value.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from gateway.secrets import WrongTextError, read_value
from gateway.settings.load import credential_problems, identity_problems, redis_problems, time_problems
from gateway.settings.table import PREFIX, SETTINGS, Setting, Settings
from gateway.settings.values import is_loopback

__all__ = ["SettingsError", "load", "warnings"]

# What Kubernetes injects into every pod beside a Service called `gateway`, unless told not to.
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
    problems += redis_problems(given, values)
    problems += credential_problems(given)
    problems += identity_problems(given, values)
    problems += time_problems(values)
    if problems:
        raise SettingsError(tuple(problems))
    files = {
        row.field: Path(given[row.file_variable]) for row in SETTINGS if row.has_file and row.file_variable in given
    }
    return Settings(**values, mounted=files)


def warnings(settings: Settings) -> list[str]:
    """Say what can be meant, but seldom is."""
    found: list[str] = []
    if settings.auth == "none":
        found.append("GATEWAY_AUTH=none lets in everybody who reaches the gateway")
    if settings.jwt_jwks_url is not None and settings.jwt_jwks_url.lower().startswith("http://"):
        found.append("GATEWAY_JWT_JWKS_URL is not https: whoever can answer for it decides who gets in")
    public = settings.public_url
    if public is not None and is_loopback(public) and not is_loopback(settings.videosdk_url):
        found.append("GATEWAY_PUBLIC_URL is an address of this machine alone: VideoSDK cannot send webhooks to it")
    return found


def _unknown(given: Mapping[str, str]) -> Iterator[str]:
    known = {row.variable for row in SETTINGS} | {row.file_variable for row in SETTINGS if row.has_file}
    for name in sorted(given.keys() - known):
        if _SERVICE_LINK.match(name):
            yield (
                f"{name}: unknown; Kubernetes sets it for a Service called gateway, "
                "expected enableServiceLinks: false in the pod"
            )
            continue
        nearest = get_close_matches(name, sorted(known), n=1, cutoff=0)
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
