"""Logs: one format for everybody's lines, and no secret in any of them."""

import ast
import io
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.observability.logs import _key, configure, redact
from gateway.secrets import Secret

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJhcGlrZXkiOiJodW50ZXIifQ.c2lnbmF0dXJl-_hunter"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Give logging back as it was: what is configured here is the whole process's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    before = {name: logging.getLogger(name).__dict__.copy() for name in ("uvicorn.access", "httpx", "httpcore")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, attributes in before.items():
        logger = logging.getLogger(name)
        logger.setLevel(attributes["level"])
        logger.disabled = attributes["disabled"]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def stream() -> io.StringIO:
    """Hold what is logged."""
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Read the lines as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def logged_fields() -> Iterator[tuple[str, str]]:
    """Yield the fields that the gateway's own log lines have, and the modules that write them."""
    for file in (Path(__file__).parents[2] / "gateway").glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_log."):
                yield from ((file.name, keyword.arg) for keyword in node.keywords if keyword.arg)


def test_log_line_is_one_json_object_with_context(stream: io.StringIO):
    """A line holds event, level, UTC time, its own values and what was bound to the context."""
    configure("info", "json", stream)
    structlog.contextvars.bind_contextvars(request_id="r-1")
    structlog.get_logger().info("recording.started", room_id="abcd", seconds=1.5, joined=3)
    (line,) = lines(stream)
    written = datetime.fromisoformat(line.pop("timestamp"))
    assert written.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)
    assert line == {
        "event": "recording.started",
        "level": "info",
        "request_id": "r-1",
        "room_id": "abcd",
        "seconds": 1.5,
        "joined": 3,
    }


def test_log_line_of_a_library_has_the_same_format(stream: io.StringIO):
    """A line of a library has the same keys as ours, with the context, and says which library it is."""
    configure("info", "json", stream)
    structlog.contextvars.bind_contextvars(request_id="r-1")
    logging.getLogger("uvicorn.error").info("Started %s", "process", extra={"color_message": "no"})
    (line,) = lines(stream)
    line.pop("timestamp")
    assert line == {"event": "Started process", "level": "info", "logger": "uvicorn.error", "request_id": "r-1"}


def test_log_lines_of_libraries_that_repeat_ours_are_left_out(stream: io.StringIO):
    """The server's access log and the HTTP client's line per request are off, even at debug; their warnings are not."""
    configure("debug", "json", stream)
    logging.getLogger("uvicorn.access").info("GET / 200")
    logging.getLogger("httpx").info("HTTP Request: POST https://api.videosdk.live")
    logging.getLogger("httpcore.http11").debug("send_request_headers.started")
    logging.getLogger("httpx").warning("odd")
    assert [line["event"] for line in lines(stream)] == ["odd"]


def test_handlers_of_libraries_are_replaced(stream: io.StringIO):
    """A handler that a server installed for itself no longer writes beside ours."""
    theirs = io.StringIO()
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(theirs))
    configure("info", "json", stream)
    logging.getLogger("uvicorn").warning("once")
    assert theirs.getvalue() == ""
    assert len(lines(stream)) == 1


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_holds_for_both_ways_of_logging(stream: io.StringIO, level: str, expected: int):
    """Less severe lines are left out, ours and those of libraries."""
    configure(level, "json", stream)
    for logger in (structlog.get_logger(), logging.getLogger("somebody")):
        for method in ("debug", "info", "warning", "error"):
            getattr(logger, method)("said")
    assert len(lines(stream)) == 2 * expected


def test_configure_again_replaces_the_configuration(stream: io.StringIO):
    """The last configuration wins and no line is written twice."""
    configure("info", "json", io.StringIO())
    configure("info", "json", stream)
    logging.getLogger("somebody").info("one")
    structlog.get_logger().info("two")
    assert [line["event"] for line in lines(stream)] == ["one", "two"]


@pytest.mark.parametrize("shape", ["json", "console"])
@pytest.mark.parametrize("ours", [True, False])
def test_exceptions_are_masked_and_hold_no_locals(stream: io.StringIO, shape: Any, ours: bool):
    """An exception is written with its frames, without local variables, and with secrets masked in its text."""
    configure("info", shape, stream)
    in_a_local_variable = f"local-{12345 * 3}"  # so that no source line holds it either
    try:
        try:
            raise ConnectionError(f"refused by redis://user:hunter/2@cache:6379/0 {len(in_a_local_variable)}")  # noqa: TRY301
        except ConnectionError as error:
            error.add_note(f"with {JWT}")
            raise RuntimeError("sent Bearer hunter-3 to https://h.example/x?key=hunter-4") from error
    except RuntimeError:
        (structlog.get_logger() if ours else logging.getLogger("somebody")).exception("request.failed")
    text = stream.getvalue()
    for hidden in (in_a_local_variable, "hunter/2", "hunter-3", "hunter-4", JWT):
        assert hidden not in text
    assert "RuntimeError" in text
    assert "test_exceptions_are_masked_and_hold_no_locals" in text
    assert "[redacted]" in text
    if shape == "json":
        (line,) = lines(stream)
        outer, inner = line["exception"]
        assert outer["exc_value"] == "sent Bearer [redacted] to https://h.example/x?[redacted]"
        assert inner["exc_value"] == "refused by redis://[redacted]@cache:6379/0 11"
        assert inner["exc_notes"] == ["with [redacted]"]
        assert "hunter" not in text


@pytest.mark.parametrize(
    "key",
    [
        "authorization",
        "Authorization",
        "proxy-authorization",
        "token",
        "access_token",
        "refreshToken",
        "secret",
        "client-secret",
        "api_key",
        "apiKey",
        "X-Api-Key",
        "password",
        "passwd",
        "cookie",
        "Set-Cookie",
        "webhook_url",
        "webhookUrl",
        "credentials",
    ],
)
def test_log_masks_values_under_secret_keys(key: str):
    """What a key calls secret is masked, however deep it lies; that there is none is shown."""
    assert masked({key: "hunter"}) == {key: "[redacted]"}
    assert masked({"body": [{key: {"deep": "hunter"}}]}) == {"body": [{key: "[redacted]"}]}
    assert masked({key: None}) == {key: None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"got {JWT}, sorry", "got [redacted], sorry"),
        (f'%22token%22:%22{JWT}"', '%22token%22:%22[redacted]"'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("'bearer\tabc'", "'bearer [redacted]'"),
        ("redis://user:pass@host:6379/0", "redis://[redacted]@host:6379/0"),
        ("rediss://:p@ss/word@host", "rediss://[redacted]@host"),
        ("redis+sentinel://:p@a:1,b:2/main", "redis+sentinel://[redacted]@a:1,b:2/main"),
        ("https://u:p@h.example/path", "https://[redacted]@h.example/path"),
        ("see https://h.example/a?sig=1&x=2 there", "see https://h.example/a?[redacted] there"),
        ("unix:///run/s.sock?password=p", "unix:///run/s.sock?[redacted]"),
        ("GET /events?token=abc&room=1", "GET /events?token=[redacted]&room=1"),
        ('{"apiKey": "abc", "kind": "audio"}', '{"apiKey": "[redacted]", "kind": "audio"}'),
        ("https://h.example/path is it?", "https://h.example/path is it?"),
        ("mail someone@h.example", "mail someone@h.example"),
        ("eyJ without more", "eyJ without more"),
        ("the token was refused", "the token was refused"),
        ("line one\nBearer abc\nline three", "line one\nBearer [redacted]\nline three"),
    ],
)
def test_log_masks_secrets_in_any_text(text: str, expected: str):
    """Tokens, credentials and queries are masked in any string, and honest text is left alone."""
    assert masked({"detail": text, "list": [text, (text,)]}) == {"detail": expected, "list": [expected, [expected]]}
    assert list(masked({text: None})) == [expected]


def test_log_masks_a_known_secret_in_any_text():
    """An opaque key in the middle of a message: nothing about it looks like a secret, but it is one."""
    opaque = "Zr4-opaque-9vQ"
    message = f"could not use {opaque} here"
    assert redact(None, "", {"event": message})["event"] == message
    Secret(opaque)
    long = "x" * 4090 + opaque
    masked = redact(None, "", {"event": message, "cut": long})
    assert masked["event"] == "could not use [redacted] here"
    assert "Zr4" not in str(masked["cut"])


def test_log_masks_objects_by_their_text():
    """Values that are not plain are turned into text before they are looked at; bytes too."""
    shown = masked({"error": ValueError("Bearer hunter"), "raw": b"Bearer hunter", "held": Secret("hunter")})
    assert shown == {"error": "ValueError('Bearer [redacted]')", "raw": "b'Bearer [redacted]'", "held": "[secret]"}


def test_log_cuts_recursive_values():
    """A value that contains itself is cut at a depth."""
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert "…" in json.dumps(masked({"value": endless}), ensure_ascii=False)


@pytest.mark.parametrize("piece", ["eyJ", "://", "redis://", "bearer ", "a", "eyJa.", "token", "?", "://a"])
def test_log_masks_long_hostile_text_at_once(piece: str):
    """Text that a caller made up to keep the patterns busy costs little: lines are cut before they are looked at."""
    started_op = time.process_time()
    text = masked({"detail": piece * 100_000})["detail"]
    assert time.process_time() - started_op < 10
    assert len(text) < 10_000


def test_log_writes_text_that_is_no_unicode(stream: io.StringIO):
    """Half a surrogate pair, as JSON can smuggle in, does not stop a line."""
    configure("info", "json", stream)
    structlog.get_logger().info("said", name="\ud800")
    assert lines(stream)[0]["name"] == "\ud800"


def test_log_line_is_written_in_ascii(stream: io.StringIO):
    """A stream that knows no letters but ASCII's can take every line, and its reader gets the text as it was."""
    configure("info", "json", stream)
    structlog.get_logger().info("said", name="zoë")
    assert stream.getvalue().isascii()
    assert lines(stream)[0]["name"] == "zoë"


def test_log_line_is_spaced_like_all_before_it(stream: io.StringIO):
    """A search of the text for `"event": "said"` finds every line, whatever letters stand in it."""
    configure("info", "json", stream)
    for name in ("zoe", "zoë"):
        structlog.get_logger().info("said", name=name, number=1)
    plain, other = stream.getvalue().splitlines()
    assert plain == json.dumps(json.loads(plain))
    assert other == json.dumps(json.loads(other))


def test_log_lines_about_a_target_name_it_in_one_field():
    """What is logged of a target has its key in `target`, in every module, so that one search finds all of it."""
    fields = list(logged_fields())
    assert "target" in {field for _, field in fields}
    assert [module for module, field in fields if field == "key"] == []


def test_log_remembers_masked_keys_up_to_a_bound():
    """Keys of log lines may come from what callers send: a thousand of them are not all kept."""
    masked({f"key-{number}": number for number in range(1_000)})
    assert _key.cache_info().currsize <= 512


def masked(event: dict[str, Any]) -> dict[str, Any]:
    """Run the redaction alone."""
    return dict(redact(None, "info", event))
