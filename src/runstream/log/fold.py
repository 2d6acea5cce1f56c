"""The state of a run as a fold of its log: what has been produced so far. Pure; the same events give the same state.

Deltas change nothing here: what they grow into arrives whole with the events that end them. Neither do the events of
nested agents, and what tools report: the run's state is what its own path tells.
"""

from __future__ import annotations

from typing import Any

from runstream.agent.items import ModelResponse
from runstream.agent.raw_item import read_field
from runstream.events.event import (
    AGENT_START,
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    GUARDRAIL,
    INPUT_ADDED,
    ITEM,
    MODEL,
    RUN_END,
    RUN_QUEUED,
    RUN_START,
    ApprovalResolved,
    Event,
    GuardrailChecked,
    RunEnd,
    RunStart,
)

__all__ = ["RunFold"]


class RunFold:
    """Apply events in order; read the attributes at any time."""

    __slots__ = (
        "_done_items",
        "agent",
        "agent_name",
        "approvals",
        "end",
        "fallback_model",
        "fallback_reason",
        "guardrails",
        "history",
        "history_index",
        "history_input",
        "items",
        "last_command",
        "path",
        "queue_position",
        "response_index",
        "response_seq",
        "responses",
        "start",
        "turn_closed",
    )

    def __init__(self, path: tuple[str, ...] = ()) -> None:
        self.path = path
        """Whose state it is: that of the run, or of an agent that is nested in it."""
        self.start: RunStart | None = None
        self.agent_name: str | None = None
        self.agent: Any = None
        """The active agent, where the events carry it."""
        self.items: list[Any] = []
        """Run items where the events carry them, else the `ItemAdded` records."""
        self.responses: list[ModelResponse] = []
        self.response_seq: int | None = None
        """Seq of the first event of the model response that is not complete; None between responses."""
        self.response_index = 0
        """Number of items that there were when the latest response was complete: what follows is its turn's."""
        self.history: list[Any] | None = None
        """What the active agent sees in place of the first `history_index` items, where a filter changed it."""
        self.history_index = 0
        self.history_input: str | int | list[Any] | None = None
        """As in `AgentStart`."""
        self.approvals: list[ApprovalResolved] = []
        self.guardrails: list[tuple[str | None, GuardrailChecked]] = []
        """What guardrails have decided, each with the agent that was active."""
        self.last_command = 0
        """Number of the latest command that the run has carried out."""
        self.turn_closed = False
        """Whether a run ended after the latest response, other than for a person's sake: nothing of its turn is due."""
        self.end: RunEnd | None = None
        self.queue_position = 0
        """As in `RunQueued`."""
        self.fallback_model: str | None = None
        """The model that has taken the open call over from the first choice, and why."""
        self.fallback_reason: str | None = None
        self._done_items: list[Any] = []

    def apply(self, event: Event) -> None:
        """Take in the next event of the log."""
        if event.path != self.path:
            return
        kind = event.kind
        if kind == MODEL:
            self.apply_model(event.data, event.seq, event.live)
        elif kind == ITEM:
            self.items.append(event.data if event.live is None else event.live)
            if event.data.type == "tool_approval_item" and self.approvals:
                self._asked_again(event.data.raw)
        elif kind == AGENT_START:
            self.agent_name = event.agent
            self.agent = event.live
            if event.data.history is not None:
                self.history = event.data.history
                self.history_index = len(self.items)
                self.history_input = event.data.history_input
        elif kind == ATTEMPT_DISCARDED:
            self.abandon_response()
            if event.data.next_model is not None or event.data.reason == "taken_over":
                self.fallback_model, self.fallback_reason = event.data.next_model, event.data.detail
        elif kind == GUARDRAIL:
            self.guardrails.append((event.agent, event.data))
        elif kind == APPROVAL_RESOLVED:
            self.approvals.append(event.data)
            self.last_command = max(self.last_command, event.data.command)
        elif kind == INPUT_ADDED:
            self.items += event.data.items if event.live is None else event.live
            self.last_command = max(self.last_command, event.data.command)
        elif kind == RUN_START:
            self.start = event.data
            self.end = None  # where the run continues another one, that one's
        elif kind == RUN_QUEUED:
            self.queue_position = event.data.position
        elif kind == RUN_END:
            self.end = event.data
            self.queue_position = 0
            self.turn_closed = event.data.status != "interrupted"
            self.response_seq = None

    def apply_model(self, data: Any, seq: int, response: ModelResponse | None = None) -> None:
        """Take in a model event that is no delta. `response` is the model's own account of it, where it gave one."""
        kind = data.type
        if kind == "response.output_item.done":
            self._done_items.append(data.item)
        elif kind == "response.completed":
            if response is None:
                response = ModelResponse.from_response(data.response)
                # Some servers leave the output of the terminal event empty; the items came one by one.
                if not response.output and self._done_items:
                    response.output = self._done_items
            response.answered_by = self.fallback_model or response.answered_by or data.response.model or None
            response.fallback_reason = None if self.fallback_model is None else self.fallback_reason
            self.fallback_model = None
            self.responses.append(response)
            self.turn_closed = False
            self.response_index = len(self.items)
            self._done_items = []
            self.response_seq = None
            return
        elif kind == "response.created":
            self._done_items = []
            self.response_seq = seq
            return
        if self.response_seq is None:
            self.response_seq = seq

    def _asked_again(self, raw: Any) -> None:
        """A model may use the id of a call again: the answer to the earlier one is none to this."""
        call_id = read_field(raw, "call_id") or read_field(raw, "id")
        self.approvals = [answer for answer in self.approvals if answer.always or answer.call_id != call_id]

    def abandon_response(self) -> None:
        """The open response will not be completed: its call has failed or was cancelled."""
        self._done_items = []
        self.response_seq = None
