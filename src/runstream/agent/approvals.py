"""Decisions of people about tool calls that wait for approval.

Owns the store behind `RunContextWrapper.approve_tool` and its companions. Must not know runs, tools or agents: an
agent is only compared by identity.

Invariants:
- A decision about one call holds for that call's id, tool and arguments only; the same id with other arguments is an
  error of the model, never an approval.
- A permanent decision holds for one tool of one agent (of one server, for hosted MCP tools).
- A decision about one call goes before a permanent one, a later decision before an earlier one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from runstream.agent.raw_item import read_field, read_text
from runstream.errors import ModelBehaviorError, UserError

__all__ = ["ApprovalRequest", "ApprovalStore", "Decision", "ToolKey", "tool_key"]

ToolKey: TypeAlias = tuple[str, ...]
"""What identifies a tool: `("bare", name)`, `("namespaced", namespace, name)`, `("deferred_top_level", name)` or
`("hosted_mcp", server_label, name)`."""


class ApprovalRequest(Protocol):
    """What the store reads of a `ToolApprovalItem`."""

    @property
    def raw_item(self) -> Any: ...
    @property
    def tool_name(self) -> str | None: ...
    @property
    def tool_namespace(self) -> str | None: ...
    @property
    def agent(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision: about one call if it has `arguments`, else about all calls of a tool."""

    approved: bool
    message: str | None
    """What the model is told about a rejection; None leaves it to the run."""
    key: ToolKey
    agent: Any
    arguments: str | None = None

    def concerns(self, key: ToolKey, agent: Any) -> bool:
        """Whether it is about that tool of that agent; a hosted tool belongs to its server, not to an agent."""
        return self.key == key and (key[0] == "hosted_mcp" or self.agent is agent)


@dataclass(slots=True)
class ApprovalStore:
    """All decisions of a run. Shared by every context that is derived from the run's."""

    _calls: dict[str, list[Decision]] = field(default_factory=dict[str, list[Decision]])
    """By call id; more than one only if two agents or servers used the same id."""
    _permanent: list[Decision] = field(default_factory=list[Decision])

    def copy(self) -> ApprovalStore:
        """The same decisions; later ones are each store's own."""
        return ApprovalStore({call_id: list(calls) for call_id, calls in self._calls.items()}, list(self._permanent))

    def forget(self, call_id: str) -> None:
        """A model uses the id for another call: what was decided about the earlier one is no answer to that."""
        self._calls.pop(call_id, None)

    def decide(self, request: ApprovalRequest, *, approved: bool, always: bool, message: str | None = None) -> None:
        """Record a decision. Raises ModelBehaviorError, or UserError for a hosted tool, for a call without identity."""
        call_id = _checked_call_id(request.raw_item, always=always)
        key, agent = _request_key(request), request.agent
        calls = [known for known in self._calls.get(call_id, ()) if not known.concerns(key, agent)]
        if always:
            self._permanent = [known for known in self._permanent if not known.concerns(key, agent)]
            self._permanent.append(Decision(approved, message, key, agent))
        if not always or key[0] == "hosted_mcp":
            # A permanent decision about a hosted tool does not show by name, the one about this very call does.
            calls.append(Decision(approved, message, key, agent, _arguments(request.raw_item)))
        self._calls[call_id] = calls

    def find(self, key: ToolKey, call_id: str, request: ApprovalRequest | None = None) -> Decision | None:
        """The decision that an execution may rely on.

        `request` tells agent, tool and arguments. Without it only a decision about the very call counts, and only if
        there is one. Raises ModelBehaviorError if the call was decided with other arguments.
        """
        calls = self._calls.get(call_id, ())
        if request is None:
            calls = [known for known in calls if known.key == key]
            return calls[0] if len(calls) == 1 else None
        key = _request_key(request)
        for known in calls:
            if known.concerns(key, request.agent):
                if _call_id(request.raw_item) == call_id and _arguments(request.raw_item) != known.arguments:
                    raise ModelBehaviorError(
                        f"The model reused the call id {call_id!r} for a different invocation of {key[-1]!r}, so the "
                        "decision about the first does not apply: every tool invocation needs a unique call ID."
                    )
                return known
        return next((known for known in self._permanent if known.concerns(key, request.agent)), None)

    def find_by_name(self, tool_name: str, call_id: str) -> Decision | None:
        """The decision that a person would expect to see under a name; None also where it is ambiguous."""
        calls = [known for known in self._calls.get(call_id, ()) if tool_name == _name(known.key)]
        # A hosted tool's decision names its call exactly, so a function of the same name must not hide it.
        calls.sort(key=lambda known: known.key[0] != "hosted_mcp")
        if calls:
            return calls[0]
        # A permanent decision about a deferred or hosted tool says nothing about a visible function of the same name.
        visible = [known for known in self._permanent if known.key[0] in ("bare", "namespaced")]
        named = [known for known in visible if tool_name == _name(known.key)]
        return named[0] if len(named) == 1 else None


def tool_key(name: str, namespace: str | None = None) -> ToolKey:
    """The identity of a function tool."""
    if not namespace:
        return ("bare", name)
    # The API names a deferred top-level tool by a namespace that is its own name.
    return ("deferred_top_level", name) if namespace == name else ("namespaced", namespace, name)


def _name(key: ToolKey) -> str:
    return f"{key[1]}.{key[2]}" if key[0] == "namespaced" else key[-1]


def _checked_call_id(raw_item: Any, *, always: bool) -> str:
    call_id = _call_id(raw_item)
    hosted = _hosted_request(raw_item)
    if hosted is None:
        if call_id is None:
            raise ModelBehaviorError("Approval decisions require a non-empty call ID, and this tool call has none.")
        return call_id
    if call_id is None:
        raise UserError("Hosted MCP approval decisions require a non-empty request id.")
    if not (read_text(hosted, "server_label") and (read_text(hosted, "name") or read_text(raw_item, "name"))):
        if always:
            raise UserError("Persistent hosted MCP approval decisions require a non-empty server_label and tool name.")
        raise ModelBehaviorError(
            f"Approval decisions require a canonical invocation identity: the hosted MCP request {call_id!r} "
            "lacks its server_label or its tool name."
        )
    return call_id


def _request_key(request: ApprovalRequest) -> ToolKey:
    hosted = _hosted_request(request.raw_item)
    if hosted is not None:
        name = read_text(hosted, "name") or read_text(request.raw_item, "name") or request.tool_name or ""
        return ("hosted_mcp", read_text(hosted, "server_label") or "", name)
    name = request.tool_name or read_text(request.raw_item, "name") or read_text(request.raw_item, "type")
    return tool_key(name or "unknown_tool", request.tool_namespace or read_text(request.raw_item, "namespace"))


def _hosted_request(raw_item: Any) -> Any | None:
    """The MCP approval request inside a raw item; None for every other kind of call."""
    kind = read_field(raw_item, "type")
    if kind == "mcp_approval_request":
        return raw_item
    data = read_field(raw_item, "provider_data")
    if kind == "hosted_tool_call" and read_field(data, "type") == "mcp_approval_request":
        return data
    return None


def _call_id(raw_item: Any) -> str | None:
    hosted = _hosted_request(raw_item)
    if hosted is not None and read_field(hosted, "id") is not None:
        return read_text(hosted, "id")
    return read_text(raw_item, "call_id") or read_text(raw_item, "id")


def _arguments(raw_item: Any) -> str:
    """What the call was made with, in one spelling: spaces and the order of keys do not count."""
    values = {name: read_field(raw_item, name) for name in ("arguments", "input", "params", "action", "operation")}
    values["provider"] = read_field(_hosted_request(raw_item), "arguments")
    return json.dumps({name: _plain(value) for name, value in values.items()}, sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(mode="json")
