"""Carrying out the calls of a turn: function tools side by side, each output in the log as soon as its tool ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any, cast

from runstream.agent.agent import StopAtTools, ToolsToFinalOutputResult
from runstream.agent.items import ItemHelpers, ToolApprovalItem, ToolCallOutputItem
from runstream.agent.tool import (
    FunctionToolResult,
    invoke_function_tool,
    maybe_invoke_function_tool_failure_error_function,
)
from runstream.agent.tool_call import custom_data_of
from runstream.agent.tool_context import ToolContext
from runstream.errors import AgentsException, ModelBehaviorError, UserError
from runstream.run.active import ActiveRun
from runstream.run.config import ToolErrorFormatterArgs
from runstream.run.decide import Final, FunctionCall, Plan
from runstream.run.guardrails import answer_call, check_tool_input, check_tool_output
from runstream.run.nested import Nesting
from runstream.run.observers import tool_observers
from runstream.run.progress import Reports

__all__ = [
    "UNCERTAIN_OUTPUT",
    "answer_uncertain_call",
    "answer_unknown_calls",
    "call_hooks",
    "final_output_of_tools",
    "run_functions",
]

UNCERTAIN_OUTPUT = (
    "The outcome of this call is unknown: the process that ran it stopped before it could say. It may have had its "
    "effect; find out before calling it again."
)
"""What the model finds as the output of a call that may have run."""


async def call_hooks(run: ActiveRun, *calls: Any) -> None:
    """Await the hooks of the run and of the agent, side by side; False stands for hooks that are not there."""
    waiting = [call for call in calls if call is not False]
    if len(waiting) == 1:
        await waiting[0]
    elif waiting:
        tasks = [run.scope.spawn(call if asyncio.iscoroutine(call) else _awaited(call), "hook") for call in waiting]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()  # the scope waits for them, within its limit
            raise
        # What one of them raised must not leave the other behind.
        await run.scope.stop(tasks)
        for task in tasks:
            if task.done():
                task.result()


async def _awaited(call: Any) -> None:
    await call


async def run_functions(run: ActiveRun, calls: Sequence[FunctionCall]) -> list[FunctionToolResult]:
    """Run the tools; the results are in the order of the calls.

    Raises the first error of a tool that does not turn its errors into messages for the model; the other tools are
    cancelled then, and waited for within the run's limit.
    """
    if not calls:
        return []
    execution = run.config.tool_execution
    limit = None if execution is None else execution.max_function_tool_concurrency
    gate = asyncio.Semaphore(limit or len(calls))
    tasks = [run.scope.spawn(_run_one(run, call, gate), f"tool {call.tool.name}") for call in calls]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    if pending:
        await run.scope.stop(pending)
    # In the order of the calls, so that of several failures at once always the same one is raised.
    for task in tasks:
        if task in done and not task.cancelled() and task.exception() is not None:
            raise cast("BaseException", task.exception())
    return [task.result() for task in tasks]


async def _run_one(run: ActiveRun, planned: FunctionCall, gate: asyncio.Semaphore) -> FunctionToolResult:
    agent, tool, call = run.agent, planned.tool, planned.call
    context = ToolContext(
        run.context.context,
        run.context.usage,
        tool.name,
        call.call_id,
        call.arguments,
        call,
        agent=agent,
        run_config=run.config,
        turn_input=run.context.turn_input,
        tool_input=run.context.tool_input,
    )
    run.context.share_with(context)
    reports = Reports(run, tool.name, call.call_id)
    context.report_to(reports)
    nesting = Nesting(run, call.call_id) if tool.agent is not None else None
    context.nesting = nesting
    for begins in tool_observers:
        begins(run, call.call_id)
    async with gate:
        rejection = await check_tool_input(run, tool, context) if tool.tool_input_guardrails else None
        if rejection is None:
            await call_hooks(
                run,
                run.hooks is not None and run.hooks.on_tool_start(context, agent, tool),
                agent.hooks is not None and agent.hooks.on_tool_start(context, agent, tool),
            )
        requests: list[ToolApprovalItem] = []
        try:
            output = await _output_of(run, planned, context) if rejection is None else rejection
        finally:
            if run.scope.has_left(asyncio.current_task()):
                reports.abandon()
            else:
                reports.close()
            context.nesting = None
            if nesting is not None:
                requests = nesting.close()
    if requests:
        return FunctionToolResult(tool=tool, output=None, run_item=None, interruptions=requests)
    if rejection is not None:
        return FunctionToolResult(tool=tool, output=rejection, run_item=answer_call(run, planned, rejection))
    if tool.tool_output_guardrails:
        checked = await check_tool_output(run, tool, context, output)
        if checked is not output:
            context.mark_outcome("rejected")
        output = checked
    raw = ItemHelpers.tool_call_output_item(call, output)
    origin = getattr(tool, "origin", None)
    item = ToolCallOutputItem(agent=agent, raw_item=raw, output=output, tool_origin=origin, outcome=context.outcome)
    try:
        item.custom_data = await custom_data_of(function_tool=tool, context=context, output=output, raw_item=raw)
        await call_hooks(
            run,
            run.hooks is not None and run.hooks.on_tool_end(context, agent, tool, output),
            agent.hooks is not None and agent.hooks.on_tool_end(context, agent, tool, output),
        )
    finally:
        # Whatever becomes of these, the tool has run. Only if it was left behind is its call answered already.
        if not run.ended and not run.scope.has_left(asyncio.current_task()):
            run.emit_item(item)
    return FunctionToolResult(tool=tool, output=output, run_item=item)


async def _output_of(run: ActiveRun, planned: FunctionCall, context: ToolContext[Any]) -> Any:
    tool, limits = planned.tool, run.config.time_limits
    try:
        return await invoke_function_tool(
            function_tool=tool,
            context=context,
            arguments=planned.call.arguments,
            clock=run.clock,
            default_timeout_s=None if limits is None else limits.tool_s,
        )
    except AgentsException:
        raise
    except Exception as error:
        raise UserError(f"Error running tool {tool.name}: {error}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody has cancelled the call: something that the tool waited for was cancelled, a failure like any other.
        message = await maybe_invoke_function_tool_failure_error_function(
            function_tool=tool, context=context, error=error
        )
        if message is None:
            raise UserError(f"Error running tool {tool.name}: what it waited for was cancelled") from error
        context.mark_outcome("failed")
        return message


def answer_uncertain_call(run: ActiveRun, planned: FunctionCall) -> ToolCallOutputItem:
    """Tell the model that the call may have run, and may not: another process began it and was not heard of again."""
    return answer_call(run, planned, UNCERTAIN_OUTPUT, "unknown")


async def answer_unknown_calls(run: ActiveRun, plan: Plan) -> None:
    """Tell the model about tools that do not exist, or raise ModelBehaviorError, as the configuration says."""
    for unknown in plan.unknown:
        if run.config.tool_not_found_behavior == "raise_error":
            raise ModelBehaviorError(unknown.message)
        message = unknown.message
        if run.config.tool_error_formatter is not None:
            text = run.config.tool_error_formatter(
                ToolErrorFormatterArgs(
                    kind="tool_not_found",
                    tool_type="function",
                    tool_name=unknown.call.name,
                    call_id=unknown.call.call_id,
                    default_message=message,
                    run_context=run.context,
                )
            )
            message = (await text if inspect.isawaitable(text) else text) or message
        raw = ItemHelpers.tool_call_output_item(unknown.call, message)
        run.emit_item(ToolCallOutputItem(agent=run.agent, raw_item=raw, output=message, outcome="failed"))


async def final_output_of_tools(run: ActiveRun, results: list[FunctionToolResult]) -> Final | None:
    """The run's output, where the agent's `tool_use_behavior` makes a tool's output the final one."""
    behavior = run.agent.tool_use_behavior
    if not results or behavior == "run_llm_again":
        return None
    if behavior == "stop_on_first_tool":
        return Final(results[0].output)
    if isinstance(behavior, dict):
        names = cast("StopAtTools", behavior).get("stop_at_tool_names", [])
        return next((Final(result.output) for result in results if result.tool.name in names), None)
    if not callable(behavior):
        raise UserError(f"Invalid tool_use_behavior: {behavior!r}")
    decided: Any = behavior(run.context, results)
    if inspect.isawaitable(decided):
        decided = await decided
    if not isinstance(decided, ToolsToFinalOutputResult):
        raise UserError(
            f"Agent {run.agent.name!r}: tool_use_behavior must return a ToolsToFinalOutputResult, not {decided!r}"
        )
    return Final(decided.final_output) if decided.is_final_output else None
