"""Every setting reaches the part that it configures, and changes what that part does: one row each, none missing."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.settings.table import SETTINGS
from tests import harness
from tests.settings_reach import observing as see
from tests.settings_reach.processes import Observed, observe_processes
from tests.settings_reach.scene import Row, Scene

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]

_NEVER = {"GATEWAY_VERIFY_ABSENT": "never"}
_PATIENT = {**_NEVER, "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "30", "GATEWAY_REQUEST_DEADLINE_SECONDS": "100"}
"""However slow the machine, no call to VideoSDK is given up."""
_MINTED = {"GATEWAY_VIDEOSDK_API_KEY": None, "GATEWAY_VIDEOSDK_SECRET": None}
_COMPANY = {
    "GATEWAY_JWT_JWKS_URL": "{keys-of-the-provider}",
    "GATEWAY_JWT_ISSUER": see.ISSUER,
    "GATEWAY_JWT_AUDIENCE": "recording-gateway",
}

ROWS: tuple[Row, ...] = (
    Row("GATEWAY_REDIS_URL", {"{this-server}": "this-server", "{other-server}": "other-server"},
        see.server_with_the_record),
    Row("GATEWAY_REDIS_CA_FILE", {"{authority}": 200, "{other-authority}": 503}, see.readiness,
        {"GATEWAY_REDIS_URL": "{tls-server}"}),
    Row("GATEWAY_VIDEOSDK_URL", {"{this-account}": "this-account", "{other-account}": "other-account"},
        see.account_that_was_asked),
    Row("GATEWAY_VIDEOSDK_TOKEN", {"{token}": 201, "made.up.token": 502}, see.start_status, _MINTED),
    Row("GATEWAY_VIDEOSDK_API_KEY", {harness.API_KEY: 201, "another-api-key": 502}, see.start_status),
    Row("GATEWAY_VIDEOSDK_SECRET", {harness.SECRET: 201, "another-secret-0123456789abcdef01234567": 502},
        see.start_status),
    Row("GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE", {"{key-file}": 204, "{other-key-file}": 401}, see.webhook_verdict),
    Row("GATEWAY_PUBLIC_URL",
        {"https://one.example": "https://one.example/v1/webhooks/videosdk",
         "https://two.example/below": "https://two.example/below/v1/webhooks/videosdk", None: None},
        see.webhook_of_a_start),
    Row("GATEWAY_UPSTREAM_TIMEOUT_SECONDS", {"0.1": False, "30": True}, see.start_that_takes_a_while,
        {**_PATIENT, "GATEWAY_SETTLE_SECONDS": "0"}),
    Row("GATEWAY_SEND_WINDOW_SECONDS", {"0.05": False, "20": True}, see.sent_under_its_first_claim,
        {**_PATIENT, "GATEWAY_UPSTREAM_CONCURRENCY": "1", "GATEWAY_LEASE_SECONDS": "21"}),
    Row("GATEWAY_SETTLE_SECONDS", {"0": 40.0, "0.5": 40.5}, see.horizon_of_an_unknown_start,
        {**_PATIENT, "GATEWAY_SEND_WINDOW_SECONDS": "10", "GATEWAY_LEASE_SECONDS": "11"},
        tested_in="tests/coordinator/test_scripts.py::test_start_over_something_unsettled_looks_first"),
    Row("GATEWAY_LEASE_SECONDS", {"40": 40.0, "60": 60.0}, see.lease_of_a_start, _PATIENT,
        tested_in="tests/coordinator/test_scripts.py::test_lapsed_lease_is_taken_over_under_the_same_number"),
    Row("GATEWAY_TRUST_SECONDS", {"0": True, "3600": False}, see.repeat_asks_videosdk),
    Row("GATEWAY_CHECK_SECONDS", {"0": False, "0.5": True}, see.looked_after_unasked, _NEVER),
    Row("GATEWAY_KEEP_ENDED_HOURS", {"1": 1.0, "720": 720.0}, see.hours_that_an_end_is_kept),
    Row("GATEWAY_MAX_DURATION_SECONDS", {"0": None, "60": 60.0, "86400": 86_400.0}, see.seconds_that_a_start_may_last),
    Row("GATEWAY_RETRY_REFUSED_SECONDS", {"0": 422, "60": 201}, see.start_that_is_refused_once, _PATIENT),
    Row("GATEWAY_REQUEST_DEADLINE_SECONDS", {"0.3": True, "30": False}, see.deadline_strikes,
        {"GATEWAY_VERIFY_ABSENT": "always", "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "0.1",
         "GATEWAY_SEND_WINDOW_SECONDS": "0.05", "GATEWAY_SETTLE_SECONDS": "0"}),
    Row("GATEWAY_UPSTREAM_PROXY", {"{a-proxy}": "a-proxy", "{another-proxy}": "another-proxy"},
        see.proxy_that_was_asked),
    Row("GATEWAY_VERIFY_ABSENT", {"always": True, "never": False}, see.start_asks_first),
    Row("GATEWAY_WITHOUT_REDIS", {"refuse": 503, "degrade": 201}, see.start_status,
        {"GATEWAY_REDIS_URL": "{nowhere}"}),
    Row("GATEWAY_AUTH", {"callers": 401, "none": 404}, see.answer_to_a_stranger),
    Row("GATEWAY_CALLERS_FILE", {"{demo-callers}": 404, "{other-callers}": 401}, see.answer_to_the_demo_caller),
    Row("GATEWAY_JOIN_TOKENS", {"off": [401, 401], "on": [404, 401], "any-room": [404, 404]},
        see.answers_to_join_tokens),
    Row("GATEWAY_JWT_JWKS_URL", {"{keys-of-the-provider}": 201, "{keys-of-another}": 401}, see.company_status,
        _COMPANY),
    Row("GATEWAY_JWT_ISSUER", {see.ISSUER: 201, "https://somebody.example/": 401}, see.company_status, _COMPANY),
    Row("GATEWAY_JWT_AUDIENCE", {"recording-gateway": 201, "another-service": 401}, see.company_status, _COMPANY),
    Row("GATEWAY_JWT_NAME_CLAIM", {"sub": "jwt:ada", "email": "jwt:ada@example.com"}, see.company_name, _COMPANY),
    Row("GATEWAY_JWT_SCOPES_CLAIM", {"scope": 201, "permissions": 403}, see.company_status, _COMPANY),
    Row("GATEWAY_JWT_ROOMS_CLAIM", {None: 201, "rooms": 403}, see.company_status, _COMPANY),
    Row("GATEWAY_CORS_ORIGINS",
        {"https://one.example": ["https://one.example", None],
         "https://other.example": [None, "https://other.example"], None: [None, None]},
        see.page_that_may_read),
    Row("GATEWAY_FILE_FORMATS", {"webm": [201, 422, 422], "webm,mp4": [201, 201, 422], "m3u8": [422, 422, 201]},
        see.formats_of_a_participant),
    Row("GATEWAY_IDEMPOTENCY_HOURS", {"0.01": [0.01], "720": [720.0]}, see.hours_that_an_answer_is_kept,
        tested_in="tests/api/test_idempotency.py"),
    Row("GATEWAY_MOST_IDEMPOTENCY_KEYS", {"2": [2], "2000": [3]}, see.keys_that_are_remembered,
        tested_in="tests/store/test_idempotency_records.py"),
    Row("GATEWAY_MOST_IDEMPOTENCY_BYTES", {"1024": [1], "1048576": [3]}, see.keys_that_are_remembered,
        tested_in="tests/store/test_idempotency_records.py"),
    Row("GATEWAY_CALLER_STARTS_PER_MINUTE", {"1": [201, 429], "2": [201, 201], "0": [201, 201]},
        see.starts_of_one_caller),
    Row("GATEWAY_TRACK_STARTS_PER_MINUTE", {"1": [201, 201, 429], "3": [201, 201, 201], "0": [201, 201, 201]},
        see.starts_of_one_track),
    Row("GATEWAY_CALLER_TICKETS_PER_MINUTE", {"1": [201, 429], "0": [201, 201]}, see.tickets_of_one_caller),
    Row("GATEWAY_MOST_EVENT_READERS", {"4": 503, "5": 200}, see.second_reader),
    Row("GATEWAY_MOST_WAITING", {"3": 503, "4": 201}, see.start_while_another_waits, _PATIENT),
    Row("GATEWAY_MOST_WEBHOOKS", {"2": 503, "3": 204}, see.webhook_while_another_waits, _PATIENT),
    Row("GATEWAY_UPSTREAM_CONCURRENCY", {"1": 1, "2": 2}, see.calls_side_by_side, _PATIENT),
    Row("GATEWAY_CALLER_QUESTIONS_PER_MINUTE", {"2": [200, 429], "4": [200, 200], "0": [200, 200]},
        see.questions_of_one_caller),
    Row("GATEWAY_READER_CONCURRENCY", {"1": 1, "2": 2}, see.lists_side_by_side, _PATIENT),
    Row("GATEWAY_UPSTREAM_CALLS_PER_SECOND", {"0.01": False, "0": True}, see.second_call_at_once),
    Row("GATEWAY_CHECKS_PER_SECOND", {"0.01": 1, "0": 2}, see.rooms_compared_in_a_moment,
        {**_PATIENT, "GATEWAY_REDIS_URL": "{other-server}", "GATEWAY_CHECK_SECONDS": "3600",
         "GATEWAY_SETTLE_SECONDS": "100", "GATEWAY_REQUEST_DEADLINE_SECONDS": "200"}),
)  # fmt: skip
"""Each served in this process, once with each value."""

PROCESSES: dict[str, dict[str, object]] = {
    "GATEWAY_HOST": {"127.0.0.1": ["127.0.0.1"], "127.0.0.2": ["127.0.0.2"]},
    "GATEWAY_PORT": {"{port}": "{port}", "{other-port}": "{other-port}"},
    "GATEWAY_WORKERS": {"1": 0, "2": 2},
    "GATEWAY_KEEP_ALIVE_SECONDS": {"1": True, "3600": False},
    "GATEWAY_TRANSFER_SECONDS": {"4": True, "600": False},
    "GATEWAY_UNFINISHED_MEBIBYTES": {"1": True, "64": False},
    "GATEWAY_MOST_CONNECTIONS": {"40": True, "10000": False},
    "GATEWAY_DRAIN_SECONDS": {"120": True, "0": False},
    "GATEWAY_LOG_LEVEL": {"info": True, "warning": False},
    "GATEWAY_LOG_FORMAT": {"json": "json", "console": "console"},
    "GATEWAY_TRACING": {"off": False, "otlp": True},
}
"""What a process shows: two processes, one with the first value of each and one with the second."""


@pytest.fixture
async def scene(valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path) -> AsyncGenerator[Scene]:
    """Servers of the row's own."""
    async with AsyncExitStack() as stack:
        yield Scene(valkey, simulator, tmp_path, stack)


def test_every_setting_has_a_row() -> None:
    """A setting that is added without a row fails here; each row tells two values apart."""
    rows = {row.variable: list(row.values.values()) for row in ROWS}
    rows |= {variable: list(values.values()) for variable, values in PROCESSES.items()}
    assert rows.keys() == {setting.variable for setting in SETTINGS}
    assert len(ROWS) + len(PROCESSES) == len(SETTINGS)
    assert [variable for variable, seen in rows.items() if all(one == seen[0] for one in seen)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.variable)
async def test_setting_reaches_its_part_and_changes_what_it_does(scene: Scene, row: Row) -> None:
    """With each value another thing is seen of a gateway that is served with it."""
    observed: dict[str | None, object] = {}
    for value in row.values:
        observed[value] = await row.observe(scene, {**row.more, row.variable: value})
    assert observed == row.values


FILED = {setting.variable: setting.file_variable for setting in SETTINGS if setting.has_file}


@pytest.mark.parametrize("row", [row for row in ROWS if row.variable in FILED], ids=lambda row: row.variable)
async def test_setting_in_a_file_reaches_its_part_and_changes_what_it_does(scene: Scene, row: Row) -> None:
    """The same is seen where the value stands in a file."""
    file = scene.folder / "value"
    observed: dict[str | None, object] = {}
    for value in row.values:
        file.write_text(await scene.fill(value or ""))
        given = {**row.more, row.variable: None, FILED[row.variable]: str(file)}
        observed[value] = await row.observe(scene, given)
    assert observed == row.values


@pytest.fixture(scope="module")
async def processes(
    valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[Scene, Observed]]:
    """What two processes showed that differ in every setting of `PROCESSES`."""
    async with harness.simulator() as simulator, AsyncExitStack() as stack:
        scene = Scene(valkey, simulator, tmp_path_factory.mktemp("processes"), stack)
        first, second = ({name: list(values)[number] for name, values in PROCESSES.items()} for number in (0, 1))
        yield scene, await observe_processes(scene, first, second)


@pytest.mark.parametrize("variable", PROCESSES)
async def test_setting_changes_what_the_process_does(processes: tuple[Scene, Observed], variable: str) -> None:
    """Where and with what it serves, how it ends, and what it writes."""
    scene, observed = processes
    expected = [await scene.fill(seen) if isinstance(seen, str) else seen for seen in PROCESSES[variable].values()]
    assert list(observed[variable]) == expected
