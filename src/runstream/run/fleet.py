"""Runs that are begun, read and taken over across processes: what stands behind `Runner.submit`, `attach`, `resume`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.errors import LeaseHeld, RunSealed, UserError
from runstream.log.base import NewRun, Store
from runstream.run.bind import AgentBook
from runstream.run.claimed import Job, begin
from runstream.run.config import RunConfig
from runstream.run.followed import FollowedRun, follow
from runstream.run.host import opened, run_worker_name
from runstream.run.loop import drive
from runstream.run.readers import RunTask

__all__ = ["Job", "attach", "resume", "submit"]


async def submit(
    store: str | Store, agent: Agent[Any] | str, job: Job, *, queue: str, owner: str | None, run_id: str | None
) -> str:
    """Enter a run for whoever works on the store; returns its id."""
    name = cast("object", agent.name if isinstance(agent, Agent) else agent)
    if not isinstance(name, str) or not name:
        raise UserError(f"the first argument must be an Agent or the name of one, not {agent!r:.100}")
    host = await opened(store, RunConfig().clock)
    run_id = run_id or f"run_{uuid.uuid4().hex}"
    await host.store.create(NewRun(run_id, name, owner=owner, queue=queue, job=job.encode()))
    return run_id


async def attach(
    store: str | Store, run_id: str, after: int | str, agents: Iterable[Agent[Any]], config: RunConfig
) -> FollowedRun:
    """The run as its store has it."""
    host = await opened(store, config.clock)
    return await follow(host, run_id, after, AgentBook(agents), config)


async def resume(
    store: str | Store,
    run_id: str,
    agents: Iterable[Agent[Any]],
    config: RunConfig,
    *,
    context: Any,
    session: Any,
    hooks: Any,
    after: int | str,
) -> FollowedRun:
    """Claim the run and go on with it here."""
    host = await opened(store, config.clock)
    book = AgentBook(agents)
    record = await host.store.find(run_id)
    if record.agent not in book:
        raise UserError(f"the run {run_id!r} is of the agent {record.agent!r}, which is none of those that were given")
    claim = await host.store.claim(run_id, run_worker_name(), config.lease_s)
    if claim is None:
        record = await host.store.find(run_id)
        raise RunSealed(run_id) if record.ended else LeaseHeld(run_id, record.worker)
    run = await begin(claim, host, book, config, context=context, session=session, hooks=hooks)
    run.start(drive(run))
    # How it ended is in its log: asyncio need not report an error as never retrieved.
    asyncio.Task[None].add_done_callback(cast("RunTask", run.task), _seen)
    return await follow(host, run_id, after, book, config)


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
