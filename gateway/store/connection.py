"""How Redis is reached, and what its failures mean. No other module makes a client.

Time-outs and retries are said here in so many words, because redis-py's defaults (5 s, ten retries) turn a stopped
server into a minute of waiting and run a script again that had only lost its reply.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from gateway.errors import CoordinationUnavailable
from gateway.observability import metrics
from gateway.store.line import RedisCommand, SharedLine
from gateway.store.refusals import KINDS, kind_of, refusal_of
from gateway.store.scripts import BUCKETS

__all__ = ["LOST", "Connection", "uncancelled"]

LOST: Final = (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError, AttributeError)
"""How a lost connection shows. What redis-py raises where no node of a Cluster answers is none of its `RedisError`s;
the last but one is what uvloop raises when a connection is written to that was just reset, and the last what redis-py
stumbles over when one command's failure ends a connection that another is about to write to."""

_log = structlog.get_logger("gateway.coordinator")

_COMMAND_SECONDS = 1.0
_CONNECT_SECONDS = 0.5
_LONGEST_SECONDS = _CONNECT_SECONDS + _COMMAND_SECONDS
_MAX_CONNECTIONS = 64
_FAILURES_TO_OPEN = 3
_PROBE_EVERY_SECONDS = 0.5
_CHECK_MS = 60_000
_PORTS: Final = {"sentinel": 26379, "cluster": 6379}
"""Where an address names none."""

for _kind in KINDS:
    metrics.redis_failed(_kind, 0)

_SOCKET: dict[str, Any] = {
    "socket_timeout": _COMMAND_SECONDS,
    "socket_connect_timeout": _CONNECT_SECONDS,
    "health_check_interval": 15,
    "retry": Retry(NoBackoff(), 0),
    # RESP2 and no driver info: the handshake then needs no command beyond AUTH and SELECT, so that the ACL stays short.
    "protocol": 2,
    "driver_info": None,
}


class Connection:
    """A pool of connections to one Redis, Valkey, Sentinel group or Cluster.

    Args:
        url: `redis://`, `rediss://` or `unix://` as redis-py reads them; `redis+sentinel://host:port,…/service/db`;
            `redis+cluster://host:port,…`; the last two with `rediss+` for TLS. Or what gives it as it is now: where its
            password is replaced, connections are made anew. Another server is not moved to: replicas that move at
            different moments would not see each other's claims.
        ca_file: Certificates (PEM) that a server's must go back to, instead of the system's own; for TLS only.
        max_connections: Calls at the same time; more wait for their turn.
        probe_every: Seconds between two calls that try whether Redis is back.

    A URL without `+` may give time-outs of its own, in seconds: `?socket_timeout=…&socket_connect_timeout=…`.

    After three failures in a row (a line that is lost is one, with all calls on it) the connection answers at once for
    half a second (`probe_every`) at a time, so that an outage costs callers no time-outs; one call in each half second
    tries whether Redis is back.

    A server that refuses writes (a demoted master, one that loads or is out of memory) is a lost one, whatever it lets
    be read: its connections are dropped, so that the next are made to where the address leads by then, and Redis is
    back once a write succeeds. Of a Cluster each node speaks for its slots only, and its client finds masters itself.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        ca_file: str = "",
        *,
        max_connections: int = _MAX_CONNECTIONS,
        probe_every: float = _PROBE_EVERY_SECONDS,
    ) -> None:
        self._url = (lambda: url) if isinstance(url, str) else url
        self._ca_file = ca_file
        self._opened: _Opened | None = None
        self._opened_url = self._refused_url = ""
        self._retiring: set[asyncio.Task[None]] = set()
        self._max_connections = max_connections
        self._probe_every = probe_every
        self._places = asyncio.Semaphore(max_connections)
        self._failures = 0
        """How many times in a row it failed: however many calls were on a line that was lost, that is once."""
        self._last_failure: BaseException | None = None
        self.failures = 0
        """How many calls have failed so far."""
        self.moves = 0
        """How often a server took writes after one had refused them: it may be another."""
        self._refused = ""
        """Why the last write was refused, while none has succeeded since."""
        self._probe_at = 0.0

    def __repr__(self) -> str:
        return "Connection()"

    @property
    def healthy(self) -> bool:
        """Whether the last call succeeded, as far as this process knows."""
        return self._failures == 0

    @property
    def open(self) -> bool:
        """Whether calls are answered at once because Redis failed too often."""
        return self._failures >= _FAILURES_TO_OPEN

    async def evaluate(self, script: str, sha: str, keys: Sequence[str], argument: bytes) -> bytes:
        """Run a script on the node that owns `keys`: EVALSHA, and EVAL where the node does not know it yet.

        Raises:
            CoordinationUnavailable: Redis did not answer. The script may still run later.
        """
        begun = time.perf_counter()
        try:
            if self._current().is_cluster:
                reply = await self._call(_evaluation(script, sha, keys, argument))
            else:
                reply = await self._ask(("EVALSHA", sha, len(keys), *keys, argument))
                if isinstance(reply, NoScriptError):
                    reply = await self._ask(("EVAL", script, len(keys), *keys, argument))
        finally:
            metrics.REDIS_DURATION.observe(time.perf_counter() - begun)
        return cast("bytes", reply)

    async def _run(self, *command: str | int | bytes) -> Any:
        """Run a command: over the shared line, and in a Cluster on the node that owns its key."""
        if self._current().is_cluster:

            async def call(client: Any) -> object:
                return await client.execute_command(*command)

            return await self._call(call)
        return await self._ask(command)

    async def _ask(self, command: RedisCommand) -> object:
        """Send a command over the shared line; of errors only `NoScriptError` is returned."""
        opened = self._current()
        if self._failures or not opened.line.usable:
            return await self._call(partial(self._ask_now, command))
        try:
            return _served(await opened.line.ask(command))
        except LOST as error:
            self._note_failure(error, opened.client)
            raise _unavailable() from error

    async def _ask_now(self, command: RedisCommand, client: Redis | RedisCluster) -> object:
        if self._opened is None or self._opened.client is not client:
            raise RedisConnectionError("The connections are replaced at this moment.")
        return _served(await self._opened.line.ask(command))

    async def read(self, key: str) -> dict[str, str]:
        """Return the hash at `key`, empty where there is none.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        return _pairs(await self._run("HGETALL", key))

    async def keep(self, key: str, value: bytes, ttl_ms: int) -> None:
        """Keep a value for a while.

        Raises:
            CoordinationUnavailable: Redis did not answer. It may be kept all the same.
        """
        await self._run("SET", key, value, "PX", ttl_ms)

    async def take(self, key: str) -> bytes | None:
        """Return the value at `key` and remove it, in one step.

        Raises:
            CoordinationUnavailable: Redis did not answer. The value may be gone all the same.
        """
        return await self._run("GETDEL", key)

    async def due(self, key: str, until_ms: int, limit: int) -> list[str]:
        """Return up to `limit` members of the sorted set at `key` with a score of at most `until_ms`.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        found = await self._run("ZRANGE", key, "-inf", until_ms, "BYSCORE", "LIMIT", 0, limit)
        return [member.decode() for member in found]

    async def scheduled(self, key: str, until_ms: int, limit: int) -> dict[str, float]:
        """Return up to `limit` members of the sorted set at `key` with their scores, the lowest, at most `until_ms`.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        found = await self._run("ZRANGE", key, "-inf", until_ms, "BYSCORE", "LIMIT", 0, limit, "WITHSCORES")
        return {member.decode(): float(at) for member, at in zip(found[::2], found[1::2], strict=True)}

    async def entries(self, key: str, first_id: str, limit: int) -> list[tuple[str, dict[str, str]]]:
        """Return up to `limit` entries of the stream at `key`, from the one of id `first_id` on.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """
        entries = await self._run("XRANGE", key, first_id, "+", "COUNT", limit)
        return [(entry.decode(), _pairs(fields)) for entry, fields in entries]

    async def check(self, bucket: int | None = None) -> None:
        """Write something, since a server that only lets be read is no use.

        Args:
            bucket: Where; any unless given.

        Raises:
            CoordinationUnavailable: Redis did not answer, or refused.
        """
        await self._call(partial(_write, secrets.randbelow(BUCKETS) if bucket is None else bucket))

    async def now(self) -> int:
        """Return Redis's clock in milliseconds.

        Raises:
            CoordinationUnavailable: Redis did not answer.
        """

        async def call(client: Redis | RedisCluster) -> object:
            if isinstance(client, RedisCluster):
                return await cast("Any", client.time(target_nodes=client.get_random_node()))
            return await cast("Any", client.time())

        seconds, micros = cast("tuple[int, int]", await self._call(call))
        return seconds * 1000 + micros // 1000

    @asynccontextmanager
    async def subscriber(self) -> AsyncGenerator[PubSub]:
        """Open a subscription with a connection of its own, which commands must not share.

        In a Cluster any node will do: an ordinary PUBLISH reaches them all.

        Raises:
            CoordinationUnavailable: The Cluster's nodes could not be asked.
        """
        opened = _connect(await self._subscribable_url(), self._ca_file, connections=2)
        pubsub = cast("Any", cast("Redis", opened.client).pubsub())
        try:
            yield pubsub
        finally:
            await pubsub.aclose()
            await opened.aclose()

    async def _subscribable_url(self) -> str:
        url = self._url()
        if not url.partition("://")[0].endswith("+cluster"):
            return url

        async def node(client: Redis | RedisCluster) -> object:
            return cast("RedisCluster", client).get_random_node()

        chosen = cast("ClusterNode", await self._call(node))
        scheme, _, rest = url.partition("://")
        credentials, at, _ = urlsplit(f"//{rest}").netloc.rpartition("@")
        return f"{scheme.partition('+')[0]}://{credentials}{at}{chosen.host}:{chosen.port}"

    async def aclose(self) -> None:
        """Close every connection."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._opened is not None:
            await self._opened.aclose()

    def _current(self) -> "_Opened":
        url = self._url()
        if self._opened is not None and url != self._opened_url and _location(url) != _location(self._opened_url):
            if url != self._refused_url:
                self._refused_url = url
                _log.error("redis.moved", meaning="restart all replicas together to move to another server")
            return self._opened
        if self._opened is None or url != self._opened_url:
            self._retire()
            self._opened, self._opened_url = _connect(url, self._ca_file, connections=self._max_connections), url
        return self._opened

    def _retire(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            task = asyncio.create_task(_close_later(opened), name="redis-retire")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _call(self, call: Any) -> object:
        # Waiting for a connection says nothing about Redis: it is done here, where it counts as no failure.
        async with self._places:
            return await self._call_now(call)

    async def _call_now(self, call: Any) -> object:
        moment = time.monotonic()
        if self._failures >= _FAILURES_TO_OPEN:
            if moment < self._probe_at:
                raise _unavailable()
            self._probe_at = moment + self._probe_every
        opened = self._current()
        client = opened.client
        try:
            # redis-py bounds each read; a Cluster client may add rounds of its own (redirects, slot refresh).
            async with asyncio.timeout(opened.longest_seconds):
                if isinstance(client, RedisCluster):
                    await client.initialize()
                if self._refused:
                    await _write(0, client)
                result = await call(client)
        except LOST as error:
            uncancelled()
            self._note_failure(error, client)
            raise _unavailable() from error
        uncancelled()
        self._note_success(client)
        return result

    def _note_success(self, client: Redis | RedisCluster) -> None:
        if self._opened is None or self._opened.client is not client:
            # What connections that were dropped or replaced still bring in says nothing about the next ones.
            return
        self._failures = 0
        if self._refused:
            _log.warning("redis.accepted", after=self._refused)
            self._refused = ""
            self.moves += 1

    def _note_failure(self, error: BaseException, client: Redis | RedisCluster) -> None:
        metrics.redis_failed(kind_of(error))
        self.failures += 1
        failure = error.__cause__ or error
        self._failures += failure is not self._last_failure
        self._last_failure = failure
        self._probe_at = time.monotonic() + self._probe_every
        refusal = refusal_of(error)
        if refusal and not isinstance(client, RedisCluster):
            self._drop(client, refusal)

    def _drop(self, client: Redis, refusal: str) -> None:
        """Leave a server that refuses writes, unless that was done already."""
        if self._opened is None or self._opened.client is not client:
            return
        self._failures = max(self._failures, _FAILURES_TO_OPEN)
        if refusal != self._refused:
            self._refused = refusal
            _log.error("redis.refused", reason=refusal, meaning="connections are made anew until a write succeeds")
        self._retire()


def _as_it_comes(response: Any, **_: Any) -> Any:
    return response


def _pairs(members: list[bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in zip(members[::2], members[1::2], strict=True)}


def _evaluation(script: str, sha: str, keys: Sequence[str], argument: bytes) -> Callable[[Any], Awaitable[object]]:
    async def call(client: Any) -> object:
        try:
            return await client.evalsha(sha, len(keys), *keys, argument)
        except NoScriptError:
            return await client.eval(script, len(keys), *keys, argument)

    return call


def _served(reply: object) -> object:
    """Return a reply; raise an error that is not the command's fault: this server is none that serves."""
    if isinstance(reply, RedisError) and not isinstance(reply, NoScriptError):
        raise reply
    return reply


async def _write(bucket: int, client: Any) -> object:
    return await client.set(f"rec:{{{bucket:02d}}}:check", b"", px=_CHECK_MS)


def _location(url: str) -> str:
    """Return where a URL leads, without its credentials."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


async def _close_later(opened: "_Opened") -> None:
    """Close replaced connections once their last users are done."""
    try:
        await asyncio.sleep(2 * _COMMAND_SECONDS)
    finally:
        await opened.aclose()


def _unavailable() -> CoordinationUnavailable:
    return CoordinationUnavailable("Redis does not answer, so exactly one start cannot be promised.", retry_after=2)


def uncancelled() -> None:
    """Go on being cancelled where redis-py swallowed it, or made an error of its own of it.

    Both happen now and then; a task that runs for ever would then never end, nor the process.

    Raises:
        CancelledError: This task is to end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Opened:
    """A client, and the clients it needs to find its server."""

    def __init__(
        self, client: Redis | RedisCluster, *helpers: Redis, longest_seconds: float = _LONGEST_SECONDS
    ) -> None:
        self.client = client
        self.is_cluster = isinstance(client, RedisCluster)
        self.line = SharedLine(client.connection_pool if isinstance(client, Redis) else None)
        """For what concurrent requests send; not of a Cluster, whose nodes are many."""
        self.longest_seconds = longest_seconds
        """How long a call may take, a new connection included."""
        self._helpers = helpers

    async def aclose(self) -> None:
        self.line.close()
        for client in (self.client, *self._helpers):
            await client.aclose()


def _address(text: str, usual_port: int) -> tuple[str, int]:
    """Read `host`, `host:port` or `[IPv6]:port`."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or usual_port


def _longest_seconds(url: str) -> float:
    """Return how long connecting and a command may take together, where redis-py reads time-outs out of the URL."""
    given = parse_qs(urlsplit(url).query)
    return sum(float(given.get(name, [_SOCKET[name]])[0]) for name in ("socket_connect_timeout", "socket_timeout"))


def _connect(url: str, ca_file: str, *, connections: int) -> _Opened:
    scheme, _, rest = url.partition("://")
    transport, _, topology = scheme.partition("+")
    # Said of every connection: the Sentinels' own and the subscriber's too.
    trust = {"ssl_ca_certs": ca_file} if transport == "rediss" and ca_file else {}
    if not topology:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=_COMMAND_SECONDS, **_SOCKET, **trust
        )
        return _Opened(Redis.from_pool(pool), longest_seconds=_longest_seconds(url))
    parts = urlsplit(f"//{rest}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    addresses = [_address(host, _PORTS[topology]) for host in hosts.split(",")]
    options: dict[str, Any] = {
        **_SOCKET,
        **trust,
        "username": unquote(username) or None,
        "password": unquote(password) or None,
        "ssl": transport == "rediss",
    }
    if topology == "cluster":
        # One retry, because a node that moved is only found again by asking. Every script may run twice.
        options["retry"] = Retry(NoBackoff(), 1)
        nodes = [ClusterNode(host, port) for host, port in addresses]
        cluster = RedisCluster(startup_nodes=nodes, max_connections=connections, **options)
        for command in ("HGETALL", "XRANGE"):
            # As it comes over the shared line too.
            cluster.set_response_callback(command, _as_it_comes)
        return _Opened(cluster)
    service, _, database = parts.path.strip("/").partition("/")
    # Said by this name: of the other options redis-py gives its connections to Sentinels only those called `socket_…`,
    # and tries each Sentinel eleven times, longer than any caller waits, before it asks the next.
    sentinel = Sentinel(addresses, sentinel_kwargs={**_SOCKET, **trust, "ssl": options["ssl"]})
    master = sentinel.master_for(service, db=int(database or 0), max_connections=connections, **options)
    return _Opened(master, *sentinel.sentinels)
