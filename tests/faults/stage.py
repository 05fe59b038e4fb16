"""A small production system on one machine: gateways behind proxies, a server, a simulated VideoSDK.

Everything is real but VideoSDK, which runs in this process, on a socket: its history and its faults are then at hand
without asking, and its clock is the clients'.
"""

import asyncio
import atexit
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from redis.asyncio import Redis

from gateway.sandbox.calls import Call
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey, ValkeyError
from gateway.sandbox.webhooks import Signer
from tests import harness
from tests.faults import stalling
from tests.faults.groups import Group
from tests.faults.history import Interval, Trouble, UpstreamCall
from tests.faults.proxy import Gate
from tests.faults.waits import Waits
from tests.faults.zygote import Zygote
from tests.harness import Variant
from tests.leaks import EVIDENCE

__all__ = ["Replica", "Stage", "Variants"]

_SIGNER: list[Signer] = []
"""One key for all simulators: making one takes a while."""

TroubleName = Literal["kill", "pause", "term", "redis", "upstream", "clock"]


_ZYGOTES: list[Zygote] = []
_ZYGOTES_LOCK = threading.Lock()


def _zygote() -> Zygote:
    """Return what forks the gateways of all stages, for as long as this process lives."""
    with _ZYGOTES_LOCK:
        if not _ZYGOTES:
            _ZYGOTES.append(Zygote().__enter__())
            atexit.register(_ZYGOTES[0].__exit__)
    return _ZYGOTES[0]


class Replica(harness.GatewayProcess):
    """One gateway, with its own way to the server."""

    def __init__(self, name: str, settings: Mapping[str, str], log: Path, gate: Gate, variant: Variant) -> None:
        super().__init__(settings, log, variant)
        self.name = name
        self.gate = gate
        self.serving = False
        """It takes calls: started, not paused, not on its way out."""

    def _start(self, variant: Variant, command: tuple[str, ...]) -> tuple[Any, int]:
        if variant != Variant() or sys.platform != "linux":
            return super()._start(variant, command)
        child = _zygote().fork(["serve"], self._environ, self.log)
        return child, child.pid

    async def up(self) -> Self:
        """Wait until it serves."""
        give_up = time.monotonic() + 90
        while not await _answers(self.port, "/livez"):
            assert self._tether.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            await asyncio.sleep(0.05)
        self.serving = True
        return self

    async def is_ready(self) -> bool:
        """Ask whether it could promise exactly one start now."""
        return await _answers(self.port, "/readyz")

    def crash(self) -> float:
        """End it with SIGKILL; return when."""
        self.serving = False
        os.kill(self.pid, signal.SIGKILL)
        return time.monotonic()

    def block(self, seconds: float) -> None:
        """Block its event loop for one of the times that `stalling` knows; it must be run as that."""
        self.signal(stalling.SIGNALS[seconds])

    async def reap(self) -> int:
        """Wait until it has ended, and let go of it."""
        code = await asyncio.to_thread(self._tether.wait, 40)
        self._let_go()
        EVIDENCE.keep(self.log)
        await self.gate.close()
        return code


Variants = Callable[[Path], Sequence[Variant]]
"""Given the stage's folder, makes the ways in which its gateways are run."""


class Stage:
    """The system of one run, as a context manager.

    Args:
        replicas: How many gateways.
        settings: More `GATEWAY_*` variables, on top of the scaled times.
        simulator: Options of the simulated VideoSDK.
        valkey: More arguments of the server.
        binary: The server, instead of the one in the package; it may be made in the stage's folder.
        group: Several servers in place of the one; the gateways reach them without a proxy.
        variants: The ways in which gateways are run, taken in turn.
        door: Whether there is a proxy in front of VideoSDK too, so that it can refuse connections.
        seed: Makes what is random repeatable.
    """

    def __init__(
        self,
        *,
        replicas: int = 3,
        settings: Mapping[str, str] | None = None,
        simulator: Mapping[str, Any] | None = None,
        valkey: tuple[str, ...] = (),
        binary: Callable[[Path], str] | None = None,
        group: Callable[[Path], Group] | None = None,
        variants: Variants = lambda _: [Variant()],
        door: bool = False,
        seed: int = 0,
    ) -> None:
        self.seed = seed
        self.troubles: list[Trouble] = []
        self.replicas: list[Replica] = []
        self._wanted = replicas
        self._settings = {**harness.FAST, **(settings or {})}
        self._count = 0
        self._folder = tempfile.TemporaryDirectory(prefix="gateway-faults-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.group = group(self.folder) if group else None
        self.variants = variants(self.folder)
        self.valkey = harness.AgedValkey(
            port=0, extra=[*valkey, *self._data(valkey)], binary=binary(self.folder) if binary else None
        )
        self._servers: list[EmbeddedValkey] = [self.valkey]
        self.target = 0
        """Port of the server that the gateways reach now."""
        if not _SIGNER:
            _SIGNER.append(Signer())
        options: dict[str, Any] = {"duplicates": "accept", **(simulator or {})}
        self.simulator: Simulator = harness.simulator(signer=_SIGNER[0], seed=seed, **options)
        self.door = Gate(0) if door else None
        self.demo = harness.Demo(self.folder)
        self._repairs: set[asyncio.Task[Any]] = set()
        self.waits = Waits(self._processes)

    def _data(self, valkey: tuple[str, ...]) -> list[str]:
        """Keep the server's files where a restart finds them, if it writes any."""
        if "--appendonly" not in valkey:
            return []
        (self.folder / "data").mkdir()
        return ["--dir", str(self.folder / "data")]

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.valkey.start)
        self.target = self.valkey.port
        if self.group is not None:
            await asyncio.to_thread(self.group.__enter__)
        await self.simulator.start()
        if self.door is not None:
            self.door.target = int(self.simulator.url.rpartition(":")[2])
            await self.door.open()
        self.replicas = list(await asyncio.gather(*(self.launch() for _ in range(self._wanted))))
        await self.until_ready()
        await self.waits.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.waits.__aexit__(kind, error, trace)
        for task in self._repairs:
            task.cancel()
        await asyncio.gather(*self._repairs, return_exceptions=True)
        for replica in self.replicas:
            replica.crash()
        await asyncio.gather(*(replica.reap() for replica in self.replicas))
        if self.door is not None:
            await self.door.close()
        await self.simulator.stop()
        if self.group is not None:
            await asyncio.to_thread(self.group.__exit__)
        for server in self._servers:
            await asyncio.to_thread(server.stop)
        self._folder.cleanup()

    # --- gateways ------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> list[Replica]:
        """The gateways that take calls now."""
        return [replica for replica in self.replicas if replica.serving]

    async def launch(self) -> Replica:
        """Start one more gateway and wait until it serves; the caller adds it to `replicas`."""
        self._count += 1
        name = f"g{self._count}"
        gate = Gate(self.target, self.seed * 1000 + self._count)
        gate.process = name
        await gate.open()
        settings = harness.environment(
            self.group.url if self.group else f"redis://127.0.0.1:{gate.port}",
            f"http://127.0.0.1:{self.door.port}" if self.door else self.simulator.url,
            self.demo.file,
            **self._settings,
        )
        variant = self.variants[self._count % len(self.variants)]
        replica = await asyncio.to_thread(Replica, name, settings, self.folder / f"{name}.log", gate, variant)
        return await replica.up()

    def kill(self, replica: Replica) -> None:
        """Kill a gateway, and have another one started in its place."""
        moment = replica.crash()
        self.note("kill", moment, moment, replica.name)
        self.replicas.remove(replica)
        self._repair(replica)

    def _repair(self, replica: Replica) -> None:
        async def repair() -> None:
            await replica.reap()
            self.replicas.append(await self.launch())

        task = asyncio.create_task(repair())
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    async def repaired(self) -> None:
        """Wait until every gateway that was killed has a successor."""
        while self._repairs:
            await asyncio.gather(*self._repairs)

    async def blocked(self, replica: Replica, seconds: float) -> None:
        """Wait while a gateway's event loop, just blocked, stands still."""
        begun = time.monotonic()
        replica.serving = False
        try:
            await asyncio.sleep(seconds)
        finally:
            replica.serving = True
            self.note("pause", begun, time.monotonic(), replica.name, "loop blocked")

    async def pause(self, replica: Replica, seconds: float) -> None:
        """Stop a gateway in its tracks for a while."""
        begun = time.monotonic()
        replica.signal(signal.SIGSTOP)
        replica.serving = False
        try:
            await asyncio.sleep(seconds)
        finally:
            replica.signal(signal.SIGCONT)
            replica.serving = True
            self.note("pause", begun, time.monotonic(), replica.name)

    async def roll(self, replica: Replica) -> int:
        """Replace a gateway as a deployment does: a new one first, then SIGTERM; return its exit code."""
        self.replicas.append(await self.launch())
        replica.serving = False
        begun = time.monotonic()
        replica.signal(signal.SIGTERM)
        code = await replica.reap()
        self.note("term", begun, time.monotonic(), replica.name)
        self.replicas.remove(replica)
        return code

    def owner(self, attempt: str) -> Replica | None:
        """Find the gateway that made an attempt."""
        boot = attempt.partition(".")[0]
        return next((replica for replica in self.replicas if boot and replica.gate.boot == boot), None)

    async def until_ready(self) -> None:
        """Wait until every gateway says that it can promise exactly one start."""
        for replica in self.replicas:
            await harness.until(replica.is_ready, bool)

    # --- the server ----------------------------------------------------------------------------------------------

    @property
    def gates(self) -> list[Gate]:
        """The proxies of the gateways that run."""
        return [replica.gate for replica in self.replicas]

    def switch(self, port: int, *gates: Gate) -> None:
        """Send some gateways, or all of them and those to come, to another server."""
        self.readdress(port, *gates)
        for gate in gates or self.gates:
            gate.reset()

    def readdress(self, port: int, *gates: Gate) -> None:
        """The same for connections to come: those there are stay with their server."""
        if not gates:
            self.target = port
        for gate in gates or self.gates:
            gate.target = port

    async def another_server(self) -> EmbeddedValkey:
        """Start one more server, which lasts as long as the stage."""
        server = EmbeddedValkey(port=0)
        self._servers.append(server)
        return await asyncio.to_thread(server.start)

    async def replicate(self, master: EmbeddedValkey, replica: EmbeddedValkey) -> None:
        """Make a server the replica of another one, and wait until it has everything."""
        await self.command("REPLICAOF", "127.0.0.1", master.port, port=replica.port)
        await harness.until(
            lambda: self.command("INFO", "replication", port=replica.port),
            lambda known: known.get("master_link_status") == "up",
        )

    def server(self, port: int | None = None) -> "Redis":
        """Return a client that speaks to a server without a proxy."""
        return Redis(host="127.0.0.1", port=port or self.target, protocol=2, decode_responses=True)

    async def command(self, *words: str | int, port: int | None = None) -> Any:
        """Run one command on a server, without a proxy."""
        client = self.server(port)
        try:
            return await cast("Any", client.execute_command(*words))
        finally:
            await client.aclose()

    async def keys_without_ttl(self) -> list[str]:
        """Return every key that would stay for ever."""
        found: list[str] = []
        for port in await asyncio.to_thread(self.group.masters) if self.group else [self.target]:
            client = self.server(port)
            try:
                found += [key async for key in client.scan_iter(count=500) if await client.pttl(key) < 0]
            finally:
                await client.aclose()
        return found

    def _processes(self) -> Iterator[tuple[str, str, int]]:
        """Return what must not be kept from its work for long, if answers are to come in time."""
        for replica in self.replicas:
            yield replica.name, "", replica.pid
        for server in self.group.servers if self.group else self._servers:
            with suppress(ValkeyError):  # between two lives
                yield "", "a server", server.pid

    def note(self, what: TroubleName, begun: float, ended: float, process: str = "", detail: str = "") -> None:
        """Write down what a nemesis did."""
        self.troubles.append(Trouble(what=what, begun=begun, ended=ended, process=process, detail=detail))

    # --- what VideoSDK saw ---------------------------------------------------------------------------------------

    def upstream_calls(self) -> list[UpstreamCall]:
        """Return every start, stop and list so far."""
        return [_upstream_call(call) for call in self.simulator.calls if _verb(call) in {"start", "stop", "list"}]

    def intervals(self) -> list[Interval]:
        """Return every recording so far."""
        around = {call.seq for call in self.simulator.calls if not call.attempt}
        return [
            Interval(
                track=f"{row.room_id}/{row.participant_id or ''}/{row.kind or row.mode}",
                params=row.directory or "",
                opened=row.opened,
                unseen=row.reason not in {None, "stop"} or row.stopped_by in around,
                started_by=row.started_by,
                **({} if row.closed is None else {"closed": row.closed}),
            )
            for row in self.simulator.rows
        ]


def _verb(call: Call) -> str:
    """Return what a call is about, whatever the mode."""
    return call.endpoint.rpartition("-")[2]


def _upstream_call(call: Call) -> UpstreamCall:
    mode = call.endpoint.rpartition("-")[0] or "track"
    # Other modes' lists of a whole room tell nothing of what is recorded of the room.
    place = f"{call.room_id}/{call.participant_id or ('' if mode == 'room' else '*')}"
    body = cast("dict[str, Any]", call.body) if isinstance(call.body, dict) else {}
    return UpstreamCall(
        seq=call.seq,
        endpoint=_verb(call),
        track=place if _verb(call) == "list" else f"{place}/{call.kind or mode}",
        params=str(body.get("bucketDirPath") or body.get("awsDirPath", "")),
        received=call.received,
        applied=call.applied,
        answered=call.answered,
        gone=call.gone,
        status=call.status,
        fault=call.fault,
        attempt=call.attempt or "",
    )


async def _answers(port: int, path: str) -> bool:
    """Ask a gateway about its health, and wait no longer than a probe does."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False
