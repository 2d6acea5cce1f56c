"""From the logs of a process's runs to their store: one flush at a time, for all runs together.

A run's events wait here for at most `max_age_s`, or not at all if one of them is no delta; then they go out with those
of all other runs as one `Store.append`. What was refused because another worker has the run is told to the run at once.
While the store is not reachable the same flush is repeated; runs that are to fail then do so after their own limit.

Invariant: while a flush is under way there is no second one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import Any

from runstream.clock import Clock, system_clock
from runstream.errors import RunNotFound, StoreError
from runstream.log.base import Append, AppendsNow, Refusal, Store
from runstream.log.run_writer import RunWriter

__all__ = ["StoreWriter"]

_logger = logging.getLogger("runstream")

# Deltas wait for company for so long: 15 ms are promised, and the flush itself takes its time.
_MAX_AGE_S = 0.013
# What may not wait goes at once, but not so soon after the last flush: when many runs begin and end together, one flush
# for all of them costs a fraction of one each.
_MIN_SPACING_S = 0.003
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.02, 1.0


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
        self._watched_until = inf
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
        run.waits_since = now = self.now()
        if now + run.limit_s < self._watched_until:
            self._watch(now + run.limit_s)

    def _watch(self, due: float) -> None:
        # One timer for all runs, which is seldom set: most flushes are answered long before it.
        if not self._gathers:
            return
        if self._watcher is not None:
            self._watcher.cancel()
        self._watcher = self._loop.call_at(due, self._look)
        self._watched_until = due

    def _look(self) -> None:
        self._watcher, self._watched_until = None, inf
        now = self.now()
        for run in (*self._in_hand, *self._waiting):
            due = run.due
            if due is not None:
                if due <= now:
                    run.overdue(now)
                elif due < self._watched_until:
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
        if self._append_now is None:
            self._flush()
        elif self._soon is None:
            self._soon = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._timer = self._soon = None
        if self._append_now is None:
            self._write_later(self._collect_and_write())
            return
        runs, appends = self._collect()
        if not appends:
            return
        refusals = self._append_now(appends)
        if refusals is not None and not any(refusals):
            for run in runs:
                run.answered(None)
        else:
            self._in_hand = runs
            self._write_later(self._write(runs, appends, refusals))

    def _write_later(self, writing: Coroutine[Any, Any, None]) -> None:
        self._flushing = self._loop.create_task(writing, name="runstream store writer")
        # A callback, since a task that is cancelled before its first step comes to no `finally`.
        self._flushing.add_done_callback(self._flushed)

    async def _collect_and_write(self) -> None:
        runs, appends = self._collect()
        self._in_hand = runs
        await self._write(runs, appends)

    def _collect(self) -> tuple[list[RunWriter], list[Append]]:
        """What waits, as the parts of a flush."""
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
        return runs, appends

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

    async def _write(
        self,
        runs: Sequence[RunWriter],
        appends: Sequence[Append],
        answers: Sequence[Refusal | None] | None = None,
    ) -> None:
        """`answers`: those of the store, where it has given them already."""
        pause_s = _FIRST_PAUSE_S
        while runs:
            try:
                refusals = await self.store.append(appends) if answers is None else answers
                answers = None
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
