"""What a model's response asks for. Pure: no I/O, no waiting, no log; the loop carries the plan out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.handoff import Handoff
from runstream.agent.items import (
    CompactionItem,
    HandoffCallItem,
    ItemHelpers,
    MCPApprovalRequestItem,
    MCPListToolsItem,
    MessageOutputItem,
    ModelResponse,
    ReasoningItem,
    RunItem,
    ToolCallItem,
    ToolCallOutputItem,
    ToolSearchCallItem,
    ToolSearchOutputItem,
)
from runstream.agent.output import AgentOutputSchemaBase
from runstream.agent.raw_item import read_field
from runstream.agent.tool import FunctionTool, Tool
from runstream.errors import ModelBehaviorError, ModelRefusalError, UserError

__all__ = [
    "REFUSED_CALLS",
    "Final",
    "FunctionCall",
    "HandoffCall",
    "Plan",
    "RunAgain",
    "Toolbox",
    "UnknownCall",
    "decide_end",
    "plan_of",
]


class Toolbox:
    """What an agent may call in one turn, by name.

    Raises UserError, naming both, where two have one name: the model could not tell them apart. With
    `on_collision="warn"` one is kept instead, as in the SDK: a handoff rather than a tool, else the later one;
    `collisions` says so.
    """

    __slots__ = ("collisions", "functions", "handoffs", "tools")

    def __init__(
        self,
        agent: Agent[Any],
        tools: Sequence[Tool],
        handoffs: Sequence[Handoff[Any, Any]],
        *,
        on_collision: str = "error",
    ) -> None:
        self.collisions: list[str] = []
        by_name: dict[str, FunctionTool] = {}
        for tool in tools:
            if not isinstance(tool, FunctionTool):
                continue  # the provider's own tools of one kind share their name, which nobody looks up
            if tool.name in by_name:
                self._collide(agent, f"two tools of the name {tool.name!r}", "later one", on_collision)
            by_name[tool.name] = tool
        self.handoffs: dict[str, Handoff[Any, Any]] = {}
        for handoff in handoffs:
            if handoff.tool_name in self.handoffs:
                self._collide(agent, f"two handoffs of the name {handoff.tool_name!r}", "later one", on_collision)
            if handoff.tool_name in by_name:
                self._collide(agent, f"a handoff and a tool of the name {handoff.tool_name!r}", "handoff", on_collision)
            self.handoffs[handoff.tool_name] = handoff
            by_name.pop(handoff.tool_name, None)
        self.tools = [tool for tool in tools if not isinstance(tool, FunctionTool) or by_name.get(tool.name) is tool]
        self.functions = by_name

    def _collide(self, agent: Agent[Any], what: str, used: str, on_collision: str) -> None:
        if on_collision == "error":
            raise UserError(
                f"Agent {agent.name!r} has {what}; give one of them another with name_override or tool_name_override"
            )
        self.collisions.append(f"Agent {agent.name!r} has {what}; the {used} is used")


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of one of our function tools."""

    call: Any
    """The official `ResponseFunctionToolCall`."""
    tool: FunctionTool


@dataclass(frozen=True, slots=True)
class HandoffCall:
    """A call that hands the conversation over."""

    call: Any
    handoff: Handoff[Any, Any]


@dataclass(frozen=True, slots=True)
class UnknownCall:
    """A call of a function tool that the agent does not have."""

    call: Any
    message: str


@dataclass(slots=True)
class Plan:
    """The items of a response, in the model's order, and the calls that are to be carried out."""

    items: list[RunItem] = field(default_factory=list[Any])
    functions: list[FunctionCall] = field(default_factory=list[Any])
    handoffs: list[HandoffCall] = field(default_factory=list[Any])
    unknown: list[UnknownCall] = field(default_factory=list[Any])
    hosted_requests: list[Any] = field(default_factory=list[Any])
    """What the provider asks: whether a tool of a hosted MCP server may be called."""
    error: ModelBehaviorError | UserError | None = None
    """Why the response cannot be carried out; its items are kept all the same."""
    used_tools: bool = False
    """Whether the model called any tool, ours or one that the provider ran."""

    @property
    def is_empty(self) -> bool:
        """Whether the model neither said nor called anything."""
        return not self.used_tools and not any(isinstance(item, MessageOutputItem) for item in self.items)


def plan_of(agent: Agent[Any], toolbox: Toolbox, response: ModelResponse) -> Plan:
    """The items of the response and what to do about them.

    `error` is set for what cannot be carried out at all: a call whose arguments were cut off, a kind of call that an
    agent here has no tool for.
    """
    plan = Plan()
    for output in response.output:
        raw: Any = output
        kind = read_field(raw, "type")
        item_class = _PLAIN_ITEMS.get(kind)
        if item_class is not None:
            plan.items.append(item_class(agent=agent, raw_item=raw))
            if kind == "mcp_approval_request":
                plan.used_tools = True
                plan.hosted_requests.append(raw)
        elif kind == "function_call":
            _plan_function_call(plan, agent, toolbox, raw)
        elif kind in REFUSED_CALLS:
            plan.items.append(ToolCallItem(agent=agent, raw_item=raw))
            plan.error = plan.error or ModelBehaviorError(
                f"The model of agent {agent.name!r} made a {kind!r}, a kind of call that this version of runstream "
                "does not carry out"
            )
        elif isinstance(kind, str) and kind.endswith("_output"):
            plan.items.append(ToolCallOutputItem(agent=agent, raw_item=raw, output=read_field(raw, "output")))
        else:
            # The provider's own tools (web search, files, code, images, MCP): already carried out where they were
            # called, and so is any kind that a later version of the API adds.
            plan.used_tools = True
            plan.items.append(ToolCallItem(agent=agent, raw_item=raw))
    return plan


_PLAIN_ITEMS: dict[Any, type[Any]] = {
    "message": MessageOutputItem,
    "reasoning": ReasoningItem,
    "mcp_list_tools": MCPListToolsItem,
    "mcp_approval_request": MCPApprovalRequestItem,
    "tool_search_call": ToolSearchCallItem,
    "tool_search_output": ToolSearchOutputItem,
    "compaction": CompactionItem,
}
# Calls that only the caller of the API can answer, of tools that an Agent here cannot have.
REFUSED_CALLS = frozenset(("computer_call", "local_shell_call", "shell_call", "apply_patch_call", "custom_tool_call"))


def _official_call(agent: Agent[Any], fields: Mapping[str, Any]) -> Any:
    """The call of a model that gives plain dicts. Raises ModelBehaviorError where it lacks its name or its id."""
    from openai.types.responses import ResponseFunctionToolCall

    for name in ("name", "call_id"):
        if not isinstance(fields.get(name), str):
            raise ModelBehaviorError(
                f"The model of agent {agent.name!r} gave a function_call whose {name!r} is {fields.get(name)!r}, "
                "not a string"
            )
    arguments = fields.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments)
    given: dict[str, Any] = {**fields, "type": "function_call", "arguments": arguments or ""}
    return ResponseFunctionToolCall.model_construct(None, **given)


def _plan_function_call(plan: Plan, agent: Agent[Any], toolbox: Toolbox, raw: Any) -> None:
    if isinstance(raw, Mapping):
        raw = _official_call(agent, cast("Mapping[str, Any]", raw))
    name: str = raw.name
    if not raw.arguments:
        # A copy: the response itself is in the log.
        raw = raw.model_copy(update={"arguments": "{}"})
    if read_field(raw, "status") == "incomplete":
        plan.items.append(ToolCallItem(agent=agent, raw_item=raw))
        plan.error = plan.error or ModelBehaviorError(
            f"The arguments of the call of {name!r} were cut off ({raw.arguments[:80]!r}); it was not run"
        )
        return
    plan.used_tools = True
    handoff = toolbox.handoffs.get(name)
    if handoff is not None:
        plan.items.append(HandoffCallItem(agent=agent, raw_item=raw))
        plan.handoffs.append(HandoffCall(raw, handoff))
        return
    tool = toolbox.functions.get(name)
    if tool is None:
        plan.items.append(ToolCallItem(agent=agent, raw_item=raw))
        known = ", ".join(sorted([*toolbox.functions, *toolbox.handoffs])) or "none"
        plan.unknown.append(
            UnknownCall(raw, f"Tool {name} not found in agent {agent.name}. The agent's tools are: {known}.")
        )
        return
    plan.items.append(
        ToolCallItem(
            agent=agent, raw_item=raw, description=tool.description or None, tool_origin=getattr(tool, "origin", None)
        )
    )
    plan.functions.append(FunctionCall(raw, tool))


@dataclass(frozen=True, slots=True)
class Final:
    """The run has its output."""

    output: Any
    message: MessageOutputItem | None = None
    """The message that says it, where it is not in the log: it has to be let pass first."""


@dataclass(frozen=True, slots=True)
class RunAgain:
    """The model has to be asked again."""


def decide_end(plan: Plan, schema: AgentOutputSchemaBase | None) -> Final | RunAgain:
    """What follows a turn whose tools have run and which had no handoff.

    Raises ModelRefusalError where the model refused, ModelBehaviorError for an output that is not of the schema.
    """
    if plan.functions or plan.unknown or plan.hosted_requests:
        return RunAgain()
    messages = [item for item in plan.items if isinstance(item, MessageOutputItem)]
    if not messages and plan.used_tools:
        return RunAgain()
    refusal = ItemHelpers.extract_refusal(messages[-1].raw_item) if messages else None
    if refusal:
        raise ModelRefusalError(refusal)
    text = ItemHelpers.extract_text(messages[-1].raw_item) if messages else None
    if schema is None or schema.is_plain_text():
        return Final(text or "")
    if not text:
        return RunAgain()
    return Final(schema.validate_json(text))
