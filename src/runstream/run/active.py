"""One run while it is under way: its log, its owner's handles (cancel, readers, waiters), and the writing side.

The loop (`run/loop.py`) drives it; results and readers look at it. It knows nothing of models and tools.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import uuid
import weakref
from collections.abc import Coroutine
from typing import Any, Literal, cast

from runstream.agent.agent import Agent
from runstream.agent.context import RunContextWrapper
from runstream.agent.hooks import RunHooksBase
from runstream.agent.items import RunItem, ToolApprovalItem, TResponseInputItem
from runstream.errors import AgentsException, RunErrorDetails, UserError
from runstream.events.event import RUN_END, RUN_START, Event, RunStart, RunStatus
from runstream.flow.load import Place as QueuePlace
from runstream.log.base import Log
from runstream.log.cursor import Cursor
from runstream.log.fold import RunFold
from runstream.log.memory import MemoryLog
from runstream.run.config import RunConfig
from runstream.run.ending import run_end
from runstream.run.error_handlers import RunErrorHandlers
from runstream.run.guardrail_results import GuardrailResults
from runstream.run.history import latest_text, partial_messages
from runstream.run.inbox import Inbox
from runstream.run.observers import run_observers
from runstream.run.readers import Place, RunTask
from runstream.run.resume import Kept, Resumed, restore_approvals
from runstream.run.run_log import Durable, RunLog
from runstream.run.scope import Scope
from runstream.sessions.base import Session

__all__ = ["ActiveRun", "CancelMode"]

CancelMode = Literal["immediate", "after_turn"]

# Tasks of the runs that are under way: an event loop holds its tasks only weakly.
_running: set[asyncio.Task[Any]] = set()


class ActiveRun(RunLog):
    """State and handles of one run. With slots: it has too many attributes for Python's compact instances."""

    __slots__ = (
        "__weakref__",
        "_end_waiters",
        "_gate",
        "_readers",
        "_waiters",
        "_was_read",
        "auto_previous_response_id",
        "begun",
        "broken",
        "cancel_mode",
        "claimed_epoch",
        "config",
        "context",
        "conversation_id",
        "error",
        "error_handlers",
        "filtered",
        "final_output",
        "gate_seq",
        "guardrails",
        "hands_over",
        "hooks",
        "inbox",
        "input",
        "interruptions",
        "is_nested",
        "kept",
        "max_turns",
        "nested",
        "place",
        "previous_response_id",
        "resumed",
        "run_id",
        "scope",
        "session",
        "starting_agent",
        "streamed",
        "suspended",
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
        self.run_id = config.run_id or f"run_{uuid.uuid4().hex}"
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

        self.log = MemoryLog(self.run_id, max_events=config.kept_events)
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
        self.inbox = Inbox()
        self.guardrails = GuardrailResults()
        self.interruptions: list[ToolApprovalItem] = []
        """Calls that wait for a person, where the run has ended for their sake."""
        self.suspended: dict[str, Any] = {}
        """By call id: where the runs (`Standing`) of agents stand that were called as tools and wait for a person."""
        self.nested: dict[str, ActiveRun] = {}
        """By call id: the runs of agents that were called as tools, while they go on."""
        self.is_nested = False
        """Whether this is the run of an agent that another run calls as a tool: its log is a part of that run's."""
        self.hands_over = False
        """Whether another worker is to go on with the run after this turn."""
        self.kept = Kept()
        self.resumed: Resumed | None = None
        """What the run goes on from, where it is not a new one."""
        self.claimed_epoch: int | None = None
        """The epoch of a run that was claimed in its store before it began here."""
        self.place: QueuePlace | None = None
        """Where the run stands among those that share its limits on load, where there are such."""
        self.durable: Durable | None = None
        """Keeps the log beyond this process, where that was asked for."""
        self.broken: BaseException | None = None
        """Why the run is to end though nobody cancelled it: its lease, its store or its time is gone."""
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

    def go_on(self, resumed: Resumed, *, epoch: int | None = None) -> None:
        """Begin with that state instead of nothing; with an epoch, the log of the run itself goes on."""
        fold = resumed.fold
        self.resumed = resumed
        self.fold = fold
        self.claimed_epoch = epoch
        if epoch is not None:
            self.log = MemoryLog(self.run_id, max_events=self.config.kept_events, after=resumed.last_seq)
        if fold.agent is not None:
            self.agent = fold.agent
        if resumed.guardrails is not None:
            self.guardrails = resumed.guardrails
        self.turn = len(fold.responses)
        self.inbox.last_command = fold.last_command
        if resumed.context is not None:
            self.context = resumed.context
            return
        for response in fold.responses:
            self.context.usage.add(response.usage)
        restore_approvals(fold, self.context)

    def start(self, drive: Coroutine[Any, Any, None]) -> None:
        """Begin, as a task of the running event loop."""
        observers = () if self.is_nested else run_observers
        context = contextvars.copy_context() if observers else None
        for begins in observers:
            cast("contextvars.Context", context).run(begins, self)
        loop = asyncio.get_running_loop()
        self.task = RunTask(drive, loop=loop, name=f"runstream {self.run_id}", context=context)
        self.task.on_await = self._open_gate
        self.task.on_leave = self._waiter_left
        _running.add(self.task)
        asyncio.Task[None].add_done_callback(self.task, self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        # So that a result that is dropped is gone at once.
        cast("RunTask", task).forget()
        self.inbox.on_idle = None
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
        if self.place is not None and self.place.position:
            mode = "immediate"  # in the queue there is no turn to wait for
        if mode == "immediate":
            for place in self._readers:
                place.silenced = True
        if self.ended or self.silenced:
            return
        self.cancel_mode = mode
        # A task that has not begun never enters its body when it is cancelled: the loop looks at the mode instead.
        if mode == "immediate" and self.begun and self.task is not None:
            _cancel(self.task)

    def break_off(self, error: BaseException) -> None:
        """End the run as failed: something that it cannot do without is gone. To be called in its event loop."""
        if self.ended or self.silenced or self.broken is not None:
            return
        self.broken = error
        if self.begun and self.task is not None:
            self.task.cancel()

    def check_cancelled(self) -> None:
        """Raises CancelledError once the run is to end: code of the caller's may have swallowed the one it got."""
        if (
            self.silenced
            or self.closed
            or self.broken is not None
            or self.guardrails.tripped
            or (self.task is not None and self.task.cancelling())
        ):
            raise asyncio.CancelledError

    def error_told(self) -> None:
        """A reader has told the caller how the run ended: asyncio need not report the error as never retrieved."""
        if self.task is not None and self.task.done() and not self.task.cancelled():
            self.task.exception()

    @property
    def after(self) -> int:
        """Where readers begin that do not say it."""
        return self.log.first_seq - 1 if self.claimed_epoch is not None else 0

    def cursor_of(self, seq: int) -> str:
        """The cursor after that event, for readers in other processes. Raises UserError where there is no store."""
        if self.durable is None:
            raise UserError("a cursor for other processes needs a store: RunConfig(store=...)")
        return str(Cursor(self.durable.epoch if seq else 0, seq))

    def log_for(self, after: int, place: Place) -> Log:
        """The log as a reader that begins after that seq sees it."""
        if after + 1 < self.log.first_seq and self.durable is not None:
            # What is no longer kept here is read from the store, and what follows it too.
            place.feed = self.durable.feed(after)
            return place.feed
        return self.log

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

    @property
    def reader_lags(self) -> list[int]:
        """For each open reader: how many events it is behind the log."""
        return [self.log.last_seq - place.cursor for place in self._readers]

    def enter(self, place: Place) -> None:
        """A reader has begun."""
        place.silenced = self.silenced
        task = asyncio.current_task()
        place.task = None if task is None else weakref.ref(task)  # equal references for one task
        self._was_read = True
        self._readers.append(place)

    def leave(self, place: Place) -> None:
        """A reader goes away. With the last one goes a run that nobody else waits for, unless it is detached."""
        if place not in self._readers:
            return
        self._readers.remove(place)
        if place.feed is not None:
            place.feed.abandon()
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
            place.waits and place is not reader and place.task == reader.task is not None for place in self._readers
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

    def emit_start(self) -> None:
        options = {
            "previous_response_id": self.previous_response_id,
            "conversation_id": self.conversation_id,
            "auto_previous_response_id": self.auto_previous_response_id or None,
            "has_session": None if self.session is None else True,
        }
        given = {name: value for name, value in options.items() if value is not None}
        resumed = None if self.resumed is None else self.resumed.record
        self.append(RUN_START, RunStart(self.input, self.max_turns, given or None, resumed))

    def end_event(self, status: RunStatus, error: BaseException | None) -> Event:
        """The last event, not yet written."""
        if error is not None:
            self._tell(error)
        data = run_end(status, error, self.final_output, self.context.usage)
        live = error if error is not None else self.final_output
        log = self.log
        return Event(self.run_id, log.next_seq, self.now(), RUN_END, self.agent.name, 0, log.path, data, live)

    def _tell(self, error: BaseException) -> None:
        """Let the error have what the run had, as `run_data`; errors that are not ours as well, where they can."""
        if isinstance(error, AgentsException):
            error.run_data = error.run_data or self.error_details()
        elif not self.is_nested:
            # A class may refuse an attribute, in whatever way: the run ends all the same.
            with contextlib.suppress(Exception):
                if isinstance(getattr(error, "run_data", None), RunErrorDetails | None):
                    cast("Any", error).run_data = self.error_details()

    def seal(self, status: RunStatus, error: BaseException | None, event: Event | None = None) -> None:
        """Write `run.end`, once, whatever comes; everybody who waits is woken. `event` is the one that was kept."""
        if self.ended:
            return
        self.error = error
        if event is None:
            event = self.end_event(status, error)
        if self.durable is not None:
            self.durable.leave()
        self.log.extend([event])
        self.fold.apply(event)
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
            input_guardrail_results=list(self.guardrails.input),
            output_guardrail_results=list(self.guardrails.output),
            tool_input_guardrail_results=list(self.guardrails.tool_input),
            tool_output_guardrail_results=list(self.guardrails.tool_output),
            partial_output=self.partial_output,
        )

    @property
    def partial_output(self) -> Any:
        """What there is of an answer: the final output, else the text that the model shows or showed last."""
        if self.final_output is not None:
            return self.final_output
        if self.guardrails.withheld:
            return None
        since = self.fold.response_seq
        shown = [] if since is None else partial_messages(self.log, since)
        return latest_text(shown, self.items)


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
