"""What an operator decides, as the gateway hands it around: frozen, and whole."""

from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from gateway.secrets import Secret

__all__ = [
    "Auth",
    "FileFormat",
    "JoinTokens",
    "LogFormat",
    "LogLevel",
    "Settings",
    "Tracing",
    "VerifyAbsent",
    "WithoutRedisSetting",
]

WithoutRedisSetting = Literal["refuse", "degrade"]
VerifyAbsent = Literal["auto", "always", "never"]
Auth = Literal["callers", "none"]
JoinTokens = Literal["off", "on", "any-room"]
FileFormat = Literal["webm", "mp4", "m3u8"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]
Tracing = Literal["off", "otlp"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an operator decides. Made by `gateway.settings.load.load`; the defaults stand in `SETTINGS`."""

    host: str
    """Address `gateway serve` listens on."""

    port: int
    """Port `gateway serve` listens on."""

    workers: int
    """Processes that serve."""

    redis_url: Secret
    """Where claims and records live; secret, because it may carry a password."""

    redis_ca_file: Path | None
    """Certificates that Redis's must go back to; absent where the system's own will do."""

    videosdk_url: str
    """Base address of VideoSDK's API, without a slash at its end."""

    videosdk_token: Secret | None
    """A token made elsewhere; absent where the gateway mints its own."""

    videosdk_api_key: str | None
    """The project's key; given together with `videosdk_secret`."""

    videosdk_secret: Secret | None
    """The project's secret, which signs minted tokens."""

    videosdk_webhook_key_file: Path | None
    """The file that holds the key of VideoSDK's webhooks; absent where VideoSDK is asked for it."""

    upstream_proxy: Secret | None
    """The proxy on the way to VideoSDK; secret, because it may carry a password."""

    public_url: str | None
    """Where VideoSDK reaches this gateway, without a slash at its end."""

    @property
    def prefix(self) -> str:
        """The path that the ingress before the gateway strips, empty where it strips none."""
        return urlsplit(self.public_url or "").path

    upstream_timeout: timedelta
    """Longest duration of one whole call to VideoSDK."""

    send_window: timedelta
    """Longest time from winning a claim to the first byte sent."""

    settle: timedelta
    """How long after its time-out a request that was sent may still take effect."""

    lease: timedelta
    """How long a claim holds without being renewed."""

    trust: timedelta
    """How long a confirmation is believed before VideoSDK is asked again."""

    check: timedelta
    """How often a recording that runs is compared with VideoSDK's list."""

    keep_ended: timedelta
    """How long an ended recording can be read."""

    max_duration: timedelta
    """How long a recording may last at most; zero is not bounded."""

    retry_refused: timedelta
    """How long a refused start is tried again where that may pass; zero is not."""

    file_formats: tuple[FileFormat, ...]
    """Forms of file that a start of a participant may name."""

    request_deadline: timedelta
    """Longest wait of one caller."""

    keep_alive: timedelta
    """How long a connection is kept on which nothing is asked."""

    transfer: timedelta
    """How long a request may take to arrive, and a client may leave unread what is sent to it."""

    unfinished_mebibytes: int
    """Memory for requests that have not arrived whole, per process."""

    drain: timedelta
    """How long SIGTERM is only announced."""

    verify_absent: VerifyAbsent
    """When "nothing is recorded" must be checked with VideoSDK before a start is sent."""

    without_redis: WithoutRedisSetting
    """What the gateway does with a start while Redis does not answer."""

    auth: Auth
    """How callers prove who they are."""

    callers_file: Path | None
    """The file that names the callers."""

    join_tokens: JoinTokens
    """Whether VideoSDK's join tokens let in their participants."""

    jwt_jwks_url: str | None
    """Where the company's identity provider publishes its keys."""

    jwt_issuer: str | None
    """What `iss` must be."""

    jwt_audience: str | None
    """What `aud` must name."""

    jwt_name_claim: str
    """The claim that names the caller."""

    jwt_scopes_claim: str
    """The claim that holds the scopes."""

    jwt_rooms_claim: str | None
    """The claim that holds the rooms; absent where tokens do not restrict them."""

    cors_origins: tuple[str, ...] | None
    """Origins of pages that may ask."""

    idempotency: timedelta
    """How long an answer is kept under its idempotency key."""

    most_idempotency_keys: int
    """Keys of one caller that are remembered."""

    most_idempotency_bytes: int
    """How much is remembered under the keys of one caller."""

    caller_starts_per_minute: int
    """How often one caller may start and stop; 0 is no limit."""

    track_starts_per_minute: int
    """How often one target may be started; 0 is no limit."""

    caller_questions_per_minute: int
    """How many calls to VideoSDK the reads of one caller may cause; 0 is no limit."""
    caller_tickets_per_minute: int
    """How often one caller may have a ticket for live events; 0 is no limit."""

    most_event_readers: int
    """Readers of live events at the same time, per process."""

    most_waiting: int
    """Callers that may wait for a start at the same time, and as many for a stop, per process."""

    most_webhooks: int
    """Webhooks that may wait to be acted on, per process."""

    most_connections: int
    """Connections at the same time, per process."""

    upstream_concurrency: int
    """Calls to VideoSDK at the same time."""

    reader_concurrency: int
    """Calls to VideoSDK at the same time that are made for reads."""

    upstream_calls_per_second: float
    """Calls to VideoSDK in a second; 0 is no limit."""

    checks_per_second: float
    """Rooms that are compared with VideoSDK's list in a second; 0 is no limit."""

    log_level: LogLevel
    """Least severe level that is logged."""

    log_format: LogFormat
    """Shape of a log line."""

    tracing: Tracing
    """Whether traces are made, and how they are exported."""

    mounted: dict[str, Path] = {}
    """The file of each field that was read from one."""

    @property
    def quiet(self) -> timedelta:
        """Time after a claim was won until no request sent under it can still take effect."""
        return self.send_window + self.upstream_timeout + self.settle

    def __repr__(self) -> str:
        # Secrets are among the values; `describe` shows what may be seen.
        return "Settings()"
