"""What the protocol costs: counted by the server, and by a proxy in front of each gateway."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator

import pytest

from gateway.sandbox.faults import Fault
from tests import harness
from tests.faults.clients import Caller, Place, Recorder, Track
from tests.faults.history import ClientCall
from tests.faults.stage import Stage

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

CALM = {
    **harness.CALM,
    # The server is new, and nothing was ever recorded: a start need not look first.
    "GATEWAY_VERIFY_ABSENT": "never",
}
MAX_SCRIPTS = 20
"""Of one process, for a storm of a thousand callers; renewals come on top."""


_OVER = "everything-was-counted"


class House:
    """Gateways, callers that know them, and counts of the server."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.recorder = Recorder()
        self.callers: list[Caller] = []

    def caller(self) -> Caller:
        """Return a new client."""
        self.callers.append(Caller(self.recorder, self.stage.demo.key, 20))
        return self.callers[-1]

    async def warm_up(self) -> None:
        """Have every gateway do everything once: connect, mint a token, load its scripts, lose its grace time."""
        for number, replica in enumerate(self.stage.serving):
            track = Track("warm-up", f"p{number}")
            for op in ("start", "stop"):
                assert (await self.caller().call(replica, op, track)).ok

    async def scripts(self) -> int:
        """Return how many scripts the server has run, by its own count."""
        stats = await self.stage.command("INFO", "commandstats")
        return sum(int(stats[name]["calls"]) for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)

    @property
    def renewals(self) -> int:
        """How many scripts of all gateways renewed a claim."""
        return sum(gate.renewals for gate in self.stage.gates)

    async def cost(self, *calls: tuple[int, str, Track]) -> tuple[list[ClientCall], int]:
        """Make calls at once, each to the gateway of that number; return answers and scripts without renewals.

        Gateways also look after what was recorded before, when they find the time: other tracks' scripts do not count.
        """
        tracks = [f":{track.room}:track:{track.participant}:" for _, _, track in calls]
        async with self.stage.server().monitor() as monitor:
            before = self.renewals
            answers = await asyncio.gather(
                *(
                    self.caller().call(self.stage.serving[number], op, track, deadline=harness.BOUND)  # pyright: ignore[reportArgumentType]
                    for number, op, track in calls
                )
            )
            renewals = self.renewals - before
            await self.stage.command("ECHO", _OVER)
            scripts = 0
            while _OVER not in (command := (await monitor.next_command())["command"]):
                others = ":track:" in command and not any(track in command for track in tracks)
                scripts += command.startswith(("EVALSHA ", "EVAL ")) and not others
        return answers, scripts - renewals


@pytest.fixture(params=[4])
async def house(request: pytest.FixtureRequest) -> AsyncGenerator[House]:
    """Gateways behind counting proxies; four unless a test says otherwise."""
    async with Stage(replicas=request.param, settings=CALM) as stage:
        house = House(stage)
        await house.warm_up()
        yield house
        for caller in house.callers:
            caller.close()


async def test_start_by_a_thousand_joiners_costs_one_start_and_few_scripts(house: House) -> None:
    """A thousand callers of one start: one start upstream, one id, and at most twenty scripts per process."""
    stage, track = house.stage, Track("storm", "p1")
    stage.simulator.inject(Fault(action="delay", endpoint="start", seconds=2.0, when="after"))
    callers = [house.caller() for _ in range(1000)]
    places = [stage.serving[number % 4] for number in range(1000)]
    await asyncio.gather(*(caller.connect(place) for caller, place in zip(callers, places, strict=True)))
    before = {gate.process: gate.scripts - gate.renewals for gate in stage.gates}
    total = await house.scripts() - house.renewals

    refused: list[ClientCall] = []

    async def answered(caller: Caller, place: Place) -> ClientCall:
        """Ask until Redis has answered: on a machine that is busy enough it may not, in time."""
        while True:
            answer = await caller.call(place, "start", track, deadline=harness.BOUND)
            if answer.problem != "coordination-unavailable":
                return answer
            refused.append(answer)

    answers = await asyncio.gather(*map(answered, callers, places))

    outcomes = Counter(answer.outcome or answer.problem or str(answer.status) for answer in answers)
    late = outcomes.pop("already_recording", 0) if refused else 0
    assert outcomes == {"started": 1, "joined": 999 - late}
    assert len({answer.id for answer in answers}) == 1
    starts = [call for call in stage.upstream_calls() if call.endpoint == "start" and call.track == track.name]
    assert len(starts) == 1
    scripts = {gate.process: gate.scripts - gate.renewals - before[gate.process] for gate in stage.gates}
    assert max(scripts.values()) <= MAX_SCRIPTS + len(refused), scripts
    assert await house.scripts() - house.renewals - total <= sum(scripts.values())


@pytest.mark.parametrize("house", [2], indirect=True)
async def test_each_path_costs_its_number_of_scripts(house: House) -> None:
    """Start 2, join on another replica 1 more, repeat start 1, stop 2: scripts as the server counts them."""
    track, joined = Track("paths", "p1"), Track("paths", "p2")

    (started,), scripts = await house.cost((0, "start", track))
    assert (started.outcome, scripts) == ("started", 2)

    (repeated,), scripts = await house.cost((1, "start", track))
    assert (repeated.outcome, scripts) == ("already_recording", 1)

    (stopped,), scripts = await house.cost((1, "stop", track))
    assert (stopped.outcome, scripts) == ("stopped", 2)

    house.stage.simulator.inject(Fault(action="delay", endpoint="start", seconds=2, when="after"))
    begun = time.monotonic()
    answers, scripts = await house.cost((0, "start", joined), (1, "start", joined))
    assert sorted(answer.outcome for answer in answers) == ["joined", "started"]
    # A waiter also looks for itself once a second or so, however many seconds a busy machine makes of it.
    assert 3 <= scripts <= 3 + (time.monotonic() - begun) / 0.8
