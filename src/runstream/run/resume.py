"""Going on with a run that began elsewhere or earlier: its state, folded from its log, as live objects and as JSON."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runstream.agent.context import RunContextWrapper
from runstream.agent.items import (
    MCPApprovalResponseItem,
    ModelResponse,
    RunItem,
    ToolApprovalItem,
    ToolCallOutputItem,
    TResponseInputItem,
)
from runstream.agent.raw_item import read_field
from runstream.agent.usage import Usage
from runstream.errors import UserError
from runstream.events.codec import decode_data, plain
from runstream.events.event import GUARDRAIL, MODEL, ApprovalResolved, Event, ItemAdded, RunStart
from runstream.log.fold import RunFold
from runstream.run.bind import AgentBook, bind, more_of, official, restore_item
from runstream.run.guardrail_results import GuardrailResults

__all__ = [
    "Kept",
    "Resumed",
    "answered_calls",
    "apply",
    "fold_from_plain",
    "fold_of_events",
    "fold_to_plain",
    "open_requests",
    "pending_requests",
    "rebound",
    "restore_approvals",
    "turn_is_open",
    "usage_beside",
    "usage_from_plain",
    "waiting_message",
]

VERSION = 1


@dataclass(slots=True)
class Resumed:
    """What a run goes on from."""

    fold: RunFold
    record: dict[str, Any] | None = None
    """The same as JSON, for the log of a run that continues an earlier one; None where the log itself goes on."""
    taken_over: bool = False
    """Whether its worker broke off: tools that were open may have run."""
    last_seq: int = 0
    """Where the log goes on, if it does."""
    saved_items: int | None = None
    """How many of the items the session has; None where that has to be found out."""
    input_saved: bool = False
    """Whether the session has the input."""
    base: list[TResponseInputItem] | None = None
    """What the run began with as input items, those of the session first; None where that has to be found out."""
    input: Any = None
    """What the results show as the input, where a handoff's filter replaced it."""
    filtered: tuple[int, tuple[RunItem, ...]] | None = None
    """What that filter left, as `ActiveRun.filtered`."""
    context: RunContextWrapper[Any] | None = None
    """The context with usage and decisions; None where they come from the fold."""
    guardrails: GuardrailResults | None = None
    """What guardrails have found; None where that is not known."""


@dataclass(slots=True)
class Kept:
    """What a run began with and what its session has of it: the log does not tell."""

    base: list[TResponseInputItem] | None = None
    saved: int = 0
    input_saved: bool = False


def fold_of_events(events: Iterable[Event], book: AgentBook) -> RunFold:
    """The state after these events, the first ones of a log, with live objects."""
    fold = RunFold()
    for event in events:
        bind(event, book)
        apply(fold, event, book)
    return fold


def apply(fold: RunFold, event: Event, book: AgentBook) -> None:
    """Take in the next event, which is bound. A run that continues another begins with that one's state."""
    start = event.data
    if isinstance(start, RunStart) and start.resumed is not None:
        earlier = fold_from_plain(start.resumed, book)
        for name in RunFold.__slots__:
            setattr(fold, name, getattr(earlier, name))
    fold.apply(event)


def fold_to_plain(fold: RunFold) -> dict[str, Any]:
    """The state as JSON data."""
    items: list[dict[str, Any]] = []
    for item in fold.items:
        record = ItemAdded("", item.type, item.raw_item, more_of(item))
        items.append(
            {"agent": item.agent.name, "type": record.type, "raw": plain(record.raw), "more": plain(record.more)}
        )
        if isinstance(item, ToolCallOutputItem) and not isinstance(item.output, str):
            items[-1]["output"] = plain(item.output)  # a tool's output may be the run's
    start = fold.start
    told = [{"agent": agent, "checked": plain(checked)} for agent, checked in fold.guardrails]
    return {
        **({"guardrails": told} if told else {}),
        "version": VERSION,
        "input": None if start is None else plain(start.input),
        "max_turns": None if start is None else start.max_turns,
        "options": None if start is None else start.options,
        "agent": fold.agent_name,
        "items": items,
        "responses": [_response_to_plain(response) for response in fold.responses],
        "response_index": fold.response_index,
        "history": plain(fold.history),
        "history_index": fold.history_index,
        **({} if fold.history_input is None else {"history_input": plain(fold.history_input)}),
        "approvals": [plain(answer) for answer in fold.approvals],
        "turn_closed": fold.turn_closed,
    }


def fold_from_plain(data: dict[str, Any], book: AgentBook) -> RunFold:
    """The state of `fold_to_plain`. Raises UserError for what is none, or was written by a newer version."""
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"the state of the run has version {version!r}; this version of runstream reads up to {VERSION}"
        )
    try:
        fold = RunFold()
        fold.start = RunStart(data["input"], data["max_turns"], data["options"])
        for index, record in enumerate(data["items"]):
            added = ItemAdded("", record["type"], record["raw"], record["more"])
            item = restore_item(added, record["agent"], book)
            if item is None:
                raise UserError(f"item {index} of the state is a {record['type']!r}, which this version does not know")
            if "output" in record:
                item.output = record["output"]
            fold.items.append(item)
        fold.responses = [_response_from_plain(response) for response in data["responses"]]
        fold.response_index = data["response_index"]
        fold.history, fold.history_index = data["history"], data["history_index"]
        fold.history_input = data.get("history_input")
        fold.approvals = [ApprovalResolved(**answer) for answer in data["approvals"]]
        found = data.get("guardrails", ())
        fold.guardrails = [(each["agent"], decode_data(GUARDRAIL, dict(each["checked"]))) for each in found]
        fold.turn_closed = data.get("turn_closed", False)
        if data["agent"] is not None:
            fold.agent_name, fold.agent = data["agent"], book.find(data["agent"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"this is not the state of a run ({error!r})") from error
    return fold


def _response_to_plain(response: ModelResponse) -> dict[str, Any]:
    return {
        "output": plain(list(response.output)),
        "usage": plain(response.usage),
        "response_id": response.response_id,
        "request_id": response.request_id,
    }


def usage_from_plain(data: Any) -> Usage:
    """The usage of its JSON data."""
    from pydantic import TypeAdapter

    return TypeAdapter(Usage).validate_python(data)


def usage_beside(events: Iterable[Event]) -> Usage:
    """What a log tells of requests that are no answers of the run itself: attempts that failed before another one
    showed something, and the answers that agents got who were called as tools."""
    usage = Usage()
    under_way: dict[tuple[str, ...], int] = {}
    for event in events:
        if event.kind != MODEL:
            continue
        under_way[event.path] = event.attempt
        if event.data.type == "response.completed":
            _add_failed(usage, under_way.pop(event.path))
            if event.path:
                usage.add(ModelResponse.from_response(event.data.response).usage)
    for attempt in under_way.values():
        _add_failed(usage, attempt)
    return usage


def _add_failed(usage: Usage, attempt: int) -> None:
    for _ in range(1, attempt):
        usage.add(Usage.of_failed_request())


def _response_from_plain(data: dict[str, Any]) -> ModelResponse:
    return ModelResponse(
        output=[official(item) for item in data["output"]],
        usage=usage_from_plain(data["usage"]),
        response_id=data["response_id"],
        request_id=data["request_id"],
    )


def restore_approvals(fold: RunFold, context: RunContextWrapper[Any]) -> None:
    """Let the decisions of the log hold for the run that goes on."""
    # By name, too: an answer for good may be about an earlier call of that id.
    requests = {(item.call_id, item.tool_name): item for item in fold.items if isinstance(item, ToolApprovalItem)}
    for answer in fold.approvals:
        request = requests.get((answer.call_id, answer.tool_name))
        if request is None:
            continue
        if answer.approved:
            context.approve_tool(request, always_approve=answer.always)
        else:
            context.reject_tool(request, always_reject=answer.always, rejection_message=answer.message)


def turn_is_open(fold: RunFold) -> bool:
    """Whether the latest response may still have calls to be carried out, or an end to be decided."""
    if not fold.responses or fold.response_seq is not None or fold.turn_closed:
        return False
    # A handoff that was made, or input that was added, ended the turn.
    return not any(item.type in ("handoff_output_item", "input_item") for item in fold.items[fold.response_index :])


def answered_calls(items: Iterable[RunItem]) -> set[str | None]:
    """Ids of the calls and hosted requests that these items answer."""
    answered: set[str | None] = set()
    for item in items:
        if isinstance(item, ToolCallOutputItem):
            answered.add(item.call_id)
        elif isinstance(item, MCPApprovalResponseItem):
            answered.add(read_field(item.raw_item, "approval_request_id"))
    return answered


def open_requests(fold: RunFold) -> list[ToolApprovalItem]:
    """The requests for approval whose calls have no output yet."""
    items = fold.items[fold.response_index :]
    answered = answered_calls(items)
    if fold.turn_closed:
        return []
    return [item for item in items if isinstance(item, ToolApprovalItem) and item.call_id not in answered]


def pending_requests(fold: RunFold, context: RunContextWrapper[Any]) -> list[ToolApprovalItem]:
    """The requests for approval that nobody has decided."""
    return [
        request
        for request in open_requests(fold)
        if context.get_approval_status(
            request.name or "",
            request.call_id or "",
            tool_lookup_key=request.tool_lookup_key,
            existing_pending=request,
        )
        is None
    ]


def waiting_message(problem: str, requests: Sequence[ToolApprovalItem]) -> str:
    """The problem, and what waits."""
    waiting = ", ".join(f"{request.call_id!r}, of {request.name}({request.arguments})" for request in requests)
    return f"{problem}; " + (f"what waits: {waiting}" if waiting else "nothing waits")


def rebound(fold: RunFold, book: AgentBook) -> RunFold:
    """The same state, of the agents of the book, found by their names."""
    other = copy.copy(fold)
    other.items = []
    for item in fold.items:
        item = copy.copy(item)
        for name in ("agent", "source_agent", "target_agent"):
            agent = getattr(item, name, None)
            if agent is not None:
                setattr(item, name, book.find(agent.name))
        other.items.append(item)
    if fold.agent_name is not None:
        other.agent = book.find(fold.agent_name)
    return other
