"""One run while it is under way: its log, its owner's handles (cancel, readers, waiters), and the writing side.

The loop (`run/loop.py`) drives it; results and readers look at it. It knows nothing of models and tools.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, cast

from runstream.agent.agent import Agent
from runstream.agent.context import RunContextWrapper
from runstream.agent.hooks import RunHooksBase
from runstream.agent.items import MessageOutputItem, RunItem, TResponseInputItem
from runstream.agent.model import ModelBatch
from runstream.errors import AgentsException, RunErrorDetails, UserError
from runstream.events.codec import plain
from runstream.events.event import (
    AGENT_START,
    ITEM,
    MODEL,
    RUN_END,
    RUN_START,
    AgentStart,
    ErrorInfo,
    ItemAdded,
    RunEnd,
    RunStart,
    RunStatus,
)
from runstream.log.fold import RunFold
from runstream.log.memory import MemoryLog
from runstream.run.config import RunConfig
from runstream.run.error_handlers import RunErrorHandlers
from runstream.run.history import partial_messages
from runstream.run.scope import Scope
from runstream.sessions.base import Session

__all__ = ["ActiveRun", "CancelMode", "Place", "RunTask"]

CancelMode = Literal["immediate", "after_turn"]

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

_FAILURES = frozenset(("response.failed", "response.incomplete", "error"))

# Tasks of the runs that are under way: an event loop holds its tasks only weakly.
_running: set[asyncio.Task[Any]] = set()


class RunTask(asyncio.Task[None]):
    """The task of a run, which knows whether anybody waits for it: such a run is not abandoned.

    Every way to wait for a task (`await`, `asyncio.wait`, `gather`, `wait_for`, `shield`) adds a callback, and those
    that give up take it away again.
    """

    on_await: Callable[[], None] | None = None
    on_leave: Callable[[], None] | None = None
    _waiters = 0

    @property
    def claimed(self) -> bool:
        """Whether somebody awaits the task, and thus the end of the run: no turn waits for a reader any more."""
        return self._waiters > 0

    def add_done_callback(self, fn: Any, /, *, context: contextvars.Context | None = None) -> None:
        super().add_done_callback(fn, context=context)
        self._waiters += 1
        if self.on_await is not None:
            self.on_await()

    def remove_done_callback(self, fn: Any, /) -> int:
        removed = super().remove_done_callback(fn)
        self._waiters -= removed
        if removed and not self._waiters and self.on_leave is not None:
            self.on_leave()
        return removed


class Place:
    """What a run knows of an in-process reader."""

    __slots__ = ("cursor", "paces_turns", "silenced", "task", "waits")

    def __init__(self, cursor: int, *, paces_turns: bool) -> None:
        self.cursor = cursor
        """The seq of the last event that it was handed."""
        self.paces_turns = paces_turns
        """Whether the next turn waits until it has been handed the last event of this one."""
        self.silenced = False
        """Whether an immediate cancel came while it was open: the SDK's view yields nothing more then."""
        self.task: asyncio.Task[Any] | None = None
        """The task that opened it."""
        self.waits = False
        """Whether it waits for the next event."""


class ActiveRun:
    """State and handles of one run. With slots: it has too many attributes for Python's compact instances."""

    __slots__ = (
        "__weakref__",
        "_end_waiters",
        "_gate",
        "_readers",
        "_waiters",
        "_was_read",
        "agent",
        "attempt",
        "auto_previous_response_id",
        "begun",
        "cancel_mode",
        "clock",
        "closed",
        "config",
        "context",
        "conversation_id",
        "error",
        "error_handlers",
        "filtered",
        "final_output",
        "fold",
        "gate_seq",
        "hooks",
        "input",
        "log",
        "max_turns",
        "previous_response_id",
        "run_id",
        "scope",
        "session",
        "starting_agent",
        "streamed",
        "task",
        "turn",
    )

    def __init__(
        self,
        *,
        agent: Agent[Any],
        input: str | list[TResponseInputItem],
        context: Any,
        max_turns: int | None,
        hooks: RunHooksBase[Any, Any] | None,
        config: RunConfig,
        error_handlers: RunErrorHandlers[Any] | None,
        session: Session | None,
        previous_response_id: str | None,
        conversation_id: str | None,
        auto_previous_response_id: bool,
        streamed: bool,
    ) -> None:
        self.run_id = f"run_{uuid.uuid4().hex}"
        self.config = config
        self.clock = config.clock
        self.starting_agent = agent
        self.agent = agent
        self.input = input
        """What the caller passed; a handoff's filter replaces it."""
        self.context: RunContextWrapper[Any] = (
            cast("RunContextWrapper[Any]", context)
            if isinstance(context, RunContextWrapper)
            else RunContextWrapper(context)
        )
        self.max_turns = max_turns
        self.hooks = hooks
        self.error_handlers = error_handlers
        self.session = session
        self.previous_response_id = previous_response_id
        self.conversation_id = conversation_id
        self.auto_previous_response_id = auto_previous_response_id
        self.streamed = streamed

        self.log = MemoryLog(self.run_id, max_events=config.max_log_events)
        self.fold = RunFold()
        self.scope = Scope(self.clock, config.cancel_timeout_s)
        self.turn = 0
        self.attempt = 0
        self.final_output: Any = None
        self.filtered: tuple[int, tuple[RunItem, ...]] | None = None
        """After a handoff's filter: the items that it left, in the place of so many of `items`."""
        self.error: BaseException | None = None
        self.cancel_mode: CancelMode | None = None
        self.task: RunTask | None = None
        self.begun = False
        self.closed = False
        """Whether the run winds up: what its turns still write comes too late."""
        self._readers: list[Place] = []
        self._gate: asyncio.Future[None] | None = None
        self.gate_seq: float = math.inf
        """While the loop waits for a reader: the seq of the event that it waits to be handed over."""
        self._waiters = 0
        self._was_read = False
        self._end_waiters: list[asyncio.Future[None]] = []

    # Starting and ending.

    def start(self, drive: Coroutine[Any, Any, None]) -> None:
        """Begin, as a task of the running event loop."""
        self.task = RunTask(drive, loop=asyncio.get_running_loop(), name=f"runstream {self.run_id}")
        self.task.on_await = self._open_gate
        self.task.on_leave = self._waiter_left
        _running.add(self.task)
        asyncio.Task[None].add_done_callback(self.task, self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        # So that a result that is dropped is gone at once.
        cast("RunTask", task).on_await = cast("RunTask", task).on_leave = None
        _running.discard(task)
        if self.ended or task is not self.task:
            return
        # Cancelled before its first step, the task never entered `drive`: nobody else ends the log then.
        if self.log.last_seq == 0:
            self.emit_start()
        error = None if task.cancelled() else task.exception()
        self.seal("cancelled" if error is None else "failed", error)

    def check_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop. Raises UserError where the run goes on in another one: it cannot wake who waits here."""
        loop = asyncio.get_running_loop()
        if self.task is not None and not self.ended and self.task.get_loop() is not loop:
            raise UserError("this run goes on in another event loop: read it there")
        return loop

    @property
    def ended(self) -> bool:
        """Whether `run.end` is written."""
        return self.log.sealed

    @property
    def silenced(self) -> bool:
        """Whether an immediate cancel was asked for: the SDK's view yields nothing more."""
        return self.cancel_mode == "immediate"

    @property
    def omits_reasoning_ids(self) -> bool:
        """Whether input items of this run leave out the ids of reasoning."""
        return self.config.reasoning_item_id_policy == "omit"

    @property
    def stops_after_turn(self) -> bool:
        """Whether the turn that is under way is to be the last one."""
        return self.cancel_mode == "after_turn"

    def cancel(self, mode: CancelMode) -> None:
        """Ask for the end: at once, or after this turn. Once the run has ended, only open readers are cut short."""
        if mode not in ("immediate", "after_turn"):
            raise UserError(f"cancel mode must be 'immediate' or 'after_turn', not {mode!r}")
        if mode == "immediate":
            for place in self._readers:
                place.silenced = True
        if self.ended or self.silenced:
            return
        self.cancel_mode = mode
        # A task that has not begun never enters its body when it is cancelled: the loop looks at the mode instead.
        if mode == "immediate" and self.begun and self.task is not None:
            _cancel(self.task)

    def check_cancelled(self) -> None:
        """Raises CancelledError once the run is to end: code of the caller's may have swallowed the one it got."""
        if self.silenced or self.closed or (self.task is not None and self.task.cancelling()):
            raise asyncio.CancelledError

    def check_open(self) -> None:
        """Raises CancelledError where the run goes on without its turns: they were left behind."""
        if self.closed:
            raise asyncio.CancelledError

    def error_told(self) -> None:
        """A reader has told the caller how the run ended: asyncio need not report the error as never retrieved."""
        if self.task is not None and self.task.done() and not self.task.cancelled():
            self.task.exception()

    async def wait_ended(self) -> None:
        """Return once `run.end` is written. Never raises the run's error."""
        loop = self.check_loop()
        if self.ended:
            return
        self._waiters += 1
        self._open_gate()
        end = loop.create_future()
        self._end_waiters.append(end)
        try:
            await end
        finally:
            self._waiters -= 1
            if not self.ended:
                self._end_waiters.remove(end)
                self._waiter_left()

    def _waiter_left(self) -> None:
        if self._was_read:
            self._check_abandoned()

    # Readers.

    def enter(self, place: Place) -> None:
        """A reader has begun."""
        place.silenced = self.silenced
        place.task = asyncio.current_task()
        self._was_read = True
        self._readers.append(place)

    def leave(self, place: Place) -> None:
        """A reader goes away. With the last one goes a run that nobody else waits for, unless it is detached."""
        if place not in self._readers:
            return
        self._readers.remove(place)
        self._check_gate()
        self._check_abandoned()

    def _check_abandoned(self) -> None:
        if self._readers or self.ended or self.config.on_abandon == "detach" or self._waiters:
            return
        if self.task is not None and not self.task.claimed:
            self.cancel("immediate")

    async def pause_between_turns(self) -> None:
        """Wait until the caller's first open iterator has been handed everything, so that it can still cancel."""
        reader = self._pacing_reader()
        if reader is None or reader.cursor >= self.log.last_seq or self._waiters:
            return
        if (self.task is not None and self.task.claimed) or self._is_left_idle(reader):
            return
        self._gate = asyncio.get_running_loop().create_future()
        self.gate_seq = self.log.last_seq
        try:
            await self._gate
        finally:
            self._gate = None
            self.gate_seq = math.inf

    def reader_waits(self) -> None:
        """A reader has everything and waits, while the turn waits for a reader. If the same task opened both, the one
        that the turn waits for is left idle, and nobody will read from it meanwhile."""
        reader = self._pacing_reader()
        if reader is not None and self._is_left_idle(reader):
            self._open_gate()

    def _is_left_idle(self, reader: Place) -> bool:
        return any(
            place.waits and place is not reader and place.task is reader.task is not None for place in self._readers
        )

    def handed_over(self) -> None:
        """A reader has come to `gate_seq`."""
        self._check_gate()

    def _pacing_reader(self) -> Place | None:
        return next((reader for reader in self._readers if reader.paces_turns), None)

    def _check_gate(self) -> None:
        reader = self._pacing_reader()
        if reader is None or reader.cursor >= self.gate_seq:
            self._open_gate()

    def _open_gate(self) -> None:
        if self._gate is not None and not self._gate.done():
            self._gate.set_result(None)

    # Writing.

    def now(self) -> float:
        return self.clock.now()

    def emit_start(self) -> None:
        data = RunStart(self.input, self.max_turns)
        self.fold.apply(self.log.append(RUN_START, self.now(), self.agent.name, data))

    def emit_agent(self, agent: Agent[Any]) -> None:
        """The agent becomes the active one."""
        self.check_open()
        previous = self.fold.agent_name
        self.agent = agent
        self.fold.apply(self.log.append(AGENT_START, self.now(), agent.name, AgentStart(previous), live=agent))

    def emit_item(self, item: RunItem) -> None:
        """An item is complete."""
        self.check_open()
        self.add_item(item)

    def add_item(self, item: RunItem) -> None:
        """As `emit_item`, also while the run winds up."""
        data = ItemAdded(_EVENT_NAMES.get(item.type, item.type), item.type, item.raw_item)
        self.fold.apply(self.log.append(ITEM, self.now(), self.agent.name, data, live=item))

    def emit_batch(self, batch: ModelBatch, deltas: frozenset[type[Any]]) -> Any | None:
        """The events of one read from the model. `deltas` are the classes that the fold need not see.

        Returns the event that says that the response failed, if there is one.
        """
        if self.closed:
            raise asyncio.CancelledError
        failed: Any = None
        first = self.log.last_seq + 1
        events = batch.events
        self.log.extend_model(self.clock.now(), self.agent.name, self.attempt, (), events, batch.frames)
        for index, event in enumerate(events):
            if event.__class__ not in deltas:
                self.fold.apply_model(event, first + index)
                if failed is None and event.type in _FAILURES:
                    failed = event
            elif self.fold.response_seq is None:
                self.fold.response_seq = first + index
        return failed

    def emit_response(self, event: Any, response: Any) -> None:
        """The one event of a model call that was not streamed."""
        self.check_open()
        self.fold.apply(self.log.append(MODEL, self.now(), self.agent.name, event, live=response, attempt=self.attempt))

    def emit_partial(self) -> None:
        """Items for what a response that broke off had already shown."""
        since = self.fold.response_seq
        if since is None:
            return
        self.fold.abandon_response()
        for message in partial_messages(self.log, since):
            self.add_item(MessageOutputItem(agent=self.agent, raw_item=message))

    def seal(self, status: RunStatus, error: BaseException | None) -> None:
        """Write `run.end`, once, whatever comes; everybody who waits is woken."""
        if self.ended:
            return
        self.error = error
        if isinstance(error, AgentsException) and error.run_data is None:
            error.run_data = self.error_details()
        info = None
        if error is not None:
            code, retryable = getattr(error, "code", None), getattr(error, "retryable", False)
            info = ErrorInfo(
                type(error).__name__, _text_of(error), code if isinstance(code, str) else None, retryable is True
            )
        usage = self.context.usage
        counts = {
            "requests": usage.requests,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
        data = RunEnd(status, info, plain(self.final_output), counts)
        live = error if error is not None else self.final_output
        self.fold.apply(self.log.append(RUN_END, self.now(), self.agent.name, data, live=live))
        self._open_gate()
        for waiter in self._end_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._end_waiters.clear()

    def error_details(self) -> RunErrorDetails:
        """What the run has, for an error's `run_data`."""
        return RunErrorDetails(
            input=self.input,
            new_items=list(self.items),
            raw_responses=list(self.fold.responses),
            last_agent=self.agent,
            context_wrapper=self.context,
            input_guardrail_results=[],
            output_guardrail_results=[],
        )

    @property
    def items(self) -> Sequence[RunItem]:
        """The run items so far, in the order of the log."""
        return self.fold.items


def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task from wherever this is called: a plain `for` reads a run that another thread's loop drives."""
    loop = task.get_loop()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        task.cancel()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)


def _text_of(error: BaseException) -> str:
    """The error's message; a class that fails to tell it must not keep `run.end` from being written."""
    try:
        return str(error)
    except Exception as failure:
        return f"(its message cannot be shown: {type(failure).__name__})"
