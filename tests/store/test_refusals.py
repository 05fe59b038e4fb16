"""Servers that answer and refuse: each is lost, told apart from the others, and found again once it takes writes."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import cast

import pytest
import redis

from gateway.errors import CoordinationUnavailable
from gateway.observability import metrics
from gateway.sandbox.ports import free_port
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from tests import harness, servers
from tests.observability.numbers import Numbers
from tests.recordings.parts import Log

pytestmark = pytest.mark.anyio

Admin = redis.Redis
SCRIPT = "redis.call('SET', KEYS[1], 'any', 'PX', 60000) return 'ok'"
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


async def write(connection: Connection) -> object:
    """Have a script write something."""
    return await connection.evaluate(SCRIPT, SHA, ("rec:{00}:any",), b"")


def demote(admin: Admin) -> None:
    """Make it a replica of a master that is not there."""
    admin.config_set("replica-serve-stale-data", "yes")
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")


def cut_off(admin: Admin) -> None:
    """Make it a replica that has lost its master and will not say what it knows."""
    admin.config_set("replica-serve-stale-data", "no")
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")


def promote(admin: Admin) -> None:
    """Make it a master again."""
    admin.execute_command("REPLICAOF", "NO", "ONE")


def fill(admin: Admin) -> None:
    """Leave it no memory."""
    admin.config_set("maxmemory", "1")


def empty(admin: Admin) -> None:
    """Give it memory."""
    admin.config_set("maxmemory", "0")


def want_replicas(admin: Admin) -> None:
    """Have it want more replicas than it has."""
    admin.config_set("min-replicas-to-write", "1")


def want_none(admin: Admin) -> None:
    """Have it want none."""
    admin.config_set("min-replicas-to-write", "0")


def load(admin: Admin) -> None:
    """Have it read its memory from a file, slowly; its events are looked at meanwhile."""
    with admin.pipeline(transaction=False) as some:
        for number in range(1_000):
            some.set(f"rec:{{00}}:some:{number}", "x" * 1_000, px=60_000)
        some.execute()
    admin.config_set("rdbcompression", "no")
    admin.config_set("loading-process-events-interval-bytes", "1024")
    admin.config_set("key-load-delay", "5000")

    def reload() -> None:
        with suppress(redis.RedisError):
            admin.execute_command("DEBUG", "RELOAD")

    threading.Thread(target=reload, daemon=True).start()
    harness.wait_until(lambda: _refuses(admin, redis.BusyLoadingError))


def _refuses(admin: Admin, error: type[Exception]) -> bool:
    with redis.Redis(port=admin.connection_pool.connection_kwargs["port"]) as another:
        try:
            another.get("rec:any")
        except error:
            return True
    return False


def finish_loading(admin: Admin) -> None:
    """Have it read without pauses."""
    admin.config_set("key-load-delay", "0")


def occupy(admin: Admin) -> None:
    """Have it run a script that does not end by itself."""
    admin.config_set("busy-reply-threshold", "1")

    def run() -> None:
        with suppress(redis.RedisError):
            admin.eval("while true do end", 0)

    threading.Thread(target=run, daemon=True).start()
    harness.wait_until(lambda: _refuses(admin, redis.ResponseError))


def interrupt(admin: Admin) -> None:
    """End that script."""
    admin.script_kill()


def give_slots_away(admin: Admin) -> None:
    """Have a Cluster's node know no owner of its slots."""
    admin.execute_command("CLUSTER", "DELSLOTSRANGE", "0", "16383")


def take_slots(admin: Admin) -> None:
    """Have it own all of them."""
    admin.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")


Do = Callable[[Admin], None]
REFUSALS: dict[str, tuple[str, Do, Do]] = {
    "readonly": ("valkey", demote, promote),
    "readonly-6.2": (servers.OLDEST, demote, promote),
    "master_down": ("valkey", cut_off, promote),
    "out_of_memory": ("valkey", fill, empty),
    "out_of_memory-6.2": (servers.OLDEST, fill, empty),
    "too_few_replicas": ("valkey", want_replicas, want_none),
    "loading": ("valkey", load, finish_loading),
    "busy": ("valkey", occupy, interrupt),
    "cluster_down": ("cluster", give_slots_away, take_slots),
}


@contextmanager
def serving(kind: str) -> Generator[EmbeddedValkey]:
    """Run a server of a kind; `cluster` is a single node of one, which is reached as if it were alone."""
    extra = ["--enable-debug-command", "yes"] if kind == "valkey" else []
    extra += ["--cluster-enabled", "yes", "--cluster-node-timeout", "500"] if kind == "cluster" else []
    binary = servers.binary("valkey" if kind == "cluster" else kind)
    with EmbeddedValkey(port=harness.node_port() or free_port(), binary=binary, extra=extra) as server:
        if kind == "cluster":
            with redis.Redis(port=server.port) as admin:
                take_slots(admin)
                harness.wait_until(lambda: b"state:ok" in cast("bytes", admin.execute_command("CLUSTER", "INFO")))
        yield server


def failed(kind: str) -> float:
    """Return how many failures were counted as of a kind."""
    body, _ = metrics.render(metrics.GaugeValues(redis_up=True), "", "")
    return Numbers(body.decode()).total("redis_errors_total", kind=kind)


async def test_refusal_of_a_connection_that_was_left_drops_no_other(valkey: EmbeddedValkey) -> None:
    """Two calls meet a server that refuses, and one hears of it late: what was made anew meanwhile is kept."""
    connection, late = Connection(valkey.url, probe_every=0), asyncio.Event()

    async def refused(_: object) -> None:
        raise redis.ResponseError("READONLY You can't write against a read only replica.")

    async def refused_late(client: object) -> None:
        await late.wait()
        await refused(client)

    waiting = asyncio.create_task(connection._call(refused_late))
    await harness.eventually(lambda: connection._opened)
    first = connection._opened
    with pytest.raises(CoordinationUnavailable):
        await connection._call(refused)
    await connection.now()
    anew = connection._opened
    assert anew is not first
    late.set()
    with pytest.raises(CoordinationUnavailable):
        await waiting
    assert connection._opened is anew
    await connection.aclose()


@pytest.mark.parametrize("case", REFUSALS)
async def test_write_that_is_refused_makes_redis_unavailable_until_one_succeeds(case: str) -> None:
    """Reads that would succeed meanwhile change nothing; each kind is counted and logged once, under its own name."""
    kind = case.partition("-")[0]
    server_kind, refuse, accept = REFUSALS[case]
    log = Log()
    with serving(server_kind) as server, redis.Redis(port=server.port) as admin:
        connection = Connection(f"{server.url}?socket_timeout=20&socket_connect_timeout=20", probe_every=0)
        await write(connection)
        first = connection._opened
        before = failed(kind)
        await asyncio.to_thread(refuse, admin)
        for _ in range(3):
            with pytest.raises(CoordinationUnavailable):
                await write(connection)
            with pytest.raises(CoordinationUnavailable):
                await connection.now()
            assert connection.open
        assert failed(kind) - before == connection.failures
        accept(admin)

        async def writes() -> bool:
            with suppress(CoordinationUnavailable):
                return bool(await write(connection))
            return False

        await harness.until(writes)
        assert connection.healthy
        assert connection._opened is not first
        assert connection.moves == 1
        await connection.aclose()
    said = [(entry["event"], entry.get("reason", entry.get("after"))) for entry in log.entries()]
    assert [line for line in said if line[0].startswith("redis.")] == [
        ("redis.refused", kind),
        ("redis.accepted", kind),
    ]
