"""What disturbs the gateways and what they talk to. Each runs until its scene is over, and leaves everything mended."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import Any, cast

from gateway.sandbox.faults import Fault
from tests.faults.clients import Caller, Track
from tests.faults.history import ClientCall
from tests.faults.proxy import Gate, Step
from tests.faults.scene import GRACE, Scene
from tests.faults.stage import Replica
from tests.faults.variants import server_clock

STEPS = ("claimed", "sent", "applied", "finishing", "finished")
"""Where a leader can be met: after its claim, while its call is on the way (not applied, applied), before it writes
the result, and after that but before anybody has an answer."""


def _stop(replica: Replica) -> None:
    replica.signal(signal.SIGSTOP)


_EVICT = "if (redis.call('HGET', KEYS[1], 'holder') or '') == '' then redis.call('DEL', KEYS[1]) end"
"""A record that somebody holds is not evicted: that would be a claim lost without a trace, which nothing can detect."""


CROWD = 1_020
"""A few more than may wait for one track in one process."""

_CROWDED = 8.0
"""Seconds for which a crowd waits for one start."""


async def kill_at_random(scene: Scene) -> None:
    """Kill -9 some gateway again and again, as long as another one serves."""
    while scene.running:
        await scene.pause(0.8)
        if len(scene.stage.serving) > 1:
            scene.stage.kill(scene.random.choice(scene.stage.serving))


async def kill_all(scene: Scene) -> None:
    """Kill -9 all gateways in one moment: nobody is left who remembers anything."""
    while scene.running:
        await scene.pause(1.5)
        for replica in scene.stage.serving:
            scene.stage.kill(replica)
        await scene.stage.repaired()


async def kill_leaders(scene: Scene) -> None:
    """Kill -9 the leader at every step of its operation, one step after the other."""
    number = 0
    while scene.running:
        await scene.pause(0.3)
        if len(scene.stage.serving) > 1:
            step = STEPS[number % len(STEPS)]
            replica = await meet_leader(scene, step, fatal=True)
            if replica is not None:
                scene.stage.kill(replica)
                number += 1


async def block_leaders(scene: Scene) -> None:
    """Block the leader's event loop at every step, for longer than its lease or longer than the quiet time."""
    number = 0
    while scene.running:
        await scene.pause(0.3)
        if len(scene.stage.serving) > 1:
            step, seconds = STEPS[number % len(STEPS)], (5.0, 1.5)[number % 2]
            replica = await meet_leader(scene, step, halt=methodcaller("block", seconds))
            if replica is not None:
                await scene.stage.blocked(replica, seconds)
                number += 1


async def pause_leaders(scene: Scene) -> None:
    """Stop the leader in its tracks at every step, for times that are shorter and longer than its lease."""
    number = 0
    while scene.running:
        await scene.pause(0.3)
        if len(scene.stage.serving) > 1:
            step = STEPS[number % len(STEPS)]
            seconds = (0.3, 1.5, 2.5, 2.2, 3.0, 6.3, 1.2)[number % 7]
            replica = await meet_leader(scene, step)
            if replica is not None:
                await scene.stage.pause(replica, seconds)
                number += 1


async def meet_leader(
    scene: Scene, step: str, *, halt: Callable[[Replica], None] = _stop, fatal: bool = False, timeout: float = 3.0
) -> Replica | None:
    """Wait until some gateway is at a step, and halt it right there; return it, None where none came.

    Args:
        scene: Where.
        step: One of `STEPS`.
        halt: How it is halted; by SIGSTOP unless told.
        fatal: It is going to be killed: what it was about to write gets lost.
        timeout: Seconds to wait.
    """
    if step in {"sent", "applied"}:
        replica = await _meet_call(scene, "hang_before" if step == "sent" else "hang_after", timeout)
        if replica is not None:
            halt(replica)
        return replica
    met: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
    by_gate = {replica.gate: replica for replica in scene.stage.serving}

    def watch(gate: Gate, now: Step, _: bytes) -> bool:
        if now != step or met.done():
            return True
        # At once: a moment later it would be one step further.
        halt(by_gate[gate])
        met.set_result(by_gate[gate])
        return not fatal

    for gate in by_gate:
        gate.observer = watch
    try:
        async with asyncio.timeout(timeout):
            return await met
    except TimeoutError:
        return None
    finally:
        for gate in by_gate:
            gate.observer = None


async def _meet_call(scene: Scene, action: str, timeout: float, **more: Any) -> Replica | None:
    stage = scene.stage
    seen = len(stage.simulator.calls)
    endpoint = scene.random.choice(("start", "participant-start", "room-start"))
    stage.simulator.inject(Fault(action=cast("Any", action), endpoint=endpoint, **more))
    give_up = time.monotonic() + timeout
    while time.monotonic() < give_up:
        for call in stage.simulator.calls[seen:]:
            if call.fault == action:
                return stage.owner(call.attempt or "")
        await asyncio.sleep(0.005)
    return None


async def pause_server(scene: Scene) -> None:
    """Stop the server in its tracks, twice shortly and once for long."""
    number = 0
    while scene.running:
        await scene.pause(1.5)
        begun = time.monotonic()
        scene.stage.valkey.pause()
        await scene.last((1.5, 5.0, 1.5)[number % 3])
        scene.stage.valkey.resume()
        scene.stage.note("redis", begun, time.monotonic(), detail="paused")
        number += 1


async def pause_server_long(scene: Scene) -> None:
    """Stop the server in its tracks for longer than any caller waits; what was asked of it then comes all at once."""
    await scene.pause(1.5)
    begun = time.monotonic()
    scene.stage.valkey.pause()
    await scene.last(12.0)
    scene.stage.valkey.resume()
    scene.stage.note("redis", begun, time.monotonic(), detail="paused")
    await scene.over.wait()


async def spoil_network(scene: Scene) -> None:
    """Make replies of the server slow, lose them after the command was carried out, and reset connections."""
    number = 0
    while scene.running:
        begun = time.monotonic()
        kind = ("slow", "lossy", "resets")[number % 3]
        for gate in scene.stage.gates:
            gate.slow = (0.05, 0.8) if kind == "slow" else None
            gate.lossy = 0.1 if kind == "lossy" else 0.0
        for _ in range(10):
            await scene.last(0.2)
            if kind == "resets":
                for gate in scene.stage.gates:
                    gate.reset()
        for gate in scene.stage.gates:
            gate.slow, gate.lossy = None, 0.0
        scene.stage.note("redis", begun, time.monotonic(), detail=kind)
        await scene.pause(0.5)
        number += 1


async def empty_server(scene: Scene) -> None:
    """Take the server's memory away: a restart without its data, or FLUSHALL, or one record alone."""
    number = 0
    while scene.running:
        await scene.pause(GRACE + 1.5)
        begun = time.monotonic()
        match number % 3:
            case 0:
                await asyncio.to_thread(scene.stage.valkey.restart)
            case 1:
                await scene.stage.command("FLUSHALL")
            case _:
                for key in await scene.stage.command("KEYS", "rec:*-*:video"):
                    await scene.stage.command("EVAL", _EVICT, 1, key)
        scene.stage.note("redis", begun, time.monotonic(), detail=("restarted empty", "flushed", "evicted")[number % 3])
        number += 1


async def restart_server(scene: Scene) -> None:
    """Restart the server with its append-only file."""
    while scene.running:
        await scene.pause(GRACE + 1.5)
        begun = time.monotonic()
        await asyncio.to_thread(scene.stage.valkey.restart)
        scene.stage.note("redis", begun, time.monotonic(), detail="restarted with its file")


async def fail_over(scene: Scene) -> None:
    """Kill the master and promote a replica that has not heard of the last 0.6 s; again and again, back and forth."""
    stage = scene.stage
    master, replica = stage.valkey, await stage.another_server()
    while scene.running:
        await stage.replicate(master, replica)
        await scene.pause(1.2)
        await stage.command("REPLICAOF", "NO", "ONE", port=replica.port)
        await scene.last(0.6)
        begun = time.monotonic()
        await asyncio.to_thread(master.kill)
        stage.switch(replica.port)
        stage.note("redis", begun, time.monotonic(), detail="failed over")
        await asyncio.to_thread(master.restart)
        master, replica = replica, master


async def change_roles(scene: Scene) -> None:
    """Have a master and its replica change roles behind one address, which leaves open connections where they are."""
    stage = scene.stage
    master, replica = stage.valkey, await stage.another_server()
    for server in (master, replica):
        await stage.command("CONFIG", "SET", "repl-diskless-sync-delay", "0", port=server.port)
    await stage.replicate(master, replica)
    while scene.running:
        await scene.pause(GRACE + 1.5)
        begun = time.monotonic()
        await stage.command("REPLICAOF", "NO", "ONE", port=replica.port)
        await stage.replicate(replica, master)
        stage.readdress(replica.port)
        stage.note("redis", begun, time.monotonic(), detail="failed over")
        master, replica = replica, master


async def lose_masters(scene: Scene) -> None:
    """Kill the master of a group and have the others make another one, as they do by themselves; again and again."""
    stage = scene.stage
    assert stage.group is not None
    while scene.running:
        await scene.pause(GRACE + 1.5)
        died = await asyncio.to_thread(stage.group.lose_master)
        if died is None:
            await scene.over.wait()
        else:
            stage.note("redis", died, time.monotonic(), detail="failed over")


async def split_brain(scene: Scene) -> None:
    """Promote a replica while the old master goes on serving half of the gateways for three seconds."""
    stage = scene.stage
    master, replica = stage.valkey, await stage.another_server()
    while scene.running:
        await stage.replicate(master, replica)
        await scene.pause(1.2)
        begun = time.monotonic()
        await stage.command("REPLICAOF", "NO", "ONE", port=replica.port)
        stage.switch(replica.port, *stage.gates[: len(stage.gates) // 2 + 1])
        await scene.last(3.0)
        stage.switch(replica.port)
        stage.note("redis", begun, time.monotonic(), detail="split")
        master, replica = replica, master


async def lose_leader_and_data(scene: Scene) -> None:
    """Empty the server and kill a leader in the same moment, while its start is on the way to VideoSDK."""
    stage = scene.stage
    while scene.running:
        await scene.pause(GRACE + 0.5)
        replica = await _meet_call(scene, "delay", 3.0, seconds=1.0)
        if replica is not None and len(stage.serving) > 1:
            begun = time.monotonic()
            await asyncio.to_thread(stage.valkey.restart)
            stage.kill(replica)
            stage.note("redis", begun, time.monotonic(), detail="restarted empty")
            await stage.repaired()


async def cut_subscribers(scene: Scene) -> None:
    """Kill every subscriber connection again and again; now and then let them hear nothing without being told."""
    number = 0
    while scene.running:
        await scene.last(0.15)
        await scene.stage.command("CLIENT", "KILL", "TYPE", "pubsub")
        number += 1
        if number % 20 == 0:
            for gate in scene.stage.gates:
                gate.deaf = True
            await scene.last(4.0)
            for gate in scene.stage.gates:
                gate.deaf = False


async def forbid_subscribing(scene: Scene) -> None:
    """Forbid SUBSCRIBE and kill who does it already; then forbid the channel, which fails whoever publishes too."""
    stage = scene.stage
    while scene.running:
        await scene.pause(0.5)
        await stage.command("ACL", "SETUSER", "default", "-subscribe")
        await stage.command("CLIENT", "KILL", "TYPE", "pubsub")
        await scene.last(3.0)
        begun = time.monotonic()
        await stage.command("ACL", "SETUSER", "default", "+subscribe", "resetchannels")
        await scene.last(1.0)
        await stage.command("ACL", "SETUSER", "default", "allchannels")
        stage.note("redis", begun, time.monotonic(), detail="channel forbidden")


async def step_near(scene: Scene) -> None:
    """Step the server's clock by less than half of the settle time, forward and back."""
    await _step_clock(scene, (0.28, 0.0, -0.28, 0.0))


async def step_far(scene: Scene) -> None:
    """Step the server's clock by a minute, forward and back."""
    await _step_clock(scene, (60.0, 0.0, -60.0, 0.0))


async def _step_clock(scene: Scene, offsets: Sequence[float]) -> None:
    number, before = 0, 0.0
    while scene.running:
        await scene.pause(1.0)
        offset = offsets[number % len(offsets)]
        server_clock(scene.stage.folder).write_text(f"{offset:+g}")
        scene.stage.note("clock", time.monotonic(), time.monotonic(), detail=f"{offset - before:+g} s")
        number, before = number + 1, offset
    server_clock(scene.stage.folder).write_text("+0")


async def refuse_connections(scene: Scene) -> None:
    """Have VideoSDK refuse connections for a while, again and again, breaking off what is under way."""
    door = scene.stage.door
    assert door is not None
    while scene.running:
        await scene.pause(1.2)
        begun = time.monotonic()
        door.shut()
        await scene.last(0.8)
        await door.reopen()
        scene.stage.note("upstream", begun, time.monotonic(), detail="refused connections")


async def crowd(scene: Scene) -> None:
    """Have more callers want one slow start than may wait for it in one process; VideoSDK has few places, too."""
    stage = scene.stage
    begun = time.monotonic()
    callers = [scene.load.caller() for _ in range(CROWD)]
    while scene.running:
        place = scene.random.choice(stage.serving)
        for some in batched(callers, 60):
            # Before the start that they are to wait for, which is over all too soon where a machine is slow.
            await asyncio.gather(*(caller.connect(place) for caller in some))
        track = Track(f"{scene.tracks[0].room}-crowd", f"p{len(scene.tracks)}")
        scene.tracks.append(track)
        stage.simulator.inject(
            Fault(action="delay", endpoint="start", participant_id=track.participant, seconds=_CROWDED)
        )
        calls: list[asyncio.Task[ClientCall]] = []
        for some in batched(callers, 60):
            # Not all at once: a process that is busy with so many cannot tell Redis's slowness from its own.
            calls += [asyncio.create_task(caller.call(place, "start", track)) for caller in some]
            await scene.last(0.12)
        await asyncio.gather(*calls)
        await scene.pause(1.0)
    # Calls that found no place at VideoSDK within their send window were never sent.
    stage.note("upstream", begun, time.monotonic(), detail="few places")


def batched(callers: Sequence[Caller], size: int) -> Iterator[Sequence[Caller]]:
    """Cut a crowd into groups."""
    return (callers[first : first + size] for first in range(0, len(callers), size))


async def server_away(scene: Scene) -> None:
    """Take the server away for as long as the scene lasts, nearly."""
    await scene.pause(1.5)
    begun = time.monotonic()
    for gate in scene.stage.gates:
        gate.closed = True
        gate.reset()
    await scene.over.wait()
    for gate in scene.stage.gates:
        gate.closed = False
    await scene.stage.until_ready()
    scene.stage.note("redis", begun, time.monotonic(), detail="away")


async def roll_and_forget(scene: Scene) -> None:
    """Replace one gateway after the other by one whose scripts are others; the server forgets scripts, too."""
    versions: set[bytes] = set()
    while scene.running:
        await scene.pause(0.3)
        versions |= {gate.version for gate in scene.stage.gates}
        await scene.stage.roll(scene.stage.serving[0])
        versions |= {gate.version for gate in scene.stage.gates}
        await scene.stage.command("SCRIPT", "FLUSH")
    assert len(versions - {b""}) == 2, f"{len(versions)} versions ran, not two"


async def end_recordings(scene: Scene) -> None:
    """Let recordings end by themselves, half of them without a webhook."""
    simulator = scene.stage.simulator
    while scene.running:
        await scene.pause(0.25)
        running = [row for row in simulator.rows if row.closed is None]
        if running:
            row = scene.random.choice(running)
            simulator.account.end(row.target, reason="ended-by-itself", webhook=scene.random.random() < 0.5)


async def leave_rows_open(scene: Scene) -> None:
    """End sessions, and with them all that records, while VideoSDK goes on listing it as open."""
    simulator = scene.stage.simulator
    while scene.running:
        await scene.pause(0.25)
        running = [row for row in simulator.rows if row.closed is None]
        if running:
            simulator.end_session(scene.random.choice(running).room_id, rows_stay_open=True)


async def start_beside(scene: Scene) -> None:
    """Have another client of VideoSDK start what the gateway records already."""
    simulator = scene.stage.simulator
    while scene.running:
        await scene.pause(0.5)
        running = [row for row in simulator.rows if row.closed is None]
        if running:
            simulator.account.start(scene.random.choice(running).target, {}, None)


async def roll(scene: Scene) -> None:
    """Replace one gateway after the other, as a deployment does."""
    while scene.running:
        await scene.pause(0.5)
        code = await scene.stage.roll(scene.stage.serving[0])
        assert code in {0, 143}, f"a gateway that was asked to end ended with {code}"
