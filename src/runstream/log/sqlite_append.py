"""How the SQLite store's writer appends, and how it knows what it may append to.

Fencing without a row per run. A flush inserts one journal row and touches no other, so whether a run is still ours
and where its log ends is known from memory. That memory is true as long as nobody else took a run over: whoever takes
a run away from the store object that appends to it (`runs.appender`) counts up `state.takeovers`, which each
transaction looks at first. Has it moved, the rows of the runs concerned are read again.

Compaction (`sqlite_compaction`) moves the oldest journal rows, of whatever process, into `segments`, each run's own
together; a journal id is never used again (`state.floor`).

Several ledgers may write by connections of their own to the same file: they share what is `Known`, and whoever holds
that uses it alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from runstream.log.base import Append, Refusal, Segment, StoredStatus
from runstream.log.cursor import epoch_of
from runstream.log.sqlite_compaction import Gathered, gather
from runstream.log.sqlite_file import is_busy
from runstream.log.sqlite_journal import encode_journal
from runstream.log.sqlite_runs import RunRow, Times, epochs_of, select_runs

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Held", "Known", "LogLedger"]

_log = logging.getLogger("runstream.log")

# The states of a log that goes on; every other one is its end.
_OPEN = frozenset({"queued", "running", "waiting"})


class Held:
    """What is known of a run that this store object appends to."""

    __slots__ = ("ended", "epoch", "epochs", "held", "last_seq", "number")

    def __init__(self, number: int, epoch: int, epochs: str, last_seq: int, *, held: bool, ended: bool) -> None:
        self.number = number
        self.epoch = epoch
        self.epochs = epochs
        self.last_seq = last_seq
        self.held = held
        self.ended = ended

    @classmethod
    def of(cls, row: RunRow, last_seq: int) -> Held:
        """What its row says."""
        return cls(
            row.number,
            row.epoch,
            row.epochs,
            last_seq,
            held=row.lease_until is not None,
            ended=row.ended_at is not None,
        )

    def refusal(self, segment: Segment, epoch: int) -> Refusal | None:
        """The answer for a segment that is not simply the next one; None: it is there already."""
        epochs = epochs_of(self.epochs)
        if segment.last_seq <= self.last_seq and (
            epoch == epoch_of(segment.first_seq, epochs) == epoch_of(segment.last_seq, epochs)
        ):
            return None
        if epoch != self.epoch:
            return "fenced"
        if self.ended:
            return "sealed"
        return "gap" if self.held else "fenced"


class Known:
    """What a store object knows of the file without looking: true as long as `takeovers` is."""

    __slots__ = ("commits", "doubted", "garbage", "journal_bytes", "runs", "takeovers")

    def __init__(self) -> None:
        self.runs: dict[str, Held] = {}
        self.doubted: dict[str, Held] = {}
        """Runs whose rows have to be looked at before what is known of them counts again."""
        self.takeovers = -1
        self.journal_bytes: int = 0
        """About how much there is to compact: what this object has written to the journal since the last time."""
        self.commits = 0
        """Of this object, so far."""
        self.garbage = True
        """Whether there may be deleted runs whose segments are still there."""

    def forget(self) -> None:
        """What is known of runs may not be true any more: the rows know better. Called outside a transaction."""
        self.runs.clear()
        self.doubted.clear()


class LogLedger:
    """`begin`, any number of steps, then `commit` or `rollback`."""

    def __init__(self, connection: sqlite3.Connection, known: Known, *, name: str, url: str, times: Times) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._known = known
        self._name = name
        self._url = url
        self._times = times
        self._state: dict[str, int] = {}
        self._changed: set[str] = set()

    # Transactions.

    def begin(self) -> None:
        self._execute("BEGIN IMMEDIATE")
        row = self._execute("SELECT runs, floor, takeovers, removals, commands, queued, served FROM state").fetchone()
        names = ("runs", "floor", "takeovers", "removals", "commands", "queued", "served")
        self._state = dict(zip(names, row, strict=True))
        self._changed.clear()
        known = self._known
        if self._state["takeovers"] != known.takeovers:
            known.doubted.update(known.runs)
            known.runs.clear()

    def commit(self) -> Collection[str]:
        """Returns the names of the counters that moved."""
        if self._changed:
            names = sorted(self._changed)
            self._execute(
                f"UPDATE state SET {', '.join(f'{name} = ?' for name in names)}", [self._state[name] for name in names]
            )
        self._execute("COMMIT")
        self._known.takeovers = self._state["takeovers"]
        self._known.commits += 1
        return self._changed

    def undo(self, error: BaseException) -> None:
        """After a transaction that failed with that error, before its commit or in it. What is known is forgotten, but
        where it never began since somebody else held the file."""
        import sqlite3

        if isinstance(error, sqlite3.Error) and is_busy(error) and not self._connection.in_transaction:
            return
        self._known.forget()
        try:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
        except sqlite3.Error as failure:
            # The transaction is gone then, as SQLite undoes it when the connection closes.
            _log.warning("%s: cannot undo a transaction: %s", self._url, failure)

    def _count(self, name: str) -> int:
        self._state[name] += 1
        self._changed.add(name)
        return self._state[name]

    # The log.

    def append_at_once(self, appends: Sequence[Append], most_bytes: int | None = None) -> bool:
        """The whole transaction in one statement, for flushes that only go on with runs that are ours: most of all.

        Called outside a transaction. False: nothing was done; take `append`. `most_bytes`: of more nothing is done.
        """
        entries: list[tuple[int, Segment, int, bool]] = []
        known = self._known.runs
        advanced: list[tuple[Held, int]] = []
        for append in appends:
            held, segment = known.get(append.run_id), append.segment
            if (
                held is None
                or append.status is not None
                or append.epoch != held.epoch
                or segment.first_seq != held.last_seq + 1
                or segment.last_seq < segment.first_seq
                or not held.held
            ):
                return False
            entries.append((held.number, segment, held.epoch, False))
            advanced.append((held, segment.last_seq))
        body = encode_journal(self._times.wall(), entries)
        if most_bytes is not None and len(body) > most_bytes:
            return False
        done = self._execute(
            "INSERT INTO journal (id, body) SELECT max(coalesce((SELECT max(id) FROM journal), 0), floor) + 1, ? "
            "FROM state WHERE takeovers = ?",
            (body, self._known.takeovers),
        ).rowcount
        if not done:
            return False
        self._known.commits += 1
        self._known.journal_bytes += len(body)
        for held, last_seq in advanced:
            held.last_seq = last_seq
        return True

    def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        answers: list[Refusal | None] = []
        entries: list[tuple[int, Segment, int, bool]] = []
        changes: list[tuple[Held, Append]] = []
        known = self._known.runs
        for append in appends:
            segment, status = append.segment, append.status
            held = known.get(append.run_id)
            if held is None:
                held = self._look_up(append)
            if held is None:
                answers.append("gone")
            elif (
                append.epoch != held.epoch
                or segment.first_seq != held.last_seq + 1
                or segment.last_seq < segment.first_seq
                or held.ended
                or not held.held
            ):
                answers.append(held.refusal(segment, append.epoch))
            else:
                held.last_seq = segment.last_seq
                entries.append((held.number, segment, held.epoch, status is not None and status not in _OPEN))
                if status is not None:
                    changes.append((held, append))
                answers.append(None)
        if entries:
            now = self._times.wall()
            body = encode_journal(now, entries)
            self._execute(
                "INSERT INTO journal (id, body) VALUES (max(coalesce((SELECT max(id) FROM journal), 0), ?) + 1, ?)",
                (self._state["floor"], body),
            )
            self._known.journal_bytes += len(body)
            for held, append in changes:
                self._set_status(held, append.run_id, append.status, now)
        return answers

    def _set_status(self, held: Held, run_id: str, status: StoredStatus | None, now: float) -> None:
        if status in _OPEN:
            self._execute("UPDATE runs SET status = ?, updated_at = ? WHERE number = ?", (status, now, held.number))
            return
        held.ended = True
        self._known.runs.pop(run_id, None)
        self._execute(
            "UPDATE runs SET status = ?, updated_at = ?, ended_at = ?, last_seq = ?, lease_until = NULL, "
            "appender = NULL WHERE number = ?",
            (status, now, now, held.last_seq, held.number),
        )

    def _look_up(self, append: Append) -> Held | None:
        """What is known of a run that this object has not appended to yet; None if there is none."""
        row = self._find(append.run_id)
        if row is None:
            self._known.doubted.pop(append.run_id, None)
            return None
        held = Held.of(row, self._last_seq(row))
        if append.epoch == row.epoch and held.held:
            if row.appender != self._name:
                self._execute("UPDATE runs SET appender = ? WHERE number = ?", (self._name, row.number))
                self._tell_appender(row)
            self._known.runs[row.run_id] = held
        return held

    def _last_seq(self, row: RunRow) -> int:
        """The true one. The row and what this object remembers of it must be of this transaction."""
        if not row.epoch or row.ended_at is not None:
            return row.last_seq
        known = self._known.runs.get(row.run_id) or self._known.doubted.pop(row.run_id, None)
        if known is not None and known.number == row.number and row.appender == self._name:
            return known.last_seq
        while self.compact():
            pass
        return self._execute("SELECT last_seq FROM runs WHERE number = ?", (row.number,)).fetchone()[0]

    def _tell_appender(self, row: RunRow) -> None:
        """Whoever appended to this run so far has to look at its row before it does so again."""
        if row.appender is not None and row.appender != self._name:
            self._count("takeovers")

    def _find(self, run_id: str) -> RunRow | None:
        rows = select_runs(self._connection, "run_id = ?", (run_id,))
        return rows[0] if rows else None

    def compact(self, keep_rows: int = 0) -> bool:
        """Move the oldest journal rows, but for the newest so many, to where their runs are.

        Returns whether there are more.
        """
        gathered = self.gather(keep_rows)
        if gathered is None:
            if not keep_rows:
                self._known.journal_bytes = 0
            return False
        return self.move(gathered)

    def gather(self, keep_rows: int) -> Gathered | None:
        """What there is to be moved; also outside a transaction, and without what is `Known`."""
        return gather(self._connection, keep_rows, self._known.journal_bytes)

    def move(self, gathered: Gathered) -> bool:
        """Move what was gathered, also before this transaction began. Returns whether there are more rows."""
        if gathered.floor != self._state["floor"]:
            return True  # somebody else has moved them
        gathered.move(self._connection)
        self._state["floor"] = gathered.last
        since = max(self._known.journal_bytes - gathered.counted, 0)
        self._known.journal_bytes = since + (gathered.size_bytes if gathered.more else int(gathered.kept))
        return gathered.more
