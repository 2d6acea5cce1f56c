"""Laws of sessions in SQLite, beyond what every session does."""

import asyncio
import gc
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from runstream.sessions import sqlite as module
from runstream.sessions.sqlite import SQLiteSession

SDK_SCHEMA = """
CREATE TABLE agent_sessions (
    session_id TEXT PRIMARY KEY,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE agent_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    message_data TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (session_id) REFERENCES agent_sessions (session_id) ON DELETE CASCADE
);
CREATE INDEX idx_agent_messages_session_id ON agent_messages (session_id, id);
INSERT INTO agent_sessions (session_id) VALUES ('conversation');
INSERT INTO agent_messages (session_id, message_data) VALUES ('conversation', '{"role": "user", "content": "hi"}');
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.db"


def run_sql(path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def columns(path, table: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[1:] for row in connection.execute(f"PRAGMA table_info({table})")]


async def test_it_reads_and_writes_the_sdks_tables(path, tmp_path):
    """A database of the SDK can be gone on with; a new one has the same columns and index."""
    run_sql(path, SDK_SCHEMA)
    with closing(SQLiteSession("conversation", path)) as session:
        await session.add_items([{"role": "assistant", "content": "hello"}])
        assert [entry["content"] for entry in await session.get_items()] == ["hi", "hello"]
    other = tmp_path / "new.db"
    SQLiteSession("conversation", str(other)).close()
    for table in ("agent_sessions", "agent_messages"):
        assert columns(other, table) == columns(path, table)
    with closing(sqlite3.connect(other)) as connection:
        assert connection.execute("PRAGMA index_info(idx_agent_messages_session_id)").fetchall() != []
        assert connection.execute("PRAGMA foreign_key_list(agent_messages)").fetchone()[2] == "agent_sessions"
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_conversation_outlives_its_object(path):
    """Another object with the same id goes on where the first ended; other ids are apart."""
    with closing(SQLiteSession("a", path)) as first, closing(SQLiteSession("b", path)) as other:
        await first.add_items([{"n": 1}])
        await other.add_items([{"n": 2}])
        await other.clear_session()
        await other.add_items([{"n": 3}])
    with closing(SQLiteSession("a", path)) as again, closing(SQLiteSession("b", path)) as other:
        assert await again.get_items() == [{"n": 1}]
        assert await other.get_items() == [{"n": 3}]


async def test_two_objects_see_each_others_items_at_once(path):
    """What one has added the other reads, without being opened anew."""
    with closing(SQLiteSession("a", path)) as first, closing(SQLiteSession("a", path)) as second:
        await asyncio.gather(*(session.add_items([{"n": 1}]) for session in (first, second) * 10))
        assert len(await first.get_items()) == len(await second.get_items()) == 20


async def test_databases_in_memory_are_apart():
    """Each object has its own."""
    with closing(SQLiteSession("a")) as first, closing(SQLiteSession("a")) as second:
        await first.add_items([{"n": 1}])
        assert await second.get_items() == []


async def test_table_names_may_be_any(path):
    """They are quoted, so that neither spaces nor quotes do harm; two pairs of tables share a file."""
    with (
        closing(SQLiteSession("a", path, 'my "sessions"', "my messages; --")) as odd,
        closing(SQLiteSession("a", path)) as plain,
    ):
        await odd.add_items([{"n": 1}])
        assert await odd.get_items() == [{"n": 1}]
        assert await plain.get_items() == []


async def test_corrupt_rows_are_passed_over(path):
    """Reading skips them, and a limit counts good ones; popping drops them on its way."""
    with closing(SQLiteSession("a", path)) as session:
        await session.add_items([{"n": 1}, {"n": 2}])
        run_sql(path, "INSERT INTO agent_messages (session_id, message_data) VALUES ('a', '{broken'), ('a', x'ff')")
        assert await session.get_items() == [{"n": 1}, {"n": 2}]
        assert await session.get_items(1) == [{"n": 2}]
        assert await session.get_items(3) == [{"n": 1}, {"n": 2}]
        assert await session.pop_item() == {"n": 2}
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM agent_messages").fetchone() == (1,)


async def test_only_corrupt_rows():
    """Popping drops them all and finds nothing."""
    with closing(SQLiteSession("a")) as session:
        session._connection.execute("INSERT INTO agent_messages (session_id, message_data) VALUES ('a', 'broken')")
        assert await session.pop_item() is None
        assert session._connection.execute("SELECT count(*) FROM agent_messages").fetchone() == (0,)


async def test_adding_is_all_or_nothing(path):
    """An item that is no JSON, or a database that fails, leaves what was there, and no lock behind."""
    with closing(SQLiteSession("a", path)) as session:
        await session.add_items([{"n": 1}])
        with pytest.raises(TypeError, match="must be JSON"):
            await session.add_items([{"n": 2}, {"n": object()}])
        run_sql(
            path,
            "CREATE TRIGGER fail BEFORE INSERT ON agent_messages WHEN new.message_data LIKE '%bad%'"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        with pytest.raises(sqlite3.IntegrityError, match="refused"):
            await session.add_items([{"n": 2}, {"n": "bad"}])
        assert await session.get_items() == [{"n": 1}]
        run_sql(path, "DROP TRIGGER fail")
        await session.add_items([{"n": 3}])
        assert await session.get_items() == [{"n": 1}, {"n": 3}]


async def test_a_failed_commit_leaves_no_transaction(path):
    """The connection can be used again after a commit that the database refused."""
    with closing(SQLiteSession("a", path)) as session:
        session._connection.executescript(
            "PRAGMA foreign_keys = ON; CREATE TABLE strict_one (id INTEGER PRIMARY KEY,"
            " parent INTEGER REFERENCES strict_one (id) DEFERRABLE INITIALLY DEFERRED);"
            "CREATE TRIGGER break_commit AFTER INSERT ON agent_messages"
            " BEGIN INSERT INTO strict_one (parent) VALUES (99); END"
        )
        with pytest.raises(sqlite3.IntegrityError):
            await session.add_items([{"n": 1}])
        session._connection.execute("DROP TRIGGER break_commit")
        await session.add_items([{"n": 2}])
        assert await session.get_items() == [{"n": 2}]


async def test_a_closed_session_refuses_everything(path):
    """Each method says that it is closed, also where it had nothing to do; closing twice is fine."""
    session = SQLiteSession("a", path)
    session.close()
    session.close()
    for attempt in (session.get_items, session.pop_item, session.clear_session):
        with pytest.raises(RuntimeError, match="SQLiteSession is closed"):
            await attempt()
    with pytest.raises(RuntimeError, match="SQLiteSession is closed"):
        await session.add_items([])


async def test_closing_waits_for_the_method_under_way(path):
    """What was begun before is done; what waits for its turn is refused."""
    session = SQLiteSession("a", path)
    session._lock.acquire()
    waiting = asyncio.ensure_future(session.add_items([{"n": 1}]))
    closer = threading.Thread(target=session.close)
    await asyncio.sleep(0)
    session._closed = True
    closer.start()
    session._lock.release()
    closer.join()
    with pytest.raises(RuntimeError, match="SQLiteSession is closed"):
        await waiting


def test_a_session_that_is_dropped_closes_its_database(path):
    """Nothing is left open, and nobody is warned."""
    session = SQLiteSession("a", path)
    connection = session._connection
    del session
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        connection.execute("SELECT 1")


def test_an_error_names_the_database(tmp_path):
    """A path that cannot be opened, and a file that is no database, are told on construction."""
    with pytest.raises(sqlite3.OperationalError) as raised:
        SQLiteSession("a", tmp_path / "missing" / "sessions.db")
    assert "missing" in raised.value.__notes__[0]
    (tmp_path / "text.db").write_text("this is no database, but a text of some length" * 50)
    with pytest.raises(sqlite3.DatabaseError) as raised:
        SQLiteSession("a", tmp_path / "text.db")
    assert "text.db" in raised.value.__notes__[0]


async def test_a_cancelled_write_is_whole(path):
    """The task learns of its cancellation, however often, when the write is done: no guess is needed."""
    with closing(SQLiteSession("a", path)) as session:
        session._lock.acquire()
        writing = asyncio.ensure_future(session.add_items([{"n": 1}, {"n": 2}]))
        for _ in range(3):
            await asyncio.sleep(0)
            writing.cancel()
        await asyncio.sleep(0)
        assert not writing.done()
        session._lock.release()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await session.get_items() == [{"n": 1}, {"n": 2}]


async def test_a_cancelled_write_that_fails_is_a_cancellation(path):
    """The failure does not come up a second time, as an error that nobody fetched."""
    problems = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    with closing(SQLiteSession("a", path)) as session:
        run_sql(path, "DROP TABLE agent_messages")
        session._lock.acquire()
        writing = asyncio.ensure_future(session.add_items([{"n": 1}]))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.sleep(0)
        session._lock.release()
        with pytest.raises(asyncio.CancelledError):
            await writing
        del writing
        gc.collect()
        assert problems == []


async def test_a_file_that_cannot_be_switched_to_wal_works(path):
    """Where another connection is at work on the file, its mode is left for the next one to set."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.executescript(SDK_SCHEMA)
        other.execute("BEGIN")
        other.execute("SELECT * FROM agent_messages").fetchall()
        with closing(SQLiteSession("conversation", path)) as session:
            assert [entry["content"] for entry in await session.get_items()] == ["hi"]
        other.execute("COMMIT")
        assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_a_writer_waits_for_the_lock(path, monkeypatch):
    """It waits up to a limit, then says that the database is locked; reading goes on all the while."""
    monkeypatch.setattr(module, "_BUSY_TIMEOUT_S", 0.05)
    with closing(SQLiteSession("a", path)) as session, closing(sqlite3.connect(path, isolation_level=None)) as other:
        await session.add_items([{"n": 1}])
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await session.add_items([{"n": 2}])
        assert await session.get_items() == [{"n": 1}]
        other.execute("ROLLBACK")
        await session.add_items([{"n": 3}])
        assert await session.get_items() == [{"n": 1}, {"n": 3}]


async def test_a_forked_process_opens_the_file_anew(path, monkeypatch):
    """The parent's connection is neither used nor closed, and its lock, which nobody may release, not waited for."""
    parent = os.getpid()
    with closing(SQLiteSession("a", path)) as session, closing(SQLiteSession("a")) as in_memory:
        await session.add_items([{"n": 1}])
        inherited, kept = session._connection, in_memory._connection
        session._lock.acquire()
        in_memory._lock.acquire()
        monkeypatch.setattr(module.os, "getpid", lambda: parent + 1)
        await session.add_items([{"n": 2}])
        await in_memory.add_items([{"n": 3}])
        assert session._connection is not inherited
        assert in_memory._connection is kept
        assert inherited.execute("SELECT count(*) FROM agent_messages").fetchone() == (2,)
    monkeypatch.setattr(module, "_connections_of_parents", [])
    inherited.close()


def test_processes_do_not_disturb_each_other(path):
    """Several processes that make the file and write at once lose nothing and keep each call's items together."""
    code = (
        "import asyncio, sys\n"
        "from runstream.sessions.sqlite import SQLiteSession\n"
        "async def main():\n"
        "    sessions = [SQLiteSession('a', sys.argv[1]) for _ in range(2)]\n"
        "    await asyncio.gather(*(s.add_items([{'p': sys.argv[2]}] * 3) for s in sessions for _ in range(10)))\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(path)]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    with closing(SQLiteSession("a", path)) as session:
        items = asyncio.run(session.get_items())
    assert len(items) == 4 * 2 * 10 * 3
    assert all(items[start] == items[start + 1] == items[start + 2] for start in range(0, len(items), 3))
