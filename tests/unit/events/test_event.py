"""events/event: names that are written down are for ever."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from runstream.events import event as module
from runstream.events.event import (
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    ErrorInfo,
    Event,
    GuardrailChecked,
    InputAdded,
    ItemAdded,
    RunEnd,
    RunQueued,
    RunStart,
    RunStatus,
    ToolProgress,
)

_CLASSES = (
    *(RunStart, RunQueued, AgentStart, ItemAdded, ErrorInfo, RunEnd),
    *(AttemptDiscarded, ApprovalResolved, InputAdded, ToolProgress, GuardrailChecked),
)


def test_wire_strings() -> None:
    """The kinds of events and the statuses of a run have the names that stored logs have."""
    kinds = {name: getattr(module, name) for name in module.__all__ if name.isupper()}
    assert kinds == {
        "AGENT_START": "agent.start",
        "APPROVAL_RESOLVED": "approval.resolved",
        "ATTEMPT_DISCARDED": "attempt.discarded",
        "GUARDRAIL": "guardrail",
        "INPUT_ADDED": "input.added",
        "ITEM": "item",
        "MODEL": "model",
        "RUN_END": "run.end",
        "RUN_QUEUED": "run.queued",
        "RUN_START": "run.start",
        "TOOL_PROGRESS": "tool.progress",
    }
    assert get_args(RunStatus) == ("completed", "failed", "cancelled", "interrupted")


def test_names_of_the_fields() -> None:
    """The data of each kind has the fields that stored logs have; later ones come after them."""
    fields = {data_class.__name__: [field.name for field in dataclasses.fields(data_class)] for data_class in _CLASSES}
    assert fields == {
        "RunStart": ["input", "max_turns", "options", "resumed"],
        "RunQueued": ["position"],
        "AgentStart": ["previous", "history", "history_input"],
        "ItemAdded": ["name", "type", "raw", "more"],
        "ErrorInfo": ["type", "message", "code", "retryable"],
        "RunEnd": ["status", "error", "final_output", "usage"],
        "AttemptDiscarded": ["from_seq", "reason", "detail", "next_model"],
        "ApprovalResolved": ["call_id", "tool_name", "approved", "always", "message", "command"],
        "InputAdded": ["items", "command"],
        "ToolProgress": ["call_id", "tool_name", "data", "dropped"],
        "GuardrailChecked": [
            *("name", "about", "outcome", "began_at", "duration_s", "delay_s", "delay_max_s", "checks", "characters"),
            *("tool_name", "call_id", "message", "info"),
        ],
    }


def test_data_cannot_be_changed() -> None:
    """What is in the log stays as it was written: the data of the rare kinds is frozen."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunStart("hello").input = "bye"  # type: ignore[misc]


def test_an_event_is_itself() -> None:
    """Events are compared by identity: two readers get equal data, and a seq tells which event it is."""
    first, second = (Event("run", 1, 0.0, "model", None, 0, (), {}) for _ in range(2))
    assert first != second
    assert first == first
