"""A store within one process, for tests and for trying things out: what the laws of `Store` mean, said most simply.

`memory://name` is one store for all who open that name, from any event loop, until the process ends; plain `memory://`
is its opener's alone. All that is kept is in a `_Core`, which is only touched under its lock, since heartbeats come
from threads; nothing awaits while it holds the lock.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from runstream.clock import Clock, system_clock
from runstream.errors import CursorExpired, RunExists, RunNotFound, RunSealed, StoreError, UserError
from runstream.log.base import (
    Append,
    Claim,
    Command,
    NewRun,
    Page,
    Refusal,
    Renewal,
    Retention,
    RunRecord,
    Segment,
    StoredStatus,
)
from runstream.log.cursor import epoch_of

__all__ = ["MemoryStore"]

_Found = TypeVar("_Found")
_OPEN = ("queued", "running", "waiting")


@dataclass(eq=False, slots=True)
class _Run:
    new: NewRun
    creator: str | None
    number: int
    """Runs are numbered in the order in which they were entered."""
    created_at: float
    updated_at: float
    status: StoredStatus = "queued"
    epochs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    segments: list[Segment] = field(default_factory=list[Segment])
    commands: list[Command] = field(default_factory=list[Command])
    first_seq: int = 1
    last_seq: int = 0
    ended_at: float | None = None
    worker: str | None = None
    lease_until: float | None = None
    """None while nobody holds the run."""
    deliveries: int = 0

    @property
    def epoch(self) -> int:
        return self.epochs[-1][0] if self.epochs else 0

    def record(self, *, with_job: bool = True) -> RunRecord:
        new = self.new
        return RunRecord(
            new.run_id,
            new.agent,
            self.status,
            tuple(self.epochs),
            self.first_seq,
            self.last_seq,
            self.created_at,
            self.updated_at,
            self.ended_at,
            new.owner,
            new.queue,
            self.worker,
            self.deliveries,
            new.job if with_job else None,
        )

    def claim(self, worker: str, now: float, lease_s: float) -> int:
        epoch = max(self.epoch + 1, int(now * 1000))
        self.epochs.append((epoch, self.last_seq + 1))
        if self.lease_until is None or self.lease_until <= now:
            self.deliveries += 1  # else its own worker asks once more
        if self.status != "waiting":
            self.status = "running"
        self.worker, self.lease_until = worker, now + lease_s
        self.updated_at = now
        return epoch

    def append(self, append: Append, now: float) -> Refusal | None:
        epoch, segment = append.epoch, append.segment
        if self._has(segment, epoch):
            return None
        if epoch != self.epoch:
            return "fenced"
        if self.ended_at is not None:
            return "sealed"
        if self.lease_until is None:
            return "fenced"  # it was handed back
        if segment.first_seq != self.last_seq + 1 or segment.last_seq < segment.first_seq:
            return "gap"
        self.segments.append(Segment(segment.first_seq, segment.last_seq, segment.body, epoch))
        self.last_seq, self.updated_at = segment.last_seq, now
        if append.status is not None:
            self.status = append.status
            if append.status not in _OPEN:
                self.ended_at, self.lease_until = now, None
        return None

    def _has(self, segment: Segment, epoch: int) -> bool:
        return segment.last_seq <= self.last_seq and (
            epoch == epoch_of(segment.first_seq, self.epochs) == epoch_of(segment.last_seq, self.epochs)
        )

    def read(self, after: int, max_bytes: int) -> Page:
        if after + 1 < self.first_seq:
            raise CursorExpired(after, self.first_seq)
        found: list[Segment] = []
        size = 0
        for segment in self.segments:
            if segment.last_seq > after:
                found.append(segment)
                size += len(segment.body)
                if size >= max_bytes:
                    break
        return Page(found, self.last_seq, self.ended_at is not None)


class _Core:
    """What the stores of one name share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs: dict[str, _Run] = {}
        self.numbers = itertools.count(1)
        self.served: dict[str, int] = {}
        """When each queue was last served, as a number that counts up."""
        self.serves = itertools.count(1)
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def wait(self) -> asyncio.Future[None]:
        """Awaiting it returns after the next change. Called under the lock."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters = [entry for entry in self._waiters if not entry[1].cancelled()]
        self._waiters.append((loop, waiter))
        return waiter

    def changed(self) -> None:
        """Wake whoever waits. Called under the lock, from any thread."""
        waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            try:
                loop.call_soon_threadsafe(_finish, waiter)
            except RuntimeError:
                pass  # that loop is closed


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


_named: dict[str, _Core] = {}


class MemoryStore:
    """Implements `Store`. `clock` is the store's time; stores of one name should share theirs."""

    def __init__(self, url: str = "memory://", *, clock: Clock = system_clock) -> None:
        scheme, separator, name = url.partition("://")
        if scheme != "memory" or not separator:
            raise UserError(f"the URL of a store in memory is memory:// or memory://NAME, not {url!r}")
        self._url = url
        self._core = _named.setdefault(name, _Core()) if name else _Core()
        self._clock = clock
        self._is_open = False

    @property
    def url(self) -> str:
        return self._url

    async def open(self) -> None:
        self._is_open = True

    async def aclose(self) -> None:
        self._is_open = False
        with self._core.lock:
            self._core.changed()

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreError(f"the store {self._url} is not open")

    def _run(self, run_id: str) -> _Run:
        self._check_open()
        run = self._core.runs.get(run_id)
        if run is None:
            raise RunNotFound(run_id, self._url)
        return run

    async def _until(self, look: Callable[[], _Found | None]) -> _Found:
        """Look, under the lock, after each change until something is found."""
        while True:
            with self._core.lock:
                self._check_open()
                found = look()
                if found is not None:
                    return found
                changed = self._core.wait()
            await changed

    # Runs and who works on them.

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        with self._core.lock:
            self._check_open()
            now = self._clock.now()
            there = self._core.runs.get(run.run_id)
            if there is not None:
                if there.new != run or there.creator != worker or there.last_seq:
                    raise RunExists(run.run_id, self._url)
                if worker is not None and there.worker != worker:
                    raise RunExists(run.run_id, self._url)
                return 0 if worker is None else there.epoch
            entered = _Run(run, worker, next(self._core.numbers), now, now)
            self._core.runs[run.run_id] = entered
            epoch = 0 if worker is None else entered.claim(worker, now, lease_s)
            self._core.changed()
            return epoch

    async def find(self, run_id: str) -> RunRecord:
        with self._core.lock:
            return self._run(run_id).record()

    async def claim(self, run_id: str, worker: str, lease_s: float) -> Claim | None:
        with self._core.lock:
            run = self._run(run_id)
            now = self._clock.now()
            if run.ended_at is not None:
                return None
            if run.lease_until is not None and run.lease_until > now and run.worker != worker:
                return None
            return self._claim(run, worker, now, lease_s)

    def _claim(self, run: _Run, worker: str, now: float, lease_s: float) -> Claim:
        epoch = run.claim(worker, now, lease_s)
        self._core.served[run.new.queue] = next(self._core.serves)
        self._core.changed()
        return Claim(run.record(), epoch)

    async def claim_next(
        self,
        agents: Collection[str],
        worker: str,
        lease_s: float,
        *,
        queues: Collection[str] | None = None,
        wait_s: float = 0.0,
    ) -> Claim | None:
        core = self._core
        until = self._clock.now() + wait_s
        while True:
            with core.lock:
                self._check_open()
                now = self._clock.now()
                claimable = [
                    run
                    for run in core.runs.values()
                    if run.ended_at is None
                    and run.new.agent in agents
                    and (queues is None or run.new.queue in queues)
                    and (run.lease_until is not None or run.new.job is not None)
                ]
                waiting = [run for run in claimable if run.lease_until is None or run.lease_until <= now]
                if waiting:
                    run = min(waiting, key=lambda run: (core.served.get(run.new.queue, 0), run.number))
                    return self._claim(run, worker, now, lease_s)
                if now >= until:
                    return None
                next_at = min([until, *(run.lease_until for run in claimable if run.lease_until is not None)])
                changed = core.wait()
            try:
                async with self._clock.timeout(next_at - now):
                    await changed
            except TimeoutError:
                pass  # a lease has run out, or the time to wait

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        with self._core.lock:
            self._check_open()
            return [self._renew(self._core.runs.get(run_id), epoch, lease_s) for run_id, epoch in leases]

    def _renew(self, run: _Run | None, epoch: int, lease_s: float) -> Renewal:
        if run is None or run.epoch != epoch or run.lease_until is None:
            return Renewal(False)
        run.lease_until = self._clock.now() + lease_s
        return Renewal(True, len(run.commands))

    async def release(self, run_id: str, epoch: int) -> bool:
        with self._core.lock:
            self._check_open()
            run = self._core.runs.get(run_id)
            if run is None or run.epoch != epoch or run.lease_until is None:
                return False
            run.lease_until = None
            if run.status != "waiting":
                run.status = "queued"
            run.deliveries -= 1
            run.updated_at = self._clock.now()
            self._core.changed()
            return True

    # Its log.

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        with self._core.lock:
            self._check_open()
            now = self._clock.now()
            runs = [self._core.runs.get(append.run_id) for append in appends]
            answers: list[Refusal | None] = [
                "gone" if run is None else run.append(append, now) for run, append in zip(runs, appends, strict=True)
            ]
            self._core.changed()
            return answers

    async def read(self, run_id: str, after: int, *, max_bytes: int = 1_000_000) -> Page:
        with self._core.lock:
            return self._run(run_id).read(after, max_bytes)

    def tail(self, run_id: str, after: int) -> _Tail:
        return _Tail(self, run_id, after)

    # What people ask of it.

    async def send(self, run_id: str, command: Command) -> int:
        with self._core.lock:
            run = self._run(run_id)
            if run.ended_at is not None:
                raise RunSealed(run_id)
            number = len(run.commands) + 1
            run.commands.append(replace(command, number=number))
            self._core.changed()
            return number

    async def commands(self, run_id: str, after: int) -> Sequence[Command]:
        with self._core.lock:
            return self._run(run_id).commands[after:]

    async def wait_commands(self, known: Mapping[str, int]) -> Collection[str]:
        def look() -> list[str] | None:
            runs = ((run_id, self._core.runs.get(run_id), number) for run_id, number in known.items())
            asked = [
                run_id
                for run_id, run, number in runs
                if run is not None and run.ended_at is None and len(run.commands) > number
            ]
            return asked or None

        return await self._until(look)

    # Keeping.

    async def list_runs(
        self,
        *,
        status: Collection[StoredStatus] | None = None,
        agent: str | None = None,
        owner: str | None = None,
        limit: int = 100,
        before: tuple[float, str] | None = None,
    ) -> Sequence[RunRecord]:
        with self._core.lock:
            self._check_open()
            runs = list(self._core.runs.values())
            if before is not None:
                created_at, run_id = before
                there = self._core.runs.get(run_id)
                if there is None or owner not in (None, there.new.owner):
                    runs = [run for run in runs if run.created_at < created_at]
                else:
                    runs = [run for run in runs if run.number < there.number]
            found = (
                run.record(with_job=False)
                for run in reversed(runs)
                if (status is None or run.status in status)
                and (agent is None or run.new.agent == agent)
                and (owner is None or run.new.owner == owner)
            )
            return list(itertools.islice(found, limit))

    async def trim(self, run_id: str, before_seq: int) -> int:
        with self._core.lock:
            run = self._run(run_id)
            run.segments = [segment for segment in run.segments if segment.last_seq >= before_seq]
            run.first_seq = run.segments[0].first_seq if run.segments else run.last_seq + 1
            self._core.changed()
            return run.first_seq

    async def delete(self, run_id: str) -> bool:
        return bool(self._remove(lambda runs: [run for run in runs if run.new.run_id == run_id]))

    async def delete_owner(self, owner: str) -> int:
        return self._remove(lambda runs: [run for run in runs if run.new.owner == owner])

    async def sweep(self, retention: Retention) -> int:
        def not_to_be_kept(runs: list[_Run]) -> list[_Run]:
            ended = [run for run in runs if run.ended_at is not None]
            ended.sort(key=lambda run: (cast("float", run.ended_at), run.number))
            oldest = float("-inf") if retention.max_age_s is None else self._clock.now() - retention.max_age_s
            surplus = 0 if retention.max_count is None else len(ended) - retention.max_count
            chosen = [run for i, run in enumerate(ended) if i < surplus or cast("float", run.ended_at) < oldest]
            if retention.abandoned_age_s is not None:
                now = self._clock.now()
                before = now - retention.abandoned_age_s
                chosen += [
                    run
                    for run in runs
                    if run.ended_at is None
                    and run.lease_until is not None
                    and run.lease_until <= now
                    and run.updated_at < before
                ]
            return chosen

        return self._remove(not_to_be_kept)

    def _remove(self, choose: Callable[[list[_Run]], list[_Run]]) -> int:
        with self._core.lock:
            self._check_open()
            chosen = choose(list(self._core.runs.values()))
            for run in chosen:
                del self._core.runs[run.new.run_id]
            self._core.changed()
            return len(chosen)


class _Tail:
    def __init__(self, store: MemoryStore, run_id: str, after: int) -> None:
        self._store = store
        self._run_id = run_id
        self._after = after
        self._followed: _Run | None = None

    async def next(self) -> Page:
        page = await self._store._until(self._look)
        if page.segments:
            self._after = page.segments[-1].last_seq
        return page

    def _look(self) -> Page | None:
        run = self._store._run(self._run_id)
        if self._followed is not None and self._followed is not run:
            raise RunNotFound(self._run_id, self._store.url)  # another one of the same id
        self._followed = run
        page = run.read(self._after, 1_000_000)
        return page if page.segments or page.ended else None

    async def aclose(self) -> None:
        """Nothing is held."""
