"""Two VideoSDK projects whose gateways share one Redis: each with an account, an API key and replicas of its own.

Everything by which Redis could take one project's caller for the other's is the same in both: the callers file and its
keys, the rooms, the participants. Only the API key differs.
"""

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.auth.api_keys import new_key
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api_client import ApiClient
from tests.leaks import EVIDENCE

__all__ = ["Project", "TwoProjects", "two_projects"]


@dataclass(frozen=True)
class Project:
    """One project.

    Attributes:
        simulator: Its account at VideoSDK.
        settings: Those of its gateways.
        key: Of its one caller, who may do everything.
    """

    simulator: Simulator
    settings: dict[str, str]
    key: str

    @asynccontextmanager
    async def gateway(self, **more: str) -> AsyncGenerator[ApiClient]:
        """Serve one of its gateways, and speak to it as its caller."""
        async with harness.serve(self.settings | more) as url, harness.client(url, self.key) as client:
            yield client


@dataclass(frozen=True)
class TwoProjects:
    """Both of them."""

    one: Project
    other: Project

    @asynccontextmanager
    async def gateways(self, **more: str) -> AsyncGenerator[tuple[ApiClient, ApiClient]]:
        """Serve a gateway of each."""
        async with self.one.gateway(**more) as one, self.other.gateway(**more) as other:
            yield one, other


@asynccontextmanager
async def two_projects(
    valkey: EmbeddedValkey, folder: Path, signer: Signer, *, starts_per_minute: int = 0
) -> AsyncGenerator[TwoProjects]:
    """Set up two projects that no other test knows of.

    Args:
        valkey: The Redis they share.
        folder: Where the callers file goes.
        signer: The key of VideoSDK's webhooks, which is the same for all projects.
        starts_per_minute: The limit of the caller.
    """
    key, entry = new_key("app")
    EVIDENCE.guard(key.split("_", 2)[2], "the key that is valid in two projects")
    file = folder / "callers-of-both.toml"
    file.write_text(f"{harness.scoped(entry)}starts_per_minute = {starts_per_minute}\n")

    def account() -> tuple[Simulator, dict[str, str]]:
        api_key, secret = f"project-{uuid.uuid4().hex}", f"secret-{uuid.uuid4().hex}{uuid.uuid4().hex}"
        EVIDENCE.guard(secret, "the secret of one of two projects")
        own = {"GATEWAY_VIDEOSDK_API_KEY": api_key, "GATEWAY_VIDEOSDK_SECRET": secret}
        return Simulator(api_key=api_key, secret=secret, signer=signer), own

    (first, mine), (second, theirs) = account(), account()
    async with first, second:
        yield TwoProjects(
            Project(first, harness.environment(valkey.url, first.url, file, **harness.FAST) | mine, key),
            Project(second, harness.environment(valkey.url, second.url, file, **harness.FAST) | theirs, key),
        )
