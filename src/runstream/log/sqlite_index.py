"""What the journal holds at present, decoded once for everybody who reads in this process.

Only the newest events of runs are there; older ones are in `segments`. Each refresh takes in the rows that are new and
lets go of those that were compacted, which are always the oldest.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from runstream.log.base import Segment
from runstream.log.sqlite_journal import Entry, decode_journal

if TYPE_CHECKING:
    import sqlite3

__all__ = ["JournalIndex"]


class JournalIndex:
    """Belongs to one connection; used inside its read transactions."""

    def __init__(self) -> None:
        self._scanned = 0
        self._rows: deque[tuple[int, list[Entry]]] = deque()
        self._runs: dict[int, deque[Segment]] = {}
        self._times: dict[int, float] = {}

    def refresh(self, connection: sqlite3.Connection, floor: int) -> tuple[list[Entry], bool]:
        """Take in what is new. Returns it, and whether rows were compacted that were never seen here."""
        missed = floor > self._scanned
        rows, runs = self._rows, self._runs
        while rows and rows[0][0] <= floor:
            for run, _, _ in rows.popleft()[1]:
                segments = runs[run]
                segments.popleft()
                if not segments:
                    del runs[run], self._times[run]
        self._scanned = max(self._scanned, floor)
        fresh: list[Entry] = []
        for identifier, body in connection.execute(
            "SELECT id, body FROM journal WHERE id > ? ORDER BY id", (self._scanned,)
        ):
            self._scanned = identifier
            row = decode_journal(body)
            rows.append((identifier, row.entries))
            for entry in row.entries:
                runs.setdefault(entry.run, deque()).append(entry.segment)
                self._times[entry.run] = row.at
            fresh += row.entries
        return fresh, missed

    def segments(self, run: int) -> deque[Segment]:
        """The newest segments of a run, which follow those in `segments`; perhaps none."""
        return self._runs.get(run, _NONE)

    def known(self, run: int) -> tuple[int, float]:
        """The last seq of a run and the time of its flush, as far as the journal knows; zeros if it does not."""
        segments = self._runs.get(run)
        return (segments[-1].last_seq, self._times[run]) if segments else (0, 0.0)


_NONE: deque[Segment] = deque()
