"""The one loop. `run`, `run_sync` and `run_streamed` are this: turns until there is an output, an error or a cancel.

Every path through `drive` writes `run.end` exactly once: after the history was made valid and saved, unless saving
takes longer than its limit or the event loop itself is gone.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias, cast

from runstream.agent.agent import Agent
from runstream.agent.context import AgentHookContext
from runstream.agent.handoff import Handoff, handoff
from runstream.agent.items import MessageOutputItem, ModelResponse, TResponseInputItem
from runstream.agent.output import AgentOutputSchema, AgentOutputSchemaBase, output_schema_of
from runstream.agent.tool import FunctionTool, HostedMCPTool
from runstream.agent.usage import Usage
from runstream.errors import AgentsException, MaxTurnsExceeded, ModelBehaviorError, ModelRefusalError, UserError
from runstream.events.event import RunStatus
from runstream.run.active import ActiveRun
from runstream.run.collector import promote_imports
from runstream.run.decide import Final, Plan, Toolbox, decide_end, plan_of
from runstream.run.error_handlers import RunErrorData, RunErrorHandlerInput, RunErrorHandlerResult, handle_error
from runstream.run.history import Conversation, cancelled_output, input_items_of, open_calls
from runstream.run.keeper import SessionKeeper
from runstream.run.model_call import call_model, input_of, model_of, request_of, settings_of
from runstream.run.scope import settle
from runstream.run.tools import (
    answer_unknown_calls,
    call_hooks,
    filter_history,
    final_output_of_tools,
    hand_over,
    run_functions,
)

__all__ = ["drive"]

_logger = logging.getLogger("runstream")


async def drive(run: ActiveRun) -> None:
    """Run to the end. Raises the run's error, once `run.end` is written."""
    run.begun = True
    progress = _Progress(SessionKeeper(run))
    interrupted: BaseException | None = None
    turns: asyncio.Task[_Outcome] | None = None
    run.emit_start()
    try:
        if not run.silenced:
            # A task of their own: code of the caller's in them may ignore a cancellation, and is left behind then.
            turns = run.scope.spawn(_turns_to_end(run, progress), f"turns of {run.run_id}")
            await asyncio.wait((turns,))
    except asyncio.CancelledError as cancelled:
        if run.silenced:
            _uncancel()
        else:
            interrupted = cancelled
    except GeneratorExit:
        # The event loop is gone: nothing can be waited for any more.
        run.seal("cancelled", None)
        raise
    save_error, cut_short = None, False
    asked_to_end = run.silenced or interrupted is not None
    if _outcome_of(turns, asked_to_end)[0] != "completed" or run.session is not None or run.scope.has_tasks:
        wind_up = partial(_wind_up, run, progress)
        save_error, cut_short = await settle(wind_up, run.clock, 3 * run.config.cancel_timeout_s)
    status, error = _outcome_of(turns, asked_to_end)
    if save_error is not None:
        # What was to be kept is lost: that outweighs why the run ended.
        save_error.__context__ = error
        error = save_error
    run.seal("failed" if error is not None else status, error)
    promote_imports()
    try:
        if error is not None:
            raise error
        if interrupted is not None or (cut_short and not run.silenced) or _cancelled_itself(run, turns):
            raise interrupted or asyncio.CancelledError()
    finally:
        # An error's traceback holds this frame: without this the run and its log would wait for the garbage collector.
        del run, progress, turns, error, save_error, interrupted


async def _turns_to_end(run: ActiveRun, progress: _Progress) -> _Outcome:
    """The turns' outcome. An error is part of it: a task that raises Ctrl-C stops the loop before the run has ended."""
    try:
        return await _take_turns(run, progress), None
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        return "failed", error


def _outcome_of(turns: asyncio.Task[_Outcome] | None, asked_to_end: bool) -> _Outcome:
    if turns is None or not turns.done():
        return "cancelled", None
    try:
        return turns.result()
    except asyncio.CancelledError as cancelled:
        if turns.cancelling() or asked_to_end:
            return "cancelled", None
        # Nobody cancelled this run: something that it waited for was, and that must not pass for an end.
        error = AgentsException("Something that the run waited for was cancelled.")
        error.__cause__ = cancelled
        return "failed", error


def _cancelled_itself(run: ActiveRun, turns: asyncio.Task[_Outcome] | None) -> bool:
    """Whether code of the caller's cancelled the task that it ran in."""
    return turns is not None and turns.cancelled() and not run.silenced


def _uncancel() -> None:
    """The cancellation was ours, through `cancel()`: the task itself goes on to its regular end."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


async def _wind_up(run: ActiveRun, progress: _Progress) -> None:
    """Stop what still runs, complete the history so that the next turn works with it, and save it."""
    await run.scope.close()
    run.closed = True
    try:
        # A call of the model may break off after its response was complete: then readers have seen it, and it counts.
        for complete in run.fold.responses[progress.taken_in :]:
            _take_in(run, progress, complete)
        run.emit_partial()
    finally:
        for call in open_calls(run.items):
            run.add_item(cancelled_output(call))
        await progress.keeper.save(last=True)


_Outcome: TypeAlias = tuple[RunStatus, BaseException | None]


class _Progress:
    """Where the turns stand: what the end of the run needs of them, also when they break off."""

    __slots__ = ("collisions", "keeper", "taken_in", "toolbox")

    def __init__(self, keeper: SessionKeeper) -> None:
        self.keeper = keeper
        self.toolbox: Toolbox | None = None
        """What the agent of this turn may call."""
        self.collisions: set[str] = set()
        """What the log was told of tools of one name: once is enough."""
        self.taken_in = 0
        """How many of the run's responses have their items in the log."""


async def _take_turns(run: ActiveRun, progress: _Progress) -> RunStatus:
    if run.stops_after_turn:
        # Asked for before there was a turn: there is to be none.
        run.emit_agent(run.starting_agent)
        return "cancelled"
    base = await progress.keeper.prepare()
    conversation = Conversation(
        base,
        previous_response_id=run.previous_response_id,
        conversation_id=run.conversation_id,
        auto_previous_response_id=run.auto_previous_response_id,
        omit_reasoning_ids=run.omits_reasoning_ids,
    )
    run.emit_agent(run.starting_agent)
    await progress.keeper.save()
    await _agent_starts(run, conversation)
    users_of_tools: set[int] = set()
    while True:
        if run.max_turns is not None and run.turn >= run.max_turns:
            error = MaxTurnsExceeded(f"Max turns ({run.max_turns}) exceeded")
            final = await _handled(run, "max_turns", error, base)
            if final is None:
                raise error
            await _finish(run, final)
            return "completed"
        run.check_cancelled()
        run.turn += 1
        agent = run.agent
        outcome = await _take_turn(run, progress, conversation, base, tools_used=id(agent) in users_of_tools)
        users_of_tools.update([id(agent)] if outcome.used_tools else [])
        if outcome.final is not None:
            await _finish(run, outcome.final)
            return "completed"
        await progress.keeper.save()
        await run.pause_between_turns()
        if run.stops_after_turn:
            return "cancelled"
        if run.agent is not agent:
            await _agent_starts(run, conversation)


class _TurnEnd:
    """What a turn came to."""

    __slots__ = ("final", "used_tools")

    def __init__(self, final: Final | None, *, used_tools: bool) -> None:
        self.final = final
        self.used_tools = used_tools


async def _take_turn(
    run: ActiveRun,
    progress: _Progress,
    conversation: Conversation,
    base: Sequence[TResponseInputItem],
    *,
    tools_used: bool,
) -> _TurnEnd:
    agent = run.agent
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
    plan = _take_in(run, progress, response)
    conversation.answered(response)
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_llm_end(run.context, agent, response),
        agent.hooks is not None and agent.hooks.on_llm_end(run.context, agent, response),
    )
    if plan.error is not None:
        raise plan.error
    run.check_cancelled()
    await answer_unknown_calls(run, plan)
    results = await run_functions(run, plan.functions)
    if plan.handoffs:
        made = await hand_over(run, plan.handoffs)
        await filter_history(run, made, conversation, run.items[first_item:])
        return _TurnEnd(None, used_tools=True)
    final = await final_output_of_tools(run, results)
    if final is None:
        final = await _end_of_turn(run, plan, schema, base)
    conversation.items += run.items[first_item:]
    return _TurnEnd(final, used_tools=plan.used_tools)


def _take_in(run: ActiveRun, progress: _Progress, response: ModelResponse) -> Plan:
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


async def _toolbox_of(run: ActiveRun, progress: _Progress, agent: Agent[Any]) -> Toolbox:
    """What the agent may call now. Raises UserError, before any request, for declarations that cannot be run."""
    tools = await agent.get_all_tools(run.context)
    for tool in tools:
        if isinstance(tool, FunctionTool):
            for name in ("needs_approval", "tool_input_guardrails", "tool_output_guardrails", "defer_loading"):
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
        final = await _handled(run, "model_refusal", error, base)
        if final is None:
            raise
        return final
    except ModelBehaviorError as error:
        final = await _handled(run, "invalid_final_output", error, base)
        if final is None:
            raise
        return final
    if isinstance(end, Final):
        return end
    if plan.is_empty:
        # The model would be asked again; a handler may spare it that.
        error = ModelBehaviorError("The model gave no output, though one of the output type was due")
        return await _handled(run, "invalid_final_output", error, base)
    return None


async def _handled(
    run: ActiveRun,
    kind: str,
    error: MaxTurnsExceeded | ModelRefusalError | ModelBehaviorError,
    base: Sequence[TResponseInputItem],
) -> Final | None:
    """The output that the caller's error handler puts in place of the error, with its message in the log."""

    def given() -> RunErrorHandlerInput[Any]:
        error.run_data = run.error_details()
        output = input_items_of(run.items)
        data = RunErrorData(run.input, list(run.items), [*base, *output], output, list(run.fold.responses), run.agent)
        return RunErrorHandlerInput(error, run.context, data)

    result: RunErrorHandlerResult | None = await handle_error(run.error_handlers, kind, given)
    if result is None:
        return None
    if result.include_in_history:
        run.emit_item(_message_of(run.agent, result.final_output))
    return Final(result.final_output)


def _message_of(agent: Agent[Any], output: Any) -> MessageOutputItem:
    from openai.types.responses import ResponseOutputMessage

    from runstream.events.codec import plain

    schema = output_schema_of(agent.output_type)
    if isinstance(schema, AgentOutputSchema) and not isinstance(output, str):
        output = schema.wrap(output)
    text = output if isinstance(output, str) else _json_text(plain(output))
    message = ResponseOutputMessage.model_validate(
        {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }
    )
    return MessageOutputItem(agent=agent, raw_item=message)


def _json_text(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def _agent_starts(run: ActiveRun, conversation: Conversation) -> None:
    agent = run.agent
    if run.hooks is None and agent.hooks is None:
        return
    run.context.turn_input = cast("list[Any]", conversation.next_input())
    context = _hook_context(run)
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_agent_start(context, agent),
        agent.hooks is not None and agent.hooks.on_start(context, agent),
    )


async def _finish(run: ActiveRun, final: Final) -> None:
    run.check_open()
    agent = run.agent
    run.final_output = final.output
    context = _hook_context(run)
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_agent_end(context, agent, final.output),
        agent.hooks is not None and agent.hooks.on_end(context, agent, final.output),
    )


def _hook_context(run: ActiveRun) -> AgentHookContext[Any]:
    context = AgentHookContext(
        run.context.context, turn_input=run.context.turn_input, tool_input=run.context.tool_input
    )
    run.context.share_with(context)
    return context
