"""Carrying out a run that was claimed in a store: one that waited for a worker, or whose worker is gone."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.items import TResponseInputItem
from runstream.errors import AgentsException, StoreUnavailable, UserError
from runstream.events.codec import plain
from runstream.events.event import APPROVAL_RESOLVED, INPUT_ADDED, Event, RunStart
from runstream.log.base import Claim, Store
from runstream.log.fold import RunFold
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook
from runstream.run.config import DEFAULT_MAX_TURNS, RunConfig
from runstream.run.durable import DurableRun
from runstream.run.feed import events_of
from runstream.run.guardrail_results import GuardrailResults
from runstream.run.history import left_by_filter
from runstream.run.host import StoreHost
from runstream.run.left_waiting import left_waiting
from runstream.run.resume import Resumed, fold_of_events, usage_beside
from runstream.sessions.base import Session

__all__ = ["AgentMissing", "Job", "RunAbandoned", "RunNotBegun", "begin", "job_of"]

_logger = logging.getLogger("runstream")

JOB_VERSION = 1

SessionFactory = Callable[[str], Session | Awaitable[Session]]


class AgentMissing(UserError):
    """A run has come to an agent that this process does not have; another may."""

    def __init__(self, run_id: str, agent_name: str) -> None:
        super().__init__(
            f"the run {run_id!r} is at the agent {agent_name!r}, which is none of those that were given, nor among "
            "those that they hand over to"
        )


class RunAbandoned(AgentsException):
    """A run that kept stopping its workers was given up."""

    code = "run_abandoned"

    def __init__(self, run_id: str, deliveries: int, failure: BaseException | None = None) -> None:
        self.run_id = run_id
        self.deliveries = deliveries
        why = (
            "its worker was gone before its end" if failure is None else f"it came to nothing, at last for {failure!r}"
        )
        super().__init__(f"the run {run_id!r} was begun {deliveries} times, and each time {why}: given up")


class RunNotBegun(AgentsException):
    """A run whose process stopped before it had kept what it was asked to do."""

    code = "run_not_begun"

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"the process of the run {run_id!r} stopped before it had kept the run's input: nobody can go on with it. "
            "Start it again"
        )


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to begin a run, as plain data."""

    input: str | list[Any]
    max_turns: int | None = DEFAULT_MAX_TURNS
    context: Any = None
    """JSON data, given to tools and hooks as the context."""
    session_id: str | None = None
    """The conversation that the run belongs to; the worker knows where it is kept."""
    note: Any = None
    """JSON data that whoever enters the run wants to find again; workers make nothing of it."""

    def encode(self) -> bytes:
        """The job as JSON. Raises UserError for a context that is not JSON data."""
        try:
            context = json.loads(json.dumps(self.context))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the context of a submitted run must be JSON data, since another process gets it: {error}"
            ) from error
        record = {
            "version": JOB_VERSION,
            "input": plain(self.input),
            "max_turns": self.max_turns,
            "context": context,
            "session_id": self.session_id,
            **({} if self.note is None else {"note": self.note}),
        }
        return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


def job_of(body: bytes) -> Job:
    """The job of its JSON. Raises ValueError for what is none, or is of a newer version."""
    decoded: Any = json.loads(body)
    record = cast("dict[str, Any]", decoded if isinstance(decoded, dict) else {})
    version = record.pop("version", None)
    if not isinstance(version, int) or version > JOB_VERSION:
        raise ValueError(f"the job has version {version!r}; this version of runstream reads up to {JOB_VERSION}")
    known = {name: value for name, value in record.items() if name in Job.__slots__}
    return Job(**known)


async def _state_of(store: Store, run_id: str, book: AgentBook) -> tuple[list[Event], int]:
    """The events that make the state, and the seq of the last one of all."""
    events: list[Event] = []
    after = 0
    while True:
        page = await store.read(run_id, after)
        if not page.segments:
            return events, after
        events += events_of(page.segments, run_id, after, book, deltas=False)
        after = page.segments[-1].last_seq


async def _first_delta(store: Store, run_id: str, after: int, book: AgentBook) -> int | None:
    """The seq of the first event after that one that is no nested agent's."""
    while (page := await store.read(run_id, after)).segments:
        own = [event.seq for event in events_of(page.segments, run_id, after, book) if not event.path]
        if own:
            return own[0]
        after = page.segments[-1].last_seq
    return None


async def begin(
    claim: Claim,
    host: StoreHost,
    book: AgentBook,
    config: RunConfig,
    *,
    context: Any = None,
    session: Session | SessionFactory | None = None,
    max_deliveries: int = 5,
    hooks: Any = None,
    is_new: bool = False,
) -> ActiveRun:
    """Go on with the run from its last completed step, or begin it. Its log is this worker's now. `is_new`: it was
    entered by this very claim, so that the store has no events and no commands that would have to be asked for.

    A run that was claimed more than `max_deliveries` times is ended as failed instead, and so is one of which neither
    a job nor an event tells what was asked for. Raises StoreError; then its lease is no longer kept.
    """
    record = claim.run
    config = replace(config, store=host.store)
    # From now on: reading a long log, or importing what runs need, may take longer than the lease.
    host.hold(record.run_id, claim.epoch, config.lease_s)
    failure: Exception | None = None
    try:
        known: tuple[list[Event], int] = ([], 0)
        if not is_new:
            known = await _state_of(host.store, record.run_id, book)
        run = await _restored(claim, host, book, config, known, context=context, session=session, hooks=hooks)
        if not is_new:
            await host.bring(record.run_id)  # now, since it might have ended before they come by themselves
    except BaseException as error:
        if (
            not isinstance(error, Exception)
            or record.deliveries <= max_deliveries
            or isinstance(error, StoreUnavailable)
        ):
            host.drop(record.run_id, claim.epoch)
            raise
        # Nobody can read what it is to do, and it must end all the same.
        failure = error
        run = _active(claim, book, config, Job(""), None, context=None, session=None, hooks=None)
        run.go_on(Resumed(RunFold(), taken_over=True, last_seq=record.last_seq), epoch=claim.epoch)
        run.durable = DurableRun(run, host, claim.epoch)
    if record.deliveries > max_deliveries:
        run.broken = RunAbandoned(record.run_id, record.deliveries - 1, failure)
    elif record.job is None and run.resumed is None:
        # The process that entered it died before it could write what the run is to do.
        run.broken = RunNotBegun(record.run_id)
    return run


async def _restored(
    claim: Claim,
    host: StoreHost,
    book: AgentBook,
    config: RunConfig,
    known: tuple[list[Event], int],
    *,
    context: Any,
    session: Any,
    hooks: Any,
) -> ActiveRun:
    record = claim.run
    events, last_seq = known
    fold = fold_of_events(events, book)
    if fold.agent_name is not None and fold.agent_name not in book:
        raise AgentMissing(record.run_id, fold.agent_name)
    if events and fold.response_seq is None and events[-1].seq < last_seq:
        # Deltas of a model that announces nothing before them, unless they are a nested agent's.
        fold.response_seq = await _first_delta(host.store, record.run_id, events[-1].seq, book)
    job = Job("") if record.job is None else job_of(record.job)
    run = _active(
        claim,
        book,
        config,
        job,
        fold.start,
        context=context if context is not None else job.context,
        session=await _session_of(session, job.session_id),
        hooks=hooks,
    )
    if events:
        beside = usage_beside(events)
        # What a worker found in the run's output is not yet its end: that is checked again.
        told = [each for each in fold.guardrails if each[1].about != "output"]
        found = GuardrailResults.from_log(told, book, config)
        resumed = Resumed(fold, taken_over=True, last_seq=last_seq, guardrails=found)
        left = left_by_filter(fold)
        if left is not None:
            resumed.input, resumed.filtered = left[0], (fold.history_index, tuple(left[1]))
        run.go_on(resumed, epoch=claim.epoch)
        run.context.usage.add(beside)
        # All commands come once more: one that was still waiting may be older than one that was carried out.
        run.inbox.last_command = 0
        run.inbox.taken = {event.data.command for event in events if event.kind in (APPROVAL_RESOLVED, INPUT_ADDED)}
        if config.on_approval == "wait":
            run.suspended = {**left_waiting(events, fold, run.context)}
    else:
        run.claimed_epoch = claim.epoch
    run.durable = DurableRun(run, host, claim.epoch)
    if fold.response_seq is not None:
        # Before anything else can end the run: what readers saw of that answer is in no message.
        run.emit_discarded(fold.response_seq, "taken_over", "the worker broke off in the middle of a response")
    return run


def _active(
    claim: Claim,
    book: AgentBook,
    config: RunConfig,
    job: Job,
    start: RunStart | None,
    *,
    context: Any,
    session: Session | None,
    hooks: Any,
) -> ActiveRun:
    record = claim.run
    options = (start.options or {}) if start is not None else {}
    return ActiveRun(
        agent=book.find(record.agent),
        input=cast("str | list[TResponseInputItem]", job.input if start is None else start.input),
        context=context,
        max_turns=job.max_turns if start is None else start.max_turns,
        hooks=hooks,
        config=replace(config, run_id=record.run_id, owner=record.owner, on_abandon="detach"),
        error_handlers=None,
        session=session,
        previous_response_id=options.get("previous_response_id"),
        conversation_id=options.get("conversation_id"),
        auto_previous_response_id=bool(options.get("auto_previous_response_id")),
        streamed=True,
    )


async def _session_of(session: Session | SessionFactory | None, session_id: str | None) -> Session | None:
    if session is None and session_id is not None:
        _logger.warning("a run is of the session %r, but this worker has no sessions: it begins without", session_id)
    if session is None or hasattr(session, "get_items"):
        return cast("Session | None", session)
    if session_id is None:
        return None
    made: Any = cast("SessionFactory", session)(session_id)
    return await made if hasattr(made, "__await__") else made


def name_of(agent: Agent[Any] | str) -> str:
    """The name that a job gives of its agent."""
    return agent if isinstance(agent, str) else agent.name
