"""log/sqlite: flushes that are written in the caller's thread, and when they are not."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runstream.clock import system_clock
from runstream.errors import RunExists
from runstream.log.base import Append, AppendsNow, NewRun, Refusal, Segment, StoredStatus
from runstream.log.sqlite import SQLiteStore
from runstream.log.sqlite_ledger import Ledger
from runstream.testing.store_log_laws import StoreLogLaws
from runstream.testing.store_reader_laws import StoreReaderLaws


@asynccontextmanager
async def opened(place: Path, **options: Any) -> AsyncGenerator[SQLiteStore]:
    store = SQLiteStore(place / "runs.db", **options)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


async def begin(store: SQLiteStore, run_id: str = "run_1") -> int:
    return await store.create(NewRun(run_id, "Desk"), worker="w1", lease_s=5.0)


def part(epoch: int, seq: int, *, run_id: str = "run_1", size: int = 1, status: StoredStatus | None = None) -> Append:
    return Append(run_id, epoch, Segment(seq, seq, str(seq).encode().ljust(size)), status)


async def answers_of(store: SQLiteStore, appends: list[Append]) -> Sequence[Refusal | None] | None:
    """What is said at once, when the thread has nothing to do: it may still look after its file."""
    for _ in range(10_000):
        refusals = store.append_now(appends)
        if refusals is not None:
            return refusals
        await asyncio.sleep(0)
    return None


async def now(store: SQLiteStore, appends: list[Append]) -> bool:
    """Whether they are taken at once."""
    return await answers_of(store, appends) == [None] * len(appends)


async def idle(store: SQLiteStore) -> Any:
    """The store's writer, when its thread has nothing to do."""
    writer: Any = store._writer
    while writer._known.garbage or writer._at_work.locked():  # noqa: ASYNC110 - it is a thread that is waited for
        await asyncio.sleep(0)
    return writer


async def seqs(store: SQLiteStore, run_id: str = "run_1") -> list[int]:
    page = await store.read(run_id, 0)
    return [segment.first_seq for segment in page.segments]


async def test_it_is_written_when_the_call_returns(tmp_path: Path) -> None:
    """Another connection sees it at once: the writer's thread had no part in it."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        assert isinstance(store, AppendsNow)
        assert await now(store, [part(epoch, 1)])
        with sqlite3.connect(tmp_path / "runs.db") as other:
            assert other.execute("SELECT count(*) FROM journal").fetchone() == (1,)
        other.close()
        assert await now(store, [part(epoch, 2)])
        assert await store.append([part(epoch, 3)]) == [None]
        assert await seqs(store) == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "appends"),
    [
        ("a run that is not there", lambda epoch: [part(epoch, 1, run_id="run_2")]),
        ("too much", lambda epoch: [part(epoch, 1, size=200_000)]),
        ("one that is not, beside one that is", lambda epoch: [part(epoch, 1), part(epoch, 1, run_id="run_2")]),
    ],
)
async def test_what_may_take_longer_is_left_to_append(tmp_path: Path, name: str, appends: Any) -> None:
    """None, and nothing was written."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        other = await begin(store, "run_0")
        assert await now(store, [part(other, 1, run_id="run_0")])
        assert store.append_now(appends(epoch)) is None, name
        assert await seqs(store) == []


@pytest.mark.parametrize(
    ("name", "appends", "answers"),
    [
        ("another epoch", lambda epoch: [part(epoch + 1, 1)], ["fenced"]),
        ("a gap, beside what is none", lambda epoch: [part(epoch, 2), part(epoch, 1, run_id="run_0")], ["gap", None]),
        ("an end", lambda epoch: [part(epoch, 1, status="completed")], [None]),
    ],
)
async def test_what_is_not_simply_the_next_is_answered_as_well(
    tmp_path: Path, name: str, appends: Any, answers: list[Refusal | None]
) -> None:
    """What may be written is, and the rest is refused with its reason; `append` says the same afterwards."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        given = appends(epoch)
        if len(given) > 1:
            given[1] = msgspec.structs.replace(given[1], epoch=await begin(store, "run_0"))
        assert await answers_of(store, given) == answers, name
        assert await store.append(given) == answers


async def test_a_run_begins_and_ends_without_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for either waits for no hand-over; what is wrong with it is told as ever."""
    async with opened(tmp_path) as store:
        writer = await idle(store)
        with monkeypatch.context() as patched:
            patched.setattr(writer, "call", None)
            epoch = await begin(store)
            with pytest.raises(RunExists):
                await store.create(NewRun("run_1", "Desk"), worker="w2", lease_s=5.0)
            assert await begin(store, "run_2") > 0
            assert store.append_now([part(epoch, 1, status="completed")]) == [None]
        assert (await store.find("run_1")).status == "completed"
        assert (await store.find("run_2")).status == "running"


async def test_a_step_that_fails_in_the_middle_is_the_threads(tmp_path: Path) -> None:
    """Nothing of it is left, and the next one finds the connection as it should be."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        writer = await idle(store)

        def step(ledger: Ledger) -> None:
            assert ledger.append([part(epoch, 1)]) == [None]
            raise sqlite3.OperationalError("the disk is gone")

        assert writer.do_now(step) is None
        assert await seqs(store) == []
        assert await store.append([part(epoch, 1)]) == [None]
        assert await now(store, [part(epoch, 2)])
        assert await seqs(store) == [1, 2]


async def test_it_does_not_wait_for_another_process(tmp_path: Path) -> None:
    """Where somebody else writes, the thread may wait for them, but not the caller; afterwards it goes on as before."""
    async with opened(tmp_path, busy_timeout_s=5.0) as store:
        epoch = await begin(store)
        assert await now(store, [part(epoch, 1)])
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.append_now([part(epoch, 2)]) is None
        appending = asyncio.create_task(store.append([part(epoch, 2)]))
        other.execute("ROLLBACK")
        other.close()
        assert await appending == [None]
        assert await now(store, [part(epoch, 3)])
        assert await seqs(store) == [1, 2, 3]


async def test_somebody_else_who_writes_costs_nothing_that_is_known(tmp_path: Path) -> None:
    """What was refused since the file was held goes on from what is known: the rows of the runs are not read again, nor
    the whole journal compacted, which followers would have to find again."""
    async with opened(tmp_path, busy_timeout_s=5.0) as store:
        epoch = await begin(store)
        assert await now(store, [part(epoch, 1)])
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.append_now([part(epoch, 2)]) is None
        other.execute("ROLLBACK")
        assert await store.append([part(epoch, 2)]) == [None]
        assert other.execute("SELECT count(*) FROM journal").fetchone() == (2,)
        other.close()


async def test_it_does_not_wait_for_the_thread(tmp_path: Path) -> None:
    """While the thread is in the middle of something, flushes are its business."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        writer = store._writer
        assert writer is not None
        with writer._at_work:
            assert store.append_now([part(epoch, 1)]) is None
        assert await now(store, [part(epoch, 1)])


async def test_who_lost_the_run_is_fenced(tmp_path: Path) -> None:
    """A run that another store object has taken over is refused, however well it was known."""
    time_s = 1000.0
    async with opened(tmp_path, monotonic=lambda: time_s) as store, opened(tmp_path, monotonic=lambda: time_s) as other:
        epoch = await begin(store)
        assert await now(store, [part(epoch, 1)])
        time_s += 60.0
        claim = await other.claim("run_1", "w2", 5.0)
        assert claim is not None
        assert await other.append([part(claim.epoch, 2)]) == [None]
        assert await answers_of(store, [part(epoch, 2)]) == ["fenced"]
        assert await store.append([part(epoch, 2)]) == ["fenced"]
        assert await seqs(other) == [1, 2]


async def test_full_synchronous_waits_for_the_disk_elsewhere(tmp_path: Path) -> None:
    """An fsync for each flush would hold up everybody."""
    async with opened(tmp_path, synchronous="FULL") as store:
        epoch = await begin(store)
        assert store.append_now([part(epoch, 1)]) is None


async def test_a_slow_disk_is_left_to_the_thread_for_a_while(tmp_path: Path) -> None:
    """One flush that took long is enough."""
    now_s, step_s = 1000.0, 0.0

    def monotonic() -> float:
        nonlocal now_s
        now_s += step_s
        return now_s

    async with opened(tmp_path, monotonic=monotonic) as store:
        epoch = await begin(store)
        assert await now(store, [part(epoch, 1)])
        step_s = 0.1
        assert await now(store, [part(epoch, 2)])
        step_s = 0.0
        assert store.append_now([part(epoch, 3)]) is None
        now_s += 60.0
        assert await now(store, [part(epoch, 3)])


async def test_a_file_that_was_deleted_is_not_written_to(tmp_path: Path) -> None:
    """Events would go where nobody ever finds them."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        (tmp_path / "runs.db").rename(tmp_path / "moved.db")
        assert store.append_now([part(epoch, 1)]) is None
        (tmp_path / "moved.db").rename(tmp_path / "runs.db")
        assert await now(store, [part(epoch, 1)])


async def test_a_store_that_is_not_open_takes_nothing(tmp_path: Path) -> None:
    """Neither before nor after."""
    store = SQLiteStore(tmp_path / "runs.db")
    assert store.append_now([part(1, 1)]) is None
    await store.open()
    epoch = await begin(store)
    await store.aclose()
    assert store.append_now([part(epoch, 1)]) is None


class _NowStore(SQLiteStore):
    """Whose flushes are written at once wherever that is possible."""

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        refusals = self.append_now(appends)
        return await super().append(appends) if refusals is None else refusals


class TestNowStore(StoreLogLaws, StoreReaderLaws):
    """The laws of what is written and read hold for it."""

    lease_s = 0.5

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "runs.db"

    async def open_store(self) -> SQLiteStore:
        store = _NowStore(self.path, clock=system_clock)
        await store.open()
        return store
