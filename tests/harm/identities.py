"""A gateway process with callers of every sort: a service's key, participants' join tokens, a company's JWTs."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from gateway.auth.api_keys import new_key
from gateway.sandbox.identities import IdentityProvider, demo_join_token
from gateway.sandbox.simulator import Simulator
from tests import harness
from tests.api_client import ApiClient, Track
from tests.leaks import EVIDENCE

TRACK_STARTS = 3
"""How often one track may really be started by callers of one sort, in a minute."""
_TRACKS = "/v2/recordings/participant/track"

Headers = dict[str, str]


def bearer(shown: str) -> Headers:
    """Return the header that shows a key or a token."""
    return {"authorization": f"Bearer {shown}"}


class Stage:
    """A gateway process, and those who use it.

    Attributes:
        process: The gateway.
        simulator: VideoSDK.
        provider: The company's identity provider.
        client: Sends requests to the gateway; without a credential of its own.
        file: The callers file.
        entry: The lines of the service in it.
        service: The header that shows the service's key.
    """

    def __init__(
        self, process: harness.GatewayProcess, simulator: Simulator, provider: IdentityProvider, client: ApiClient,
        file: Path, key: str, entry: str,
    ) -> None:  # fmt: skip
        self.process = process
        self.simulator = simulator
        self.provider = provider
        self.client = client
        self.file = file
        self.entry = entry
        self.key = key
        self.service = bearer(key)

    def joins(self, track: Track, *, moderates: bool = False, nameless: str = "") -> Headers:
        """Return what a page shows whose token is for a track's participant, or for a moderator of its room.

        A token with a `nameless` names no participant; it is another one for each such text.
        """
        participant = None if nameless else "teacher" if moderates else track["participantId"]
        permissions = ["allow_join", "allow_mod"] if moderates else ["allow_join"]
        made = partial(demo_join_token, harness.API_KEY, harness.SECRET, room=track["roomId"])
        return bearer(made(participant=participant, permissions=permissions, jti=nameless or None))

    def company(self, name: str, **claims: object) -> Headers:
        """Return what a person or service of the company shows."""
        return bearer(self.provider.token(name, **claims))

    async def write(self, *tables: str) -> None:
        """Replace the callers file in one step by the service and these tables, and wait until that is in force."""
        before = len(self.logged("callers.reloaded"))
        new = self.file.with_suffix(".new")
        new.write_text("\n".join((self.entry, *tables)))
        new.rename(self.file)

        async def in_force() -> bool:
            # The process looks at the file when it is asked.
            await self.client.get("/readyz")
            return len(self.logged("callers.reloaded")) > before

        await harness.until(in_force)

    def sent(self, track: Track, endpoint: str = "*") -> list[dict[str, Any]]:
        """Return the bodies of the starts and stops of a track that reached VideoSDK."""
        return [
            call.body for call in self.simulator.calls
            if call.room_id == track["roomId"] and call.participant_id == track["participantId"]
            and call.endpoint in ({"start", "stop"} if endpoint == "*" else {endpoint})
        ]  # fmt: skip

    def records(self, track: Track) -> bool:
        """Tell whether VideoSDK records a track."""
        return any(
            row.end is None for row in self.simulator.rows
            if (row.room_id, row.participant_id) == (track["roomId"], track["participantId"])
        )  # fmt: skip

    async def start_beside(self, track: Track) -> None:
        """Have VideoSDK record a track of which the gateway hears nothing."""
        async with httpx.AsyncClient(headers={"authorization": harness.management_token()}, trust_env=False) as other:
            (await other.post(f"{self.simulator.url}{_TRACKS}/start", json=track)).raise_for_status()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return what the process has logged under a name."""
        lines = harness.log_lines(self.process.log)
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == event]


@asynccontextmanager
async def stage(redis_url: str, folder: Path, **settings: str) -> AsyncGenerator[Stage]:
    """Run a gateway process that lets in callers of every sort."""
    key, entry = new_key("lesson-service")
    EVIDENCE.guard(key.split("_", 2)[2], "the key of the service")
    # The service has the operator's scope too, and no limit of its own.
    entry = f"{harness.scoped(entry)}starts_per_minute = 0\n"
    file = folder / "callers.toml"
    file.write_text(entry)
    async with harness.simulator() as simulator, IdentityProvider() as provider:
        environ = harness.environment(redis_url, simulator.url, file, **harness.CALM) | {
            "GATEWAY_JOIN_TOKENS": "on",
            "GATEWAY_TRACK_STARTS_PER_MINUTE": str(TRACK_STARTS),
            **provider.settings,
            **settings,
        }
        process = harness.GatewayProcess(environ, folder / "gateway.log")
        try:
            await process.ready()
            async with harness.client(process.url) as client:
                await harness.until_ready(client)
                yield Stage(process, simulator, provider, client, file, key, entry)
        finally:
            await asyncio.to_thread(process.stop)


def rule(answer: httpx.Response) -> str:
    """Return the rule that refused a request; check that one did."""
    body = answer.json()
    assert (answer.status_code, body.get("type")) == (403, "/problems/forbidden"), answer.text
    return str(body["rule"])
