"""How the client reaches a gateway: its address, the key, one request and what became of it."""

import ssl
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import httpx
import msgspec
from msgspec import Struct

from gateway import __version__
from gateway.secrets import Secret, WrongTextError, read_value
from gateway.terminal.answers import ProblemAnswer, misfit
from gateway.terminal.arguments import DEFAULT_ADDRESS
from gateway.terminal.exit_codes import ExitCode
from gateway.terminal.screen import printable

__all__ = ["Access", "FailedError", "UsageError", "exit_code", "fields_of", "refusal"]

_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 120.0
"""Longer than a gateway's own longest wait, unless an operator has raised that much."""
_MAX_TEXT: Final = 200


class UsageError(Exception):
    """The arguments or the environment cannot be used; the text says what to write instead, and repeats no value."""


class FailedError(Exception):
    """A request did not do what it was for.

    Attributes:
        code: How the command ends.
        document: The gateway's problem, or one of the same form where the gateway did not answer.
        retry_after: Seconds after which the gateway takes the same request again, if it says so.
    """

    def __init__(self, code: ExitCode, document: Mapping[str, Any], retry_after: int | None = None) -> None:
        super().__init__(str(document.get("title")))
        self.code: Final = code
        self.document: Final = document
        self.retry_after: Final = retry_after


class Access(NamedTuple):
    """Where the gateway is and what its caller shows."""

    address: str
    key: Secret | None

    @classmethod
    def read(cls, address: str | None, key_file: str | None, environ: Mapping[str, str]) -> "Access":
        """Take both from options, else from the environment.

        Raises:
            UsageError: One of them cannot be used.
        """
        address = (address or environ.get("GATEWAY_ADDRESS", "")).strip() or DEFAULT_ADDRESS
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment or url.userinfo:
            raise UsageError("the gateway's address (--address, GATEWAY_ADDRESS) must be like https://gateway.example")
        return cls(address.rstrip("/"), _key(key_file, environ))

    def client(self) -> httpx.AsyncClient:
        """Return a client of this gateway. It takes no proxy, and no password of `.netrc`, from the environment."""
        headers = {"user-agent": f"recording-gateway/{__version__}", "accept-encoding": "identity"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key.reveal()}"
        return httpx.AsyncClient(
            base_url=self.address,
            headers=headers,
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,
            verify=ssl.create_default_context() if self.address.startswith("https") else False,
        )

    async def ask(self, request: httpx.Request, shape: type[Struct]) -> dict[str, Any]:
        """Send one request and return the JSON object that answers it, with its status under an empty name.

        Args:
            request: A command (POST) or a question.
            shape: What the answer must have at least.

        Raises:
            FailedError: It was refused, or there is no answer of the gateway's.
        """
        async with self.client() as client:
            request.headers.update(client.headers)
            try:
                response = await client.send(request)
            except httpx.RequestError as error:
                raise self.unanswered(error, commands=request.method == "POST") from None
        lacks = ""
        if response.is_success and (body := _object(response)) is not None:
            lacks = misfit(body, shape)
            if not lacks:
                return {**body, "": response.status_code}
        raise refusal(response, commands=request.method == "POST", lacks=lacks)

    def unanswered(self, error: httpx.RequestError, *, commands: bool) -> FailedError:
        """Return what it means that a request got no answer: where it was sent, a command may have been carried out."""
        reason = printable(str(error) or type(error).__name__)[:_MAX_TEXT]
        never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        if never_sent or not commands:
            return _failed(ExitCode.UNREACHABLE, "No gateway answers", f"{self.address}: {reason}")
        return _failed(
            ExitCode.UNKNOWN,
            "The answer was lost",
            f"{self.address}: {reason}. The gateway goes on with what it was asked; the same command again is safe.",
        )


def refusal(response: httpx.Response, *, commands: bool, lacks: str = "") -> FailedError:
    """Return what an answer means that is no success, or not the gateway's.

    Args:
        response: The answer; its body has been read.
        commands: Whether it answers a start or stop.
        lacks: What a success lacks of what the gateway answers.
    """
    status, document = response.status_code, _object(response)
    after = response.headers.get("retry-after", "")
    retry_after = int(after) if after.isascii() and after.isdecimal() and len(after) < 9 else None
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if lacks or media_type != "application/problem+json" or document is None or misfit(document, ProblemAnswer):
        # A proxy's page, or another server: it says nothing of what happened behind it.
        code = ExitCode.UNKNOWN if commands and (status >= 500 or status < 300) else ExitCode.UNREACHABLE
        said = f"status {status}, {printable(media_type)[:_MAX_TEXT] or 'no content type'}{lacks and f': {lacks}'}"
        return _failed(code, "What answers is not the gateway", f"{response.url.copy_with(query=None)}: {said}")
    return FailedError(exit_code(status, retry_after, commands=commands), document, retry_after)


def exit_code(status: int, retry_after: int | None, *, commands: bool) -> ExitCode:
    """Return what the status of a problem means: to a start or stop, or to a read."""
    if status == 504 or (status == 500 and commands):
        return ExitCode.UNKNOWN if commands else ExitCode.NOT_NOW
    passes = retry_after is not None or status in {429, 503}
    return ExitCode.NOT_NOW if passes else ExitCode.REFUSED


def fields_of(given: list[str]) -> dict[str, Any]:
    """Read NAME=TEXT, NAME=@FILE and NAME:=JSON.

    Raises:
        UsageError: One of them is of no such form, or its file cannot be read.
    """
    fields: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name in {"", ":"}:
            raise UsageError("--set takes NAME=TEXT, NAME=@FILE or NAME:=JSON")
        try:
            if name.endswith(":"):
                name = name[:-1]
                # Python's own reads NaN and Infinity, which are no JSON and cannot be sent.
                fields[name] = msgspec.json.decode(value)
            else:
                fields[name] = read_value(value[1:]) if value.startswith("@") else value
        except WrongTextError as wrong:
            raise UsageError(f"--set {name}=@FILE: {wrong}") from None
        except msgspec.DecodeError:
            raise UsageError(f"--set {name}:= takes JSON") from None
    return fields


def _key(file: str | None, environ: Mapping[str, str]) -> Secret | None:
    text, named = environ.get("GATEWAY_KEY", "").strip(), environ.get("GATEWAY_KEY_FILE", "").strip()
    if file is None and text and named:
        raise UsageError("GATEWAY_KEY: given also as GATEWAY_KEY_FILE; expected one of the two")
    if path := file or named:
        try:
            text = read_value(path)
        except WrongTextError as wrong:
            raise UsageError(f"the key's file (--key-file, GATEWAY_KEY_FILE): {wrong}") from None
    if not text:
        return None  # a gateway with GATEWAY_AUTH=none asks for none, and any other says that it does
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            "the key (GATEWAY_KEY, or its file) must be one word of ASCII, as `gateway keys new` prints it"
        )
    return Secret(text)


def _object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        body: object = response.json()
    except ValueError:
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None


def _failed(code: ExitCode, title: str, detail: str) -> FailedError:
    return FailedError(code, {"title": title, "detail": detail})
