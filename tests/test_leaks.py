"""The search for secrets finds what it is meant to find, and a finding fails the session."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest

from gateway.auth.api_keys import new_key
from tests.leaks import Evidence

ROOT = Path(__file__).parents[1]


@pytest.fixture
def evidence() -> Iterator[Evidence]:
    """Evidence of no session."""
    evidence = Evidence()
    evidence.guard("hunter2-secret", "the VideoSDK secret")
    yield evidence
    evidence.close()


def planted() -> list[tuple[str, str]]:
    """Return lines with a secret in them, and what each is reported as."""
    token = jwt.encode({"apikey": "k", "version": 2}, "x" * 32, "HS256")
    key, _ = new_key("demo")
    return [
        ('{"detail": "signed with hunter2-secret"}', "the VideoSDK secret"),
        (f'{{"event": "sent", "text": "{token}"}}', "a token"),
        (f"curl -H 'X-Key: {key}'", "a key"),
        ('{"headers": {"Authorization": "0123456789"}}', "an Authorization header"),
        ("authorization: Bearer abcdefgh", "an Authorization header"),
    ]


@pytest.mark.parametrize(("line", "found"), planted(), ids=lambda value: value if " " in value[:4] else "")
def test_leak_search_finds_a_planted_secret_and_does_not_repeat_it(
    evidence: Evidence, tmp_path: Path, line: str, found: str
):
    """Each sort of secret is found in a log, with its line, and the report does not hold it."""
    log = tmp_path / "gateway.log"
    log.write_text(f"harmless\n{line}\n")
    evidence.add(log)
    assert list(evidence.search()) == [f"{log}:2: {found}"]


def test_answers_and_logs_of_this_process_are_searched(evidence: Evidence):
    """A secret in an answer's body or headers is found, and so is one in the log."""
    request = httpx.Request("GET", "http://gateway/v1")
    evidence.note(httpx.Response(500, headers={"x-debug": "hunter2-secret"}, text="fine", request=request))
    evidence.note(httpx.Response(500, text="hunter2-secret", request=request))
    evidence.log.write("hunter2-secret\n")
    assert len(list(evidence.search())) == 3


def test_leak_search_ignores_honest_text(evidence: Evidence, tmp_path: Path):
    """What the gateway says about keys, and what it has masked, is no finding."""
    log = tmp_path / "gateway.log"
    log.write_text(
        "Send `Authorization: Bearer <key>` with a key.\nThe Authorization header must read `Bearer <key>`.\n"
        '{"authorization": "[redacted]"}\nauthorization: Bearer [redacted]\n{"prefix": "gw_01234567"}\n'
    )
    evidence.add(log)
    assert list(evidence.search()) == []


def test_log_is_searched_after_it_is_gone(evidence: Evidence, tmp_path: Path):
    """A log that was kept is searched although its folder is removed before the end."""
    log = tmp_path / "gateway.log"
    log.write_text("hunter2-secret\n")
    evidence.add(log)
    evidence.keep(log)
    log.unlink()
    evidence.keep(log)
    assert len(list(evidence.search())) == 1


def test_log_that_cannot_be_read_is_a_finding(evidence: Evidence, tmp_path: Path):
    """What cannot be searched is not taken for clean."""
    evidence.add(tmp_path / "gone.log")
    assert list(evidence.search()) == [f"{tmp_path / 'gone.log'}: cannot be searched (FileNotFoundError)"]


def test_finding_fails_a_session_whose_tests_pass(tmp_path: Path):
    """A session of one good test ends with 1 if a secret was let out meanwhile, and says where; otherwise with 0."""
    (tmp_path / "conftest.py").write_text("from tests.leaks import pytest_sessionfinish, pytest_terminal_summary\n")
    (tmp_path / "test_good.py").write_text(
        'def test_good():\n    """Let out what the environment says."""\n    import os\n'
        "    from tests.leaks import EVIDENCE\n"
        "    EVIDENCE.guard('hunter2-secret', 'the VideoSDK secret')\n"
        "    EVIDENCE.log.write(os.environ['LET_OUT'])\n"
    )

    # What a session with findings keeps for people to look at is not left behind by this one.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}

    def run(let_out: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={tmp_path}", "-c", os.devnull, str(tmp_path)]
        return subprocess.run(
            command, cwd=ROOT, env=environment | {"LET_OUT": let_out}, capture_output=True, text=True, timeout=60
        )

    clean, dirty = run("nothing"), run("hunter2-secret")
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert dirty.returncode == 1
    assert "1 passed" in dirty.stdout
    assert "in-process.log:1: the VideoSDK secret" in dirty.stdout
    assert "hunter2" not in dirty.stdout
