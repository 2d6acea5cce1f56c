"""Calls that need a person's approval: which of a turn's calls may run now, which are rejected, which have to wait."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from runstream.agent.items import MCPApprovalResponseItem, ToolApprovalItem, ToolCallOutputItem
from runstream.agent.raw_item import read_field
from runstream.agent.tool import HostedMCPTool, MCPToolApprovalRequest, Tool
from runstream.agent.tool_context import ToolContext
from runstream.errors import AgentsException, ModelBehaviorError, UserError
from runstream.events.event import ApprovalResolved
from runstream.run.active import ActiveRun
from runstream.run.config import ToolErrorFormatterArgs
from runstream.run.decide import FunctionCall
from runstream.run.guardrails import answer_call, check_tool_input
from runstream.run.nested import owner_of, pending_of

__all__ = [
    "REJECTED_OUTPUT",
    "HostedSorted",
    "Sorted",
    "ask_hosted",
    "reject",
    "sort_by_approval",
    "sort_hosted",
    "take_answers",
]

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
    refused: list[tuple[FunctionCall, str]] = field(default_factory=list[tuple[FunctionCall, str]])
    """By a guardrail, so that nobody is asked; with what the model is told."""


async def sort_by_approval(run: ActiveRun, calls: Sequence[FunctionCall]) -> Sorted:
    """Which calls may run. Requests that are new go into the log.

    Raises ModelBehaviorError for a call without an id that would need approval, or with the id of one that was decided
    with other arguments; UserError where a tool's `needs_approval` fails.
    """
    result = Sorted()
    known, earlier = _requests(run), _requests_of_earlier_turns(run)
    for planned in calls:
        needs = planned.tool.needs_approval
        if needs is False:
            result.ready.append(planned)
            continue
        call_id: str = planned.call.call_id
        if not call_id:
            raise ModelBehaviorError(
                f"The model called {planned.tool.name!r}, which needs approval, without a call id: nobody could say "
                "which call is meant"
            )
        request = known.get(call_id)
        is_new = request is None
        if request is None:
            request = ToolApprovalItem(
                agent=run.agent,
                raw_item=planned.call,
                tool_name=planned.tool.name,
                tool_origin=getattr(planned.tool, "origin", None),
            )
        approved, message = _decision(run, request)
        if is_new and call_id in earlier and approved is not None:
            approved, message = _decision_anew(run, request)
        if approved is None:
            # What was decided or asked for is not put to the tool again.
            if is_new and needs is not True and not await _says_yes(run, planned):
                result.ready.append(planned)
                continue
            if is_new:
                refusal = await _refused_beforehand(run, planned)
                if refusal is not None:
                    result.refused.append((planned, refusal))
                    continue
                known[call_id] = request
                run.emit_item(request)
            if request not in result.waiting:
                result.waiting.append(request)
            result.waiting_calls.append(planned)
        elif approved:
            result.ready.append(planned)
        else:
            result.rejected.append((planned, message))
    return result


async def _refused_beforehand(run: ActiveRun, planned: FunctionCall) -> str | None:
    """What the tool's guardrails say of the call, where they are to be asked before a person is."""
    tool, execution = planned.tool, run.config.tool_execution
    if not tool.tool_input_guardrails or execution is None or not execution.pre_approval_tool_input_guardrails:
        return None
    context = ToolContext(
        run.context.context,
        run.context.usage,
        tool.name,
        planned.call.call_id,
        planned.call.arguments,
        planned.call,
        agent=run.agent,
        run_config=run.config,
        turn_input=run.context.turn_input,
    )
    run.context.share_with(context)
    return await check_tool_input(run, tool, context)


def _requests(run: ActiveRun) -> dict[str | None, ToolApprovalItem]:
    """The requests of this turn, by call id."""
    items = run.items[run.fold.response_index :]
    return {item.call_id: item for item in items if isinstance(item, ToolApprovalItem)}


def _requests_of_earlier_turns(run: ActiveRun) -> set[str | None]:
    items = run.items[: run.fold.response_index]
    return {item.call_id for item in items if isinstance(item, ToolApprovalItem)}


def _decision(run: ActiveRun, request: ToolApprovalItem) -> tuple[bool | None, str | None]:
    """What was decided, and what the model is to be told about a rejected call."""
    name, call_id = request.name or "", request.call_id or ""
    approved = run.context.get_approval_status(
        name, call_id, tool_lookup_key=request.tool_lookup_key, existing_pending=request
    )
    if approved is not False:
        return approved, None
    message = run.context.get_rejection_message(
        name, call_id, tool_lookup_key=request.tool_lookup_key, existing_pending=request
    )
    return False, message


def _decision_anew(run: ActiveRun, request: ToolApprovalItem) -> tuple[bool | None, str | None]:
    """The decision about a call with the id of one of an earlier turn: what was decided about that has been used."""
    run.context.approvals.forget(request.call_id or "")
    return _decision(run, request)


async def _says_yes(run: ActiveRun, planned: FunctionCall) -> bool:
    """Whether the tool's own function wants this call approved. It cannot tell of arguments that are no JSON object:
    then a person has to."""
    needs = cast("Any", planned.tool.needs_approval)
    try:
        arguments: Any = json.loads(planned.call.arguments)
    except ValueError:
        return True
    if not isinstance(arguments, dict):
        return True
    try:
        answer = needs(run.context, cast("dict[str, Any]", arguments), planned.call.call_id)
        return bool(await answer if inspect.isawaitable(answer) else answer)
    except AgentsException:
        raise
    except Exception as error:
        raise UserError(f"Error running tool {planned.tool.name}: its needs_approval failed: {error}") from error


def take_answers(run: ActiveRun, requests: Sequence[ToolApprovalItem]) -> bool:
    """Let the answers that have come in hold; True where one of these requests was answered.

    An answer to a call that is not waiting, or was answered already, changes nothing: people may press a button twice.
    One to a request of a nested run that still does something else is kept until that run waits.
    """
    open_requests = {request.call_id: request for request in requests}
    answered = False
    others: list[ApprovalResolved] = []
    for answer in run.inbox.take_answers():
        request = open_requests.pop(answer.call_id, None)
        if request is None:
            others.append(answer)
            continue
        answered = True
        owner = owner_of(run.suspended, request)
        context = run.context if owner is None else owner.context
        if answer.approved:
            context.approve_tool(request, always_approve=answer.always)
        else:
            context.reject_tool(request, always_reject=answer.always, rejection_message=answer.message)
        if owner is not None:
            owner.answers.append(answer)  # the nested run tells of it when it goes on
            continue
        name = request.tool_name or answer.tool_name
        run.emit_approval(
            ApprovalResolved(answer.call_id, name, answer.approved, answer.always, answer.message, answer.command)
        )
    if others:
        asked = {request.call_id for request in pending_of(run)}
        run.inbox.early = [answer for answer in others if answer.call_id in asked]
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
    return answer_call(run, planned, told)


@dataclass(slots=True)
class HostedSorted:
    """What the provider has asked about the tools of hosted MCP servers, as far as it is not answered."""

    waiting: list[ToolApprovalItem] = field(default_factory=list[ToolApprovalItem])
    to_ask: list[tuple[Any, HostedMCPTool]] = field(default_factory=list[tuple[Any, HostedMCPTool]])
    """With the tool whose `on_approval_request` answers."""


def sort_hosted(run: ActiveRun, requests: Sequence[Any], tools: Sequence[Tool]) -> HostedSorted:
    """Answer what people have decided, and find who decides about the others."""
    result = HostedSorted()
    if not requests:
        return result
    items = run.items[run.fold.response_index :]
    answered = {
        read_field(item.raw_item, "approval_request_id") for item in items if isinstance(item, MCPApprovalResponseItem)
    }
    servers = {
        tool.tool_config.get("server_label"): tool
        for tool in tools
        if isinstance(tool, HostedMCPTool) and tool.on_approval_request is not None
    }
    known, earlier = _requests(run), _requests_of_earlier_turns(run)
    for raw in requests:
        request_id = read_field(raw, "id")
        if request_id in answered:
            continue
        request = known.get(request_id)
        is_new = request is None
        if request is None:
            request = ToolApprovalItem(agent=run.agent, raw_item=raw, tool_name=read_field(raw, "name"))
        approved, message = _decision(run, request)
        if is_new and request_id in earlier and approved is not None:
            approved, message = _decision_anew(run, request)
        tool = servers.get(read_field(raw, "server_label"))
        if approved is not None:
            _respond(run, raw, approved, message)
        elif tool is not None:
            result.to_ask.append((raw, tool))
        else:
            if is_new:
                run.emit_item(request)
            result.waiting.append(request)
    return result


async def ask_hosted(run: ActiveRun, to_ask: Sequence[tuple[Any, HostedMCPTool]]) -> None:
    """Let each tool's `on_approval_request` answer. Raises UserError for an answer that is none."""
    for raw, tool in to_ask:
        ask = cast("Any", tool.on_approval_request)
        given = ask(MCPToolApprovalRequest(ctx_wrapper=run.context, data=raw))
        answer: Any = await given if inspect.isawaitable(given) else given
        approved = read_field(answer, "approve") if isinstance(answer, dict) else None
        if not isinstance(approved, bool):
            raise UserError(f"on_approval_request must return a dict with 'approve', True or False, not {answer!r}")
        _respond(run, raw, approved, read_field(answer, "reason"))


def _respond(run: ActiveRun, request: Any, approved: bool, reason: str | None) -> None:
    raw: dict[str, Any] = {
        "type": "mcp_approval_response",
        "approval_request_id": read_field(request, "id"),
        "approve": approved,
    }
    if not approved and reason:
        raw["reason"] = reason
    run.emit_item(MCPApprovalResponseItem(agent=run.agent, raw_item=cast("Any", raw)))
