"""A Unix socket offered over TLS. `python -m tests.tls_relay PORT CERTIFICATE KEY SOCKET`, until it is ended.

A process of its own: where a client breaks off, asyncio leaves the server's side of a connection unclosed now and then,
and in the tests' process that would be reported as theirs.
"""

import asyncio
import ssl
import sys
from contextlib import suppress


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def _serve(port: int, certificate: str, key: str, path: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(_copy(reader, redis_writer), _copy(redis_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), *sys.argv[2:]))
