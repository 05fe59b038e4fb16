"""Everything the gateway let out during the tests, and the search for secrets in it.

`tests.harness` hands over the log of every gateway process and every answer its clients got, `/metrics` among them; the
collector of traces hands over every span; `tests/conftest.py` sends the logs of gateways in this process to a file.
After the last test all of it is searched, and so is the contract. A finding fails the session, whatever the tests said.
"""

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO, cast

import httpx
import pytest

OPENAPI: Final = Path(__file__).parents[1] / "openapi"

_PATTERNS: Final = {
    "a token": re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    "a key": re.compile(r"gw_[0-9a-f]{8}_[A-Za-z0-9_-]{20,}"),
    "an Authorization header": re.compile(
        r"(?i)authorization[\"']?\s*[:=]\s*[\"']?(?:bearer\s+)?(?!\[redacted\])[A-Za-z0-9._~+/-]{8,}"
    ),
}
_FILES: Final = frozenset({"text/javascript", "text/css", "image/png"})


class Evidence:
    """What was let out, on disk, and the secrets that must not be in it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-evidence-"))
        self._files: dict[Path, None] = {}
        self._secrets: dict[str, str] = {}
        self._copies = 0
        self.log: TextIO = self._open("in-process.log")
        self._answers = self._open("answers")
        atexit.register(self.close)

    def _open(self, name: str) -> TextIO:
        self.add(self._folder / name)
        return (self._folder / name).open("a", buffering=1, encoding="utf-8", errors="replace")

    def add(self, file: Path) -> None:
        """Have a file searched at the end; it need not exist yet."""
        self._files[file] = None

    def keep(self, file: Path) -> None:
        """Search a copy of a file instead, because the file itself may be gone at the end."""
        if file.exists():
            self._copies += 1
            copy = self._folder / f"{self._copies}-{file.name}"
            shutil.copyfile(file, copy)
            self._files.pop(file, None)
            self.add(copy)

    def guard(self, secret: str, name: str) -> None:
        """Have a secret searched for; what is reported of it is its name."""
        self._secrets[secret] = name

    def note(self, response: httpx.Response) -> None:
        """Keep an answer, with its headers. Scripts, styles and pictures are files, the same for everybody."""
        if response.headers.get("content-type", "").partition(";")[0] in _FILES:
            return
        headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        self._answers.write(f"{response.status_code} {response.request.url.path}\n{headers}\n\n{response.text}\n\n")

    def tell(self, text: str) -> None:
        """Keep something else that was let out."""
        self._answers.write(f"{text}\n\n")

    def search(self, *more: Path) -> Iterator[str]:
        """Say which file holds which secret, in which line, without repeating it."""
        for stream in (self.log, self._answers):
            stream.flush()
        for file in (*self._files, *more):
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                yield f"{file}: cannot be searched ({type(error).__name__})"
                continue
            for number, line in enumerate(text.splitlines(), 1):
                for found in self._names(line):
                    yield f"{file}:{number}: {found}"

    def _names(self, line: str) -> Iterator[str]:
        yield from (name for secret, name in self._secrets.items() if secret in line)
        yield from (name for name, pattern in _PATTERNS.items() if pattern.search(line))

    def close(self) -> None:
        """Remove what was kept."""
        self.log.close()
        self._answers.close()
        shutil.rmtree(self._folder, ignore_errors=True)


EVIDENCE: Final = Evidence()
"""Of this session."""
_FINDINGS: Final = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search, and fail the session where something is found. Each worker searches what its own tests let out."""
    findings = session.config.stash.setdefault(_FINDINGS, [])
    findings += EVIDENCE.search(*sorted(OPENAPI.glob("*.yaml")))
    if hasattr(session.config, "workeroutput"):
        cast("Any", session.config).workeroutput["leaks"] = findings
    if findings:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        # A person will want to look.
        atexit.unregister(EVIDENCE.close)


def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker has found."""
    findings = node.config.stash.setdefault(_FINDINGS, [])
    # A worker that crashed has nothing to say; that fails the session anyway.
    findings += getattr(node, "workeroutput", {}).get("leaks", [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was found, and where."""
    if findings := config.stash.get(_FINDINGS, []):
        terminalreporter.section("secrets were let out", red=True)
        for finding in findings:
            terminalreporter.line(finding)
