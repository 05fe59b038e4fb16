"""The embedded Valkey: comes up, obeys its arguments, and never outlives its parent."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.sandbox import tether
from gateway.sandbox.ports import free_port
from gateway.sandbox.valkey import EmbeddedValkey, ValkeyError
from tests import harness

PARENT = """
import sys
import threading
from gateway.sandbox.valkey import EmbeddedValkey
valkey = EmbeddedValkey(port=None).start()
print(valkey.pid, valkey.url, flush=True)
sys.stdin.read()
"""


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
        except (FileNotFoundError, ProcessLookupError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def command(valkey: EmbeddedValkey, line: str, deadline: float = 5) -> str:
    """Send one inline command on a connection of its own and return the first lines of its reply."""
    address = urlsplit(valkey.url)
    family = socket.AF_UNIX if address.scheme == "unix" else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(deadline)
        connection.connect(address.path if address.scheme == "unix" else (str(address.hostname), address.port))
        connection.sendall(f"{line}\r\n".encode())
        return connection.recv(65536).decode()


@pytest.mark.parametrize("port", [None, 0])
def test_server_answers_and_is_gone_afterwards(port: int | None):
    """On a socket or a free port, the server answers inside the context and leaves nothing behind it."""
    with EmbeddedValkey(port=port) as valkey:
        pid = valkey.pid
        assert command(valkey, "PING") == "+PONG\r\n"
        assert f"process_id:{pid}\r\n" in command(valkey, "INFO server")
        assert valkey.url.startswith("unix:///" if port is None else "redis://127.0.0.1:")
        directory = Path(command(valkey, "CONFIG GET dir").split("\r\n")[4]).parent
        assert directory.is_dir()
    assert not runs(pid)
    assert not directory.exists()
    with pytest.raises(ValkeyError):
        _ = valkey.pid


def test_server_keeps_and_evicts_nothing():
    """It writes no files, and refuses writes rather than forget a key when its memory is full."""
    with EmbeddedValkey() as valkey:
        assert command(valkey, "CONFIG GET save").split("\r\n")[4] == ""
        assert command(valkey, "CONFIG GET appendonly").split("\r\n")[4] == "no"
        assert command(valkey, "CONFIG GET maxmemory-policy").split("\r\n")[4] == "noeviction"


@pytest.mark.parametrize("port", [None, 0])
def test_restart_is_empty_at_the_same_address(port: int | None):
    """After a restart, and after a crash, another server answers at the same address and has no keys."""
    with EmbeddedValkey(port=port) as valkey:
        url, first = valkey.url, valkey.pid
        command(valkey, "SET a 1")
        valkey.restart()
        assert (valkey.url, command(valkey, "DBSIZE")) == (url, ":0\r\n")
        second = valkey.pid
        valkey.kill()
        assert not runs(second)
        with pytest.raises(OSError, match="refused"):
            command(valkey, "PING")
        valkey.restart()
        assert command(valkey, "PING") == "+PONG\r\n"
        assert len({first, second, valkey.pid}) == 3


def test_paused_server_keeps_still_until_resumed():
    """A paused server accepts connections and says nothing; resumed, it goes on with its keys."""
    with EmbeddedValkey() as valkey:
        command(valkey, "SET a 1")
        valkey.pause()
        # Nothing comes after a silence that would show it: it is listened to for a while, and cannot end too early.
        with pytest.raises(TimeoutError):
            command(valkey, "GET a", deadline=0.2)
        valkey.resume()
        assert command(valkey, "GET a") == "$1\r\n1\r\n"
        valkey.pause()
        pid = valkey.pid
    assert not runs(pid)


def test_killing_the_parent_ends_the_server():
    """A parent that is killed outright takes the server and its directory with it."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().decode().split()
        directory = Path(urlsplit(url).path).parent
        assert runs(int(pid))
        assert directory.is_dir()
        parent.kill()
        harness.wait_until(lambda: not runs(int(pid)))
        harness.wait_until(lambda: not directory.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_killing_the_tether_ends_the_server():
    """What holds the server may itself be killed: the server goes too, and a restart brings another."""
    with EmbeddedValkey() as valkey:
        pid = valkey.pid
        status = Path(f"/proc/{pid}/status").read_text()
        os.kill(int(status.partition("PPid:")[2].split()[0]), signal.SIGKILL)
        harness.wait_until(lambda: not runs(pid))
        valkey.restart()
        assert command(valkey, "PING") == "+PONG\r\n"


def test_extra_arguments_and_configuration_are_used():
    """Arguments and lines of configuration reach the server."""
    extra, config = ["--cluster-enabled", "yes"], ["maxmemory 64mb"]
    with EmbeddedValkey(port=harness.node_port(), extra=extra, config=config) as valkey:
        assert "cluster_enabled:1" in command(valkey, "INFO cluster")
        assert command(valkey, "CONFIG GET maxmemory").split("\r\n")[4] == str(64 * 1024 * 1024)


def test_server_with_a_password_counts_as_up():
    """A server that wants a password first has come up."""
    with EmbeddedValkey(config=["requirepass open-sesame"]) as valkey:
        assert command(valkey, "GET a").startswith("-NOAUTH")


def test_another_binary_may_be_given(tmp_path: Path):
    """Any server that takes the same arguments can be run instead; a path says which."""
    with EmbeddedValkey() as valkey:
        packaged = Path(f"/proc/{valkey.pid}/exe") if sys.platform == "linux" else None
        link = tmp_path / "redis-server"
        if packaged is None:
            pytest.skip("the packaged server is found through /proc")
        shutil.copy2(packaged.resolve(), link)
    with EmbeddedValkey(binary=link) as valkey:
        assert Path(f"/proc/{valkey.pid}/exe").resolve() == link


def test_failure_to_start_names_the_servers_error():
    """A server that refuses its arguments, or is not there, is an error that holds what it said."""
    with pytest.raises(ValkeyError, match="Bad directive"):
        EmbeddedValkey(extra=["--no-such-directive", "1"]).start()
    with pytest.raises(ValkeyError, match="No such file"):
        EmbeddedValkey(binary="/nonexistent/valkey-server").start()


def test_silent_server_is_given_up(tmp_path: Path):
    """A program that runs and never answers is ended when its time is over, and no process of it is left."""
    silent, said = tmp_path / "silent", tmp_path / "pid"
    silent.write_text(f"#!/bin/sh\necho $$ > {said}\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(ValkeyError, match=r"did not answer in 1 s; it said: nothing"):
        EmbeddedValkey(binary=silent, start_timeout=timedelta(seconds=1)).start()
    assert not runs(int(said.read_text()))


def test_port_that_is_given_back_in_a_moment_is_waited_for() -> None:
    """A process that is being started holds for a moment what was open here when it was forked."""
    port = free_port()
    with socket.socket() as inherited:
        inherited.bind(("127.0.0.1", port))
        threading.Timer(0.1, inherited.close).start()
        with EmbeddedValkey(port=port) as server:
            assert server.port == port


def test_taken_port_is_refused():
    """A port that another process listens on is an error, not a mix-up of servers."""
    with EmbeddedValkey(port=0) as first, pytest.raises(ValkeyError, match="cannot be used"):
        EmbeddedValkey(port=first.port).start()


def test_starting_twice_and_stopping_twice():
    """A second start is refused, a second stop does nothing, and a stopped server may be started again."""
    valkey = EmbeddedValkey()
    valkey.stop()
    with valkey:
        with pytest.raises(ValkeyError, match="already"):
            valkey.start()
        valkey.stop()
    with valkey.start():
        assert command(valkey, "PING") == "+PONG\r\n"


@contextlib.contextmanager
def tethered(*arguments: str):
    """Run the tether as a program and give it back with the pid it printed."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", tether.__file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


def test_tether_passes_signals_on_and_the_status_back():
    """A signal to the tether reaches the command, whose end is the tether's."""
    with tethered("sleep", "60") as (process, pid):
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    assert not runs(pid)
    with tethered("sh", "-c", "exit 7") as (process, _):
        assert process.wait(10) == 7


def test_tether_removes_a_directory_at_the_end_of_its_input(tmp_path: Path):
    """When its input ends, the command is killed and the directory it was given is removed."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    with tethered("--remove", str(directory), "sleep", "60") as (process, pid):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 128 + signal.SIGKILL
    assert not runs(pid)
    assert not directory.exists()


def test_tether_without_a_command_says_how_to_use_it():
    """Called wrongly, it explains itself and fails."""
    run = subprocess.run([sys.executable, tether.__file__], capture_output=True, stdin=subprocess.DEVNULL)
    assert (run.returncode, run.stderr[:6]) == (2, b"usage:")
