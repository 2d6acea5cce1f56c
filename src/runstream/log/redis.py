"""The store on Redis or Valkey, for fleets: `RedisStore("redis://host")`.

A run is a hash (its meta), a stream of segments whose entry ids are `<epoch>-<last seq>`, and a stream of commands, all
in one slot; every change of a run is one script that checks meta first (`redis_scripts`). Where runs are found (the
lists of all runs, of a person's, of jobs) lies in other slots: it may be behind, and says only where to look.

Invariants: where a run is found is entered before the run itself, and taken away after it, so that a run which exists
can be found; what a method did without its reply being heard does no harm when it is repeated.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, get_args

from runstream.clock import Clock, system_clock
from runstream.errors import RunExists, RunNotFound, RunSealed, StoreError, StoreUnavailable, UserError
from runstream.events.event import RunStatus
from runstream.log import redis_scripts as scripts
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
    Tail,
)
from runstream.log.redis_beat import RedisBeat
from runstream.log.redis_commands import CommandWait, decode_command
from runstream.log.redis_hub import Hub
from runstream.log.redis_inspect import inspect_server
from runstream.log.redis_jobs import Job, Jobs
from runstream.log.redis_link import script_command
from runstream.log.redis_lists import Lists, micros, optional, record_of
from runstream.log.redis_options import RedisOptions
from runstream.log.redis_pages import Pages
from runstream.log.redis_server import Server
from runstream.log.redis_tail import Patience, RedisTail

__all__ = ["RedisStore"]

_logger = logging.getLogger("runstream")

_ENDS: Final = get_args(RunStatus)
_STATUS: Final[dict[StoredStatus | None, str]] = {
    None: "",
    "queued": "queued",
    "running": "running",
    "waiting": "waiting",
    **{status: f"!{status}" for status in _ENDS},
}
"""A status in the words of the append script."""
_REFUSALS: Final[tuple[Refusal, ...]] = ("fenced", "sealed", "gone", "gap")
_FLUSH = 1_000
"""Segments of one script: more would hold up the server for too long."""
_ENTERING_S = 5.0
"""A run that is being entered is looked at after so long, should whoever enters it die half way."""
_CACHED = 10_000
"""Runs whose keys are kept at hand."""


class RedisStore:
    """Implements `Store`. The URL's options are the fields of `RedisOptions`: `redis://host/0?prefix=app&ttl_s=600`.

    Needs the extra `redis`. Raises UserError (MissingExtra) where the URL is malformed or the extra is not installed.
    """

    def __init__(self, url: str, *, clock: Clock = system_clock) -> None:
        self._options = RedisOptions.parse(url)
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beat = RedisBeat(self._options)
        self._key_cache: dict[str, tuple[str, str, str]] = {}
        self._begin()

    def _begin(self) -> None:
        """With nothing that belongs to an event loop."""
        self._server = Server(self._options, self._clock)
        self._hub = Hub(self._server, self._clock)
        self._jobs = Jobs(self._server)
        self._pages = Pages(self._server)
        self._lists = Lists(self._server, self._hub, self._jobs)
        # Of runs that this process works on: the queue and the agent.
        self._held: dict[str, tuple[str, str]] = {}

    @property
    def url(self) -> str:
        return self._options.shown

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._server.is_open and self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise UserError(f"the store {self.url} is used in another event loop than the one that opened it")
            self._begin()  # its connections are gone with their loop
        self._loop = loop
        if not self._server.is_open:
            self._server.is_open = True
            try:
                await inspect_server(self._server)
            except BaseException:
                await self.aclose()
                raise

    async def aclose(self) -> None:
        self._server.is_open = False
        await self._hub.aclose()
        await self._jobs.aclose()
        await self._server.aclose()
        self._beat.close()

    # Runs and who works on them.

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        meta, _, _ = self._keys(run.run_id)
        options, jobs = self._options, self._jobs
        place = (run.queue, run.agent, run.run_id)
        claimable = worker is not None or run.job is not None
        lists = self._lists.keys(run.owner)
        commands: list[tuple[str, tuple[Any, ...]]] = [
            (key, script_command(scripts.ENTER, [key], [run.run_id])) for key in lists
        ]
        if claimable:
            commands.append(jobs.register(run.queue))
            commands.append(jobs.command("held", *place, lease_s if worker is not None else _ENTERING_S))
        arguments: list[Any] = [run.agent, optional(run.owner), run.queue, optional(worker), int(lease_s * 1000)]
        arguments += [options.millis("live_ttl_s"), run.job or b"", int(run.job is not None)]
        position = len(commands)
        commands.append((meta, script_command(scripts.CREATE, [meta], arguments)))
        if worker is None and claimable:
            commands.append(jobs.command("ready", *place))
        epoch = (await self._server.sequence(commands))[position]
        if epoch is None:
            raise RunExists(run.run_id, self.url)
        if worker is not None:
            self._held[run.run_id] = place[:2]
        return int(epoch)

    async def find(self, run_id: str) -> RunRecord:
        meta, _, _ = self._keys(run_id)
        record = record_of(run_id, await self._server.ask(meta, "HMGET", meta, *scripts.RECORD, "job"))
        if record is None:
            raise RunNotFound(run_id, self.url)
        return record

    async def claim(self, run_id: str, worker: str, lease_s: float) -> Claim | None:
        what, claim = await self._claim(run_id, worker, lease_s)
        if what == b"gone":
            raise RunNotFound(run_id, self.url)
        if claim is not None:
            run = claim.run
            await self._server.together(
                [self._jobs.register(run.queue), self._jobs.command("held", run.queue, run.agent, run_id, lease_s)]
            )
        return claim

    async def _claim(self, run_id: str, worker: str, lease_s: float, *expected: str) -> tuple[bytes, Claim | None]:
        arguments = [optional(worker), int(lease_s * 1000), self._options.millis("live_ttl_s"), *expected]
        what, *fields = await self._server.script(scripts.CLAIM, self._keys(run_id), arguments)
        record = record_of(run_id, fields) if what == b"claimed" else None
        if record is None:
            return (b"held:" + fields[0] if what == b"held" else what), None
        self._held[run_id] = (record.queue, record.agent)
        return what, Claim(record, record.epoch)

    async def claim_next(
        self,
        agents: Collection[str],
        worker: str,
        lease_s: float,
        *,
        queues: Collection[str] | None = None,
        wait_s: float = 0.0,
    ) -> Claim | None:
        names = sorted(set(agents))
        until = self._clock.now() + wait_s
        patience = Patience(self._hub)
        while True:
            try:
                line = await self._jobs.in_turn(queues)
                claim, pause_s = await self._claim_taken(line, names, worker, lease_s)
                left_s = until - self._clock.now()
                if claim is not None or left_s <= 0:
                    return claim
                await self._jobs.wait(line, names, min(left_s, pause_s))
                patience.success()
            except StoreUnavailable as error:
                if self._clock.now() >= until:
                    raise
                await patience.failure(error)

    async def _claim_taken(
        self, line: list[str], agents: list[str], worker: str, lease_s: float
    ) -> tuple[Claim | None, float]:
        """A claim, or in how many seconds there may be one."""
        if not agents:
            return None, 1.0
        await self._lists.tend()
        while True:
            job, pause_s = await self._jobs.take(line, agents, lease_s)
            if job is None:
                return None, pause_s
            queue, agent, run_id = job
            what, claim = await self._claim(run_id, worker, lease_s, queue, agent)
            if claim is not None:
                await self._jobs.served(queue)
                return claim, 0.0
            await self._put_back(what, job)

    async def _put_back(self, what: bytes, job: Job) -> None:
        """The list of jobs was behind: what it named is held, has ended or is gone."""
        state, _, left_ms = what.partition(b":")
        command = self._jobs.command("held", *job, int(left_ms) / 1000) if state == b"held" else None
        if state == b"gone":
            # It may be being entered at this moment.
            age = await self._server.ask(key := self._options.job_keys(*job[:2])[2], "HGET", key, job[2])
            entered_at = int(age or 0) / 1_000_000
            if await self._lists.now() - entered_at < _ENTERING_S:
                command = self._jobs.command("held", *job, 0.5)
        await self._server.together([command or self._jobs.command("done", *job)])

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        if not self._server.is_open:
            raise StoreError(f"the store {self.url} is not open")
        renewals = self._beat.renew(leases, lease_s, self._held, clustered=self._server.clustered)
        for (run_id, _), renewal in zip(leases, renewals, strict=True):
            if not renewal.held:
                self._held.pop(run_id, None)
        return renewals

    async def release(self, run_id: str, epoch: int) -> bool:
        meta, _, _ = self._keys(run_id)
        place = await self._server.script(scripts.RELEASE, [meta], [epoch])
        if place is None:
            return False
        self._held.pop(run_id, None)
        queue, agent, has_job = place[0].decode(), place[1].decode(), place[2]
        what = "ready" if has_job else "done"
        await self._server.together([self._jobs.command(what, queue, agent, run_id)])
        return True

    # Its log.

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        if len(appends) > _FLUSH:
            answers: list[Refusal | None] = []
            for start in range(0, len(appends), _FLUSH):
                answers += await self.append(appends[start : start + _FLUSH])
            return answers
        # One script for all on a single server, one for each slot on a cluster.
        if not self._server.clustered:
            groups: list[Sequence[int]] = [range(len(appends))] if appends else []
        else:
            slots: dict[int, list[int]] = {}
            for position, append in enumerate(appends):
                slots.setdefault(self._server.slot(self._keys(append.run_id)[0]), []).append(position)
            groups = [*slots.values()]
        batches = [self._flush([appends[position] for position in positions]) for positions in groups]
        replies = await self._server.gather(batches, "write")
        refusals: list[Refusal | None] = [None] * len(appends)
        ends: list[tuple[str, list[bytes]]] = []
        for positions, (codes, *replicas) in zip(groups, replies, strict=True):
            if replicas and replicas[0] < self._options.wait_replicas:
                raise StoreUnavailable(
                    f"{self.url}: {replicas[0]} of {self._options.wait_replicas} replicas have the flush after "
                    f"{self._options.wait_timeout_ms} ms: check the replicas, or lower ?wait_replicas="
                )
            for position, code in zip(positions, codes, strict=True):
                if code.__class__ is list:
                    ends.append((appends[position].run_id, code[1:]))
                elif code:
                    refusals[position] = _REFUSALS[code - 1]
                    self._forget(appends[position].run_id)
        if ends:
            await self._put_away(ends)
        return refusals

    def _flush(self, appends: Sequence[Append]) -> tuple[str, list[tuple[Any, ...]]]:
        """The commands that write segments of one slot, and a key of it."""
        options = self._options
        keys: list[str] = []
        arguments: list[Any] = [options.millis("live_ttl_s"), options.millis("ttl_s"), options.max_segments]
        for append in appends:
            keys += self._keys(append.run_id)[:2]
            segment = append.segment
            arguments += (append.epoch, segment.first_seq, segment.last_seq, _STATUS[append.status], segment.body)
        commands: list[tuple[Any, ...]] = [script_command(scripts.APPEND, keys, arguments)]
        if options.wait_replicas:
            commands.append(("WAIT", options.wait_replicas, options.wait_timeout_ms))
        return keys[0], commands

    async def _put_away(self, ends: Sequence[tuple[str, list[bytes]]]) -> None:
        """Nobody has to look after these runs any more."""
        commands: list[tuple[str, tuple[Any, ...]]] = []
        for run_id, (queue, agent) in ends:
            commands.append(self._jobs.command("done", queue.decode(), agent.decode(), run_id))
            command_key = self._keys(run_id)[2]
            if self._options.ttl_s:
                commands.append((command_key, ("PEXPIRE", command_key, self._options.millis("ttl_s"))))
            else:
                commands.append((command_key, ("PERSIST", command_key)))
            self._forget(run_id)
        try:
            await self._server.together(commands)
        except StoreError as error:
            # The ends are written. Whoever looks for these runs next takes them off the list.
            _logger.debug("ended runs are still listed as jobs: %s", error)

    async def read(self, run_id: str, after: int, *, max_bytes: int = 1_000_000) -> Page:
        return (await self._pages.read(run_id, after, max_bytes)).page

    def tail(self, run_id: str, after: int) -> Tail:
        return RedisTail(self._hub, run_id, after, self._pages.read)

    # What people ask of it.

    async def send(self, run_id: str, command: Command) -> int:
        meta, _, commands = self._keys(run_id)
        data = json.dumps(command.data, separators=(",", ":"))
        number = await self._server.script(scripts.SEND, [meta, commands], [command.kind, data])
        if number is None:
            raise RunNotFound(run_id, self.url)
        if not number:
            raise RunSealed(run_id)
        return number

    async def commands(self, run_id: str, after: int) -> Sequence[Command]:
        meta, _, commands = self._keys(run_id)
        there, entries = await self._server.sequence(
            [(meta, ("EXISTS", meta)), (commands, ("XRANGE", commands, f"{after + 1}-0", "+"))]
        )
        if not there:
            raise RunNotFound(run_id, self.url)
        return [decode_command(entry) for entry in entries]

    async def wait_commands(self, known: Mapping[str, int]) -> Collection[str]:
        wait = CommandWait(self._hub, known)
        try:
            return await wait.wait()
        finally:
            wait.close()

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
        found: list[RunRecord] = []
        if limit < 1:
            return found
        async for run in self._lists.newest(owner=owner, before=before):
            if (status is None or run.status in status) and (agent is None or run.agent == agent):
                found.append(run)
                if len(found) >= limit:
                    break
        return found

    async def trim(self, run_id: str, before_seq: int) -> int:
        first_seq = await self._server.script(scripts.TRIM, self._keys(run_id)[:2], [before_seq])
        if first_seq is None:
            raise RunNotFound(run_id, self.url)
        return first_seq

    async def delete(self, run_id: str) -> bool:
        return await self._lists.delete(run_id)

    async def delete_owner(self, owner: str) -> int:
        runs = [run async for run in self._lists.newest(owner=owner)]
        return sum([await self._lists.delete(run.run_id, "owner", optional(owner)) for run in runs])

    async def sweep(self, retention: Retention) -> int:
        ended = [(run.ended_at, run.run_id) async for run in self._lists.newest() if run.ended_at is not None]
        ended.sort()
        oldest = float("-inf") if retention.max_age_s is None else await self._lists.now() - retention.max_age_s
        surplus = 0 if retention.max_count is None else len(ended) - retention.max_count
        chosen = [entry for position, entry in enumerate(ended) if position < surplus or entry[0] < oldest]
        return sum([await self._lists.delete(run_id, "ended", micros(ended_at)) for ended_at, run_id in chosen])

    def _keys(self, run_id: str) -> tuple[str, str, str]:
        """meta, log, commands."""
        keys = self._key_cache.get(run_id)
        if keys is None:
            if len(self._key_cache) >= _CACHED:
                self._key_cache.clear()
            key = self._options.run_key
            keys = self._key_cache[run_id] = (key(run_id, "meta"), key(run_id, "log"), key(run_id, "cmd"))
        return keys

    def _forget(self, run_id: str) -> None:
        self._held.pop(run_id, None)
        self._key_cache.pop(run_id, None)
