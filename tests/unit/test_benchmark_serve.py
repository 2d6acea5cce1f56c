"""The benchmark of the server: its model's stamps, its ramp and its tables, with no process started."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

# Not part of the package, so not installed: found beside src/.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import serve
from benchmarks.serve_endpoint import StampingConnection


class _Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def test_a_delta_is_the_time_it_was_sent_at() -> None:
    """The chunk's length fits the new text; what is no delta stays as it is, and the answer ends."""
    connection, transport = StampingConnection(), _Transport()
    connection.connection_made(transport)  # pyright: ignore[reportArgumentType]
    event = b'data: {"type":"response.output_text.delta","delta":"word "}\n\n'
    other = b"5\r\nother\r\n"
    rest = iter([other, b"%x\r\n%b\r\n" % (len(event), event)])
    for _ in range(3):
        connection._write_next(rest)
    assert transport.written[0] == other
    assert transport.written[2] == b"0\r\n\r\n"
    size, body = transport.written[1].split(b"\r\n", 1)
    assert body[int(size, 16) :] == b"\r\n"
    stamp = int(body.partition(b'"delta":"')[2].partition(b" ")[0])
    assert 0 <= time.monotonic_ns() - stamp < 5_000_000_000


def test_the_ramp_ends_where_all_attempts_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad moment of the machine does not end it, and one server's end is not the others'."""
    asked: list[tuple[int, int]] = []

    def load(task: Any) -> dict[str, Any]:
        asked.append((task.port, task.streams))
        late = (task.port == 1 and task.streams == 100) or asked == [(1, 25)]
        return {"lag_ms_p99": 150.0 if late else 20.0, "broken": 0}

    monkeypatch.setattr(serve, "_load", load)
    servers = [serve._Server("runstream", 1, 1), serve._Server("gateway-floor", 2, 1)]
    held = serve._held(servers, lambda _: None, deltas=100, most=150)
    assert held == {"runstream": 70, "gateway-floor": 150}
    assert asked[:3] == [(1, 25), (2, 25), (1, 25)]
    assert asked.count((1, 100)) == 3
    assert (1, 150) not in asked


def test_goals_are_told_with_their_limits() -> None:
    """Each goal has what was measured, the limit by the others' figures, and whether it holds."""
    figures: dict[str, dict[str, float]] = {
        "runstream": {"held": 280, "cpu_us_per_delta_50": 60, "cpu_us_per_delta_200": 50, "idle_mb": 10.15},
        "gateway-peer": {"held": 70, "cpu_us_per_delta_50": 240},
        "gateway-floor": {"held": 400, "cpu_us_per_delta_50": 29, "cpu_us_per_delta_200": 25},
    }
    for figure in figures.values():
        figure["kb_per_stream_50"] = 100
    text = serve.tables(figures)
    assert "| streams held: at least 4 times the peer's | 280 | 280 | yes |" in text
    assert "| CPU per delta, 50 streams: at most 1/4 of the peer's (µs) | 60 | 60 | yes |" in text
    assert "| CPU per delta, 50 streams: at most 2 times the floor's (µs) | 58 | 60 | **no** |" in text
    assert "| CPU per delta, 200 streams: at most 2 times the floor's (µs) | 50 | 50 | yes |" in text
    assert "| 1,000 idle readers (MB) | 20 | 10.2 | yes |" in text
