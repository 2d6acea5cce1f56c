"""The writing side of the SQLite store: each public method is one step inside a transaction of the writer's thread.

Fencing without a row per run. A flush inserts one journal row and touches no other, so whether a run is still ours
and where its log ends is known from memory. That memory is true as long as nobody else took a run over: whoever takes
a run away from the store object that appends to it (`runs.appender`) counts up `state.takeovers`, which each
transaction reads first. Has it moved, the rows of the runs concerned are read again.

Compaction moves the oldest journal rows, of whatever process, into `segments`, each run's own together; a journal id
is never used again (`state.floor`). Steps check before they write, so that one that refuses has changed nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from runstream.errors import RunExists, RunNotFound, RunSealed
from runstream.log.base import Append, Claim, Command, NewRun, Refusal, Retention, RunRecord, Segment, StoredStatus
from runstream.log.cursor import epoch_of
from runstream.log.sqlite_journal import (
    MAX_SEQ,
    decode_stretch,
    encode_journal,
    encode_stretch,
    row_key,
    split_journal,
)

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Ledger", "Times", "candidate", "record_of", "select_runs"]

# A transaction of compaction takes about so many bytes, so that a flush never waits long for one.
_COMPACTION_BYTES = 4_000_000
# Stretches are about so long: less is read in vain by a reader whose cursor is in the middle.
_STRETCH_BYTES = 64_000
# Rows of a deleted run that one transaction removes.
_GARBAGE_ROWS = 100
# Runs that one transaction deletes.
_DELETED_RUNS = 100
# Ends of logs: everything that is not one of these is an end.
_OPEN = frozenset({"queued", "running", "waiting"})

_COLUMNS = (
    "number, run_id, agent, owner, queue, creator, status, epoch, epochs, first_seq, last_seq, created_at, updated_at, "
    "ended_at, worker, lease_until, lease_s, deliveries, last_command, has_job, appender"
)


class RunRow:
    """A row of `runs`."""

    __slots__ = tuple(_COLUMNS.split(", "))

    number: int
    run_id: str
    agent: str
    owner: str | None
    queue: str
    creator: str | None
    status: StoredStatus
    epoch: int
    epochs: str
    first_seq: int
    last_seq: int
    created_at: float
    updated_at: float
    ended_at: float | None
    worker: str | None
    lease_until: float | None
    lease_s: float
    deliveries: int
    last_command: int
    has_job: int
    appender: str | None

    def __init__(self, values: Iterable[Any]) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            setattr(self, name, value)


def select_runs(connection: sqlite3.Connection, where: str, parameters: Sequence[object]) -> list[RunRow]:
    """Rows of `runs`, by what stands after WHERE."""
    return [RunRow(values) for values in connection.execute(f"SELECT {_COLUMNS} FROM runs WHERE {where}", parameters)]


def _stretch_of(segments: Sequence[Segment]) -> bytes:
    return encode_stretch([(part.last_seq - part.first_seq + 1, part.body) for part in segments])


def _epochs(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((epoch, first_seq) for epoch, first_seq in json.loads(text))


def record_of(row: RunRow, last_seq: int, updated_at: float, job: bytes | None = None) -> RunRecord:
    """The row as others see it, with what the journal knows of it."""
    return RunRecord(
        run_id=row.run_id,
        agent=row.agent,
        status=row.status,
        epochs=_epochs(row.epochs),
        first_seq=row.first_seq,
        last_seq=max(row.last_seq, last_seq),
        created_at=row.created_at,
        updated_at=max(row.updated_at, updated_at),
        ended_at=row.ended_at,
        owner=row.owner,
        queue=row.queue,
        worker=row.worker,
        deliveries=row.deliveries,
        job=job,
    )


@dataclass(frozen=True, slots=True)
class Times:
    """The store's clocks, in seconds."""

    wall: Callable[[], float]
    """Since the epoch: what people see, and what epochs are made of."""
    monotonic: Callable[[], float]
    """The same for all processes of one boot, whatever the wall clock does: what leases run by."""

    def alive(self, row: RunRow) -> bool:
        """Whether the lease still runs. One that would run longer than it was given for is of an earlier boot."""
        if row.lease_until is None:
            return False
        left_s = row.lease_until - self.monotonic()
        return 0 < left_s <= row.lease_s + 0.001


def candidate(
    connection: sqlite3.Connection, times: Times, agents: Collection[str], queues: Collection[str] | None
) -> RunRow | None:
    """The run that is next to be claimed: the oldest one of the queue that was served longest ago."""
    names = [name for (name,) in connection.execute("SELECT name FROM queues ORDER BY served, name")]
    agent_list = list(agents)
    now = times.monotonic()
    for name in names:
        if queues is not None and name not in queues:
            continue
        found = select_runs(
            connection,
            "ended_at IS NULL AND queue = ? AND agent IN (SELECT value FROM json_each(?)) AND "
            "(status = 'queued' AND has_job OR lease_until <= ? OR lease_until > ? + lease_s + 0.001) "
            "ORDER BY number LIMIT 1",
            (name, json.dumps(agent_list), now, now),
        )
        if found:
            return found[0]
    return None


class _Held:
    """What is known of a run that this store object appends to."""

    __slots__ = ("ended", "epoch", "epochs", "held", "last_seq", "number")

    def __init__(self, row: RunRow, last_seq: int) -> None:
        self.number = row.number
        self.epoch = row.epoch
        self.epochs = row.epochs
        self.held = row.lease_until is not None
        self.ended = row.ended_at is not None
        self.last_seq = last_seq

    def refusal(self, segment: Segment, epoch: int) -> Refusal | None:
        """The answer for a segment that is not simply the next one; None: it is there already."""
        epochs = _epochs(self.epochs)
        if segment.last_seq <= self.last_seq and (
            epoch == epoch_of(segment.first_seq, epochs) == epoch_of(segment.last_seq, epochs)
        ):
            return None
        if epoch != self.epoch:
            return "fenced"
        if self.ended:
            return "sealed"
        return "gap" if self.held else "fenced"


class _Stretch:
    """Segments of one run and epoch that follow one another in the journal."""

    __slots__ = ("at", "first_seq", "parts")

    def __init__(self, first_seq: int) -> None:
        self.first_seq = first_seq
        self.parts: list[tuple[int, bytes]] = []
        self.at = 0.0


class Ledger:
    """Owned by the writer's thread: `begin`, any number of steps, then `commit` or `rollback`."""

    def __init__(self, connection: sqlite3.Connection, *, name: str, url: str, times: Times) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._name = name
        self._url = url
        self._times = times
        self._runs: dict[str, _Held] = {}
        # Runs whose rows have to be looked at before what is known of them counts again.
        self._doubted: dict[str, _Held] = {}
        self._known_takeovers = -1
        self._state: dict[str, int] = {}
        self._changed: set[str] = set()
        self.journal_bytes = 0
        """About how much there is to compact: what this object has written to the journal since the last time."""
        self.garbage = True
        """Whether there may be deleted runs whose segments are still there."""

    # Transactions.

    def begin(self) -> None:
        self._execute("BEGIN IMMEDIATE")
        row = self._execute("SELECT runs, floor, takeovers, removals, commands, queued, served FROM state").fetchone()
        names = ("runs", "floor", "takeovers", "removals", "commands", "queued", "served")
        self._state = dict(zip(names, row, strict=True))
        self._changed.clear()
        if self._state["takeovers"] != self._known_takeovers:
            self._doubted.update(self._runs)
            self._runs.clear()

    def commit(self) -> Collection[str]:
        """Returns the names of the counters that moved."""
        if self._changed:
            names = sorted(self._changed)
            self._execute(
                f"UPDATE state SET {', '.join(f'{name} = ?' for name in names)}", [self._state[name] for name in names]
            )
        self._execute("COMMIT")
        self._known_takeovers = self._state["takeovers"]
        return self._changed

    def rollback(self) -> None:
        """Also after a failed commit. Forgets everything: the rows know better."""
        self._runs.clear()
        self._doubted.clear()
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def _count(self, name: str) -> int:
        self._state[name] += 1
        self._changed.add(name)
        return self._state[name]

    # The log.

    def append_at_once(self, appends: Sequence[Append]) -> bool:
        """The whole transaction in one statement, for flushes that only go on with runs that are ours: most of all.

        Called outside a transaction. False: nothing was done; take `append`.
        """
        entries: list[tuple[int, Segment, int, bool]] = []
        known = self._runs
        advanced: list[tuple[_Held, int]] = []
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
        done = self._execute(
            "INSERT INTO journal (id, body) SELECT max(coalesce((SELECT max(id) FROM journal), 0), floor) + 1, ? "
            "FROM state WHERE takeovers = ?",
            (body, self._known_takeovers),
        ).rowcount
        if not done:
            return False
        self.journal_bytes += len(body)
        for held, last_seq in advanced:
            held.last_seq = last_seq
        return True

    def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        answers: list[Refusal | None] = []
        entries: list[tuple[int, Segment, int, bool]] = []
        changes: list[tuple[_Held, Append]] = []
        known = self._runs
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
            self.journal_bytes += len(body)
            for held, append in changes:
                self._set_status(held, append.run_id, append.status, now)
        return answers

    def _set_status(self, held: _Held, run_id: str, status: StoredStatus | None, now: float) -> None:
        if status in _OPEN:
            self._execute("UPDATE runs SET status = ?, updated_at = ? WHERE number = ?", (status, now, held.number))
            return
        held.ended = True
        self._runs.pop(run_id, None)
        self._execute(
            "UPDATE runs SET status = ?, updated_at = ?, ended_at = ?, last_seq = ?, lease_until = NULL, "
            "appender = NULL WHERE number = ?",
            (status, now, now, held.last_seq, held.number),
        )

    def _look_up(self, append: Append) -> _Held | None:
        """What is known of a run that this object has not appended to yet; None if there is none."""
        row = self._find(append.run_id)
        if row is None:
            self._doubted.pop(append.run_id, None)
            return None
        held = _Held(row, self._last_seq(row))
        if append.epoch == row.epoch and held.held:
            if row.appender != self._name:
                self._execute("UPDATE runs SET appender = ? WHERE number = ?", (self._name, row.number))
                self._tell_appender(row)
            self._runs[row.run_id] = held
        return held

    def _last_seq(self, row: RunRow) -> int:
        """The true one. The row and what this object remembers of it must be of this transaction."""
        if not row.epoch or row.ended_at is not None:
            return row.last_seq
        known = self._runs.get(row.run_id) or self._doubted.pop(row.run_id, None)
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
        newest = None
        if keep_rows:
            found = self._execute("SELECT id FROM journal ORDER BY id DESC LIMIT 1 OFFSET ?", (keep_rows,)).fetchone()
            if found is None:
                return False
            newest = found[0]
        last, size, more = None, 0, False
        # By run and epoch: the seq before the first one, and the parts.
        stretches: dict[tuple[int, int], _Stretch] = {}
        for identifier, body in self._execute("SELECT id, body FROM journal ORDER BY id"):
            if newest is not None and identifier > newest:
                break
            if size >= _COMPACTION_BYTES:
                more = True
                break
            last = identifier
            size += len(body)
            at, parts = split_journal(body)
            for run, first_seq, epoch, seqs, part, _ in parts:
                stretch = stretches.get((run, epoch))
                if stretch is None:
                    stretches[run, epoch] = stretch = _Stretch(first_seq)
                stretch.parts.append((seqs, part))
                stretch.at = at
        if last is None:
            self.journal_bytes = 0
            return False
        for run, epoch in sorted(stretches):
            self._store(run, epoch, stretches[run, epoch])
        self._execute("DELETE FROM journal WHERE id <= ?", (last,))
        self._state["floor"] = last
        self._changed.add("floor")
        self.journal_bytes = size if more else 1 if newest else 0
        return more

    def _store(self, run: int, epoch: int, stretch: _Stretch) -> None:
        last_seq = stretch.first_seq - 1 + sum(seqs for seqs, _ in stretch.parts)
        there = self._execute(
            "UPDATE runs SET last_seq = max(last_seq, ?), updated_at = max(updated_at, ?) WHERE number = ?",
            (last_seq, stretch.at, run),
        ).rowcount
        if not there:
            return  # it was deleted
        first_seq = stretch.first_seq
        seqs, size, start = 0, 0, 0
        for end, (count, body) in enumerate(stretch.parts, 1):
            seqs += count
            size += len(body)
            if size >= _STRETCH_BYTES or end == len(stretch.parts):
                self._execute(
                    "INSERT INTO segments (key, first_seq, epoch, body) VALUES (?, ?, ?, ?)",
                    (row_key(run, first_seq + seqs - 1), first_seq, epoch, encode_stretch(stretch.parts[start:end])),
                )
                first_seq += seqs
                seqs, size, start = 0, 0, end

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
            f"INSERT INTO runs ({_COLUMNS}) VALUES ({', '.join('?' * 21)})",
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
            self._runs[run.run_id] = _Held(select_runs(self._connection, "number = ?", (number,))[0], 0)
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
        epochs = [*_epochs(row.epochs), (epoch, last_seq + 1)]
        self._tell_appender(row)
        if not self._times.alive(row):
            row.deliveries += 1
        row.status, row.epoch, row.epochs = "running", epoch, json.dumps(epochs)
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
        self._runs[row.run_id] = _Held(row, last_seq)
        return Claim(record_of(row, last_seq, now, self._job(row.number)), epoch)

    def release(self, run_id: str, epoch: int) -> bool:
        row = self._find(run_id)
        if row is None or row.epoch != epoch or row.lease_until is None:
            return False
        self._tell_appender(row)
        self._runs.pop(run_id, None)
        self._doubted.pop(run_id, None)
        self._execute(
            "UPDATE runs SET status = 'queued', lease_until = NULL, deliveries = max(deliveries - 1, 0), "
            "updated_at = ?, appender = NULL WHERE number = ?",
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
        for row in rows:
            self._delete(row)
        return len(rows)

    def _delete(self, row: RunRow) -> None:
        """The run is gone at once; what it has written goes bit by bit, after a crash too."""
        self._tell_appender(row)
        self._runs.pop(row.run_id, None)
        self._doubted.pop(row.run_id, None)
        self._execute("DELETE FROM runs WHERE number = ?", (row.number,))
        self._execute("DELETE FROM jobs WHERE run = ?", (row.number,))
        self._execute("DELETE FROM commands WHERE run = ?", (row.number,))
        self._execute("INSERT INTO garbage (run) VALUES (?)", (row.number,))
        self._count("removals")
        self.garbage = True
        self.journal_bytes += 1  # its rows in the journal go with the next compaction

    def collect(self) -> None:
        """Remove a part of what deleted runs have written."""
        found = self._execute("SELECT run FROM garbage LIMIT 1").fetchone()
        if found is None:
            self.garbage = False
            return
        low, high = row_key(found[0], 0), row_key(found[0] + 1, 0)
        removed = self._execute(
            "DELETE FROM segments WHERE key IN (SELECT key FROM segments WHERE key >= ? AND key < ? LIMIT ?)",
            (low, high, _GARBAGE_ROWS),
        ).rowcount
        if removed < _GARBAGE_ROWS:
            self._execute("DELETE FROM garbage WHERE run = ?", found)
