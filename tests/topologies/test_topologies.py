"""The gateway on every kind of Redis it supports: one flow, one answer, whatever lies beneath."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

import httpx
import pytest
import redis

from gateway.sandbox.ports import free_port
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.store.connection import Connection
from tests import harness, servers
from tests.api_client import ApiClient, NewTrack
from tests.faults.groups import Sentinels, deafen
from tests.listener import listening

pytestmark = pytest.mark.anyio


ACL_RULES = (
    "resetchannels ~rec:* &rec:* -@all +evalsha +eval +hgetall +hmget +hset +hdel +pexpire +pttl +zadd +zrem +zrange "
    "+zrevrange +zscore +xadd +xrange +xrevrange +get +getdel +set +publish +subscribe +unsubscribe +ping +info +time"
)
"""What `docs/operating.md` has operators grant."""


@asynccontextmanager
async def two_gateways(
    redis_url: str, simulator: Simulator, demo: harness.Demo
) -> AsyncGenerator[tuple[ApiClient, ApiClient]]:
    """Serve two gateways, as two replicas would be, on one Redis."""
    settings = harness.environment(
        redis_url, simulator.url, demo.file, **{**harness.FAST, "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "6"}
    )
    async with (
        harness.serve(settings) as one,
        harness.serve(settings) as other,
        harness.client(one, demo.key) as first,
        harness.client(other, demo.key) as second,
    ):
        await harness.until_ready(first, second)
        yield first, second


async def start_join_stop(redis_url: str, simulator: Simulator, demo: harness.Demo, new_track: NewTrack) -> None:
    """Start on one replica, join on the other, stop, and follow that: one start and one stop upstream."""
    async with two_gateways(redis_url, simulator, demo) as (first, second):
        track = new_track()
        simulator.inject(harness.delay("start", 2))
        answers = await asyncio.gather(*(replica.start(track) for replica in (first, second)))
        outcomes = [answer.json().get("outcome", answer.text) for answer in answers]
        assert sorted(outcomes) == ["joined", "started"]
        assert len({answer.json()["id"] for answer in answers}) == 1
        ticket = (await first.post(f"/v1/rooms/{track['roomId']}/events/tickets")).json()["ticket"]
        async with listening(second, track["roomId"], ticket=ticket) as reader:
            key = {"idempotency-key": uuid.uuid4().hex}
            stopped = await first.stop(track, headers=key)
            assert stopped.json()["outcome"] == "stopped"
            assert (await second.stop(track, headers=key)).content == stopped.content
            # Of what nobody has heard of, too.
            assert (await second.stop(new_track(kind="audio"))).json()["outcome"] == "not_recording"
            await reader.until_statuses("stopping", "stopped")
        # Of this room: on a shared server its gateways also look after what other tests left behind.
        calls = harness.calls_for(simulator, track["roomId"])
        assert [call.endpoint for call in calls if call.method == "POST"] == ["start", "stop", "stop"]


async def test_start_join_stop_on_the_embedded_valkey(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """One server over a Unix socket."""
    await start_join_stop(valkey.url, simulator, demo, new_track)


@pytest.mark.parametrize("kind", [servers.OLDEST, "redis", "valkey"])
async def test_start_join_stop_with_the_least_rights(
    kind: str, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Over TCP, on old servers and new, as a user with only the rights that the page lists."""
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    assert ACL_RULES in " ".join(page.split())
    with harness.AgedValkey(port=0, binary=servers.binary(kind)) as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.execute_command("ACL", "SETUSER", "gateway", "on", ">a-password", *ACL_RULES.split())
        url = server.url.replace("redis://", "redis://gateway:a-password@")
        await start_join_stop(url, simulator, demo, new_track)
        with redis.Redis.from_url(server.url) as admin:
            assert admin.acl_log() == []


@pytest.mark.parametrize("kind", [kind for kind in servers.KINDS if "-" in kind])
def test_old_server_has_the_version_of_its_name(kind: str) -> None:
    """What runs under an old version's name is of that version."""
    family, _, version = kind.partition("-")
    with (
        EmbeddedValkey(binary=servers.binary(kind)) as server,
        redis.Redis.from_url(server.url, decode_responses=True) as client,
    ):
        about = cast("dict[str, str]", client.info("server"))
        assert str(about[f"{family}_version"]).startswith(f"{version}.")


@pytest.fixture(params=[servers.OLDEST, "valkey"])
def cluster(request: pytest.FixtureRequest) -> Generator[str]:
    """Three masters on loopback; the address the gateway is given."""
    binary, options = servers.binary(request.param), ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
    with ExitStack() as stack:
        places = [harness.node_port() for _ in range(3)]
        nodes = [stack.enter_context(EmbeddedValkey(port=port, binary=binary, extra=options)) for port in places]
        ports = [int(node.url.rpartition(":")[2]) for node in nodes]
        clients = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        for index, client in enumerate(clients):
            slots = range(index * 5461, 16384 if index == 2 else (index + 1) * 5461)
            client.execute_command("CLUSTER", "ADDSLOTS", *slots)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for port in ports[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        harness.wait_until(
            lambda: all(
                b"cluster_state:ok" in cast("bytes", client.execute_command("CLUSTER", "INFO"))
                and len(cast("list[object]", client.execute_command("CLUSTER", "SLOTS"))) == 3
                for client in clients
            )
        )
        for node in nodes:
            harness.age(node)
        yield f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"


async def test_start_join_stop_on_a_cluster(
    cluster: str, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """Three masters: every track's keys in one slot, wake-ups across nodes."""
    await start_join_stop(cluster, simulator, demo, new_track)


async def test_reads_on_a_cluster_are_those_of_a_single_server(cluster: str) -> None:
    """What redis-py makes of a reply and what comes over the shared line become the same."""
    async with aclosing(Connection(cluster)) as connection:
        assert await connection.read("rec:{07}:none") == {}
        script = (
            "redis.call('HSET', KEYS[1], 'a', '1', 'b', 'zoë') redis.call('XADD', KEYS[2], '1-1', 'k', 'v') "
            "redis.call('ZADD', KEYS[3], 1, 'one', 2, 'two')"
        )
        keys = ["rec:{07}:hash", "rec:{07}:stream", "rec:{07}:due"]
        await connection.evaluate(script, hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(), keys, b"")
        assert await connection.read(keys[0]) == {"a": "1", "b": "zoë"}
        assert await connection.entries(keys[1], "-", 10) == [("1-1", {"k": "v"})]
        assert await connection.due(keys[2], 2, 10) == ["one", "two"]
        assert await connection.scheduled(keys[2], 1, 10) == {"one": 1.0}
        await connection.keep("rec:{07}:ticket", b"text", 10_000)
        assert await connection.take("rec:{07}:ticket") == b"text"
        assert await connection.take("rec:{07}:ticket") is None


@pytest.fixture
def sentinel(tmp_path: Path) -> Generator[tuple[str, EmbeddedValkey, int]]:
    """A master, a replica and three sentinels; the gateway's address, the master, a sentinel's port."""
    with ExitStack() as stack:
        master = stack.enter_context(harness.AgedValkey(port=0))
        port = int(master.url.rpartition(":")[2])
        stack.enter_context(EmbeddedValkey(port=0, extra=["--replicaof", "127.0.0.1", str(port)]))
        ports: list[int] = []
        for number in range(3):
            ports.append(free_port())
            configuration = tmp_path / f"sentinel-{number}.conf"
            configuration.write_text(
                f"port {ports[-1]}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor tracks 127.0.0.1 {port} 2\n"
                "sentinel down-after-milliseconds tracks 500\nsentinel failover-timeout tracks 3000\n"
            )
            stack.enter_context(harness.sentinel(configuration))
        reconciler = stack.enter_context(redis.Redis(port=ports[0], decode_responses=True))

        def watched() -> bool:
            known = cast("dict[str, str]", reconciler.sentinel_master("tracks"))
            return int(known["num-slaves"]) >= 1 and int(known["num-other-sentinels"]) >= 2

        harness.wait_until(watched)
        yield "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/tracks", master, ports[0]


async def test_start_with_the_first_sentinel_gone_is_in_time(
    sentinel: tuple[str, EmbeddedValkey, int], simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The first Sentinel named is not there: the next one is asked, within a caller's time."""
    url, _, _ = sentinel
    gone = url.replace("redis+sentinel://", f"redis+sentinel://127.0.0.1:{free_port()},")
    await start_join_stop(gone, simulator, demo, new_track)


async def test_stop_after_a_sentinel_failover_stops_the_recording(
    sentinel: tuple[str, EmbeddedValkey, int], simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """A recording that was started before a failover is stopped after it, without a restart of the gateway."""
    url, master, port = sentinel
    await start_join_stop(url, simulator, demo, new_track)
    async with two_gateways(url, simulator, demo) as (first, second):
        track = new_track()
        assert (await first.start(track)).status_code == 201
        with redis.Redis(port=port, decode_responses=True) as reconciler:
            before = reconciler.sentinel_get_master_addr_by_name("tracks")
            master.kill()
            harness.wait_until(lambda: reconciler.sentinel_get_master_addr_by_name("tracks") != before)

        async def settled() -> httpx.Response:
            return await second.start(track)

        answer = await harness.until(settled, lambda answer: answer.status_code != 503)
        assert answer.json().get("outcome") == "already_recording", answer.text
        starts = [
            call
            for call in simulator.calls
            if call.endpoint == "start" and call.participant_id == track["participantId"]
        ]
        assert len(starts) == 1
        stopped = await first.stop(track)
        assert stopped.json()["outcome"] == "stopped"


async def test_failover_that_forgets_an_answered_stop_does_not_repeat_it(
    tmp_path: Path, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The replica heard that a stop was begun, but neither that it was done nor of the start that came after it.

    Whoever did them is alive and tells the promoted replica: what records now is not ended by a stop of before.
    """
    track = new_track()

    def calls(endpoint: str) -> int:
        return sum(call.endpoint == endpoint for call in simulator.calls)

    with Sentinels(tmp_path) as group:
        master, replica = group.servers
        harness.age(master)
        async with two_gateways(group.url, simulator, demo) as (first, second):
            started = await first.start(track)
            assert started.json()["outcome"] == "started"
            simulator.inject(harness.delay("stop", 0.5))
            stopping = asyncio.create_task(first.stop(track))
            await harness.eventually(lambda: calls("stop"))
            with redis.Redis(port=master.port) as writer:
                assert writer.wait(1, 1000) == 1
            deafen(master, replica)
            assert (await stopping).json()["outcome"] == "stopped"
            again = await first.start(track)
            assert again.json()["outcome"] == "started"
            master.kill()
            replica.resume()
            await asyncio.to_thread(harness.wait_until, lambda: group.masters() == [replica.port])

            async def asked() -> httpx.Response:
                return await second.start(track)

            answer = await harness.until(asked, lambda answer: answer.status_code != 503)
            assert answer.json().get("outcome") == "already_recording", answer.text
            assert (calls("start"), calls("stop")) == (2, 1)
