"""Compaction of the SQLite store's journal: the oldest rows, of whatever process, become rows of their runs.

In two steps. `gather` reads, and does most of the work; it takes no lock, since journal rows never change.
`Gathered.move` is what the transaction holds the file for. Between the two somebody else may have compacted:
`state.floor`, the id of the last row that was ever moved, tells, and what was gathered in vain is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runstream.log.sqlite_journal import encode_stretch, row_key, split_journal

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Gathered", "gather"]

# A transaction of compaction takes about so many bytes: a flush never waits long for one, nor does anybody for the
# interpreter, and little memory is needed for it.
_COMPACTION_BYTES = 2_000_000
# Stretches are about so long: less is read in vain by a reader whose cursor is in the middle.
_STRETCH_BYTES = 64_000


class _Stretch:
    """Segments of one run and epoch that follow one another in the journal."""

    __slots__ = ("at", "first_seq", "parts")

    def __init__(self, first_seq: int) -> None:
        self.first_seq = first_seq
        self.parts: list[tuple[int, bytes]] = []
        self.at = 0.0


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the oldest rows of the journal say, as it is to be written."""

    floor: int
    """`state.floor` when it was read."""
    last: int
    """The id of the last of the rows."""
    size_bytes: int
    more: bool
    """Whether there are more rows to be moved."""
    kept: bool
    """Whether newer rows were to stay."""
    counted: int
    """What its ledger had written to the journal by then, in bytes."""
    runs: list[tuple[int, float, int]]
    """Last seq, time, number of the run."""
    rows: list[tuple[int, int, int, bytes, int]]
    """The columns of `segments`, and the number of the run."""

    def move(self, connection: sqlite3.Connection) -> None:
        """Inside a transaction in which `state.floor` is still that of the reading."""
        connection.executemany(
            "UPDATE runs SET last_seq = max(last_seq, ?), updated_at = max(updated_at, ?) WHERE number = ?", self.runs
        )
        # Nothing of runs that were deleted.
        connection.executemany(
            "INSERT INTO segments (key, first_seq, epoch, body) SELECT ?, ?, ?, ? "
            "WHERE EXISTS (SELECT 1 FROM runs WHERE number = ?)",
            self.rows,
        )
        connection.execute("DELETE FROM journal WHERE id <= ?", (self.last,))
        # At once: who gathers more in the same transaction reads it.
        connection.execute("UPDATE state SET floor = ?", (self.last,))


def gather(connection: sqlite3.Connection, keep_rows: int, counted: int) -> Gathered | None:
    """The oldest rows, about 2 MB of them, but for the newest `keep_rows`; None where there are none."""
    newest = None
    if keep_rows:
        found = connection.execute("SELECT id FROM journal ORDER BY id DESC LIMIT 1 OFFSET ?", (keep_rows,)).fetchone()
        if found is None:
            return None
        newest = found[0]
    # Before the rows: who compacts between the two has counted it up.
    floor = connection.execute("SELECT floor FROM state").fetchone()[0]
    last, size, more = None, 0, False
    stretches: dict[tuple[int, int], _Stretch] = {}  # by run and epoch
    for identifier, body in connection.execute("SELECT id, body FROM journal ORDER BY id"):
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
        return None
    gathered = Gathered(floor, last, size, more, newest is not None, counted, [], [])
    for (run, epoch), stretch in sorted(stretches.items()):
        _encode(run, epoch, stretch, gathered)
    return gathered


def _encode(run: int, epoch: int, stretch: _Stretch, gathered: Gathered) -> None:
    first_seq = stretch.first_seq
    seqs, size, start = 0, 0, 0
    for end, (count, body) in enumerate(stretch.parts, 1):
        seqs += count
        size += len(body)
        if size >= _STRETCH_BYTES or end == len(stretch.parts):
            last_seq = first_seq + seqs - 1
            row = encode_stretch(stretch.parts[start:end])
            gathered.rows.append((row_key(run, last_seq), first_seq, epoch, row, run))
            first_seq = last_seq + 1
            seqs, size, start = 0, 0, end
    gathered.runs.append((first_seq - 1, stretch.at, run))
