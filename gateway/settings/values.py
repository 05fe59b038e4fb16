"""How the text of a variable becomes a value: one `ValueType` per sort of value.

No message repeats the text: an operator who swaps two variables would otherwise find a secret in the log.
"""

import ipaddress
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast, get_args
from urllib.parse import SplitResult, urlsplit

import msgspec

from gateway.secrets import Secret, WrongTextError, read_file, read_value
from gateway.settings.pem import WrongKeyError, read_keys

_SINGLE_SERVER: Final = ("redis", "rediss")
_SEVERAL_SERVERS: Final = ("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


class ValueType(msgspec.Struct, frozen=True):
    """How the text of a variable becomes a value."""

    expected: str
    """What the text must be, as the end of "expected …" and as docs/settings.md shows it."""

    parse: Callable[[str], object]
    """Make the value, or raise `WrongTextError`."""

    show: Callable[[Any], str] = str
    """Turn a value back into text for people."""

    schema: Mapping[str, Any] = MappingProxyType({"type": "string", "minLength": 1})
    """JSON Schema of the value as people write it in YAML; the Helm chart's is made of these."""


def whole_number(low: int, high: int) -> ValueType:
    """Read a whole number between two bounds, both included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise WrongTextError("is not a whole number")
        if not low <= int(text) <= high:
            raise WrongTextError("is out of bounds")
        return int(text)

    return ValueType(
        f"a whole number from {low} to {high}", parse, schema={"type": "integer", "minimum": low, "maximum": high}
    )


def seconds(low: float, high: float) -> ValueType:
    """Read a duration between two bounds, both included."""

    def parse(text: str) -> timedelta:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise WrongTextError("is not a number of seconds")
        if not low <= float(text) <= high:
            raise WrongTextError("is out of bounds")
        return timedelta(seconds=float(text))

    def show(value: timedelta) -> str:
        return f"{value.total_seconds():.9g}"

    return ValueType(f"{low:g} to {high:g} s, decimals allowed", parse, show, _number(low, high))


def seconds_or_none(low: float, high: float) -> ValueType:
    """Read a duration between two bounds, both included, or 0, which is none."""
    number = seconds(0, high)

    def parse(text: str) -> timedelta:
        value = cast("timedelta", number.parse(text))
        if 0 < value.total_seconds() < low:
            raise WrongTextError("is out of bounds")
        return value

    return ValueType(f"0, or {low:g} to {high:g} s, decimals allowed", parse, number.show, number.schema)


def hours(low: float, high: float) -> ValueType:
    """Read a duration in hours between two bounds, both included."""
    number = rate(low, high)

    def parse(text: str) -> timedelta:
        return timedelta(hours=cast("float", number.parse(text)))

    def show(value: timedelta) -> str:
        return f"{value.total_seconds() / 3600:.9g}"

    return ValueType(f"{low:g} to {high:g} h, decimals allowed", parse, show, _number(low, high))


def rate(low: float, high: float) -> ValueType:
    """Read a number between two bounds, both included."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            raise WrongTextError("is not a number")
        if not low <= float(text) <= high:
            raise WrongTextError("is out of bounds")
        return float(text)

    return ValueType(f"a number from {low:g} to {high:g}, decimals allowed", parse, "{:.9g}".format, _number(low, high))


def choice(literal: Any) -> ValueType:
    """Read one of a `Literal`'s values, in small or capital letters."""
    names: tuple[str, ...] = get_args(literal)

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise WrongTextError("is not one of its values")
        return text.lower()

    return ValueType(f"one of {_quoted(names)}", parse, schema={"enum": list(names)})


def choices(literal: Any) -> ValueType:
    """Read several of a `Literal`'s values, with commas between, in small or capital letters."""
    names: tuple[str, ...] = get_args(literal)

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(part.strip().lower() for part in text.split(","))
        if not set(chosen) <= set(names):
            raise WrongTextError("has a part that is not one of its values")
        return tuple(dict.fromkeys(chosen))

    part = f"(?:{'|'.join(names)})"
    schema = {"type": "string", "pattern": f"^{part}(?:, ?{part})*$"}
    return ValueType(f"one or more of {_quoted(names)}, with commas between", parse, ",".join, schema)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _number(low: float, high: float) -> dict[str, Any]:
    return {"type": "number", "minimum": low, "maximum": high}


def _listening_address(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})", text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise WrongTextError("is neither an IP address nor a host name") from None
    return text


def _visible(text: str) -> str:
    # These end up in an HTTP header or in a claim: a line break or a blank inside is a slip of copying.
    if not re.fullmatch(r"[!-~]+", text):
        raise WrongTextError("has blanks, control characters or letters beyond ASCII inside")
    return text


def _visible_secret(text: str) -> Secret:
    return Secret(_visible(text))


def _split_url(text: str) -> SplitResult:
    try:
        return urlsplit(_visible(text))
    except ValueError:
        raise WrongTextError("is not a URL") from None


def _check_server(netloc: str) -> None:
    """Refuse what is not `host` or `host:port`, with or without credentials before it."""
    try:
        parts = urlsplit(f"//{netloc}")
        if parts.hostname and parts.port != 0:
            return
    except ValueError:
        pass  # a port that is no number, or half an IPv6 address
    raise WrongTextError("names no host, or a wrong port")


def _http_url(text: str) -> str:
    parts = _split_url(text)
    if parts.scheme not in {"http", "https"}:
        raise WrongTextError("is not an absolute http(s) URL")
    if "@" in parts.netloc:
        raise WrongTextError("carries credentials")
    if "?" in text or "#" in text:
        raise WrongTextError("carries a query or a fragment")
    _check_server(parts.netloc)
    return text.rstrip("/")


def _public_url(text: str) -> str:
    url = _http_url(text)
    # The bytes are signed, but not secret on their way, and a host that can change an answer can have events lost.
    if urlsplit(url).scheme == "http" and not is_loopback(url):
        raise WrongTextError("is http")
    return url


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this very machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _document_url(text: str) -> str:
    parts = _split_url(text)
    if parts.scheme not in {"http", "https"}:
        raise WrongTextError("is not an absolute http(s) URL")
    if "@" in parts.netloc:
        raise WrongTextError("carries credentials")
    if "#" in text:
        raise WrongTextError("carries a fragment")
    _check_server(parts.netloc)
    return text


def _show_document_url(text: str) -> str:
    address, question, _ = text.partition("?")
    return f"{address}?{Secret('')}" if question else address


_ORIGIN: Final = re.compile(
    r"(https?)://(\*\.)?([a-z0-9][a-z0-9.-]{0,252}|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
    r"|(?!https?:)[a-z][a-z0-9+.-]{0,31}://[a-z0-9._-]{1,253}(?::[0-9]{1,5})?",
    re.ASCII,
)
"""Of a web page; or of an application's web view, which has a scheme of its own: `capacitor://localhost`."""
_USUAL_PORTS: Final = {"http": "80", "https": "443"}


def _origins(text: str) -> tuple[str, ...]:
    """Read origins as browsers write them: in small letters, without a path, and without the port that is usual."""
    origins: list[str] = []
    for item in (item.strip().lower() for item in text.split(",")):
        origin = _ORIGIN.fullmatch(item)
        if not origin:
            raise WrongTextError("has a part that is neither an origin nor a pattern of origins")
        scheme, wildcard, host, port = origin.groups()
        if scheme is None:
            origins.append(item)
            continue
        if wildcard and "." not in host:
            raise WrongTextError("has a pattern that would let in a whole top-level domain")
        shown = "" if port in {None, _USUAL_PORTS[scheme]} else f":{port}"
        origins.append(f"{scheme}://{wildcard or ''}{host}{shown}")
    return tuple(origins)


def _claim(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,200}", text):
        raise WrongTextError("is not the name of a claim")
    return text


def _redis_url(text: str) -> Secret:
    parts = _split_url(text)
    if "#" in text or "@" in parts.path + parts.query:
        raise WrongTextError("has a character in its password that must be escaped (/ ? # @ are %2F %3F %23 %40)")
    if parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise WrongTextError("names no socket")
    elif parts.scheme in _SINGLE_SERVER:
        _check_server(parts.netloc)
    elif parts.scheme in _SEVERAL_SERVERS:
        for server in parts.netloc.rpartition("@")[2].split(","):
            _check_server(server)
    else:
        raise WrongTextError("has another scheme")
    return Secret(text)


def _proxy_url(text: str) -> Secret:
    parts = _split_url(text)
    if parts.scheme != "http":
        raise WrongTextError("is no http:// address (what goes out to VideoSDK is encrypted within the proxy's tunnel)")
    if "#" in text or parts.query or parts.path.strip("/"):
        raise WrongTextError("has more than host and port, or a character in its password that must be escaped")
    _check_server(parts.netloc)
    return Secret(text)


def _show_redis_url(url: Secret) -> str:
    parts = urlsplit(url.reveal())
    credentials, at, servers = parts.netloc.rpartition("@")
    netloc = f"{credentials and url}{at}{servers}"
    return f"{parts.scheme}://{netloc}{parts.path}{'?' + str(url) if parts.query else ''}"


def _public_key_file(text: str) -> Path:
    try:
        read_keys(read_value(text))
    except WrongKeyError as wrong:
        raise WrongTextError(str(wrong)) from None
    return Path(text)


def _readable_file(text: str) -> Path:
    read_file(text, 1)
    return Path(text)


def _certificates(text: str) -> Path:
    read_file(text, 1)
    try:
        ssl.create_default_context(cafile=text)
    except (ssl.SSLError, OSError):
        problem = WrongTextError("holds no certificate that can be read")
    else:
        return Path(text)
    raise problem


ADDRESS: Final = ValueType("an IP address or a host name", _listening_address)
CERTIFICATES: Final = ValueType("the path of a readable file with certificates in PEM", _certificates)
READABLE_FILE: Final = ValueType("the path of a readable file", _readable_file)
PUBLIC_KEY_FILE: Final = ValueType("the path of a file with an RSA public key in PEM", _public_key_file)
PUBLIC_URL: Final = ValueType(
    "an absolute https URL (http on this machine only) without credentials, query or fragment", _public_url
)
HTTP_URL: Final = ValueType("an absolute http(s) URL without credentials, query or fragment", _http_url)
DOCUMENT_URL: Final = ValueType(
    "an absolute http(s) URL without credentials or fragment", _document_url, _show_document_url
)
ORIGINS: Final = ValueType(
    "origins with commas between, each like `https://app.example.com`, `https://*.example.com` or "
    "`capacitor://localhost`",
    _origins,
    ",".join,
)
CLAIM: Final = ValueType("the name of a claim, with dots where it lies within others", _claim)
PROXY_URL: Final = ValueType("`http://host:port` or `http://user:password@host:port`", _proxy_url, _show_redis_url)
PLAIN: Final = ValueType("visible ASCII characters without blanks", _visible)
REDIS_URL: Final = ValueType(
    "a URL with one of the schemes " + _quoted((*_SINGLE_SERVER, "unix", *_SEVERAL_SERVERS)),
    _redis_url,
    _show_redis_url,
)
SECRET: Final = ValueType("visible ASCII characters without blanks", _visible_secret)
