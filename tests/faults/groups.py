"""Servers that stand in for each other: Sentinels with a master and its replica, and a Cluster with a replica each.

Both can lose their master, and with it what it was told last. Everything here blocks: call it from a thread.
"""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from gateway.sandbox.ports import free_port
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness

__all__ = ["Cluster", "Group", "Sentinels", "deafen", "server_binary"]

_UNHEARD_SECONDS: Final = 0.5
"""What the replica has not heard of when its master dies."""
_SLOTS: Final = 16384
_PROMPT: Final = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
"""A replica need not wait for others that might want to be filled too; one that has heard nothing is not shown."""


class Group(Protocol):
    """Several servers, as the gateways see them."""

    url: str
    servers: list[EmbeddedValkey]

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def masters(self) -> list[int]:
        """Return the ports of the servers that take writes now."""
        ...

    def lose_master(self) -> float | None:
        """Kill a master whose replica has not heard of its last moment, and wait until another has taken over.

        Returns:
            When it died, by the monotonic clock; None where there is nobody left to take over.
        """
        ...


def server_binary() -> str | None:
    """Find the system's Redis; None stands for the server of the package, where there is no other."""
    return shutil.which("redis-server")


def _speak(port: int) -> "Redis":
    return Redis(port=port, decode_responses=True, socket_timeout=2, retry=Retry(NoBackoff(), 0))


def _ask(port: int, *words: str | int) -> Any:
    with _speak(port) as client:
        return cast("Any", client.execute_command(*words))


def _role(port: int) -> str:
    try:
        return str(_ask(port, "ROLE")[0])
    except (RedisError, OSError):
        return ""


class Sentinels:
    """A master, a replica and three Sentinels.

    Args:
        folder: Where the Sentinels keep what they know.
        binary: The server, instead of the one in the package.
    """

    def __init__(self, folder: Path, binary: str | None = None) -> None:
        self._folder = folder
        self._binary = binary
        self._running = ExitStack()
        self.servers = [EmbeddedValkey(port=0, binary=binary, extra=_PROMPT) for _ in range(2)]
        self.sentinels: list[int] = []
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as running:
            self.master, replica = (running.enter_context(server) for server in self.servers)
            _ask(replica.port, "REPLICAOF", "127.0.0.1", self.master.port)
            for number in range(3):
                self.sentinels.append(free_port())
                running.enter_context(harness.sentinel(self._configuration(number), self._binary))
            harness.wait_until(self._watched)
            self._running = running.pop_all()
        self.url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self.sentinels) + "/tracks"
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _configuration(self, number: int) -> Path:
        file = self._folder / f"sentinel-{number}.conf"
        file.write_text(
            f"port {self.sentinels[number]}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor tracks 127.0.0.1 {self.master.port} 2\n"
            "sentinel down-after-milliseconds tracks 700\nsentinel failover-timeout tracks 2000\n"
        )
        return file

    def _watched(self) -> bool:
        """Return whether every Sentinel knows the others, and a replica that could take over."""
        for port in self.sentinels:
            try:
                with _speak(port) as client:
                    known = cast("dict[str, Any]", client.sentinel_master("tracks"))
                    replicas = client.sentinel_slaves("tracks")
            except (RedisError, OSError):
                return False
            able = [one for one in replicas if not (one["is_sdown"] or one["is_disconnected"])]
            if int(known["num-other-sentinels"]) < 2 or not able or able[0]["master-link-status"] != "ok":
                return False
        return True

    def masters(self) -> list[int]:
        """Return the port of the master that the Sentinels name."""
        with _speak(self.sentinels[0]) as client:
            _, port = cast("tuple[str, int]", client.sentinel_get_master_addr_by_name("tracks"))
        return [int(port)]

    def lose_master(self) -> float | None:
        """Kill the master; then have it come back, empty, as the replica of its successor."""
        harness.wait_until(self._watched)
        (port,) = self.masters()
        lost, successor = sorted(self.servers, key=lambda server: server.port != port)
        died = _die_unheard(lost, successor)
        harness.wait_until(lambda: self.masters() == [successor.port])
        harness.wait_until(lambda: _role(successor.port) == "master")
        lost.restart()
        _ask(lost.port, "REPLICAOF", "127.0.0.1", successor.port)
        return died


class Cluster:
    """Three masters of a Cluster, each with a replica.

    Args:
        binary: The server, instead of the one in the package.
        replicas: Whether each master has one; without them there is nobody to take over.
    """

    def __init__(self, binary: str | None = None, *, replicas: bool = True) -> None:
        arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *_PROMPT]
        ports = [harness.node_port() for _ in range(6 if replicas else 3)]
        self.servers = [EmbeddedValkey(port=port, binary=binary, extra=arguments) for port in ports]
        self._running = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as running:
            for node in self.servers:
                running.enter_context(node)
            self._join()
            self._running = running.pop_all()
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.servers[:3])
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _join(self) -> None:
        ports = [node.port for node in self.servers]
        for index, port in enumerate(ports):
            if index < 3:
                last = _SLOTS - 1 if index == 2 else (index + 1) * (_SLOTS // 3) - 1
                _ask(port, "CLUSTER", "ADDSLOTSRANGE", index * (_SLOTS // 3), last)
            _ask(port, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            _ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port)
        harness.wait_until(lambda: all(_ask(port, "CLUSTER", "NODES").count("\n") == len(ports) for port in ports))
        for index, port in enumerate(ports[3:]):
            _ask(port, "CLUSTER", "REPLICATE", _ask(ports[index], "CLUSTER", "MYID"))
        harness.wait_until(lambda: all(self._knows_all(port) for port in ports))

    def _knows_all(self, port: int) -> bool:
        slots = _ask(port, "CLUSTER", "SLOTS")
        standing_in = len(self.servers) > 3
        return _is_whole(port) and len(slots) == 3 and all(len(group) == (4 if standing_in else 3) for group in slots)

    @property
    def _alive(self) -> list[EmbeddedValkey]:
        return [node for node in self.servers if _role(node.port)]

    def masters(self) -> list[int]:
        """Return the ports of the masters that live."""
        return [node.port for node in self._alive if _role(node.port) == "master"]

    def lose_master(self) -> float | None:
        """Kill the fullest of the masters that have somebody to take over. It does not come back."""
        led = {
            replica: next(node for node in self._alive if node.port == int(_ask(replica.port, "ROLE")[2]))
            for replica in self._alive if _role(replica.port) == "slave"
        }  # fmt: skip
        if not led:
            return None
        successor, lost = max(led.items(), key=lambda pair: int(_ask(pair[1].port, "DBSIZE")))
        harness.wait_until(lambda: _ask(successor.port, "ROLE")[3] == "connected")
        died = _die_unheard(lost, successor)
        harness.wait_until(lambda: _role(successor.port) == "master")
        harness.wait_until(lambda: all(_is_whole(node.port) for node in self._alive))
        return died


def _is_whole(port: int) -> bool:
    return "cluster_state:ok" in _ask(port, "CLUSTER", "INFO")


def deafen(master: EmbeddedValkey, replica: EmbeddedValkey) -> None:
    """Have a replica hear nothing more of its master: stop it in its tracks, and end what it is told through.

    What is only sent to a stopped server waits for it, and is heard as soon as it goes on.
    """
    replica.pause()
    _ask(master.port, "CLIENT", "KILL", "TYPE", "replica")


def _die_unheard(master: EmbeddedValkey, replica: EmbeddedValkey) -> float:
    """Kill a master after a moment in which its replica heard nothing; return when."""
    deafen(master, replica)
    try:
        time.sleep(_UNHEARD_SECONDS)
        moment = time.monotonic()
        master.kill()
    finally:
        replica.resume()
    return moment
