"""What a run carries through users' code: their own object, the usage so far, and the decisions about tool calls.

Owns `RunContextWrapper` and `AgentHookContext`. Must not know agents, tools, items or runs.

Invariant: contexts derived from one run share one `Usage` and one `ApprovalStore`, so a decision made through any of
them holds for the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

from runstream.agent.approvals import ApprovalRequest, ApprovalStore, ToolKey, tool_key
from runstream.agent.usage import Usage
from runstream.errors import ModelBehaviorError

__all__ = ["AgentHookContext", "RunContextWrapper", "TContext"]

TContext = TypeVar("TContext", default=Any)
"""The type of the object that the caller passes as `context` to the runner."""


@dataclass(eq=False)
class RunContextWrapper(Generic[TContext]):
    """Wraps the `context` object of a run for tools, hooks, guardrails and callbacks. The model never sees it."""

    context: TContext
    """The object that was passed to the runner, or None."""
    usage: Usage = field(default_factory=Usage)
    """What the run has used so far; a model call counts when its response is complete."""
    turn_input: list[Any] = field(default_factory=list[Any])
    """The input items of the current turn."""
    tool_input: Any | None = None
    """The structured input of an agent that runs as a tool."""
    approvals: ApprovalStore = field(init=False, repr=False, default_factory=ApprovalStore)
    """The decisions about tool calls; shared by all contexts of the run."""

    def share_with(self, derived: RunContextWrapper[Any]) -> None:
        """Make `derived` a context of the same run: usage and decisions become common."""
        derived.usage = self.usage
        derived.approvals = self.approvals

    def approve_tool(self, approval_item: ApprovalRequest, always_approve: bool = False) -> None:
        """Approve a tool call; with `always_approve` all later calls of that tool by that agent too.

        `approval_item` is a `ToolApprovalItem`. Raises ModelBehaviorError, or UserError for a hosted tool, if it
        does not say which call it is about.
        """
        self.approvals.decide(approval_item, approved=True, always=always_approve)

    def reject_tool(
        self, approval_item: ApprovalRequest, always_reject: bool = False, rejection_message: str | None = None
    ) -> None:
        """Reject a tool call, or with `always_reject` all of that tool by that agent; the model gets the message."""
        self.approvals.decide(approval_item, approved=False, always=always_reject, message=rejection_message)

    def is_tool_approved(self, tool_name: str, call_id: str) -> bool | None:
        """Whether a call is approved (True), rejected (False) or undecided (None), by name: for showing, not running.

        A tool in a namespace is named `namespace.tool`. Permanent decisions of several agents about one name give None.
        """
        decision = self.approvals.find_by_name(tool_name, call_id)
        return None if decision is None else decision.approved

    def get_approval_status(
        self,
        tool_name: str,
        call_id: str,
        *,
        tool_namespace: str | None = None,
        existing_pending: ApprovalRequest | None = None,
        tool_lookup_key: ToolKey | None = None,
        current_invocation: ApprovalRequest | None = None,
    ) -> bool | None:
        """Whether a call may be executed (True), is rejected (False), or waits for a decision (None).

        `current_invocation` or `existing_pending` names the agent and the arguments; without one of them only a
        decision about this very call counts. Raises ModelBehaviorError for an empty call id, and for one that was
        decided with other arguments.
        """
        if not call_id:
            raise ModelBehaviorError("Approval-gated tool calls require a non-empty call ID.")
        key = tool_lookup_key or tool_key(tool_name, tool_namespace)
        request = existing_pending if current_invocation is None else current_invocation
        decision = self.approvals.find(key, call_id, request)
        return None if decision is None else decision.approved

    def get_rejection_message(
        self,
        tool_name: str,
        call_id: str,
        *,
        tool_namespace: str | None = None,
        existing_pending: ApprovalRequest | None = None,
        tool_lookup_key: ToolKey | None = None,
    ) -> str | None:
        """What the model shall be told about a rejected call, if the person said it."""
        if existing_pending is None and tool_namespace is None and tool_lookup_key is None:
            decision = self.approvals.find_by_name(tool_name, call_id)
        else:
            key = tool_lookup_key or tool_key(tool_name, tool_namespace)
            decision = self.approvals.find(key, call_id, existing_pending)
        return None if decision is None or decision.approved else decision.message


@dataclass(eq=False)
class AgentHookContext(RunContextWrapper[TContext]):
    """The context that `on_agent_start` and `on_agent_end` get."""
