"""One load on one subject, as a process of its own: prints one JSON row of what it cost.

`python -m benchmarks.probe SUBJECT PORT LOAD`, where LOAD is the JSON of the stream's fields (see `loads.Stream`).
It runs in the subject's environment, so it needs the standard library only. CPU time is that of this process; memory
is its resident set, sampled while it runs, and left out where there is no /proc.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.subjects import SUBJECTS, Ask

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["measure", "percentile"]

WARM_UP = "text-20"
SAMPLE_EVERY_S = 0.02
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """The resident set of this process, or None where the system does not tell."""
    if not _STATM.exists():
        return None
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank). Raises ValueError where there are none."""
    if not values:
        raise ValueError("no values were measured")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@dataclass(slots=True)
class _Tally:
    """What the asked-for answers delivered."""

    deltas: int = 0
    first_s: list[float] = field(default_factory=list)

    async def count(self, ask: Ask, model: str) -> None:
        start, before = time.perf_counter(), -1.0

        def on_delta(_text: str) -> None:
            nonlocal before
            if before < 0:
                before = time.perf_counter() - start
            self.deltas += 1

        await ask(model, on_delta)
        self.first_s.append(before)


class _Peak:
    """The highest resident set seen, for as long as the block is open."""

    def __init__(self) -> None:
        self.start = self.highest = resident_bytes()

    def sample(self) -> None:
        now = resident_bytes()
        if now is not None and self.highest is not None:
            self.highest = max(self.highest, now)

    async def watch(self) -> None:
        while self.start is not None:
            self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    @property
    def grown_bytes(self) -> int | None:
        return None if self.start is None or self.highest is None else self.highest - self.start


async def measure(subject: str, port: int, load: dict[str, Any]) -> dict[str, float | None]:
    """Run the load and return its row. Raises RuntimeError if not every delta arrived."""
    model, runs, concurrency = load["model"], load["runs"], load["concurrency"]
    async with SUBJECTS[subject](f"http://127.0.0.1:{port}/v1", load["api"]) as ask:
        await _Tally().count(ask, WARM_UP)  # imports, connections and caches are not the load
        tally, gate, peak = _Tally(), asyncio.Semaphore(concurrency), _Peak()

        async def one() -> None:
            async with gate:
                job: Awaitable[None] = tally.count(ask, model) if load["read"] else ask(model, None)
                await job

        watcher = asyncio.create_task(peak.watch())
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one() for _ in range(runs)))
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
        peak.sample()
        watcher.cancel()
    expected = int(model.split("-")[1]) * runs
    if load["read"] and tally.deltas != expected:
        raise RuntimeError(f"{subject} delivered {tally.deltas} text deltas instead of {expected}")
    grown = peak.grown_bytes
    row: dict[str, float | None] = {
        "cpu_us_per_delta": cpu_s / expected * 1e6,
        "wall_us_per_delta": wall_s / expected * 1e6,
        "kb_per_stream": None if grown is None else grown / 1000 / concurrency,
        "growth_mb": None if grown is None else grown / 1e6,
    }
    if load["read"]:
        row["first_ms_p50"] = percentile(tally.first_s, 0.5) * 1e3
        row["first_ms_p99"] = percentile(tally.first_s, 0.99) * 1e3
    return row


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))))
