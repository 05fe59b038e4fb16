"""Ports for servers that are started in a while."""

import random
import socket
from pathlib import Path
from typing import Final

__all__ = ["PORTS", "free_port"]


def _ports() -> tuple[int, int]:
    """Return the first and the last port below those that the kernel gives away."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except OSError:
        first = 32768
    return (10_000, first) if first > 11_000 else (61_000, 65_536)


PORTS: Final = _ports()
"""Where free ports are looked for: from the one to below the other."""

_given: set[int] = set()
_chance: Final = random.SystemRandom()


def free_port(below: int = PORTS[1]) -> int:
    """Return a free port of loopback, for a process that will in a while.

    Not one of those that the kernel gives out for any, or for a connection: until that process is up,
    another process could get it. And none that this process has returned before.

    Args:
        below: The lowest port that is not wanted, if the kernel leaves any below it.
    """
    first, last = PORTS
    while True:
        port = _chance.randrange(first, max(min(below, last), first + 1_000))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
