"""What each failure of a call proves: sent or not, refused or unknown."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from math import inf

import pytest

from gateway.errors import (
    CredentialsRefused,
    Limited,
    ListIncomplete,
    MayHaveHappened,
    NeverSent,
    Refused,
    SendWindowClosed,
    UpstreamError,
)
from gateway.recordings import MODES, Kind, Mode, Target
from gateway.sandbox.faults import Fault
from gateway.sandbox.shapes import Target as SimulatedTarget
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.webhooks import Signer
from gateway.sandbox.wire import Exchange, Reply, Server
from gateway.secrets import Secret
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.rows import Deliveries, ListedFile
from gateway.videosdk.tokens import FixedToken, MintedTokens
from tests import harness

pytestmark = pytest.mark.anyio

TRACK = Target(Mode.TRACK, "room-1", "ada", Kind.VIDEO)


@pytest.fixture
async def videosdk(simulator: Simulator) -> AsyncGenerator[VideoSDK]:
    """A client of the simulator."""
    client = VideoSDK(simulator.url, MintedTokens(harness.API_KEY, Secret(harness.SECRET)), timeout=harness.BOUND)
    yield client
    await client.aclose()


async def failure(videosdk: VideoSDK, **options: object) -> UpstreamError:
    """Start a track and return what went wrong."""
    with pytest.raises(UpstreamError) as caught:
        await videosdk.start(TRACK, **options)  # pyright: ignore[reportArgumentType]
    return caught.value


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (400, {}, Refused),
        (401, {}, Refused),
        (402, {}, Refused),
        (403, {}, Refused),
        (404, {}, Refused),
        (408, {}, MayHaveHappened),
        (409, {}, Refused),
        (422, {}, Refused),
        (429, {"Retry-After": "7"}, Limited),
        (429, {}, Limited),
        (500, {}, MayHaveHappened),
        (502, {}, MayHaveHappened),
        (503, {}, MayHaveHappened),
        (503, {"Retry-After": "7"}, Limited),
        (504, {}, MayHaveHappened),
    ],
)
async def test_response_status_is_classified_by_its_family(
    videosdk: VideoSDK, simulator: Simulator, status: int, headers: dict[str, str], kind: type[UpstreamError]
) -> None:
    """Never by its words; the token is good."""
    simulator.inject(Fault(action="refuse", endpoint="start", status=status, headers=headers, times=None))
    error = await failure(videosdk)
    assert sum(call.endpoint == "start" for call in simulator.calls) == 1
    assert type(error) is kind
    assert error.status == status
    assert error.retry_after == (7 if headers else None)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_status_of_a_bad_token_renews_it(videosdk: VideoSDK, simulator: Simulator, status: int) -> None:
    """The same status to a harmless call speaks against the token: it is renewed once, and the start sent once more."""
    simulator.inject(Fault(action="refuse", status=status, body="code", times=2))
    await videosdk.start(TRACK)
    assert [call.endpoint for call in simulator.calls] == ["start", "list", "start"]
    simulator.inject(Fault(action="refuse", status=status, body="code", times=None))
    assert type(await failure(videosdk)) is CredentialsRefused
    assert [call.endpoint for call in simulator.calls][3:] == ["start", "list"] * 2


async def test_status_of_a_bad_token_that_cannot_be_renewed_is_final(simulator: Simulator) -> None:
    """The operator gave one token: it is not sent a second time."""
    videosdk = VideoSDK(simulator.url, FixedToken(Secret("t")), timeout=harness.BOUND)
    assert type(await failure(videosdk)) is CredentialsRefused
    assert [call.endpoint for call in simulator.calls] == ["start", "list"]
    await videosdk.aclose()


async def test_refusal_with_a_renewed_token_may_be_about_the_room(videosdk: VideoSDK, simulator: Simulator) -> None:
    """The first token had expired, and with the next VideoSDK refuses the room: that is not sent a third time."""
    simulator.inject(Fault(action="refuse", status=401, times=2), Fault(action="refuse", endpoint="start", status=403))
    assert type(await failure(videosdk)) is Refused
    assert [call.endpoint for call in simulator.calls] == ["start", "list", "start", "list"]


@pytest.mark.parametrize(("status", "kind"), [(400, Refused), (401, CredentialsRefused), (403, Refused)])
async def test_refusal_while_the_token_cannot_be_checked_is_sent_once(
    videosdk: VideoSDK, simulator: Simulator, status: int, kind: type[UpstreamError]
) -> None:
    """Whose fault it was is not known: what is certain is that the start did nothing."""
    simulator.inject(
        Fault(action="refuse", endpoint="start", status=status), Fault(action="error", endpoint="list", status=500)
    )
    assert type(await failure(videosdk)) is kind
    assert [call.endpoint for call in simulator.calls] == ["start", "list"]


@pytest.mark.parametrize(
    ("status", "content_type", "body", "own"),
    [
        (200, "application/json", b'"track recording started successfully."', True),
        (200, "text/html", b'"track recording started successfully."', True),
        (200, "text/plain", b"track recording started successfully.", True),
        (200, "application/json", b"track recording started successfully.", True),
        (200, "", b"", True),
        (200, "text/html; charset=utf-8", b"<!DOCTYPE html><p>Blocked", False),
        (200, "text/plain", b"\xef\xbb\xbf\n<html>", False),
        (200, "text/html", b"Blocked", False),
        (200, "text/html", b"", False),
        (200, "application/octet-stream", b"ok", False),
        (200, "application/json", b'{"error": "blocked"}', False),
        (200, "application/json", b'{"error": ', False),
        (200, "application/json", b"null", False),
        (201, "application/json", b'"track recording started successfully."', False),
        (202, "text/plain", b"", False),
        (204, "", b"", False),
    ],
)
async def test_success_that_videosdk_did_not_write_may_have_happened(
    status: int, content_type: str, body: bytes, own: bool
) -> None:
    """A firewall's page, an object and an answer that something in between gave prove nothing."""

    async def answer(exchange: Exchange) -> None:
        exchange.reply(Reply(status, body, content_type))

    server = Server(answer, host="127.0.0.1", port=0)
    await server.start()
    videosdk = VideoSDK(server.url, FixedToken(Secret("t")), timeout=20)
    if own:
        await videosdk.start(TRACK)
        await videosdk.stop(TRACK)
    else:
        assert type(await failure(videosdk)) is MayHaveHappened
    await videosdk.aclose()
    await server.stop()


@pytest.mark.parametrize("shape", ["text", "string", "message", "error", "msg", "statusMessage"])
async def test_error_message_is_found_in_every_shape(videosdk: VideoSDK, simulator: Simulator, shape: str) -> None:
    """The vendor documents no error body; its own package looks in all of these."""
    rule = Fault(action="refuse", endpoint="start", status=404, body=shape, text="no such room")  # pyright: ignore[reportArgumentType]
    simulator.inject(rule)
    assert (await failure(videosdk)).message == "no such room"


async def test_error_message_is_bounded_and_scrubbed(videosdk: VideoSDK, simulator: Simulator) -> None:
    """A token or a query that VideoSDK repeats goes no further."""
    text = f"bad eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2ln at https://h.example/x?secret=1 {'x' * 999}"
    simulator.inject(Fault(action="refuse", endpoint="start", status=400, body="text", text=text))
    words = (await failure(videosdk)).message
    assert len(words) <= 300
    assert "eyJ" not in words
    assert "secret=1" not in words


@pytest.mark.parametrize(
    "action", ["reset_before", "reset_after", "hang_before", "hang_after", "garbage", "half_response", "error"]
)
async def test_call_that_was_sent_may_have_happened(simulator: Simulator, action: str) -> None:
    """Whatever the other side did with it: we do not know."""
    tokens = MintedTokens(harness.API_KEY, Secret(harness.SECRET))
    videosdk = VideoSDK(simulator.url, tokens, timeout=1.5 if "hang" in action else harness.BOUND)
    simulator.inject(Fault(action=action, endpoint="start"))  # pyright: ignore[reportArgumentType]
    assert type(await failure(videosdk)) is MayHaveHappened
    await videosdk.aclose()


async def test_call_to_a_closed_port_was_never_sent() -> None:
    """A connection that was never made."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        videosdk = VideoSDK(f"http://127.0.0.1:{unused.getsockname()[1]}", FixedToken(Secret("t")), timeout=20)
        assert type(await failure(videosdk)) is NeverSent
        await videosdk.aclose()


async def test_call_to_an_unresolvable_name_was_never_sent() -> None:
    """Neither does one that is no name at all."""
    for host in ("http://nowhere.invalid", "http://a..b"):
        videosdk = VideoSDK(host, FixedToken(Secret("t")), timeout=20)
        assert type(await failure(videosdk)) is NeverSent
        await videosdk.aclose()


async def test_call_behind_a_closed_gate_sends_no_byte(videosdk: VideoSDK, simulator: Simulator) -> None:
    """The last check is made with the connection open, right before the first byte; the client stays usable."""
    error = await failure(videosdk, may_send=lambda: False)
    assert type(error) is SendWindowClosed
    assert not error.may_have_happened
    assert not simulator.calls
    await videosdk.start(TRACK)
    assert [call.endpoint for call in simulator.calls] == ["start"]


async def test_call_without_a_free_connection_was_never_sent(simulator: Simulator) -> None:
    """The only connection is taken: who waits for it in vain has sent nothing."""
    tokens = MintedTokens(harness.API_KEY, Secret(harness.SECRET))
    videosdk = VideoSDK(simulator.url, tokens, timeout=30, max_connections=1)
    simulator.inject(Fault(action="hang_before", endpoint="start"))
    first = asyncio.ensure_future(videosdk.start(TRACK))
    await harness.eventually(lambda: simulator.calls)
    assert type(await failure(videosdk)) is NeverSent
    assert not first.done()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await videosdk.aclose()


async def test_start_without_optional_parameters_sends_none(videosdk: VideoSDK, simulator: Simulator) -> None:
    """`null` may be refused, so nothing is sent that was not given."""
    await videosdk.start(TRACK)
    assert simulator.calls[0].body == {"roomId": "room-1", "participantId": "ada", "kind": "video"}


@pytest.mark.parametrize("answers", ["json", "text", "empty"])
async def test_response_in_every_shape_of_success_is_success(answers: str, signer: object) -> None:
    """A bare JSON string is documented; plain text and nothing are what the vendor's package also takes."""
    async with harness.simulator(signer=signer, answers=answers) as simulator:
        videosdk = VideoSDK(simulator.url, MintedTokens(harness.API_KEY, Secret(harness.SECRET)), timeout=20)
        await videosdk.start(TRACK)
        await videosdk.stop(TRACK)
        await videosdk.aclose()


async def test_list_of_many_pages_is_read_to_its_end_and_filtered(simulator: Simulator) -> None:
    """More than a page of rows, and rows of others."""
    videosdk = VideoSDK(simulator.url, MintedTokens(harness.API_KEY, Secret(harness.SECRET)), timeout=20)
    for _ in range(105):
        await videosdk.start(TRACK)
        await videosdk.stop(TRACK)
    await videosdk.start(Target(Mode.TRACK, "room-1", "bob", Kind.AUDIO))
    rows = await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada")
    await videosdk.aclose()
    assert len(rows) == 105
    assert {row.participant_id for row in rows} == {"ada"}


async def test_list_rows_are_read_under_videosdks_names() -> None:
    """A row's files and its count of webhooks; a part of another shape is left out, and the row is there."""
    common = {"roomId": "room-1", "participantId": "ada", "kind": "video", "start": "2026-01-01T10:00:00.000Z"}
    file = {"filePath": "a/b.webm", "fileUrl": None, "type": "webm", "size": 17}
    whole = {"id": "1", "files": [file], "webhook": {"totalCount": 3, "successCount": 2}, **common}
    odd = {"id": "2", "files": "none", "webhook": 7, **common}

    async def answer(exchange: Exchange) -> None:
        exchange.reply(Reply(200, json.dumps({"pageInfo": {"lastPage": 1, "total": 2}, "data": [whole, odd]}).encode()))

    server = Server(answer, host="127.0.0.1", port=0)
    await server.start()
    videosdk = VideoSDK(server.url, FixedToken(Secret("t")), timeout=20)
    rows = await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada")
    await videosdk.aclose()
    await server.stop()
    assert [row.files for row in rows] == [
        (ListedFile(file_path="a/b.webm", file_url=None, type="webm", size=17),), (),
    ]  # fmt: skip
    assert [row.deliveries for row in rows] == [Deliveries(total=3, succeeded=2), None]


async def test_list_that_ignores_its_filters_is_filtered_here() -> None:
    """VideoSDK answers a query it does not understand with the whole account; how many there are is not needed."""
    row = b'{"id":"1","roomId":"other","participantId":"ada","kind":"video","start":null,"end":null}'
    rows = b'{"pageInfo":{"lastPage":1,"total":null},"data":[%s]}' % row

    async def answer(exchange: Exchange) -> None:
        exchange.reply(Reply(200, rows))

    server = Server(answer, host="127.0.0.1", port=0)
    await server.start()
    videosdk = VideoSDK(server.url, FixedToken(Secret("t")), timeout=20)
    assert await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada") == []
    await videosdk.aclose()
    await server.stop()


@pytest.mark.parametrize(("wrong", "found"), [(1, ["b"]), (9, None)], ids=["once", "every time"])
async def test_pages_of_different_lists_make_no_list(wrong: int, found: list[str] | None) -> None:
    """The first page is of the whole account, the second of the room: the room's own first page was never read."""
    pages = {
        ("whole", "1"): (2, 101, []),
        ("whole", "2"): (2, 101, []),
        ("room", "1"): (2, 2, ["b"]),
        ("room", "2"): (2, 2, []),
    }
    asked: list[str] = []

    async def answer(exchange: Exchange) -> None:
        page = exchange.request.query["page"]
        whole = page == "1" and asked.count("1") < wrong
        asked.append(page)
        last, total, rows = pages["whole" if whole else "room", page]
        row = '{"id":"%s","roomId":"room-1","participantId":"ada","kind":"video"}'
        data = ",".join(row % name for name in rows)
        text = f'{{"pageInfo":{{"lastPage":{last},"total":{total}}},"data":[{data}]}}'
        exchange.reply(Reply(200, text.encode()))

    server = Server(answer, host="127.0.0.1", port=0)
    await server.start()
    videosdk = VideoSDK(server.url, FixedToken(Secret("t")), timeout=20)
    if found is None:
        with pytest.raises(ListIncomplete, match="changes") as caught:
            await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada")
        assert caught.value.pages == 3 * 2
    else:
        assert [row.id for row in await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada")] == found
    await videosdk.aclose()
    await server.stop()


async def test_list_of_more_pages_than_are_read_is_no_list() -> None:
    """Fifty pages are read, fewer if it is worth no more; beyond them, as the first page shows, none is."""
    last, pages = 50, list[int]()

    async def answer(exchange: Exchange) -> None:
        page = int(exchange.request.query["page"])
        pages.append(page)
        row = f'{{"id":"{page}","roomId":"room-1","participantId":"ada","kind":"video"}}'
        exchange.reply(Reply(200, f'{{"pageInfo":{{"lastPage":{last}}},"data":[{row}]}}'.encode()))

    server = Server(answer, host="127.0.0.1", port=0)
    await server.start()
    videosdk = VideoSDK(server.url, FixedToken(Secret("t")), timeout=20)
    assert len(await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada")) == 50
    last = 51
    with pytest.raises(ListIncomplete, match="are read") as caught:
        await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada")
    assert caught.value.pages == inf
    last = 4
    with pytest.raises(ListIncomplete, match="worth") as caught:
        await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada", max_pages=3)
    assert caught.value.pages == 4
    assert pages == [*range(1, 51), 1, 1]
    await videosdk.aclose()
    await server.stop()


@pytest.mark.parametrize(("most", "read"), [(3, True), (2, False)])
async def test_list_of_smaller_pages_than_asked_for_is_read_by_videosdks_count_of_them(
    signer: Signer, most: int, read: bool
) -> None:
    """Where 20 rows are the most on a page, 45 rows are three pages: they count, not what was asked for."""
    async with harness.simulator(signer=signer, most_per_page=20) as simulator:
        for number in range(45):
            simulator.account.start(SimulatedTarget("track", "room-1", f"p{number}", "video"), {}, None)
        tokens = MintedTokens(harness.API_KEY, Secret(harness.SECRET))
        videosdk = VideoSDK(simulator.url, tokens, timeout=20, max_pages=most)
        if read:
            rows = await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1")
            assert {row.participant_id for row in rows} == {f"p{number}" for number in range(45)}
        else:
            with pytest.raises(ListIncomplete):
                await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1")
        await videosdk.aclose()
        assert len(simulator.calls) == (3 if read else 1)


async def test_list_keeps_all_rows_without_an_id() -> None:
    """None hides another: one of them may be what records."""
    row = '{"roomId":"room-1","participantId":"ada","kind":"video","start":"2027-01-15T08:00:0%d.000Z","end":null}'
    rows = f'{{"data":[{row % 1},{row % 2},{row % 3}]}}'.encode()

    async def answer(exchange: Exchange) -> None:
        exchange.reply(Reply(200, rows))

    server = Server(answer, host="127.0.0.1", port=0)
    await server.start()
    videosdk = VideoSDK(server.url, FixedToken(Secret("t")), timeout=20)
    assert len(await videosdk.list_rows(MODES[Mode.TRACK].path, "room-1", "ada")) == 3
    await videosdk.aclose()
    await server.stop()


async def test_call_follows_no_redirect(simulator: Simulator) -> None:
    """It is sent to the configured host alone; where that points elsewhere, the outcome of the call is unknown."""

    async def redirect(exchange: Exchange) -> None:
        exchange.reply(
            Reply(307, b"", headers=(("location", f"{simulator.url}/v2/recordings/participant/track/start"),))
        )

    server = Server(redirect, host="127.0.0.1", port=0)
    await server.start()
    videosdk = VideoSDK(server.url, MintedTokens(harness.API_KEY, Secret(harness.SECRET)), timeout=20)
    error = await failure(videosdk)
    assert type(error) is MayHaveHappened
    assert error.status == 307
    assert not simulator.calls
    await videosdk.aclose()
    await server.stop()
