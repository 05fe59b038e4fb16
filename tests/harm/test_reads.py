"""A caller that reads made-up rooms, to use up VideoSDK's patience and every place on the way to it."""

import asyncio
import uuid
from collections import Counter
from pathlib import Path

import pytest

from gateway.auth.api_keys import new_key
from gateway.recordings import MODES
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import NewTrack
from tests.harm.costs import attacked, refused

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

READS, PLACES, PER_MINUTE = 130, 16, 200


def lists(simulator: Simulator, rooms: list[str]) -> int:
    """Return how many lists VideoSDK was asked for of these rooms."""
    return sum(call.endpoint == "list" and call.room_id in rooms for call in simulator.calls)


async def test_reads_of_made_up_rooms_do_not_hold_up_a_start(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """130 reads while VideoSDK answers no list of theirs: 16 of its places are taken, and starts and stops go on."""
    rooms = [f"made-up-{uuid.uuid4().hex[:12]}" for _ in range(READS)]
    simulator.inject(*(Fault(action="hang_before", endpoint="list", room_id=room, times=None) for room in rooms))
    settings = {"GATEWAY_CALLER_QUESTIONS_PER_MINUTE": str(PER_MINUTE), "GATEWAY_VERIFY_ABSENT": "always"}
    async with attacked(valkey.url, simulator.url, tmp_path, settings, ("attacker", "service")) as clients:
        attacker, service = clients
        reads = [asyncio.create_task(attacker.list(room)) for room in rooms]
        await harness.eventually(lambda: lists(simulator, rooms) == PLACES)
        track = new_track()
        assert (await service.start(track)).json().get("outcome") == "started"
        # The attacker's own commands go on too: they have a limit of their own.
        own = new_track()
        assert (await attacker.start(own)).json().get("outcome") == "started"
        assert (await attacker.stop(own)).json().get("outcome") == "stopped"
        # And so does what is asked about a room in which a read waits for VideoSDK.
        contested = {**new_track(), "roomId": rooms[0]}
        simulator.clear_faults()
        assert (await service.start(contested)).json().get("outcome") == "started"
        assert (await service.stop(track)).json().get("outcome") == "stopped"
        assert lists(simulator, rooms) <= PLACES + READS
        answers = Counter(answer.status_code for answer in await asyncio.gather(*reads))
        assert answers.keys() <= {200}


async def test_reads_of_made_up_rooms_are_counted_by_their_calls(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path
) -> None:
    """Forty calls a minute are twenty rooms; others are refused, and neither what is known nor what is hidden costs."""
    most = 20
    rooms = [f"made-up-{uuid.uuid4().hex[:12]}" for _ in range(3 * most)]
    settings = {"GATEWAY_CALLER_QUESTIONS_PER_MINUTE": str(most * len(MODES)), "GATEWAY_TRUST_SECONDS": "600"}
    async with attacked(valkey.url, simulator.url, tmp_path, settings) as (attacker,):
        answers = [await attacker.list(room) for room in rooms]
        statuses = Counter(answer.status_code for answer in answers)
        # A call comes back every one and a half seconds.
        assert most <= statuses[200] <= most + 10
        assert lists(simulator, rooms) == statuses[200]
        assert statuses[429] == len(rooms) - statuses[200]
        problem = answers[-1].json()
        assert (problem["type"], problem["bound"]) == ("/problems/too-many-requests", "questions-per-caller")
        assert await refused(attacker, "questions-per-caller") == statuses[429]
        known = [room for room, answer in zip(rooms, answers, strict=True) if answer.status_code == 200]
        again = [await attacker.list(room) for room in known for _ in range(3)]
        assert {answer.status_code for answer in again} == {200}
        assert lists(simulator, rooms) == statuses[200]


async def test_read_of_who_may_read_nothing_causes_no_call(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path
) -> None:
    """A policy without a participant, or without the one that is asked for: an empty page, and no call."""
    (nobody, first), (ada, second) = new_key("nobody"), new_key("ada")
    file = tmp_path / "callers.toml"
    file.write_text(f'{first}participants = []\n{second}participants = ["ada"]\nkinds = ["video"]\n')
    environ = harness.environment(valkey.url, simulator.url, file, **harness.CALM)
    async with harness.serve(environ) as url:
        room = f"room-{uuid.uuid4().hex[:12]}"
        queries: list[tuple[str, dict[str, str]]] = [
            (nobody, {}), (ada, {"participantId": "bob"}), (ada, {"kind": "audio"}),
            (ada, {"participantId": "ada", "kind": "audio"}),
        ]  # fmt: skip
        for key, query in queries:
            async with harness.client(url, key) as client:
                answer = await client.list(room, **query)
                assert (answer.status_code, answer.json()["recordings"]) == (200, [])
        assert lists(simulator, [room]) == 0
        async with harness.client(url, ada) as client:
            assert (await client.list(room, participantId="ada")).status_code == 200
        assert lists(simulator, [room]) == 1
