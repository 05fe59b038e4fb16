"""What a person sees, without a terminal: tables, text that cannot move the cursor, events as they arrive."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from gateway.secrets import Secret
from gateway.terminal.access import Access, UsageError, fields_of
from gateway.terminal.screen import printable, table
from gateway.terminal.watch import Event, events
from tests.papers import make_papers


def test_table_columns_are_aligned_and_wide_cells_break() -> None:
    """A column is as wide as its widest usual cell; what follows a wider one stands on a line of its own."""
    rows = [("WHAT", "STATE", "TO DO"), ("Redis", "answers", ""), ("File", "x" * 70, "mend it")]
    assert table(rows).splitlines() == [
        "WHAT   STATE    TO DO",
        "Redis  answers",
        f"File   {'x' * 70}",
        "                mend it",
    ]


def test_printable_text_cannot_move_the_cursor() -> None:
    """What VideoSDK or a caller wrote is shown with its control characters as text."""
    assert printable("zoë\x1b[2J\u202e\n") == "zoë\\x1b[2J\\u202e\\n"


@pytest.mark.anyio
async def test_events_cut_anywhere_are_read_whole() -> None:
    """However the bytes arrive, and whatever stands in the data, the same events come out."""
    stream = 'retry: 1500\r\n\r\nid: 1-1\nevent: snapshot\ndata: {"a":"\u2028ë"}\n\n:\n\n:\nid: 1-1\n\n: more\n'
    stream += "id: 1-2\ndata: x\ndata: y\n\n:\nid: 1-3\n\n"
    for size in (1, 2, 3, 7, 1000):

        async def body(size: int = size) -> AsyncGenerator[bytes]:
            data = stream.encode()
            for start in range(0, len(data), size):
                yield data[start : start + size]

        told = [event async for event in events(httpx.Response(200, content=body()))]
        assert told == [
            Event("retry", "", "1500"),
            Event("snapshot", "1-1", '{"a":"\u2028ë"}'),
            Event("message", "1-2", "x\ny"),
            Event("", "1-3", ""),
        ]


def test_fields_are_text_files_or_json() -> None:
    """The first equals sign ends the name; a colon before it says JSON."""
    assert fields_of(["a=b=c", 'd:={"e":[1]}', "f="]) == {"a": "b=c", "d": {"e": [1]}, "f": ""}


@pytest.mark.parametrize(
    "given", ["webhookUrl", "=x", ":=1", "config:={", "x:=NaN", "x:=1e999", 'x:="\\ud800"', "hook=@/hunter2"]
)
def test_field_of_no_form_is_refused(given: str) -> None:
    """No equals sign, no name, no JSON, no such file: refused, without the value."""
    with pytest.raises(UsageError) as refused:
        fields_of([given])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"GATEWAY_KEY": "hun ter2"},
        {"GATEWAY_KEY": "hunter2ë"},
        {"GATEWAY_KEY": "hunter2", "GATEWAY_KEY_FILE": "/hunter2"},
        {"GATEWAY_KEY_FILE": "/hunter2"},
        {"GATEWAY_ADDRESS": "http://ada:hunter2@gateway"},
        {"GATEWAY_ADDRESS": "gateway:8080"},
        {"GATEWAY_ADDRESS": "http://gateway?key=hunter2"},
    ],
    ids=" and ".join,
)
def test_unusable_environment_is_refused_without_its_values(environ: dict[str, str]) -> None:
    """A key that is none, or in two places, and an address that is none: named, and not repeated."""
    with pytest.raises(UsageError) as refused:
        Access.read(None, None, environ)
    assert any(name in str(refused.value) for name in environ)
    assert "ter2" not in str(refused.value)


def test_address_may_have_a_path() -> None:
    """Behind an ingress the gateway has a prefix; a slash at the end makes no difference."""
    assert Access.read("https://example.test/recorder/", None, {}).address == "https://example.test/recorder"
    assert Access.read(None, None, {"GATEWAY_ADDRESS": " http://one:1 "}).address == "http://one:1"
    assert Access.read(None, None, {}).address == "http://127.0.0.1:8080"


@pytest.mark.anyio
async def test_gateway_whose_authority_is_not_known_is_sent_no_key(tmp_path: Path) -> None:
    """Over TLS it has to prove who it is before it learns anything."""
    papers, received = make_papers(tmp_path), list[bytes]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers.certificate, papers.key)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0, ssl=context) as server:
        access = Access(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", Secret("key"))
        async with access.client() as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
                await client.get("/livez")
    assert received == []
