"""Handoffs: who goes on, and what they get to see of the conversation."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.handoff import Handoff, HandoffInputData
from runstream.agent.items import HandoffOutputItem, ItemHelpers, RunItem, ToolCallOutputItem
from runstream.errors import UserError
from runstream.events.codec import plain
from runstream.run.active import ActiveRun
from runstream.run.decide import HandoffCall
from runstream.run.history import Conversation
from runstream.run.tools import call_hooks

__all__ = ["hand_over"]

_IGNORED_HANDOFF = "Multiple handoffs detected, ignoring this one."


async def hand_over(run: ActiveRun, calls: Sequence[HandoffCall], conversation: Conversation, first_item: int) -> None:
    """Make the first of these handoffs; the others are answered as ignored.

    `first_item` is the index of the turn's first item. What goes into the log goes in together, so that nobody who
    takes the run over finds a handoff half made.
    """
    before, first = run.agent, calls[0]
    handoff = first.handoff
    given = await handoff.on_invoke_handoff(run.context, first.call.arguments)
    if not isinstance(given, Agent):
        raise UserError(f"The handoff {handoff.tool_name!r} must give an Agent, not {given!r}")
    target = cast("Agent[Any]", given)
    items: list[RunItem] = []
    for ignored in calls[1:]:
        raw = ItemHelpers.tool_call_output_item(ignored.call, _IGNORED_HANDOFF)
        items.append(ToolCallOutputItem(agent=before, raw_item=raw, output=_IGNORED_HANDOFF))
    made = ItemHelpers.tool_call_output_item(first.call, handoff.get_transfer_message(target))
    items.append(HandoffOutputItem(agent=before, raw_item=cast("Any", made), source_agent=before, target_agent=target))
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_handoff(run.context, before, target),
        before.hooks is not None and before.hooks.on_handoff(run.context, target, before),
    )
    turn_items = [*run.items[first_item:], *items]
    filtered = await _filtered(run, handoff, conversation, turn_items)
    run.check_open()
    for item in items:
        run.emit_item(item)
    if filtered is None:
        conversation.items += turn_items
        run.emit_agent(target)
        return
    history = filtered.input_history
    run.input = history if isinstance(history, str) else list(history)
    new_items = filtered.new_items if filtered.input_items is None else filtered.input_items
    conversation.replace(ItemHelpers.input_to_new_input_list(run.input), [*filtered.pre_handoff_items, *new_items])
    run.filtered = (len(run.items), tuple(conversation.items))
    seen = plain(conversation.next_input())
    run.emit_agent(target, seen, _input_in(seen, run.input))


def _input_in(seen: list[Any], given: str | list[Any]) -> str | int | list[Any]:
    """The input, as `AgentStart` has it beside what is seen."""
    if isinstance(given, str):
        return given
    items = plain(given)
    return len(items) if seen[: len(items)] == items else items


async def _filtered(
    run: ActiveRun, handoff: Handoff[Any, Any], conversation: Conversation, turn_items: Sequence[RunItem]
) -> HandoffInputData | None:
    """What the handoff's filter, or the run's, makes of the conversation; None where there is no filter.

    Raises UserError for a filter that returns something else, or cannot work because the provider keeps the history.
    """
    input_filter = handoff.input_filter or run.config.handoff_input_filter
    if input_filter is None:
        return None
    if not callable(input_filter):
        raise UserError(f"Handoff {handoff.tool_name!r}: input_filter must be callable, not {input_filter!r}")
    if conversation.kept_by_provider:
        raise UserError(
            "a handoff's input_filter cannot be combined with conversation_id, previous_response_id or "
            "auto_previous_response_id: the provider keeps the history, which a filter cannot change"
        )
    filtered = input_filter(
        HandoffInputData(
            input_history=run.input if isinstance(run.input, str) and not run.session else tuple(conversation.base),
            pre_handoff_items=tuple(conversation.items),
            new_items=tuple(turn_items),
            run_context=run.context,
        )
    )
    if inspect.isawaitable(filtered):
        filtered = await filtered
    if not isinstance(cast("object", filtered), HandoffInputData):
        raise UserError(f"A handoff's input_filter must return HandoffInputData, not {type(filtered).__name__}")
    return filtered
