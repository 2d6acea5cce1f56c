"""What it costs to serve streams: `python -m benchmarks serve`. runstream's server beside a gateway of today's tools.

Each server is a process of its own, kept on one core; the model and the readers share the others. runstream is started
by its command, with its default store (SQLite in the user's data folder, here a new one). Needs Linux.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.environments import ROOT, python_of
from benchmarks.serve_load import Task

__all__ = ["BEGIN", "END", "SUBJECTS", "measured", "tables"]

BEGIN, END = "<!-- serve -->", "<!-- /serve -->"
SUBJECTS = ("runstream", "gateway-peer", "gateway-floor")
_NAMES = {
    "runstream": "runstream",
    "gateway-peer": "openai-agents, FastAPI, sse-starlette",
    "gateway-floor": "aiohttp floor",
}
_EVERY_MS = 20
_LIMIT_S = 170
_IDLE_READERS = 1000
_SHARED_READERS = 100
_LAG_MS = 100.0
_TRIES = 3
_WARM_DELTAS = 50
_STEPS = (25, 50, 70, 100, 150, 200, 280, 350, 400, 500)

Figures = dict[str, dict[str, float]]


@dataclass
class _Server:
    subject: str
    port: int
    pid: int

    def task(self, kind: str, streams: int, deltas: int) -> Task:
        model = _model(deltas)
        body, path = {"model": model, "input": "Why is the sky blue?"}, "/chat"
        if self.subject == "runstream":
            body, path = {"agent": model, "input": "Why is the sky blue?"}, "/runs"
        return Task(kind, self.port, self.pid, path, json.dumps(body), streams, deltas)


def _model(deltas: int) -> str:
    return f"text-{deltas}-every-{_EVERY_MS}" if deltas else "text-1-every-600000"


def _cores() -> tuple[set[int], set[int]]:
    """The one that the server has, and those of the others."""
    allowed = sorted(os.sched_getaffinity(0))
    return {allowed[0]}, set(allowed[1:]) or {allowed[0]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _endpoint() -> Generator[int, None, None]:
    command = [str(python_of("runstream")), "-m", "benchmarks.serve_endpoint"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        os.sched_setaffinity(process.pid, _cores()[1])
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def _server(subject: str, endpoint_port: int, deltas: int) -> Generator[_Server, None, None]:
    """A server that has served some streams already. Raises RuntimeError where it does not come up."""
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")},
            "OPENAI_API_KEY": "sk-benchmark",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{endpoint_port}/v1",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "XDG_DATA_HOME": folder,
            "BENCHMARK_MODELS": ",".join(_model(count) for count in {deltas, _WARM_DELTAS, 0}),
        }
        if subject == "runstream":
            what = ["-m", "runstream.cli", "serve", "benchmarks.serve_agents:AGENTS", "--port", str(port)]
        else:
            what = ["-m", "benchmarks.serve_subjects", subject, str(port), str(endpoint_port)]
        command = [str(python_of(subject)), *what]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            os.sched_setaffinity(process.pid, _cores()[0])
            try:
                _wait_until_up(process, port)
                server = _Server(subject, port, process.pid)
                _load(server.task("streams", 10, _WARM_DELTAS))
                yield server
            finally:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait_until_up(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server did not come up: {process.args!r}")


def _load(task: Task) -> dict[str, Any]:
    command = [str(python_of("runstream")), "-m", "benchmarks.serve_load", json.dumps(asdict(task))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        os.sched_setaffinity(process.pid, _cores()[1])
        output = process.communicate(timeout=_LIMIT_S)[0]
    if process.returncode:
        raise RuntimeError(f"the load failed: {' '.join(command[1:])}")
    return json.loads(output.strip().splitlines()[-1])


def measured(report: Callable[[str], None], *, deltas: int, repetitions: int, most: int) -> Figures:
    """By subject its figures. `deltas`: of each stream; `most`: streams at once at the most."""
    figures: Figures = {subject: {} for subject in SUBJECTS}
    with _endpoint() as endpoint_port:
        for streams in (50, 200):
            _costs(figures, streams, endpoint_port, report, deltas=deltas, repetitions=repetitions)
        with ExitStack() as stack:
            servers = [stack.enter_context(_server(subject, endpoint_port, deltas)) for subject in SUBJECTS]
            for subject, held in _held(servers, report, deltas=deltas, most=most).items():
                figures[subject]["held"] = held
        with _server("runstream", endpoint_port, deltas) as server:
            report(f"{_IDLE_READERS} idle readers")
            figures["runstream"]["idle_mb"] = _load(server.task("idle", _IDLE_READERS, 0))["grown_mb"]
        with _server("runstream", endpoint_port, deltas) as server:
            report(f"{_SHARED_READERS} readers of one run")
            figures["runstream"]["shared_us"] = _load(server.task("shared", _SHARED_READERS, deltas))[
                "cpu_us_per_delta"
            ]
    return figures


def _costs(
    figures: Figures, streams: int, port: int, report: Callable[[str], None], *, deltas: int, repetitions: int
) -> None:
    """CPU, lag and memory with so many streams, in rounds, so that a busy machine is busy for all."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for number in range(repetitions):
        for subject in SUBJECTS:
            if subject == "gateway-peer" and streams > 50:
                continue  # it cannot keep up, and what waits in its queues would be told as the cost of a stream
            report(f"round {number + 1}: {streams} streams, {subject}")
            with _server(subject, port, deltas) as server:
                rows.setdefault(subject, []).append(_load(server.task("streams", streams, deltas)))
    for subject, found in rows.items():
        for name in ("cpu_us_per_delta", "kb_per_stream", "lag_ms_p50", "lag_ms_p99", "first_ms_p50"):
            figures[subject][f"{name}_{streams}"] = statistics.median(row[name] or 0.0 for row in found)


def _held(servers: Sequence[_Server], report: Callable[[str], None], *, deltas: int, most: int) -> dict[str, int]:
    """How many streams each holds at a 99th percentile of the lag under 100 ms; some attempts for each number, the
    servers in turns, so that what else the machine does falls on all."""
    held = dict.fromkeys((server.subject for server in servers), 0)
    going = list(servers)
    for streams in _STEPS:
        if streams > most:
            break
        for _ in range(_TRIES):
            for server in going:
                if held[server.subject] == streams:
                    continue
                row = _load(server.task("streams", streams, deltas))
                lag_ms = row["lag_ms_p99"]
                told = f"p99 lag {lag_ms and round(lag_ms)} ms, {row['broken']} broken"
                report(f"{streams} streams, {server.subject}: {told}")
                if row["broken"] == 0 and lag_ms is not None and lag_ms < _LAG_MS:
                    held[server.subject] = streams
        going = [server for server in going if held[server.subject] == streams]
    return held


_ROWS = {
    "held": f"streams held at a p99 lag under {_LAG_MS:.0f} ms",
    "cpu_us_per_delta_50": "CPU per delta, 50 streams (µs)",
    "cpu_us_per_delta_200": "CPU per delta, 200 streams (µs)",
    "kb_per_stream_50": "memory per stream, 50 streams (kB)",
    "kb_per_stream_200": "memory per stream, 200 streams (kB)",
    "shared_us": f"CPU per delta and reader, {_SHARED_READERS} readers of one run (µs)",
    "lag_ms_p50_50": "lag, 50 streams, median (ms)",
    "lag_ms_p99_50": "lag, 50 streams, 99th percentile (ms)",
    "lag_ms_p99_200": "lag, 200 streams, 99th percentile (ms)",
}


def tables(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: the figures beside each other, and whether the goals hold."""
    lines = [f"| measured | {' | '.join(_NAMES[name] for name in SUBJECTS)} |", "| --- | ---: | ---: | ---: |"]
    for row, title in _ROWS.items():
        lines.append(f"| {title} | {' | '.join(_shown(figures[name].get(row)) for name in SUBJECTS)} |")
    lines += ["", "| goal | limit | measured | holds |", "| --- | ---: | ---: | --- |"]
    ours, peer, floor = (figures[name] for name in SUBJECTS)
    goals = [
        ("streams held: at least 4 times the peer's", ours["held"], peer["held"] * 4, True),
        ("CPU per delta, 50 streams: at most 1/4 of the peer's (µs)", *_both(ours, peer, "cpu_us_per_delta_50", 1 / 4)),
        ("CPU per delta, 50 streams: at most 2 times the floor's (µs)", *_both(ours, floor, "cpu_us_per_delta_50", 2)),
        (
            "CPU per delta, 200 streams: at most 2 times the floor's (µs)",
            *_both(ours, floor, "cpu_us_per_delta_200", 2),
        ),
        (
            "memory per stream, 50 streams: at most 1/4 of the peer's (kB)",
            *_both(ours, peer, "kb_per_stream_50", 1 / 4),
        ),
        (f"{_IDLE_READERS:,} idle readers (MB)", ours["idle_mb"], 20.0, False),
    ]
    for title, value, limit, is_least in goals:
        holds = value >= limit if is_least else value <= limit
        lines.append(f"| {title} | {_shown(limit)} | {_shown(value)} | {'yes' if holds else '**no**'} |")
    return "\n".join(lines)


def _both(ours: Mapping[str, float], other: Mapping[str, float], name: str, times: float) -> tuple[float, float, bool]:
    return ours[name], other[name] * times, False


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
