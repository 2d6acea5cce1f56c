"""The run of an agent that another run calls as a tool: where it belongs, and what its call knows of it.

It is driven by the one loop like any run, and has a state of its own; its log is a part of the calling run's, its
usage is that run's, and so are its store, its clock and its readers. It waits for no reader, and never in place for a
person: it is interrupted, its state is kept by the run that called it, and its call goes on from there.

Invariant: a nested run has ended when the task of its call has, unless that was left behind; then it writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from runstream.agent.items import ToolApprovalItem
from runstream.agent.tool_context import ToolContext
from runstream.errors import UserError
from runstream.events.event import Event, RunStart, RunStatus
from runstream.log.base import Command, StoredStatus
from runstream.log.nested import NestedLog
from runstream.run.active import ActiveRun
from runstream.run.config import RunConfig
from runstream.run.feed import StoredFeed
from runstream.run.followed import FollowedRun
from runstream.run.resume import open_requests, pending_requests
from runstream.run.run_log import Durable
from runstream.run.scope import Scope
from runstream.run.standing import Standing
from runstream.run.state import RunState

__all__ = ["Nesting", "nesting_of", "owner_of", "pending_of", "requests_of", "still_waits"]


class Nesting:
    """One call of an agent as a tool."""

    def __init__(self, outer: ActiveRun, call_id: str) -> None:
        self._outer = outer
        self._call_id = call_id
        self._run: ActiveRun | None = None
        at: Standing | None = outer.suspended.pop(call_id, None)
        self._left: Standing | None = at if at is not None and at.fold.start is None else None
        self.state: RunState[Any] | None = None if at is None or self._left is not None else RunState.standing_at(at)
        """Where the nested run goes on, if it waited for a person."""

    def go_on(
        self, told: str | list[Any], max_turns: int | None, options: dict[str, Any] | None
    ) -> RunState[Any] | None:
        """Where the nested run goes on that waited when another worker had the calling run. It was told this: the log
        does not say. None for one that begins."""
        at = self._left
        if at is None:
            return None
        at.fold.start, at.input = RunStart(told, max_turns, options), told
        return RunState.standing_at(at)

    def config_of(self, config: RunConfig) -> RunConfig:
        """The configuration of the nested run: what is the calling run's business is left to it."""
        outer = self._outer.config
        return replace(
            config,
            clock=outer.clock,
            run_id=self._outer.run_id,
            owner=outer.owner,
            store=None,
            load_limits=config.load_limits or outer.load_limits,
            on_abandon="detach",
            on_approval="interrupt",
            # It has to be over before the calling run gives up waiting for it.
            cancel_timeout_s=outer.cancel_timeout_s / 2,
        )

    def adopt(self, run: ActiveRun, context: ToolContext[Any]) -> None:
        """Make that run, which has not begun, the nested one."""
        outer = self._outer
        self._run = run
        outer.nested[self._call_id] = run
        run.is_nested = True
        run.log = NestedLog(outer.log, self._call_id)
        run.fold.path = run.log.path
        run.scope = Scope(outer.clock, run.config.cancel_timeout_s)
        run.streamed = run.streamed or outer.streamed
        if outer.durable is not None:
            run.durable = _ThroughOuter(outer.durable)
        if run.context is not context:
            # It goes on: the decisions that were made are those of its state.
            context.approvals = run.context.approvals
            run.context = context
        context.usage = outer.context.usage
        context.nesting = None  # a run that is begun with this context by hand is one of its own

    @property
    def suspended(self) -> bool:
        """Whether the nested run waits for a person."""
        return self._run is not None and bool(self._run.interruptions)

    def close(self) -> list[ToolApprovalItem]:
        """The call is over, or waits for what this returns; nothing more of it comes into the log."""
        run = self._run
        if run is None:
            return []
        cast("NestedLog", run.log).close()
        self._outer.nested.pop(self._call_id, None)
        if run.interruptions:
            self._outer.suspended[self._call_id] = Standing.of(run)
        return list(run.interruptions)


def nesting_of(context: Any) -> Nesting | None:
    """What a run that gets this context is nested in."""
    return context.nesting if isinstance(context, ToolContext) else None


def requests_of(at: Standing) -> list[ToolApprovalItem]:
    """The requests of a run that is suspended that nobody has decided, those of the runs nested in it too."""
    found = pending_requests(at.fold, at.context)
    for inner in at.nested.values():
        found += requests_of(inner)
    return found


def pending_of(run: ActiveRun | FollowedRun) -> list[ToolApprovalItem]:
    """The requests that nobody has decided, those of nested runs too."""
    found = pending_requests(run.fold, run.context)
    if isinstance(run, FollowedRun):
        return [*found, *run.nested_requests.values()]
    for at in run.suspended.values():
        found += requests_of(at)
    for inner in run.nested.values():
        found += pending_of(inner)
    return found


def still_waits(at: Standing) -> bool:
    """Whether nobody has decided anything about a run that is suspended."""
    waits = all(request in pending_requests(at.fold, at.context) for request in open_requests(at.fold))
    return waits and all(still_waits(inner) for inner in at.nested.values())


def owner_of(suspended: dict[str, Any], request: ToolApprovalItem) -> Standing | None:
    """The nested run that has made the request."""
    return next((at for at in _all(suspended) if any(each is request for each in at.fold.items)), None)


def _all(suspended: dict[str, Standing]) -> Iterator[Standing]:
    for at in suspended.values():
        yield at
        yield from _all(at.nested)


class _ThroughOuter:
    """Implements `Durable`: the calling run's log is kept, and this run's events with it."""

    __slots__ = ("_outer",)

    def __init__(self, outer: Durable) -> None:
        self._outer = outer

    @property
    def epoch(self) -> int:
        return self._outer.epoch

    @property
    def is_behind(self) -> bool:
        return self._outer.is_behind

    def changed(self, *, urgent: bool) -> None:
        self._outer.changed(urgent=urgent)

    async def commit(self) -> None:
        await self._outer.commit()

    async def end(self, event: Event, status: RunStatus) -> None:
        """The end of a nested run is the output of its call."""

    async def send(self, command: Command) -> None:
        raise UserError("a nested run is spoken to through the run that calls it")

    def set_status(self, status: StoredStatus) -> None:
        """What a nested run waits for, all of the run waits for."""
        self._outer.set_status(status)

    async def hand_back(self) -> None:
        """The calling run is handed back, not a part of it."""

    def feed(self, after: int) -> StoredFeed:
        return self._outer.feed(after)

    def leave(self) -> None:
        """The calling run goes on."""
