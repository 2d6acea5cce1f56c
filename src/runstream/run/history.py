"""What the model is told at each turn, and what is kept for the next run.

A `Conversation` holds the input of the next model call. Where the provider keeps the history (`previous_response_id`,
`conversation_id`), only what it has not seen is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from runstream.agent.items import (
    HandoffCallItem,
    InputItem,
    ItemHelpers,
    ModelResponse,
    RunItem,
    ToolApprovalItem,
    ToolCallItem,
    ToolCallOutputItem,
    TResponseInputItem,
)
from runstream.agent.raw_item import read_field
from runstream.errors import CursorExpired
from runstream.events.event import MODEL, Event
from runstream.log.fold import RunFold
from runstream.log.memory import MemoryLog
from runstream.run.decide import REFUSED_CALLS

__all__ = [
    "CANCELLED_OUTPUT",
    "Conversation",
    "cancelled_output",
    "input_items_of",
    "latest_of_each",
    "left_by_filter",
    "open_calls",
    "partial_messages",
    "without_orphans",
]

CANCELLED_OUTPUT = "cancelled: the run ended before this call had a result."
"""What the model finds as the output of a call that was open when its run ended."""


def input_items_of(items: Iterable[RunItem], *, omit_reasoning_ids: bool = False) -> list[TResponseInputItem]:
    """The items as input for a model: approval requests and calls that nobody here can answer left out, unfinished
    messages without the provider's id.

    A provider refuses a call without its answer, and an id that it does not know as complete, or whose reasoning is
    missing; without the id the text stands for itself.
    """
    items = list(items)
    converted: list[TResponseInputItem] = []
    has_gaps = False
    for item in items:
        if item.type == "tool_approval_item":
            continue
        fields = cast("dict[str, Any]", item.to_input_item())
        kind = fields.get("type")
        if kind in _UNANSWERED and not _is_answered(fields, items):
            has_gaps = True
            continue
        unfinished = kind == "message" and fields.get("status") == "incomplete"
        if unfinished or (omit_reasoning_ids and kind == "reasoning"):
            fields.pop("id", None)
        converted.append(cast("TResponseInputItem", fields))
    return _without_loose_reasoning(converted) if has_gaps else converted


_UNANSWERED = REFUSED_CALLS | {"mcp_approval_request"}


def _is_answered(call: dict[str, Any], items: Iterable[RunItem]) -> bool:
    names = {call.get("call_id"), call.get("id")}
    names.discard(None)
    return any(
        (read_field(item.raw_item, "type") or "").endswith(("_output", "_response"))
        and {read_field(item.raw_item, "call_id"), read_field(item.raw_item, "approval_request_id")} & names
        for item in items
    )


def _without_loose_reasoning(items: list[TResponseInputItem]) -> list[TResponseInputItem]:
    """Reasoning must be followed by what it led to."""
    kinds = [*[str(read_field(item, "type") or "") for item in items], "reasoning"]
    return [
        item
        for index, item in enumerate(items)
        if kinds[index] != "reasoning" or not (kinds[index + 1] == "reasoning" or kinds[index + 1].endswith("_output"))
    ]


class Conversation:
    """The model's input, turn by turn."""

    __slots__ = (
        "_omit_reasoning_ids",
        "_pending",
        "auto_previous_response_id",
        "base",
        "conversation_id",
        "items",
        "previous_response_id",
    )

    def __init__(
        self,
        base: Sequence[TResponseInputItem],
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        auto_previous_response_id: bool,
        omit_reasoning_ids: bool,
    ) -> None:
        self.base = _without_reasoning_ids(base) if omit_reasoning_ids else list(base)
        """Input items that the run began with."""
        self._omit_reasoning_ids = omit_reasoning_ids
        self._pending = 0
        self.items: list[RunItem] = []
        """The run items that the model is to see; a handoff's filter may replace them."""
        self.conversation_id = conversation_id
        self.auto_previous_response_id = auto_previous_response_id
        self.previous_response_id = previous_response_id

    @property
    def kept_by_provider(self) -> bool:
        """Whether the provider has the history, so that only what is new is sent."""
        return (
            self.conversation_id is not None or self.previous_response_id is not None or self.auto_previous_response_id
        )

    def next_input(self) -> list[TResponseInputItem]:
        """The input of the next model call."""
        new = input_items_of(self.items[self._pending :], omit_reasoning_ids=self._omit_reasoning_ids)
        return [*self.base, *new]

    def answered(self, response: ModelResponse) -> None:
        """The provider has seen everything up to now, and has its own answer, whose items will be added next."""
        if not self.kept_by_provider:
            return
        if self.conversation_id is None and (self.auto_previous_response_id or self.previous_response_id is not None):
            if response.response_id is None:
                return
            self.previous_response_id = response.response_id
        self.base = []
        self._pending = len(self.items) + len(response.output)

    def restore(self, fold: RunFold, *, is_open: bool) -> None:
        """Take in what a run that goes on has said so far; the items of a turn that is open are added at its end."""
        start = 0
        kept: list[RunItem] = []
        left = left_by_filter(fold)
        if left is not None:
            self.replace(ItemHelpers.input_to_new_input_list(left[0]), [])
            start, kept = fold.history_index, left[1]
        elif fold.history is not None:
            self.base = _without_reasoning_ids(fold.history) if self._omit_reasoning_ids else list(fold.history)
            start = fold.history_index
        items: list[RunItem] = fold.items
        if fold.responses and fold.response_index >= start:
            self.items = [*kept, *items[start : fold.response_index]]
            self.answered(fold.responses[-1])
            self.items += [] if is_open else items[fold.response_index :]
        else:
            self.items = [*kept, *items[start:]]

    def replace(self, base: Sequence[TResponseInputItem], items: Sequence[RunItem]) -> None:
        """A handoff's filter has changed what the next agent sees."""
        self.base = _without_reasoning_ids(base) if self._omit_reasoning_ids else list(base)
        self.items = list(items)
        self._pending = 0


def left_by_filter(fold: RunFold) -> tuple[str | list[TResponseInputItem], list[RunItem]] | None:
    """What stands for the run's input since a handoff's filter changed what the agent sees, and the items that it left
    beside that, as input. None where no filter did, or the log is one of those that did not tell."""
    given = fold.history_input
    if fold.history is None or given is None:
        return None
    replaced = fold.history[:given] if isinstance(given, int) else given
    count = 1 if isinstance(replaced, str) else len(replaced)
    return replaced, [InputItem(agent=fold.agent, raw_item=item) for item in fold.history[count:]]


def _without_reasoning_ids(items: Iterable[TResponseInputItem]) -> list[TResponseInputItem]:
    kept = [dict(cast("dict[str, Any]", item)) for item in items]
    for item in kept:
        if item.get("type") == "reasoning":
            item.pop("id", None)
    return cast("list[TResponseInputItem]", kept)


def without_orphans(items: Sequence[TResponseInputItem]) -> list[TResponseInputItem]:
    """The items of a stored conversation without outputs whose call is missing (a limit cut it off): a provider
    refuses them."""
    calls: set[Any] = set()
    kept: list[TResponseInputItem] = []
    for item in items:
        kind = read_field(item, "type")
        if kind == "function_call":
            calls.add(read_field(item, "call_id"))
        elif kind == "function_call_output" and read_field(item, "call_id") not in calls:
            continue
        kept.append(item)
    return kept


def latest_of_each(items: Sequence[TResponseInputItem]) -> list[TResponseInputItem]:
    """Of several items with one id the latest, which a provider wants only once: calls and others in the place of the
    first, before what follows from them; outputs in the place of the last, after their call."""
    latest: dict[tuple[Any, Any], TResponseInputItem] = {}
    last: dict[tuple[Any, Any], int] = {}
    keys: list[tuple[Any, Any] | None] = []
    for index, item in enumerate(items):
        kind = read_field(item, "type")
        name = read_field(item, "call_id") or read_field(item, "id")
        key = (kind, name) if isinstance(kind, str) and name else None
        keys.append(key)
        if key is not None:
            latest[key], last[key] = item, index
    kept: list[TResponseInputItem] = []
    for index, (key, item) in enumerate(zip(keys, items, strict=True)):
        if key is None:
            kept.append(item)
        elif key in latest and (not key[0].endswith("_output") or last[key] == index):
            kept.append(latest.pop(key))
    return kept


def open_calls(items: Iterable[Any]) -> list[ToolCallItem | HandoffCallItem]:
    """The function calls among the items that no output answers."""
    calls: list[ToolCallItem | HandoffCallItem] = []
    for item in items:
        if isinstance(item, ToolApprovalItem):
            continue  # it holds the call itself
        call_id = read_field(getattr(item, "raw_item", None), "call_id")
        if isinstance(item, ToolCallItem | HandoffCallItem):
            if read_field(item.raw_item, "type") == "function_call":
                calls.append(item)
        elif call_id is not None:
            # One output answers one call, also where a model gave two of them the same id.
            answered = next((call for call in calls if read_field(call.raw_item, "call_id") == call_id), None)
            if answered is not None:
                calls.remove(answered)
    return calls


def cancelled_output(call: ToolCallItem | HandoffCallItem, output: str = CANCELLED_OUTPUT) -> ToolCallOutputItem:
    """The output item that answers an open call."""
    raw = ItemHelpers.tool_call_output_item(cast("Any", call.raw_item), output)
    return ToolCallOutputItem(agent=call.agent, raw_item=raw, output=output, outcome="cancelled")


def partial_messages(log: MemoryLog, since_seq: int) -> list[Any]:
    """The messages of a response that broke off, as official items: what readers saw of it.

    Messages that were complete stay so; the text of the one that was under way is marked `incomplete`. Reasoning and
    calls that were never announced as items are left out: the provider refuses them without what should follow. It
    also refuses a message whose reasoning is missing: after reasoning all messages are marked.
    """
    from openai.types.responses import ResponseOutputMessage

    messages: dict[int, Any] = {}
    texts: dict[int, dict[tuple[int, str], list[str]]] = {}
    ids: dict[int, str] = {}
    has_reasoning = False
    for event in _model_events(log, since_seq):
        data = event.data
        if data.type in ("response.output_text.delta", "response.refusal.delta"):
            index = data.output_index or 0  # some servers leave out what is 0
            part = (data.content_index or 0, data.type)
            texts.setdefault(index, {}).setdefault(part, []).append(data.delta or "")
            ids[index] = data.item_id or f"msg_{event.seq}"
        elif data.type == "response.output_item.done" and read_field(data.item, "type") == "message":
            messages[data.output_index or 0] = data.item
        elif data.type == "response.output_item.added":
            has_reasoning |= read_field(data.item, "type") == "reasoning"
    if has_reasoning:
        messages = {index: _incomplete(message) for index, message in messages.items()}
    for index, parts in texts.items():
        if index in messages:
            continue
        content: list[dict[str, Any]] = []
        for (_, kind), pieces in sorted(parts.items()):
            if kind == "response.refusal.delta":
                content.append({"type": "refusal", "refusal": "".join(pieces)})
            else:
                content.append({"type": "output_text", "text": "".join(pieces), "annotations": []})
        if any(piece for pieces in parts.values() for piece in pieces):
            messages[index] = ResponseOutputMessage.model_validate(
                {"id": ids[index], "type": "message", "role": "assistant", "status": "incomplete", "content": content}
            )
    return [messages[index] for index in sorted(messages)]


def latest_text(shown: Sequence[Any], items: Sequence[RunItem]) -> str | None:
    """The text of these messages, or else of the items' latest message; None where there is none."""
    latest = next((item.raw_item for item in reversed(items) if item.type == "message_output_item"), None)
    for messages in (shown, [] if latest is None else [latest]):
        text = "".join(ItemHelpers.extract_text(message) or "" for message in messages)
        if text:
            return text
    return None


def ends_incomplete(items: Sequence[RunItem]) -> bool:
    """Whether the latest message broke off."""
    latest = next((item.raw_item for item in reversed(items) if item.type == "message_output_item"), None)
    return latest is not None and read_field(latest, "status") == "incomplete"


def _incomplete(message: Any) -> Any:
    changes = {"status": "incomplete"}
    if isinstance(message, dict):
        return {**cast("dict[str, Any]", message), **changes}
    return message.model_copy(update=changes)


def _model_events(log: MemoryLog, since_seq: int) -> Iterable[Event]:
    after, path = since_seq - 1, log.path
    while after < log.last_seq:
        try:
            events = log.read_joined(after)
        except CursorExpired as error:
            after = error.first_seq - 1
            continue
        for event in events:
            after = event.seq
            if event.kind == MODEL and event.path == path:
                yield event
