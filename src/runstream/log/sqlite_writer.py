"""The SQLite store's writer: one thread, one connection, as many calls a transaction as are waiting.

Small flushes that only go on with runs that are ours need not wait for the thread (`append_now`): at NORMAL they cost
less in the caller's thread than to hand them over would. The thread is never in the way of them, nor they in its: they
are for the moments in which it has nothing to do, and in which no other process writes. Checkpoints, which wait for the
disk, are the thread's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from runstream.errors import AgentsException, StoreError
from runstream.log.base import Append, Refusal
from runstream.log.sqlite_file import StoreFile, is_busy, resets_safely
from runstream.log.sqlite_lane import Call, Lane, Outcome
from runstream.log.sqlite_ledger import Ledger
from runstream.log.sqlite_runs import Times

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Flush", "Writer"]

_log = logging.getLogger("runstream.log")

# The journal is compacted when it is so old or so long.
_COMPACT_S = 5.0
_COMPACT_BYTES = 1_000_000
# While there is work, the newest rows stay: followers that poll find them there, and need not read pages.
_KEEP_ROWS = 16
# Pages of the write-ahead log at which it is written back to the file.
_CHECKPOINT_PAGES = 1000
# Where that is ours to do: after so much time, or so many bytes of the journal.
_CHECKPOINT_S, _CHECKPOINT_BYTES = 10.0, 8_000_000
# What is larger is the thread's: whoever calls is to go on within a fraction of a millisecond.
_NOW_BYTES = 32_768
# It only adds to the end of one table.
_SMALL_CACHE_BYTES = 262_144
# Where the disk has kept a caller for so long, callers leave all to the thread for a while.
_SLOW_S, _SLOW_FOR_S = 0.005, 10.0


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
        self._compacted_at = 0.0
        self._failing = False
        self._ledger: Ledger
        # Whoever holds it may use the ledger.
        self._at_work = threading.Lock()
        self._quick: sqlite3.Connection | None = None
        self._slow_until = 0.0
        self._appended_now = False
        self._checkpointer: sqlite3.Connection | None = None
        self._checkpointed_at = 0.0
        self._not_checkpointed = 0

    def append_now(self, appends: Sequence[Append]) -> bool:
        """In the caller's thread, if that takes a moment only. False: nothing was done; call a `Flush`."""
        import sqlite3

        quick = self._quick
        if quick is None or not self._at_work.acquire(blocking=False):
            return False
        try:
            began = self._times.monotonic()
            if (
                began < self._slow_until
                or sum([len(append.segment.body) for append in appends]) > _NOW_BYTES
                or self._file.identity() != self._identity
                or not self._ledger.append_at_once(appends, quick.execute)
            ):
                return False
            ended = self._times.monotonic()
        except sqlite3.Error as error:
            # Of a file that somebody else is writing to nothing is doubted: nothing was done.
            if not is_busy(error):
                self._ledger.forget()
            return False
        finally:
            self._at_work.release()
        self._appended_now = True
        if ended - began > _SLOW_S:
            self._slow_until = ended + _SLOW_FOR_S
        if self._ledger.journal_bytes >= _COMPACT_BYTES:
            self.wake()
        self._committed(())
        return True

    def _open(self) -> None:
        import sqlite3

        self._connection = self._file.connect()
        guarded = not resets_safely(sqlite3.sqlite_version_info)
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {0 if guarded else _CHECKPOINT_PAGES}")
        if guarded:
            self._checkpointer = self._file.connect()
            self._checkpointer.execute("PRAGMA wal_autocheckpoint = 0")
        self._identity = self._file.identity()
        self._ledger = Ledger(self._connection, name=self._name, url=self._url, times=self._times)
        self._ledger.journal_bytes = 1  # of others that have not compacted theirs, perhaps
        self._compacted_at = self._checkpointed_at = self._times.monotonic()
        if self._file.synchronous == "NORMAL":
            quick = self._file.connect(busy_timeout_s=0.0, cache_bytes=_SMALL_CACHE_BYTES)
            quick.execute("PRAGMA wal_autocheckpoint = 0")
            self._quick = quick

    def _close(self) -> None:
        with self._at_work:
            quick, self._quick = self._quick, None
            if quick is not None:
                self._file.close(quick)
        while self._ledger.journal_bytes and self._keep_house(lambda ledger: ledger.compact()):
            pass
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            self._file.close(checkpointer)
        self._file.close(self._connection)

    def _patience_s(self) -> float:
        return 0.001 if self._ledger.garbage else super()._patience_s()

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
            self._undo()
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
            self._undo()
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

    def _undo(self) -> None:
        import sqlite3

        try:
            self._ledger.rollback()
        except sqlite3.Error as error:
            # The transaction is gone then, as SQLite undoes it when the connection closes.
            _log.warning("%s: cannot undo a transaction: %s", self._file.path, error)

    def _look_around(self, idle: bool) -> None:
        with self._at_work:
            self._look_after(idle)

    def _look_after(self, idle: bool) -> None:
        ledger = self._ledger
        if ledger.garbage or self._appended_now:
            idle = False  # it was waited for a moment only, or not the thread alone is at work
        self._appended_now = False
        if ledger.garbage:
            self._keep_house(lambda ledger: ledger.collect())
        if not ledger.journal_bytes:
            self._compacted_at = self._times.monotonic()
        elif idle or self._is_time() or (ledger.journal_bytes >= _COMPACT_BYTES and not self._failing):
            keep_rows = 0 if idle else _KEEP_ROWS
            journal_bytes = ledger.journal_bytes
            self._keep_house(lambda ledger: ledger.compact(keep_rows))
            self._not_checkpointed += journal_bytes
            self._compacted_at = self._times.monotonic()
        if self._checkpointer is not None and (
            self._not_checkpointed >= _CHECKPOINT_BYTES
            or self._times.monotonic() - self._checkpointed_at >= _CHECKPOINT_S
        ):
            self._checkpoint(self._checkpointer)

    def _checkpoint(self, checkpointer: sqlite3.Connection) -> None:
        """Write the write-ahead log back while nobody can commit: see `resets_safely`."""
        import sqlite3

        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            _log.debug("%s: the write-ahead log was not written back: %s", self._file.path, error)
        self._checkpointed_at, self._not_checkpointed = self._times.monotonic(), 0

    def _is_time(self) -> bool:
        return self._times.monotonic() - self._compacted_at >= _COMPACT_S

    def _keep_house(self, work: Callable[[Ledger], Any]) -> Any:
        import sqlite3

        try:
            self._ledger.begin()
            result = work(self._ledger)
            self._ledger.commit()
        except Exception as error:
            self._undo()
            self._ledger.garbage = False  # until the next deletion, or until the store is opened again
            failure = self._file.explain(error) if isinstance(error, sqlite3.Error) else error
            if not self._failing:
                _log.warning("the store's upkeep failed, and is tried again every second: %s", failure)
            self._failing = True
            return None
        self._failing = False
        return result
