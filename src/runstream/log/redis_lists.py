"""Where a Redis store's runs are listed: all of them, those of each person. The lists may be behind; meta decides.

Invariant: what a list names and meta does not know is passed over, and taken off the list once it is old enough to be
no run that is just being entered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from runstream.log.base import RunRecord, StoredStatus
from runstream.log.redis_hub import Hub
from runstream.log.redis_jobs import Jobs
from runstream.log.redis_scripts import DELETE, RECORD
from runstream.log.redis_server import Server

__all__ = ["Lists", "micros", "optional", "parse_epochs", "record_of"]

_VANISHED_S = 60.0
"""A listed run without meta is taken off its list after so long: before, it may be being entered."""
_TENDED_S = 60.0
"""So often one of the fleet looks for runs that have been lost from the queues."""
_LISTED = 500
"""Runs that are looked up at a time."""


def optional(text: str | None) -> str:
    """As meta has it: nothing and an empty text are not the same."""
    return "" if text is None else f"={text}"


def micros(seconds: float) -> str:
    """As meta has times."""
    return f"{seconds * 1_000_000:.0f}"


def parse_epochs(text: bytes) -> tuple[tuple[int, int], ...]:
    """As in RunRecord."""
    pairs = (entry.split(b":") for entry in text.split(b",") if entry)
    return tuple((int(epoch), int(first)) for epoch, first in pairs)


def record_of(run_id: str, fields: Sequence[Any]) -> RunRecord | None:
    """The run whose meta has these fields, those of RECORD and perhaps its job; None where there is no meta."""
    if fields[0] is None:
        return None
    agent, status, epochs, first, last, born, updated, ended, owner, queue, worker, tries, *job = fields
    return RunRecord(
        run_id,
        agent.decode(),
        cast("StoredStatus", status.decode()),
        parse_epochs(epochs),
        int(first),
        int(last),
        int(born) / 1_000_000,
        int(updated) / 1_000_000,
        int(ended) / 1_000_000 if ended else None,
        owner[1:].decode() if owner else None,
        queue.decode(),
        worker[1:].decode() if worker else None,
        int(tries),
        job[0] if job else None,
    )


class Lists:
    """The lists, and what goes through all of them."""

    def __init__(self, server: Server, hub: Hub, jobs: Jobs) -> None:
        self._server = server
        self._options = server.options
        self._hub = hub
        self._jobs = jobs

    def keys(self, owner: str | None) -> list[str]:
        """The lists that a run of that person is on."""
        lists = [self._options.index_key("runs")]
        return lists if owner is None else [*lists, self._options.index_key(f"owner:{owner}")]

    async def now(self) -> float:
        """The server's time."""
        key = self._options.index_key("runs")
        seconds, microseconds = await self._server.ask(key, "TIME")
        return int(seconds) + int(microseconds) / 1_000_000

    async def newest(
        self, *, owner: str | None = None, before: tuple[float, str] | None = None
    ) -> AsyncIterator[RunRecord]:
        """Runs, without jobs, the newest first: all, or those of a person; `before` as in `Store.list_runs`."""
        key = self.keys(owner)[-1]
        below = "+inf"
        if before is not None:
            created_at, run_id = before
            # A list has its own time of entering, a moment before the run's. Where the run is gone, its time has to do.
            score = await self._server.ask(key, "ZSCORE", key, run_id)
            below = f"({micros(created_at) if score is None else score.decode()}"
        while True:
            listed = await self._server.ask(
                key, "ZRANGE", key, below, "-inf", "BYSCORE", "REV", "LIMIT", 0, _LISTED, "WITHSCORES"
            )
            names = [(name.decode(), score) for name, score in zip(listed[::2], listed[1::2], strict=True)]
            if not names:
                return
            metas = [self._options.run_key(run_id, "meta") for run_id, _ in names]
            found = await self._server.together([(meta, ("HMGET", meta, *RECORD)) for meta in metas])
            vanished: list[str] = []
            for (run_id, score), fields in zip(names, found, strict=True):
                run = record_of(run_id, fields)
                if run is None:
                    vanished += [run_id] if await self._is_old(float(score)) else []
                elif owner is None or run.owner == owner:
                    yield run
            if vanished:
                await self._server.ask(key, "ZREM", key, *vanished)
            # Microseconds of a server: two runs of one score lie between two pages once in a blue moon.
            below = f"({names[-1][1].decode()}"

    async def _is_old(self, entered_micros: float) -> bool:
        return await self.now() - entered_micros / 1_000_000 > _VANISHED_S

    async def delete(self, run_id: str, *condition: str) -> bool:
        """Remove a run, if a field of its meta has a value."""
        keys = [self._options.run_key(run_id, part) for part in ("meta", "log", "cmd")]
        place = await self._server.script(DELETE, keys, condition)
        if place is None:
            return False
        owner, queue, agent = (field.decode() for field in place)
        lists = self.keys(owner[1:] if owner else None)
        await self._server.together(
            [*((key, ("ZREM", key, run_id)) for key in lists), self._jobs.command("done", queue, agent, run_id)]
        )
        self._hub.gone(keys[1])
        return True

    async def tend(self) -> None:
        """Find runs that are in no queue although somebody has to work on them: one of the fleet, once a minute."""
        key = self._options.index_key("tended")
        if not await self._server.ask(key, "SET", key, 1, "NX", "PX", int(_TENDED_S * 1000)):
            return
        async for run in self.newest():
            if not run.ended:
                place = (run.queue, run.agent, run.run_id)
                await self._server.together([self._jobs.register(run.queue), self._jobs.command("found", *place, 1.0)])
