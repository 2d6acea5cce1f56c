"""The SQLite store's only writer: one thread, one connection, as many calls a transaction as are waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from runstream.errors import AgentsException, StoreError
from runstream.log.base import Append, Refusal
from runstream.log.sqlite_file import StoreFile
from runstream.log.sqlite_lane import Call, Lane, Outcome
from runstream.log.sqlite_ledger import Ledger
from runstream.log.sqlite_runs import Times

__all__ = ["Flush", "Writer"]

_log = logging.getLogger("runstream.log")

# The journal is compacted when it is so old or so long.
_COMPACT_S = 5.0
_COMPACT_BYTES = 4_000_000
# While there is work, the newest rows stay: followers that poll find them there, and need not read pages.
_KEEP_ROWS = 16
# Pages of the write-ahead log at which it is written back to the file.
_CHECKPOINT_PAGES = 1000


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

    def _open(self) -> None:
        self._connection = self._file.connect()
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        self._identity = self._file.identity()
        self._ledger = Ledger(self._connection, name=self._name, url=self._url, times=self._times)
        self._ledger.journal_bytes = 1  # of others that have not compacted theirs, perhaps
        self._compacted_at = self._times.monotonic()

    def _close(self) -> None:
        while self._ledger.journal_bytes and self._keep_house(lambda ledger: ledger.compact()):
            pass
        self._file.close(self._connection)

    def _patience_s(self) -> float:
        return 0.001 if self._ledger.garbage else super()._patience_s()

    def _carry_out(self, calls: Sequence[Call]) -> None:
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
                    self._carry_out([call])
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
        ledger = self._ledger
        if ledger.garbage:
            idle = False  # it was waited for a moment only
            self._keep_house(lambda ledger: ledger.collect())
        if not ledger.journal_bytes:
            self._compacted_at = self._times.monotonic()
        elif idle or self._is_time() or (ledger.journal_bytes >= _COMPACT_BYTES and not self._failing):
            keep_rows = 0 if idle else _KEEP_ROWS
            self._keep_house(lambda ledger: ledger.compact(keep_rows))
            self._compacted_at = self._times.monotonic()

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
