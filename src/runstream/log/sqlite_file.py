"""The SQLite store's file: how it is opened, created and recognised, its tables, and what its failures mean.

Whatever the processes that open it at the same time, the file is created once; a file that is not ours is not touched.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from runstream.errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    import sqlite3

__all__ = ["APPLICATION_ID", "StoreFile", "Synchronous", "is_busy"]

Synchronous: TypeAlias = Literal["NORMAL", "FULL"]

# The letters "rstm".
APPLICATION_ID = 0x7273746D
_VERSION = 1
# Flushes of 100 runs fit into a page or two, and rows up to this size are stored in one piece.
_PAGE_BYTES = 16_384
# What each connection keeps of the file. There are six of them, each with its own kind of work, and the system's cache
# is behind them: SQLite's 2 MB each were a good part of what a server with few streams took.
_CACHE_BYTES = 524_288
# The log ahead of the file is cut back to this after it had to grow.
_WAL_BYTES = 64_000_000

# `garbage` names deleted runs of which segments may be left.
_SCHEMA = f"""
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    runs INTEGER NOT NULL DEFAULT 0,      -- numbers given to runs so far; a number is never given twice
    floor INTEGER NOT NULL DEFAULT 0,     -- journal rows up to this id are compacted; ids above it are not used again
    takeovers INTEGER NOT NULL DEFAULT 0, -- counts what makes another process's knowledge of its runs untrue
    removals INTEGER NOT NULL DEFAULT 0,  -- counts deletions
    commands INTEGER NOT NULL DEFAULT 0,  -- counts commands to all runs
    queued INTEGER NOT NULL DEFAULT 0,    -- counts runs that became ready to be claimed
    served INTEGER NOT NULL DEFAULT 0     -- counts claims from queues
);
INSERT INTO state (id) VALUES (1);
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    agent TEXT NOT NULL,
    owner TEXT,
    queue TEXT NOT NULL,
    creator TEXT,                         -- the worker that entered it
    status TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    epochs TEXT NOT NULL,                 -- JSON: [[epoch, first seq], ...]
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,            -- as of the last compaction or change of status: the journal may know more
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    ended_at REAL,
    worker TEXT,
    lease_until REAL,                     -- by the monotonic clock of this boot; NULL where nobody holds the run
    lease_s REAL NOT NULL,
    deliveries INTEGER NOT NULL,
    last_command INTEGER NOT NULL DEFAULT 0,
    has_job INTEGER NOT NULL,
    appender TEXT                         -- the store object that knows the true last_seq, if any
);
CREATE INDEX runs_open ON runs (queue, number) WHERE ended_at IS NULL;
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_owner ON runs (owner) WHERE owner IS NOT NULL;
CREATE TABLE jobs (run INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE journal (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE segments (
    key INTEGER PRIMARY KEY,              -- run << 32 | last seq
    first_seq INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE commands (
    run INTEGER NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE queues (name TEXT PRIMARY KEY, served INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE garbage (run INTEGER PRIMARY KEY);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""

# How many connections this process has to a path: (process id, count). What SQLite knows of locks is in memory that a
# forked child inherits, and that is wrong there.
_connections: dict[str, tuple[int, int]] = {}
_connections_lock = threading.Lock()

_DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT"}


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else holds the file: what was asked for has not been done, not in part either."""
    return (getattr(error, "sqlite_errorname", "") or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A path and the options that every connection to it shares."""

    path: str
    synchronous: Synchronous
    busy_timeout_s: float

    def connect(self, *, busy_timeout_s: float | None = None) -> sqlite3.Connection:
        """A connection to the file, in autocommit mode, which any one thread at a time may use.

        `busy_timeout_s`: how long its calls wait for others, if not as long as the file's. Creates the file where there
        is none. Raises StoreError, StoreUnavailable.
        """
        import sqlite3

        directory = os.path.dirname(self.path)
        if not os.path.isdir(directory):
            raise StoreError(f"cannot open the store {self.path}: there is no directory {directory}; create it first")
        with _connections_lock:
            process, count = _connections.get(self.path, (os.getpid(), 0))
            if process != os.getpid():
                raise StoreError(
                    f"the store {self.path} was open when this process was forked, which SQLite does not allow: "
                    "open it after the fork only, or start processes by spawn"
                )
            _connections[self.path] = (process, count + 1)
        connection = None
        try:
            connection = sqlite3.connect(
                self.path, timeout=self.busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            self._prepare(connection)
            if busy_timeout_s is not None:
                connection.execute(f"PRAGMA busy_timeout = {round(busy_timeout_s * 1000)}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_BYTES // 1024}")
        except BaseException as error:
            self.close(connection)
            if isinstance(error, sqlite3.Error):
                raise self.explain(error) from error
            raise
        return connection

    def close(self, connection: sqlite3.Connection | None) -> None:
        """Close what `connect` gave."""
        if connection is not None:
            connection.close()
        with _connections_lock:
            process, count = _connections.pop(self.path)
            if count > 1:
                _connections[self.path] = (process, count - 1)

    def identity(self) -> tuple[int, int] | None:
        """What tells this file from another one of its name; None where there is none."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def explain(self, error: sqlite3.Error) -> StoreError:
        """The error to raise for one of SQLite's."""
        name: str = getattr(error, "sqlite_errorname", "") or ""
        text = f"{name or type(error).__name__}: {error}"
        if is_busy(error):
            return StoreUnavailable(
                f"the store {self.path} is locked by another process for more than {self.busy_timeout_s:g} s ({text}); "
                "something holds a transaction open: find it, or raise busy_timeout_s"
            )
        if name == "SQLITE_FULL":
            return StoreUnavailable(f"no room left for the store {self.path} ({text}): free some space on its disk")
        if name.startswith("SQLITE_READONLY"):
            return StoreError(
                f"the store {self.path} is read-only ({text}): make the file and its directory writable for this user"
            )
        if name.startswith("SQLITE_CANTOPEN"):
            return StoreError(
                f"cannot open the store {self.path} ({text}): "
                "is it a file, and may this user read and write it and its directory?"
            )
        if name.startswith("SQLITE_IOERR"):
            return StoreUnavailable(f"the disk failed under the store {self.path} ({text})")
        if any(name.startswith(damaged) for damaged in _DAMAGED):
            return StoreError(
                f"the file {self.path} is damaged, or no SQLite database ({text}): restore it from a backup, "
                "save what `sqlite3 FILE .recover` can, or name another file"
            )
        return StoreError(f"the store {self.path} failed ({text})")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._is_new(connection):
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        # Two processes that switch a new file to WAL get in each other's way without waiting for one another.
        mode = self._journal_mode(connection)
        if mode != "wal":
            raise StoreError(
                f"the store {self.path} cannot use a write-ahead log (its journal mode is {mode!r}): "
                "put it on a local disk of this machine"
            )
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if self._is_new(connection):
            self._create(connection)

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether there is nothing in the file yet. Raises StoreError where it is not a file of ours."""
        # One look: another process may be creating it right now.
        application, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
            "FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if application == APPLICATION_ID:
            if version != _VERSION:
                raise StoreError(
                    f"the store {self.path} is of version {version}, this runstream reads version {_VERSION}: "
                    "upgrade runstream, or name another file"
                )
            return False
        if application or version or tables:
            raise StoreError(f"{self.path} is a SQLite database, but not of runstream: name another file")
        return True

    def _journal_mode(self, connection: sqlite3.Connection) -> str:
        import sqlite3

        attempts = 20
        while True:
            try:
                return connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                attempts -= 1
                if not attempts or not (error.sqlite_errorname or "").startswith("SQLITE_BUSY"):
                    raise
            # Waits, as a transaction does, until the other one is done.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._is_new(connection):
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
