"""How the gateway is served: uvicorn's workers and its end, around connections of our own (`connection`)."""

import gc
import multiprocessing
import multiprocessing.process
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import nullcontext
from types import FrameType
from typing import Any, Final

import uvicorn

from gateway.app import create_app
from gateway.lifecycle import Drain
from gateway.observability import logs, workers
from gateway.serving.connection import LineProtocol, connection_places
from gateway.serving.unfinished import Unfinished
from gateway.settings.load import load
from gateway.settings.model import Settings

__all__ = ["SERVER", "NoPlaceError", "build", "serve"]

_APP: Final = "gateway.serving.server:build"
_EVERY_ADDRESS: Final = "::"
_WORKER_SECONDS: Final = 30
"""How long a worker may take to answer uvicorn's health check. It answers once the gateway's modules are
read, which takes longer than uvicorn's own 5 s on a machine that is busy or short of CPU: such a worker would be killed
and replaced for ever, and none would serve."""
_OTHER_FILES: Final = 256
"""Files that are no callers' connections: those to Redis and VideoSDK, and what the process reads and writes."""
_LEAST_CONNECTIONS: Final = 16
_COLLECT_AFTER: Final = 10_000
"""Objects that are made and stay, after which Python looks for garbage; by itself it does after 700."""


class NoPlaceError(Exception):
    """No directory can hold the files that several workers share."""


def serve(settings: Settings) -> None:
    """Serve until a signal ends it, then exit with status 0.

    Raises:
        CallersFileError: The callers file cannot be used.
        NotInstalledError: Traces are asked for, and the extra that makes them is not there.
        NoPlaceError: Several workers are to serve, and there is no place for temporary files.
    """
    logs.configure(settings.log_level, settings.log_format)
    create_app(settings)  # what is wrong shows now, once, and not in every worker
    # Uvicorn raises the signal once more after its own orderly end: that is then an ordinary exit.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    try:
        numbers = workers.shared() if settings.workers > 1 else nullcontext()
    except OSError as error:
        raise NoPlaceError(f"several workers need a place for temporary files: {error}") from error
    with numbers:
        options: dict[str, Any] = {
            "factory": True,
            "host": settings.host,
            "port": settings.port,
            "timeout_keep_alive": round(settings.keep_alive.total_seconds()),
            # A request's own deadline is the longest wait; what is left then is for the lifespan and other replicas.
            "timeout_graceful_shutdown": round(settings.request_deadline.total_seconds()) + 1,
            **SERVER,
        }
        if settings.workers == 1 and settings.host == _EVERY_ADDRESS:
            _serve_dual_stack(options)
        else:
            uvicorn.run(_APP, workers=settings.workers, timeout_worker_healthcheck=_WORKER_SECONDS, **options)


def _serve_dual_stack(options: dict[str, Any]) -> None:
    """Serve at IPv4's addresses too: asyncio takes `::` for IPv6's alone, unlike the socket that workers share."""
    config = uvicorn.Config(_APP, **options)
    listener = config.bind_socket()
    # Asyncio sets this for sockets that it made itself: else each answer waits for the client's kernel.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def build() -> object:
    """Build the application from the environment, in a worker process."""
    settings = load(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_after, args=(parent,), name="parent", daemon=True).start()
    _bound_connections(settings)
    app = create_app(settings, Drain(settings.drain.total_seconds()))
    _collect_seldom()
    return app


def _collect_seldom() -> None:
    """Have Python look for cyclic garbage seldom, and never at what is there from the start, which stays.

    Requests leave none behind, and to look for it as often as Python does by itself took a tenth of each start.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _bound_connections(settings: Settings) -> None:
    """Bound what this process's connections may take up. It has one server, so they have one class."""
    LineProtocol.arrival_seconds = LineProtocol.reading_seconds = settings.transfer.total_seconds()
    LineProtocol.places = connection_places(_most_connections(settings.most_connections))
    LineProtocol.unfinished = Unfinished(settings.unfinished_mebibytes * 1024 * 1024)


def _most_connections(wanted: int) -> int:
    """Return for how many connections the process may open files, after it has asked for as many as are wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in {soft, hard} and soft < wanted + _OTHER_FILES:
        soft = max(soft, min(hard, wanted + _OTHER_FILES))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(_LEAST_CONNECTIONS, soft - _OTHER_FILES))


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    """End this worker when its parent is gone: no other process would end it, and it would hold the port for ever."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _exit(_number: int, _frame: FrameType | None) -> None:
    # A second signal while Python ends would end the process by itself, and be its exit status.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


SERVER: Final[dict[str, Any]] = {
    "http": LineProtocol,
    "ws": "none",
    "lifespan": "on",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    # The gateway asks neither where a request came from nor by which scheme.
    "proxy_headers": False,
    "date_header": True,
}
"""Uvicorn's settings, wherever the gateway is served."""
