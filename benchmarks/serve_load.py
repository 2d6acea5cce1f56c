"""Many readers of one server, as one process: how far behind the model is what they see?

`python -m benchmarks.serve_load JSON` carries out one `Task` and prints a JSON row. A stream's lag is the time between
the sending of a delta, which is its text (`serve_endpoint.py`), and its arrival here.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Task", "cpu_s", "rss_bytes"]

_STAMP = re.compile(rb"(\d{12,}) ")
_PAGE_BYTES = 4096
_RUN_ID = re.compile(rb"(?i)\r\nrunstream-run-id: *(\S+)")


@dataclass
class Task:
    """`kind`: `streams` (each asks for an answer of its own), `shared` (all but the first follow the first one's run),
    `idle` (they follow runs of which nothing comes)."""

    kind: str
    port: int
    pid: int
    path: str
    body: str
    streams: int
    deltas: int
    ramp_s: float = 2.0


@dataclass
class _Seen:
    lags_ms: list[float] = field(default_factory=list)
    firsts_ms: list[float] = field(default_factory=list)
    broken: int = 0


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def _post(task: Task) -> bytes:
    body = task.body.encode()
    head = (
        f"POST {task.path} HTTP/1.1\r\nhost: 127.0.0.1:{task.port}\r\ncontent-type: application/json\r\n"
        f"accept: text/event-stream\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _read(task: Task, request: bytes, seen: _Seen, delay_s: float = 0.0) -> None:
    await asyncio.sleep(delay_s)
    begun = time.monotonic_ns()
    count, rest = 0, b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", task.port, limit=1 << 22)
        writer.write(request)
        while data := await reader.read(1 << 16):
            now = time.monotonic_ns()
            rest += data
            end = 0
            for match in _STAMP.finditer(rest):
                if count == task.deltas:
                    break
                if not count:
                    seen.firsts_ms.append((now - begun) / 1e6)
                count += 1
                seen.lags_ms.append((now - int(match[1])) / 1e6)
                end = match.end()
            rest = rest[end:][-4096:] if count < task.deltas else b""
        writer.close()
    except OSError:
        pass
    seen.broken += count < task.deltas


async def _streams(task: Task) -> dict[str, Any]:
    seen, request = _Seen(), _post(task)
    starts = [_read(task, request, seen, task.ramp_s * number / task.streams) for number in range(task.streams)]
    return await _charged(task, seen, starts)


async def _shared(task: Task) -> dict[str, Any]:
    """All follow one run, from its first event."""
    seen = _Seen()
    run_id, first = await _begin(task)
    request = _get(task, run_id)
    row = await _charged(task, seen, [_read(task, request, seen) for _ in range(task.streams)])
    first.close()
    return row


async def _begin(task: Task) -> tuple[str, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", task.port, limit=1 << 22)
    writer.write(_post(task))
    head = await reader.readuntil(b"\r\n\r\n")
    match = _RUN_ID.search(head)
    if match is None:
        raise RuntimeError(f"the server did not begin a run: {head[:200]!r}")
    return match[1].decode(), writer


def _get(task: Task, run_id: str) -> bytes:
    return f"GET {task.path}/{run_id}/events HTTP/1.1\r\nhost: 127.0.0.1:{task.port}\r\n\r\n".encode()


async def _charged(task: Task, seen: _Seen, streams: list[Any]) -> dict[str, Any]:
    """Carry the streams out, and say what they cost the server."""
    cpu, before = cpu_s(task.pid), rss_bytes(task.pid)
    peak = before
    waiting = {asyncio.ensure_future(stream) for stream in streams}
    while waiting:
        _, waiting = await asyncio.wait(waiting, timeout=0.25)
        peak = max(peak, rss_bytes(task.pid))
    lags, firsts = sorted(seen.lags_ms), sorted(seen.firsts_ms)
    return {
        "streams": task.streams,
        "deltas": len(lags),
        "broken": seen.broken,
        "lag_ms_p50": _at(lags, 0.5),
        "lag_ms_p99": _at(lags, 0.99),
        "first_ms_p50": _at(firsts, 0.5),
        "cpu_us_per_delta": (cpu_s(task.pid) - cpu) / max(len(lags), 1) * 1e6,
        "kb_per_stream": (peak - before) / 1024 / task.streams,
    }


def _at(values: list[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


async def _idle(task: Task) -> dict[str, Any]:
    """Readers of runs of which nothing comes, a hundred each."""
    runs = [await _begin(task) for _ in range(-(-task.streams // 100))]
    await asyncio.sleep(1.0)
    before = rss_bytes(task.pid)
    writers: list[asyncio.StreamWriter] = []
    for number in range(task.streams):
        reader, writer = await asyncio.open_connection("127.0.0.1", task.port)
        writer.write(_get(task, runs[number // 100][0]))
        await reader.readuntil(b"data: ")
        writers.append(writer)
    await asyncio.sleep(1.0)
    grown = rss_bytes(task.pid) - before
    for writer in (*writers, *(writer for _, writer in runs)):
        writer.close()
    return {"streams": task.streams, "grown_mb": grown / 1e6}


if __name__ == "__main__":
    import uvloop

    given = Task(**json.loads(sys.argv[1]))
    print(json.dumps(uvloop.run({"streams": _streams, "shared": _shared, "idle": _idle}[given.kind](given))))
