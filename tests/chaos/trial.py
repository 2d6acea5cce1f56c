"""One trial: a store, workers, readers and a stream of runs; something that harms them; then the laws.

Owns the processes and files of the trial. What is done to them is `chaos/harm.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from chaos.check import Stored, broken_laws, broken_readers, broken_tools
from chaos.processes import Child, Plan, ReaderMode, digest_of, read, start, work
from chaos.scene import Lines, Moment, moments_of
from runstream import Runner
from runstream.errors import RunNotFound, StoreError
from runstream.events.segment import decode_segment
from runstream.log.base import RunRecord, Store
from runstream.log.open_store import open_store

__all__ = ["Report", "Trial"]

_POLL_S = 0.02
_TAKEOVER_S = 1.0
"""Beyond the lease, a takeover may take so long."""
_MODES: tuple[ReaderMode, ...] = ("start", "late", "reconnect")
_COMPLAINTS = ("never retrieved", "was destroyed", "Traceback", "never awaited")


@dataclass(slots=True)
class Report:
    """What a trial came to."""

    name: str
    counts: Counter[str] = field(default_factory=Counter[str])
    takeovers_s: list[float] = field(default_factory=list[float])
    """From the worker's end to the first event of the next one."""
    broken: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    """What is worth a look, and breaks no law."""

    def line(self) -> str:
        """The counts in one line."""
        words = [f"{count} {name}" for name, count in self.counts.items()]
        if self.takeovers_s:
            median, worst = statistics.median(self.takeovers_s), max(self.takeovers_s)
            words.append(f"taken over in {median:.2f} s, at most {worst:.2f} s")
        words.append(f"{len(self.broken)} laws broken")
        return f"{self.name}: {', '.join(words)}"


class Trial:
    """An asynchronous context: the processes are started when it is entered, and gone when it is left."""

    def __init__(
        self,
        plan: Plan,
        *,
        workers: int = 3,
        in_flight: int = 6,
        seed: int = 0,
        forgets: bool = False,
    ) -> None:
        """`forgets`: the store may lose what it has acknowledged, whole runs and calls that were begun included."""
        self.plan = plan
        self.random = random.Random(seed)
        self.store: Store = open_store(plan.url)
        self.workers: dict[int, Child] = {}
        self.deaths: dict[int, list[float]] = {}
        """When workers were killed or stopped."""
        self.ended: set[int] = set()
        """Workers that were told to end."""
        self.counts: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.delivers_once = False
        """Whether no worker is harmed: then no run is claimed twice but for those that were handed back."""
        self._forgets = forgets
        self._count = workers
        self._in_flight = in_flight
        self._readers: dict[ReaderMode, Child] = {}
        self._gone: list[Child] = []
        self._submitted: list[str] = []
        self._open: set[str] = set()
        self._submitting: asyncio.Task[None] | None = None
        self._offset = 0

    async def __aenter__(self) -> Trial:
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        self.plan.moments.touch()
        self._runs = Lines(self.plan.runs)
        await self.store.open()
        for _ in range(self._count):
            self.start_worker()
        for mode in _MODES:
            self._readers[mode] = start(read, self.plan, mode, mode)
        self._submitting = asyncio.create_task(self._keep_submitting())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._submitting is not None:
            self._submitting.cancel()
            await asyncio.wait({self._submitting})
        for child in (*self.workers.values(), *self._readers.values()):
            child.kill()
            self._gone.append(child)
        for child in self._gone:
            child.kill()  # one that was told to end may not have come to it
            await asyncio.to_thread(child.join)
        await self.store.aclose()

    # Processes.

    def start_worker(self) -> Child:
        """One more worker."""
        child = start(work, self.plan)
        assert child.pid is not None
        self.workers[child.pid] = child
        return child

    def kill_worker(self, pid: int) -> None:
        """kill -9, and another one in its place."""
        child = self.workers.pop(pid)
        self.died(pid)
        os.kill(pid, signal.SIGKILL)
        self._gone.append(child)
        self.counts["kills"] += 1
        self.start_worker()

    def died(self, pid: int) -> None:
        """The worker does nothing from now on, or not for a while."""
        self.deaths.setdefault(pid, []).append(time.monotonic())

    def end_worker(self, pid: int) -> None:
        """SIGTERM, and another one in its place: what it does not end in time it hands on."""
        os.kill(pid, signal.SIGTERM)
        self.ended.add(pid)
        self._gone.append(self.workers.pop(pid))
        self.counts["workers told to end"] += 1
        self.start_worker()

    def kill_reader(self) -> None:
        """kill -9; its next life goes on where this one had come to."""
        mode = self.random.choice(_MODES)
        self._readers[mode].kill()
        self._gone.append(self._readers[mode])
        self._readers[mode] = start(read, self.plan, mode, mode)
        self.counts["readers killed"] += 1

    async def next_moment(self, kind: str, *, of: Collection[str] | None = None, limit_s: float = 3.0) -> Moment | None:
        """Wait until a living worker comes to such a moment, with one of these runs; None past the limit."""
        until = time.monotonic() + limit_s
        offset = self.plan.moments.stat().st_size
        while time.monotonic() < until:
            with self.plan.moments.open() as lines:
                lines.seek(offset)
                text = lines.read()
            whole, _, _ = text.rpartition("\n")
            offset += len(whole) + bool(whole)
            for line in whole.splitlines():
                word, at_s, pid, subject, epoch = line.split(" ")
                if word == kind and int(pid) in self.workers and (of is None or subject in of):
                    return Moment(word, float(at_s), int(pid), subject, int(epoch))
            await asyncio.sleep(0.001)
        return None

    # Runs.

    async def _keep_submitting(self) -> None:
        while True:
            await self._look()
            self._revive()
            while len(self._open) < self._in_flight:
                await self.submit(f"r{len(self._submitted) + 1}")
            await asyncio.sleep(_POLL_S)

    async def submit(self, run_id: str) -> None:
        """One run more, which readers follow."""
        await self._insist(lambda: self._submit(run_id))
        self._submitted.append(run_id)
        self._open.add(run_id)
        self._runs.write(run_id)

    def _revive(self) -> None:
        """Workers that were killed by what they did have successors."""
        for pid, child in list(self.workers.items()):
            if not child.is_alive():
                self.died(pid)
                self.counts["workers that killed themselves"] += 1
                self._gone.append(self.workers.pop(pid))
                self.start_worker()

    async def _submit(self, run_id: str) -> None:
        try:
            await self.store.find(run_id)
        except RunNotFound:
            await Runner.submit("Ann", f"do {run_id}", store=self.store, max_turns=50, run_id=run_id)

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except StoreError:
                await asyncio.sleep(_POLL_S)

    async def _look(self) -> None:
        for run_id in list(self._open):
            try:
                record: RunRecord = await self._insist(lambda run_id=run_id: self.store.find(run_id))
            except RunNotFound:
                self.lost.add(run_id)
                self._open.discard(run_id)
                continue
            if record.ended:
                self._open.discard(run_id)

    # The end.

    async def finish(self, name: str, *, limit_s: float = 60.0) -> Report:
        """No more runs: wait for those that there are and for their readers, and look at everything."""
        if self._submitting is not None:
            self._submitting.cancel()
            await asyncio.wait({self._submitting})
        report = Report(name, self.counts)
        until = time.monotonic() + limit_s
        while self._open and time.monotonic() < until:
            await self._look()
            self._revive()
            await asyncio.sleep(_POLL_S)
        report.broken += [f"{run_id} has not ended within {limit_s:g} s" for run_id in sorted(self._open)]
        await self._wait_for_readers(time.monotonic() + limit_s / 4)
        runs: dict[str, Stored] = {}
        for run_id in self._submitted:
            if run_id not in self.lost:
                try:
                    runs[run_id] = await self._insist(lambda run_id=run_id: self._stored(run_id))
                except RunNotFound:
                    self.lost.add(run_id)
        if self.lost and not self._forgets:
            report.broken.append(f"runs are lost: {sorted(self.lost)}")
        self._check(report, runs)
        return report

    async def _wait_for_readers(self, until: float) -> None:
        wanted = set(self._submitted) - self.lost - self._open
        for mode in _MODES:
            while time.monotonic() < until:
                lines = self.plan.record(mode).read_text().splitlines()
                if wanted <= {line.split(" ")[1] for line in lines if line.startswith(("end", "gone"))}:
                    break
                await asyncio.sleep(_POLL_S)

    async def _stored(self, run_id: str) -> Stored:
        record = await self.store.find(run_id)
        stored = Stored(run_id, record.status, [], [], record.deliveries)
        after = 0
        while True:
            page = await self.store.read(run_id, after)
            if not page.segments:
                return stored
            for segment in page.segments:
                events = decode_segment(segment.body, run_id)
                stored.events += events
                stored.epochs += [segment.epoch] * len(events)
            after = page.segments[-1].last_seq

    def _check(self, report: Report, runs: dict[str, Stored]) -> None:
        moments = moments_of(self.plan.moments)
        report.counts["runs"] = len(runs)
        report.counts["runs lost"] = len(self.lost)
        report.counts["events"] = sum(len(run.events) for run in runs.values())
        report.counts["tool calls"] = sum(moment.kind == "begin" for moment in moments)
        report.counts["discarded attempts"] = sum(
            event.kind == "attempt.discarded" for run in runs.values() for event in run.events
        )
        for run in runs.values():
            report.broken += broken_laws(run, may_be_given_up=self.plan.max_deliveries < 10)
            error = None if run.end is None else run.end.error
            if error is not None and not run.run_id.startswith("poison"):
                report.counts["runs given up with their neighbours"] += 1
            report.counts["handed over"] += len({*run.epochs}) > run.deliveries
            if self.delivers_once and run.deliveries != 1:
                report.broken.append(f"{run.run_id} was delivered {run.deliveries} times")
        tools = broken_tools(list(runs.values()), moments)
        if self._forgets:
            report.counts["calls that were forgotten and run again"] = len(tools)
        else:
            report.broken += tools
        for mode in _MODES:
            lines = self.plan.record(mode).read_text().splitlines()
            broken, counts = broken_readers(runs, lines, digest_of, from_start=mode != "late", forgets=self._forgets)
            report.broken += [f"reader {mode}: {fault}" for fault in broken]
            report.counts["resyncs"] += counts["resync"]
            if self._forgets:
                report.counts["ends that were forgotten"] += counts["forgotten ends"]
        self._measure(report, moments)
        text = self.plan.output.read_text() if self.plan.output.exists() else ""
        report.broken += [f"a process complained: {line}" for line in text.splitlines() if _is_complaint(line)]

    def _measure(self, report: Report, moments: list[Moment]) -> None:
        report.counts["late takeovers"] = 0
        claims: dict[str, list[Moment]] = {}
        appends = {(moment.subject, moment.epoch): moment.at_s for moment in moments if moment.kind == "append"}
        for moment in moments:
            if moment.kind == "claim":
                claims.setdefault(moment.subject, []).append(moment)
        for run_id, of_run in claims.items():
            of_run.sort(key=lambda moment: moment.epoch)
            for before, after in itertools.pairwise(of_run):
                deaths = [at_s for at_s in self.deaths.get(before.pid, ()) if at_s < after.at_s]
                written = appends.get((run_id, after.epoch))
                if before.pid in self.ended:
                    continue  # it was handed over
                if not deaths:
                    report.counts["taken from the living"] += 1
                    report.notes.append(f"{run_id} was taken from a living worker: {before} {after}")
                elif written is not None:
                    took_s = written - max(deaths[-1], before.at_s)
                    report.takeovers_s.append(took_s)
                    if took_s > self.plan.lease_s + _TAKEOVER_S:
                        report.counts["late takeovers"] += 1
                        report.notes.append(f"{run_id} was taken over after {took_s:.2f} s: {before} {after}")


def _is_complaint(line: str) -> bool:
    return any(word in line for word in _COMPLAINTS)
