"""The SQLite store's reading side: one thread and connection for pages, and for whoever waits for something to come.

While somebody follows a run or waits for a command or a job, the thread looks every few milliseconds whether the
journal has grown: one small query for all of them. Every read is one transaction over `segments` and the journal, so
that no compaction can show a reader anything twice or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from runstream.errors import AgentsException, CursorExpired, RunNotFound, StoreError
from runstream.log.base import Command, Page, RunRecord, Segment, StoredStatus
from runstream.log.sqlite_file import StoreFile
from runstream.log.sqlite_index import JournalIndex
from runstream.log.sqlite_journal import decode_stretch, row_key
from runstream.log.sqlite_lane import Call, Lane, Outcome
from runstream.log.sqlite_runs import RunRow, Times, candidate, record_of, select_runs

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Feed", "Reader", "Reading"]

# Runs entered before one, by its id, or where it is gone by its time, which is looked for from the newest on.
_BEFORE = (
    "number < coalesce((SELECT number FROM runs WHERE run_id = ? AND (? IS NULL OR owner = ?)), "
    "(SELECT number + 1 FROM runs WHERE created_at < ? ORDER BY number DESC LIMIT 1), 0)"
)
# How often to look: while a followed run is lively, while none has moved for a while, and where nobody follows but
# somebody waits for jobs, or for commands alone: every run does, and a person who cancels does not see 0.1 s.
_LIVELY_S = 0.004
_QUIET_S = 0.008
_JOBS_S = 0.02
_COMMANDS_S = 0.1
# So many looks without a change, and a run counts as quiet.
_QUIET_AFTER = 500
# Waiting for a job also means waiting for leases to run out, which nobody announces; and a file that was deleted is
# never changed again. Looks between two such checks: about a quarter of a second, since a search for jobs may be long.
_CHECK_EVERY = 60
_CHECK_EVERY_WAITING = 12
_TAIL_BYTES = 250_000


class Feed(NamedTuple):
    """What came for a follower."""

    segments: list[Segment]
    last_seq: int
    ended: bool
    live: bool
    """Whether more will be fed; else the follower has to fetch a page."""
    run: int | None = None
    error: AgentsException | None = None


class Follower(NamedTuple):
    """Somebody who is fed: `receive` is called in the loop."""

    key: object
    run_id: str
    run: int | None
    """The number of the run that was followed so far, if any: there may be another one of the same id."""
    receive: Callable[[Feed], None]


class _Waiter(NamedTuple):
    known: Mapping[str, int]
    future: asyncio.Future[Collection[str]]


class _JobWaiter(NamedTuple):
    agents: Collection[str]
    queues: Collection[str] | None
    future: asyncio.Future[None]


class Reading:
    """What a call to the reader's thread may do, each inside one read transaction."""

    def __init__(self, connection: sqlite3.Connection, url: str, times: Times) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._url = url
        self.times = times
        self.index = JournalIndex()
        self.floor = 0

    def find(self, run_id: str) -> RunRow:
        rows = select_runs(self._connection, "run_id = ?", (run_id,))
        if not rows:
            raise RunNotFound(run_id, self._url)
        return rows[0]

    def record(self, run_id: str) -> RunRecord:
        row = self.find(run_id)
        job = self._execute("SELECT body FROM jobs WHERE run = ?", (row.number,)).fetchone()
        return record_of(row, *self.index.known(row.number), job[0] if job else None)

    def page(self, row: RunRow, after: int, max_bytes: int) -> Page:
        if after + 1 < row.first_seq:
            raise CursorExpired(after, row.first_seq)
        last_seq = max(row.last_seq, self.index.known(row.number)[0])
        segments: list[Segment] = []
        size = 0
        if after < row.last_seq or after < last_seq:
            for first_seq, epoch, body in self._execute(
                "SELECT first_seq, epoch, body FROM segments WHERE key > ? AND key < ? ORDER BY key",
                (row_key(row.number, after), row_key(row.number + 1, 0)),
            ):
                for segment in decode_stretch(first_seq, epoch, body):
                    if segment.last_seq <= after:
                        continue
                    if segments and size >= max_bytes:
                        return Page(segments, last_seq, row.ended_at is not None)
                    segments.append(segment)
                    size += len(segment.body)
            for segment in self.index.segments(row.number):
                if segment.last_seq <= after:
                    continue
                if segments and size >= max_bytes:
                    break
                segments.append(segment)
                size += len(segment.body)
        return Page(segments, last_seq, row.ended_at is not None)

    def commands(self, run_id: str, after: int) -> list[Command]:
        row = self.find(run_id)
        if row.last_command <= after:
            return []
        return [
            Command(kind, msgspec.json.decode(data), number)
            for number, kind, data in self._execute(
                "SELECT number, kind, data FROM commands WHERE run = ? AND number > ? ORDER BY number",
                (row.number, after),
            )
        ]

    def commanded(self, known: Mapping[str, int]) -> list[str]:
        """The runs that are open and have a command with a higher number."""
        found: list[str] = []
        for run_id, number in known.items():
            row = self._execute("SELECT last_command, ended_at FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if row is not None and row[1] is None and row[0] > number:
                found.append(run_id)
        return found

    def has_job(self, agents: Collection[str], queues: Collection[str] | None) -> bool:
        return candidate(self._connection, self.times, agents, queues) is not None

    def runs(
        self,
        status: Collection[StoredStatus] | None,
        agent: str | None,
        owner: str | None,
        limit: int,
        before: tuple[float, str] | None = None,
    ) -> list[RunRecord]:
        where = ["true"]
        parameters: list[object] = []
        if status is not None:
            where.append(f"status IN ({', '.join('?' * len(status))})")
            parameters += status
            if all(name in ("queued", "running", "waiting") for name in status):
                where.append("ended_at IS NULL")
        if agent is not None:
            where.append("agent = ?")
            parameters.append(agent)
        if owner is not None:
            where.append("owner = ?")
            parameters.append(owner)
        if before is not None:
            created_at, run_id = before
            where.append(_BEFORE)
            parameters += (run_id, owner, owner, created_at)
        rows = select_runs(
            self._connection, " AND ".join(where) + " ORDER BY number DESC LIMIT ?", (*parameters, max(limit, 0))
        )
        return [record_of(row, *self.index.known(row.number)) for row in rows]


class Reader(Lane[Reading]):
    """Calls are methods of `Reading`; `follow`, `wait_commands` and `wait_job` stay until they are answered."""

    def __init__(self, file: StoreFile, loop: asyncio.AbstractEventLoop, *, url: str, times: Times) -> None:
        super().__init__("runstream-sqlite-reader", loop)
        self._file = file
        self._url = url
        self._times = times
        self._followers: dict[int, list[Follower]] = {}
        self._waiters: list[_Waiter] = []
        self._job_waiters: list[_JobWaiter] = []
        self._unchanged = 0
        self._looks = 0
        self._seen: tuple[int, ...] = ()
        self._check_jobs = False

    # From the loop.

    def committed(self, changed: Collection[str]) -> None:
        """This process has committed something; called in whatever thread did."""
        if (
            self._followers
            or (self._waiters and "commands" in changed)
            or (self._job_waiters and ("queued" in changed))
        ):
            self.wake()

    def follow(self, follower: Follower, after: int) -> None:
        """Feed it the page after that cursor, and, if that is the end of what there is, what comes."""

        def tell_of_failure(call: asyncio.Future[None]) -> None:
            error = call.exception()
            if error is not None:
                follower.receive(Feed([], 0, False, False, None, _ours(error)))

        self.call(lambda reading: self._follow(reading, follower, after)).add_done_callback(tell_of_failure)

    def unfollow(self, key: object) -> None:
        """Nothing is fed to it any more. Where that fails, so does the feeding."""
        if not self.ended:
            self.call(lambda _: self._drop(key)).add_done_callback(lambda call: call.exception())

    async def wait_commands(self, known: Mapping[str, int]) -> Collection[str]:
        future: asyncio.Future[Collection[str]] = self._loop.create_future()
        try:
            await self.call(lambda reading: self._wait_commands(reading, _Waiter(known, future)))
            return await future
        finally:
            future.cancel()  # whoever gave up before it was asked for need not hear of it

    async def wait_job(self, agents: Collection[str], queues: Collection[str] | None) -> None:
        """Returns when there may be a run to claim."""
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            await self.call(lambda reading: self._wait_job(reading, _JobWaiter(agents, queues, future)))
            await future
        finally:
            future.cancel()

    # In the thread.

    def _open(self) -> None:
        self._connection = self._file.connect()
        self._connection.execute("PRAGMA query_only = ON")
        self._identity = self._file.identity()
        self._reading = Reading(self._connection, self._url, self._times)

    def _close(self) -> None:
        self._fail(StoreError(f"the store {self._url} was closed"))
        self._file.close(self._connection)

    def _patience_s(self) -> float:
        if self._followers:
            return _LIVELY_S if self._unchanged < _QUIET_AFTER else _QUIET_S
        if self._job_waiters:
            return _JOBS_S
        return _COMMANDS_S if self._waiters else super()._patience_s()

    def _carry_out(self, calls: Any) -> None:
        outcomes: list[Outcome] = []
        for call in calls:
            try:
                outcomes.append(Outcome(call.future, self._transaction(call), None))
            except Exception as error:
                outcomes.append(Outcome(call.future, None, self._explain(error)))
        self._settle(outcomes)

    def _transaction(self, call: Call) -> Any:
        self._begin()
        try:
            return call.work(self._reading)
        finally:
            if self._connection.in_transaction:  # some errors end it
                self._connection.execute("COMMIT")

    def _begin(self) -> None:
        """A read transaction, with the journal as it is in it; what is new goes to the followers."""
        if self._file.identity() != self._identity:
            raise StoreError(
                f"the file of the store {self._file.path} was deleted or replaced while it was open: "
                "open the store again"
            )
        self._connection.execute("BEGIN")
        try:
            self._seen, changed = self._look(), self._seen
            if self._seen != changed:
                self._take_in(changed)
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _look(self) -> tuple[int, ...]:
        return self._connection.execute(
            "SELECT floor, removals, commands, queued, (SELECT max(id) FROM journal) FROM state"
        ).fetchone()

    def _take_in(self, before: tuple[int, ...]) -> None:
        floor, removals, commands, queued, _ = self._seen
        fresh, missed = self._reading.index.refresh(self._connection, floor)
        if self._followers:
            if missed:
                self._send_back()
            elif fresh:
                self._feed(fresh)
            if not before or removals != before[1]:
                self._tell_of_removals()
        if self._waiters and (not before or commands != before[2]):
            self._tell_of_commands()
        if not before or queued != before[3]:
            self._check_jobs = True

    def _look_around(self, idle: bool) -> None:
        if not (self._followers or self._waiters or self._job_waiters):
            return
        try:
            self._unchanged += 1
            seen = self._look()
            # Where nobody follows, what the journal holds is read when it is asked for.
            counters = slice(0, 5) if self._followers else slice(1, 4)
            if seen[counters] != self._seen[counters]:
                self._unchanged = 0
                self._begin()
                self._connection.execute("COMMIT")
            self._looks += 1
            if self._looks >= (_CHECK_EVERY if self._followers else _CHECK_EVERY_WAITING):
                self._looks = 0
                self._check_jobs = True
                self._forget_waiters()
                if self._file.identity() != self._identity:
                    self._begin()  # raises
            if self._check_jobs:
                self._tell_of_jobs()
        except Exception as error:
            self._fail(self._explain(error))

    def _explain(self, error: Exception) -> Exception:
        import sqlite3

        return self._file.explain(error) if isinstance(error, sqlite3.Error) else error

    # Followers.

    def _follow(self, reading: Reading, follower: Follower, after: int) -> None:
        row = reading.find(follower.run_id)
        if follower.run is not None and follower.run != row.number:
            raise RunNotFound(follower.run_id, self._url)
        page = reading.page(row, after, _TAIL_BYTES)
        reached = page.segments[-1].last_seq if page.segments else after
        live = not page.ended and reached >= page.last_seq
        if live:
            self._unchanged = 0
            self._followers.setdefault(row.number, []).append(follower)
        self._tell(follower.receive, Feed(list(page.segments), page.last_seq, page.ended, live, row.number))

    def _drop(self, key: object) -> None:
        for run, followers in list(self._followers.items()):
            left = [follower for follower in followers if follower.key is not key]
            if left:
                self._followers[run] = left
            else:
                del self._followers[run]

    def _feed(self, fresh: Any) -> None:
        feeds: dict[int, list[Segment]] = {}
        ended: set[int] = set()
        for run, segment, ends in fresh:
            if run in self._followers:
                feeds.setdefault(run, []).append(segment)
                if ends:
                    ended.add(run)
        deliveries: list[tuple[Follower, Feed]] = []
        for run, segments in feeds.items():
            feed = Feed(segments, segments[-1].last_seq, run in ended, run not in ended)
            deliveries += [(follower, feed) for follower in self._followers[run]]
            if run in ended:
                del self._followers[run]
        if deliveries:
            self._tell(_deliver, deliveries)

    def _send_back(self) -> None:
        """Rows were compacted before they were seen here: followers have to read pages again."""
        followers = [follower for group in self._followers.values() for follower in group]
        self._followers.clear()
        feed = Feed([], 0, False, False)
        self._tell(_deliver, [(follower, feed) for follower in followers])

    def _tell_of_removals(self) -> None:
        for run in list(self._followers):
            if self._connection.execute("SELECT 1 FROM runs WHERE number = ?", (run,)).fetchone() is None:
                for follower in self._followers.pop(run):
                    error = RunNotFound(follower.run_id, self._url)
                    self._tell(follower.receive, Feed([], 0, False, False, None, error))

    def _fail(self, error: Exception) -> None:
        """Whoever waits for something to come learns that nothing can."""
        followers = [follower for group in self._followers.values() for follower in group]
        self._followers.clear()
        self._tell(_deliver, [(follower, Feed([], 0, False, False, None, _ours(error))) for follower in followers])
        waiters = [waiter.future for waiter in [*self._waiters, *self._job_waiters]]
        self._waiters, self._job_waiters = [], []
        self._settle([Outcome(future, None, _ours(error)) for future in waiters])

    # Those who wait for commands and jobs.

    def _wait_commands(self, reading: Reading, waiter: _Waiter) -> None:
        found = reading.commanded(waiter.known)
        if found:
            self._settle([Outcome(waiter.future, found, None)])
        else:
            self._waiters.append(waiter)

    def _tell_of_commands(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            self._wait_commands(self._reading, waiter)

    def _wait_job(self, reading: Reading, waiter: _JobWaiter) -> None:
        if reading.has_job(waiter.agents, waiter.queues):
            self._settle([Outcome(waiter.future, None, None)])
        else:
            self._job_waiters.append(waiter)

    def _tell_of_jobs(self) -> None:
        self._check_jobs = False
        waiters, self._job_waiters = self._job_waiters, []
        for waiter in waiters:
            self._wait_job(self._reading, waiter)

    def _forget_waiters(self) -> None:
        """Those who have given up."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.future.done()]
        self._job_waiters = [waiter for waiter in self._job_waiters if not waiter.future.done()]


def _deliver(deliveries: list[tuple[Follower, Feed]]) -> None:
    for follower, feed in deliveries:
        follower.receive(feed)


def _ours(error: BaseException) -> AgentsException:
    """One error for each who waits: to raise the same one in several places would mix their tracebacks."""
    if isinstance(error, StoreError):
        return type(error)(*error.args)
    return error if isinstance(error, AgentsException) else StoreError(f"the store's reader failed: {error!r}")
