"""The model of `python -m benchmarks serve`: that of `benchmarks/endpoint.py`, whose deltas are the times that they
were sent at (CLOCK_MONOTONIC in ns, and a space), so that who reads them at the other end knows how late they are.

`python -m benchmarks.serve_endpoint` prints its port and serves until it is stopped.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator

from benchmarks.endpoint import Connection

__all__ = ["StampingConnection"]

_DELTA = re.compile(rb'"delta":"[^"]*"')


class StampingConnection(Connection):
    """Writes the time into each delta of a paced answer as it leaves."""

    def _write_next(self, rest: Iterator[bytes]) -> None:
        super()._write_next(_stamped(piece) if b'"delta":"' in piece else piece for piece in rest)


def _stamped(chunk: bytes) -> bytes:
    body = chunk.partition(b"\r\n")[2].removesuffix(b"\r\n")
    body = _DELTA.sub(b'"delta":"%d "' % time.monotonic_ns(), body)
    return b"%x\r\n%b\r\n" % (len(body), body)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(StampingConnection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main())
