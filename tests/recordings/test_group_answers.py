"""What a caller group is answered, row by row: of an operation's result, and of the record where there is none."""

import asyncio
from typing import Any, cast

import pytest

from gateway.coordinator import UNBOUNDED, Claim, Command, Coordinator, Lease, MaxDuration, Record, Timing, Verdict
from gateway.recordings import Outcome, Target
from gateway.recordings.caller_group import CallerGroup
from gateway.recordings.coalescer import Coalescer
from gateway.recordings.model import Answer, Problem, Status
from gateway.recordings.operation import Operation, Result
from gateway.recordings.targets import Kind, Mode, StartParameters
from gateway.store.connection import Connection

pytestmark = pytest.mark.anyio

TARGET = Target(Mode.TRACK, "room", "p", Kind.VIDEO)
ONE, OTHER = StartParameters(), StartParameters(bucket_dir_path="elsewhere")
REFUSED = Problem("upstream-refused", "VideoSDK refused it.")
START, STOP, CHECK = Command.START, Command.STOP, Command.RECONCILE


class Asked:
    """A group of two callers, and the rules by which it is answered, with nothing behind them."""

    def __init__(self, command: Command, max_duration: MaxDuration = UNBOUNDED, longest: float = 0) -> None:
        parameters = ONE if command is START else None
        self.group = CallerGroup("key", TARGET, command, parameters, "demo", None, None, max_duration)
        loop = asyncio.get_running_loop()
        self.group.waiters = [loop.create_future(), loop.create_future()]
        coordinator = Coordinator(Connection("redis://nowhere"), Timing(longest=longest), "t")
        self.rules = Coalescer(coordinator, *(cast("Any", None) for _ in range(4)), degrade=False, max_waiting=2)

    @property
    def answers(self) -> list[object]:
        """What the callers were answered: outcome, or the problem."""
        answers = [caller.result() for caller in self.group.waiters if caller.done()]
        return [answer.outcome if isinstance(answer, Answer) else answer for answer in answers]


def result(
    command: Command,
    state: Status | None,
    outcome: Outcome | None = None,
    problem: Problem | None = None,
    parameters: StartParameters | None = None,
) -> Result:
    """Return what became of an operation: of a start with these parameters, where it was one."""
    fingerprint = parameters.fingerprint if parameters else ""
    record = Record(state=state, fingerprint=fingerprint) if state else None
    return Result(command=command, record=record, outcome=outcome, problem=problem, fingerprint=fingerprint)


def both(answer: object) -> list[object]:
    """Return one answer for two callers."""
    return [answer, answer]


S, O = Status, Outcome  # noqa: E741 - the table is to be read
RUNS = both(O.ALREADY_RECORDING)
RESULTS: list[tuple[Command, Result, list[object], list[object]]] = [
    # wants, what became of the operation, what its own callers are answered, and what those who waited
    (START, result(START, S.RECORDING, O.STARTED, None, ONE), [O.STARTED, O.JOINED], both(O.JOINED)),
    (START, result(START, S.RECORDING, O.STARTED, None, OTHER), [], []),
    (START, result(START, S.RECORDING, O.ALREADY_RECORDING), RUNS, RUNS),
    (START, result(CHECK, S.RECORDING), RUNS, RUNS),
    (START, result(CHECK, S.RECORDING, None, None, OTHER), [], []),
    (START, result(START, S.UNKNOWN, None, REFUSED, ONE), both(REFUSED), both(REFUSED)),
    (START, result(START, S.FAILED, None, REFUSED, OTHER), both(REFUSED), []),
    (START, result(STOP, S.RECORDING, None, REFUSED, ONE), both(REFUSED), []),
    (START, result(START, None, None, REFUSED, ONE), both(REFUSED), both(REFUSED)),
    (START, result(START, None), [], []),
    (START, result(CHECK, S.STOPPED), [], []),
    (START, result(STOP, S.STOPPING, O.STOP_REQUESTED), [], []),
    (STOP,  result(STOP, S.STOPPED, O.STOPPED), [O.STOPPED, O.JOINED], both(O.JOINED)),
    (STOP,  result(STOP, S.STOPPED), [O.STOPPED, O.JOINED], both(O.JOINED)),
    (STOP,  result(STOP, S.STOPPED, O.NOT_RECORDING), both(O.NOT_RECORDING), both(O.NOT_RECORDING)),
    (STOP,  result(STOP, S.STOPPING, O.STOP_REQUESTED), both(O.STOP_REQUESTED), both(O.STOP_REQUESTED)),
    (STOP,  result(STOP, S.RECORDING, None, REFUSED), both(REFUSED), both(REFUSED)),
    (STOP,  result(STOP, S.FAILED), [], []),
    (STOP,  result(CHECK, S.STOPPED), [], []),
    (STOP,  result(START, S.RECORDING, O.STARTED, None, ONE), [], []),
    (STOP,  result(STOP, None), [], []),
]  # fmt: skip


@pytest.mark.parametrize("leading", [True, False], ids=["its own", "another's"])
@pytest.mark.parametrize(("command", "became", "own", "others"), RESULTS)
async def test_group_on_a_result_answers_what_the_table_says(
    command: Command, became: Result, own: list[object], others: list[object], leading: bool
) -> None:
    """A result that is not about the command answers no caller: the group claims again."""
    asked = Asked(command)
    answered = asked.rules._answer_from_result(asked.group, became, leading=leading)
    assert asked.answers == (own if leading else others)
    assert answered is bool(asked.answers)


@pytest.mark.parametrize(
    ("max_duration", "longest", "ends_in", "suits"),
    [
        (UNBOUNDED, 0, 0, True),
        (UNBOUNDED, 0, 600, True),
        (UNBOUNDED, 900, 600, True),
        (UNBOUNDED, 300, 600, False),
        (UNBOUNDED, 300, 0, False),
        (MaxDuration(900), 0, 600, True),
        (MaxDuration(900), 300, 600, False),
        (MaxDuration(300), 900, 600, False),
        (MaxDuration(300), 0, 0, False),
        (MaxDuration(900, lengthens=True), 0, 600, False),
        (MaxDuration(0, lengthens=True), 0, 600, True),
    ],
)
@pytest.mark.parametrize("outcome", [O.STARTED, O.ALREADY_RECORDING])
@pytest.mark.parametrize("leading", [True, False], ids=["its own", "another's"])
async def test_group_on_a_result_claims_again_where_the_end_does_not_suit_it(
    max_duration: MaxDuration, longest: float, ends_in: int, suits: bool, outcome: Outcome, leading: bool
) -> None:
    """The claim then moves the end. What it has started itself ends as it asked."""
    asked = Asked(START, max_duration, longest)
    stops_at = asked.rules._coordinator.now_ms() + ends_in * 1000 if ends_in else 0
    record = Record(state=S.RECORDING, fingerprint=ONE.fingerprint, stops_at=stops_at)
    became = Result(command=START, record=record, outcome=outcome, fingerprint=ONE.fingerprint)
    answered = asked.rules._answer_from_result(asked.group, became, leading=leading)
    assert answered is (suits or (leading and outcome is O.STARTED))


RECORDS: list[tuple[Command, Verdict, Status, bool, Outcome | None, Status]] = [
    # wants   verdict            record       waited  answered             status
    (START, Verdict.RUNNING,   S.RECORDING, False,  O.ALREADY_RECORDING, S.RECORDING),
    (START, Verdict.RUNNING,   S.RECORDING, True,   O.ALREADY_RECORDING, S.RECORDING),
    (START, Verdict.GONE,      S.STOPPED,   False,  None,                S.STOPPED),
    (START, Verdict.GONE,      S.RECORDING, True,   None,                S.RECORDING),
    (STOP,  Verdict.GONE,      S.RECORDING, False,  O.JOINED,            S.STOPPED),
    (STOP,  Verdict.GONE,      S.STARTING,  True,   O.JOINED,            S.STOPPED),
    (STOP,  Verdict.IDLE,      S.STOPPED,   False,  O.NOT_RECORDING,     S.STOPPED),
    (STOP,  Verdict.IDLE,      S.STOPPED,   True,   O.JOINED,            S.STOPPED),
    (STOP,  Verdict.IDLE,      S.FAILED,    False,  O.NOT_RECORDING,     S.FAILED),
    (STOP,  Verdict.IDLE,      S.FAILED,    True,   O.NOT_RECORDING,     S.FAILED),
    (STOP,  Verdict.IDLE,      S.UNKNOWN,   True,   O.NOT_RECORDING,     S.STOPPED),
]  # fmt: skip


def claimed(verdict: Verdict, record: Record, before: str = "") -> Claim:
    """Return what a claim was answered."""
    return Claim(
        verdict=verdict, action="", now=0, before=before, record=record, lease_left=0, result="",
        start_may_land_ms=0, stop_may_land_ms=0, epoch=0, asked_at="0", written=0,
    )  # fmt: skip


@pytest.mark.parametrize(("command", "verdict", "state", "waited", "outcome", "status"), RECORDS)
async def test_group_on_a_record_is_answered_what_the_table_says(
    command: Command, verdict: Verdict, state: Status, waited: bool, outcome: Outcome | None, status: Status
) -> None:
    """A stop that waited for another's stop joined it; one that finds nothing says so."""
    asked = Asked(command)
    asked.group.waited_for_another = waited
    answer = asked.rules._answer_from_record(asked.group, claimed(verdict, Record(state=state)))
    assert isinstance(answer, Answer)
    assert (answer.outcome, answer.recording.status) == (outcome, status)


async def test_group_with_other_parameters_is_answered_the_fields() -> None:
    """Which differ, and never what they are."""
    asked = Asked(START)
    answer = asked.rules._answer_from_record(
        asked.group, claimed(Verdict.CONFLICT, Record(state=S.RECORDING, fingerprint=OTHER.fingerprint))
    )
    assert isinstance(answer, Problem)
    assert (answer.slug, "bucketDirPath" in str(answer)) == ("parameters-differ", True)
    assert "elsewhere" not in str(answer)


@pytest.mark.parametrize(
    ("state", "outcome", "problem", "before", "because"),
    [
        (S.FAILED, None, REFUSED, S.STOPPED, "refused"),
        (S.FAILED, None, None, S.UNKNOWN, ""),
        (S.STOPPED, O.STOPPED, None, S.RECORDING, "stopped"),
        (S.STOPPED, O.NOT_RECORDING, None, S.STOPPING, "stopped"),
        (S.STOPPED, O.NOT_RECORDING, None, S.RECORDING, ""),
        (S.STOPPED, None, None, S.RECORDING, ""),
        (S.STOPPED, None, None, S.STOPPING, ""),
        (S.STOPPING, O.STOP_REQUESTED, None, S.RECORDING, ""),
        (S.RECORDING, O.STARTED, None, S.STOPPED, ""),
        (S.UNKNOWN, None, REFUSED, S.STOPPED, ""),
    ],
)
def test_operation_says_why_a_recording_ended_where_its_leader_can_tell(
    state: Status, outcome: Outcome | None, problem: Problem | None, before: str, because: str
) -> None:
    """It was refused, or it was stopped here; of anything else only a webhook can tell."""
    lease = Lease(
        key="key", attempt="a", operation="1", action="stop", epoch=0, asked_at="0", granted_at=0, record=Record()
    )
    operation = Operation("key", TARGET, STOP, claimed(Verdict.LEAD, Record(), before), lease)
    assert operation.because(state, outcome, problem) == because


@pytest.mark.parametrize(
    ("timed", "requested", "because"), [(5, 5, "max_duration"), (5, 6, "stopped"), (0, 0, "stopped"), (0, 6, "stopped")]
)
def test_operation_says_that_a_recording_was_stopped_because_its_time_was_over(
    timed: int, requested: int, because: str
) -> None:
    """The record requested the stop itself, and no caller has requested another since."""
    record = Record(timed_stop=timed, stop_requested_at=requested)
    lease = Lease(
        key="key", attempt="a", operation="1", action="stop", epoch=0, asked_at="0", granted_at=0, record=record
    )
    operation = Operation("key", TARGET, CHECK, claimed(Verdict.LEAD, record, S.RECORDING), lease)
    assert operation.because(S.STOPPED, O.STOPPED, None) == because


@pytest.mark.parametrize(
    ("action", "command", "serves"), [("probe", START, START), ("probe", CHECK, CHECK), ("stop", START, STOP)]
)
def test_operation_serves_the_command_of_a_probe_and_else_its_action(
    action: str, command: Command, serves: Command
) -> None:
    """A start that carries out a stop that is due has stopped, and not started."""
    lease = Lease(
        key="key", attempt="a", operation="1", action=action, epoch=0, asked_at="0", granted_at=0, record=Record()
    )
    assert Operation("key", TARGET, command, claimed(Verdict.LEAD, Record()), lease).serves is serves
