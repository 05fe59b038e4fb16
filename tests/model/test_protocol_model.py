"""Random walks through everything that can happen to one track, with the promises checked at every step.

What runs is the gateway's own code on a real server, in a world whose clock stands still (`tests.model.world`):
callers who start and stop, replicas that die, stall and come back, a Redis that loses replies and data, a VideoSDK
whose answers get lost and whose recordings end by themselves.

`MODEL_EXAMPLES` says how many walks; `MODEL_SEED` repeats a run.
"""

import os
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, Verbosity, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from gateway.coordinator import MaxDuration
from tests.model.world import Call, Fate, Process, World

STEPS = 40
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "200"))
SEED = int(os.environ.get("MODEL_SEED") or random.SystemRandom().randrange(10**9))

PAUSES = st.sampled_from([0.001, 0.01, 0.05, 0.12, 0.4, 1.0, 2.1, 4.2, 9.0, 17.5])
PATIENCE = st.sampled_from([0.2, 1.0, 5.0, 30.0])
REPLICAS = st.integers(0, 2)
BOUNDS = st.sampled_from(
    [MaxDuration()] * 4 + [MaxDuration(3.0), MaxDuration(15.0), MaxDuration(40.0), MaxDuration(25.0, lengthens=True)]
)
FATES = st.sampled_from(
    [
        *[Fate()] * 4,
        Fate(reply=0.6, lands=0.3, lag=0.9),
        Fate(reply=3.0, lands=1.0),
        Fate(reply=9.5, lands=9.0, lag=0.9),
        Fate("reset", lands=0.0),
        Fate("reset", lands=3.0, reply=1.0),
        Fate("reset", lands=12.0, lag=0.9),
        Fate("reset", lands=14.9),
        Fate("reset", lands=None),
        Fate("silence", lands=0.3),
        Fate("silence", lands=14.9, connect=1.9),
        Fate("silence", lands=None),
        Fate("refused", lands=None),
        Fate("limited", lands=None, reply=1.0),
        Fate("unreachable", lands=None, connect=0.3),
        Fate(connect=2.5),
    ]
)
"""What becomes of a POST."""


class Walk(RuleBasedStateMachine):
    """One walk. The server and the code under test are set by whoever runs it."""

    client: "redis.Redis"
    code: Mapping[str, Any] = {}
    walks = 0
    steps_taken = 0
    scripts_run = 0

    @initialize(
        steps=st.booleans(), settling=st.booleans(), losing=st.booleans(), dying=st.booleans(), retrying=st.booleans()
    )
    def begin(self, steps: bool, settling: bool, losing: bool, dying: bool, retrying: bool) -> None:
        """Start three replicas; where clocks may step, VideoSDK keeps to half of the margin meant for that."""
        self.world = World(self.client, settling=settling, code=self.code, retry_refused=3.0 if retrying else 0.0)
        timing = self.world.timing
        self.steps = steps
        self.losing = losing
        self.dying = dying
        if steps:
            self.world.landing = timing.upstream_timeout + timing.settle / 2
        self.replicas = [self.world.process() for _ in range(3)]
        self.calm_until = 0.0
        self.world.look(self.replicas[0])
        self.world.advance(timing.quiet)

    def replica(self, number: int) -> Process:
        """Return a replica, a new one where it died."""
        Walk.steps_taken += 1
        if not self.replicas[number].alive:
            self.replicas[number] = self.world.process()
        return self.replicas[number]

    @property
    def leaders(self) -> list[Process]:
        """Those who hold a claim now."""
        return [replica for replica in self.replicas if replica.alive and replica.leases]

    @property
    def calls(self) -> list[Call]:
        """What was asked of replicas that live."""
        return [call for call in self.world.calls if call.process.alive]

    @property
    def may_fail(self) -> bool:
        """Where nobody may die while Redis forgets: not before live leaders have told it what it forgot."""
        return self.dying or self.world.now >= self.calm_until

    def plan(self, kind: str, fate: Fate) -> None:
        """Say what becomes of the next POST."""
        if fate.lands is not None:
            # The list, too, shows it before it can be said that nothing can land any more.
            fate = replace(fate, lands=min(fate.lands, self.world.landing - fate.lag - 0.01))
        self.world.upstream.fates[kind].append(fate)

    # --- callers and time ----------------------------------------------------------------------------------------

    @rule(
        number=REPLICAS,
        parameters=st.sampled_from("AAAB"),
        timeout=PATIENCE,
        fate=FATES,
        pause=PAUSES,
        max_duration=BOUNDS,
    )
    def start(
        self, number: int, parameters: str, timeout: float, fate: Fate, pause: float, max_duration: MaxDuration
    ) -> None:
        """A caller wants it recorded, perhaps not for longer than so many seconds."""
        self.plan("start", fate)
        self.replica(number).start(parameters, timeout, max_duration)
        self.world.advance(pause)

    @rule(number=REPLICAS, timeout=PATIENCE, fate=FATES, pause=PAUSES)
    def stop(self, number: int, timeout: float, fate: Fate, pause: float) -> None:
        """Somebody wants it stopped."""
        self.plan("stop", fate)
        self.replica(number).stop(timeout)
        self.world.advance(pause)

    @rule(pause=PAUSES)
    def wait(self, pause: float) -> None:
        """Nobody does anything for a while."""
        self.world.advance(pause)

    @precondition(lambda self: not self.world.settling)
    @rule(number=REPLICAS, pause=PAUSES)
    def settle(self, number: int, pause: float) -> None:
        """A settler looks for what is due."""
        replica = self.replica(number)
        replica.do(replica.settle())
        self.world.advance(pause)

    # --- VideoSDK ------------------------------------------------------------------------------------------------

    @rule(times=st.integers(1, 3), pause=PAUSES)
    def fail_list(self, times: int, pause: float) -> None:
        """The list cannot be had."""
        self.world.upstream.list_failures = times
        self.world.advance(pause)

    @precondition(lambda self: self.world.upstream.open)
    @rule(lag=st.sampled_from([0.0, 0.9]), pause=PAUSES)
    def end(self, lag: float, pause: float) -> None:
        """The recording ends by itself."""
        self.world.upstream.end(lag)
        self.world.advance(pause)

    @rule(number=REPLICAS, pause=PAUSES)
    def invalidate(self, number: int, pause: float) -> None:
        """Something outside says that it may have ended."""
        replica = self.replica(number)
        replica.do(replica.invalidate())
        self.world.advance(pause)

    # --- processes -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.leaders and self.may_fail)
    @rule()
    def crash(self) -> None:
        """A leader is killed."""
        self.leaders[0].crash()

    @precondition(lambda self: self.calls and self.may_fail)
    @rule()
    def crash_with_callers(self) -> None:
        """A replica is killed that somebody waits at, or left with a promise."""
        self.calls[-1].process.crash()

    @precondition(lambda self: self.leaders and self.may_fail)
    @rule(pause=PAUSES)
    def stall(self, pause: float) -> None:
        """A leader is stopped in its tracks."""
        self.leaders[0].stall()
        self.world.advance(pause)

    @precondition(lambda self: any(replica.stalled for replica in self.replicas))
    @rule(pause=PAUSES)
    def resume(self, pause: float) -> None:
        """A replica goes on."""
        next(replica for replica in self.replicas if replica.stalled).resume()
        self.world.advance(pause)

    # --- Redis ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.may_fail)
    @rule(
        number=REPLICAS,
        faults=st.lists(
            st.sampled_from(["ok", "ok", "refused", "hung", "lost", "slow", "delayed"]), min_size=1, max_size=4
        ),
    )
    def fail_redis(self, number: int, faults: list[str]) -> None:
        """Something happens to a replica's next scripts."""
        self.world.excuse()
        self.replica(number).wire.faults.extend(faults)

    @precondition(lambda self: self.steps)
    @rule(step=st.sampled_from([-1.0, 0.0, 1.0]))
    def step_clock(self, step: float) -> None:
        """Redis's clock steps, by less than half of the margin between two settings."""
        self.world.step_clock(step)

    @precondition(lambda self: self.losing)
    @rule(back=st.none() | st.integers(0, 11), dies=st.booleans())
    def lose(self, back: int | None, dies: bool) -> None:
        """Redis comes back empty, or as it was a moment ago, whether or not those live who know what it forgot."""
        world = self.world
        replicas = [replica for replica in self.replicas if replica.alive]
        if not self.dying:
            assume(not any(replica.stalled or replica.wire.faults for replica in replicas))
            assume(not any(replica.coordinator._retries.pending for replica in replicas))
            # What nobody holds any more, nobody can tell a server that forgot it.
            held = {attempt for replica in replicas for attempt in replica.leases}
            for kind in ("start", "stop"):
                assume(all(flight.attempt in held for flight in world.upstream.unsettled(kind)))
        self.calm_until = world.now + world.timing.grace + 1
        world.lose(back)
        if self.dying and dies and self.leaders:
            self.leaders[0].crash()
        world.advance(0.001)

    def teardown(self) -> None:
        """Come to rest, and see whether everything is as it should be."""
        if not hasattr(self, "world"):
            return
        try:
            self.world.check()
            self.world.come_to_rest()
        finally:
            Walk.scripts_run += self.world.script_calls
            Walk.walks += 1
            self.world.close()


def walk(client: "redis.Redis", examples: int, *, code: Mapping[str, Any] | None = None, shrink: bool = True) -> None:
    """Run some walks."""

    class Here(Walk):
        """A walk on this server, through this code."""

    Here.client = client
    Here.code = code or {}
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        seed(SEED)(Here),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            phases=phases,
            report_multiple_bugs=False,
            verbosity=Verbosity.normal,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )


@pytest.mark.timeout(max(300, EXAMPLES))
def test_random_walk_keeps_every_promise(client: "redis.Redis") -> None:
    """No duplicate, no orphan, no swallowed start, no lost stop, whatever happens in whatever order."""
    print(f"MODEL_SEED={SEED}")
    walk(client, EXAMPLES)
