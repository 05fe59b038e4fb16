"""`make bench`: what other servers would cost; they lie in an environment beside production's packages."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.bench.servers import SHIPPED, Server, compare, table


def main(environment: Path) -> None:
    """Compare what is shipped with the servers of an environment."""
    python, bind = str(environment / "bin" / "python"), ("--host", "127.0.0.1")
    uvicorn = (
        "-m",
        "uvicorn",
        "--factory",
        "gateway.serving.server:build",
        "--no-access-log",
        "--no-server-header",
        *bind,
    )
    granian = ("-m", "granian", "--interface", "asgi", "--factory", "gateway.serving.server:build", "--no-ws", *bind)
    servers = [
        SHIPPED,
        Server("uvicorn, httptools", (python, *uvicorn, "--http", "httptools"), "--port"),
        Server("granian", (python, *granian, "--workers", "1", "--log-level", "warning"), "--port"),
    ]
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        print(table(asyncio.run(compare(servers, Path(folder), rounds=5, requests=1000))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
