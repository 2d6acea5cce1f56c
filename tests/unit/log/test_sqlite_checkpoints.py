"""log/sqlite_upkeep: how the write-ahead log is written back to the file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from runstream.log.base import Append, NewRun, Segment
from runstream.log.sqlite import SQLiteStore
from runstream.log.sqlite_append import Known
from runstream.log.sqlite_file import StoreFile
from runstream.log.sqlite_runs import Times
from runstream.log.sqlite_upkeep import Upkeep


def salt_of(path: Path) -> bytes:
    """What changes when the write-ahead log is begun anew."""
    return Path(f"{path}-wal").read_bytes()[16:24]


class Checkpointer:
    """Writes from elsewhere before and after the log is written back, while its caller still holds the file."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self.path = connection, path
        self.others: list[str] = []
        """What became of the others' commits: by twos, before and after."""
        self.salts: list[bytes] = []
        """After each of them."""
        self.written_back: list[tuple[int, int, int]] = []
        """Busy, pages in the log, pages of them in the file."""

    def execute(self, statement: str) -> Any:
        self.commit()
        (row,) = self._connection.execute(statement).fetchall()
        self.commit()
        self.written_back.append(row)
        return self._connection.execute("SELECT 1")

    def write_back(self) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def commit(self) -> None:
        """From elsewhere."""
        other = sqlite3.connect(self.path, timeout=0.0, isolation_level=None)
        other.execute("PRAGMA wal_autocheckpoint = 0")
        try:
            other.execute("INSERT INTO queues (name, served) VALUES (hex(randomblob(8)), 0)")
        except sqlite3.OperationalError as refused:
            self.others.append(refused.sqlite_errorname)
        else:
            self.others.append("committed")
        self.salts.append(salt_of(self.path))
        other.close()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def watched(tmp_path: Path) -> Generator[tuple[Upkeep, Checkpointer]]:
    """The upkeep of a file that nobody else has open."""
    file = StoreFile(str(tmp_path / "runs.db"), "NORMAL", 5.0)
    times = Times(lambda: 1.0, lambda: 1.0)
    upkeep: Any = Upkeep(file, Known(), threading.Lock(), name="w", url="sqlite:", times=times)
    upkeep._checkpointer = checkpointer = Checkpointer(upkeep._checkpointer, tmp_path / "runs.db")
    yield upkeep, checkpointer
    upkeep.close()
    with sqlite3.connect(tmp_path / "runs.db") as after:
        assert after.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    after.close()


def test_others_commit_while_most_of_the_log_is_written_back(watched: tuple[Any, Checkpointer]) -> None:
    """Then the rest is, by one that holds the file: in the end all of it was."""
    upkeep, checkpointer = watched
    upkeep._checkpoint()
    whole, rest = checkpointer.written_back
    assert checkpointer.others == ["committed", "committed", "SQLITE_BUSY", "SQLITE_BUSY"]
    assert whole[0] == 0 < whole[2]
    assert rest[0] == 0 < rest[1] == rest[2]


def test_the_log_is_not_begun_anew_while_it_is_written_back(watched: tuple[Any, Checkpointer]) -> None:
    """Also where all of it is in the file already, so that the next commit elsewhere begins it anew: then nothing is
    written back meanwhile. SQLite before 3.51.3 could damage the file else (the WAL-reset bug)."""
    upkeep, checkpointer = watched
    begun_anew = 0
    for turn in range(8):
        checkpointer.salts.clear()
        checkpointer.written_back.clear()
        if turn % 2:  # somebody else has just done it
            checkpointer.write_back()
        before = salt_of(checkpointer.path)
        upkeep._known.commits += 1
        upkeep._checkpoint()
        (_, _, whole), (_, pages, rest) = checkpointer.written_back
        if before != checkpointer.salts[0]:
            begun_anew += 1
            assert whole == 0
        assert checkpointer.salts[0] == checkpointer.salts[1]
        assert pages == rest > 0
    assert begun_anew == 4


def test_no_flush_begins_the_log_anew(watched: tuple[Any, Checkpointer]) -> None:
    """That would be one that waits for the disk: who has written the log back has begun it anew as well. But where
    nothing was flushed, a store that nobody uses is not written to."""
    upkeep, checkpointer = watched
    for _ in range(3):
        upkeep._known.commits += 1
        upkeep._checkpoint()
        before = salt_of(checkpointer.path)
        assert before != checkpointer.salts[-1]
        checkpointer.commit()
        assert checkpointer.salts[-1] == before
    upkeep._checkpoint()
    assert salt_of(checkpointer.path) == checkpointer.salts[-1]


async def test_nobody_writes_back_after_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for the disk, in whatever thread the commit was; the upkeep does it when enough was written."""
    monkeypatch.setattr("runstream.log.sqlite_upkeep._CHECKPOINT_BYTES", 1)
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    writer: Any = store._writer
    upkeep = writer._upkeep
    for connection in (writer._connection, writer._quick_connection, upkeep._connection, upkeep._checkpointer):
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    epoch = await store.create(NewRun("run", "Desk"), worker="w1", lease_s=5.0)
    for seq in (1, 2):
        assert await store.append([Append("run", epoch, Segment(seq, seq, b"x" * 100_000))]) == [None]
    assert [segment.first_seq for segment in (await store.read("run", 0)).segments] == [1, 2]
    await store.aclose()
