"""The policy over HTTP: the tables of hostile and honest values, sent by callers whose tables are in a callers file."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from gateway.auth.api_keys import new_key
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.api.honest_inputs import HONEST, Honest
from tests.api.hostile_inputs import HOSTILE, INVALID, LISTED, LISTED_ONLY, OPEN, PATH, Hostile
from tests.api_client import ApiClient, NewTrack

pytestmark = pytest.mark.anyio


CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    """A server of these tests' own: what others left to be looked after would count as having reached it."""
    with harness.AgedValkey() as server:
        yield server


@pytest.fixture(scope="module")
async def simulator(signer: Signer) -> AsyncIterator[Simulator]:
    """One VideoSDK for all of them."""
    async with harness.simulator(signer=signer) as videosdk:
        yield videosdk


@pytest.fixture(scope="module")
async def callers(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, ApiClient]]:
    """One gateway, and a client for each of the two callers."""
    (open_key, first), (listed_key, second) = new_key("open"), new_key("listed")
    file = tmp_path_factory.mktemp("policy") / "callers.toml"
    file.write_text(f"{first}{toml(OPEN)}{second}{toml(LISTED)}", encoding="utf-8")
    settings = harness.environment(
        valkey.url, simulator.url, file, **harness.CALM, GATEWAY_CALLER_STARTS_PER_MINUTE="0"
    )
    async with (
        harness.serve(settings) as url,
        harness.client(url, open_key) as as_open,
        harness.client(url, listed_key) as as_listed,
    ):
        yield {"open": as_open, "listed": as_listed}


def toml(table: dict[str, object]) -> str:
    """Write a caller's table as it stands in the file: strings and lists look the same in JSON."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())


@pytest.mark.parametrize("row", HOSTILE, ids=lambda row: f"{row.trick}: {ascii(row.value)[1:60]}")
async def test_start_with_hostile_values_is_refused_and_sends_nothing(
    callers: dict[str, ApiClient],
    nothing_reaches: Callable[[], Any],
    new_track: NewTrack,
    check_problem: CheckProblem,
    row: Hostile,
) -> None:
    """Refused by the rule in the table, in words without the value; nothing reaches VideoSDK or Redis."""
    caller = callers["listed" if row.rule in LISTED_ONLY else "open"]
    folder = {} if row.field == PATH else {PATH: "recordings/acme"}
    async with nothing_reaches():
        answer = await caller.start(new_track(**folder, **{row.field: row.value}))
    if row.rule == INVALID:
        assert [error["field"] for error in check_problem(answer, "invalid-request")["errors"]] == [row.field]
    else:
        assert check_problem(answer, "forbidden")["rule"] == row.rule
    assert len(row.value) < 12 or row.value not in answer.text


@pytest.mark.parametrize("row", HONEST, ids=lambda row: f"{row.field}: {ascii(row.value)[1:60]}")
async def test_start_with_honest_values_sends_them_unchanged(
    callers: dict[str, ApiClient], simulator: Simulator, new_track: NewTrack, row: Honest
) -> None:
    """VideoSDK gets what was sent, and nothing beside it."""
    folder = {} if row.field == PATH else {PATH: "recordings/acme"}
    for name in ("open", "listed") if row.listed else ("open",):
        track = new_track(**folder, **{row.field: row.value})
        assert (await callers[name].start(track)).status_code == 201
        assert simulator.calls[-1].body == track
        assert json.loads(simulator.calls[-1].raw)[row.field].encode() == row.value.encode()


async def test_batch_of_hostile_values_refuses_each_as_a_single_start(
    callers: dict[str, ApiClient], nothing_reaches: Callable[[], Any], new_track: NewTrack
) -> None:
    """The whole table, a hundred rows at a time: each by its rule, and nothing reaches VideoSDK or Redis."""
    for name, caller in callers.items():
        rows = [row for row in HOSTILE if (row.rule in LISTED_ONLY) == (name == "listed")]
        for begin in range(0, len(rows), 100):
            chunk = rows[begin : begin + 100]
            async with nothing_reaches():
                results = await in_batch(caller, [started(new_track, row) for row in chunk])
            for row, result in zip(chunk, results, strict=True):
                if row.rule == INVALID:
                    fields = [error["field"] for error in result["problem"]["errors"]]
                    assert (result["status"], fields) == (422, [f"items[{result['item']}].{row.field}"]), row
                else:
                    assert (result["status"], result["problem"]["rule"]) == (403, row.rule), row


async def test_batch_of_honest_values_sends_each_unchanged(
    callers: dict[str, ApiClient], simulator: Simulator, new_track: NewTrack
) -> None:
    """VideoSDK gets of every item what was sent, and nothing of the batch beside it."""
    items = [started(new_track, row) for row in HONEST]
    # A few at a time: a busy machine must not keep one of them from being sent in time.
    for begin in range(0, len(items), 8):
        results = await in_batch(callers["open"], items[begin : begin + 8])
        assert {result["status"] for result in results} == {201}
    sent = {call.participant_id: call.body for call in simulator.calls if call.endpoint == "start"}
    for item in items:
        assert sent[item["participantId"]] == {
            name: value for name, value in item.items() if name not in {"action", "mode"}
        }


def started(new_track: NewTrack, row: Hostile | Honest) -> dict[str, str]:
    """Return the item that starts a track with a value."""
    folder = {} if row.field == PATH else {PATH: "recordings/acme"}
    return {"action": "start", "mode": "track", **new_track(**folder, **{row.field: row.value})}


async def in_batch(caller: ApiClient, items: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Send a batch and return its results."""
    answer = await caller.post("/v1/recordings/batch", json={"items": items})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]
