"""A VideoSDK for one machine: the recording endpoints, webhooks and faults, on a real socket.

Run alone: `python -m gateway.sandbox.simulator --api-key K --secret S`; `@FILE` stands for what a file holds. In tests:
`async with Simulator(api_key=…, secret=…) as upstream: …`.

The parts: `wire` is the HTTP server, `account` the state and its rules, `faults` what goes wrong on purpose, `webhooks`
the deliveries, `calls` the routes and the history, `control` the routes beside the vendor's, `invented` what had to be
guessed. This module joins them: what happens to one call, from its arrival to its end.
"""

import argparse
import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, Literal, Self, cast

import jwt
import msgspec

from gateway.sandbox import control, invented
from gateway.sandbox.account import Account, Behaviour
from gateway.sandbox.calls import Call, Journal, Route, log_line, route
from gateway.sandbox.faults import Fault, Faults, Plan, Subject, error_reply
from gateway.sandbox.shapes import FAMILIES, Event, Json, Recording, RefusedError, Target, page, target_of
from gateway.sandbox.webhooks import Courier, Delivery, Signer
from gateway.sandbox.wire import Exchange, Reply, Request, Server

IdempotencyRecords = Literal["json", "text", "empty"]

# A token from a clock that is fast is accepted: the usual library of Node, the vendor's language, looks at `exp` alone.
_TOKEN_CHECKS: Final[Any] = {"require": ["exp", "apikey"], "verify_iat": False}
_GARBAGE: Final = b"\x16\x03\x01 this is not HTTP\r\n\r\n"
_BLANK: Final = Reply(200)
_SILENT: Final = frozenset({"reset", "garbage", "hang"})
_WRITES: Final = frozenset({"start", "stop", "delete", "create-room"})


class Simulator:
    """Plays VideoSDK's REST API for one account, whose API key and secret it is given.

    Args:
        api_key: The API key that tokens must name.
        secret: The secret that tokens must be signed with.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        duplicates: A start of a track that already records is refused (409), or accepted as one more open row.
        strict_live: Whether only a participant who joined can be recorded, instead of everyone who is named.
        joining_seconds: For how long after a participant joined a start is refused, with strict_live.
        stops: Whether a stop ends all recordings of a track, or the latest alone.
        processing_seconds: For how long after a recording ended a new start of the same track is refused.
        list_lag_seconds: By how much lists are behind the truth.
        most_per_page: The most entries of a list of recordings on one page, however many were asked for.
        bare_room_rows: Whether rows of rooms lack what only the vendor's Node package types: start, end and webhook.
        answers: Whether start, stop and delete answer a JSON string, plain text or an empty body.
        webhook_timeout_seconds: How long a listener may take to answer a webhook.
        seed: Makes the draws of faults with a probability repeatable.
        faults: Rules in force from the beginning.
        on_call: Called with the record of every call once it has ended.
        signer: A key for webhooks made before; otherwise `start` makes one.
    """

    def __init__(
        self,
        *,
        api_key: str,
        secret: str,
        host: str = "127.0.0.1",
        port: int = 0,
        duplicates: Literal["refuse", "accept"] = "refuse",
        strict_live: bool = False,
        joining_seconds: float = 0.0,
        stops: Literal["all", "one"] = "all",
        processing_seconds: float = 0.0,
        list_lag_seconds: float = 0.0,
        most_per_page: int = invented.MAX_PER_PAGE,
        bare_room_rows: bool = False,
        answers: IdempotencyRecords = "json",
        webhook_timeout_seconds: float = invented.WEBHOOK_TIMEOUT_SECONDS,
        seed: int | None = None,
        faults: Iterable[Fault] = (),
        on_call: Callable[[Call], None] | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._api_key = api_key
        self._secret = secret
        self._answers: IdempotencyRecords = answers
        self._webhook_timeout = webhook_timeout_seconds
        self._on_call = on_call
        self._faults = Faults(seed)
        self._faults.add(faults)
        self._journal = Journal()
        self._deliveries: list[Delivery] = []
        self._late: set[asyncio.Task[None]] = set()
        self._server = Server(self._handle, host=host, port=port)
        self._signer = signer
        self._courier: Courier | None = None
        behaviour = Behaviour(
            duplicates=duplicates,
            strict_live=strict_live,
            joining_seconds=joining_seconds,
            stops=stops,
            processing_seconds=processing_seconds,
            list_lag_seconds=list_lag_seconds,
            most_per_page=most_per_page,
            bare_room_rows=bare_room_rows,
        )
        self.account = Account(behaviour, self._send)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Make a webhook key, where there is none yet, and listen."""
        # Making the key takes a good tenth of a second of computing, which the loop should not stand still for.
        self._signer = self._signer or await asyncio.to_thread(Signer)
        self._courier = Courier(
            self._signer, self._faults, timeout_seconds=self._webhook_timeout, count=self._count_delivery
        )
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening and give up everything under way; the history stays readable."""
        await self._server.stop()
        await self._drop_late()
        if self._courier is not None:
            await self._courier.close()
            self._courier = None

    @property
    def url(self) -> str:
        """The base address, in place of https://api.videosdk.live."""
        return self._server.url

    @property
    def calls(self) -> list[Call]:
        """Every call to the vendor's endpoints so far, those under way too, in order of arrival."""
        return self._journal.calls

    @property
    def rows(self) -> list[Recording]:
        """Every recording so far, oldest first, deleted ones too."""
        return self.account.recordings

    @property
    def deliveries(self) -> list[Delivery]:
        """Every webhook delivery attempted so far, in order of their ends."""
        return list(self._deliveries)

    @property
    def faults(self) -> list[Fault]:
        """The rules in force, with the number of times each has left."""
        return self._faults.rules

    @property
    def public_key(self) -> str:
        """The PEM text that `GET /v2/public/rsa-public-key` answers."""
        if self._signer is None:
            raise RuntimeError("the simulator has not been started")
        return self._signer.public_key

    def inject(self, *rules: Fault) -> None:
        """Put fault rules into force, behind those already there."""
        self._faults.add(rules)

    def clear_faults(self) -> None:
        """Lift all fault rules; what they have begun goes on."""
        self._faults.clear()

    async def rotate_key(self) -> None:
        """Sign with a new key from now on, and publish that one alone."""
        self._signer = await asyncio.to_thread(Signer)
        self._running_courier.signer = self._signer

    def sign(self, body: bytes) -> str:
        """Return what `videosdk-signature` says of a body."""
        if self._signer is None:
            raise RuntimeError("the simulator has not been started")
        return self._signer.sign(body)

    def join(self, room_id: str, participant_id: str) -> str:
        """Let a participant join a room; return the id of the session."""
        return self.account.join(room_id, participant_id)

    def leave(self, room_id: str, participant_id: str, *, rows_stay_open: bool = False) -> int:
        """Let a participant leave, which ends its recordings; return how many there were.

        With `rows_stay_open` the list goes on showing them as open, for ever; here and in what follows.
        """
        return self.account.leave(room_id, participant_id, rows_stay_open=rows_stay_open)

    def end_session(self, room_id: str, *, rows_stay_open: bool = False) -> int:
        """End a room's session, which ends its recordings; return how many there were."""
        return self.account.end_session(room_id, rows_stay_open=rows_stay_open)

    def end_recording(
        self, room_id: str, participant_id: str, kind: str, *, webhook: bool = True, rows_stay_open: bool = False
    ) -> int:
        """End a track's recordings by themselves, with or without a webhook; return how many there were."""
        target = Target("track", room_id, participant_id, kind)
        return self.account.end(target, reason="ended-by-itself", webhook=webhook, rows_stay_open=rows_stay_open)

    def fail_recording(self, room_id: str, participant_id: str, kind: str, *, webhook: bool = True) -> int:
        """Let a track's recordings fail, which ends them; return how many there were."""
        return self.account.end(Target("track", room_id, participant_id, kind), reason="failed", webhook=webhook)

    async def settle(self) -> None:
        """Wait until every webhook has been delivered or given up, late ones included."""
        await self._running_courier.settle()

    async def reset(self) -> None:
        """Forget rooms, recordings, calls, deliveries and faults; drop what is still to happen. The key stays."""
        await self._drop_late()
        await self._running_courier.drop()
        self.account.clear()
        self._journal.clear()
        self._deliveries.clear()
        self._faults.clear()

    @property
    def _running_courier(self) -> Courier:
        if self._courier is None:
            raise RuntimeError("the simulator is not running")
        return self._courier

    def _send(self, event: Event) -> None:
        self._running_courier.send(event)

    def _count_delivery(self, delivery: Delivery) -> None:
        self._deliveries.append(delivery)
        if delivery.recording_id is not None:
            self.account.count_delivery(delivery.recording_id, delivery.webhook_type, success=delivery.success)

    # One call, from its arrival to its end.

    async def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path.startswith(control.PREFIX):
            exchange.reply(await control.answer(self, request))
            return
        asked = route(request.method, request.path)
        call = self._journal.open(request, asked.endpoint, exchange.received)
        try:
            self._admit(asked, request.headers.get("authorization", ""))
        except RefusedError as refusal:
            self._close(call, exchange, exchange.reply(error_reply(refusal.status, refusal.text)), refusal.status)
            return
        plan = self._faults.plan(Subject(asked.endpoint, call.room_id, call.participant_id, call.kind))
        if plan.names:
            self._journal.note(call.seq, fault=plan.fault.action if plan.fault else "delay")
        await self._carry_out(exchange, asked, call, plan)

    async def _carry_out(self, exchange: Exchange, asked: Route, call: Call, plan: Plan) -> None:
        if plan.before:
            await asyncio.sleep(plan.before)
        reply: Reply | None = None
        if plan.applies == "now":
            reply = self._apply(asked, call, exchange.request, filtered=not plan.unfiltered)
        elif plan.applies == "late" and plan.fault is not None:
            left = max(plan.fault.seconds - plan.before, 0)
            self._spawn(self._apply_late(asked, call, exchange.request, left))
        if plan.after:
            await asyncio.sleep(plan.after)
        if plan.fault is not None:
            reply = self._instead(plan.fault, reply, asked)
        await self._end(exchange, call, plan, reply)

    async def _end(self, exchange: Exchange, call: Call, plan: Plan, reply: Reply | None) -> None:
        reached = not exchange.gone
        match plan.ending:
            case "reset":
                exchange.reset()
            case "garbage":
                exchange.raw(_GARBAGE)
            case "hang":
                await exchange.until_gone()
                reached = False
            case "half":
                exchange.half_reply(reply or _BLANK)
            case "reply" | "error" | "empty":
                reached = exchange.reply(reply or _BLANK)
        self._close(call, exchange, reached, reply.status if reply and plan.ending not in _SILENT else None)

    def _close(self, call: Call, exchange: Exchange, reached: bool, status: int | None) -> None:
        now = time.monotonic()
        ended = {"answered": now, "status": status} if reached else {"gone": now if exchange.gone else None}
        noted = self._journal.note(call.seq, **ended)
        if noted is not None and self._on_call is not None:
            self._on_call(noted)

    def _instead(self, fault: Fault, reply: Reply | None, asked: Route) -> Reply | None:
        """Return what a fault puts in the place of the proper answer."""
        if fault.ending == "error":
            return fault.reply()
        if fault.ending == "empty" or (fault.ending == "half" and asked.verb == "list" and reply is None):
            return _json(page([], {}))
        if fault.ending == "half" and reply is None:
            family = FAMILIES[asked.mode]
            return self._done(family.stopped if asked.verb == "stop" else family.started)
        return reply

    def _admit(self, asked: Route, token: str) -> None:
        """Check a token as docs.videosdk.live describes it: the JWT itself, without a scheme before it."""
        if asked.verb == "key":
            return
        try:
            claims = jwt.decode(token, self._secret, algorithms=["HS256"], options=_TOKEN_CHECKS)
        except jwt.InvalidTokenError:
            raise RefusedError(invented.TOKEN_REFUSED) from None
        if claims["apikey"] != self._api_key or claims.get("version") != 2:
            raise RefusedError(invented.TOKEN_REFUSED)
        roles = claims.get("roles")
        if (roles and "crawler" not in roles) or not claims.get("permissions"):
            raise RefusedError(invented.ROLE_REFUSED)

    def _apply(self, asked: Route, call: Call, request: Request, *, filtered: bool = True) -> Reply:
        """Carry a call out, in one step, and return the proper answer."""
        query = request.query
        if not filtered:
            query = {name: value for name, value in query.items() if name in {"page", "perPage"}}
        try:
            reply = self._perform(asked, call, query)
        except RefusedError as refusal:
            return error_reply(refusal.status, refusal.text)
        self._journal.note(call.seq, applied=time.monotonic(), took_effect=True)
        return reply

    def _perform(self, asked: Route, call: Call, query: Mapping[str, str]) -> Reply:
        if asked.verb not in _WRITES:
            return _json(self._read(asked, query))
        family, account = FAMILIES[asked.mode], self.account
        if asked.verb == "delete":
            account.delete_recording(asked.mode, asked.subject)
            return self._done(family.deleted)
        if not isinstance(call.body, dict):
            raise RefusedError(invented.INVALID, "body")
        body = cast("Json", call.body)
        if asked.verb == "create-room":
            return _json(account.create_room(body))
        target = target_of(asked.mode, body)
        if asked.verb == "start":
            account.start(target, body, call.seq)
            return self._done(family.started)
        account.stop(target, call.seq)
        return self._done(family.stopped)

    def _read(self, asked: Route, query: Mapping[str, str]) -> Json:
        account = self.account
        content: Json
        match asked.verb:
            case "list":
                content = account.list_recordings(asked.mode, query)
            case "get":
                content = account.get_recording(asked.mode, asked.subject)
            case "key":
                content = {"publicKey": self.public_key}
            case "fetch-room":
                content = account.get_room(asked.subject)
            case "sessions":
                content = account.sessions(query)
            case "active-participants":
                content = account.active_participants(asked.subject, query)
            case _:
                raise RefusedError(invented.NO_SUCH_PATH)
        return content

    def _done(self, text: str) -> Reply:
        """Return the answer to a start, stop or delete."""
        match self._answers:
            case "json":
                return Reply(200, msgspec.json.encode(text))
            case "text":
                return Reply(200, text.encode(), "text/plain; charset=utf-8")
            case "empty":
                return Reply(200)

    async def _apply_late(self, asked: Route, call: Call, request: Request, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._apply(asked, call, request)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _drop_late(self) -> None:
        for task in tuple(self._late):
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)


def _json(content: Any) -> Reply:
    return Reply(200, msgspec.json.encode(content))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.sandbox.simulator", description=__doc__, fromfile_prefix_chars="@"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--duplicates", choices=("refuse", "accept"), default="refuse")
    parser.add_argument("--strict-live", action="store_true")
    parser.add_argument("--joining-seconds", type=float, default=0.0)
    parser.add_argument("--stops", choices=("all", "one"), default="all")
    parser.add_argument("--processing-seconds", type=float, default=0.0)
    parser.add_argument("--list-lag-seconds", type=float, default=0.0)
    parser.add_argument("--answers", choices=("json", "text", "empty"), default="json")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--faults", default="[]", help="JSON list of fault rules in force from the beginning")
    return parser.parse_args()


async def _main(arguments: argparse.Namespace) -> None:
    options = dict(vars(arguments))
    options["faults"] = msgspec.json.decode(cast("str", options["faults"]), type=list[Fault])
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    async with Simulator(**options, on_call=lambda call: print(log_line(call), flush=True)) as simulator:
        print(msgspec.json.encode({"url": simulator.url}).decode(), flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_main(_arguments()))
