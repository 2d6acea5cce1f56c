"""log/sqlite_writer: how the write-ahead log is written back where SQLite has the WAL-reset bug."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runstream.log.base import Append, NewRun, Segment
from runstream.log.sqlite import SQLiteStore
from runstream.log.sqlite_file import resets_safely


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 0), True),
    ],
)
def test_which_versions_are_safe(version: tuple[int, ...], safe: bool) -> None:
    """Those that the bug's page names as mended."""
    assert resets_safely(version) is safe


class Checkpointer:
    """Tries to write from elsewhere while the log is written back."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path
        self.refusals: list[str] = []
        self.written_back: list[tuple[int, int, int]] = []

    def execute(self, statement: str) -> Any:
        other = sqlite3.connect(self._path, timeout=0.0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError) as refused:
            other.execute("BEGIN IMMEDIATE")
        self.refusals.append(refused.value.sqlite_errorname)
        other.close()
        cursor = self._connection.execute(statement)
        (row,) = cursor.fetchall()
        self.written_back.append(row)
        return self._connection.execute("SELECT 1")

    def close(self) -> None:
        self._connection.close()


async def test_nobody_commits_while_the_log_is_written_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is, by one that holds the file meanwhile; nothing does so by itself after a commit."""
    monkeypatch.setattr("runstream.log.sqlite_writer.resets_safely", lambda version: False)
    monkeypatch.setattr("runstream.log.sqlite_writer._CHECKPOINT_BYTES", 1)
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    await store.open()
    writer = store._writer
    assert writer is not None
    assert writer._checkpointer is not None
    checkpointer: Any = Checkpointer(writer._checkpointer, path)
    writer._checkpointer = checkpointer
    epoch = await store.create(NewRun("run", "Desk"), worker="w1", lease_s=5.0)
    assert writer._connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    for seq in (1, 2):
        assert await store.append([Append("run", epoch, Segment(seq, seq, b"x" * 100_000))]) == [None]
        for _ in range(3):  # it may find other things to do first
            writer._look_around(True)
    assert set(checkpointer.refusals) == {"SQLITE_BUSY"}
    assert len(checkpointer.written_back) >= 2
    assert all(busy == 0 and log == done > 0 for busy, log, done in checkpointer.written_back)
    assert [segment.first_seq for segment in (await store.read("run", 0)).segments] == [1, 2]
    await store.aclose()


async def test_a_sqlite_without_the_bug_does_it_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then other processes may write meanwhile."""
    monkeypatch.setattr("runstream.log.sqlite_writer.resets_safely", lambda version: True)
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    writer = store._writer
    assert writer is not None
    assert writer._checkpointer is None
    assert writer._connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0] > 0
    await store.aclose()
