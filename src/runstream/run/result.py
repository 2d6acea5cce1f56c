"""What a run gives: `RunResult` once it is over, `RunResultStreaming` while it goes on. Both read the run's log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

from runstream.agent.agent import Agent
from runstream.agent.agent_tool import AgentToolInvocation
from runstream.agent.context import RunContextWrapper
from runstream.agent.guardrail import (
    InputGuardrailResult,
    OutputGuardrailResult,
    ToolInputGuardrailResult,
    ToolOutputGuardrailResult,
)
from runstream.agent.items import ItemHelpers, ModelResponse, RunItem, ToolApprovalItem, TResponseInputItem
from runstream.agent.stream_guardrail import StreamGuardrailResult
from runstream.agent.tool_context import ToolContext
from runstream.errors import RunErrorDetails, RunSealed, UserError
from runstream.events.event import RunStatus
from runstream.flow.pipe import pipe
from runstream.run.active import ActiveRun, CancelMode
from runstream.run.answering import answer
from runstream.run.config import DEFAULT_MAX_TURNS
from runstream.run.followed import FollowedRun
from runstream.run.history import ends_incomplete, input_items_of, latest_text
from runstream.run.inbox import input_command
from runstream.run.nested import pending_of
from runstream.run.output_reader import OutputReader
from runstream.run.readers import RunTask
from runstream.run.standing import Standing
from runstream.run.state import RunState
from runstream.run.stream_events import EventReader, StreamEvent, StreamReader

__all__ = ["AgentToolInvocation", "RunResult", "RunResultBase", "RunResultStreaming", "ToInputListMode"]

T = TypeVar("T")

ToInputListMode = Literal["preserve_all", "normalized"]


class RunResultBase:
    """What both kinds of result offer."""

    input: str | list[TResponseInputItem]
    new_items: list[RunItem]
    raw_responses: list[ModelResponse]
    final_output: Any
    context_wrapper: RunContextWrapper[Any]
    interruptions: list[ToolApprovalItem]

    _omit_reasoning_ids: bool
    _filtered: tuple[int, tuple[RunItem, ...]] | None

    @property
    def last_agent(self) -> Agent[Any]:
        """The agent that was active last."""
        raise TypeError(f"{type(self).__name__} has no last_agent")

    @property
    def agent_tool_invocation(self) -> AgentToolInvocation | None:
        """The call that this run carries out, where its agent runs as a tool; None for other runs."""
        context = self.context_wrapper
        if not isinstance(context, ToolContext):
            return None
        return AgentToolInvocation(context.tool_name, context.tool_call_id, context.tool_arguments)

    @property
    def last_response_id(self) -> str | None:
        """The provider's id of the last response, to go on from; None where there is none."""
        return self.raw_responses[-1].response_id if self.raw_responses else None

    @property
    def answered_by(self) -> str | None:
        """The model that gave the last response, where it is known."""
        return self.raw_responses[-1].answered_by if self.raw_responses else None

    @property
    def fallback_reason(self) -> str | None:
        """Why another model than the first choice gave the last response; None where it was the first choice."""
        return self.raw_responses[-1].fallback_reason if self.raw_responses else None

    @property
    def partial_output(self) -> Any:
        """What there is of an answer: the final output; else the text of the message that is under way or was the last
        one; None where there is none."""
        return self.final_output if self.final_output is not None else latest_text((), self.new_items)

    @property
    def is_partial(self) -> bool:
        """Whether `partial_output` is less than the run's whole answer: there is no final output, or the model broke
        off in it and the run went on with what there was (`RunConfig.on_broken_stream`)."""
        return self.final_output is None or ends_incomplete(self.new_items)

    def final_output_as(self, cls: type[T], raise_if_incorrect_type: bool = False) -> T:
        """The final output, for the type checker. Raises TypeError, if asked to, where it is of another type."""
        if raise_if_incorrect_type and not isinstance(self.final_output, cls):
            raise TypeError(f"Final output is not of type {cls.__name__}: it is {type(self.final_output).__name__}")
        return cast("T", self.final_output)

    def to_input_list(self, *, mode: ToInputListMode = "preserve_all") -> list[TResponseInputItem]:
        """The input and everything since as input items: with the next user message added, the input of the next run.

        `mode="normalized"` gives what the last agent saw: where a handoff's filter took items out, without them.
        """
        if mode not in ("preserve_all", "normalized"):
            raise UserError(f"mode must be 'preserve_all' or 'normalized', not {mode!r}")
        items: Sequence[RunItem] = self.new_items
        if mode == "normalized" and self._filtered is not None:
            count, kept = self._filtered
            items = [*kept, *items[count:]]
        new = input_items_of(items, omit_reasoning_ids=self._omit_reasoning_ids)
        return [*ItemHelpers.input_to_new_input_list(self.input), *new]

    def release_agents(self, *, release_new_items: bool = True) -> None:
        """Hold the agents weakly from now on, so that a kept result does not keep them alive."""
        if release_new_items:
            for item in self.new_items:
                item.release_agent()


@dataclass
class RunResult(RunResultBase):
    """The outcome of a run that is over."""

    input: str | list[TResponseInputItem]
    """The original input; a handoff's filter may have replaced it."""
    new_items: list[RunItem]
    """What the run produced: messages, tool calls and outputs, handoffs, reasoning."""
    raw_responses: list[ModelResponse]
    final_output: Any
    """The last agent's output: a string, or an object of its `output_type`."""
    input_guardrail_results: list[InputGuardrailResult]
    output_guardrail_results: list[OutputGuardrailResult]
    tool_input_guardrail_results: list[ToolInputGuardrailResult]
    tool_output_guardrail_results: list[ToolOutputGuardrailResult]
    context_wrapper: RunContextWrapper[Any]
    _last_agent: Agent[Any]
    max_turns: int | None = DEFAULT_MAX_TURNS
    interruptions: list[ToolApprovalItem] = field(default_factory=list[ToolApprovalItem])
    stream_guardrail_results: list[StreamGuardrailResult] = field(
        default_factory=list[StreamGuardrailResult], kw_only=True
    )
    """One for each that watched a text, with its delays."""
    run_id: str | None = field(default=None, kw_only=True)
    """Names the run, in its store too; None for a result that no run has made."""
    _omit_reasoning_ids: bool = field(default=False, kw_only=True, repr=False)
    _filtered: tuple[int, tuple[RunItem, ...]] | None = field(default=None, kw_only=True, repr=False)
    _standing: Standing | None = field(default=None, kw_only=True, repr=False)

    @classmethod
    def of(cls, run: ActiveRun) -> RunResult:
        """The result of a run that has ended."""
        return cls(
            input=run.input,
            new_items=list(run.items),
            raw_responses=list(run.fold.responses),
            final_output=run.final_output,
            input_guardrail_results=list(run.guardrails.input),
            output_guardrail_results=list(run.guardrails.output),
            tool_input_guardrail_results=list(run.guardrails.tool_input),
            tool_output_guardrail_results=list(run.guardrails.tool_output),
            stream_guardrail_results=list(run.guardrails.stream),
            context_wrapper=run.context,
            _last_agent=run.agent,
            max_turns=run.max_turns,
            interruptions=list(run.interruptions),
            run_id=run.run_id,
            _omit_reasoning_ids=run.omits_reasoning_ids,
            _filtered=run.filtered,
            _standing=Standing.of(run),
        )

    @property
    def last_agent(self) -> Agent[Any]:
        return self._last_agent

    def to_state(self) -> RunState[Any]:
        """Where the run stands, to be answered, kept, and given to a runner. Each call gives a copy of its own.

        Raises UserError for a result that no run has made.
        """
        if self._standing is None:
            raise UserError("this result was not made by a run: it has no state to go on from")
        return RunState.standing_at(self._standing)

    def __str__(self) -> str:
        return _describe(self)


class RunResultStreaming(RunResultBase):
    """A run that is under way. Iterate over it, or over one of its readers; any number of them, at any time.

    `async for event in result` and `for event in result` (outside an event loop) give what `stream_events()` gives.
    `async with result:` ends the run when the block is left early.
    """

    def __init__(self, run: ActiveRun | FollowedRun, start: Any) -> None:
        self._run = run
        self._begin = start

    # The state, as far as the run has come.

    @property
    def run_id(self) -> str:
        """Names the run; every event carries it."""
        return self._run.run_id

    @property
    def input(self) -> str | list[TResponseInputItem]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The original input; a handoff's filter may have replaced it."""
        return self._run.input

    @property
    def new_items(self) -> list[RunItem]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the run has produced so far."""
        return list(self._run.items)

    @property
    def raw_responses(self) -> list[ModelResponse]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model's complete responses so far."""
        return list(self._run.fold.responses)

    @property
    def final_output(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The final output; None while there is none."""
        return self._run.final_output

    @property
    def partial_output(self) -> Any:
        """What there is of an answer: the final output; else the text of the message that is under way or was the last
        one; None where there is none."""
        return self._run.partial_output

    @property
    def queue_position(self) -> int:
        """How many runs have to begin before this one (`RunConfig.load_limits`): 1 is next; 0 once it runs. Of a run
        that is carried out elsewhere, as far as anybody has read."""
        if isinstance(self._run, FollowedRun):
            return self._run.fold.queue_position
        return 0 if self._run.place is None else self._run.place.position

    @property
    def context_wrapper(self) -> RunContextWrapper[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._run.context

    @property
    def _omit_reasoning_ids(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._run.omits_reasoning_ids

    @property
    def _filtered(self) -> tuple[int, tuple[RunItem, ...]] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._run.filtered

    @property
    def interruptions(self) -> list[ToolApprovalItem]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Calls that wait for a person's approval, where the run has ended for their sake."""
        return list(self._run.interruptions)

    # What guardrails have found so far; of a run that goes on elsewhere, or did, what its log tells.

    @property
    def input_guardrail_results(self) -> list[InputGuardrailResult]:
        return list(self._run.guardrails.input)

    @property
    def output_guardrail_results(self) -> list[OutputGuardrailResult]:
        return list(self._run.guardrails.output)

    @property
    def tool_input_guardrail_results(self) -> list[ToolInputGuardrailResult]:
        return list(self._run.guardrails.tool_input)

    @property
    def tool_output_guardrail_results(self) -> list[ToolOutputGuardrailResult]:
        return list(self._run.guardrails.tool_output)

    @property
    def stream_guardrail_results(self) -> list[StreamGuardrailResult]:
        """One for each that watched a text, with its delays."""
        return list(self._run.guardrails.stream)

    @property
    def current_agent(self) -> Agent[Any]:
        """The active agent."""
        return self._run.agent

    @property
    def last_agent(self) -> Agent[Any]:
        return self._run.agent

    @property
    def current_turn(self) -> int:
        """Number of the model call that is under way or was last, from 1; 0 before the first."""
        return self._run.turn

    @property
    def max_turns(self) -> int | None:
        return self._run.max_turns

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is to come: the run has ended, or an immediate cancel was asked for."""
        return self._run.ended or self._run.silenced

    @property
    def status(self) -> Literal["running"] | RunStatus:
        """`running`, until the log has its end; then `completed`, `failed`, `cancelled` or `interrupted`."""
        end = self._run.fold.end
        return "running" if end is None else end.status

    @property
    def trace(self) -> None:
        """None: there are no traces."""
        return

    @property
    def run_loop_task(self) -> RunTask | None:
        """The task of the run; None before it has started. Awaiting it raises the run's error."""
        return self._run.task

    @property
    def run_loop_exception(self) -> BaseException | None:
        """The run's error, once it has ended with one."""
        if self._run.error is not None:
            self._run.error_told()
        return self._run.error

    @property
    def run_data(self) -> RunErrorDetails:
        """What the run has produced, in the form that errors carry."""
        return self._run.error_details()

    def to_state(self) -> RunState[Any]:
        """Where the run stands now, to be answered, kept, and given to a runner once it has ended.

        Each call gives a copy of its own. Raises UserError for a run that has not begun.
        """
        return RunState.standing_at(Standing.of(self._run))

    # Readers.

    def stream_events(self, *, nested: bool = False, progress: bool = False) -> StreamReader:
        """The events of the SDK, from the first one, as they come. Raises the run's error at its end.

        With `nested`, those of agents that run as tools (`Agent.as_tool`) come among them, with the `path` of calls
        that they run under. With `progress`, what tools report comes as `ToolProgressStreamEvent`.

        While the caller's first iterator is open, the next turn starts when it has been handed the last event of this
        one. After `cancel()` nothing more comes. They come through `RunConfig.stream_operators`, where there are such.
        """
        reader = StreamReader(self._run, self._start, nested=nested, progress=progress)
        operators = self._run.config.stream_operators
        # What an operator makes of them is its own affair; `Piped` can do what readers can.
        return cast("StreamReader", pipe(reader, *operators)) if operators and not self._run.is_nested else reader

    def stream_output(self) -> OutputReader:
        """The output while it is written: growing snapshots of its data (the text, where the agent has no output type),
        then the final output itself. Raises the run's error at its end, that of an output that is not of its type too.

        A snapshot is made whenever the reader comes to look, of all that has come until then. A new message, a retried
        call and another turn begin anew. Nothing comes in place of a final output where the run was cancelled.
        """
        return OutputReader(self._run, self._start)

    def events(self, after: int | None = None) -> EventReader:
        """The numbered events after that seq, to `run.end`, also of a run that failed or was cancelled.

        They begin with the first one, or where the run was attached to. Raises UserError where the log has no such seq
        yet, CursorExpired where it is no longer kept.
        """
        if after is not None and (not isinstance(cast("object", after), int) or isinstance(after, bool) or after < 0):
            raise UserError(f"after must be a whole number from 0, the seq of the last event seen, not {after!r}")
        return EventReader(self._run, self._start, after)

    def cursor(self, seq: int) -> str:
        """The place after that event as readers in other processes name it: for `Runner.attach(after=...)`.

        Raises UserError for a run that no store keeps.
        """
        return self._run.cursor_of(seq)

    def __aiter__(self) -> StreamReader:
        return self.stream_events()

    def __iter__(self) -> Iterator[StreamEvent]:
        from runstream.run.blocking import iterate

        return iterate(self.stream_events, self._run)

    # Control.

    def cancel(self, mode: CancelMode = "immediate") -> None:
        """Stop the run: at once, or once the current turn's tools, handoff and session are done.

        What readers saw is kept in the history, every open tool call is answered, and the session is saved.
        """
        self._run.cancel(mode)

    @property
    def pending_approvals(self) -> list[ToolApprovalItem]:
        """The calls that wait for a person now; those that a run has ended for are in `interruptions`."""
        return [] if self._run.ended else pending_of(self._run)

    async def approve(self, call: ToolApprovalItem | str, *, always: bool = False) -> None:
        """Let a call be made that waits for approval; with `always`, all later calls of the tool by that agent.

        `call` is the request or its call id. The same answer again changes nothing. Raises UserError for a call that
        does not wait, and RunSealed once the run has ended.
        """
        await answer(self._run, call, approved=True, always=always)

    async def reject(self, call: ToolApprovalItem | str, *, message: str | None = None, always: bool = False) -> None:
        """Let a call not be made; the model is told the message. Otherwise as `approve`."""
        await answer(self._run, call, approved=False, always=always, message=message)

    async def send(self, input: str | list[TResponseInputItem]) -> None:
        """Say something more while the run goes on: the model sees it in its next turn. A run that would have ended
        with this turn takes another one for it.

        Raises UserError for what is no input, and RunSealed once the run has its output or has ended.
        """
        run = self._run
        command = input_command(input)
        if run.ended or run.cancel_mode is not None or (isinstance(run, ActiveRun) and run.inbox.closed):
            raise RunSealed(run.run_id)
        if run.durable is not None:
            await run.durable.send(command)
        elif isinstance(run, ActiveRun):
            run.inbox.add_input(input)

    async def wait(self) -> RunResultStreaming:
        """Wait for the end, without reading. Returns this result; raises the run's error."""
        self._start()
        await self._run.wait_ended()
        self._run.error_told()
        if self._run.error is not None:
            raise self._run.error
        return self

    async def __aenter__(self) -> RunResultStreaming:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._run
        if not run.ended and run.config.on_abandon == "cancel":
            run.cancel("immediate")
        if run.cancel_mode is not None:
            await run.wait_ended()

    def _start(self) -> None:
        if self._run.task is None:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                raise UserError(
                    "no event loop is running: iterate with a plain `for`, or use asyncio.run(...)"
                ) from None
            self._begin()

    def __str__(self) -> str:
        return _describe(self)


def _describe(result: RunResult | RunResultStreaming) -> str:
    output = repr(result.final_output)
    return (
        f"{type(result).__name__}(last_agent={result.last_agent.name!r}, {len(result.new_items)} items, "
        f"{len(result.raw_responses)} responses, final_output={output if len(output) <= 200 else output[:200] + '…'})"
    )
