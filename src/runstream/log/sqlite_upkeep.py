"""What the SQLite store does beside calls: compaction of the journal, deletion bit by bit, checkpoints.

A thread of its own, with connections of its own. Flushes go on meanwhile, but for the moments in which something is
really moved: what takes long (to read and regroup the journal, to write pages back to the file and wait for the disk)
is done without the lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from runstream.log.sqlite_append import Known
from runstream.log.sqlite_file import APPLICATION_ID, StoreFile, is_busy
from runstream.log.sqlite_ledger import Ledger
from runstream.log.sqlite_runs import Times

__all__ = ["Upkeep"]

_log = logging.getLogger("runstream.log")

# The journal is compacted when it is so old or so long.
_COMPACT_S = 5.0
_COMPACT_BYTES = 2_000_000
# While there is work, the newest rows stay: followers that poll find them there, and need not read pages.
_KEEP_ROWS = 16
# The write-ahead log is written back to the file after so much time, or so many bytes of the journal or of what was
# deleted, or so many commits: each adds at least a page to it, the one with which a run begins about five.
_CHECKPOINT_S, _CHECKPOINT_BYTES, _CHECKPOINT_COMMITS = 10.0, 8_000_000, 1000
# How long it waits for something to do, and between parts of what there is to do, which others find their place in.
_IDLE_S, _PAUSE_S = 1.0, 0.001
# It need not wait long for other processes: there is another time.
_BUSY_S = 0.1


class Upkeep:
    """Shares what is `Known`: who holds `at_work` may change it."""

    def __init__(
        self, file: StoreFile, known: Known, at_work: threading.Lock, *, name: str, url: str, times: Times
    ) -> None:
        self._file = file
        self._known = known
        self._at_work = at_work
        self._times = times
        self._connection = file.connect(busy_timeout_s=_BUSY_S)
        try:
            self._checkpointer = file.connect(busy_timeout_s=_BUSY_S)
        except BaseException:
            file.close(self._connection)
            raise
        for connection in (self._connection, self._checkpointer):
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._ledger = Ledger(self._connection, known, name=name, url=url, times=times)
        self._failing = False
        self._compacted_at = self._checkpointed_at = times.monotonic()
        self._not_checkpointed: int = 0
        """About how many bytes have been written to the log ahead since it was written back."""
        self._commits_before: int = 0
        """How many commits there were by then."""
        self._woken = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="runstream-sqlite-upkeep", daemon=True)

    def start(self) -> None:
        """Begin to look after the file."""
        self._thread.start()

    def notice(self) -> None:
        """Something was written: it may be time for what does not wait for a quiet moment. From any thread."""
        if (self._known.garbage or self._journal_is_long or self._log_is_long) and not self._woken.is_set():
            self._woken.set()

    def close(self) -> None:
        """End the thread, and move what is left of the journal."""
        self._closing = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()
        while self._known.journal_bytes and self._compact(0):
            pass
        self._file.close(self._checkpointer)
        self._file.close(self._connection)

    def _main(self) -> None:
        while not self._closing:
            due, counted = self.is_due, self._known.journal_bytes
            woken = self._woken.wait(_PAUSE_S if due else _IDLE_S)
            self._woken.clear()
            if not self._closing:
                self.look(idle=not (due or woken) and counted == self._known.journal_bytes)

    @property
    def is_due(self) -> bool:
        """Whether there is more to be done than waits for a quiet moment."""
        return self._known.garbage or self._checkpoint_is_due()

    def look(self, idle: bool) -> None:
        """Do one thing that is due, so that calls need not wait for all of them; `idle`: nobody has written anything
        for a while."""
        # In this order: what follows makes the log ahead longer, and garbage can wait.
        if self._checkpoint_is_due():
            self._checkpoint()
        elif not (self._compaction_is_due(idle) and self._compact(0 if idle else _KEEP_ROWS)) and self._known.garbage:
            self._keep_house(self._collect)
        if not self._known.journal_bytes:
            self._compacted_at = self._times.monotonic()

    def _collect(self) -> None:
        # SQLite may be built to overwrite what is deleted.
        self._not_checkpointed += self._ledger.collect()

    @property
    def _journal_is_long(self) -> bool:
        return self._known.journal_bytes >= _COMPACT_BYTES and not self._failing

    @property
    def _log_is_long(self) -> bool:
        return self._known.commits - self._commits_before >= _CHECKPOINT_COMMITS

    def _compaction_is_due(self, idle: bool) -> bool:
        if not self._known.journal_bytes:
            return False
        return idle or self._journal_is_long or self._times.monotonic() - self._compacted_at >= _COMPACT_S

    def _checkpoint_is_due(self) -> bool:
        return (
            self._not_checkpointed >= _CHECKPOINT_BYTES
            or self._log_is_long
            or self._times.monotonic() - self._checkpointed_at >= _CHECKPOINT_S
        )

    def _compact(self, keep_rows: int) -> bool:
        """Move a part of the journal, if there is one to be moved. False: there was none, or it failed."""
        self._compacted_at = self._times.monotonic()
        known, counted = self._known, self._known.journal_bytes
        try:
            gathered = self._ledger.gather(keep_rows)
        except Exception as error:
            self._failed(error)
            return False
        if gathered is None and keep_rows:
            with self._at_work:  # it all may stay, and need not be looked at again at once
                known.journal_bytes = max(known.journal_bytes - counted, 0) + 1
            return False
        if gathered is None:
            # Under the lock: whoever has just written something has counted it then.
            return self._keep_house(lambda: self._ledger.compact(keep_rows))
        self._not_checkpointed += gathered.size_bytes
        return self._keep_house(lambda: self._ledger.move(gathered))

    def _keep_house(self, work: Callable[[], object]) -> bool:
        """In a transaction; False where that fails."""
        with self._at_work:
            try:
                self._ledger.begin()
                work()
                self._ledger.commit()
            except Exception as error:
                self._ledger.undo(error)
                self._failed(error)
                return False
        self._failing = False
        return True

    def _failed(self, error: Exception) -> None:
        import sqlite3

        if isinstance(error, sqlite3.Error) and is_busy(error):
            return  # another process writes just now
        self._known.garbage = False  # until the next deletion, or until the store is opened again
        failure = self._file.explain(error) if isinstance(error, sqlite3.Error) else error
        if not self._failing:
            _log.warning("the store's upkeep failed, and is tried again every second: %s", failure)
        self._failing = True

    def _checkpoint(self) -> None:
        """Write the write-ahead log back to the file: most of it while others go on, then the rest while nobody can.

        Never while somebody can begin the log anew: before 3.51.3 SQLite could, very rarely, damage the file then
        (https://sqlite.org/wal.html#walresetbug). The first part is kept from it by a transaction that reads: either
        it reads from the log, which is then not begun anew, or from the file alone, which is then not written to.
        """
        import sqlite3

        commits = self._known.commits
        try:
            self._connection.execute("BEGIN")
            self._write_back("SELECT 1 FROM state")
            with self._at_work:
                self._connection.execute("BEGIN IMMEDIATE")
                self._write_back(None)
                if commits != self._commits_before:  # else nobody here is about to write
                    # The commit that begins the log anew waits for the disk: this one, which changes nothing.
                    self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        except sqlite3.Error as error:
            _log.debug("%s: the write-ahead log was not written back: %s", self._file.path, error)
        self._checkpointed_at, self._not_checkpointed, self._commits_before = self._times.monotonic(), 0, commits

    def _write_back(self, first: str | None) -> None:
        """Inside a transaction, which it ends; by another connection, since none can do both."""
        try:
            if first is not None:
                self._connection.execute(first).fetchone()
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            self._connection.execute("ROLLBACK")
