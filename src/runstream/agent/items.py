"""What a run produces, item by item: messages, reasoning, tool calls and outputs, handoffs, requests for approval.

Owns the run items. Must not know how they come about. Agents are `Any` here, since agents are declared in terms of
items; `ModelResponse` and `ItemHelpers` are found here under the SDK's import name.

Invariants: `raw_item` is what the model said or is told, an official object or a dict of the same shape, and is never
changed; everything else on an item is ours and never sent. After `release_agent` an item only holds its agents weakly.
"""

from __future__ import annotations

import abc
import json
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar, cast
from uuid import uuid4

from runstream.agent.approvals import ToolKey, tool_key
from runstream.agent.item_helpers import ItemHelpers
from runstream.agent.raw_item import read_field, read_text, to_input_item
from runstream.agent.response import (
    ModelResponse,
    TResponse,
    TResponseInputItem,
    TResponseOutputItem,
    TResponseStreamEvent,
)
from runstream.errors import UserError
from runstream.events.event import ToolOutcome

if TYPE_CHECKING:
    from openai.types.responses import (
        ResponseCodeInterpreterToolCall,
        ResponseComputerToolCall,
        ResponseCustomToolCall,
        ResponseFileSearchToolCall,
        ResponseFunctionShellToolCall,
        ResponseFunctionShellToolCallOutput,
        ResponseFunctionToolCall,
        ResponseFunctionWebSearch,
        ResponseOutputMessage,
        ResponseReasoningItem,
        ResponseToolSearchCall,
        ResponseToolSearchOutputItem,
    )
    from openai.types.responses.response_input_item_param import (
        ComputerCallOutput,
        FunctionCallOutput,
        LocalShellCallOutput,
        McpApprovalResponse,
    )
    from openai.types.responses.response_output_item import (
        ImageGenerationCall,
        LocalShellCall,
        McpApprovalRequest,
        McpCall,
        McpListTools,
    )

    from runstream.agent.tool import ToolOrigin

    ToolCallItemTypes: TypeAlias = (
        ResponseFunctionToolCall
        | ResponseCustomToolCall
        | ResponseComputerToolCall
        | ResponseFileSearchToolCall
        | ResponseFunctionWebSearch
        | ResponseFunctionShellToolCall
        | McpCall
        | ResponseCodeInterpreterToolCall
        | ImageGenerationCall
        | LocalShellCall
        | dict[str, Any]
    )
    ToolCallOutputTypes: TypeAlias = (
        FunctionCallOutput
        | ComputerCallOutput
        | LocalShellCallOutput
        | ResponseFunctionShellToolCallOutput
        | dict[str, Any]
    )
    ToolApprovalRawItem: TypeAlias = (
        ResponseFunctionToolCall
        | ResponseCustomToolCall
        | ResponseFunctionShellToolCall
        | McpCall
        | McpApprovalRequest
        | LocalShellCall
        | dict[str, Any]
    )
    ToolSearchCallRawItem: TypeAlias = ResponseToolSearchCall | dict[str, Any]
    ToolSearchOutputRawItem: TypeAlias = ResponseToolSearchOutputItem | dict[str, Any]
else:
    # So that annotations resolve at run time without openai.
    McpApprovalRequest = McpApprovalResponse = McpListTools = Any
    ResponseFunctionToolCall = ResponseOutputMessage = ResponseReasoningItem = ToolOrigin = Any
    ToolApprovalRawItem = ToolCallItemTypes = ToolCallOutputTypes = Any
    ToolSearchCallRawItem = ToolSearchOutputRawItem = Any

__all__ = [
    "CompactionItem",
    "HandoffCallItem",
    "HandoffOutputItem",
    "InputItem",
    "ItemHelpers",
    "MCPApprovalRequestItem",
    "MCPApprovalResponseItem",
    "MCPListToolsItem",
    "MessageOutputItem",
    "ModelResponse",
    "ReasoningItem",
    "RunItem",
    "RunItemBase",
    "TResponse",
    "TResponseInputItem",
    "TResponseOutputItem",
    "TResponseStreamEvent",
    "ToolApprovalItem",
    "ToolApprovalRawItem",
    "ToolCallItem",
    "ToolCallItemTypes",
    "ToolCallOutputItem",
    "ToolCallOutputTypes",
    "ToolSearchCallItem",
    "ToolSearchCallRawItem",
    "ToolSearchOutputItem",
    "ToolSearchOutputRawItem",
]

T = TypeVar("T")


@dataclass(eq=False)
class RunItemBase(Generic[T], abc.ABC):
    """What all run items have."""

    agent: Any
    """The agent whose run produced the item; None once it was released and is gone."""
    raw_item: T
    """The item of the Responses API."""

    _agent_fields: ClassVar[tuple[str, ...]] = ("agent",)

    def release_agent(self) -> None:
        """Hold the agent weakly from now on, so that a kept result does not keep its agents alive."""
        fields = vars(self)
        released = cast("dict[str, weakref.ref[Any]]", fields.setdefault("_released", {}))
        for name in self._agent_fields:
            agent = fields.pop(name, None)
            if agent is not None:
                released[name] = weakref.ref(agent)

    if not TYPE_CHECKING:  # A type checker that saw it would accept every misspelt attribute.

        def __getattr__(self, name: str) -> Any:
            # Called only where the attribute is missing: an agent that was released, or a mistake.
            if name not in type(self)._agent_fields:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            reference = vars(self).get("_released", {}).get(name)
            return None if reference is None else reference()

    def to_input_item(self) -> TResponseInputItem:
        """The item as a plain dict for the model's next input."""
        return cast("TResponseInputItem", to_input_item(self.raw_item))


@dataclass
class InputItem(RunItemBase[TResponseInputItem]):
    """Input that came in while the run was under way."""

    type: Literal["input_item"] = "input_item"
    input_id: str = field(default_factory=lambda: uuid4().hex)
    """Names this occurrence, so that it enters the conversation once."""


@dataclass
class MessageOutputItem(RunItemBase[ResponseOutputMessage]):
    """A message of the model."""

    type: Literal["message_output_item"] = "message_output_item"


@dataclass
class ToolSearchCallItem(RunItemBase[ToolSearchCallRawItem]):
    """The model looks for tools."""

    type: Literal["tool_search_call_item"] = "tool_search_call_item"


@dataclass
class ToolSearchOutputItem(RunItemBase[ToolSearchOutputRawItem]):
    """The tools that a search found."""

    type: Literal["tool_search_output_item"] = "tool_search_output_item"


@dataclass
class HandoffCallItem(RunItemBase[ResponseFunctionToolCall]):
    """The model asks for a handoff to another agent."""

    type: Literal["handoff_call_item"] = "handoff_call_item"


@dataclass
class HandoffOutputItem(RunItemBase[TResponseInputItem]):
    """A handoff took place."""

    source_agent: Any
    """The agent that handed over."""
    target_agent: Any
    """The agent that goes on."""
    type: Literal["handoff_output_item"] = "handoff_output_item"

    _agent_fields: ClassVar[tuple[str, ...]] = ("agent", "source_agent", "target_agent")


@dataclass
class ToolCallItem(RunItemBase[ToolCallItemTypes]):
    """The model calls a tool, ours or the provider's."""

    type: Literal["tool_call_item"] = "tool_call_item"
    description: str | None = None
    """The tool's description, if known."""
    title: str | None = None
    """A short name to show, if known."""
    tool_origin: ToolOrigin | None = None
    """Where a function tool comes from."""

    @property
    def tool_name(self) -> str | None:
        """The tool's name; None for the provider's tools, whose calls carry none."""
        return read_field(self.raw_item, "name")

    @property
    def call_id(self) -> str | None:
        """The id that joins the call and its output."""
        return _call_id(self.raw_item)


@dataclass
class ToolCallOutputItem(RunItemBase[ToolCallOutputTypes]):
    """The output of a tool call."""

    output: Any
    """What the tool returned; `raw_item` has it as the model gets it."""
    type: Literal["tool_call_output_item"] = "tool_call_output_item"
    tool_origin: ToolOrigin | None = None
    custom_data: dict[str, Any] | None = None
    """The program's own data about this output; never sent to the model."""
    outcome: ToolOutcome | None = field(default=None, kw_only=True)
    """What became of the call, where that is known: `output` may be words that were made for the model."""

    @property
    def call_id(self) -> str | None:
        """The id that joins the call and its output."""
        call_id = _call_id(self.raw_item)
        return None if call_id is None else str(call_id)

    def to_input_item(self) -> TResponseInputItem:
        """The output as a plain dict for the model's next input."""
        item = to_input_item(self.raw_item)
        if item.get("type") == "shell_call_output" and isinstance(self.raw_item, dict):
            # Book-keeping of local shells, which the API refuses.
            for name in ("status", "shell_output", "provider_data"):
                item.pop(name, None)
        return cast("TResponseInputItem", item)


@dataclass
class ReasoningItem(RunItemBase[ResponseReasoningItem]):
    """The model's reasoning."""

    type: Literal["reasoning_item"] = "reasoning_item"


@dataclass
class MCPListToolsItem(RunItemBase[McpListTools]):
    """The provider listed an MCP server's tools."""

    type: Literal["mcp_list_tools_item"] = "mcp_list_tools_item"


@dataclass
class MCPApprovalRequestItem(RunItemBase[McpApprovalRequest]):
    """The provider asks whether it may call an MCP server's tool."""

    type: Literal["mcp_approval_request_item"] = "mcp_approval_request_item"


@dataclass
class MCPApprovalResponseItem(RunItemBase[McpApprovalResponse]):
    """The answer to such a request."""

    type: Literal["mcp_approval_response_item"] = "mcp_approval_response_item"


@dataclass
class CompactionItem(RunItemBase[TResponseInputItem]):
    """The provider replaced a part of the conversation by a shorter one."""

    type: Literal["compaction_item"] = "compaction_item"

    def to_input_item(self) -> TResponseInputItem:
        """The item itself: what the provider encrypted must come back as it is."""
        return self.raw_item


@dataclass(eq=False)
class ToolApprovalItem(RunItemBase[ToolApprovalRawItem]):
    """A tool call that waits for a person's decision. Compared by identity."""

    tool_name: str | None = None
    type: Literal["tool_approval_item"] = "tool_approval_item"
    tool_namespace: str | None = None
    tool_origin: ToolOrigin | None = None
    tool_lookup_key: ToolKey | None = field(default=None, kw_only=True, repr=False)
    """Which function tool is meant; None for other kinds of tools."""

    def __post_init__(self) -> None:
        if self.tool_name is None:
            self.tool_name = read_field(self.raw_item, "name")
        if self.tool_namespace is None:
            namespace = read_field(self.raw_item, "namespace")
            self.tool_namespace = namespace if isinstance(namespace, str) else None
        is_function = read_field(self.raw_item, "type") == "function_call"
        if self.tool_lookup_key is None and is_function and self.tool_name and self.tool_namespace != self.tool_name:
            self.tool_lookup_key = tool_key(self.tool_name, self.tool_namespace)

    @property
    def name(self) -> str | None:
        """The tool's name, wherever the call has it."""
        return self.tool_name or read_text(self.raw_item, "name") or read_text(self.raw_item, "tool_name")

    @property
    def qualified_name(self) -> str | None:
        """The name to show: with its namespace, unless that repeats the name."""
        if self.tool_name is None or not self.tool_namespace or self.tool_namespace == self.tool_name:
            return self.tool_name
        return f"{self.tool_namespace}.{self.tool_name}"

    @property
    def arguments(self) -> str | None:
        """What the tool would be called with, as JSON."""
        arguments = read_field(self.raw_item, "arguments")
        if arguments is None:
            arguments = read_field(self.raw_item, "params") or read_field(self.raw_item, "input")
        if arguments is None or isinstance(arguments, str):
            return arguments
        return json.dumps(arguments, default=str)

    @property
    def call_id(self) -> str | None:
        """The id that joins the call and its output."""
        return _call_id(self.raw_item)

    def to_input_item(self) -> TResponseInputItem:
        """Raises UserError: the model never sees a request for approval."""
        raise UserError(
            "A ToolApprovalItem cannot be converted to an input item: leave these items out of a model's input."
        )


RunItem: TypeAlias = (
    InputItem
    | MessageOutputItem
    | ToolSearchCallItem
    | ToolSearchOutputItem
    | HandoffCallItem
    | HandoffOutputItem
    | ToolCallItem
    | ToolCallOutputItem
    | ReasoningItem
    | MCPListToolsItem
    | MCPApprovalRequestItem
    | MCPApprovalResponseItem
    | CompactionItem
    | ToolApprovalItem
)
"""Anything that a run produces."""


def _call_id(raw_item: Any) -> Any:
    return read_field(raw_item, "call_id") or read_field(raw_item, "id")
