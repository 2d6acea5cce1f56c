"""One run's way into its store: what of its log is there already, what waits, and who is told.

Knows neither when flushes go out nor what else is in them: that is `log/writer`'s.

Invariants: a run's events are acknowledged in order and without gaps, up to `committed_seq`; the same segment is sent
again until it is answered, so that a lost reply does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from runstream.clock import Clock
from runstream.errors import CursorExpired, LeaseLost, RunNotFound, StoreError, StoreUnavailable
from runstream.events.event import Event
from runstream.events.segment import encode_segment
from runstream.log.base import Append, Refusal, Segment, Store, StoredStatus
from runstream.log.memory import MemoryLog

__all__ = ["Flushes", "RunWriter"]

_logger = logging.getLogger("runstream")

# One run's part of a flush: more would keep the others waiting.
_MAX_EVENTS = 2_000
# So many events of one run are worth a flush of their own.
_FULL = 500
# So many events that are not yet in the store make the run wait.
_MAX_PENDING = 4_000

_Waiter: TypeAlias = tuple[int, "asyncio.Future[None]", bool]
"""What is woken once that seq is in the store, and whether it waits also where the run goes on without its store."""


def _nobody(_: Exception) -> None:
    """Hears of failures after the end."""


class Flushes(Protocol):
    """What makes the flushes, as a run sees it."""

    store: Store
    clock: Clock

    def mark(self, run: RunWriter, *, urgent: bool, full: bool) -> None:
        """The run has something to write: `urgent`, what may not wait; `full`, as much as a flush should take."""
        ...

    def wait_on(self, run: RunWriter) -> None:
        """From now on the run has something that waits."""
        ...


class RunWriter:
    """One run's way into the store."""

    __slots__ = (
        "_append",
        "_appended",
        "_clock",
        "_end",
        "_end_status",
        "_failed_at",
        "_log",
        "_on_failure",
        "_waiters",
        "_watched_seq",
        "_writer",
        "committed_seq",
        "durable",
        "epoch",
        "failure",
        "goes_on_undurable",
        "is_marked",
        "limit_s",
        "listeners",
        "run_id",
        "waits_since",
        "watch",
    )

    def __init__(
        self,
        writer: Flushes,
        log: MemoryLog,
        epoch: int,
        *,
        limit_s: float,
        goes_on_undurable: bool,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._writer = writer
        self._clock = writer.clock
        self._log = log
        self.run_id = log.run_id
        self.epoch = epoch
        self.committed_seq = log.first_seq - 1
        """The store has acknowledged every event up to this one."""
        self.durable = True
        """False once the run has gone on without its store; the log there is what was written until then."""
        self.failure: Exception | None = None
        """Why nothing more is written: LeaseLost, RunNotFound where the run was deleted, or the store's error."""
        self.goes_on_undurable = goes_on_undurable
        self.watch: Callable[[Sequence[Event]], None] | None = None
        """Given the events as they go out, in order and once each, whether they are taken or not. Must not raise."""
        self.listeners: list[Callable[[Sequence[Event]], None]] = []
        """Told of events as soon as the store has them, in order and once each; of none where nothing more is written.
        Must not raise."""
        self._watched_seq = self.committed_seq
        self.limit_s = limit_s
        self._on_failure = on_failure
        self._append: Append | None = None
        self._appended: Sequence[Event] = ()
        self.is_marked = False
        """Whether it waits for the next flush."""
        self._end: Event | None = None
        self._end_status: StoredStatus | None = None
        self._failed_at: float | None = None
        self.waits_since: float | None = None
        """When the oldest of what is not in the store came here, by `StoreWriter.now`."""
        self._waiters: list[_Waiter] = []
        log.pending = []

    @property
    def due(self) -> float | None:
        """When the limit is over for what waits, by `StoreWriter.now`; None where nothing waits, or nobody minds."""
        if self.waits_since is None or self.failure is not None or not self.durable:
            return None
        return self.waits_since + self.limit_s

    @property
    def is_behind(self) -> bool:
        """Whether so much waits for the store that the run has to wait as well."""
        pending = self._log.pending
        return pending is not None and len(pending) > _MAX_PENDING and not self.goes_on_undurable

    @property
    def last_seq(self) -> int:
        """The seq of the newest event that is to be written."""
        return self._log.last_seq if self._end is None else self._end.seq

    def changed(self, *, urgent: bool) -> None:
        """The log has grown."""
        if self.failure is None:
            pending = self._log.pending
            full = pending is not None and len(pending) >= _FULL
            if urgent or full or not self.is_marked:
                self._writer.mark(self, urgent=urgent, full=full)

    def set_status(self, status: StoredStatus) -> None:
        """The run's status changes with the events that are pending."""
        self._end_status = status

    async def commit(self) -> None:
        """Return once everything that is in the log is in the store.

        Raises LeaseLost where another worker has the run, RunNotFound where it was deleted, StoreUnavailable after the
        run's limit, StoreError. A run that goes on without its store does not wait for it.
        """
        await self._commit(self.last_seq)

    async def commit_end(self, event: Event, status: StoredStatus) -> None:
        """Write the last event, which is not in the log yet: an end must be kept before anybody is told."""
        self._end, self._end_status = event, status
        self.changed(urgent=True)
        await self._commit(event.seq, even_undurable=True)

    async def _commit(self, seq: int, *, even_undurable: bool = False) -> None:
        self._raise_failure()
        if self.failure is not None:
            return
        if self.committed_seq >= seq or (self._failed_at is not None and self.goes_on_undurable and not even_undurable):
            return
        self._writer.mark(self, urgent=True, full=False)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((seq, waiter, even_undurable))
        try:
            async with self._clock.timeout(self.limit_s):
                await waiter
        except TimeoutError:
            self.fail(self._not_taken())
        finally:
            self._waiters = [entry for entry in self._waiters if entry[1] is not waiter]
        self._raise_failure()

    def _not_taken(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store {self._writer.store.url} has not taken the events of {self.run_id} within "
            f"{self.limit_s:g} s (RunConfig.store_timeout_s)"
        )

    def overdue(self, now: float) -> None:
        """What waits has waited for as long as it may: the store may still be busy with the flush, or with another."""
        self._failed_at = self.waits_since
        self.not_answered(self._not_taken(), now)

    def _raise_failure(self) -> None:
        failure = self.failure
        if failure is not None and (isinstance(failure, LeaseLost | RunNotFound) or not self.goes_on_undurable):
            raise failure

    def next_append(self) -> Append | None:
        """The part of the next flush: the one that was not answered yet, else what has come since."""
        if self._append is None and self.failure is None:
            log, first = self._log, self.committed_seq + 1
            events = log.pending
            if events and self._end is None and events[0].seq == first and len(events) <= _MAX_EVENTS:
                log.pending = []  # what it mostly is: the next ones, and not too many
            else:
                try:
                    events = self._take(first)
                except CursorExpired as error:
                    self.fail(self._lost(error.first_seq))
                    return None
                if not events:
                    return None
            if self.watch is not None:
                self._show(events, self.watch)
            last_seq, status = events[-1].seq, None
            if self._end_status is not None and last_seq == self.last_seq:
                status, self._end_status = self._end_status, None
            self._append = Append(self.run_id, self.epoch, Segment(first, last_seq, encode_segment(events)), status)
            self._appended = events if self.listeners else ()
        return self._append

    def _show(self, events: list[Event], watch: Callable[[Sequence[Event]], None]) -> None:
        if events[0].seq <= self._watched_seq:  # written again, since the store had lost them
            events = [event for event in events if event.seq > self._watched_seq]
        if events:
            self._watched_seq = events[-1].seq
            watch(events)

    def _take(self, first: int) -> list[Event]:
        log = self._log
        pending, log.pending = log.pending or [], []
        if pending and pending[0].seq < first:
            pending = [event for event in pending if event.seq >= first]
        if not pending or pending[0].seq > first:
            # What the store was too slow for is read again.
            pending = self._read(first)
        if len(pending) > _MAX_EVENTS:
            log.pending = pending[_MAX_EVENTS:]
            pending = pending[:_MAX_EVENTS]
        elif self._end is not None and (not pending or pending[-1].seq + 1 == self._end.seq):
            pending = [*pending, self._end]
        return pending

    def _lost(self, first_seq: int) -> StoreError:
        return StoreError(
            f"the store {self._writer.store.url} has lost events of {self.run_id} before {first_seq}, which this "
            "process no longer has either"
        )

    def _read(self, first: int) -> list[Event]:
        events: list[Event] = []
        while first <= self._log.last_seq and len(events) < _MAX_EVENTS:
            events += self._log.read(first - 1)
            first = events[-1].seq + 1
        return events

    def answered(self, refusal: Refusal | None, last_seq: int | None = None) -> None:
        """The store has answered the pending append."""
        append, self._append = self._append, None
        assert append is not None
        self.waits_since = None
        if self.is_marked:  # more has come meanwhile
            self._writer.wait_on(self)
        if refusal is None:
            self._failed_at = None
            self.committed_seq = append.segment.last_seq
            if self._waiters:
                self._wake()
            if self.listeners:
                for told in tuple(self.listeners):
                    told(self._appended)
            if self.committed_seq < self.last_seq:
                self.changed(urgent=bool(self._waiters))
        elif refusal == "gap" and last_seq is not None and last_seq < append.segment.first_seq:
            # The store has lost its newest events (a crash, a replica that lagged). This process still has them, and
            # nobody else has the run: the same events are written again.
            if last_seq + 1 < self._log.first_seq:
                self.fail(self._lost(self._log.first_seq))
                return
            url = self._writer.store.url
            _logger.warning("%s has lost events of %s after %d: written again", url, self.run_id, last_seq)
            self.committed_seq = last_seq
            if append.status is not None:
                self._end_status = append.status
            self.changed(urgent=True)
        elif refusal == "gone":
            self.fail(RunNotFound(self.run_id, self._writer.store.url))
        elif refusal == "fenced":
            self.fail(LeaseLost(self.run_id))
        elif refusal == "sealed":
            self.fail(LeaseLost(self.run_id, "its log has been ended by another worker"))
        else:
            self.fail(StoreError(f"the store {self._writer.store.url} refuses the events of {self.run_id}: {refusal}"))

    def not_answered(self, error: StoreError, now: float) -> None:
        """The flush has failed; it will be repeated unless the run's limit is over."""
        if self._failed_at is None:
            self._failed_at = now if self.waits_since is None else self.waits_since
            _logger.warning("%s: %s; trying again", self.run_id, error)
        if self.goes_on_undurable:
            if self.durable and now - self._failed_at >= self.limit_s:
                self.durable = False
                _logger.error("%s goes on without its store: %s", self.run_id, error)
            if self._log.pending is not None and len(self._log.pending) > _MAX_PENDING:
                self._log.pending = []  # read again from the log once the store is back
            for _, waiter, insists in self._waiters:
                if not waiter.done() and not insists:
                    waiter.set_result(None)
        elif not error.retryable or now - self._failed_at >= self.limit_s:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Nothing more is written; the run is told."""
        if self.failure is not None:
            return
        self.failure = error
        if self.goes_on_undurable and self.durable and not isinstance(error, LeaseLost | RunNotFound):
            _logger.error("%s goes on without its store: %s", self.run_id, error)
        self.durable = False
        self._log.pending = None
        self._append = None
        for _, waiter, _ in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        for told in tuple(self.listeners):
            told(())
        self._on_failure(error)

    def _wake(self) -> None:
        waiting: list[_Waiter] = []
        for entry in self._waiters:
            seq, waiter, _ = entry
            if seq > self.committed_seq:
                waiting.append(entry)
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = waiting

    def close(self) -> None:
        """The run is over: nothing more will come, and nobody is told of anything."""
        self._log.pending = None
        self._on_failure = _nobody
        self.watch = None
