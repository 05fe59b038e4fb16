"""What tests rely on: no test meets what an earlier one left."""

import pytest
import redis

from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("turn", ["one", "next"])
async def test_recording_that_a_test_leaves_is_scheduled_in_no_later_test(
    valkey: EmbeddedValkey, gateway: ApiClient, new_track: NewTrack, turn: str
) -> None:
    """Or the gateway of that test, which has another VideoSDK, would stop it when its minute is over."""
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        assert harness.scheduled(client, "ends") == []
        assert (await gateway.start({**new_track(), "maxDurationSeconds": 60})).status_code == 201
        assert harness.scheduled(client, "ends")
