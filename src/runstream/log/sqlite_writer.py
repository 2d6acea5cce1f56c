"""The SQLite store's writer: one thread, one connection, as many calls a transaction as are waiting.

Small steps need not wait for the thread (`do_now`, `append_now`): at NORMAL they cost less in the caller's thread than
to hand them over would. The thread is never in the way of them, nor they in its: they are for the moments in which it
changes nothing, and in which no other process writes. What waits for the disk is the thread's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from runstream.errors import AgentsException, StoreError
from runstream.log.base import Append, Refusal
from runstream.log.sqlite_append import Known
from runstream.log.sqlite_file import StoreFile
from runstream.log.sqlite_lane import Call, Lane, Outcome
from runstream.log.sqlite_ledger import Ledger
from runstream.log.sqlite_runs import Times
from runstream.log.sqlite_upkeep import Upkeep

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Done", "Flush", "Writer"]

T = TypeVar("T")

# What is larger is the thread's: whoever calls is to go on within a fraction of a millisecond.
_NOW_BYTES = 131_072
# Where the disk has kept a caller for so long, callers leave all to the thread for a while; longer each time in a row.
_SLOW_S, _SLOW_FIRST_S, _SLOW_FOR_S = 0.005, 0.25, 16.0


class Done(Generic[T]):
    """What a step that was done at once has returned."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class Flush:
    """A call that appends."""

    __slots__ = ("appends",)

    def __init__(self, appends: Sequence[Append]) -> None:
        self.appends = appends

    def __call__(self, ledger: Ledger) -> Sequence[Refusal | None]:
        return ledger.append(self.appends)


class Writer(Lane[Ledger]):
    """Calls are steps of the `Ledger`. A step that raises one of our errors has changed nothing; any other failure
    undoes the whole transaction, whose calls are then tried one by one, so that each gets its own error."""

    def __init__(
        self,
        file: StoreFile,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
        url: str,
        times: Times,
        committed: Callable[[Collection[str]], None],
    ) -> None:
        super().__init__("runstream-sqlite-writer", loop)
        self._file = file
        self._name = name
        self._url = url
        self._times = times
        self._committed = committed
        self._known = Known()
        # Whoever holds it may use what is known.
        self._at_work = threading.Lock()
        self._ledger: Ledger
        self._upkeep: Upkeep
        self._quick: Ledger | None = None
        self._quick_connection: sqlite3.Connection
        self._slow_until = 0.0
        self._slow_for_s = _SLOW_FIRST_S

    def append_now(self, appends: Sequence[Append]) -> Sequence[Refusal | None] | None:
        """Append in the caller's thread, if that takes a moment only. None: nothing was done; call a `Flush`."""

        def append(ledger: Ledger) -> Sequence[Refusal | None] | None:
            if ledger.append_at_once(appends, _NOW_BYTES):
                self._committed(())
                return [None] * len(appends)
            known = self._known.runs
            if sum([len(each.segment.body) for each in appends]) > _NOW_BYTES:
                return None
            if not all(each.run_id in known for each in appends):
                return None  # to find out about a run may take longer
            return self._step(ledger, Flush(appends))

        done = self._now(append)
        return None if done is None else done.value

    def do_now(self, step: Callable[[Ledger], T]) -> Done[T] | None:
        """Take a step in the caller's thread, if that takes a moment only. None: nothing was done; call it.

        Raises what the step raises of our errors, which has changed nothing then.
        """
        return self._now(lambda ledger: self._step(ledger, step))

    def _now(self, work: Callable[[Ledger], T]) -> Done[T] | None:
        quick = self._quick
        if quick is None or not self._at_work.acquire(blocking=False):
            return None
        try:
            began = self._times.monotonic()
            if self._quick is None or began < self._slow_until or self._file.identity() != self._identity:
                return None
            done = Done(work(quick))
            ended = self._times.monotonic()
        except BaseException as error:
            refused = isinstance(error, AgentsException) and not isinstance(error, StoreError)
            if not refused:
                quick.undo(error)
            if refused or not isinstance(error, Exception):
                raise
            return None
        finally:
            self._at_work.release()
        if ended - began > _SLOW_S:
            # Once may be anybody's fault; again at once is the disk's.
            self._slow_until = ended + self._slow_for_s
            self._slow_for_s = min(2 * self._slow_for_s, _SLOW_FOR_S)
        else:
            self._slow_for_s = _SLOW_FIRST_S
        self._upkeep.notice()
        return done

    def _step(self, ledger: Ledger, step: Callable[[Ledger], T]) -> T:
        ledger.begin()
        try:
            result = step(ledger)
        except AgentsException as error:
            if not isinstance(error, StoreError):
                ledger.commit()
            raise
        self._committed(ledger.commit())
        return result

    def _connect(self, **options: Any) -> sqlite3.Connection:
        connection = self._file.connect(**options)
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the upkeep's business
        return connection

    def _ledger_of(self, connection: sqlite3.Connection) -> Ledger:
        return Ledger(connection, self._known, name=self._name, url=self._url, times=self._times)

    def _open(self) -> None:
        quick = None
        with ExitStack() as opened:
            self._connection = self._connect()
            opened.callback(self._file.close, self._connection)
            self._identity = self._file.identity()
            self._ledger = self._ledger_of(self._connection)
            if self._file.synchronous == "NORMAL":
                self._quick_connection = self._connect(busy_timeout_s=0.0)
                opened.callback(self._file.close, self._quick_connection)
                quick = self._ledger_of(self._quick_connection)
            self._known.journal_bytes = 1  # of others that have not compacted theirs, perhaps
            self._upkeep = Upkeep(
                self._file, self._known, self._at_work, name=self._name, url=self._url, times=self._times
            )
            opened.callback(self._upkeep.close)
            self._upkeep.start()
            opened.pop_all()
        self._quick = quick

    def _close(self) -> None:
        with self._at_work:
            if self._quick is not None:
                self._quick = None
                self._file.close(self._quick_connection)
        self._upkeep.close()
        self._file.close(self._connection)

    def _look_around(self, idle: bool) -> None:
        self._upkeep.notice()

    def _carry_out(self, calls: Sequence[Call]) -> None:
        with self._at_work:
            self._transact(calls)

    def _transact(self, calls: Sequence[Call]) -> None:
        import sqlite3

        outcomes: list[Outcome] = []
        try:
            if self._file.identity() != self._identity:
                raise StoreError(
                    f"the file of the store {self._file.path} was deleted or replaced while it was open: "
                    "open the store again"
                )
            if len(calls) == 1 and self._append_at_once(calls[0]):
                return
            self._ledger.begin()
        except (sqlite3.Error, StoreError) as error:
            self._ledger.undo(error)
            failure = self._file.explain(error) if isinstance(error, sqlite3.Error) else error
            self._settle([Outcome(call.future, None, failure) for call in calls])
            return
        try:
            for call in calls:
                try:
                    outcomes.append(Outcome(call.future, call.work(self._ledger), None))
                except AgentsException as error:
                    if isinstance(error, StoreError):
                        raise
                    outcomes.append(Outcome(call.future, None, error))
            changed = self._ledger.commit()
        except Exception as error:
            self._ledger.undo(error)
            if len(calls) > 1:
                for call in calls:
                    self._transact([call])
                return
            failure = self._file.explain(error) if isinstance(error, sqlite3.Error) else error
            self._settle([Outcome(calls[0].future, None, failure)])
            return
        self._settle(outcomes)
        self._committed(changed)

    def _append_at_once(self, call: Call) -> bool:
        work = call.work
        if not isinstance(work, Flush) or not self._ledger.append_at_once(work.appends):
            return False
        self._settle([Outcome(call.future, [None] * len(work.appends), None)])
        self._committed(())
        return True
