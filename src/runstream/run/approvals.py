"""Calls that need a person's approval: which of a turn's calls may run now, which are rejected, which have to wait."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from runstream.agent.items import ItemHelpers, ToolApprovalItem, ToolCallOutputItem
from runstream.events.event import ApprovalResolved
from runstream.run.active import ActiveRun
from runstream.run.config import ToolErrorFormatterArgs
from runstream.run.decide import FunctionCall

__all__ = ["REJECTED_OUTPUT", "Sorted", "reject", "sort_by_approval", "take_answers"]

REJECTED_OUTPUT = "Tool execution was not approved."
"""What the model is told where the person says nothing else; the SDK's words."""


@dataclass(slots=True)
class Sorted:
    """The calls of a turn."""

    ready: list[FunctionCall] = field(default_factory=list[FunctionCall])
    waiting: list[ToolApprovalItem] = field(default_factory=list[ToolApprovalItem])
    """The requests, in the order of the calls."""
    waiting_calls: list[FunctionCall] = field(default_factory=list[FunctionCall])
    rejected: list[tuple[FunctionCall, str | None]] = field(default_factory=list[tuple[FunctionCall, str | None]])
    """With what the person wants the model to be told."""


async def sort_by_approval(run: ActiveRun, calls: Sequence[FunctionCall]) -> Sorted:
    """Which calls may run. Requests that are new go into the log.

    Raises ModelBehaviorError for a call without an id that would need approval, or that reuses the id of another one.
    """
    result = Sorted()
    known = {item.call_id: item for item in run.items if isinstance(item, ToolApprovalItem)}
    for planned in calls:
        if not await _needs_approval(run, planned):
            result.ready.append(planned)
            continue
        call_id: str = planned.call.call_id
        request = known.get(call_id)
        is_new = request is None
        if request is None:
            request = ToolApprovalItem(
                agent=run.agent,
                raw_item=planned.call,
                tool_name=planned.tool.name,
                tool_origin=getattr(planned.tool, "origin", None),
            )
        approved = run.context.get_approval_status(
            planned.tool.name, call_id, tool_lookup_key=request.tool_lookup_key, existing_pending=request
        )
        if approved is None:
            if is_new:
                run.emit_item(request)
            result.waiting.append(request)
            result.waiting_calls.append(planned)
        elif approved:
            result.ready.append(planned)
        else:
            message = run.context.get_rejection_message(
                planned.tool.name, call_id, tool_lookup_key=request.tool_lookup_key, existing_pending=request
            )
            result.rejected.append((planned, message))
    return result


async def _needs_approval(run: ActiveRun, planned: FunctionCall) -> bool:
    needs = planned.tool.needs_approval
    if isinstance(needs, bool):
        return needs
    try:
        arguments: Any = json.loads(planned.call.arguments or "{}")
    except ValueError:
        return False  # a malformed call: the tool is not run, and the model is told why
    answer = needs(run.context, cast("dict[str, Any]", arguments), planned.call.call_id)
    return bool(await answer if inspect.isawaitable(answer) else answer)


def take_answers(run: ActiveRun, requests: Sequence[ToolApprovalItem]) -> bool:
    """Let the answers that have come in hold; True where one of these requests was answered.

    An answer to a call that is not waiting, or was answered already, changes nothing: people may press a button twice.
    """
    open_requests = {request.call_id: request for request in requests}
    answered = False
    for answer in run.inbox.take_answers():
        request = open_requests.pop(answer.call_id, None)
        if request is None:
            continue
        answered = True
        if answer.approved:
            run.context.approve_tool(request, always_approve=answer.always)
        else:
            run.context.reject_tool(request, always_reject=answer.always, rejection_message=answer.message)
        name = request.tool_name or answer.tool_name
        run.emit_approval(
            ApprovalResolved(answer.call_id, name, answer.approved, answer.always, answer.message, answer.command)
        )
    return answered


async def reject(run: ActiveRun, planned: FunctionCall, message: str | None) -> ToolCallOutputItem:
    """Tell the model that the call was not approved."""
    told = message
    if told is None:
        told = REJECTED_OUTPUT
        if run.config.tool_error_formatter is not None:
            text = run.config.tool_error_formatter(
                ToolErrorFormatterArgs(
                    kind="approval_rejected",
                    tool_type="function",
                    tool_name=planned.tool.name,
                    call_id=planned.call.call_id,
                    default_message=told,
                    run_context=run.context,
                )
            )
            told = (await text if inspect.isawaitable(text) else text) or told
    raw = ItemHelpers.tool_call_output_item(planned.call, told)
    item = ToolCallOutputItem(
        agent=run.agent, raw_item=raw, output=told, tool_origin=getattr(planned.tool, "origin", None)
    )
    run.emit_item(item)
    return item
