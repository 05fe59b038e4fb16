"""The whole gateway on one machine: an embedded Valkey, a simulated VideoSDK, and the real gateway against both.

The gateway runs as a process of its own, with nothing but its environment to tell it where it is: what is tried out
here is what goes into production.
"""

import asyncio
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import httpx

from gateway.auth.api_keys import new_key
from gateway.auth.policy import Scope
from gateway.coordinator import Coordinator, Timing
from gateway.sandbox import tether
from gateway.sandbox.calls import log_line
from gateway.sandbox.identities import IdentityProvider, demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.settings.values import is_loopback
from gateway.store.connection import Connection

__all__ = ["run", "vouch"]

_API_KEY: Final = "sandbox-api-key"
_READY_SECONDS: Final = 20.0
_UNUSED_SECONDS: Final = 3600.0
"""How old the embedded server's mark is: the server was made for this run, and no gateway used another before it."""
_ORIGINS: Final = ("http://localhost:3000", "http://localhost:5173", "http://localhost:8000")
"""Where the usual tools serve a page that is being written: React and Next, Vite, and Python's `http.server`."""
_NOT_PASSED_ON: Final = (
    *("GATEWAY_REDIS_", "GATEWAY_VIDEOSDK_", "GATEWAY_AUTH", "GATEWAY_CALLERS_", "GATEWAY_JWT_", "GATEWAY_JOIN_TOKENS"),
    "GATEWAY_PUBLIC_URL",
)
"""What a developer may have set for a real gateway, and the sandbox sets itself: it must not reach a real account."""
_EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - a name of it, not a use


def run() -> int:
    """Serve until interrupted; return 0 then, or the exit code of a gateway that ended by itself."""
    host, port = os.environ.get("GATEWAY_HOST", "127.0.0.1"), os.environ.get("GATEWAY_PORT", "8080")
    if _taken(host, port):
        print(f"Nothing can listen on {host}:{port}: stop what does, or set GATEWAY_PORT.", file=sys.stderr)
        return 1
    with EmbeddedValkey() as valkey, tempfile.TemporaryDirectory(prefix="gateway-sandbox-") as folder:
        return asyncio.run(_run(host, port, valkey.url, Path(folder)))


async def _run(host: str, port: str, redis_url: str, folder: Path) -> int:
    secret = secrets.token_hex(32)
    # A person who tries things out has a listener on this machine, and wants to see the operator's routes as well.
    key, callers = new_key("demo", Scope)
    callers_file = folder / "callers.toml"
    callers_file.write_text(f"{callers}webhook_http = true\nwebhook_private = true\n")
    async with (
        Simulator(
            api_key=_API_KEY, secret=secret, on_call=lambda call: print(f"videosdk  {log_line(call)}", flush=True)
        ) as simulator,
        IdentityProvider() as provider,
    ):
        await vouch(redis_url)
        environment = {
            "GATEWAY_LOG_FORMAT": "console",
            "GATEWAY_CORS_ORIGINS": ",".join(_ORIGINS),
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)},
            "GATEWAY_HOST": host,
            "GATEWAY_PORT": port,
            "GATEWAY_REDIS_URL": redis_url,
            "GATEWAY_VIDEOSDK_URL": simulator.url,
            "GATEWAY_VIDEOSDK_API_KEY": _API_KEY,
            "GATEWAY_VIDEOSDK_SECRET": secret,
            "GATEWAY_CALLERS_FILE": str(callers_file),
            "GATEWAY_JOIN_TOKENS": "on",
            **_public_url(host, port),
            **provider.settings,
        }
        command = [sys.executable, str(Path(tether.__file__)), sys.executable, "-m", "gateway", "serve"]
        # Tethered, so that it ends with this process however that ends; in a session of its own, so that Ctrl-C
        # reaches it once, through us.
        gateway = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        asked_to_end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _end, gateway, asked_to_end)
        base = f"http://{host}:{port}"
        if await _is_ready(gateway, base):
            join_token = demo_join_token(_API_KEY, secret, room="abcd-efgh-ijkl", participant="ada")
            origins = environment["GATEWAY_CORS_ORIGINS"].replace(",", ", ")
            jwt = provider.token("demo-person")
            print(_welcome(base, simulator.url, key, join_token, jwt, origins), flush=True)
        code = await gateway.wait()
        return 0 if asked_to_end.is_set() else code


async def vouch(redis_url: str) -> None:
    """Say that no gateway used another server before this one: it has no recordings of theirs to wait for."""
    connection = Connection(redis_url)
    await Coordinator(connection, Timing(), "").records.mark(age=_UNUSED_SECONDS)
    await connection.aclose()


def _public_url(host: str, port: str) -> dict[str, str]:
    """Have webhooks delivered, as they never leave this machine; to another of its addresses http is not allowed."""
    url = f"http://{_EVERY_ADDRESS.get(host, host)}:{port}"
    return {"GATEWAY_PUBLIC_URL": url} if is_loopback(url) else {}


def _taken(host: str, port: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except (OSError, ValueError, OverflowError):
            return True
    return False


def _end(gateway: asyncio.subprocess.Process, asked_to_end: asyncio.Event) -> None:
    asked_to_end.set()
    if gateway.returncode is None:
        gateway.terminate()


async def _is_ready(gateway: asyncio.subprocess.Process, base: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(_READY_SECONDS):
        while gateway.returncode is None:
            try:
                if (await client.get(f"{base}/readyz")).is_success:
                    return True
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    return False


def _welcome(base: str, upstream: str, key: str, join_token: str, jwt: str, origins: str) -> str:
    def curl(route: str, body: str) -> str:
        return (
            f"curl -i {base}/v1/recordings/track/{route} -H 'Authorization: Bearer {key}' "
            f"-H 'Content-Type: application/json' -d '{body}'"
        )

    fetch = (
        f"fetch('{base}/v1/recordings/track/start', {{method: 'POST', headers: {{Authorization: 'Bearer {join_token}', "
        "'Content-Type': 'application/json'}, body: JSON.stringify({roomId: 'abcd-efgh-ijkl', participantId: 'ada', "
        "kind: 'audio'})}).then((answer) => answer.json()).then(console.log)"
    )
    # With `make run` it is in a virtual environment that the reader's shell does not know.
    command = "gateway" if shutil.which("gateway") else shlex.quote(str(Path(sys.executable).with_name("gateway")))
    track = '"roomId":"abcd-efgh-ijkl","participantId":"ada","kind":"video"'
    start = curl("start", f'{{{track},"bucketDirPath":"lessons/1"}}')
    return f"""
The gateway serves at {base}, against a simulated VideoSDK. Nothing is kept when it ends (Ctrl-C).

  Docs      {base}/docs
  Watch     {base}/watch?room=abcd-efgh-ijkl
            the room of the lines below, live, and with buttons: paste the demo key
  Demo key  {key}
  VideoSDK  simulated, and sending its webhooks to the gateway; `gateway/sandbox/control.py` says how to let a
            participant leave, or a recording end by itself: {upstream}/_control/

Any of these will do as well, for a day. With the first, ada's browser may start and stop ada's own tracks in the room
abcd-efgh-ijkl; the second is a JWT of a company's identity provider:

  Join token  {join_token}
  JWT         {jwt}

Start a recording (201 started):
  {start}

The same again (200 already_recording):
  {start}

Stop it (200 stopped):
  {curl("stop", f"{{{track}}}")}

From a page, as ada: in its console, or in that of {base}/docs. Pages of {origins} may ask
(GATEWAY_CORS_ORIGINS lets in others):
  {fetch}

A wrong body (422, naming the fields):
  {curl("start", '{"roomId":"abcd-efgh-ijkl","kind":"smell"}')}

The same in words, from another terminal (`{command} --help`): start, stop, list, and this, which follows a room:
  GATEWAY_ADDRESS={base} GATEWAY_KEY={key} {command} watch abcd-efgh-ijkl
"""
