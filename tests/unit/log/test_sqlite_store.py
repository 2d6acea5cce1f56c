"""log/sqlite: what is its own beyond the laws of stores: the journal, its compaction, its clocks and its followers."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runstream.errors import RunNotFound, StoreError, UserError
from runstream.log.base import Append, Command, NewRun, Page, Refusal, Retention, Segment, StoredStatus, Tail
from runstream.log.sqlite import SQLiteStore
from runstream.testing import FakeClock


class Time:
    """A store's clocks, moved by hand."""

    def __init__(self) -> None:
        self.clock = FakeClock(autojump=False)
        self.uptime_s = 1000.0

    def monotonic(self) -> float:
        return self.uptime_s


@asynccontextmanager
async def opened(place: Path, count: int = 1, time: Time | None = None, **options: Any) -> AsyncGenerator[Any]:
    """So many stores on one file; a single one as it is."""
    if time is not None:
        options |= {"clock": time.clock, "monotonic": time.monotonic}
    stores = [SQLiteStore(place / "runs.db", **options) for _ in range(count)]
    try:
        for store in stores:
            await store.open()
        yield stores[0] if count == 1 else stores
    finally:
        for store in stores:
            await store.aclose()


async def write(
    store: SQLiteStore, epoch: int, seq: int, *, run_id: str = "run_1", status: StoredStatus | None = None
) -> Refusal | None:
    """Append one segment of one event, which holds its seq."""
    return (await store.append([Append(run_id, epoch, Segment(seq, seq, str(seq).encode()), status)]))[0]


async def begin(store: SQLiteStore, run_id: str = "run_1", *, events: int = 0, lease_s: float = 5.0) -> int:
    """Enter a run with so many events."""
    epoch = await store.create(NewRun(run_id, "Desk"), worker="w1", lease_s=lease_s)
    for seq in range(1, events + 1):
        assert await write(store, epoch, seq, run_id=run_id) is None
    return epoch


async def compact(store: SQLiteStore, keep_rows: int = 0) -> None:
    await store._write(lambda ledger: ledger.compact(keep_rows))


async def rows(store: SQLiteStore, table: str) -> int:
    query = f"SELECT count(*) FROM {table}"
    return await store._write(lambda ledger: ledger._execute(query).fetchone()[0])


def seqs(pages: Sequence[Page]) -> list[int]:
    return [int(segment.body) for page in pages for segment in page.segments]


async def follow(tail: Tail, until: int) -> list[int]:
    """Read on until that seq, and give the place back."""
    found: list[int] = []
    while not found or found[-1] < until:
        found += seqs([await tail.next()])
    await tail.aclose()
    return found


# The journal and its compaction.


async def test_a_flush_is_one_row_however_many_runs_it_serves(tmp_path: Path) -> None:
    """The journal grows by a row for each flush, and no run's row is touched."""
    async with opened(tmp_path) as store:
        epochs = {f"run_{number}": await begin(store, f"run_{number}") for number in range(30)}
        answers = await store.append([Append(run, epoch, Segment(1, 1, b"1")) for run, epoch in epochs.items()])
        assert answers == [None] * 30
        assert await rows(store, "journal") == 1
        assert await store._write(lambda ledger: ledger._execute("SELECT max(last_seq) FROM runs").fetchone()[0]) == 0
        assert [(await store.find(run)).last_seq for run in epochs] == [1] * 30
        assert all(record.last_seq == 1 for record in await store.list_runs())


@pytest.mark.parametrize("keep_rows", [0, 1, 3])
async def test_readers_do_not_see_compaction(tmp_path: Path, keep_rows: int) -> None:
    """Whatever part of a log is compacted, every cursor reads the same gapless rest, here and in another process."""
    async with opened(tmp_path, 2) as (store, other):
        epoch = await begin(store)
        for seq in range(1, 13):
            await write(store, epoch, seq)
            if seq % 5 == 0:
                await compact(store if seq == 5 else other, keep_rows)
            for reader in (store, other):
                for after in range(seq + 1):
                    assert seqs([await reader.read("run_1", after)]) == list(range(after + 1, seq + 1))
                record = await reader.find("run_1")
                assert (record.last_seq, record.first_seq) == (seq, 1)


async def test_small_pages_lead_through_both_parts(tmp_path: Path) -> None:
    """Reading a few bytes at a time gives each segment once, over the seam between segments and journal."""
    async with opened(tmp_path) as store:
        epoch = await begin(store, events=6)
        await compact(store)
        for seq in range(7, 10):
            await write(store, epoch, seq)
        pages: list[Page] = []
        while not pages or pages[-1].segments:
            after = pages[-1].segments[-1].last_seq if pages else 0
            pages.append(await store.read("run_1", after, max_bytes=2))
        assert seqs(pages) == list(range(1, 10))
        assert len(pages) == 6  # one digit each


async def test_a_number_in_the_journal_is_never_given_twice(tmp_path: Path) -> None:
    """After everything was compacted, new rows get higher ids, so that nobody who follows misses them."""
    async with opened(tmp_path, 2) as (store, other):
        epoch = await begin(store, events=2)
        tail = other.tail("run_1", 0)
        assert seqs([await tail.next()]) == [1, 2]
        for seq in range(3, 8):
            await write(store, epoch, seq)
            await compact(store)
        assert await follow(tail, 7) == [3, 4, 5, 6, 7]


async def test_rows_of_a_dead_process_are_compacted_by_others(tmp_path: Path) -> None:
    """What a store left in the journal moves on when another one is opened."""
    async with opened(tmp_path) as store:
        await begin(store, events=3)
        store._writer._known.journal_bytes = 0  # it does not get to compact them when it is closed
    connection = sqlite3.connect(tmp_path / "runs.db")
    assert connection.execute("SELECT count(*) FROM journal").fetchone() == (3,)
    async with opened(tmp_path) as store:
        await store.find("run_1")
    assert connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    connection.close()
    async with opened(tmp_path) as store:
        assert seqs([await store.read("run_1", 0)]) == [1, 2, 3]


async def test_a_journal_that_is_moved_in_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes a run over, or trims it, moves the whole journal within one transaction, however long it has become."""
    monkeypatch.setattr("runstream.log.sqlite_compaction._COMPACTION_BYTES", 100)
    time = Time()
    async with opened(tmp_path, 2, time) as (store, other):
        epoch = await begin(store, events=9)
        time.uptime_s += 60.0
        claim = await other.claim("run_1", "w2", 5.0)
        assert claim.run.last_seq == 9
        for seq in range(10, 19):
            await write(other, claim.epoch, seq)
        assert await other.trim("run_1", 5) == 5
        assert await store.append([Append("run_1", epoch, Segment(10, 10, b"10"))]) == ["fenced"]
        assert seqs([await store.read("run_1", 4)]) == list(range(5, 19))


async def test_a_long_log_is_kept_in_stretches(tmp_path: Path) -> None:
    """Segments of one epoch share rows of some ten kilobytes; trimming cuts inside of one."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        body = bytes(10_000)
        for seq in range(1, 21):
            await store.append([Append("run_1", epoch, Segment(seq, seq, body))])
        await compact(store)
        assert await rows(store, "segments") == 3
        assert await store.trim("run_1", 10) == 10
        page = await store.read("run_1", 9)
        assert [segment.first_seq for segment in page.segments] == list(range(10, 21))
        assert await rows(store, "segments") == 2


# Fencing from memory.


async def test_a_takeover_elsewhere_is_noticed_by_the_next_flush(tmp_path: Path) -> None:
    """The old worker's memory says that the run is its own; its next flush is refused, and its other runs go on."""
    time = Time()
    async with opened(tmp_path, 2, time) as (store, other):
        lost, kept = await begin(store, events=2), await begin(store, "run_2", events=2)
        time.uptime_s += 6
        claim = await other.claim("run_1", "w2", 5.0)
        assert claim is not None
        assert claim.run.last_seq == 2
        assert await store.append(
            [Append("run_1", lost, Segment(3, 3, b"3")), Append("run_2", kept, Segment(3, 3, b"3"))]
        ) == ["fenced", None]
        assert await write(other, claim.epoch, 3) is None
        assert await write(store, kept, 4, run_id="run_2") is None
        assert seqs([await store.read("run_1", 0)]) == [1, 2, 3]


async def test_two_stores_that_append_by_one_epoch_do_not_write_a_seq_twice(tmp_path: Path) -> None:
    """Whichever of them a flush or its repetition comes through, each seq is there once."""
    async with opened(tmp_path, 2) as (store, other):
        epoch = await begin(store, events=2)
        assert await write(other, epoch, 2) is None
        assert await write(other, epoch, 3) is None
        assert await write(store, epoch, 3) is None
        assert await write(store, epoch, 4) is None
        assert await write(other, epoch, 6) == "gap"
        assert await write(other, epoch, 5) is None
        assert seqs([await store.read("run_1", 0)]) == [1, 2, 3, 4, 5]


async def test_runs_of_one_id_have_nothing_in_common(tmp_path: Path) -> None:
    """A run that was deleted and entered anew begins empty, though rows of the old one are still in the journal."""
    async with opened(tmp_path) as store:
        old = await begin(store, events=3)
        await store.delete("run_1")
        new = await begin(store, events=1)
        assert await write(store, old - 1, 4) == "fenced"
        assert new >= old
        assert seqs([await store.read("run_1", 0)]) == [1]
        await compact(store)
        assert seqs([await store.read("run_1", 0)]) == [1]
        assert (await store.find("run_1")).last_seq == 1


async def test_what_deleted_runs_have_written_goes_bit_by_bit(tmp_path: Path) -> None:
    """A deletion takes effect at once, its rows go between other calls, also after the store was closed."""
    async with opened(tmp_path) as store:
        epoch = await begin(store)
        for seq in range(1, 251):
            await store.append([Append("run_1", epoch, Segment(seq, seq, bytes(64_000)))])
        await compact(store)
        while await rows(store, "journal"):
            await compact(store)
        assert await rows(store, "segments") == 250
        assert await store.delete("run_1")
        while await rows(store, "garbage"):
            pass
        assert await rows(store, "segments") == 0


# Clocks.


async def test_a_lease_of_an_earlier_boot_has_run_out(tmp_path: Path) -> None:
    """After a reboot the monotonic clock starts anew: a lease that lies too far ahead keeps nobody from the run."""
    time = Time()
    async with opened(tmp_path, 1, time) as store:
        await begin(store)
        time.uptime_s = 3.0
        assert await store.claim("run_1", "w2", 5.0) is not None
        assert await store.claim("run_1", "w3", 5.0) is None


async def test_leases_do_not_run_by_the_wall_clock(tmp_path: Path) -> None:
    """A wall clock that jumps a year ahead costs no lease; epochs grow all the same when it jumps back."""
    time = Time()
    async with opened(tmp_path, 1, time) as store:
        epoch = await begin(store)
        await time.clock.advance(365 * 86_400)
        assert await store.claim("run_1", "w2", 5.0) is None
        time.uptime_s += 5.1
        time.clock = FakeClock(0.0, autojump=False)
        earlier = SQLiteStore(tmp_path / "runs.db", clock=time.clock, monotonic=time.monotonic)
        await earlier.open()
        claim = await earlier.claim("run_1", "w2", 5.0)
        await earlier.aclose()
        assert claim is not None
        assert claim.epoch == epoch + 1


# Followers.


async def test_followers_are_fed_from_one_reading(tmp_path: Path) -> None:
    """Many followers in another store object see each event once, across flushes, compactions and the end."""
    async with opened(tmp_path, 2) as (store, other):
        epoch = await begin(store, events=3)
        tasks = [asyncio.create_task(follow(other.tail("run_1", after), 40)) for after in (0, 1, 2, 3, 0)]
        for seq in range(4, 41):
            await write(store, epoch, seq, status="completed" if seq == 40 else None)
            if seq % 7 == 0:
                await compact(other, seq % 3)
        found = await asyncio.gather(*tasks)
        assert found == [list(range(after + 1, 41)) for after in (0, 1, 2, 3, 0)]


async def test_a_slow_follower_goes_back_to_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue stays bounded, and it misses nothing."""
    monkeypatch.setattr("runstream.log.sqlite_tail._QUEUE_SEGMENTS", 5)
    async with opened(tmp_path) as store:
        epoch = await begin(store, events=1)
        tail = store.tail("run_1", 0)
        assert seqs([await tail.next()]) == [1]
        waiting = asyncio.create_task(tail.next())
        await store.find("run_1")
        for seq in range(2, 31):
            await write(store, epoch, seq)
            await store.find("run_1")  # the reader has seen it
        assert len(tail._queue) + len(seqs([await waiting])) <= 7
        assert tail._feed is None
        assert await follow(tail, 30) == list(range(waiting.result().segments[-1].last_seq + 1, 31))


async def test_a_cancelled_wait_loses_nothing(tmp_path: Path) -> None:
    """Whether it waits for its first page or for what comes, the next call gives what it would have given."""
    async with opened(tmp_path) as store:
        epoch = await begin(store, events=2)
        tail = store.tail("run_1", 0)
        found: list[int] = []
        for turns in range(4):
            waiting = asyncio.create_task(tail.next())
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                found += seqs([waiting.result()])
        await store.find("run_1")
        await write(store, epoch, 3)
        assert found + await follow(tail, 3) == [1, 2, 3]


async def test_a_place_that_was_given_back(tmp_path: Path) -> None:
    """`next` says so, also where it waits already; giving back twice, or after the store, is fine."""
    async with opened(tmp_path) as store:
        await begin(store)
        tail = store.tail("run_1", 0)
        waiting = asyncio.create_task(tail.next())
        await store.find("run_1")
        await tail.aclose()
        with pytest.raises(StoreError, match="given back"):
            await waiting
        await tail.aclose()
        left = store.tail("run_1", 0)
        asyncio.get_running_loop().call_soon(store._reader.wake)
        rest = asyncio.create_task(left.next())
        await store.find("run_1")
    with pytest.raises(StoreError, match="closed"):
        await rest
    await left.aclose()


async def test_a_run_of_the_same_id_is_another_log(tmp_path: Path) -> None:
    """A follower of a run that was deleted and entered anew learns that its own is gone."""
    async with opened(tmp_path) as store:
        await begin(store, events=2)
        tail = store.tail("run_1", 0)
        assert seqs([await tail.next()]) == [1, 2]
        waiting = asyncio.create_task(tail.next())
        await store.find("run_1")
        await store.delete("run_1")
        await begin(store, events=3)
        with pytest.raises(RunNotFound):
            await waiting
        with pytest.raises(RunNotFound):
            await tail.next()
        await tail.aclose()


async def test_nobody_looks_where_nobody_waits(tmp_path: Path) -> None:
    """The reader's thread looks every few milliseconds only while it has followers, and gives up cancelled waits."""
    async with opened(tmp_path) as store:
        await begin(store, events=1)
        reader = store._reader
        assert reader._patience_s() == 1.0
        waiting = asyncio.create_task(store.wait_commands({"run_1": 0}))
        await store.find("run_1")
        await store.find("run_1")
        assert reader._patience_s() == 0.1
        tail = store.tail("run_1", 1)
        following = asyncio.create_task(tail.next())
        await store.find("run_1")
        await store.find("run_1")
        assert reader._patience_s() == 0.004
        for task in (waiting, following):
            task.cancel()
        await asyncio.wait([waiting, following])
        await tail.aclose()
        while reader._patience_s() < 1.0:
            await store.find("run_1")


async def test_a_command_reaches_who_waits_in_another_store(tmp_path: Path) -> None:
    """With the number that it got, whatever else happens in the file."""
    async with opened(tmp_path, 2) as (store, other):
        epoch = await begin(store)
        waiting = asyncio.create_task(store.wait_commands({"run_1": 0, "run_x": 0}))
        await write(store, epoch, 1)
        assert await other.send("run_1", Command("approval", {"call": "c1", "approve": True})) == 1
        assert list(await waiting) == ["run_1"]
        assert await store.commands("run_1", 0) == [Command("approval", {"call": "c1", "approve": True}, 1)]


async def test_many_runs_go_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeping and deletion of a person's runs take several transactions, and count all."""
    monkeypatch.setattr("runstream.log.sqlite_ledger._DELETED_RUNS", 3)
    async with opened(tmp_path) as store:
        for number in range(10):
            epoch = await begin(store, f"run_{number}")
            await write(store, epoch, 1, run_id=f"run_{number}", status="completed")
        for number in range(7):
            await store.create(NewRun(f"of_{number}", "Desk", owner="ada", job=b"x"))
        assert await store.sweep(Retention(max_count=2)) == 8
        assert {run.run_id for run in await store.list_runs(status=["completed"])} == {"run_8", "run_9"}
        assert await store.delete_owner("ada") == 7
        assert len(await store.list_runs()) == 2


# What it is called by.


def test_urls_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes and a path: relative, absolute, or in the home directory; `url` names the file wholly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    cases = {
        "sqlite:///runs.db": f"sqlite:///{tmp_path}/runs.db",
        "sqlite:////var/lib/runs.db?synchronous=FULL": "sqlite:////var/lib/runs.db",
        "sqlite:///~/my%20runs.db": "sqlite:////home/ada/my runs.db",
        "runs.db": f"sqlite:///{tmp_path}/runs.db",
        "/var/runs?.db": "sqlite:////var/runs?.db",
    }
    assert {location: SQLiteStore(location).url for location in cases} == cases
    assert SQLiteStore("sqlite:///x.db?synchronous=full&busy_timeout_s=0.5")._file.synchronous == "FULL"


@pytest.mark.parametrize(
    ("location", "complaint"),
    [
        ("sqlite://runs.db", "sqlite:///relative.db"),
        ("sqlite:runs.db", "sqlite:///relative.db"),
        ("sqlite://", "sqlite:///relative.db"),
        ("sqlite:///", "needs a file"),
        (":memory:", "memory://"),
        ("sqlite:///x.db?sync=FULL", "not sync"),
        ("sqlite:///x.db?synchronous=OFF", "NORMAL or FULL, not 'OFF'"),
        ("sqlite:///x.db?busy_timeout_s=soon", "not 'soon'"),
        ("sqlite:///x.db?busy_timeout_s=-1", "0 to 3600"),
    ],
)
def test_other_urls_are_refused(location: str, complaint: str) -> None:
    """The error says what is wrong, and what a URL looks like."""
    with pytest.raises(UserError, match=complaint.replace("?", r"\?")):
        SQLiteStore(location)


async def test_a_wait_that_is_given_up_at_once_leaves_nothing_to_be_told(tmp_path: Path) -> None:
    """A wait for commands that is cancelled when its thread has it, and before it has heard so, is over for both."""
    async with opened(tmp_path) as store:
        await begin(store, events=1)
        waiting = asyncio.ensure_future(store.wait_commands({"run_1": 0}))
        await asyncio.sleep(0)
        while not store._reader._waiters:
            time.sleep(0.001)  # noqa: ASYNC251
        waiter = store._reader._waiters[0].future
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiter.cancelled()
