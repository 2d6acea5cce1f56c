"""The soak itself: all runs in one process, some at a time; then what they came to and what they left behind.

Owns the service's process, the measurements and the report. What each run does is `soak/plan.py`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runstream import Runner, RunResultStreaming
from runstream.errors import RunNotFound, RunSealed
from runstream.observe import Metrics, set_observers
from soak.laws import broken_laws
from soak.plan import Plan, plan_of
from soak.readers import cancel, read
from soak.scene import Scene

__all__ = ["Report", "soak"]

_TESTS = Path(__file__).parents[1]
_PATIENCE_S = 20.0
"""A run that takes longer hangs: the longest model calls, retries and fallbacks together take a fraction of it."""
_SETTLE_S = 5.0
_FLAT_KB = 6_000
"""How much more memory the last third may have than the middle one: the allocator's noise."""
# What a program that uses the library right must never see of it.
_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)


@dataclass(slots=True)
class Report:
    """What the soak came to."""

    runs: int = 0
    took_s: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    readers: Counter[str] = field(default_factory=Counter[str])
    cancels: Counter[str] = field(default_factory=Counter[str])
    raised: Counter[str] = field(default_factory=Counter[str])
    """What readers got instead of an end."""
    counts: Counter[str] = field(default_factory=Counter[str])
    left: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What was there after the soak and not before."""
    service: dict[str, Any] = field(default_factory=dict[str, Any])
    memory_kb: list[int] = field(default_factory=list[int])
    """Resident, whenever a run had ended."""
    broken: list[str] = field(default_factory=list[str])

    @property
    def thirds_kb(self) -> tuple[int, int]:
        """The median in the middle third and in the last one: the first still imports, and fills caches and arenas."""
        count = len(self.memory_kb)
        first, last = self.memory_kb[count // 3 : 2 * count // 3], self.memory_kb[-(count // 3) :]
        return int(statistics.median(first or [0])), int(statistics.median(last or [0]))

    def lines(self) -> Iterator[str]:
        """The report, for people."""
        yield f"{self.runs} runs in {self.took_s:.1f} s, {self.counts['events']} events"
        printed: list[tuple[str, Counter[str]]] = [
            ("status", self.statuses),
            ("errors of runs", self.errors),
            ("readers", self.readers),
            ("readers got", self.raised),
            ("cancels", self.cancels),
            ("faults", Counter(self.service.get("faults", {}))),
            ("answers", Counter(self.service.get("outcomes", {}))),
        ]
        for name, counter in printed:
            yield f"{name}: " + ", ".join(f"{key} {count}" for key, count in counter.most_common())
        told = "attempts taken back", "fallbacks", "nested agents", "durable", "read again from the store", "still live"
        yield "of these: " + ", ".join(f"{self.counts[name]} {name}" for name in told)
        yield "left over: " + ", ".join(f"{len(things)} {name}" for name, things in self.left.items())
        first, last = self.thirds_kb
        tenth = max(len(self.memory_kb) // 10, 1)
        tenths = [self.memory_kb[index] // 1000 for index in range(0, len(self.memory_kb), tenth)]
        yield f"memory: {first / 1000:.1f} MB in the middle third, {last / 1000:.1f} MB in the last; by tenths {tenths}"
        yield f"{len(self.broken)} laws broken"


class _Soak:
    def __init__(self, report: Report, seed: int, url: str, folder: Path) -> None:
        self.report = report
        self._seed = seed
        self._scene = Scene(url, f"sqlite:///{folder}/runs.db")
        self._figures = Metrics()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, numbers: Iterator[int], concurrency: int) -> None:
        set_observers([self._figures])
        try:
            before = asyncio.all_tasks()
            await asyncio.gather(*(self._work(numbers) for _ in range(concurrency)))
            await _settled(lambda: not self._left(before))
        finally:
            set_observers([])
        self.report.left["tasks"] = [repr(task) for task in self._left(before)]
        self.report.counts["still live"] = self._figures.snapshot().live
        if self._scene.load_limits.running or self._scene.load_limits.queued:
            self.report.broken.append("places of runs that have ended are taken")

    def _left(self, before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        # The store and its beat live as long as the loop.
        return {task for task in asyncio.all_tasks() - before if "store" not in task.get_name()}

    async def _work(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            plan = plan_of(self._seed, number)
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._one(plan)
            except TimeoutError:
                self.report.broken.append(f"{plan}: it hangs: {[repr(task) for task in _busy()]}")
            except Exception as error:
                self.report.broken.append(f"{plan}: {type(error).__name__}: {error}")
            self.report.memory_kb.append(_resident_kb())

    async def _one(self, plan: Plan) -> None:
        report = self.report
        names = (f"run-{plan.number}{letter}" for letter in itertools.chain(("",), "bcdefgh"))
        started: list[RunResultStreaming] = []

        def start() -> RunResultStreaming:
            started.append(self._scene.start(plan, next(names)))
            return started[-1]

        reading = asyncio.create_task(read(plan, start(), start))
        report.readers[plan.reader] += 1
        cancelling = None
        if plan.cancel is not None:
            report.cancels[plan.cancel] += 1
            cancelling = asyncio.create_task(cancel(plan, started[0], reading, self._scene.store))
        await self._finish(plan, reading)
        # A task keeps what it was cancelled with, and that the reader in its frames: once it is dropped, nobody reads.
        del reading
        if cancelling is not None:
            await asyncio.wait({cancelling})
            error = None if cancelling.cancelled() else cancelling.exception()
            if error is not None:
                report.counts["cancels of what is not there"] += 1
                if not isinstance(error, RunNotFound | RunSealed):
                    report.broken.append(f"{plan}: its cancel raised {error!r}")
        for result in started:
            await self._check(plan, result)

    async def _finish(self, plan: Plan, reading: asyncio.Task[None]) -> None:
        await asyncio.wait({reading})
        error = asyncio.CancelledError() if reading.cancelled() else reading.exception()
        if error is not None:
            self.report.raised[type(error).__name__] += 1
            if isinstance(error, _BUGS):
                self.report.broken.append(f"{plan}: its reader got {error!r}")

    async def _check(self, plan: Plan, result: RunResultStreaming) -> None:
        """Hold the run's log against the laws; a durable one is the same in its store."""
        report = self.report
        events = [event async for event in result.events()]
        report.runs += 1
        report.counts["events"] += len(events)
        report.broken += [f"{plan}: {fault}" for fault in broken_laws(events)]
        end = events[-1].data
        report.statuses[end.status] += 1
        if end.error is not None:
            report.errors[end.error.type] += 1
        discarded = [event.data for event in events if event.kind == "attempt.discarded"]
        report.counts["attempts taken back"] += len(discarded)
        report.counts["fallbacks"] += sum(each.reason == "fallback" for each in discarded)
        report.counts["nested agents"] += len({tuple(event.path) for event in events}) - 1
        if plan.is_durable:
            report.counts["durable"] += 1
            try:
                attached = await Runner.attach(result.run_id, store=self._scene.store)
            except RunNotFound:
                # A run that was cancelled before it had begun never came to its store.
                if [event.kind for event in events] != ["run.start", "run.end"]:
                    report.broken.append(f"{plan}: its store does not know it")
                return
            stored = [(event.seq, event.kind) async for event in attached.events()]
            report.counts["read again from the store"] += 1
            if stored != [(event.seq, event.kind) for event in events]:
                report.broken.append(f"{plan}: its store has other events")


def soak(runs: int, *, seed: int, concurrency: int, folder: Path, first: int = 0) -> Report:
    """Let so many plans, from the number `first` on, be carried out, and look at what is left."""
    report = Report()
    numbers = iter(range(first, first + runs))
    with _service() as (url, told), _complaints(report):
        before = _held()
        began = time.perf_counter()
        asyncio.run(_Soak(report, seed, url, folder).run(numbers, concurrency))
        report.took_s = time.perf_counter() - began
        gc.collect()
        deadline = time.monotonic() + _SETTLE_S
        while any(_new(before).values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        report.left.update(_new(before))
    report.service = told
    report.broken += [f"{name} are left: {things[:5]}" for name, things in report.left.items() if things]
    if told["open"]:
        report.broken.append(f"{told['open']} answers were still wanted")
    if report.counts["still live"]:
        report.broken.append(f"{report.counts['still live']} runs are live for their observer")
    first_kb, last_kb = report.thirds_kb
    if last_kb - first_kb > _FLAT_KB:
        report.broken.append(f"memory grew from {first_kb} to {last_kb} kB")
    return report


@contextmanager
def _service() -> Generator[tuple[str, dict[str, Any]]]:
    """The service's URL; and what it counted, once the block is left."""
    told: dict[str, Any] = {}
    command = [sys.executable, "-m", "soak.service"]
    environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), told
            process.stdin.close()
            told.update(json.loads(process.stdout.readline()))
        finally:
            process.kill()


@contextmanager
def _complaints(report: Report) -> Generator[None]:
    """What asyncio and the interpreter say because nobody else can, and errors that the library logs."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            report.broken.append(f"logged by {record.name}: {record.getMessage()[:300]}")

    handler, previous = Handler(logging.ERROR), sys.unraisablehook
    loggers = [logging.getLogger(name) for name in ("asyncio", "runstream")]
    for logger in loggers:
        logger.addHandler(handler)
    sys.unraisablehook = lambda found: report.broken.append(f"unraisable: {found.exc_value!r} in {found.object!r}")
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for logger in loggers:
            logger.removeHandler(handler)


def _busy() -> list[asyncio.Task[Any]]:
    """The tasks of runs and of their calls, but for the soak's own."""
    return [task for task in asyncio.all_tasks() if "soak" not in repr(task)]


async def _settled(is_met: Any) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while not is_met() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def _held() -> dict[str, set[str]]:
    """The threads and descriptors of this process."""
    sockets: set[str] = set()
    files: set[str] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the one that lists them
        (sockets if target.startswith("socket:") else files).add(f"{descriptor} {target}")
    threads = {f"{thread.name} {thread.ident}" for thread in threading.enumerate()}
    return {"sockets": sockets, "other descriptors": files, "threads": threads}


def _new(before: dict[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(things - before[name]) for name, things in _held().items()}


def _resident_kb() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
