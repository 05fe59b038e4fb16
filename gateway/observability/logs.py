"""Log lines: one format for our own and for every library's, and no secret in any of them.

Our code logs through structlog, libraries through the standard `logging`; `configure` sends both through the same
processors to one stream. The last of these before rendering is `redact`.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, TextIO, cast

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.secrets import known_secrets

_REDACTED: Final = "[redacted]"

# `_` and `-` are dropped and letters are small before a key is looked at.
_SECRET_KEY: Final = re.compile(
    r"authorization|ticket|token|secret|apikey|passw|passphrase|cookie|webhookurl|credential"
)

# Cutting a line first bounds the time the patterns take on text that a caller chose.
_LONGEST_LINE: Final = 4096
_DEEPEST: Final = 12

_WORD_WITH_DOTS: Final = re.compile(r"[A-Za-z0-9_.-]{20,}")
_PATTERNS: Final = (
    (re.compile(r"(?i)\b(bearer)\s+[^\s\"',;)\]}]+"), rf"\1 {_REDACTED}"),
    # A password in a Redis URL is often not escaped and may hold slashes, so all up to the last @ goes.
    (re.compile(r"(?i)((?:rediss?|unix|sentinel|cluster)://)[^\s\"'<>]*@"), rf"\1{_REDACTED}@"),
    (re.compile(r"(://)[^\s/?#\"'<>]*@"), rf"\1{_REDACTED}@"),
    (re.compile(r"(://[^\s?\"'<>]*)\?[^\s\"'<>]*"), rf"\1?{_REDACTED}"),
    # The gateway's own keys, of which the part that tells them apart stays, and tickets.
    (re.compile(r"(gw_[0-9a-f]{8}_)[A-Za-z0-9_-]+"), rf"\1{_REDACTED}"),
    (re.compile(r"gwt_[A-Za-z0-9_-]{20,}"), _REDACTED),
    # As in a query, and as in JSON.
    (
        re.compile(r"(?i)((?:ticket|token|secret|api_?key|password)(?:=|[\"']\s*:\s*[\"']))[^\s&\"',;)\]}]+"),
        rf"\1{_REDACTED}",
    ),
)
_TELLING: Final = ("eyj", "gw_", "gwt_", "://", "bearer", "ticket", "token", "secret", "apikey", "api_key", "password")
"""Every pattern needs one of these. Most text has none, and is let through after one look."""

_LIBRARIES: Final = ("uvicorn", "uvicorn.error", "uvicorn.asgi", "litestar", "httpx", "httpcore")
"""Loggers whose own handlers go, so that their lines reach ours."""

_QUIET: Final = ("httpx", "httpcore")
"""Loggers held at warning: a line per upstream request is ours to write, and at debug they show whole headers."""


def configure(level: str, format: Literal["json", "console"], stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Send every log line of this process to one stream, in one format.

    May be called again, for example after a server set up its own logging; the last call wins.

    Args:
        level: Least severe level that is written: debug, info, warning or error.
        format: A JSON object a line, or text for a terminal.
        stream: Where lines go; standard output unless said.
    """
    output: TextIO = sys.stdout if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering = _rendering(format, output)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(number, logging.WARNING) if name in _QUIET else logging.NOTSET)
    # One line a request is written by the API; the server's would repeat it without its outcome.
    logging.getLogger("uvicorn.access").disabled = True


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask secrets: values under telling keys, and telling text anywhere.

    Leaves only plain values behind, so that a renderer has nothing of its own to turn into text.
    """
    return event if _is_harmless(event) else cast("EventDict", _plain(event, 0))


def _is_harmless(event: EventDict) -> bool:
    """Whether one look at the whole line tells that there is nothing to mask, as there is not in most."""
    texts: list[str] = []
    for key, value in event.items():
        if isinstance(value, str):
            texts.append(value)
        elif value is not None and not isinstance(value, bool | int | float):
            return False
        if _key(key) != (key, False):
            return False
    text = "\n".join(texts)
    if len(text) > _LONGEST_LINE or _is_telling(text):
        return False
    return not any(secret in text for secret in known_secrets())


def _rendering(format: Literal["json", "console"], stream: TextIO) -> list[Processor]:  # noqa: A002 - as above
    if format == "json":
        # Without local variables: these hold whole requests and tokens.
        frames = ExceptionDictTransformer(show_locals=False, max_frames=30)
        return [structlog.processors.ExceptionRenderer(frames), redact, structlog.processors.JSONRenderer(_json)]
    return [
        structlog.processors.format_exc_info,
        redact,
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback),
    ]


_ENCODER: Final = json.JSONEncoder()


def _json(event: object, **_: object) -> str:
    try:
        line = msgspec.json.format(msgspec.json.encode(event), indent=0)
    except UnicodeEncodeError:  # half of a pair, which JSON can smuggle in
        line = b""
    # The stream may not know other letters than ASCII's, which msgspec leaves as they are.
    return line.decode() if line and line.isascii() else _ENCODER.encode(event)


def _plain(value: Any, depth: int) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _masked(value)
    if depth >= _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return dict(_item(str(key), item, depth + 1) for key, item in items)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in cast("list[object]", value)]
    return _masked(repr(value))


def _item(key: str, value: object, depth: int) -> tuple[str, object]:
    shown, is_secret = _key(key)
    return shown, _REDACTED if is_secret and value is not None else _plain(value, depth)


@lru_cache(maxsize=512)
def _key(key: str) -> tuple[str, bool]:
    """Mask a key and tell whether it calls its value a secret; remembered, because keys are few and in every line."""
    return _masked(key), _SECRET_KEY.search(key.replace("_", "").replace("-", "").lower()) is not None


def _is_telling(text: str) -> bool:
    folded = text.casefold()
    return any(word in folded for word in _TELLING)


def _masked(text: str) -> str:
    return "\n".join(_masked_line(line) for line in text.split("\n")) if "\n" in text else _masked_line(text)


def _masked_line(line: str) -> str:
    for secret in known_secrets():
        # Without a telling word around it no pattern finds one.
        if secret in line:
            line = line.replace(secret, _REDACTED)
    if len(line) > _LONGEST_LINE:
        line = line[:_LONGEST_LINE] + "…"
    if not _is_telling(line):
        return line
    if "eyJ" in line:
        line = _WORD_WITH_DOTS.sub(_without_jwt, line)
    for pattern, replacement in _PATTERNS:
        line = pattern.sub(replacement, line)
    return line


def _without_jwt(match: re.Match[str]) -> str:
    """Cut a word where a JWT begins: `{"` in base64url, and a dot somewhere after it."""
    word = match[0]
    start = word.find("eyJ")
    return word[:start] + _REDACTED if start >= 0 and "." in word[start:] else word
