"""The writing side of the SQLite store: each public method is one step inside a transaction of the writer's thread.

How it appends is in `sqlite_append`; here is who works on a run, what is asked of it, and what is not kept.
Steps check before they write, so that one that raises an error of ours has changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import msgspec

from runstream.errors import RunExists, RunNotFound, RunSealed
from runstream.log.base import Claim, Command, NewRun, Retention, Segment
from runstream.log.sqlite_append import Held, LogLedger
from runstream.log.sqlite_journal import MAX_SEQ, decode_stretch, encode_stretch, row_key
from runstream.log.sqlite_runs import COLUMNS, RunRow, candidate, epochs_of, record_of, select_runs

__all__ = ["Ledger"]

# Rows of a deleted run that one transaction removes.
_GARBAGE_ROWS = 100
# Runs that one transaction deletes.
_DELETED_RUNS = 100


class Ledger(LogLedger):
    """What is asked of a store beside its logs; used by one thread at a time."""

    # Who works on a run.

    def create(self, run: NewRun, worker: str | None, lease_s: float) -> int:
        row = self._find(run.run_id)
        if row is not None:
            if self._is_repeated(row, run, worker):
                return 0 if worker is None else row.epoch
            raise RunExists(run.run_id, self._url)
        now = self._times.wall()
        number = self._count("runs")
        epoch = max(1, int(now * 1000)) if worker is not None else 0
        epochs = [[epoch, 1]] if epoch else []
        until = self._times.monotonic() + lease_s if worker is not None else None
        self._execute(
            f"INSERT INTO runs ({COLUMNS}) VALUES ({', '.join('?' * 21)})",
            (
                number, run.run_id, run.agent, run.owner, run.queue, worker, "running" if epoch else "queued",
                epoch, json.dumps(epochs), 1, 0, now, now, None,
                worker, until, lease_s, 1 if epoch else 0, 0, run.job is not None, self._name if epoch else None,
            ),
        )  # fmt: skip
        if run.job is not None:
            self._execute("INSERT INTO jobs (run, body) VALUES (?, ?)", (number, run.job))
        self._execute("INSERT INTO queues (name, served) VALUES (?, 0) ON CONFLICT DO NOTHING", (run.queue,))
        if not epoch:
            self._count("queued")
        else:
            self._known.runs[run.run_id] = Held(number, epoch, json.dumps(epochs), 0, held=True, ended=False)
        return epoch

    def _is_repeated(self, row: RunRow, run: NewRun, worker: str | None) -> bool:
        """Whether the run is as this call has entered it."""
        same = (row.agent, row.owner, row.queue, row.creator) == (run.agent, run.owner, run.queue, worker)
        if not same or (worker is not None and row.worker != worker) or self._last_seq(row):
            return False
        return self._job(row.number) == run.job

    def _job(self, number: int) -> bytes | None:
        row = self._execute("SELECT body FROM jobs WHERE run = ?", (number,)).fetchone()
        return row[0] if row else None

    def claim(self, run_id: str, worker: str, lease_s: float) -> Claim | None:
        row = self._find(run_id)
        if row is None:
            raise RunNotFound(run_id, self._url)
        # Its own worker gets it once more: the reply to its first claim may have been lost.
        if row.ended_at is not None or (self._times.alive(row) and row.worker != worker):
            return None
        return self._take(row, worker, lease_s)

    def claim_next(
        self, agents: Collection[str], worker: str, lease_s: float, queues: Collection[str] | None
    ) -> Claim | None:
        row = candidate(self._connection, self._times, agents, queues)
        if row is None:
            return None
        return self._take(row, worker, lease_s)

    def _take(self, row: RunRow, worker: str, lease_s: float) -> Claim:
        self._execute("UPDATE queues SET served = ? WHERE name = ?", (self._count("served"), row.queue))
        now = self._times.wall()
        last_seq = self._last_seq(row)
        epoch = max(row.epoch + 1, int(now * 1000))
        epochs = [*epochs_of(row.epochs), (epoch, last_seq + 1)]
        self._tell_appender(row)
        if not self._times.alive(row):
            row.deliveries += 1
        row.status = "waiting" if row.status == "waiting" else "running"
        row.epoch, row.epochs = epoch, json.dumps(epochs)
        row.worker, row.lease_until, row.lease_s = worker, self._times.monotonic() + lease_s, lease_s
        row.updated_at, row.last_seq, row.appender = now, last_seq, self._name
        self._execute(
            "UPDATE runs SET status = ?, epoch = ?, epochs = ?, worker = ?, lease_until = ?, lease_s = ?, "
            "deliveries = ?, updated_at = ?, appender = ? WHERE number = ?",
            (
                row.status, epoch, row.epochs, worker, row.lease_until, lease_s,
                row.deliveries, now, self._name, row.number,
            ),
        )  # fmt: skip
        self._known.runs[row.run_id] = Held.of(row, last_seq)
        return Claim(record_of(row, last_seq, now, self._job(row.number)), epoch)

    def release(self, run_id: str, epoch: int) -> bool:
        row = self._find(run_id)
        if row is None or row.epoch != epoch or row.lease_until is None:
            return False
        self._tell_appender(row)
        self._known.runs.pop(run_id, None)
        self._known.doubted.pop(run_id, None)
        self._execute(
            "UPDATE runs SET status = CASE status WHEN 'waiting' THEN status ELSE 'queued' END, lease_until = NULL, "
            "deliveries = max(deliveries - 1, 0), updated_at = ?, appender = NULL WHERE number = ?",
            (self._times.wall(), row.number),
        )
        self._count("queued")
        return True

    def send(self, run_id: str, command: Command) -> int:
        row = self._find(run_id)
        if row is None:
            raise RunNotFound(run_id, self._url)
        if row.ended_at is not None:
            raise RunSealed(run_id)
        number = row.last_command + 1
        self._execute("UPDATE runs SET last_command = ? WHERE number = ?", (number, row.number))
        self._execute(
            "INSERT INTO commands (run, number, kind, data) VALUES (?, ?, ?, ?)",
            (row.number, number, command.kind, msgspec.json.encode(command.data)),
        )
        self._count("commands")
        return number

    # Keeping.

    def trim(self, run_id: str, before_seq: int) -> int:
        row = self._find(run_id)
        if row is None:
            raise RunNotFound(run_id, self._url)
        while self.compact():
            pass
        low, high = row_key(row.number, 0), row_key(row.number + 1, 0)
        # The first row that holds something to keep may also hold something to let go.
        found = self._execute(
            "SELECT key, first_seq, epoch, body FROM segments WHERE key >= ? AND key < ? ORDER BY key LIMIT 1",
            (row_key(row.number, min(max(before_seq, 0), MAX_SEQ)), high),
        ).fetchone()
        if found is None:
            self._execute("DELETE FROM segments WHERE key >= ? AND key < ?", (low, high))
            last_seq = self._execute("SELECT last_seq FROM runs WHERE number = ?", (row.number,)).fetchone()[0]
            first_seq = last_seq + 1
        else:
            key, first_seq, epoch, body = found
            self._execute("DELETE FROM segments WHERE key >= ? AND key < ?", (low, key))
            kept = [part for part in decode_stretch(first_seq, epoch, body) if part.last_seq >= before_seq]
            if kept[0].first_seq != first_seq:
                first_seq = kept[0].first_seq
                self._execute(
                    "UPDATE segments SET first_seq = ?, body = ? WHERE key = ?", (first_seq, _stretch_of(kept), key)
                )
        self._execute("UPDATE runs SET first_seq = ? WHERE number = ?", (first_seq, row.number))
        return first_seq

    def delete(self, run_id: str) -> bool:
        row = self._find(run_id)
        if row is not None:
            self._delete(row)
        return row is not None

    def delete_owner(self, owner: str) -> int:
        """Some runs of that person; returns how many, 0 when there are no more."""
        rows = select_runs(self._connection, "owner = ? LIMIT ?", (owner, _DELETED_RUNS))
        for row in rows:
            self._delete(row)
        return len(rows)

    def sweep(self, retention: Retention) -> int:
        """Some runs that are not to be kept; returns how many, 0 when there are no more."""
        rows: list[RunRow] = []
        if retention.max_age_s is not None:
            before = self._times.wall() - retention.max_age_s
            rows = select_runs(
                self._connection, "ended_at IS NOT NULL AND ended_at < ? LIMIT ?", (before, _DELETED_RUNS)
            )
        if not rows and retention.max_count is not None:
            rows = select_runs(
                self._connection,
                "ended_at IS NOT NULL ORDER BY ended_at DESC, number DESC LIMIT ? OFFSET ?",
                (_DELETED_RUNS, retention.max_count),
            )
        if not rows and retention.abandoned_age_s is not None:
            while self.compact():
                pass  # a row tells when its run was last written to only once the journal has been moved
            before = self._times.wall() - retention.abandoned_age_s
            quiet = select_runs(
                self._connection, "ended_at IS NULL AND lease_until IS NOT NULL AND updated_at < ?", (before,)
            )
            rows = [row for row in quiet if not self._times.alive(row)][:_DELETED_RUNS]
        for row in rows:
            self._delete(row)
        if not rows:
            # Names of queues may be many: one for each customer.
            self._execute("DELETE FROM queues WHERE name NOT IN (SELECT queue FROM runs WHERE ended_at IS NULL)")
        return len(rows)

    def _delete(self, row: RunRow) -> None:
        """The run is gone at once; what it has written goes bit by bit, after a crash too."""
        self._tell_appender(row)
        self._known.runs.pop(row.run_id, None)
        self._known.doubted.pop(row.run_id, None)
        self._execute("DELETE FROM runs WHERE number = ?", (row.number,))
        self._execute("DELETE FROM jobs WHERE run = ?", (row.number,))
        self._execute("DELETE FROM commands WHERE run = ?", (row.number,))
        self._execute("INSERT INTO garbage (run) VALUES (?)", (row.number,))
        self._count("removals")
        self._known.garbage = True
        self._known.journal_bytes += 1  # its rows in the journal go with the next compaction

    def collect(self) -> int:
        """Remove a part of what deleted runs have written; returns how much, in bytes."""
        found = self._execute("SELECT run FROM garbage LIMIT 1").fetchone()
        if found is None:
            self._known.garbage = False
            return 0
        low, high = row_key(found[0], 0), row_key(found[0] + 1, 0)
        rows = self._execute(
            "SELECT key, length(body) FROM segments WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
            (low, high, _GARBAGE_ROWS),
        ).fetchall()
        if rows:
            self._execute("DELETE FROM segments WHERE key >= ? AND key <= ?", (low, rows[-1][0]))
        if len(rows) < _GARBAGE_ROWS:
            self._execute("DELETE FROM garbage WHERE run = ?", found)
        return sum(size for _, size in rows)


def _stretch_of(segments: Sequence[Segment]) -> bytes:
    return encode_stretch([(part.last_seq - part.first_seq + 1, part.body) for part in segments])
