"""Gateways that need not be imported anew: a process that has imported one, and forks others on demand.

Reading the gateway's modules is most of what starting one costs. What is forked is a process like any other: it has the
environment, the folder, the log and the signal handlers of a gateway of its own, and runs the package's `__main__`.
It dies with this process, and this process with whoever started it.

`python -m tests.faults.zygote N` serves requests at the socket that is its file descriptor N.
"""

import ctypes
import gc
import importlib
import itertools
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, Self

import msgspec
from msgspec import Struct

from gateway.app import create_app
from gateway.settings.load import load

__all__ = ["Child", "Zygote"]

_PR_SET_PDEATHSIG: Final = 1
_MAX_BYTES: Final = 100_000
_LATER: Final = (
    "gateway.serving.server",
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "yaml",
)
"""Modules that a gateway imports only once it serves, or that its `__main__` does."""
_ENOUGH: Final = {
    "GATEWAY_REDIS_URL": "redis://127.0.0.1:1",
    "GATEWAY_VIDEOSDK_API_KEY": "key",
    "GATEWAY_VIDEOSDK_SECRET": "0" * 32,
    "GATEWAY_AUTH": "none",
}
"""Settings with which a gateway can be made."""


class _Wanted(Struct, frozen=True):
    """A gateway to be: what its process is given."""

    number: int
    arguments: list[str]
    environ: dict[str, str]
    folder: str
    log: str


class _Told(Struct, frozen=True, omit_defaults=True):
    """What became of a request: it runs, or it has ended with this code, in the shell's way."""

    number: int
    pid: int = 0
    code: int | None = None


# --- the process that forks ---------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Import the gateway, fork whenever asked, and be the gateway in what was forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who starts all this ends it in order
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    for name in _LATER:
        importlib.import_module(name)
    # As `serve` does too before it serves: what is worked out once in each process is then known.
    create_app(load(_ENOUGH))
    gc.collect()
    gc.freeze()  # pages that nobody writes to stay shared
    with socket.socket(fileno=descriptor) as asked:
        wanted = _serve(asked, prctl)
    if wanted is not None:
        sys.argv = ["gateway", *wanted.arguments]
        runpy.run_module("gateway", run_name="__main__", alter_sys=True)


def _serve(asked: socket.socket, prctl: "Callable[..., int] | None") -> _Wanted | None:
    """Fork for each request until there can be none any more; return twice: None here, the request in the child."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, _only_wake)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([asked, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(asked, running)
        if asked not in ready:
            continue
        data = asked.recv(_MAX_BYTES)
        if not data:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return None
        wanted = msgspec.json.decode(data, type=_Wanted)
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            os.close(woken)
            os.close(wake)
            _become(wanted, parent, prctl)
            return wanted
        running[pid] = wanted.number
        _tell(asked, _Told(wanted.number, pid=pid))


def _only_wake(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a signal that has a handler is written to the pipe, one without is not."""


def _reap(asked: socket.socket, running: dict[int, int]) -> None:
    """Tell of every child that has ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        _tell(asked, _Told(running.pop(pid), code=code if code >= 0 else 128 - code))


def _tell(asked: socket.socket, what: _Told) -> None:
    with suppress(OSError):  # nobody listens any more: then the next thing heard is the end
        asked.send(msgspec.json.encode(what))


def _become(wanted: _Wanted, parent: int, prctl: "Callable[..., int] | None") -> None:
    """Make of this process, just forked, what an interpreter is that was started with these arguments."""
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked for
            os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(wanted.environ)
    os.chdir(wanted.folder)
    log = os.open(wanted.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, taken in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, taken)
    os.close(nothing)
    os.close(log)


# --- whoever asks it ----------------------------------------------------------------------------------------------


class Child:
    """A forked gateway, shown as `subprocess.Popen` shows a tether, whose end of input ends the gateway."""

    stdout = None

    def __init__(self, pid: int, ended: "Future[int]") -> None:
        self.pid = pid
        self._ended = ended

    @property
    def stdin(self) -> Self:
        """Return what can be closed."""
        return self

    def close(self) -> None:
        """End it at once, if it still runs."""
        self._signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Return its exit code in the shell's way, None while it runs."""
        return self._ended.result() if self._ended.done() else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, at most for some seconds; return its exit code.

        Raises:
            TimeoutError: It still runs.
        """
        return self._ended.result(timeout)

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Zygote:
    """The process that forks gateways, as a context manager. May be asked from several threads."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._started: dict[int, Future[int]] = {}
        self._ended: dict[int, Future[int]] = {}

    def __enter__(self) -> Self:
        self._asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with asked:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(asked.fileno())],
                env={name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
                cwd=Path(__file__).parents[3],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[asked.fileno()],
            )
        self._listener = threading.Thread(target=self._listen, name="zygote", daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.shutdown(socket.SHUT_WR)
        self._process.wait(30)
        self._listener.join()
        self._asking.close()

    def fork(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> Child:
        """Start a gateway.

        Args:
            arguments: Of the command `gateway`.
            environ: All its variables.
            log: The file at the end of which it writes what an interpreter writes to standard output and error.
        """
        number = next(self._numbers)
        wanted = _Wanted(number, list(arguments), dict(environ), str(Path.cwd()), str(log))
        started = self._started[number] = Future()
        ended = self._ended[number] = Future()
        self._asking.send(msgspec.json.encode(wanted))
        return Child(started.result(60), ended)

    def _listen(self) -> None:
        while data := self._asking.recv(_MAX_BYTES):
            told = msgspec.json.decode(data, type=_Told)
            if told.code is None:
                self._started.pop(told.number).set_result(told.pid)
            else:
                self._ended.pop(told.number).set_result(told.code)
        for waiting in (*self._started.values(), *self._ended.values()):
            waiting.set_exception(ChildProcessError("the process that forks gateways has ended"))


if __name__ == "__main__":
    main(int(sys.argv[1]))
