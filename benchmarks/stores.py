"""What a durable log costs, and how fast it is: `python -m benchmarks stores`. Each load is a process of its own.

The goals are those of a trial of the bare engines on a like machine: appends in batches, an event's way to another
process, a takeover, a replay. Through the whole path (run, log, writer, store) half of the trial's appends are aimed
at, and one and a half times its latencies.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environments import ROOT, python_of
from benchmarks.loads import Stream
from benchmarks.measure import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BEGIN", "END", "KINDS", "measured", "table"]

BEGIN, END = "<!-- stores -->", "<!-- /stores -->"
KINDS = ("sqlite", "redis")
_LIMIT_S = 300
_FAST = Stream("text-2000", runs=20)
_PACED = Stream("text-100-every-50", runs=100, concurrency=100)
_BARE = "none"

# Figure: title, unit, and by kind of store the goal (`>` at least, `<` at most), from the trial's figures.
_ROWS: dict[str, tuple[str, str, dict[str, str]]] = {
    "throughput-1": ("events/s into the store, 1 run", "k/s", {"sqlite": ">116", "redis": ">65"}),
    "throughput-100": ("events/s into the store, 100 runs", "k/s", {"sqlite": ">80", "redis": ">63"}),
    "throughput-1000": ("events/s into the store, 1,000 runs", "k/s", {"sqlite": ">43", "redis": ">43"}),
    "added-fast": ("CPU that a durable log adds per delta, as fast as possible", "µs", dict.fromkeys(KINDS, "<6")),
    "added-paced": ("CPU that it adds per delta, 100 streams, one every 50 ms", "µs", dict.fromkeys(KINDS, "<6")),
    "latency_ms_p50": ("event to a reader in another process, median", "ms", {"sqlite": "<4.35", "redis": "<0.54"}),
    "latency_ms_p99": ("the same, 99th percentile", "ms", {"sqlite": "<8.25", "redis": "<1.34"}),
    "takeover_after_lease_s": (
        "worker killed to next worker's first event, beyond the lease",
        "s",
        dict.fromkeys(KINDS, "<1"),
    ),
    "replay_ms": ("replay of 10,000 events, attach to last event", "ms", dict.fromkeys(KINDS, "<50")),
    "growth_mb": ("growth of the process, a durable run of 200,000 deltas", "MB", dict.fromkeys(KINDS, "<40")),
}


@contextmanager
def _redis(folder: str) -> Generator[str, None, None]:
    sys.path.insert(0, str(ROOT / "tests"))
    from redis_server import RedisServer, install_server

    program = install_server()
    if program is None:
        raise RuntimeError("there is no redis-server, and it cannot be installed")
    server = RedisServer(program, Path(folder))
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}"
    finally:
        server.kill()


@contextmanager
def _store(kind: str) -> Generator[str, None, None]:
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield f"sqlite:///{folder}/runs.db"
        else:
            with _redis(folder) as url:
                yield url


def measured(kinds: tuple[str, ...], repetitions: int, report: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """The median of every figure, by kind of store. Raises RuntimeError with a load's words if it fails."""
    values: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}

    def note(kind: str, name: str, value: float) -> None:
        values[kind].setdefault(name, []).append(value)

    with endpoint() as port:
        for number in range(repetitions):
            for name, load in (("added-fast", _FAST), ("added-paced", _PACED)):
                report(f"round {number + 1}: {name}")
                bare = _streamed(port, load, None)
                for kind in kinds:
                    with _store(kind) as url:
                        note(kind, name, _streamed(port, load, url) - bare)
            for kind in kinds:
                report(f"round {number + 1}: {kind}")
                for runs in (1, 100, 1000):
                    with _store(kind) as url:
                        row = _probed("throughput", url, runs)
                    note(kind, f"throughput-{runs}", row["events_per_s"] / 1e3)
                    if runs == 1 and row["growth_mb"] is not None:
                        note(kind, "growth_mb", row["growth_mb"])
                for load_name, argument in (("latency", 0), ("takeover", 0), ("replay", 10_000)):
                    with _store(kind) as url:
                        row = _probed(load_name, url, argument)
                    for figure in row.keys() & _ROWS.keys():
                        note(kind, figure, row[figure])
    return {
        kind: {name: statistics.median(found) for name, found in figures.items()} for kind, figures in values.items()
    }


def _probed(kind: str, url: str, number: int) -> dict[str, Any]:
    command = [str(python_of("runstream")), "-m", "benchmarks.stores_probe", kind, url, str(number)]
    return json.loads(_output(command, {}))


def _streamed(port: int, load: Stream, url: str | None) -> float:
    """CPU µs per delta of a load over HTTP, with that store or none."""
    command = [str(python_of("runstream")), "-m", "benchmarks.probe", "runstream", str(port), json.dumps(asdict(load))]
    given = {
        "OPENAI_API_KEY": "sk-benchmark",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        **({} if url is None else {"RUNSTREAM_STORE": url}),
    }
    return json.loads(_output(command, given))["cpu_us_per_delta"]


def _output(command: list[str], given: Mapping[str, str]) -> str:
    environment = {**{name: value for name, value in os.environ.items() if name != "RUNSTREAM_STORE"}, **given}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=_LIMIT_S)
    if done.returncode:
        raise RuntimeError("\n".join([" ".join(command[1:]), *done.stderr.strip().splitlines()[-8:]]))
    return done.stdout.strip().splitlines()[-1]


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row for each figure; for each store the value, the goal, and whether it holds."""
    kinds = list(figures)
    lines = [
        f"| measured | {' | '.join(f'{kind} | goal | holds' for kind in kinds)} |",
        f"| --- |{' ---: | ---: | --- |' * len(kinds)}",
    ]
    for name, (title, unit, goals) in _ROWS.items():
        cells: list[str] = []
        for kind in kinds:
            value, goal = figures[kind].get(name), goals[kind]
            limit = float(goal[1:])
            holds = value is not None and (value >= limit if goal[0] == ">" else value <= limit)
            shown = "" if value is None else f"{value:.3g}"
            words = "at least" if goal[0] == ">" else "at most"
            cells += [shown, f"{words} {goal[1:]}", "yes" if holds else "**no**"]
        lines.append(f"| {title} ({unit}) | {' | '.join(cells)} |")
    return "\n".join(lines)
