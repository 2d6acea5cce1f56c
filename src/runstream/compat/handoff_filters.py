"""Ready-made filters of what the next agent gets to see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runstream.agent.handoff import HandoffInputData
from runstream.agent.items import CompactionItem, InputItem, MessageOutputItem, RunItem
from runstream.agent.raw_item import read_field

__all__ = ["remove_all_tools"]


def remove_all_tools(handoff_input_data: HandoffInputData) -> HandoffInputData:
    """Messages only: without tool calls, their outputs, handoffs, and the reasoning, which is nothing without them."""
    history, input_items = handoff_input_data.input_history, handoff_input_data.input_items
    return handoff_input_data.clone(
        input_history=history if isinstance(history, str) else tuple(item for item in history if not _is_tools(item)),
        pre_handoff_items=_messages(handoff_input_data.pre_handoff_items),
        new_items=_messages(handoff_input_data.new_items),
        input_items=None if input_items is None else _messages(input_items),
    )


def _messages(items: Iterable[RunItem]) -> tuple[RunItem, ...]:
    return tuple(item for item in items if isinstance(item, MessageOutputItem | InputItem | CompactionItem))


def _is_tools(item: Any) -> bool:
    kind = read_field(item, "type") or "message"
    return kind in ("reasoning", "program") or kind.startswith("mcp_") or kind.endswith(("_call", "_output"))
