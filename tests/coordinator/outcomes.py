"""What callers are answered and what is sent, whatever VideoSDK does: the gateway's own code in the model's world.

`outcomes.txt` holds what is to come out. After a change of the protocol write it anew and read the difference:

    make transitions
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import redis

from gateway.coordinator import Timing
from gateway.sandbox.valkey import EmbeddedValkey
from tests.coordinator import written
from tests.model.world import Fate, World

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


BEGINS: Final[dict[str, Callable[[World], None]]] = {
    begin.__name__: begin
    for begin in (
        *(nothing, ended, just_ended, recording, recording_for_long, ended_by_itself, begun_elsewhere, unknown),
    )
}
FATES: Final = {
    "ok": Fate(),
    "refused": Fate(hears="refused", lands=None),
    "limited": Fate(hears="limited", lands=None),
    "unreachable": Fate(hears="unreachable", lands=None),
    "too late": Fate(connect=2.5, lands=None),
    "reset, landed": Fate(hears="reset", lands=0.05),
    "reset, lost": Fate(hears="reset", lands=None),
    "silence, landed late": Fate(hears="silence", lands=12.0),
}
"""Of the first POST; those after it go well."""
HURRIED: Final = {"ok", "refused", "unreachable", "reset, lost", "silence, landed late"}
"""What is also told of a caller that waits for a second only."""
LISTS: Final = {"": (0, 0), "no list": (3, 0), "an empty list": (0, 1)}
"""How many lists cannot be had, and how many show nothing."""


def story(world: World, begin: str, command: str, fate: str, lists: str, patience: float) -> str:
    """Tell one story, in a line: the answer and when, what was sent and when, and the record as time goes by."""
    random.seed(7)
    process = world.process()
    world.look(process)
    world.advance(world.timing.quiet)
    BEGINS[begin](world)
    flights, moment = len(world.upstream.flights), world.now
    world.upstream.fates[command].append(FATES[fate])
    world.upstream.list_failures, world.upstream.list_blanks = LISTS[lists]
    call = process.start(timeout=patience) if command == "start" else process.stop(timeout=patience)
    states: list[str] = []
    for look in LOOKS:
        world.advance(moment + look - world.now)
        record = world.record()
        state = record.get("state", "")
        because = record.get("because", "") if state in {"stopped", "failed"} else ""
        by = record.get("confirmed_by", "") if int(record.get("confirmed") or 0) else "nothing"
        states.append(f"{state}{because and f' ({because})'} by {by}")
    sent = [f"{flight.kind} {flight.sent - moment:.1f}" for flight in world.upstream.flights[flights:]]
    answered = f"{call.outcome} {call.returned - moment:.1f}" if call.returned is not None else "no answer"
    return f"{answered} | {', '.join(sent) or 'nothing sent'} | {'; '.join(states)}"


def lines(new_world: Callable[[], World], begin: str, command: str) -> Iterator[str]:
    """Yield the stories of one command on one kind of record."""
    for fate in FATES:
        for lists in LISTS:
            if lists == "an empty list" and (fate == "refused" or not begin.startswith("recording")):
                continue  # where VideoSDK denies twice what records, no answer is true
            for patience in (30, 1) if not lists and fate in HURRIED else (30,):
                with new_world() as world:
                    told = story(world, begin, command, fate, lists, patience)
                yield f"{', '.join(filter(None, (fate, lists, '' if patience == 30 else 'in a hurry')))}: {told}"


def pairs() -> dict[str, tuple[str, str]]:
    """Return what stories begin with, by the name of their block."""
    return {f"{begin}, {command}": (begin, command) for begin in BEGINS for command in ("start", "stop")}


def main() -> None:
    """Write the file."""
    with EmbeddedValkey() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        blocks = {name: list(lines(lambda: World(client, timing=TIMING), *pair)) for name, pair in pairs().items()}
        written.write(FILE, blocks)


if __name__ == "__main__":
    main()
