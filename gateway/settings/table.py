"""What an operator may set, and what it means.

`SETTINGS` is the one table: reading, defaults, `gateway check`, and whatever documents the variables are driven by it.
How each sort of value is read stands in `gateway.settings.values`, how all of them are in `gateway.settings.load`.
"""

from typing import Final

import msgspec

from gateway.secrets import Secret
from gateway.settings.model import (
    Auth,
    FileFormat,
    JoinTokens,
    LogFormat,
    LogLevel,
    Settings,
    Tracing,
    VerifyAbsent,
    WithoutRedisSetting,
)
from gateway.settings.values import (
    ADDRESS,
    CERTIFICATES,
    CLAIM,
    DOCUMENT_URL,
    HTTP_URL,
    ORIGINS,
    PLAIN,
    PROXY_URL,
    PUBLIC_KEY_FILE,
    PUBLIC_URL,
    READABLE_FILE,
    REDIS_URL,
    SECRET,
    ValueType,
    choice,
    choices,
    hours,
    rate,
    seconds,
    seconds_or_none,
    whole_number,
)

PREFIX: Final = "GATEWAY_"
"""What the names of all variables begin with."""


class Setting(msgspec.Struct, frozen=True):
    """One row of the table: a variable, what it may hold, and what it means."""

    variable: str
    """Name in the environment."""

    value_type: ValueType
    """How its text is read and shown."""

    doc: str
    """What it means, in one sentence, for operators."""

    default: str | None = None
    """Text that stands in where it is absent; none for what is required or may stay absent."""

    required: bool = False
    """Whether it must be given by itself; relations between several are checked elsewhere."""

    secret: bool = False
    """Whether its value is hidden from people."""

    has_file: bool = False
    """Whether `<variable>_FILE` may name a file with the value instead."""

    @property
    def field(self) -> str:
        """Name in `Settings`."""
        return self.variable.removeprefix(PREFIX).removesuffix("_SECONDS").removesuffix("_HOURS").lower()

    @property
    def file_variable(self) -> str:
        """Name of the variable that holds a path to the value, used only where `has_file`."""
        return f"{self.variable}_FILE"


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(
        "GATEWAY_HOST",
        ADDRESS,
        "Address the gateway listens on; `::` is every address, of IPv4 too.",
        default="127.0.0.1",
    ),
    Setting("GATEWAY_PORT", whole_number(0, 65535), "Port the gateway listens on; 0 takes a free one.", default="8080"),
    Setting("GATEWAY_WORKERS", whole_number(1, 128), "Processes that serve.", default="1"),
    Setting(
        "GATEWAY_REDIS_URL",
        REDIS_URL,
        "Redis or Valkey between the replicas: one server, a Unix socket, Sentinels or a Cluster.",
        required=True,
        has_file=True,
    ),
    Setting(
        "GATEWAY_REDIS_CA_FILE",
        CERTIFICATES,
        "PEM file with the authority behind Redis's certificate (`rediss://…`), where the system does not know it.",
    ),
    Setting("GATEWAY_VIDEOSDK_URL", HTTP_URL, "Base address of VideoSDK's API.", default="https://api.videosdk.live"),
    Setting(
        "GATEWAY_VIDEOSDK_TOKEN",
        SECRET,
        "A VideoSDK token made elsewhere, instead of key and secret.",
        secret=True,
        has_file=True,
    ),
    Setting(
        "GATEWAY_VIDEOSDK_API_KEY",
        PLAIN,
        "The VideoSDK project's key, to mint tokens with.",
        secret=True,
        has_file=True,
    ),
    Setting(
        "GATEWAY_VIDEOSDK_SECRET",
        SECRET,
        "The VideoSDK project's secret, to mint tokens with.",
        secret=True,
        has_file=True,
    ),
    Setting(
        "GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE",
        PUBLIC_KEY_FILE,
        "PEM file with the public key of VideoSDK's webhooks, or with several, read again when it changes; not set, "
        "the gateway asks VideoSDK for it.",
    ),
    Setting(
        "GATEWAY_UPSTREAM_PROXY",
        PROXY_URL,
        "Proxy that all calls to VideoSDK go through: `http://user:password@host:port`. Variables such as HTTPS_PROXY "
        "are ignored, so that the environment does not lead the token elsewhere.",
        has_file=True,
    ),
    Setting(
        "GATEWAY_PUBLIC_URL",
        PUBLIC_URL,
        "This gateway's address for VideoSDK, which then sends the events of a recording to "
        "`…/v1/webhooks/videosdk` below it where the caller names no `webhookUrl`; not set, the gateway asks "
        "VideoSDK's list. Its path is the prefix that an ingress strips, and that links begin with.",
    ),
    Setting(
        "GATEWAY_UPSTREAM_TIMEOUT_SECONDS",
        seconds(0.05, 120),
        "Longest duration of one whole call to VideoSDK (D).",
        default="10",
    ),
    Setting(
        "GATEWAY_SEND_WINDOW_SECONDS",
        seconds(0.05, 30),
        "Longest time from winning a claim to the first byte sent (W).",
        default="2",
    ),
    Setting(
        "GATEWAY_SETTLE_SECONDS",
        seconds(0, 300),
        "How long after its time-out a request that was sent may still take effect and show in VideoSDK's list (S); "
        "quiet time is W + D + S.",
        default="5",
    ),
    Setting(
        "GATEWAY_LEASE_SECONDS",
        seconds(1, 120),
        "How long a claim holds without being renewed; renewed at a quarter of it; at least W + 1.",
        default="4",
    ),
    Setting(
        "GATEWAY_TRUST_SECONDS",
        seconds(0, 3600),
        "How long the gateway believes a confirmation before it asks VideoSDK again; 0 asks every time.",
        default="10",
    ),
    Setting(
        "GATEWAY_CHECK_SECONDS",
        seconds(0, 3600),
        "How often the gateway compares a running recording with VideoSDK's lists, one per room and mode; 0 is never.",
        default="30",
    ),
    Setting(
        "GATEWAY_KEEP_ENDED_HOURS",
        hours(1, 720),
        "How long an ended recording can be read.",
        default="24",
    ),
    Setting(
        "GATEWAY_MAX_DURATION_SECONDS",
        seconds_or_none(60, 86_400),
        "How long a recording that the gateway starts may last at most, before the gateway stops it; callers and their "
        "policies may say less; 0 is as long as VideoSDK lets it.",
        default="0",
    ),
    Setting(
        "GATEWAY_RETRY_REFUSED_SECONDS",
        seconds(0, 60),
        "How long a start that VideoSDK refuses with 400 or 409 is tried again, about once a second, while nothing is "
        "listed as recording: a participant who has only just joined cannot be recorded yet; 0 is not at all.",
        default="3",
    ),
    Setting(
        "GATEWAY_FILE_FORMATS",
        choices(FileFormat),
        "What `fileFormat` may be at the start of a participant's recording, with commas between. VideoSDK documents "
        "webm, and mp4 and m3u8 in its newer pages only. Tracks are webm, and rooms what VideoSDK makes.",
        default="webm",
    ),
    Setting(
        "GATEWAY_REQUEST_DEADLINE_SECONDS",
        seconds(0.1, 600),
        "Longest wait of one caller; more than the quiet time.",
        default="30",
    ),
    # Proxies keep theirs for 60 s, usually: the side that keeps it longer never closes one that the other just uses.
    Setting(
        "GATEWAY_KEEP_ALIVE_SECONDS",
        seconds(1, 3600),
        "How long a connection is kept on which nothing is asked: longer than proxies before the gateway keep theirs.",
        default="75",
    ),
    Setting(
        "GATEWAY_TRANSFER_SECONDS",
        seconds(0.1, 600),
        "How long a request may take to arrive, and how long a client may leave unread what is sent to it; then its "
        "connection is closed.",
        default="30",
    ),
    Setting(
        "GATEWAY_UNFINISHED_MEBIBYTES",
        whole_number(1, 1024),
        "Memory for requests that have not arrived whole, per process; beyond it the connection whose request has been "
        "arriving for the longest is closed.",
        default="8",
    ),
    Setting(
        "GATEWAY_DRAIN_SECONDS",
        seconds(0, 300),
        "How long the gateway goes on serving after SIGTERM, not ready any more, until load balancers have noticed.",
        default="0",
    ),
    Setting(
        "GATEWAY_VERIFY_ABSENT",
        choice(VerifyAbsent),
        "When a start first asks VideoSDK whether really nothing is recorded: where Redis may have lost data, "
        "always, or never.",
        default="auto",
    ),
    Setting(
        "GATEWAY_WITHOUT_REDIS",
        choice(WithoutRedisSetting),
        "What the gateway does with a start while Redis does not answer: refuse it, or send it once "
        "per process. Stops go through.",
        default="refuse",
    ),
    Setting(
        "GATEWAY_AUTH",
        choice(Auth),
        "Whether callers must be known (by a callers file, join tokens or JWTs), or anyone who reaches the gateway may "
        "use it.",
        default="callers",
    ),
    Setting(
        "GATEWAY_CALLERS_FILE",
        READABLE_FILE,
        "TOML file that names the callers, holds the hashes of their keys and says what each may ask for; read again "
        "when it changes.",
    ),
    Setting(
        "GATEWAY_JOIN_TOKENS",
        choice(JoinTokens),
        "Whether VideoSDK's join tokens let in their participants; any-room admits tokens that name no room.",
        default="off",
    ),
    Setting(
        "GATEWAY_JWT_JWKS_URL",
        DOCUMENT_URL,
        "Where the company's identity provider publishes its keys (JWKS); its JWTs then identify callers.",
    ),
    Setting("GATEWAY_JWT_ISSUER", PLAIN, "What `iss` of a JWT must be."),
    Setting("GATEWAY_JWT_AUDIENCE", PLAIN, "What `aud` of a JWT must name."),
    Setting("GATEWAY_JWT_NAME_CLAIM", CLAIM, "The claim that names the caller.", default="sub"),
    Setting("GATEWAY_JWT_SCOPES_CLAIM", CLAIM, "The claim that holds the scopes.", default="scope"),
    Setting(
        "GATEWAY_JWT_ROOMS_CLAIM",
        CLAIM,
        "The claim that lists the rooms, ids or beginnings with a `*`; not set, JWTs do not restrict them.",
    ),
    Setting(
        "GATEWAY_CORS_ORIGINS",
        ORIGINS,
        "Origins of web pages and web views that may ask, with commas between: `https://app.example.com`, "
        "`https://*.example.com`, `capacitor://localhost`.",
    ),
    Setting(
        "GATEWAY_IDEMPOTENCY_HOURS",
        hours(0.01, 720),
        "How long an answer is kept under its `Idempotency-Key`.",
        default="24",
    ),
    # A retry comes within minutes: both hold those of a caller that sends 600 requests a minute.
    Setting(
        "GATEWAY_MOST_IDEMPOTENCY_KEYS",
        whole_number(1, 10_000_000),
        "Idempotency keys of one caller that are remembered at the same time; the oldest is forgotten for a new one.",
        default="2000",
    ),
    Setting(
        "GATEWAY_MOST_IDEMPOTENCY_BYTES",
        whole_number(1024, 900_000_000),
        "Bytes that are remembered under one caller's idempotency keys; the oldest are forgotten for new ones.",
        default="1048576",
    ),
    # Ten starts and stops a second, for as long as one likes, are more than a lesson platform's service does, and a
    # loop gone wild is stopped before it uses up what VideoSDK allows the project. A start that joins another or finds
    # the track recording counts a tenth, so 6000 tabs of one caller may press the button at once.
    Setting(
        "GATEWAY_CALLER_STARTS_PER_MINUTE",
        whole_number(0, 1_000_000),
        "How often one caller may start and stop, joiners counted as a tenth; 0 is no limit.",
        default="600",
    ),
    # No caller starts one target every two seconds on purpose, and each real start makes a file.
    Setting(
        "GATEWAY_TRACK_STARTS_PER_MINUTE",
        whole_number(0, 1_000_000),
        "How often one target (a track, a participant or a room) may really be started, by all callers together; 0 is "
        "no limit.",
        default="30",
    ),
    # What Redis answers is free, and a list of one room answers for all its tracks for GATEWAY_TRUST_SECONDS.
    Setting(
        "GATEWAY_CALLER_QUESTIONS_PER_MINUTE",
        whole_number(0, 1_000_000),
        "How many calls to VideoSDK the reads of one caller may cause; 0 is no limit.",
        default="600",
    ),
    # A browser needs a new one whenever it connects, and connects again at most once a second.
    Setting(
        "GATEWAY_CALLER_TICKETS_PER_MINUTE",
        whole_number(0, 1_000_000),
        "How often one caller may have a ticket for live events; 0 is no limit.",
        default="600",
    ),
    Setting(
        "GATEWAY_MOST_EVENT_READERS",
        whole_number(1, 1_000_000),
        "Readers of live events at the same time, per process; each needs a file descriptor. One room gets no more "
        "than are still free, and one caller no more than that room may still take.",
        default="5000",
    ),
    Setting(
        "GATEWAY_MOST_WAITING",
        whole_number(1, 1_000_000),
        "Callers that may wait for a start at the same time, and as many for a stop, per process; for a start of one "
        "target a tenth. One room gets no more than are still free, and one caller no more than that room may still "
        "take.",
        default="20000",
    ),
    Setting(
        "GATEWAY_MOST_WEBHOOKS",
        whole_number(1, 1_000_000),
        "VideoSDK's events that may wait to be acted on, per process. Those of one sender's address get no more places "
        "than are still free, and those of one room no more than that sender may still take.",
        default="20000",
    ),
    Setting(
        "GATEWAY_MOST_CONNECTIONS",
        whole_number(1, 1_000_000),
        "Connections at the same time, per process, and no more than it may open files; more are answered 503. One "
        "address gets no more than are still free.",
        default="10000",
    ),
    Setting(
        "GATEWAY_UPSTREAM_CONCURRENCY",
        whole_number(1, 10_000),
        "Calls to VideoSDK at the same time, per process; more wait.",
        default="64",
    ),
    Setting(
        "GATEWAY_READER_CONCURRENCY",
        whole_number(1, 10_000),
        "How many of those at most are lists for reads, and always one fewer than all: starts and stops do not wait "
        "for reads.",
        default="16",
    ),
    Setting(
        "GATEWAY_UPSTREAM_CALLS_PER_SECOND",
        rate(0, 10_000),
        "Calls to VideoSDK in a second, per process; more wait; 0 is no limit.",
        default="0",
    ),
    Setting(
        "GATEWAY_CHECKS_PER_SECOND",
        rate(0, 10_000),
        "Rooms that a process compares with VideoSDK's list in a second; more wait; 0 is no limit.",
        default="10",
    ),
    Setting("GATEWAY_LOG_LEVEL", choice(LogLevel), "Least severe level that is logged.", default="info"),
    Setting("GATEWAY_LOG_FORMAT", choice(LogFormat), "Log lines for machines or for a terminal.", default="json"),
    Setting(
        "GATEWAY_TRACING",
        choice(Tracing),
        "Traces over OTLP/HTTP, set up by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, "
        "`OTEL_TRACES_SAMPLER`, …); needs the extra `tracing`.",
        default="off",
    ),
)
"""Every variable there is, in the order people are shown them."""


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """List every variable with the value it has and whether that is the "default" or was "set"; no secret is shown."""
    rows: list[tuple[str, str, str]] = []
    for setting in SETTINGS:
        value = getattr(settings, setting.field)
        default = None if setting.default is None else setting.value_type.parse(setting.default)
        if value is None:
            shown = "(not set)"
        elif setting.secret:
            shown = str(Secret(""))
        else:
            shown = setting.value_type.show(value)
        rows.append((setting.variable, shown, "default" if value == default else "set"))
    return rows
