"""The calls to VideoSDK, and what each failure proves.

It does not know what a recording is to us: it sends one request, and says either that it succeeded or, by the class of
its exception, whether it can have had an effect (`gateway.errors`). It and the transport alone know httpx.

Facts about VideoSDK are from docs.videosdk.live and the source of its Node package `@videosdk.live/server-sdk` 0.1.1;
the vendor documents no error bodies, so statuses are read by family and texts are never branched on.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from itertools import count
from math import inf
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from gateway.errors import (
    CredentialsRefused,
    ListIncomplete,
    MayHaveHappened,
    NeverSent,
    Refused,
    SendWindowClosed,
    UpstreamError,
)
from gateway.observability import metrics, tracing
from gateway.videosdk.answers import ABOUT_THE_TOKEN, failure, is_confirmation, retry_after, words
from gateway.videosdk.pace import Pace
from gateway.videosdk.rows import ListedRow, ListedSession
from gateway.videosdk.tokens import Tokens
from gateway.videosdk.transport import BEFORE_SEND, Limits, Proxy, Transport

__all__ = ["Addressed", "VideoSDK"]

_HARMLESS: Final = "/v2/recordings/participant/track"
"""Any list would do."""
_SESSIONS: Final = "/v2/sessions"
_PUBLIC_KEY: Final = "/v2/public/rsa-public-key"
_PER_PAGE: Final = 100
_MAX_PAGES: Final = 50
"""They are read one after the other, and an operation may wait for them. That is 5,000 rows, or fewer where VideoSDK
puts fewer on a page than it is asked for."""
_MAX_READINGS: Final = 3
_HEADERS: Final = {
    "user-agent": "recording-gateway",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
}


class _PageInfo(Struct, rename="camel"):
    last_page: int = 1
    total: int | None = None


class _Page(Struct, rename="camel"):
    data: list[ListedRow]
    page_info: _PageInfo = msgspec.field(default_factory=_PageInfo)


class _Sessions(Struct, rename="camel"):
    data: list[ListedSession]


class _PublicKey(Struct, rename="camel"):
    public_key: str


class Addressed(Protocol):
    """What can be recorded, as VideoSDK addresses it."""

    @property
    def ids(self) -> dict[str, str]:
        """The fields that name it."""
        ...

    @property
    def start_path(self) -> str:
        """Where a recording of it is started."""
        ...

    @property
    def stop_path(self) -> str:
        """Where a recording of it is stopped."""
        ...


class VideoSDK:
    """A client of VideoSDK's REST API v2.

    Args:
        base_url: Where the API is, without a trailing slash. The token is sent there and nowhere else: redirects are
            not followed.
        tokens: Where the token comes from.
        timeout: Seconds for one whole call, whatever phase it is in.
        max_connections: Calls at the same time; more wait for their turn, and are never sent if it does not come.
        max_for_reads: How many of them at most may be lists for reads, while there is more than one place: no
            operation waits for these. They wait for a place as long as others do for a connection.
        calls_per_second: Most calls in a second; more wait just the same. 0 is no limit.
        max_pages: Most pages of a list that are read.
        webhook_url: Where a recording's events go if the start names no address of its own.
        proxy: Gives the proxy that all calls go through, with its credentials, as it is now; empty for none.
    """

    def __init__(
        self,
        base_url: str,
        tokens: Tokens,
        *,
        timeout: float,
        max_connections: int = 64,
        max_for_reads: int = 16,
        calls_per_second: float = 0,
        max_pages: int = _MAX_PAGES,
        webhook_url: str | None = None,
        proxy: Callable[[], str] = lambda: "",
    ) -> None:
        self._base = base_url.rstrip("/")
        self._urls: dict[str, httpx.URL] = {}
        """Addresses that are called again and again: to read one costs as much as to send a request."""
        self._webhook_url = webhook_url
        self._tokens = tokens
        self._timeout = timeout
        self._max_pages = max_pages
        self._pace = Pace(calls_per_second)
        self._for_reads = asyncio.Semaphore(min(max_for_reads, max(max_connections - 1, 1)))
        # None for the reply: the whole call has one that is no longer.
        self._timeouts = {"connect": min(timeout, 3.0), "pool": min(timeout, 2.0)}
        # The transport alone: what an `AsyncClient` adds (cookies, redirects, hooks) is not wanted, and costs as much
        # again. Idle connections are kept for a short time, so that a call seldom meets one that the other side is just
        # closing: what comes of such a call is unknown.
        self._transport = Transport(
            _trusted(),
            Limits(max_connections, idle_seconds=4.0),
            lambda: Proxy.at(url) if (url := proxy()) else None,
        )

    def __repr__(self) -> str:
        return f"VideoSDK({urlsplit(self._base).hostname})"

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    @metrics.phase("upstream")
    async def start(
        self,
        target: Addressed,
        parameters: Mapping[str, Any] | None = None,
        *,
        may_send: Callable[[], bool] = lambda: True,
        attempt: str = "",
    ) -> None:
        """Ask VideoSDK to start a recording.

        Args:
            target: What to record.
            parameters: Further fields of the request, each sent exactly as given. Without a `webhookUrl` the client's
                own goes along, if it has one.
            may_send: Asked immediately before the first byte leaves; False stops the request.
            attempt: Goes along as `X-Rec-Attempt`, which VideoSDK ignores, for the readers of its logs.

        Raises:
            UpstreamError: What the failure proves is said by its class.
        """
        # Only here, past everything that compares starts: an address that no caller gave makes no two starts differ,
        # not even before and after it has changed.
        own = {} if self._webhook_url is None else {"webhookUrl": self._webhook_url}
        body = {**target.ids, **own, **(parameters or {})}
        await self._act("start", target.start_path, body, may_send, attempt)

    @metrics.phase("upstream")
    async def stop(self, target: Addressed, *, may_send: Callable[[], bool] = lambda: True, attempt: str = "") -> None:
        """Ask VideoSDK to stop a recording: the one of this target that runs when the request lands.

        Raises:
            UpstreamError: What the failure proves is said by its class.
        """
        await self._act("stop", target.stop_path, target.ids, may_send, attempt)

    async def _act(
        self, operation: str, path: str, body: dict[str, Any], may_send: Callable[[], bool], attempt: str
    ) -> None:
        response = await self._send(operation, "POST", path, body=body, may_send=may_send, attempt=attempt)
        if not is_confirmation(response):
            raise MayHaveHappened("VideoSDK's answer is not one of its own.", status=response.status_code)

    async def list_rows(
        self,
        path: str,
        room: str,
        participant: str | None = None,
        *,
        for_read: Callable[[], None] | None = None,
        max_pages: float = inf,
    ) -> list[ListedRow]:
        """Return the recordings of one mode in the room, or of one participant in it: all pages, each row once.

        VideoSDK is known to answer a query it does not understand with the whole account, so what it returns is
        filtered again here. Pages that are not of one list do not make a whole: where their number or that of all rows
        changes from page to page, rows may stand on a page that was read before, so all of them are read again.

        Args:
            path: Of the mode.
            room: Which room.
            participant: Which participant; None for all.
            for_read: Of a list that no operation waits for; called for each call that it takes.
            max_pages: Most pages that it is worth, if not as many as are read at all.

        Raises:
            ListIncomplete: It has more pages than are read, or they are not of one list, however often they are read.
            UpstreamError: The list could not be had.
        """
        pages = 0
        for _ in range(_MAX_READINGS):
            read = await self._read_pages(path, room, participant, for_read, max_pages)
            if not isinstance(read, int):
                return read
            pages += read
        raise ListIncomplete("VideoSDK's list changes from page to page.", pages=pages)

    async def _read_pages(
        self, path: str, room: str, participant: str | None, for_read: Callable[[], None] | None, max_pages: float
    ) -> list[ListedRow] | int:
        """Return the rows, or how many pages there are, where those are not of one list."""
        rows: dict[str, ListedRow] = {}
        first: _PageInfo | None = None
        for page in count(1):
            query = {"roomId": room, "page": str(page), "perPage": str(_PER_PAGE)}
            if participant is not None:
                query["participantId"] = participant
            if for_read is None:
                response = await self._send("list", "GET", path, query=query)
            else:
                response = await self._send_for_read("list", "GET", path, query=query)
                for_read()
            try:
                listed = msgspec.json.decode(response.content, type=_Page)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UpstreamError("VideoSDK's list cannot be read.") from error
            first = first or listed.page_info
            if listed.page_info != first:
                return first.last_page
            # VideoSDK's own count of pages: it may put fewer rows on one than it was asked for.
            if first.last_page > self._max_pages:
                raise ListIncomplete("VideoSDK's list has more pages than are read.")
            if first.last_page > max_pages:
                raise ListIncomplete("VideoSDK's list has more pages than it is worth.", pages=first.last_page)
            rows |= {
                row.id or f"{page}.{position}": row.normal()
                for position, row in enumerate(listed.data)
                if row.room_id == room and participant in {None, row.participant_id}
            }
            if page >= first.last_page:
                break
        return list(rows.values())

    async def _send_for_read(self, operation: str, method: str, path: str, *, query: dict[str, str]) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeouts["pool"]):
                await self._for_reads.acquire()
        except TimeoutError:
            metrics.refused("reader-calls")
            raise NeverSent("none of the places for reads became free in time") from None
        try:
            return await self._send(operation, method, path, query=query, goes_last=True)
        finally:
            self._for_reads.release()

    async def sessions(self, room: str) -> list[ListedSession]:
        """Return sessions of a room, the latest of them at least.

        Raises:
            UpstreamError: They could not be had.
        """
        query = {"roomId": room, "page": "1", "perPage": str(_PER_PAGE)}
        response = await self._send("sessions", "GET", _SESSIONS, query=query)
        try:
            listed = msgspec.json.decode(response.content, type=_Sessions).data
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError("VideoSDK's sessions cannot be read.") from error
        return [session for session in listed if session.room_id == room]

    async def public_key(self) -> str:
        """Return the public key that webhooks are signed for, in PEM.

        Raises:
            UpstreamError: It could not be had.
        """
        response = await self._send("key", "GET", _PUBLIC_KEY)
        try:
            return msgspec.json.decode(response.content, type=_PublicKey).public_key
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError("VideoSDK's public key cannot be read.") from error

    async def check(self) -> None:
        """Ask for something harmless, to see whether VideoSDK accepts the token.

        Raises:
            UpstreamError: `CredentialsRefused` where it does not.
        """
        refused = await self._refusal_of(self._tokens.current())
        if isinstance(refused, CredentialsRefused) and self._tokens.renew():
            refused = await self._refusal_of(self._tokens.current())
        if refused is not None:
            raise refused

    async def _refusal_of(self, token: str) -> UpstreamError | None:
        """Return what VideoSDK has against a token, None where it accepts it.

        It is asked for one row of any list. That names no room, so that nothing but the token can be wrong with it.
        """

        def send() -> Awaitable[httpx.Response]:
            return self._send_once("GET", _HARMLESS, query={"page": "1", "perPage": "1"}, token=token)

        try:
            response = await _observed("check", send)
            if response.status_code in ABOUT_THE_TOKEN:
                return CredentialsRefused(words(response), status=response.status_code)
            if response.status_code != 200:
                return failure(response)
            msgspec.json.decode(response.content, type=_Page)
        except UpstreamError as error:
            return error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return UpstreamError("VideoSDK's list cannot be read.")
        return None

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
        may_send: Callable[[], bool] = lambda: True,
        attempt: str = "",
        goes_last: bool = False,
    ) -> httpx.Response:
        for last in (False, True):
            try:
                token = self._tokens.current()
            except _FAILURES as error:
                raise _proof(error, sent=False) from error

            def send(token: str = token) -> Awaitable[httpx.Response]:
                return self._send_once(
                    method, path, body=body, query=query, may_send=may_send, attempt=attempt, token=token,
                    goes_last=goes_last,
                )  # fmt: skip

            response = await _observed(operation, send)
            if response.status_code not in ABOUT_THE_TOKEN:
                break
            refused = await self._refusal_of(token)
            if refused is None:
                # The token is good, so it was the request that VideoSDK refused, and would refuse again.
                raise Refused(words(response), status=response.status_code, retry_after=retry_after(response))
            if not isinstance(refused, CredentialsRefused):
                raise failure(response)
            # Refused before it acted, so a repeat with a fresh token is no second start.
            if last or not self._tokens.renew():
                raise CredentialsRefused(words(response), status=response.status_code)
        if response.status_code == 200:
            return response
        raise failure(response)

    async def _send_once(
        self,
        method: str,
        path: str,
        *,
        token: str,
        body: dict[str, Any] | None = None,
        query: dict[str, str] | None = None,
        may_send: Callable[[], bool] = lambda: True,
        attempt: str = "",
        goes_last: bool = False,
    ) -> httpx.Response:
        sent = False

        def before_send() -> None:
            # The last moment at which a request can still be kept back: the transport has a connection and writes next.
            nonlocal sent
            if not may_send():
                raise SendWindowClosed("the send window had closed")
            sent = True

        headers = {**_HEADERS, **tracing.headers()}
        if attempt:
            headers["x-rec-attempt"] = attempt
        content = b""
        if body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode(body)
            headers["content-length"] = str(len(content))
        try:
            async with asyncio.timeout(self._timeout):
                await self._pace.turn(last=goes_last)
                headers["authorization"] = token
                extensions = {"timeout": self._timeouts, BEFORE_SEND: before_send}
                url = self._url(path) if query is None else httpx.URL(self._base + path, params=query)
                headers["host"] = url.netloc.decode()
                # With a stream httpx adds no headers of its own, which would be the two above.
                request = httpx.Request(
                    method, url, headers=headers, stream=httpx.ByteStream(content), extensions=extensions
                )
                return await self._transport.handle_async_request(request)
        except _FAILURES as error:
            raise _proof(error, sent=sent) from error

    def _url(self, path: str) -> httpx.URL:
        if path not in self._urls:
            self._urls[path] = httpx.URL(self._base + path)
        return self._urls[path]


@cache
def _trusted() -> ssl.SSLContext:
    """Read the authorities that are trusted, once: it takes as long as twenty starts."""
    return httpx.create_ssl_context(trust_env=False)


_FAILURES: Final = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError)


def _proof(error: Exception, *, sent: bool) -> UpstreamError:
    """Turn a failure into what it proves: sent or not is all that matters.

    The class of the error alone would not do: a time-out of the whole call may strike in any phase.
    """
    return (MayHaveHappened if sent else NeverSent)(type(error).__name__)


async def _observed(operation: str, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    with metrics.UpstreamCall(operation) as call:
        try:
            response = await send()
        except UpstreamError as error:
            timed_out = isinstance(error.__cause__, TimeoutError | httpx.TimeoutException)
            call.failed("never_sent" if not error.may_have_happened else "timeout" if timed_out else "broken")
            raise
        if operation == "check" and response.status_code in ABOUT_THE_TOKEN:
            call.failed("token")
        elif operation in {"start", "stop"} and response.is_success and not is_confirmation(response):
            call.failed("foreign")
        else:
            call.answered(response.status_code)
        return response
