"""The routes of live events: a room's changes as they happen, and tickets for those who cannot send a header."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec.structs import replace

from gateway.api import openapi_texts
from gateway.api.context import RequestContext
from gateway.api.guards import BEARER, Guard, asked_seconds, authenticate
from gateway.api.openapi_texts import problems
from gateway.api.rate_limits import RateLimiter
from gateway.api.sse import EVENT_STREAM, LINE, EventStream
from gateway.api.wire import EventsTicket, read_room
from gateway.auth.api_keys import Caller
from gateway.auth.authenticator import Authenticator
from gateway.auth.policy import Policy, Scope, check_room, covers, exactly
from gateway.errors import Unauthenticated
from gateway.recordings import RoomFeeds
from gateway.store.tickets import TICKET_PREFIX, Tickets

__all__ = ["LAST_EVENT_HEADER", "EventStreams", "event_routes"]

LAST_EVENT_HEADER: Final = "last-event-id"
_EVENT_ID: Final = re.compile(r"[1-9][0-9]{0,17}-[0-9]{1,18}", re.ASCII)
_TICKET: Final = re.compile(rf"{TICKET_PREFIX}[A-Za-z0-9_-]{{43}}", re.ASCII)
_SHARED: Final = ("unauthenticated", "forbidden", "identity-unavailable", "headers-too-large", "invalid-request")

_Request = Request[Any, Any, Any]


class EventStreams:
    """Lets callers in to the events of the rooms they may see.

    Args:
        room_feeds: The events.
        tickets: Tickets of callers who were let in before.
        rate_limiter: How often callers may ask for one.
        project: Separates the projects that share a Redis.
        vouches: Tells whether what a caller was let in with is still in force.
    """

    def __init__(
        self,
        room_feeds: RoomFeeds,
        tickets: Tickets,
        rate_limiter: RateLimiter,
        project: str,
        vouches: Callable[[Caller], bool],
    ) -> None:
        self._room_feeds = room_feeds
        self._tickets = tickets
        self._rate_limiter = rate_limiter
        self._project = project
        self._vouches = vouches

    async def issue(self, request: _Request, room: str) -> EventsTicket:
        """Make a ticket for whatever the caller may see in a room.

        Raises:
            TooManyRequests: The caller has asked for too many in a minute.
        """
        caller = RequestContext.of(request.scope).sender
        check_room(caller.policy, Scope.READ, room)
        await self._rate_limiter.take_ticket(caller)
        seen = Policy(
            scopes=frozenset({Scope.READ}),
            rooms=(exactly(room),),
            participants=caller.policy.participants,
            modes=caller.policy.modes,
            kinds=caller.policy.kinds,
        )
        value = msgspec.json.encode(replace(caller, policy=seen))
        until = datetime.now(UTC) + self._tickets.lifetime
        return EventsTicket(ticket=await self._tickets.issue(self._scope(room), value), expires_at=until)

    async def admit(self, room: str, ticket: str) -> Caller:
        """Return whose ticket this is. It is used up.

        Raises:
            Unauthenticated: It is none for this room, or not any more.
        """
        value = await self._tickets.redeem(self._scope(room), ticket) if _TICKET.fullmatch(ticket) else None
        if value is None:
            raise Unauthenticated("The ticket is not known. Each is good for one request, for half a minute.")
        caller = msgspec.json.decode(value, type=Caller)
        if caller.expires is not None and caller.expires <= time.time():
            raise Unauthenticated("What the ticket was made with has expired.")
        if not self._vouches(caller):
            raise Unauthenticated("What the ticket was made with has been revoked, or allows something else by now.")
        return caller

    async def open(self, request: _Request, room: str) -> EventStream:
        """Begin to tell a room's events."""
        caller = RequestContext.of(request.scope).sender
        check_room(caller.policy, Scope.READ, room)
        timeout = asked_seconds(request)
        # A browser that reconnects by itself says it in the header, and repeats the query it began with.
        last = request.headers.get(LAST_EVENT_HEADER) or request.query_params.get("lastEventId", "")
        after = last if _EVENT_ID.fullmatch(last) else ""
        reader = await self._room_feeds.open(room, after, account=caller.account)
        return EventStream(
            reader,
            partial(covers, caller.policy),
            expires_in=None if caller.expires is None else caller.expires - time.time(),
            timeout=timeout,
            vouched=partial(self._vouches, caller),
            line=request.scope["state"].get(LINE),
        )

    def _scope(self, room: str) -> tuple[str, ...]:
        return (self._project, "events", room)


def event_routes(authenticator: Authenticator, event_streams: EventStreams) -> list[HTTPRouteHandler]:
    """Build the routes.

    Args:
        authenticator: Identifies the caller.
        event_streams: Knows tickets, and shows the events.
    """
    by_header = authenticate(authenticator)

    @get(
        "/v1/rooms/{roomId:str}/events",
        operation_id="streamRoomEvents",
        summary="Follow a room's recordings",
        description=openapi_texts.EVENTS,
        tags=["events"],
        security=[*BEARER, {"eventsTicket": []}],
        opt={"scope": Scope.READ},
        before_request=_by_ticket_or(by_header, event_streams),
        media_type=EVENT_STREAM,
        responses={
            200: ResponseSpec(
                str,
                generate_examples=False,
                description="Events, for as long as both sides like.",
                media_type=EVENT_STREAM,
                examples=[Example(id="events", summary="Began, and ended", value=openapi_texts.STREAM)],
            ),
            **problems(*_SHARED, "coordination-unavailable", "newer-record", "too-many-waiting", "internal"),
        },
    )
    async def stream_room_events(
        request: _Request,
        roomId: FromPath[str],  # noqa: N803 - the contract's name, as in a body
    ) -> ASGIResponse:
        return await event_streams.open(request, read_room(roomId))

    @post(
        "/v1/rooms/{roomId:str}/events/tickets",
        operation_id="createRoomEventsTicket",
        summary="Make a ticket for a room's events",
        description=openapi_texts.TICKET,
        tags=["events"],
        security=BEARER,
        opt={"scope": Scope.READ},
        before_request=by_header,
        status_code=201,
        responses={
            201: ResponseSpec(
                EventsTicket,
                generate_examples=False,
                description="A ticket.",
                examples=[Example(id="ticket", value=openapi_texts.A_TICKET)],
            ),
            **problems(*_SHARED, "too-many-requests", "coordination-unavailable", "internal"),
        },
    )
    async def create_room_events_ticket(
        request: _Request,
        roomId: FromPath[str],  # noqa: N803
    ) -> Response[EventsTicket]:
        ticket = await event_streams.issue(request, read_room(roomId))
        return Response(ticket, status_code=201, headers={"cache-control": "no-store"})

    return [stream_room_events, create_room_events_ticket]


def _by_ticket_or(by_header: Guard, event_streams: EventStreams) -> Guard:
    """Make the guard that takes a ticket where one is shown, and otherwise asks for the header."""

    async def guard(request: _Request) -> None:
        ticket = request.query_params.get("ticket")
        if ticket is None:
            await by_header(request)
            return
        caller = await event_streams.admit(str(request.path_params["roomId"]), ticket)
        RequestContext.of(request.scope).let_in(caller, request.scope)

    return guard
