"""When a run's guardrails are asked, and what follows: input, output, and the arguments and outputs of tools.

Guardrails are tasks of the run's scope: its end stops them, in bounded time. Must not know the loop. Until a check has
passed, what it is about is held back from the session; what has not passed never gets there.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar, cast

from runstream.agent.agent import Agent
from runstream.agent.guardrail import (
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    ToolInputGuardrailData,
    ToolInputGuardrailResult,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailData,
    ToolOutputGuardrailResult,
    ToolOutputGuardrailTripwireTriggered,
)
from runstream.agent.items import ItemHelpers, ReasoningItem, RunItem, ToolCallItem, ToolCallOutputItem
from runstream.agent.raw_item import read_field
from runstream.agent.stream_guardrail import StreamGuardrail
from runstream.agent.tool import FunctionTool
from runstream.agent.tool_context import ToolContext
from runstream.errors import AgentsException, UserError
from runstream.events.event import GuardrailOutcome, ToolOutcome
from runstream.run.active import ActiveRun
from runstream.run.config import RunConfig
from runstream.run.decide import FunctionCall
from runstream.run.guardrail_checks import Checks, Told, all_pass
from runstream.run.keeper import SessionKeeper

__all__ = [
    "BLOCKED_OUTPUT",
    "InputGate",
    "answer_call",
    "check_added_input",
    "check_output",
    "check_tool_input",
    "check_tool_output",
    "output_guardrails_of",
    "refuse_kept_by_provider",
    "stream_guardrails_of",
]

BLOCKED_OUTPUT = "Output withheld by an output guardrail."
"""What the session has of a tool's output that was to be the run's and was blocked; the SDK's words."""

_T = TypeVar("_T")


def output_guardrails_of(config: RunConfig, agent: Agent[Any]) -> list[OutputGuardrail[Any]]:
    """The checks on the agent's final output."""
    return [*agent.output_guardrails, *(config.output_guardrails or ())]


def stream_guardrails_of(config: RunConfig, agent: Agent[Any]) -> list[StreamGuardrail[Any]]:
    """The checks on the agent's text while it streams."""
    return [*agent.stream_guardrails, *(config.stream_guardrails or ())]


def _input_guardrails_of(config: RunConfig, agent: Agent[Any]) -> list[InputGuardrail[Any]]:
    return [*agent.input_guardrails, *(config.input_guardrails or ())]


def refuse_kept_by_provider(config: RunConfig, agent: Agent[Any]) -> None:
    """Raises UserError where the output is checked and the provider keeps the conversation: what is blocked would stay
    there. (Chat Completions keeps none.)"""
    from runstream.models.chat_completions import OpenAIChatCompletionsModel

    guarded = output_guardrails_of(config, agent) or stream_guardrails_of(config, agent)
    model = agent.model if config.model is None else config.model
    if guarded and not isinstance(model, OpenAIChatCompletionsModel):
        raise UserError(
            f"Agent {agent.name!r}: output and stream guardrails cannot be combined with conversation_id, "
            "previous_response_id or auto_previous_response_id: what they block would stay in the server-managed "
            "conversation history. Let a session keep the conversation"
        )


class InputGate:
    """The checks on what a run begins with: some before anything else, the others beside its first turn."""

    def __init__(self, run: ActiveRun, keeper: SessionKeeper) -> None:
        self._run = run
        self._keeper = keeper
        self._beside: list[InputGuardrail[Any]] = []
        agent = run.starting_agent
        guardrails = self._due(_input_guardrails_of(run.config, agent))
        self._agent = agent
        self._before = [guardrail for guardrail in guardrails if not guardrail.run_in_parallel]
        self._beside = [guardrail for guardrail in guardrails if guardrail.run_in_parallel]

    def _due(self, guardrails: Sequence[InputGuardrail[Any]]) -> list[InputGuardrail[Any]]:
        """Those that have not let the input pass, as far as the log knows. A second turn tells that all had."""
        run = self._run
        if run.guardrails.input_passed or (run.resumed is not None and len(run.fold.responses) > 1):
            return []
        told = [checked for _, checked in run.fold.guardrails if checked.about == "input"]
        passed = Counter(checked.name for checked in told if checked.outcome == "passed")
        due: list[InputGuardrail[Any]] = []
        for guardrail in guardrails:
            name = guardrail.get_name()
            if passed[name]:
                passed[name] -= 1  # several may have one name
            else:
                due.append(guardrail)
        return due

    async def pass_before(self, base: Sequence[Any]) -> None:
        """Make the checks that come before the first model call."""
        if not self._before:
            self._passed()
            return
        self._keeper.is_held = True
        await all_pass(self._run, self._checks(self._before, base))
        self._before = []
        self._passed()

    async def pass_beside(self, base: Sequence[Any], work: Coroutine[Any, Any, _T]) -> _T:
        """The work's result, once the other checks have passed, too; the first time only."""
        if not self._beside:
            return await work
        run = self._run
        self._keeper.is_held = True
        guardrails, self._beside = self._beside, []
        checks = self._checks(guardrails, base)
        result = await all_pass(run, checks, run.scope.spawn(work, f"first turn of {run.run_id}"))
        self._passed()
        return cast("Any", result)

    def _passed(self) -> None:
        if not self._before and not self._beside:
            self._keeper.is_held = False
            self._run.guardrails.input_passed = True

    def _checks(self, guardrails: Sequence[InputGuardrail[Any]], base: Sequence[Any]) -> Checks:
        # With a session the model sees more than the new input, and so do they.
        given = self._run.input if self._run.session is None else list(base)
        return _input_checks(self._run, self._agent, guardrails, given, "input")


def _input_checks(
    run: ActiveRun,
    agent: Agent[Any],
    guardrails: Sequence[InputGuardrail[Any]],
    given: str | list[Any],
    about: Literal["input", "added_input"],
) -> Checks:
    checks = [(each.get_name(), each.run(agent, copy.deepcopy(given), run.context)) for each in guardrails]
    return Checks(run, agent, about, checks, run.guardrails.input, InputGuardrailTripwireTriggered)


async def check_added_input(run: ActiveRun, keeper: SessionKeeper, items: list[Any]) -> None:
    """Check what people say while the run goes on, before the model sees it. Raises the tripwire's error."""
    guardrails = _input_guardrails_of(run.config, run.agent)
    if guardrails:
        keeper.is_held = True
        await all_pass(run, _input_checks(run, run.agent, guardrails, items, "added_input"))
        keeper.is_held = False


async def check_output(run: ActiveRun, keeper: SessionKeeper, output: Any) -> None:
    """Check the final output of the active agent. Raises the tripwire's error, or that of a check that failed.

    The session gets nothing of the response while the checks go on, and after a tripwire only the calls of tools and
    their outputs, which have had their effects; none of them if there was reasoning, which must not stand alone.
    """
    agent = run.agent
    guardrails = output_guardrails_of(run.config, agent)
    if not guardrails:
        return
    checks = [(each.get_name(), each.run(run.context, agent, output)) for each in guardrails]
    keeper.is_held = run.guardrails.withheld = True
    try:
        await all_pass(
            run, Checks(run, agent, "output", checks, run.guardrails.output, OutputGuardrailTripwireTriggered)
        )
    except OutputGuardrailTripwireTriggered:
        keeper.replace_since(run.fold.response_index, _allowed_of(run.items[run.fold.response_index :]))
        keeper.is_held = False
        raise
    except Exception:
        keeper.is_held = run.guardrails.withheld = False  # nobody has said that anything is wrong with it
        raise
    keeper.is_held = run.guardrails.withheld = False


def _allowed_of(items: Sequence[RunItem]) -> list[RunItem]:
    """What the session may have of a response that was blocked."""
    if any(isinstance(item, ReasoningItem) for item in items):
        return []
    kept: list[RunItem] = []
    for item in items:
        if isinstance(item, ToolCallItem):
            kept.append(item)
        elif isinstance(item, ToolCallOutputItem) and read_field(item.raw_item, "type") == "function_call_output":
            # Tools' outputs in the last turn: one of them was the run's.
            raw = {**cast("dict[str, Any]", item.raw_item), "output": BLOCKED_OUTPUT}
            kept.append(replace(item, raw_item=cast("Any", raw), output=BLOCKED_OUTPUT))
    return kept


def answer_call(
    run: ActiveRun, planned: FunctionCall, text: str, outcome: ToolOutcome = "rejected"
) -> ToolCallOutputItem:
    """Tell the model this in the place of the tool's output."""
    raw = ItemHelpers.tool_call_output_item(planned.call, text)
    origin = getattr(planned.tool, "origin", None)
    item = ToolCallOutputItem(agent=run.agent, raw_item=raw, output=text, tool_origin=origin, outcome=outcome)
    run.emit_item(item)
    return item


async def check_tool_input(run: ActiveRun, tool: FunctionTool, context: ToolContext[Any]) -> str | None:
    """What the model is told instead of the tool's output, where a guardrail rejects the call; None where it may be
    made. Raises ToolInputGuardrailTripwireTriggered, UserError where a guardrail fails."""
    asked = _Asked(run, tool, context, "tool_input")
    try:
        for guardrail in tool.tool_input_guardrails or ():
            ask = partial(guardrail.run, ToolInputGuardrailData(context=context, agent=run.agent))
            output = await asked.ask(guardrail.get_name(), ask)
            run.guardrails.tool_input.append(ToolInputGuardrailResult(guardrail, output))
            behavior = output.behavior
            if behavior["type"] == "raise_exception":
                raise ToolInputGuardrailTripwireTriggered(guardrail, output)
            if behavior["type"] == "reject_content":
                return behavior["message"]
        asked.passed = True
        return None
    finally:
        asked.tell()


async def check_tool_output(run: ActiveRun, tool: FunctionTool, context: ToolContext[Any], output: Any) -> Any:
    """The tool's output, or what a guardrail puts in its place. Raises ToolOutputGuardrailTripwireTriggered, UserError
    where a guardrail fails."""
    asked = _Asked(run, tool, context, "tool_output")
    try:
        for guardrail in tool.tool_output_guardrails or ():
            ask = partial(guardrail.run, ToolOutputGuardrailData(context=context, agent=run.agent, output=output))
            outcome = await asked.ask(guardrail.get_name(), ask)
            run.guardrails.tool_output.append(ToolOutputGuardrailResult(guardrail, outcome))
            behavior = outcome.behavior
            if behavior["type"] == "raise_exception":
                raise ToolOutputGuardrailTripwireTriggered(guardrail, outcome)
            if behavior["type"] == "reject_content":
                return behavior["message"]
        asked.passed = True
        return output
    finally:
        asked.tell()


_TOOL_OUTCOMES: dict[str, GuardrailOutcome] = {
    "allow": "passed",
    "reject_content": "rejected",
    "raise_exception": "tripped",
}


class _Asked:
    """What the guardrails of one call have decided, one after the other."""

    def __init__(
        self, run: ActiveRun, tool: FunctionTool, context: ToolContext[Any], about: Literal["tool_input", "tool_output"]
    ) -> None:
        self._run = run
        self._agent = run.agent
        self._tool = tool
        self._call_id = context.tool_call_id
        self._about: Literal["tool_input", "tool_output"] = about
        self._told: list[Told] = []
        self.passed = False
        """Whether all of them have let it pass."""

    async def ask(self, name: str, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What the guardrail says. Raises UserError where it fails."""
        began_at, now = self._run.now(), self._run.now
        try:
            output = await ask()
        except Exception as error:
            self._told.append(Told(name, "failed", began_at, now()))
            if isinstance(error, AgentsException):
                raise
            raise UserError(f"Error running tool {self._tool.name}: its guardrail {name!r} failed: {error}") from error
        behavior = output.behavior
        outcome = _TOOL_OUTCOMES.get(behavior["type"], "passed")
        self._told.append(Told(name, outcome, began_at, now(), output.output_info, behavior.get("message")))
        return output

    def tell(self) -> None:
        """Write it into the log, once the last one was asked."""
        for told in self._told:
            since, more = told.began_at, {"tool_name": self._tool.name, "call_id": self._call_id}
            checked = told.event(self._about, passed=self.passed, waited_since=since, **more)
            self._run.emit_guardrail(checked, self._agent)
