"""Secrets in files that are replaced while the gateway starts: after they were read, before they are watched."""

import itertools
import uuid
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from gateway.secrets import Secret, SecretFile
from gateway.settings.load import load
from gateway.settings.table import SETTINGS
from gateway.videosdk.tokens import MintedTokens
from tests import harness
from tests.api_client import NewTrack
from tests.forward_proxy import ForwardProxy
from tests.leaks import EVIDENCE

pytestmark = pytest.mark.anyio

WRONG_SECRET, RIGHT_SECRET = (f"{name}-{uuid.uuid4().hex}{uuid.uuid4().hex}" for name in ("wrong", "right"))
for _secret in (WRONG_SECRET, RIGHT_SECRET):
    EVIDENCE.guard(_secret, "a secret of the start-up")

FILES = {
    "GATEWAY_VIDEOSDK_SECRET": (WRONG_SECRET, RIGHT_SECRET),
    "GATEWAY_VIDEOSDK_API_KEY": ("wrong-api-key", "right-api-key"),
    "GATEWAY_VIDEOSDK_TOKEN": (
        MintedTokens("right-api-key", Secret(WRONG_SECRET)).current(),
        MintedTokens("right-api-key", Secret(RIGHT_SECRET)).current(),
    ),
    "GATEWAY_REDIS_URL": ("redis://127.0.0.1:1/0", ""),
    "GATEWAY_UPSTREAM_PROXY": ("http://127.0.0.1:1", ""),
}
"""What each file holds when it is read, and when it is watched; of Redis and the proxy, where the tests' are."""


def replace(file: Path, text: str) -> None:
    """Replace a file in one step, as Kubernetes does."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def test_every_setting_with_a_file_has_a_row() -> None:
    """A new secret that may stand in a file is tested here as well."""
    assert {setting.variable for setting in SETTINGS if setting.has_file} == FILES.keys()


@pytest.mark.parametrize("name", FILES)
async def test_file_replaced_between_settings_and_gateway_counts(
    valkey: EmbeddedValkey, demo: harness.Demo, signer: Signer, tmp_path: Path, new_track: NewTrack, name: str
) -> None:
    """The very first start is made with what the file holds by then, not with what the settings were read with."""
    read, watched = FILES[name]
    file = tmp_path / "value"
    file.write_text(read)
    async with (
        Simulator(api_key="right-api-key", secret=RIGHT_SECRET, signer=signer) as simulator,
        ForwardProxy() as proxy,
    ):
        environ = harness.environment(valkey.url, simulator.url, demo.file, **harness.FAST) | {
            "GATEWAY_VIDEOSDK_API_KEY": "right-api-key",
            "GATEWAY_VIDEOSDK_SECRET": RIGHT_SECRET,
        }
        if name == "GATEWAY_VIDEOSDK_TOKEN":
            del environ["GATEWAY_VIDEOSDK_API_KEY"], environ["GATEWAY_VIDEOSDK_SECRET"]
        environ.pop(name, None)
        settings = load(environ | {f"{name}_FILE": str(file)})
        replace(file, watched or (valkey.url if name == "GATEWAY_REDIS_URL" else proxy.url()))
        async with harness.serve_app(create_app(settings)) as url, harness.client(url, demo.key) as client:
            answer = await client.start(new_track())
        assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("moment", range(3))
def test_file_replaced_while_the_watch_begins_is_noticed(tmp_path: Path, moment: int) -> None:
    """Replaced when the clock is asked for the first, second or third time: the secret is the new one soon after."""
    file, asked = tmp_path / "secret", itertools.count()
    file.write_text("the-old-one")

    def clock() -> float:
        times = next(asked)
        if times == moment:
            replace(file, "the-new-one")
        return times * 10.0

    secret = SecretFile(file, Secret("the-old-one"), clock)
    assert [secret().reveal() for _ in range(3)][-1] == "the-new-one"
