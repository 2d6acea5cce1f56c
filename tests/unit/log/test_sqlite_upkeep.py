"""log/sqlite_upkeep: what is due, what waits, and what becomes of it where something fails."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runstream.errors import StoreUnavailable
from runstream.log import sqlite_file
from runstream.log.base import Append, NewRun, Segment
from runstream.log.sqlite import SQLiteStore
from runstream.log.sqlite_file import StoreFile


@asynccontextmanager
async def opened(place: Path) -> AsyncGenerator[tuple[SQLiteStore, Any]]:
    """A store, and its upkeep, whose thread is gone: what it would do is done when a test calls `look`."""
    time_s = 1000.0
    store = SQLiteStore(place / "runs.db", monotonic=lambda: time_s)
    await store.open()
    writer: Any = store._writer
    upkeep = writer._upkeep
    upkeep._closing = True
    upkeep._woken.set()
    await asyncio.to_thread(upkeep._thread.join)
    upkeep._woken.clear()
    # It may have come to its first look, or not.
    upkeep._known.garbage = False
    upkeep._commits_before = upkeep._known.commits
    yield store, upkeep
    await store.aclose()


async def begin(store: SQLiteStore, run_id: str = "run_1") -> int:
    return await store.create(NewRun(run_id, "Desk"), worker="w1", lease_s=5.0)


def part(epoch: int, seq: int, size: int = 1) -> list[Append]:
    return [Append("run_1", epoch, Segment(seq, seq, bytes(size)))]


async def test_a_few_long_rows_are_looked_at_once(tmp_path: Path) -> None:
    """They may stay, as the newest, and neither keep the thread awake nor checkpoints from being made."""
    async with opened(tmp_path) as (store, upkeep):
        epoch = await begin(store)
        for seq in range(1, 6):
            assert await store.append(part(epoch, seq, 1_000_000)) == [None]
        for _ in range(10):
            upkeep.look(idle=False)
            assert not upkeep.is_due
        assert not upkeep._journal_is_long
        assert upkeep._connection.execute("SELECT count(*) FROM journal").fetchone() == (5,)
        upkeep.look(idle=True)
        assert upkeep._connection.execute("SELECT count(*) FROM journal").fetchone() == (3,)


async def test_another_process_that_holds_the_file_costs_nothing_that_is_known(tmp_path: Path) -> None:
    """It is tried again; until then flushes go on without a look at the runs' rows."""
    async with opened(tmp_path) as (store, upkeep):
        epoch = await begin(store)
        assert store.append_now(part(epoch, 1)) == [None]
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        upkeep.look(idle=True)
        other.execute("ROLLBACK")
        other.close()
        assert store.append_now(part(epoch, 2)) == [None]
        upkeep.look(idle=True)
        assert upkeep._connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)


async def test_the_log_ahead_grows_by_commits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many runs that begin write no journal, but five pages each: they are no reason to wait for the time."""
    monkeypatch.setattr("runstream.log.sqlite_upkeep._CHECKPOINT_COMMITS", 5)
    async with opened(tmp_path) as (store, upkeep):
        for _ in range(2):
            for _ in range(4):
                await begin(store, f"run_{store._writer._known.commits}")  # pyright: ignore[reportOptionalMemberAccess]
                assert not upkeep.is_due
            await begin(store, f"run_{store._writer._known.commits}")  # pyright: ignore[reportOptionalMemberAccess]
            assert upkeep.is_due
            assert upkeep._woken.is_set()
            upkeep._known.journal_bytes = 0
            upkeep.look(idle=False)
            assert not upkeep.is_due


async def test_whatever_a_look_fails_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread outlives it, tells of it once, and tries again."""

    def gather(keep_rows: int) -> None:
        raise RuntimeError(keep_rows)

    async with opened(tmp_path) as (store, upkeep):
        epoch = await begin(store)
        assert await store.append(part(epoch, 1)) == [None]
        with monkeypatch.context() as patched:
            patched.setattr(upkeep._ledger, "gather", gather)
            upkeep.look(idle=True)
            upkeep.look(idle=True)
        assert len(caplog.records) == 1
        upkeep.look(idle=True)
        assert upkeep._connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)


async def test_what_many_deleted_runs_have_left_holds_up_nothing(tmp_path: Path) -> None:
    """It goes bit by bit, and each makes the log ahead longer: that is written back first, and the journal moved."""
    async with opened(tmp_path) as (store, upkeep):
        epoch = await begin(store)
        for seq in range(1, 31):
            assert await store.append(part(epoch, seq, 100_000)) == [None]
        upkeep._not_checkpointed = 100_000_000
        upkeep._known.garbage = True
        upkeep.look(idle=False)
        assert not upkeep._checkpoint_is_due()
        assert upkeep._known.garbage
        upkeep.look(idle=False)
        assert upkeep._connection.execute("SELECT count(*) FROM journal").fetchone() < (30,)
        assert upkeep._known.garbage
        upkeep.look(idle=False)
        assert not upkeep._known.garbage


@pytest.mark.parametrize("connections", range(6))
async def test_a_store_that_cannot_be_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    """Whichever of its connections is the one too many: no thread, no other connection."""
    connect = StoreFile.connect
    left = connections

    def limited(file: StoreFile, **options: Any) -> sqlite3.Connection:
        nonlocal left
        if not left:
            raise StoreUnavailable("too many open files")
        left -= 1
        return connect(file, **options)

    monkeypatch.setattr(StoreFile, "connect", limited)
    store = SQLiteStore(tmp_path / "runs.db")
    if connections < 5:
        with pytest.raises(StoreUnavailable, match="too many"):
            await store.open()
    else:
        await store.open()
    await store.aclose()
    assert [thread.name for thread in threading.enumerate() if "sqlite" in thread.name] == []
    assert store._file.path not in sqlite_file._connections
