"""The embedded durable store: logs of runs in one SQLite file, shared by any processes of one machine.

Owns the opening and closing of its two threads (`sqlite_writer`, `sqlite_reader`) and the heartbeat's connection.
Everything that is told here as done is in the file's write-ahead log: it survives the death of the process; with
`synchronous="FULL"` also that of the machine, at the price of an fsync for each commit.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, unquote

from runstream.clock import Clock, system_clock
from runstream.errors import StoreError, UserError
from runstream.log.base import (
    Append,
    Claim,
    Command,
    NewRun,
    Page,
    Refusal,
    Renewal,
    Retention,
    RunRecord,
    StoredStatus,
)
from runstream.log.sqlite_file import StoreFile, Synchronous
from runstream.log.sqlite_ledger import Ledger
from runstream.log.sqlite_reader import Reader
from runstream.log.sqlite_runs import Times
from runstream.log.sqlite_tail import SQLiteTail
from runstream.log.sqlite_writer import Flush, Writer

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SQLiteStore"]

T = TypeVar("T")


_FORM = "sqlite:///relative.db, sqlite:////absolute.db or sqlite:///~/in-the-home-directory.db"


class SQLiteStore:
    """Implements `Store`.

    `location` is a path, or a URL: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite:///~/home.db`, with the
    options `?synchronous=FULL` and `?busy_timeout_s=5` where they are not given here. The file's directory must exist.

    `busy_timeout_s`: how long a call waits for another process that holds the file, before it raises StoreUnavailable.
    `clock` is the store's time; `monotonic`, which leases run by, must be the same for all processes that share the
    file: the time since boot, unless the clock is not the system's.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        synchronous: Synchronous | None = None,
        busy_timeout_s: float | None = None,
        clock: Clock = system_clock,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        path, options = _parse(os.fspath(location))
        level = (synchronous or options.get("synchronous", "NORMAL")).upper()
        if level not in ("NORMAL", "FULL"):
            raise UserError(f"synchronous of a SQLite store is NORMAL or FULL, not {level!r}")
        timeout_s = busy_timeout_s if busy_timeout_s is not None else _seconds(options.get("busy_timeout_s", "5"))
        if not 0 <= timeout_s <= 3600:
            raise UserError(f"busy_timeout_s of a SQLite store is from 0 to 3600 seconds, not {timeout_s:g}")
        self._file = StoreFile(path, level, timeout_s)
        self._clock = clock
        if monotonic is None:
            monotonic = time.monotonic if clock is system_clock else clock.now
        self._times = Times(clock.now, monotonic)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._opening = asyncio.Lock()
        self._openers: tuple[asyncio.AbstractEventLoop | None, int] = (None, 0)
        """The event loop in which it is being opened, and by how many there."""
        self._openers_lock = threading.Lock()
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._heart_lock = threading.Lock()
        self._heart: sqlite3.Connection | None = None

    @property
    def url(self) -> str:
        return f"sqlite:///{self._file.path}"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        with self._openers_lock:
            opener, count = self._openers
            if count and opener is not loop and opener is not None and not opener.is_closed():
                raise UserError(f"the store {self.url} is being opened in another event loop: make one for each")
            if opener is not loop:
                self._opening = asyncio.Lock()  # one belongs to the loop that has waited for it
                count = 0
            self._openers = loop, count + 1
        try:
            await self._open(loop)
        finally:
            with self._openers_lock:
                self._openers = loop, self._openers[1] - 1

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        async with self._opening:
            if self._writer is not None and self._reader is not None and self._loop is not None:
                if not self._loop.is_closed():
                    self._check()
                    if not (self._writer.ended or self._reader.ended):
                        return
                    await self._close()
                # Else its threads are gone, or about to go, with their loop.
                self._writer = self._reader = self._heart = None
            self._loop, self._process = loop, os.getpid()
            reader = Reader(self._file, loop, url=self.url, times=self._times)
            writer = Writer(
                self._file,
                loop,
                # Not the process id: ids come again, and a process may open the file twice.
                name=uuid.uuid4().hex,
                url=self.url,
                times=self._times,
                committed=reader.committed,
            )
            try:
                await writer.start()  # creates the file
                await reader.start()
            except BaseException:
                await reader.aclose()
                await writer.aclose()
                raise
            self._writer, self._reader = writer, reader

    async def aclose(self) -> None:
        async with self._opening:
            if self._process == os.getpid():
                await self._close()

    async def _close(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        with self._heart_lock:
            heart, self._heart = self._heart, None
            if heart is not None:
                self._file.close(heart)
        if reader is not None:
            await reader.aclose()
        if writer is not None:
            await writer.aclose()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"the store {self.url} was opened before this process was forked, which SQLite does not allow: "
                "open it after the fork, or start processes by spawn"
            )

    def _check(self) -> None:
        self._check_process()
        if asyncio.get_running_loop() is not self._loop:
            raise UserError(f"the store {self.url} is used in another event loop than the one that opened it")

    def _reading(self) -> Reader:
        if self._reader is None:
            raise StoreError(f"the store {self.url} is not open")
        self._check()
        return self._reader

    def _writing(self) -> Writer:
        if self._writer is None:
            raise StoreError(f"the store {self.url} is not open")
        self._check()
        return self._writer

    def _write(self, step: Callable[[Ledger], T]) -> asyncio.Future[T]:
        return self._writing().call(step)

    # Runs and who works on them.

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        def step(ledger: Ledger) -> int:
            return ledger.create(run, worker, lease_s)

        done = self._writing().do_now(step)
        return done.value if done is not None else await self._write(step)

    async def find(self, run_id: str) -> RunRecord:
        return await self._reading().call(lambda reading: reading.record(run_id))

    async def claim(self, run_id: str, worker: str, lease_s: float) -> Claim | None:
        return await self._claim(lambda ledger: ledger.claim(run_id, worker, lease_s))

    async def claim_next(
        self,
        agents: Collection[str],
        worker: str,
        lease_s: float,
        *,
        queues: Collection[str] | None = None,
        wait_s: float = 0.0,
    ) -> Claim | None:
        def step(ledger: Ledger) -> Claim | None:
            return ledger.claim_next(agents, worker, lease_s, queues)

        claim = await self._claim(step)
        if claim is not None or wait_s <= 0:
            return claim
        try:
            async with self._clock.timeout(wait_s):
                while claim is None:
                    await self._reading().wait_job(agents, queues)
                    claim = await self._claim(step)
        except TimeoutError:
            pass
        return claim

    async def _claim(self, step: Callable[[Ledger], Claim | None]) -> Claim | None:
        claiming = self._write(step)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # Nobody would work on it until its lease has run out.
            claiming.add_done_callback(self._give_back)
            raise

    def _give_back(self, claiming: asyncio.Future[Claim | None]) -> None:
        if claiming.cancelled() or claiming.exception() is not None:
            return
        claim = claiming.result()
        if claim is not None and self._writer is not None and not self._writer.ended:
            releasing = self._writer.call(lambda ledger: ledger.release(claim.run.run_id, claim.epoch))
            releasing.add_done_callback(lambda call: call.cancelled() or call.exception())

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        import sqlite3

        with self._heart_lock:
            if self._writer is None:
                raise StoreError(f"the store {self.url} is not open")
            self._check_process()
            if self._heart is None:
                self._heart = self._file.connect()
                self._heart.execute("PRAGMA wal_autocheckpoint = 0")  # the upkeep's business
            heart = self._heart
            try:
                heart.execute("BEGIN IMMEDIATE")
                until = self._times.monotonic() + lease_s
                renewals = [_renew(heart, run_id, epoch, until, lease_s) for run_id, epoch in leases]
                heart.execute("COMMIT")
            except sqlite3.Error as error:
                if heart.in_transaction:
                    heart.execute("ROLLBACK")
                raise self._file.explain(error) from error
            return renewals

    async def release(self, run_id: str, epoch: int) -> bool:
        return await self._write(lambda ledger: ledger.release(run_id, epoch))

    # Its log.

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        return await self._write(Flush(appends))

    def append_now(self, appends: Sequence[Append]) -> Sequence[Refusal | None] | None:
        """Implements `AppendsNow`."""
        if self._writer is None or self._writer.ended or self._process != os.getpid():
            return None
        return self._writer.append_now(appends)

    async def read(self, run_id: str, after: int, *, max_bytes: int = 1_000_000) -> Page:
        return await self._reading().call(lambda reading: reading.page(reading.find(run_id), after, max_bytes))

    def tail(self, run_id: str, after: int) -> SQLiteTail:
        return SQLiteTail(self._reading, run_id, after)

    # What people ask of it.

    async def send(self, run_id: str, command: Command) -> int:
        return await self._write(lambda ledger: ledger.send(run_id, command))

    async def commands(self, run_id: str, after: int) -> Sequence[Command]:
        return await self._reading().call(lambda reading: reading.commands(run_id, after))

    async def wait_commands(self, known: Mapping[str, int]) -> Collection[str]:
        return await self._reading().wait_commands(dict(known))

    # Keeping.

    async def list_runs(
        self,
        *,
        status: Collection[StoredStatus] | None = None,
        agent: str | None = None,
        owner: str | None = None,
        limit: int = 100,
        before: tuple[float, str] | None = None,
    ) -> Sequence[RunRecord]:
        return await self._reading().call(lambda reading: reading.runs(status, agent, owner, limit, before))

    async def trim(self, run_id: str, before_seq: int) -> int:
        return await self._write(lambda ledger: ledger.trim(run_id, before_seq))

    async def delete(self, run_id: str) -> bool:
        return await self._write(lambda ledger: ledger.delete(run_id))

    async def delete_owner(self, owner: str) -> int:
        return await self._in_parts(lambda ledger: ledger.delete_owner(owner))

    async def sweep(self, retention: Retention) -> int:
        return await self._in_parts(lambda ledger: ledger.sweep(retention))

    async def _in_parts(self, part: Callable[[Ledger], int]) -> int:
        """In transactions between which flushes find their place."""
        total = 0
        while removed := await self._write(part):
            total += removed
        return total


def _renew(heart: sqlite3.Connection, run_id: str, epoch: int, until: float, lease_s: float) -> Renewal:
    held = heart.execute(
        "UPDATE runs SET lease_until = ?, lease_s = ? WHERE run_id = ? AND epoch = ? AND lease_until IS NOT NULL",
        (until, lease_s, run_id, epoch),
    ).rowcount
    if not held:
        return Renewal(False)
    return Renewal(True, heart.execute("SELECT last_command FROM runs WHERE run_id = ?", (run_id,)).fetchone()[0])


def _parse(location: str) -> tuple[str, dict[str, str]]:
    """The absolute path and the options that a path or a URL names."""
    options: dict[str, str] = {}
    path = location
    if location.startswith("sqlite:"):
        path, _, query = location.partition("?")
        if not path.startswith("sqlite:///"):
            raise UserError(f"the URL of a SQLite store is {_FORM}, not {location!r}")
        path = unquote(path.removeprefix("sqlite:///"))
        options = dict(parse_qsl(query, keep_blank_values=True))
        unknown = sorted(options.keys() - {"synchronous", "busy_timeout_s"})
        if unknown:
            raise UserError(f"a SQLite store has the options synchronous and busy_timeout_s, not {', '.join(unknown)}")
    if not path or path == ":memory:":
        raise UserError(f"a SQLite store needs a file: {_FORM}; the store in memory is memory://")
    return os.path.abspath(os.path.expanduser(path)), options


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"busy_timeout_s of a SQLite store is a number of seconds, not {text!r}") from None
