"""Whether the gateway on this machine lives: `python -m gateway.serving.healthcheck`, for a container's health check.

A program of its own, without any of the gateway's parts: it runs every few seconds, and must not cost what starting
the gateway costs. Exit code 0 where `/livez` answers 200, else 1. Readiness is the business of load balancers: a
gateway that waits for its Redis must not be restarted for it.
"""

import os
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException

__all__ = ["lives"]

_SECONDS = 3.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - whoever listens everywhere listens here too


def lives(environ: Mapping[str, str]) -> bool:
    """Return whether the gateway with these settings answers."""
    host = environ.get("GATEWAY_HOST") or "127.0.0.1"
    connection = HTTPConnection(_EVERYWHERE.get(host, host), int(environ.get("GATEWAY_PORT") or 8080), timeout=_SECONDS)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if lives(os.environ) else 1)
