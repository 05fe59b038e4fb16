"""What a command makes of the gateway's answer, and of its arguments: in this process, and any server answers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from gateway.sandbox.wire import Reply
from gateway.terminal.arguments import parse
from gateway.terminal.client import run
from gateway.terminal.exit_codes import ExitCode
from gateway.terminal.watch import backoff
from tests.terminal.test_client import another_server

pytestmark = pytest.mark.anyio


class Answered(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Ask = Callable[..., Awaitable[Answered]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command that is answered this, by a gateway that is none."""

    async def ask(answer: object, *arguments: str) -> Answered:
        async with another_server(Reply(200, json.dumps(answer).encode())) as url:
            command, *rest = arguments
            code = await asyncio.to_thread(run, parse([command, "--address", url, *rest]))
        out, err = capsys.readouterr()
        return Answered(code, out, err)

    return ask


@pytest.mark.parametrize(
    ("results", "complete", "code"),
    [
        ([200, 200], True, ExitCode.DONE),
        ([200, 202], True, ExitCode.UNKNOWN),
        ([200], False, ExitCode.UNKNOWN),
        ([200, 400], True, ExitCode.REFUSED),
        ([504], True, ExitCode.UNKNOWN),
        ([500], True, ExitCode.UNKNOWN),
        ([503], True, ExitCode.NOT_NOW),
        ([(422, 3)], True, ExitCode.NOT_NOW),
        ([503], False, ExitCode.UNKNOWN),
        ([503, 504], True, ExitCode.UNKNOWN),
        ([503, 504, 422], True, ExitCode.REFUSED),
        ([403], False, ExitCode.REFUSED),
    ],
)
async def test_stop_of_a_whole_room_ends_with_the_code_of_what_has_to_be_changed_first(
    ask: Ask, results: list[int | tuple[int, int]], complete: bool, code: ExitCode
) -> None:
    """Each stop has the code of a single one; what must be changed stands before what may be asked again."""
    pairs = [result if isinstance(result, tuple) else (result, None) for result in results]
    listed = [{"target": {}, "status": status, "retryAfter": after} for status, after in pairs]
    answer = {"results": listed, "complete": complete, "foreignLeft": 0}
    ended = await ask(answer, "stop", "--all", "room")
    assert ended.code == code, ended


@pytest.mark.parametrize(
    ("more", "did", "until"),
    [
        ({"outcome": "already_recording"}, "(already recording)", True),
        ({"outcome": None}, "(nothing done)", True),
        ({"outcome": "stopped", "endedAt": "2026-01-01T01:00:00Z"}, "(stopped)", False),
    ],
    ids=["running", "no outcome", "ended"],
)
async def test_start_answered_says_what_was_done_and_until_when_what_runs(
    ask: Ask, more: dict[str, Any], did: str, *, until: bool
) -> None:
    """The outcome in words, or that there was none; when it stops stands there only while it runs."""
    recording = {"roomId": "room", "status": "recording", "stopsAt": "2026-01-01T02:00:00Z", **more}
    ended = await ask(recording, "start", "--mode", "room", "room")
    assert ended.code == ExitCode.DONE, ended
    assert ended.out.startswith(f"room: recording {did}\n")
    assert ("\n  until " in ended.out) is until


def test_wait_is_a_millisecond_to_an_hour(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ends can be asked for, and nothing beyond them."""
    for given in ("0.001", "3600"):
        assert parse(["stop", "--wait", given, "room"]).wait == float(given)
    for given in ("0.0009", "3600.1", "nan", "-1"):
        with pytest.raises(SystemExit) as ended:
            parse(["stop", f"--wait={given}", "room"])
        assert ended.value.code == ExitCode.USAGE
        assert "expected seconds, from 0.001 to 3600" in capsys.readouterr().err


def test_backoff_begins_at_once_and_doubles_the_gateways_pace() -> None:
    """The first try comes soon, not all at one moment; later ones after the pace, twice that and so on, to a bound."""
    soon = {backoff(0, 2.0) for _ in range(20)}
    assert len(soon) > 1
    assert all(0.1 <= seconds <= 0.5 for seconds in soon)
    assert [backoff(failures, 2.0) for failures in (1, 2, 3, 4, 5, 2000)] == [2, 4, 8, 16, 30, 30]
    assert backoff(2, 0.1) == 0.2
