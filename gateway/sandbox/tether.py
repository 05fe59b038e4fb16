"""Tie a program's life to that of the process that started it.

`python tether.py [--remove DIRECTORY] COMMAND…` starts the command and ends it when standard input reaches its end. A
parent holds the other side of that pipe, so its death, of whatever cause, ends the command too: the kernel closes the
pipe. The first and only line on standard output is the command's process id; the command itself writes to standard
error. `--remove` names a directory to remove once standard input has ended, which a killed parent can no longer do.

Stands alone: it is run as a file, without site packages, so that it starts in a few milliseconds.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT)


def run(command: list[str], remove: str | None = None) -> int:
    """Run a command until it ends by itself or standard input does.

    Args:
        command: The program and its arguments.
        remove: Directory to remove after standard input has ended.

    Returns:
        The exit status in the shell's way: 128 and the signal's number where a signal ended it.
    """
    # Signals arrive as bytes on a pipe, so that one `select` waits for everything there is to wait for.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, *_PASSED_ON):
        signal.signal(number, _only_wake)
    child = subprocess.Popen(  # noqa: S603 - running a given command is the purpose
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_die_with_parent(),  # noqa: PLW1509 - no threads
    )
    with contextlib.suppress(BrokenPipeError):  # the parent is gone already, which standard input tells as well
        print(child.pid, flush=True)
    while child.poll() is None:
        ready, _, _ = select.select([sys.stdin, woken], [], [])
        if woken in ready:
            for number in os.read(woken, 64):
                if number in _PASSED_ON:
                    child.send_signal(number)
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
            # Outright: what is tethered keeps nothing, and a stopped process would not see a polite signal.
            child.kill()
            child.wait()
            if remove is not None:
                shutil.rmtree(remove, ignore_errors=True)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _only_wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: a signal that has a handler is written to the pipe, one without is not."""


def _die_with_parent() -> Callable[[], None] | None:
    """Make what the child runs before the command: on Linux, ask to be killed when the tether is."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked for
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def main(arguments: list[str]) -> int:
    """Read the command line and run."""
    remove = None
    if arguments[:1] == ["--remove"]:
        _, remove, *arguments = arguments
    if not arguments:
        print("usage: tether [--remove DIRECTORY] COMMAND…", file=sys.stderr)
        return 2
    try:
        return run(arguments, remove)
    except OSError as error:
        print(f"{arguments[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
