"""log/sqlite: files that are not its own, disks that fail, processes that die, and loops that go away."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from runstream.errors import StoreError, StoreUnavailable, UserError
from runstream.log.base import Append, Command, NewRun, Segment, Tail
from runstream.log.sqlite import SQLiteStore
from runstream.log.sqlite_file import StoreFile
from runstream.log.sqlite_writer import Writer


async def begun(place: Path, **options: float) -> tuple[SQLiteStore, int]:
    """An open store, and the epoch of a run in it."""
    store = SQLiteStore(place / "runs.db", **options)  # pyright: ignore[reportArgumentType]
    await store.open()
    return store, await store.create(NewRun("run_1", "Desk"), worker="w1", lease_s=5.0)


def flush(epoch: int, seq: int, body: bytes = b"x") -> list[Append]:
    return [Append("run_1", epoch, Segment(seq, seq, body))]


_CANCEL = Command("cancel", {})


async def _until_it_fails(tail: Tail) -> None:
    """What it has got already is given first."""
    try:
        while True:
            await tail.next()
    except StoreError as error:
        assert "was closed" in str(error)  # noqa: PT017


def _database(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


# Files.


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: _database(path, "CREATE TABLE users (name)"), "not of runstream"),
        (lambda path: _database(path, "PRAGMA application_id = 7"), "not of runstream"),
        (lambda path: path.write_text("to whom it may concern\n" * 100), "no SQLite database"),
        (lambda path: path.mkdir(), "cannot open"),
        (lambda path: path.parent.rmdir(), "create it first"),
    ],
)
async def test_files_that_are_not_ours_are_refused(
    tmp_path: Path, make: Callable[[Path], object], complaint: str
) -> None:
    """The error says why, the file stays as it was, and no thread is left."""
    path = tmp_path / "sub" / "runs.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=complaint):
        await SQLiteStore(path).open()
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A store that a later runstream has written says what to do."""
    store, _ = await begun(tmp_path)
    await store.aclose()
    _database(tmp_path / "runs.db", "PRAGMA user_version = 2")
    with pytest.raises(StoreError, match="version 2, this runstream reads version 1: upgrade"):
        await store.open()


async def test_a_damaged_file(tmp_path: Path) -> None:
    """What SQLite calls malformed is an error that says how to save what can be saved."""
    store, epoch = await begun(tmp_path)
    for seq in range(1, 40):
        await store.append(flush(epoch, seq, bytes(10_000)))
    await store.aclose()
    path = tmp_path / "runs.db"
    data = bytearray(path.read_bytes())
    data[2 * 16_384 :] = b"\xff" * (len(data) - 2 * 16_384)
    path.write_bytes(data)

    async def read() -> None:
        await store.open()
        try:
            await store.read("run_1", 0)
        finally:
            await store.aclose()

    with pytest.raises(StoreError, match=r"damaged.*recover"):
        await read()


def test_what_errors_of_sqlite_mean(tmp_path: Path) -> None:
    """A file that cannot be written is an error with what to do; what may pass is `retryable`."""
    file = StoreFile(str(tmp_path / "runs.db"), "NORMAL", 0.0)
    _database(tmp_path / "runs.db", "CREATE TABLE t (x)")
    connection = sqlite3.connect(f"file:{tmp_path}/runs.db?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as read_only:
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    error = file.explain(read_only.value)
    assert "read-only" in str(error)
    assert "writable" in str(error)
    assert not error.retryable
    for name, retryable in {
        "SQLITE_BUSY_SNAPSHOT": True,
        "SQLITE_FULL": True,
        "SQLITE_IOERR_FSYNC": True,
        "SQLITE_CANTOPEN": False,
        "SQLITE_CORRUPT_INDEX": False,
        "SQLITE_TOOBIG": False,
    }.items():
        made = sqlite3.OperationalError("it failed")
        made.sqlite_errorname = name
        assert (file.explain(made).retryable, name in str(file.explain(made))) == (retryable, True)


async def test_many_that_create_one_file(tmp_path: Path) -> None:
    """Whoever opens a new file at the same moment, it is created once, and all of them can use it."""

    async def use(number: int) -> list[str]:
        store = SQLiteStore(tmp_path / "runs.db")
        await store.open()
        await store.create(NewRun(f"run_{number}", "Desk"))
        found = [run.run_id for run in await store.list_runs()]
        await store.aclose()
        return found

    found = await asyncio.gather(*(use(number) for number in range(8)))
    assert all(f"run_{number}" in runs for number, runs in enumerate(found))
    assert len(await use(8)) == 9


async def test_a_file_that_is_deleted_while_it_is_open(tmp_path: Path) -> None:
    """Nothing is told to be written that nobody can read; opening again makes a new store."""
    store, epoch = await begun(tmp_path)
    tail = store.tail("run_1", 0)
    waiting = asyncio.create_task(tail.next())
    await store.find("run_1")
    for name in os.listdir(tmp_path):
        os.unlink(tmp_path / name)
    with pytest.raises(StoreError, match="deleted or replaced"):
        await store.append(flush(epoch, 1))
    with pytest.raises(StoreError, match="deleted or replaced"):
        await store.find("run_1")
    with pytest.raises(StoreError, match="deleted or replaced"):
        await waiting
    await store.aclose()
    store, epoch = await begun(tmp_path)
    assert await store.append(flush(epoch, 1)) == [None]
    await store.aclose()


# Disks and locks.


async def test_a_lock_of_another_process(tmp_path: Path) -> None:
    """Held beyond the bound it makes writing fail as unavailable, not reading; afterwards the flush can be repeated."""
    store, epoch = await begun(tmp_path, busy_timeout_s=0.01)
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"locked by another process for more than 0.01 s"):
        await store.append(flush(epoch, 1))
    with pytest.raises(StoreUnavailable, match="locked"):
        store.renew([("run_1", epoch)], 5.0)
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.claim("run_1", "w1", 5.0)
    assert (await store.find("run_1")).last_seq == 0
    other.execute("ROLLBACK")
    other.close()
    assert await store.append(flush(epoch, 1)) == [None]
    assert store.renew([("run_1", epoch)], 5.0)[0].held
    await store.aclose()


async def test_a_full_disk(tmp_path: Path) -> None:
    """A flush that does not fit leaves nothing behind, neither does it harm others; with room again all goes on."""
    store, epoch = await begun(tmp_path)
    await store.create(NewRun("run_2", "Desk"), worker="w1", lease_s=5.0)
    assert await store.append(flush(epoch, 1)) == [None]

    def limit(pages: int) -> asyncio.Future[object]:
        return store._write(lambda ledger: ledger._execute(f"PRAGMA max_page_count = {pages}").fetchall())

    await limit(1)  # no more than there are
    with pytest.raises(StoreUnavailable, match="no room left"):
        await store.append(flush(epoch, 2, bytes(1_000_000)))
    big, small, end = await asyncio.gather(
        store.append(flush(epoch, 2, bytes(1_000_000))),
        store.append(flush(epoch, 3)),
        store.send("run_2", _CANCEL),
        return_exceptions=True,
    )
    assert isinstance(big, StoreUnavailable)
    assert small == ["gap"]
    assert end == 1
    page = await store.read("run_1", 0)
    assert (page.last_seq, len(page.segments)) == (1, 1)
    await limit(1_000_000)
    assert await store.append(flush(epoch, 2, bytes(1_000_000))) == [None]
    assert await store.append(flush(epoch, 3)) == [None]
    await store.aclose()


async def test_upkeep_that_fails_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Compaction on a full disk is put off with one warning, and loses nothing; with room again it is made up for."""
    uptime_s = [1000.0]
    store = SQLiteStore(tmp_path / "runs.db", monotonic=lambda: uptime_s[0])
    await store.open()
    epoch = await store.create(NewRun("run_1", "Desk"), worker="w1", lease_s=5.0)
    upkeep: Any = cast("Any", store._writer)._upkeep
    # What its thread does is done here, when it is to be.
    upkeep._closing = True
    upkeep._woken.set()
    await asyncio.to_thread(upkeep._thread.join)

    def look() -> None:
        for _ in range(3):  # it may find other things to do first
            uptime_s[0] += 6
            upkeep.look(idle=False)

    for seq in range(1, 31):
        await store.append(flush(epoch, seq, bytes(30_000)))
    upkeep._connection.execute("PRAGMA max_page_count = 1")
    look()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "upkeep failed" in caplog.text
    assert "no room left" in caplog.text
    assert len((await store.read("run_1", 0, max_bytes=10_000_000)).segments) == 30
    upkeep._connection.execute("PRAGMA max_page_count = 1000000")
    look()
    assert upkeep._connection.execute("SELECT count(*) FROM journal").fetchone() == (16,)
    assert len((await store.read("run_1", 0, max_bytes=10_000_000)).segments) == 30
    await store.aclose()


# Callers.


async def test_a_flush_that_is_cancelled_may_be_repeated(tmp_path: Path) -> None:
    """At whatever moment it is cancelled, the repetition is answered as written, and it is there once."""
    store, epoch = await begun(tmp_path)
    for seq in range(1, 13):
        task = asyncio.create_task(store.append(flush(epoch, seq)))
        for _ in range(seq % 4):
            await asyncio.sleep(0)
        if seq % 3 == 0:
            await store.find("run_1")
        task.cancel()
        await asyncio.wait([task])
        assert await store.append(flush(epoch, seq)) == [None]
    page = await store.read("run_1", 0)
    assert [segment.first_seq for segment in page.segments] == list(range(1, 13))
    await store.aclose()


async def test_a_claim_that_nobody_waits_for_any_more_is_given_back(tmp_path: Path) -> None:
    """A worker that is stopped while it claims does not keep the run for the time of a lease."""
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    await store.create(NewRun("run_1", "Desk", job=b"x"))
    for turns in range(1, 6):
        claiming = asyncio.create_task(store.claim_next(["Desk"], "w1", 60.0, wait_s=60.0))
        for _ in range(turns):
            await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.wait([claiming])
        if not claiming.cancelled():
            claim = claiming.result()
            assert claim is not None
            await store.release("run_1", claim.epoch)
        claim = await store.claim_next(["Desk"], "w2", 60.0, wait_s=60.0)
        assert claim is not None
        assert claim.run.deliveries == 1
        await store.release("run_1", claim.epoch)
    await store.aclose()


async def test_flushes_that_wait_share_a_transaction(tmp_path: Path) -> None:
    """They are answered one by one, in their order, refusals of one without harm to the others."""
    store, epoch = await begun(tmp_path)
    answers = await asyncio.gather(
        *(store.append(flush(epoch, seq)) for seq in (1, 2, 3, 5, 4)),
        store.create(NewRun("run_1", "Other"), worker="w2", lease_s=1.0),
        store.append(flush(epoch, 5)),
        return_exceptions=True,
    )
    assert answers[:5] == [[None], [None], [None], ["gap"], [None]]
    assert "there is a run 'run_1'" in str(answers[5])
    assert answers[6] == [None]
    await store.aclose()


async def test_closing_while_calls_wait(tmp_path: Path) -> None:
    """Flushes that were called are carried out; whoever waits for something to come is told; closing twice is fine."""
    store, epoch = await begun(tmp_path)
    tail = store.tail("run_1", 0)
    waiting = [
        asyncio.create_task(tail.next()),
        asyncio.create_task(store.tail("run_1", 0).next()),
        asyncio.create_task(store.wait_commands({"run_1": 0})),
        asyncio.create_task(store.claim_next(["Nobody"], "w", 1.0, wait_s=60.0)),
    ]
    await store.find("run_1")
    await store.append(flush(epoch, 1))
    assert len((await waiting[0]).segments) == 1
    flushing = asyncio.create_task(store.append(flush(epoch, 2)))
    await asyncio.sleep(0)
    await asyncio.gather(store.aclose(), store.aclose())
    assert await flushing == [None]
    for task in waiting[2:]:
        with pytest.raises(StoreError, match="closed"):
            await task
    assert len((await waiting[1]).segments) == 1
    await _until_it_fails(tail)
    with pytest.raises(StoreError, match="not open"):
        await tail.next()
    with pytest.raises(StoreError, match="not open"):
        await store.append(flush(epoch, 3))
    with pytest.raises(StoreError, match="not open"):
        store.renew([], 1.0)
    await store.aclose()
    await store.open()
    assert (await store.find("run_1")).last_seq == 2
    await store.aclose()


def test_a_loop_that_is_gone(tmp_path: Path) -> None:
    """The threads of a store that was not closed end; it can be opened in another loop, and is complete."""
    before = set(threading.enumerate())
    store = SQLiteStore(tmp_path / "runs.db")

    async def leave() -> int:
        await store.open()
        epoch = await store.create(NewRun("run_1", "Desk"), worker="w1", lease_s=5.0)
        await store.append(flush(epoch, 1))
        store.tail("run_1", 0)
        return epoch

    async def come_back(epoch: int) -> None:
        with pytest.raises(UserError, match="another event loop"):
            await store.find("run_1")
        await store.open()
        assert await store.append(flush(epoch, 2)) == [None]
        await store.aclose()

    epoch = asyncio.run(leave())
    asyncio.run(come_back(epoch))
    for thread in set(threading.enumerate()) - before:
        thread.join(5.0)
        assert not thread.is_alive()


async def test_a_forked_child_does_not_use_what_it_inherited(tmp_path: Path) -> None:
    """Neither the open store nor, since SQLite would be wrong about locks, a new one on the same file."""
    store, _ = await begun(tmp_path)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        answers: list[str] = []
        try:
            store.renew([("run_1", 1)], 1.0)
        except StoreError as error:
            answers.append(str(error))
        try:
            StoreFile(str(tmp_path / "runs.db"), "NORMAL", 0.0).connect()
        except StoreError as error:
            answers.append(str(error))
        os.write(tell, "\n".join(answers).encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)  # noqa: ASYNC222
    answers = os.read(told, 10_000).decode().split("\n")
    os.close(told)
    assert len(answers) == 2
    assert all("forked" in answer for answer in answers)
    assert (await store.find("run_1")).last_seq == 0
    await store.aclose()


_PROCESS = """
import asyncio, sys
from runstream.log.base import Append, NewRun, Segment
from runstream.log.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    epoch = await store.create(NewRun("run_1", "Desk"), worker="w1", lease_s=5.0)
    for seq in range(1, int(sys.argv[2]) + 1):
        assert await store.append([Append("run_1", epoch, Segment(seq, seq, b"%d" % seq))]) == [None]
        print(seq, flush=True)

asyncio.run(main())
"""


@pytest.mark.system
async def test_a_process_that_does_not_close_its_store(tmp_path: Path) -> None:
    """It exits at once, and what was acknowledged is there."""
    done = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", _PROCESS, tmp_path / "runs.db", "50"], capture_output=True, timeout=20, check=True
    )
    assert (len(done.stdout.split()), done.stderr) == (50, b"")
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    assert (await store.read("run_1", 0)).last_seq == 50
    await store.aclose()


@pytest.mark.system
async def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """What was acknowledged before kill -9 is there, gapless, and another worker goes on."""
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _PROCESS, tmp_path / "runs.db", "1000000"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split(b"\n")[:-1] if line]
    process.wait()
    process.stdout.close()
    store = SQLiteStore(tmp_path / "runs.db")
    await store.open()
    found: list[bytes] = []
    while segments := (await store.read("run_1", len(found), max_bytes=1000)).segments:
        found += [segment.body for segment in segments]
    assert found == [b"%d" % seq for seq in range(1, len(found) + 1)]
    assert len(found) - acknowledged[-1] in (0, 1)
    claim = await store.claim("run_1", "w1", 5.0)
    assert claim is not None
    assert await store.append([Append("run_1", claim.epoch, Segment(len(found) + 1, len(found) + 1, b"x"))]) == [None]
    await store.aclose()


async def test_two_threads_that_open_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one event loop opens it, another one is told so at once, and does not wait for what never wakes it."""
    store = SQLiteStore(tmp_path / "runs.db")
    started, go_on = threading.Event(), asyncio.Event()
    start = Writer.start

    async def start_slowly(writer: Writer) -> None:
        started.set()
        await go_on.wait()
        await start(writer)

    monkeypatch.setattr(Writer, "start", start_slowly)
    opening = asyncio.create_task(store.open())
    await asyncio.to_thread(started.wait, 5)
    with pytest.raises(UserError, match="being opened in another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(store.open()))
    also = asyncio.create_task(store.open())
    go_on.set()
    await asyncio.gather(opening, also)
    await store.aclose()
    monkeypatch.undo()

    async def open_and_close() -> None:
        await asyncio.gather(store.open(), store.open())
        await store.aclose()

    await asyncio.to_thread(lambda: asyncio.run(open_and_close()))
