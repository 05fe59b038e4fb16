"""What callers are answered and what is sent, whatever VideoSDK does: the gateway's own code in the model's world.

`outcomes.txt` holds what is to come out. After a change of the protocol write it anew and read the difference:

    make transitions
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import redis

from gateway.coordinator import Timing
from gateway.sandbox.valkey import EmbeddedValkey
from tests.coordinator import written
from tests.model.world import Call, Fate, World

FILE: Final = Path(__file__).parent / "outcomes.txt"
TIMING: Final = Timing(check=20)
LOOKS: Final = (3, 12, 40)
"""After how many seconds the record is looked at."""


def nothing(world: World) -> None:
    """Nothing is known."""


def ended(world: World) -> None:
    """It was recorded and stopped, a while ago."""
    recording(world)
    call = world.processes[0].stop()
    world.until(lambda: call.returned)
    world.advance(30)


def just_ended(world: World) -> None:
    """It was recorded and stopped a second ago."""
    recording(world)
    call = world.processes[0].stop()
    world.until(lambda: call.returned)
    world.advance(1)


def recording(world: World) -> None:
    """It records, and was started just now."""
    call = world.processes[0].start()
    world.until(lambda: call.returned)


def recording_for_long(world: World) -> None:
    """It records, and the list has shown it."""
    recording(world)
    world.advance(45)


def ended_by_itself(world: World) -> None:
    """It recorded for long, and the gateway has not heard that it ended."""
    recording_for_long(world)
    world.upstream.end(0)


def begun_elsewhere(world: World) -> None:
    """Another program started it, of which the gateway knows nothing."""
    recording(world)
    world.redis.delete(world.key)


def unknown(world: World) -> None:
    """A start had no answer, and has not landed."""
    world.upstream.fates["start"].append(Fate(hears="reset", lands=None))
    call = world.processes[0].start()
    world.until(lambda: call.returned)


def forgotten(world: World) -> None:
    """It records for long, and Redis has just forgotten everything."""
    recording_for_long(world)
    world.lose()


BEGINS: Final[dict[str, Callable[[World], None]]] = {
    begin.__name__: begin
    for begin in (
        *(nothing, ended, just_ended, recording, recording_for_long, ended_by_itself, begun_elsewhere, unknown),
        forgotten,
    )
}
FATES: Final = {
    "ok": Fate(),
    "refused": Fate(hears="refused", lands=None),
    "limited": Fate(hears="limited", lands=None),
    "unreachable": Fate(hears="unreachable", lands=None),
    "unreachable, late": Fate(hears="unreachable", connect=1.5),
    "too late": Fate(connect=2.5, lands=None),
    "reset, landed": Fate(hears="reset", lands=0.05),
    "reset, lost": Fate(hears="reset", lands=None),
    "silence, landed late": Fate(hears="silence", lands=12.0),
}
"""Of the first POST; those after it go well."""
TOGETHER: Final = ("start+start+start", "start+stop+start", "stop+stop+stop", "stop+start+stop")
"""Commands that meet: nearly at the same time."""
MEETING: Final = ("ok", "refused", "unreachable", "reset, landed", "reset, lost")
"""What becomes of the first of them."""
HURRIED: Final = {"ok", "refused", "unreachable", "unreachable, late", "reset, lost", "silence, landed late"}
"""What is also told of a caller that waits for a second only."""
LISTS: Final = {"": (0, 0), "no list": (3, 0), "no list for long": (200, 0), "an empty list": (0, 1)}
"""How many lists cannot be had, and how many show nothing."""


def asked(world: World, commands: str, patience: float) -> list[Call]:
    """Have commands asked one after the other: the second by another replica, the third by the first again."""
    calls: list[Call] = []
    for command, process in zip(
        commands.split("+"), (world.processes[0], world.processes[-1], world.processes[0]), strict=False
    ):
        calls.append(process.start(timeout=patience) if command == "start" else process.stop(timeout=patience))
        world.advance(0.02)
    return calls


def told(call: Call, moment: float) -> str:
    """Return what a caller was answered, and how long after the first had asked."""
    return f"{call.outcome} {call.returned - moment:.1f}" if call.returned is not None else "no answer"


def story(world: World, begin: str, command: str, fate: str, lists: str, patience: float) -> str:
    """Tell one story, in a line: the answer and when, what was sent and when, and the record as time goes by."""
    random.seed(7)
    process = world.process()
    if "+" in command:
        world.process()
    world.look(process)
    world.advance(world.timing.quiet)
    BEGINS[begin](world)
    flights, lists_before, moment = len(world.upstream.flights), world.upstream.lists, world.now
    world.upstream.fates[command.partition("+")[0]].append(FATES[fate])
    world.upstream.list_failures, world.upstream.list_blanks = LISTS[lists]
    call, *others = asked(world, command, patience)
    states: list[str] = []
    for look in LOOKS:
        world.advance(moment + look - world.now)
        record = world.record()
        state = record.get("state", "")
        because = record.get("because", "") if state in {"stopped", "failed"} else ""
        by = record.get("confirmed_by", "") if int(record.get("confirmed") or 0) else "nothing"
        horizons = ((kind, int(record.get(f"{kind}_may_land_until") or 0)) for kind in ("start", "stop"))
        may_land = [f"a {kind} may land" for kind, until in horizons if until > world.redis_ms]
        due = "" if world.score is None else f"due in {round((world.score - world.redis_ms) / 1000)}"
        said = (f"{state}{because and f' ({because})'} by {by}", *may_land, due)
        states.append(", ".join(filter(None, said)))
    sent = [f"{flight.kind} {flight.sent - moment:.1f}" for flight in world.upstream.flights[flights:]]
    sent.append(f"{world.upstream.lists - lists_before} lists")
    joined = "".join(f" | {other.command} {told(other, moment)}" for other in others)
    return f"{told(call, moment)}{joined} | {', '.join(sent)} | {'; '.join(states)}"


def lines(new_world: Callable[[], World], begin: str, command: str) -> Iterator[str]:
    """Yield the stories of one command on one kind of record, but those that come out as the fate's first does."""
    alone = "+" not in command
    for fate in FATES if alone else MEETING:
        usual = ""
        for lists in LISTS if alone else ("",):
            if lists == "no list for long" and fate not in {"ok", "refused"}:
                continue
            if lists == "an empty list" and (fate == "refused" or not begin.startswith("recording")):
                continue  # where VideoSDK denies twice what records, no answer is true
            for patience in (30, 1) if alone and not lists and fate in HURRIED else (30,):
                with new_world() as world:
                    line = story(world, begin, command, fate, lists, patience)
                if line != usual:
                    yield f"{', '.join(filter(None, (fate, lists, '' if patience == 30 else 'in a hurry')))}: {line}"
                usual = usual or line
        if fate == "ok" and re.search(r"\| \d+ lists", usual):
            return  # nothing is sent: no fate is met


def pairs() -> dict[str, tuple[str, str]]:
    """Return what stories begin with, by the name of their block."""
    alone = [(begin, command) for begin in BEGINS for command in ("start", "stop")]
    together = [(begin, commands) for begin in ("ended", "recording") for commands in TOGETHER]
    return {f"{begin}, {command}": (begin, command) for begin, command in (*alone, *together)}


def main() -> None:
    """Write the file."""
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        blocks = {name: list(lines(lambda: World(client, timing=TIMING), *pair)) for name, pair in pairs().items()}
        written.write(FILE, blocks)


if __name__ == "__main__":
    main()
