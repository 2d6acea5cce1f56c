"""One turn: a model call, and what the model asked for carried out. Knows nothing of how runs begin and end."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.handoff import Handoff, handoff
from runstream.agent.items import ModelResponse, ToolApprovalItem, ToolCallOutputItem, TResponseInputItem
from runstream.agent.output import AgentOutputSchemaBase, output_schema_of
from runstream.agent.tool import FunctionTool, FunctionToolResult, HostedMCPTool
from runstream.agent.usage import Usage
from runstream.errors import ModelBehaviorError, ModelRefusalError, UserError
from runstream.run.active import ActiveRun
from runstream.run.approvals import reject, sort_by_approval, take_answers
from runstream.run.decide import Final, FunctionCall, Plan, Toolbox, decide_end, plan_of
from runstream.run.fallback import handled
from runstream.run.handover import hand_over
from runstream.run.history import Conversation
from runstream.run.keeper import SessionKeeper
from runstream.run.model_call import call_model, input_of, model_of, request_of, settings_of
from runstream.run.tools import (
    answer_uncertain_call,
    answer_unknown_calls,
    call_hooks,
    final_output_of_tools,
    run_functions,
)

__all__ = ["Progress", "TurnEnd", "finish_open_turn", "take_in", "take_turn"]

_logger = logging.getLogger("runstream")


class Progress:
    """Where the turns stand: what the end of the run needs of them, also when they break off."""

    __slots__ = ("base", "collisions", "conversation", "keeper", "taken_in", "toolbox")

    conversation: Conversation
    base: Sequence[TResponseInputItem]
    """What the run began with, as input items."""

    def __init__(self, keeper: SessionKeeper, *, taken_in: int) -> None:
        self.keeper = keeper
        self.toolbox: Toolbox | None = None
        """What the agent of this turn may call."""
        self.collisions: set[str] = set()
        """What the log was told of tools of one name: once is enough."""
        self.taken_in = taken_in
        """How many of the run's responses have their items in the log."""


@dataclass(slots=True)
class TurnEnd:
    """What a turn came to."""

    final: Final | None = None
    used_tools: bool = False
    waiting: list[ToolApprovalItem] = field(default_factory=list[ToolApprovalItem])
    """Requests for approval without which the turn cannot end."""


async def take_turn(run: ActiveRun, progress: Progress, *, tools_used: bool) -> TurnEnd:
    """Ask the model, and carry out what it asks for."""
    agent, conversation = run.agent, progress.conversation
    schema = output_schema_of(agent.output_type)
    told, prompt = await input_of(run, conversation)
    progress.toolbox = toolbox = await _toolbox_of(run, progress, agent)
    settings = settings_of(run, agent, tools_used=tools_used)
    request = await request_of(run, told, prompt, toolbox, schema, conversation, settings)
    model = model_of(run, agent)
    input_items = cast("list[TResponseInputItem]", list(request.input))
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_llm_start(run.context, agent, request.system_instructions, input_items),
        agent.hooks is not None
        and agent.hooks.on_llm_start(run.context, agent, request.system_instructions, input_items),
    )
    run.check_cancelled()
    first_item = len(run.items)
    response = await call_model(run, model, request)
    run.check_open()
    plan = take_in(run, progress, response)
    conversation.answered(response)
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_llm_end(run.context, agent, response),
        agent.hooks is not None and agent.hooks.on_llm_end(run.context, agent, response),
    )
    return await _carry_out(run, progress, plan, schema, first_item)


async def finish_open_turn(run: ActiveRun, progress: Progress) -> TurnEnd:
    """Go on with a turn whose response is in the log, and maybe some of what it asked for."""
    agent, fold = run.agent, run.fold
    schema = output_schema_of(agent.output_type)
    progress.toolbox = await _toolbox_of(run, progress, agent)
    first_item = fold.response_index
    plan = plan_of(agent, progress.toolbox, fold.responses[-1])
    progress.taken_in = len(fold.responses)
    logged = len([item for item in run.items[first_item:] if not _is_answer(item)])
    for item in plan.items[logged:]:
        run.add_item(item)  # the worker was stopped between the response and its items
    return await _carry_out(run, progress, plan, schema, first_item)


def _is_answer(item: Any) -> bool:
    return isinstance(item, ToolCallOutputItem | ToolApprovalItem)


async def _carry_out(
    run: ActiveRun, progress: Progress, plan: Plan, schema: AgentOutputSchemaBase | None, first_item: int
) -> TurnEnd:
    if plan.error is not None:
        raise plan.error
    run.check_cancelled()
    conversation = progress.conversation
    answered = _answers(run, first_item)
    plan.unknown = [call for call in plan.unknown if call.call.call_id not in answered]
    await answer_unknown_calls(run, plan)
    results, waiting = await _carry_out_functions(run, plan.functions, answered)
    if waiting:
        return TurnEnd(used_tools=True, waiting=waiting)
    if plan.handoffs:
        await hand_over(run, plan.handoffs, conversation, first_item)
        return TurnEnd(used_tools=True)
    final = await final_output_of_tools(run, results)
    if final is None:
        final = await _end_of_turn(run, plan, schema, progress.base)
    conversation.items += run.items[first_item:]
    return TurnEnd(final, used_tools=plan.used_tools)


def _answers(run: ActiveRun, first_item: int) -> dict[str, ToolCallOutputItem]:
    """The outputs that the calls of the turn have already, where it is one that goes on."""
    outputs: dict[str, ToolCallOutputItem] = {}
    if run.resumed is not None:
        for item in run.items[first_item:]:
            if isinstance(item, ToolCallOutputItem) and item.call_id is not None:
                outputs[item.call_id] = item
    return outputs


async def _carry_out_functions(
    run: ActiveRun, calls: Sequence[FunctionCall], answered: dict[str, ToolCallOutputItem]
) -> tuple[list[FunctionToolResult], list[ToolApprovalItem]]:
    """Run the tools that may run, until none waits for a person or the run does not wait for people."""
    results: dict[int, FunctionToolResult] = {}
    left: list[FunctionCall] = []
    for planned in calls:
        output = answered.get(planned.call.call_id)
        if output is None:
            left.append(planned)
        else:
            results[id(planned)] = FunctionToolResult(tool=planned.tool, output=output.output, run_item=output)
    # What was open when a worker broke off may have run, unless a person still had to allow it.
    uncertain = run.resumed is not None and run.resumed.taken_over
    while left:
        found = await sort_by_approval(run, left)
        for planned, message in found.rejected:
            item = await reject(run, planned, message)
            results[id(planned)] = FunctionToolResult(tool=planned.tool, output=item.output, run_item=item)
        ready = found.ready
        if uncertain:
            for planned in [each for each in ready if not each.tool.idempotent]:
                ready.remove(planned)
                item = answer_uncertain_call(run, planned)
                results[id(planned)] = FunctionToolResult(tool=planned.tool, output=item.output, run_item=item)
            uncertain = False
        if ready or found.waiting:
            await run.committed()  # the call is kept before its tool starts, the request before a person is asked
        for planned, result in zip(ready, await run_functions(run, ready), strict=True):
            results[id(planned)] = result
        if not found.waiting:
            break
        if run.config.on_approval == "interrupt":
            return _in_order(calls, results), found.waiting
        if run.durable is not None:
            run.durable.set_status("waiting")
        while not take_answers(run, found.waiting):
            await run.inbox.wait_answer()
        left = found.waiting_calls
    return _in_order(calls, results), []


def _in_order(calls: Sequence[FunctionCall], results: dict[int, FunctionToolResult]) -> list[FunctionToolResult]:
    return [results[id(planned)] for planned in calls if id(planned) in results]


def take_in(run: ActiveRun, progress: Progress, response: ModelResponse) -> Plan:
    """Count a complete response and put its items into the log."""
    progress.taken_in = len(run.fold.responses)
    usage = response.usage
    if run.attempt > 1 and usage.requests == 1 and not usage.total_tokens:
        # The attempts that failed have entries of their own; the one that succeeded gets one too.
        usage = Usage.of_failed_request()
    run.context.usage.add(usage)
    plan = plan_of(run.agent, cast("Toolbox", progress.toolbox), response)
    for item in plan.items:
        run.add_item(item)
    return plan


async def _toolbox_of(run: ActiveRun, progress: Progress, agent: Agent[Any]) -> Toolbox:
    """What the agent may call now. Raises UserError, before any request, for declarations that cannot be run."""
    tools = await agent.get_all_tools(run.context)
    for tool in tools:
        if isinstance(tool, FunctionTool):
            for name in ("tool_input_guardrails", "tool_output_guardrails", "defer_loading"):
                if getattr(tool, name):
                    raise UserError(f"Tool {tool.name!r}: {name} is not supported by this version of runstream")
        elif isinstance(tool, HostedMCPTool) and tool.on_approval_request is not None:
            raise UserError(
                "HostedMCPTool: on_approval_request is not supported by this version of runstream; set "
                "`require_approval` of the tool_config to 'never'"
            )
    for name in ("input_guardrails", "output_guardrails"):
        if getattr(agent, name):
            raise UserError(f"Agent {agent.name!r}: {name} is not supported by this version of runstream")
    handoffs: list[Handoff[Any, Any]] = []
    for target in agent.handoffs:
        declared = target if isinstance(target, Handoff) else handoff(target)
        enabled = declared.is_enabled
        if not isinstance(enabled, bool):
            answer = enabled(run.context, agent)
            enabled = bool(await answer if inspect.isawaitable(answer) else answer)
        if enabled:
            handoffs.append(declared)
    toolbox = Toolbox(agent, tools, handoffs, on_collision=run.config.tool_name_collision_policy)
    for collision in toolbox.collisions:
        if collision not in progress.collisions:
            progress.collisions.add(collision)
            _logger.warning(collision)
    return toolbox


async def _end_of_turn(
    run: ActiveRun, plan: Plan, schema: AgentOutputSchemaBase | None, base: Sequence[TResponseInputItem]
) -> Final | None:
    try:
        end = decide_end(plan, schema)
    except ModelRefusalError as error:
        final = await handled(run, "model_refusal", error, base)
        if final is None:
            raise
        return final
    except ModelBehaviorError as error:
        final = await handled(run, "invalid_final_output", error, base)
        if final is None:
            raise
        return final
    if isinstance(end, Final):
        return end
    if plan.is_empty:
        # The model would be asked again; a handler may spare it that.
        error = ModelBehaviorError("The model gave no output, though one of the output type was due")
        return await handled(run, "invalid_final_output", error, base)
    return None
