"""From stored events back to live objects: agents by name, run items, outputs, errors. Pure.

A log in a store is plain data. Whoever reads it in another process brings the agents; an agent that nobody brought is
one of that name and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.handoff import Handoff
from runstream.agent.items import (
    CompactionItem,
    HandoffCallItem,
    HandoffOutputItem,
    InputItem,
    MCPApprovalRequestItem,
    MCPApprovalResponseItem,
    MCPListToolsItem,
    MessageOutputItem,
    ReasoningItem,
    RunItem,
    ToolApprovalItem,
    ToolCallItem,
    ToolCallOutputItem,
    ToolSearchCallItem,
    ToolSearchOutputItem,
)
from runstream.agent.output import AgentOutputSchema, output_schema_of
from runstream.agent.raw_item import read_field
from runstream.errors import (
    AgentsException,
    MaxTurnsExceeded,
    ModelBehaviorError,
    ModelStreamTruncated,
    RunFailed,
    StoreError,
    StoreUnavailable,
    UserError,
)
from runstream.events.event import AGENT_START, INPUT_ADDED, ITEM, RUN_END, ErrorInfo, Event, ItemAdded, RunEnd

__all__ = ["AgentBook", "bind", "more_of", "official", "reachable_from", "restore_item"]


def reachable_from(agents: Iterable[Agent[Any]]) -> dict[str, Agent[Any]]:
    """The agents and all that they may hand over to, by name. Raises UserError where two have one name."""
    found: dict[str, Agent[Any]] = {}
    waiting = list(agents)
    while waiting:
        agent = waiting.pop()
        if not isinstance(cast("object", agent), Agent):
            raise UserError(f"agents must be Agents, not {type(agent).__name__}: {agent!r:.100}")
        known = found.get(agent.name)
        if known is agent:
            continue
        if known is not None:
            raise UserError(f"two agents are named {agent.name!r}: a stored run finds its agents by their names")
        found[agent.name] = agent
        for target in agent.handoffs:
            reached = target.target if isinstance(target, Handoff) else target
            if reached is not None:
                waiting.append(reached)
    return found


class AgentBook:
    """Agents by name."""

    def __init__(self, agents: Iterable[Agent[Any]] = ()) -> None:
        self._agents = reachable_from(agents)
        self._strangers: dict[str, Agent[Any]] = {}
        waiting = list(self._agents.values())
        while waiting:
            # Agents that run as tools: their events are in the same log. Of two of one name the nearer one is meant.
            for tool in waiting.pop().tools:
                nested: Agent[Any] | None = getattr(tool, "_agent_instance", None)
                if nested is not None and nested.name not in self._agents:
                    self._agents[nested.name] = nested
                    waiting.append(nested)

    @property
    def agents(self) -> list[Agent[Any]]:
        """Those that somebody brought."""
        return list(self._agents.values())

    def find(self, name: str | None) -> Agent[Any]:
        """The agent of that name; where nobody brought one, one that has only the name, the same each time."""
        key = name or ""
        agent = self._agents.get(key) or self._strangers.get(key)
        if agent is None:
            agent = self._strangers[key] = Agent(name=key)
        return agent

    def __contains__(self, name: str) -> bool:
        """Whether somebody brought the agent of that name."""
        return name in self._agents


_RAW_ONLY: dict[str, type[Any]] = {
    "message_output_item": MessageOutputItem,
    "reasoning_item": ReasoningItem,
    "handoff_call_item": HandoffCallItem,
    "tool_search_call_item": ToolSearchCallItem,
    "tool_search_output_item": ToolSearchOutputItem,
    "mcp_list_tools_item": MCPListToolsItem,
    "mcp_approval_request_item": MCPApprovalRequestItem,
    "mcp_approval_response_item": MCPApprovalResponseItem,
    "compaction_item": CompactionItem,
}
# Items that the model is told: plain dicts also while they live.
_INPUTS = frozenset(
    ("tool_call_output_item", "handoff_output_item", "mcp_approval_response_item", "compaction_item", "input_item")
)


def more_of(item: RunItem) -> dict[str, Any] | None:
    """What a run item has beyond its raw item, as plain data; None where that is nothing."""
    if isinstance(item, HandoffOutputItem):
        return {"source": item.source_agent.name, "target": item.target_agent.name}
    if isinstance(item, ToolCallItem):
        given = {"description": item.description, "title": item.title}
    elif isinstance(item, ToolCallOutputItem):
        given = {"custom_data": item.custom_data, "outcome": item.outcome}
    elif isinstance(item, ToolApprovalItem):
        given = {"tool_name": item.tool_name, "tool_namespace": item.tool_namespace}
    elif isinstance(item, InputItem):
        given = {"input_id": item.input_id}
    else:
        return None
    return {name: value for name, value in given.items() if value is not None} or None


def bind(event: Event, book: AgentBook) -> None:
    """Give a stored event its live object."""
    kind, data = event.kind, event.data
    if kind == ITEM:
        event.live = restore_item(data, event.agent, book)
    elif kind == AGENT_START:
        event.live = book.find(event.agent)
    elif kind == INPUT_ADDED:
        agent = book.find(event.agent)
        event.live = [
            InputItem(agent=agent, raw_item=raw, input_id=f"{event.run_id}-{event.seq}-{index}")
            for index, raw in enumerate(data.items)
        ]
    elif kind == RUN_END:
        event.live = _end_of(event, data, book)


def restore_item(data: ItemAdded, agent_name: str | None, book: AgentBook) -> Any:
    """The run item of a record; None for a type that this version does not know."""
    agent = book.find(agent_name)
    raw = data.raw if data.type in _INPUTS else official(data.raw)
    more = data.more or {}
    if data.type == "tool_call_item":
        return ToolCallItem(agent=agent, raw_item=raw, description=more.get("description"), title=more.get("title"))
    if data.type == "tool_call_output_item":
        output = read_field(raw, "output")
        custom_data, outcome = more.get("custom_data"), more.get("outcome")
        return ToolCallOutputItem(agent=agent, raw_item=raw, output=output, custom_data=custom_data, outcome=outcome)
    if data.type == "handoff_output_item":
        source, target = book.find(more.get("source", agent_name)), book.find(more.get("target"))
        return HandoffOutputItem(agent=agent, raw_item=raw, source_agent=source, target_agent=target)
    if data.type == "tool_approval_item":
        return ToolApprovalItem(
            agent=agent,
            raw_item=raw,
            tool_name=more.get("tool_name"),
            tool_namespace=more.get("tool_namespace"),
        )
    if data.type == "input_item":
        return InputItem(agent=agent, raw_item=raw, **more)
    item_class = _RAW_ONLY.get(data.type)
    return None if item_class is None else item_class(agent=agent, raw_item=raw)


def official(raw: Any) -> Any:
    """The official object of a stored output item; a dict where the installed `openai` package knows no such item."""
    if not isinstance(raw, dict):
        return raw
    from runstream.events.model_event import build_event

    done: Any = build_event({"type": "response.output_item.done", "item": raw, "output_index": 0, "sequence_number": 0})
    return done.item


def _end_of(event: Event, data: RunEnd, book: AgentBook) -> Any:
    if data.error is not None:
        return _error_of(data.error)
    output = data.final_output
    if output is None or event.agent is None or event.agent not in book:
        return output
    schema = output_schema_of(book.find(event.agent).output_type)
    if schema is None or schema.is_plain_text():
        return output
    wrapped = schema.wrap(output) if isinstance(schema, AgentOutputSchema) else output
    try:
        return schema.validate_json(json.dumps(wrapped))
    except ModelBehaviorError:
        return output  # a tool's output that ended the run, or a type that has changed since


_BY_MESSAGE: dict[str, type[AgentsException]] = {
    error.__name__: error
    for error in (MaxTurnsExceeded, ModelBehaviorError, ModelStreamTruncated, StoreError, StoreUnavailable, UserError)
}


def _error_of(info: ErrorInfo) -> AgentsException:
    """The error that ended a run elsewhere: of its own class where that is one of ours and its message is all of it."""
    known = _BY_MESSAGE.get(info.type)
    if known is not None:
        return known(info.message)
    return RunFailed(info.message, error_type=info.type, code=info.code, retryable=info.retryable)
