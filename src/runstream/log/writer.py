"""From the logs of a process's runs to their store: one flush at a time, for all runs together.

A run's events wait here for at most `max_age_s`, or not at all if one of them is no delta; then they go out with those
of all other runs as one `Store.append`. What was refused because another worker has the run is told to the run at once.
While the store is not reachable the same flush is repeated; runs that are to fail then do so after their own limit.

Invariants: a run's events are acknowledged in order and without gaps, up to `committed_seq`; while a flush is under way
there is no second one; the same segment is sent again until it is answered, so that a lost reply does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from runstream.clock import Clock, system_clock
from runstream.errors import CursorExpired, LeaseLost, RunNotFound, StoreError, StoreUnavailable
from runstream.events.event import Event
from runstream.events.segment import encode_segment
from runstream.log.base import Append, AppendsNow, Refusal, Segment, Store, StoredStatus
from runstream.log.memory import MemoryLog

__all__ = ["RunWriter", "StoreWriter"]

_logger = logging.getLogger("runstream")

# Deltas wait for company for so long: 15 ms are promised, and the flush itself takes its time.
_MAX_AGE_S = 0.013
# What may not wait goes at once, but not so soon after the last flush: when many runs begin and end together, one flush
# for all of them costs a fraction of one each.
_MIN_SPACING_S = 0.003
# One run's part of a flush: more would keep the others waiting.
_MAX_EVENTS = 2_000
# So many events of one run are worth a flush of their own.
_FULL = 500
# So many events that are not yet in the store make the run wait.
_MAX_PENDING = 4_000
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.02, 1.0


_Waiter: TypeAlias = tuple[int, "asyncio.Future[None]", bool]
"""What is woken once that seq is in the store, and whether it waits also where the run goes on without its store."""


class RunWriter:
    """One run's way into the store."""

    __slots__ = (
        "_append",
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
        "run_id",
        "waits_since",
        "watch",
    )

    def __init__(
        self,
        writer: StoreWriter,
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
        self._watched_seq = self.committed_seq
        self.limit_s = limit_s
        self._on_failure = on_failure
        self._append: Append | None = None
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

    def wait_committed(self, seq: int) -> asyncio.Future[None]:
        """Awaiting it returns once that seq is in the store, or nothing more is written."""
        waiter = asyncio.get_running_loop().create_future()
        if self.committed_seq >= seq or self.failure is not None:
            waiter.set_result(None)
        else:
            self._waiters = [entry for entry in self._waiters if not entry[1].done()]
            self._waiters.append((seq, waiter, True))
        return waiter

    def next_append(self) -> Append | None:
        """The part of the next flush: the one that was not answered yet, else what has come since."""
        if self._append is None and self.failure is None:
            try:
                events = self._take()
            except CursorExpired as error:
                self.fail(self._lost(error.first_seq))
                return None
            if events:
                if self.watch is not None:
                    self._show(events, self.watch)
                segment = Segment(events[0].seq, events[-1].seq, encode_segment(events))
                status = None
                if events[-1].seq == self.last_seq:
                    status, self._end_status = self._end_status, None
                self._append = Append(self.run_id, self.epoch, segment, status)
        return self._append

    def _show(self, events: list[Event], watch: Callable[[Sequence[Event]], None]) -> None:
        if events[0].seq <= self._watched_seq:  # written again, since the store had lost them
            events = [event for event in events if event.seq > self._watched_seq]
        if events:
            self._watched_seq = events[-1].seq
            watch(events)

    def _take(self) -> list[Event]:
        log = self._log
        first = self.committed_seq + 1
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
            self._wake()
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
        self._on_failure(error)

    def _wake(self) -> None:
        if not self._waiters:
            return
        waiting: list[_Waiter] = []
        for entry in self._waiters:
            seq, waiter, _ = entry
            if seq > self.committed_seq:
                waiting.append(entry)
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = waiting

    def close(self) -> None:
        """The run is over: nothing more will come."""
        self._log.pending = None


class StoreWriter:
    """Flushes for all runs of one event loop that share a store."""

    def __init__(self, store: Store, clock: Clock, *, max_age_s: float = _MAX_AGE_S) -> None:
        self.store = store
        self.clock = clock
        self._max_age_s = max_age_s
        # A clock that jumps when nothing is left to do would jump past timers of the loop.
        self._gathers = clock is system_clock
        self._loop = asyncio.get_running_loop()
        self._append_now = store.append_now if isinstance(store, AppendsNow) else None
        self._waiting: list[RunWriter] = []
        self._in_hand: list[RunWriter] = []
        self._closed = False
        self._urgent = False
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._flushed_at = 0.0
        self._watcher: asyncio.TimerHandle | None = None
        self.now: Callable[[], float] = self._loop.time if self._gathers else clock.now
        """What limits are measured by: setting the wall clock changes nothing."""

    def mark(self, run: RunWriter, *, urgent: bool, full: bool) -> None:
        """The run has something to write: `urgent`, what may not wait; `full`, as much as a flush should take."""
        if not run.is_marked:
            run.is_marked = True
            self._waiting.append(run)
            if run.waits_since is None:
                self.wait_on(run)
        if full:
            self._urgent = True
            self._flushed_at = 0.0  # there is no company worth waiting for
            if self._flushing is None:
                self._start()
        elif self._soon is not None:
            return
        elif urgent:
            if not self._urgent:
                self._urgent = True
                if self._flushing is None:
                    self._start_soon()
        elif self._timer is None and self._flushing is None:
            self._start_later()

    def wait_on(self, run: RunWriter) -> None:
        """From now on the run has something that waits."""
        run.waits_since = self.now()
        self._watch(run.waits_since + run.limit_s)

    def _watch(self, due: float) -> None:
        # One timer for all runs, which is seldom set: most flushes are answered long before it.
        if not self._gathers:
            return
        if self._watcher is not None:
            if self._watcher.when() <= due:
                return
            self._watcher.cancel()
        self._watcher = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._watcher = None
        now = self.now()
        for run in (*self._in_hand, *self._waiting):
            due = run.due
            if due is not None:
                if due <= now:
                    run.overdue(now)
                else:
                    self._watch(due)

    def _start_later(self) -> None:
        if self._gathers:
            self._timer = self._loop.call_later(self._max_age_s, self._flush)
        else:
            self._start()

    def _start_soon(self) -> None:
        wait_s = self._flushed_at + _MIN_SPACING_S - self._loop.time()
        if wait_s <= 0 or not self._gathers:
            self._start()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, self._flush)

    def _start(self) -> None:
        """With the loop's next turn: not within the step of a run that has just written something."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._soon is None:
            self._soon = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._timer = self._soon = None
        waiting, self._waiting = self._waiting, []
        self._urgent = False
        self._flushed_at = self._loop.time()
        runs: list[RunWriter] = []
        appends: list[Append] = []
        for run in waiting:
            run.is_marked = False
            try:
                append = run.next_append()
            except Exception as error:  # the others' events must not wait for it
                unwritable = StoreError(f"the events of {run.run_id} cannot be written: {error!r}")
                unwritable.__cause__ = error
                run.fail(unwritable)
                continue
            if append is None:
                run.waits_since = None
            else:
                runs.append(run)
                appends.append(append)
        if not appends:
            return
        if self._append_now is not None and self._append_now(appends):
            for run in runs:
                run.answered(None)
            return
        self._in_hand = waiting
        self._flushing = self._loop.create_task(self._write(runs, appends), name="runstream store writer")
        # A callback, since a task that is cancelled before its first step comes to no `finally`.
        self._flushing.add_done_callback(self._flushed)

    def _flushed(self, flushing: asyncio.Task[None]) -> None:
        self._flushing = None
        in_hand, self._in_hand = self._in_hand, []
        if self._closed or self._loop.is_closed():
            return
        if flushing.cancelled():
            # `asyncio.run` does so at its end, while runs still write theirs.
            for run in in_hand:
                self.mark(run, urgent=True, full=False)
        if self._waiting and self._flushing is None:
            if self._urgent:
                self._start_soon()
            else:
                self._start_later()

    async def _write(self, runs: Sequence[RunWriter], appends: Sequence[Append]) -> None:
        pause_s = _FIRST_PAUSE_S
        while runs:
            try:
                refusals = await self.store.append(appends)
            except StoreError as error:
                if not error.retryable and len(runs) > 1:
                    # It may be the fault of one of them.
                    for run, append in zip(runs, appends, strict=True):
                        await self._write([run], [append])
                    return
                now = self.now()
                for run in runs:
                    run.not_answered(error, now)
            except Exception as error:
                unexpected = StoreError(f"the store {self.store.url} failed: {error!r}")
                unexpected.__cause__ = error
                for run in runs:
                    run.fail(unexpected)
            else:
                unanswered: list[RunWriter] = []
                for run, refusal in zip(runs, refusals, strict=True):
                    if refusal is not None:
                        if not await self._refused(run, refusal):
                            unanswered.append(run)
                    elif run.failure is None:
                        run.answered(None)
                if not unanswered:
                    return
                runs = unanswered
            left = [(run, append) for run in runs if (append := run.next_append()) is not None]
            runs, appends = [run for run, _ in left], [append for _, append in left]
            if runs:
                await self.clock.sleep(pause_s)
                pause_s = min(pause_s * 2, _LAST_PAUSE_S)

    async def _refused(self, run: RunWriter, refusal: Refusal) -> bool:
        """Tell the run why its part was not written; False where the same has to be sent once more."""
        last_seq = None
        if run.failure is None and refusal == "gap":
            try:
                last_seq = (await self.store.find(run.run_id)).last_seq
            except StoreError as error:
                run.not_answered(error, self.now())
                return False
            except RunNotFound:
                refusal = "gone"
        if run.failure is None:
            run.answered(refusal, last_seq)
        return True

    async def aclose(self) -> None:
        """Stop; what was not flushed is not."""
        self._closed = True
        for handle in (self._timer, self._soon, self._watcher):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = self._watcher = None
        self._waiting.clear()
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.wait({self._flushing})
