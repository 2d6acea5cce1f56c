"""The processes of the crash tests: workers, and readers that go on where their last life had come to.

They are forked from a process that has imported everything: a worker that was killed is replaced within milliseconds.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from chaos.scene import Lines, agents
from runstream import RunConfig, Runner
from runstream.errors import CursorExpired, CursorInvalid, RunNotFound, StoreError
from runstream.events.codec import encode
from runstream.events.event import Event
from runstream.log.base import Append, Claim, Refusal, Renewal, Store
from runstream.log.open_store import open_store
from runstream.log.wrap import StoreWrapper
from runstream.run.worker import Worker
from runstream.testing import UnfencedStore

__all__ = ["Child", "Plan", "ReaderMode", "digest_of", "read", "start", "work"]

ReaderMode = Literal["start", "late", "reconnect"]
_POLL_S = 0.02
_RETRY_S = 0.05

Child = multiprocessing.process.BaseProcess
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["chaos.processes", "chaos.warm"])


@dataclass(frozen=True, slots=True)
class Plan:
    """What all processes of a trial know."""

    url: str
    folder: Path
    lease_s: float = 0.6
    concurrency: int = 8
    max_deliveries: int = 1_000
    unfenced: bool = False
    drain_s: float = 0.2
    store_timeout_s: float = 20.0
    time_limit_s: float | None = None

    @property
    def moments(self) -> Path:
        return self.folder / "moments"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def record(self, reader: str) -> Path:
        return self.folder / f"reader-{reader}"

    @property
    def output(self) -> Path:
        return self.folder / "output"


def start(target: Any, plan: Plan, *arguments: Any) -> Child:
    """A new process that does this."""
    child = _processes.Process(target=_main, args=(target, plan, *arguments), daemon=True)
    child.start()
    return child


def _main(target: Any, plan: Plan, *arguments: Any) -> None:
    output = os.open(plan.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    random.seed()
    asyncio.run(target(plan, *arguments))


class _Noting(StoreWrapper):
    """Tells when a run was claimed, and when its first flush was in."""

    def __init__(self, store: Store, lines: Lines) -> None:
        super().__init__(store)
        self._lines = lines
        self._claimed: dict[str, int] = {}

    async def claim_next(self, *arguments: Any, **options: Any) -> Claim | None:
        claim = await self.store.claim_next(*arguments, **options)
        if claim is not None:
            self._claimed[claim.run.run_id] = claim.epoch
            self._lines.write("claim", time.monotonic(), os.getpid(), claim.run.run_id, claim.epoch)
        return claim

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        refusals = await self.store.append(appends)
        for append, refusal in zip(appends, refusals, strict=True):
            if refusal is None and self._claimed.pop(append.run_id, None) is not None:
                self._lines.write("append", time.monotonic(), os.getpid(), append.run_id, append.epoch)
        return refusals


class _Unfenced(UnfencedStore):
    """Whoever has begun a run goes on with it, whoever else has it by now."""

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        self.store.renew(leases, lease_s)
        return [Renewal(True) for _ in leases]


async def work(plan: Plan) -> None:
    """A worker, until it is killed, or told by SIGTERM to end."""
    lines = Lines(plan.moments)
    inner: Store = open_store(plan.url)
    store = _Noting(_Unfenced(inner) if plan.unfenced else inner, lines)

    def note(kind: str, subject: str) -> None:
        lines.write(kind, time.monotonic(), os.getpid(), subject, 0)

    worker = Worker(
        agents(note)[:1],
        store=store,
        concurrency=plan.concurrency,
        run_config=RunConfig(
            lease_s=plan.lease_s,
            store_timeout_s=plan.store_timeout_s,
            time_limit_s=plan.time_limit_s,
            cancel_timeout_s=0.25,
        ),
        max_deliveries=plan.max_deliveries,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: worker.stop(drain_s=plan.drain_s))
    note("up", "-")
    await worker.run()
    note("down", "-")
    await store.aclose()


def digest_of(event: Event) -> str:
    """The same for the same event in whichever process."""
    fields = msgspec.json.decode(encode(event))
    return f"{zlib.crc32(msgspec.json.encode(fields, order='sorted')):08x}"


async def read(plan: Plan, name: str, mode: ReaderMode) -> None:
    """Follow every run that there is or comes; what was seen goes into the reader's file at once."""
    lines = Lines(plan.record(name))
    store = open_store(plan.url)
    await store.open()
    places: dict[str, str] = {}
    ended: set[str] = set()
    for line in plan.record(name).read_text().splitlines():
        kind, run_id, _, cursor, *_ = line.split(" ")
        if kind in ("end", "gone"):
            ended.add(run_id)
        else:
            places[run_id] = cursor
    tasks: dict[str, asyncio.Task[None]] = {}
    while True:
        known = plan.runs.read_text().split() if plan.runs.exists() else []
        for run_id in known:
            if run_id not in tasks and run_id not in ended:
                work = _Following(store, run_id, mode, lines, places.get(run_id))
                tasks[run_id] = asyncio.create_task(work.follow())
        for task in tasks.values():
            if task.done():
                task.result()  # an error that nobody expects ends this process, and is told in its output
        await asyncio.sleep(_POLL_S)


class _Following:
    """One reader of one run, over its reconnections."""

    def __init__(self, store: Store, run_id: str, mode: ReaderMode, lines: Lines, place: str | None) -> None:
        self._store = store
        self._run_id = run_id
        self._mode: ReaderMode = mode
        self._lines = lines
        self._after: str | int | None = place
        self._ended = False

    async def follow(self) -> None:
        try:
            await self._follow()
        except RunNotFound:
            self._lines.write("gone", self._run_id, 0, 0)

    async def _follow(self) -> None:
        await self._first_place()
        while not self._ended:
            try:
                await self._read_on()
            except CursorInvalid as error:
                self._lines.write("resync", self._run_id, error.resync_after, error.resync_after, error.reason)
                self._after = error.resync_after
            except CursorExpired as error:
                self._lines.write("expired", self._run_id, error.first_seq - 1, error.first_seq - 1)
                self._after = error.first_seq - 1
            except StoreError:
                await asyncio.sleep(_RETRY_S)

    async def _first_place(self) -> None:
        if self._after is not None:
            return
        self._after = 0
        if self._mode == "late":
            await asyncio.sleep(random.random())
            while True:
                try:
                    self._after = random.randint(0, (await self._store.find(self._run_id)).last_seq)
                    return
                except StoreError:
                    await asyncio.sleep(_RETRY_S)

    async def _read_on(self) -> None:
        assert self._after is not None
        result = await Runner.attach(self._run_id, store=self._store, after=self._after)
        run: Any = result._run
        left = random.randint(1, 40) if self._mode == "reconnect" else -1
        reader = result.events(run.after)
        try:
            async for event in reader:
                self._after = run.cursor_of(event.seq)
                self._lines.write("saw", self._run_id, event.seq, self._after, digest_of(event))
                left -= 1
                if left == 0:
                    return
        finally:
            await reader.aclose()
        self._ended = True
        output = result.final_output
        shown = "-" if output is None else zlib.crc32(str(output).encode())
        self._lines.write("end", self._run_id, run.fold.end is not None, self._after, shown)
