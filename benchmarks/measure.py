"""Runs loads on subjects, each as a process of its own, interleaved, and gives back one row for each.

Knows no goals and no tables. One endpoint process serves all of them, on the same machine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.environments import ROOT, python_of
from benchmarks.loads import Command, Load, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

__all__ = ["Row", "endpoint", "plan", "run_plan"]

Row = dict[str, Any]  # load, subject, repetition, and the figures, or `failed` with the reason
Step = tuple[int, Load, Stream | Command, str]

_TIMEOUT_S = 300
_MODULES = {"runstream": "runstream", "openai-agents": "agents"}
_IMPORT = "from {module} import Agent, Runner, function_tool"
_SCRIPT = """
import asyncio, time
from {module} import Agent, Runner, function_tool
from openai.types.responses import ResponseTextDeltaEvent

@function_tool
def look_up(topic: str) -> str:
    "Look a topic up."
    return topic

async def main():
    agent = Agent(name="Assistant", instructions="Answer briefly.", model="text-20", tools=[look_up])
    first = None
    async for event in Runner.run_streamed(agent, "Why is the sky blue?").stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            first = first or time.monotonic()
    print(first)

asyncio.run(main())
"""


@contextmanager
def endpoint() -> Generator[int, None, None]:
    """Start the fake model as a process of its own; yields its port."""
    command = [sys.executable, "-m", "benchmarks.endpoint"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def plan(loads: Iterable[Load], peers: Iterable[str], *, quick: bool, repetitions: int | None) -> Iterator[Step]:
    """What to run, in order: a whole round of loads and subjects, then the next, so that noise falls on all alike."""
    chosen, rounds = list(loads), {load.name: _rounds(load, quick, repetitions) for load in loads}
    known = set(peers)
    for number in range(max(rounds.values(), default=0)):
        for load in chosen:
            subjects = load.quick_subjects if quick else load.subjects
            for subject in subjects:
                if number < rounds[load.name] and subject in known and subject in load.subjects:
                    yield number, load, load.quick if quick else load.full, subject


def _rounds(load: Load, quick: bool, repetitions: int | None) -> int:
    if repetitions is not None:
        return min(repetitions, load.repetitions)
    if quick:
        return 3 if isinstance(load.quick, Command) else 1
    return load.repetitions


def run_plan(steps: Iterable[Step], port: int, report: Callable[[str], None]) -> list[Row]:
    """Run every step. A subject that fails is reported and gets a row with the reason; the others go on."""
    rows: list[Row] = []
    for number, load, work, subject in steps:
        row: Row = {"load": load.name, "subject": subject, "repetition": number}
        start = time.perf_counter()
        try:
            row |= _run_stream(subject, port, work) if isinstance(work, Stream) else _run_command(subject, port, work)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            row["failed"] = str(error)
            report(f"{load.name} of {subject} failed: {error}")
        else:
            report(f"round {number + 1}: {load.name}, {subject} ({time.perf_counter() - start:.1f} s)")
        rows.append(row)
    return rows


def _run_stream(subject: str, port: int, load: Stream) -> Row:
    command = [str(python_of(subject)), "-m", "benchmarks.probe", subject, str(port), json.dumps(asdict(load))]
    return json.loads(_output(command, port))


def _run_command(subject: str, port: int, load: Command) -> Row:
    python, module = python_of(subject), _MODULES[subject]
    if load.kind == "help":
        command = [str(python.parent / "runstream"), "--help"]
    else:
        source = _SCRIPT if load.kind == "script" else _IMPORT
        command = [str(python), "-c", source.format(module=module)]
    cpu_s, begun = _cpu_of_children_s(), time.monotonic()
    output = _output(command, port)
    row: Row = {"wall_s": time.monotonic() - begun, "cpu_s": _cpu_of_children_s() - cpu_s}
    if load.kind == "script":
        row["first_delta_s"] = float(output) - begun  # both read the system's monotonic clock
    return row


def _cpu_of_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _output(command: list[str], port: int) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=_environment(port), timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError("\n".join([f"exit status {done.returncode}", *lines[-12:]]))
    return done.stdout


def _environment(port: int) -> dict[str, str]:
    """This process's environment, aimed at the endpoint, with the exporting of traces off."""
    return {
        **os.environ,
        "OPENAI_API_KEY": "sk-benchmark",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LANGSMITH_TRACING": "false",
        "NO_PROXY": "127.0.0.1",
    }
