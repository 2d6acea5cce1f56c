"""A session in an SQLite database, in the tables of the OpenAI Agents SDK: either library reads what the other wrote.

Must not know runs. sqlite3 is imported when the first session is made. All work on the database is done in threads.

Invariants:
- One connection per session object, used by one thread at a time. Other sessions, of this process or another, are kept
  apart by the database: files are in WAL mode, a writer takes the write lock first and waits for it up to a limit.
- Each method is one transaction. A task that is cancelled while it writes learns of it when the write is done, never
  in between; so what a cancelled method did is whole.
- A row that is no JSON is passed over by reading, and dropped by `pop_item` on its way to a good one.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import weakref
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar, cast

from runstream.agent.raw_item import to_plain
from runstream.agent.threads import Workers
from runstream.sessions.base import SessionABC, SessionSettings, coerce_session_settings, resolve_session_limit

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from runstream.agent.response import TResponseInputItem

__all__ = ["SQLiteSession"]

_BUSY_TIMEOUT_S = 10.0
"""How long a method waits for another connection's transaction before `sqlite3.OperationalError`."""

_R = TypeVar("_R")

_workers = Workers("runstream session", 16)
"""Threads apart from all others: a run that ends is not to wait with its session for anybody's tools."""


class SQLiteSession(SessionABC):
    """A conversation in an SQLite file, or with `":memory:"` in a database of its own that ends with the object.

    The database is opened and its tables made on construction, which raises `sqlite3.Error` if that fails. Several
    sessions may share a file, each under its `session_id`.
    """

    def __init__(
        self,
        session_id: str,
        db_path: str | Path = ":memory:",
        sessions_table: str = "agent_sessions",
        messages_table: str = "agent_messages",
        session_settings: SessionSettings | dict[str, Any] | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings = coerce_session_settings(session_settings or SessionSettings())
        self.db_path = db_path
        self.sessions_table = sessions_table
        self.messages_table = messages_table
        self._sessions = _quoted(sessions_table)
        self._messages = _quoted(messages_table)
        self._lock = threading.Lock()
        self._closed = False
        self._open()

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        limit = resolve_session_limit(limit, self.session_settings)
        return await self._in_thread(lambda connection: self._read(connection, limit))

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        self._check_open()
        if not items:
            return
        # Encoded before the first wait: what is stored is what the caller passed, whatever it does to the items later.
        rows = [(self.session_id, json.dumps(item, default=_plain)) for item in items]
        await self._in_thread(lambda connection: self._write(connection, rows))

    async def pop_item(self) -> TResponseInputItem | None:
        return await self._in_thread(self._pop)

    async def clear_session(self) -> None:
        await self._in_thread(self._clear)

    def close(self) -> None:
        """Close the database; waits for a method that is under way. Other methods raise RuntimeError from then on."""
        with self._lock:
            self._closed = True
            self._close_connection()

    # --- In a thread, with the lock held ---

    def _read(self, connection: sqlite3.Connection, limit: int | None) -> list[TResponseInputItem]:
        # Newest first, so that a limit counts good rows and reads no more than it needs.
        query = f"SELECT message_data FROM {self._messages} WHERE session_id = ? ORDER BY id DESC"
        items: list[TResponseInputItem] = []
        with closing(connection.execute(query, (self.session_id,))) as rows:
            for (data,) in rows:
                if len(items) == limit:
                    break
                item = _decode(data)
                if item is not None:
                    items.append(item)
        items.reverse()
        return items

    def _write(self, connection: sqlite3.Connection, rows: list[tuple[str, str]]) -> None:
        with _Transaction(connection):
            connection.execute(f"INSERT OR IGNORE INTO {self._sessions} (session_id) VALUES (?)", (self.session_id,))
            connection.executemany(f"INSERT INTO {self._messages} (session_id, message_data) VALUES (?, ?)", rows)
            connection.execute(
                f"UPDATE {self._sessions} SET updated_at = CURRENT_TIMESTAMP WHERE session_id = ?", (self.session_id,)
            )

    def _pop(self, connection: sqlite3.Connection) -> TResponseInputItem | None:
        newest = f"SELECT id, message_data FROM {self._messages} WHERE session_id = ? ORDER BY id DESC LIMIT 1"
        with _Transaction(connection):
            while (row := connection.execute(newest, (self.session_id,)).fetchone()) is not None:
                connection.execute(f"DELETE FROM {self._messages} WHERE id = ?", (row[0],))
                item = _decode(row[1])
                if item is not None:
                    return item
        return None

    def _clear(self, connection: sqlite3.Connection) -> None:
        with _Transaction(connection):
            connection.execute(f"DELETE FROM {self._messages} WHERE session_id = ?", (self.session_id,))
            connection.execute(f"DELETE FROM {self._sessions} WHERE session_id = ?", (self.session_id,))

    # --- The connection ---

    async def _in_thread(self, work: Callable[[sqlite3.Connection], _R]) -> _R:
        """Do the work in a thread, and wait for its end even when cancelled."""
        self._check_open()
        if self._process_id != os.getpid():
            self._leave_parent()

        def locked() -> _R:
            with self._lock:
                self._check_open()
                return work(self._connection)

        done = _workers.start(locked)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            while not done.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:
                    # The first one is on its way already.
                    continue
            # The caller gets the cancellation; a failure beside it counts as seen.
            done.exception()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("SQLiteSession is closed: make a new one with the same session_id and db_path.")

    @property
    def _in_memory(self) -> bool:
        return str(self.db_path) == ":memory:"

    def _open(self) -> None:
        import sqlite3

        self._process_id = os.getpid()
        try:
            # Transactions are begun by hand; the lock sees to it that one thread uses the connection at a time.
            self._connection = sqlite3.connect(
                str(self.db_path), timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            error.add_note(f"SQLiteSession {self.session_id!r} could not open the database {str(self.db_path)!r}")
            raise
        # Closes it also when the object is dropped without close().
        self._close_connection = weakref.finalize(self, self._connection.close)
        try:
            self._prepare(self._connection)
        except sqlite3.Error as error:
            error.add_note(f"SQLiteSession {self.session_id!r} could not use the database {str(self.db_path)!r}")
            self._close_connection()
            raise

    def _leave_parent(self) -> None:
        """After a fork: another thread of the parent may have held the lock, and SQLite forbids to use, or even to
        close, the parent's connection to a file."""
        self._lock = threading.Lock()
        self._process_id = os.getpid()
        if not self._in_memory:
            self._close_connection.detach()
            _connections_of_parents.append(self._connection)
            self._open()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        import sqlite3

        if not self._in_memory:
            try:
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError:
                # Another connection is at work on a new file, or it may not be written. Not worth waiting for: the
                # mode belongs to the file, so the next one to open it sets it; until then all is slower but correct.
                pass
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000:.0f}")
        names = (self.sessions_table, self.messages_table)
        query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)"
        if connection.execute(query, names).fetchone()[0] == len(set(names)):
            return
        with _Transaction(connection):
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._sessions} (session_id TEXT PRIMARY KEY,"
                " created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
            )
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._messages} (id INTEGER PRIMARY KEY AUTOINCREMENT,"
                " session_id TEXT NOT NULL, message_data TEXT NOT NULL,"
                " created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,"
                f" FOREIGN KEY (session_id) REFERENCES {self._sessions} (session_id) ON DELETE CASCADE)"
            )
            index = _quoted(f"idx_{self.messages_table}_session_id")
            connection.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {self._messages} (session_id, id)")


_connections_of_parents: list[sqlite3.Connection] = []
"""Kept so that garbage collection does not close them."""


class _Transaction:
    """Takes the write lock at once, so that it waits there and never fails half-way for another writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # Also where the commit failed: the connection must not go on inside a transaction.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _decode(data: Any) -> TResponseInputItem | None:
    """The item of a row; None for a row that is no JSON."""
    try:
        return cast("TResponseInputItem", json.loads(data))
    except (TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    plain = to_plain(value)
    if plain is value:
        raise TypeError(f"An item of a session must be JSON, but holds {value!r} of type {type(value).__name__}.")
    return plain
