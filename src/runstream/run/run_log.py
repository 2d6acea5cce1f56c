"""The writing side of a run: each thing that happens goes into its log and its fold, and to what keeps the log.

Knows nothing of how runs begin and end, nor of who reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from runstream.agent.agent import Agent
from runstream.agent.items import InputItem, MessageOutputItem, RunItem
from runstream.agent.model import ModelBatch
from runstream.clock import Clock
from runstream.errors import ModelStreamBroken
from runstream.events.event import (
    AGENT_START,
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    GUARDRAIL,
    INPUT_ADDED,
    ITEM,
    MODEL,
    RUN_QUEUED,
    TOOL_PROGRESS,
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    Event,
    GuardrailChecked,
    InputAdded,
    ItemAdded,
    RunQueued,
    RunStatus,
    ToolProgress,
)
from runstream.log.base import Command, StoredStatus
from runstream.log.fold import RunFold
from runstream.log.memory import MemoryLog
from runstream.run.bind import more_of
from runstream.run.feed import StoredFeed
from runstream.run.history import partial_messages

__all__ = ["Durable", "RunLog", "broken_event"]

_EVENT_NAMES: dict[str, str] = {
    "message_output_item": "message_output_created",
    "handoff_call_item": "handoff_requested",
    "handoff_output_item": "handoff_occured",  # sic: the SDK's spelling
    "tool_call_item": "tool_called",
    "tool_call_output_item": "tool_output",
    "tool_search_call_item": "tool_search_called",
    "tool_search_output_item": "tool_search_output_created",
    "reasoning_item": "reasoning_item_created",
    "mcp_approval_request_item": "mcp_approval_requested",
    "mcp_approval_response_item": "mcp_approval_response",
    "mcp_list_tools_item": "mcp_list_tools",
}

_NEAR = 10
"""Up to here each place in a queue is told; farther back, when a tenth of those ahead have gone: of a long queue in
which all move up at once, most events would say what nobody can tell apart."""

_FAILURES = frozenset(("response.failed", "response.incomplete", "error"))


class Durable(Protocol):
    """What keeps a run's log beyond its process (`run/durable.py`)."""

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be kept that the run has to wait as well."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch that this process writes in."""
        ...

    def changed(self, *, urgent: bool) -> None:
        """The log has grown; `urgent` where more than deltas came."""
        ...

    async def commit(self) -> None:
        """Return once the log up to now is kept. Raises LeaseLost, StoreUnavailable, StoreError."""
        ...

    async def end(self, event: Event, status: RunStatus) -> None:
        """Keep the last event, before anybody is told of it. Raises as `commit` does."""
        ...

    async def send(self, command: Command) -> None:
        """Ask something of the run so that it outlives this process."""
        ...

    def set_status(self, status: StoredStatus) -> None:
        """What the store tells of the run from its next event on."""
        ...

    async def hand_back(self) -> None:
        """Let another worker go on with the run."""
        ...

    def feed(self, after: int) -> StoredFeed:
        """The log as it is kept, from that seq on."""
        ...

    def leave(self) -> None:
        """The run is over, here at least."""
        ...


class RunLog:
    """What `ActiveRun` is to those who write."""

    __slots__ = ("agent", "attempt", "clock", "closed", "durable", "fold", "log")

    agent: Agent[Any]
    """The active agent."""
    attempt: int
    """Number of the model call within its turn, from 1; 0 outside model calls."""
    clock: Clock
    closed: bool
    """Whether the run winds up: what its turns still write comes too late."""
    durable: Durable | None
    """Keeps the log beyond this process, where that was asked for."""
    fold: RunFold
    log: MemoryLog

    @property
    def items(self) -> Sequence[RunItem]:
        """The run items so far, in the order of the log."""
        return self.fold.items

    def now(self) -> float:
        return self.clock.now()

    async def committed(self) -> None:
        """Return once the log up to now outlives this process, where that was asked for.

        Raises LeaseLost, StoreUnavailable, StoreError.
        """
        if self.durable is not None:
            await self.durable.commit()

    def check_open(self) -> None:
        """Raises CancelledError where the run goes on without its turns: they were left behind."""
        if self.closed:
            raise asyncio.CancelledError

    def append(self, kind: str, data: Any, live: Any = None) -> None:
        self.fold.apply(self.log.append(kind, self.now(), self.agent.name, data, live=live))
        if self.durable is not None:
            self.durable.changed(urgent=True)

    def emit_agent(
        self,
        agent: Agent[Any],
        history: list[Any] | None = None,
        history_input: str | int | list[Any] | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        """The agent becomes the active one, or goes on as that; `history` is what it sees, where a filter changed
        that, and `history_input` what stands for the run's input in it."""
        self.check_open()
        previous = None if goes_on else self.fold.agent_name
        self.agent = agent
        self.append(AGENT_START, AgentStart(previous, history, history_input), agent)

    def emit_discarded(
        self, from_seq: int, reason: str, detail: str | None = None, next_model: str | None = None
    ) -> None:
        """What readers have seen since that event is void."""
        self.append(ATTEMPT_DISCARDED, AttemptDiscarded(from_seq, reason, detail, next_model))

    def emit_approval(self, answer: ApprovalResolved) -> None:
        """A person has answered."""
        self.check_open()
        self.append(APPROVAL_RESOLVED, answer)

    def emit_input(self, added: InputAdded) -> list[InputItem]:
        """A person has said something more."""
        self.check_open()
        items = [InputItem(agent=self.agent, raw_item=item) for item in added.items]
        self.append(INPUT_ADDED, added, items)
        return items

    def emit_guardrail(self, checked: GuardrailChecked, agent: Agent[Any]) -> None:
        """A guardrail of that agent has decided. While the run winds up nobody is told any more."""
        if self.closed or self.log.sealed:
            return
        attempt = self.attempt if checked.about == "stream" else 0
        self.fold.apply(self.log.append(GUARDRAIL, self.now(), agent.name, checked, attempt=attempt))
        if self.durable is not None:
            self.durable.changed(urgent=True)

    def emit_queued(self, position: int) -> None:
        """The run has moved in the queue of those that wait for their place; 0 is that it has one."""
        told = self.fold.queue_position
        is_small_step = position > _NEAR and told - told // 10 < position < told
        if position == told or is_small_step or self.closed or self.log.sealed:
            return
        self.fold.apply(self.log.append(RUN_QUEUED, self.now(), self.agent.name, RunQueued(position)))
        if self.durable is not None:
            self.durable.changed(urgent=False)

    def emit_progress(self, progress: ToolProgress) -> None:
        """A tool that runs has something to say. The state knows nothing of it."""
        self.log.append(TOOL_PROGRESS, self.now(), self.agent.name, progress)
        if self.durable is not None:
            self.durable.changed(urgent=False)

    def emit_item(self, item: RunItem) -> None:
        """An item is complete."""
        self.check_open()
        self.add_item(item)

    def add_item(self, item: RunItem) -> None:
        """As `emit_item`, also while the run winds up."""
        data = ItemAdded(_EVENT_NAMES.get(item.type, item.type), item.type, item.raw_item, more_of(item))
        self.append(ITEM, data, item)

    def emit_batch(self, batch: ModelBatch, deltas: frozenset[type[Any]]) -> Any | None:
        """The events of one read from the model. `deltas` are the classes that the fold need not see.

        Returns the event that says that the response failed, if there is one. Raises ModelStreamBroken for an event
        of which no sense can be made, once those before it are written.
        """
        if self.closed:
            raise asyncio.CancelledError
        failed: Any = None
        broken: ModelStreamBroken | None = None
        urgent = False
        fold = self.fold
        first, answered = self.log.next_seq, len(fold.responses)
        events, frames = batch.events, batch.frames
        for index, event in enumerate(events):
            if event.__class__ in deltas:
                if fold.response_seq is None:
                    fold.response_seq = first + index
                continue
            urgent = True
            try:
                fold.apply_model(event, first + index)
            except (AttributeError, TypeError, ValueError) as error:
                broken = broken_event(event, error, frames[index])
                events, frames = events[:index], frames[:index]
                break
            if event.type in _FAILURES:
                failed = event
            if failed is not None or len(fold.responses) > answered:
                # What a server sends after the end of its response is dropped, however the network cuts it.
                events, frames = events[: index + 1], frames[: index + 1]
                break
        self.log.extend_model(self.clock.now(), self.agent.name, self.attempt, (), events, frames)
        if self.durable is not None:
            self.durable.changed(urgent=urgent)
        if broken is not None:
            raise broken
        return failed

    def emit_response(self, event: Any, response: Any) -> None:
        """The one event of a model call that was not streamed."""
        self.check_open()
        self.fold.apply(self.log.append(MODEL, self.now(), self.agent.name, event, live=response, attempt=self.attempt))
        if self.durable is not None:
            self.durable.changed(urgent=True)

    def emit_partial(self) -> None:
        """Items for what a response that broke off had already shown."""
        since = self.fold.response_seq
        if since is None:
            return
        self.fold.abandon_response()
        for message in partial_messages(self.log, since):
            self.add_item(MessageOutputItem(agent=self.agent, raw_item=message))


def broken_event(event: Any, error: Exception, frame: bytes | None = None) -> ModelStreamBroken:
    """The error of an event whose fields are not what the Responses format says."""
    broken = ModelStreamBroken(
        f"The model sent an event {event.type!r} of which no sense can be made ({error!r:.200})", frame=frame or b""
    )
    broken.__cause__ = error
    return broken
