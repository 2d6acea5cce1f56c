"""The model's stream, folded into the entries of one strand: messages, reasoning and calls as they grow.

Owns which entry an event of the stream is about. Pure. What a server leaves out or repeats must not break a view: every
field is looked for, and what an item says at its end holds over what its deltas said.

Invariant: `open` and `unclaimed` can be told from the entries, so that a view that was stored goes on (`resume`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from runstream.agent.raw_item import read_field, read_text
from runstream.events.codec import plain
from runstream.events.event import Event
from runstream.view.entries import (
    Entry,
    ErrorEntry,
    HandoffEntry,
    MessageEntry,
    OtherEntry,
    Part,
    ReasoningEntry,
    Strand,
    ToolEntry,
    Turn,
)
from runstream.view.growing import Growing
from runstream.view.texts import content_parts, output_text, reasoning_parts

__all__ = ["DELTAS", "Book", "ResponseFold", "Said", "Spot", "fill_call", "key_of"]

Said: TypeAlias = MessageEntry | ReasoningEntry | ToolEntry | HandoffEntry | OtherEntry

# What grows: the entry, the type of its part, and the field with the part's number.
DELTAS: dict[str, tuple[type[Any], str, str | None]] = {
    "response.output_text.delta": (MessageEntry, "text", "content_index"),
    "response.refusal.delta": (MessageEntry, "refusal", "content_index"),
    "response.reasoning_summary_text.delta": (ReasoningEntry, "summary", "summary_index"),
    "response.reasoning_text.delta": (ReasoningEntry, "text", "content_index"),
    "response.function_call_arguments.delta": (ToolEntry, "", None),
    "response.mcp_call_arguments.delta": (ToolEntry, "", None),
    "response.code_interpreter_call_code.delta": (ToolEntry, "", None),
    "response.custom_tool_call_input.delta": (ToolEntry, "", None),
}
# What has grown to its end, and the field that holds it whole.
_DONE = {
    "response.output_text.done": ("response.output_text.delta", "text"),
    "response.refusal.done": ("response.refusal.delta", "refusal"),
    "response.reasoning_summary_text.done": ("response.reasoning_summary_text.delta", "text"),
    "response.reasoning_text.done": ("response.reasoning_text.delta", "text"),
    "response.function_call_arguments.done": ("response.function_call_arguments.delta", "arguments"),
    "response.mcp_call_arguments.done": ("response.mcp_call_arguments.delta", "arguments"),
    "response.code_interpreter_call_code.done": ("response.code_interpreter_call_code.delta", "code"),
    "response.custom_tool_call_input.done": ("response.custom_tool_call_input.delta", "input"),
}
_ENDS: dict[str, Literal["completed", "incomplete", "failed"]] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "error": "failed",
}
# Items that are a use of a tool, beside all whose type ends with "_call".
_TOOL_KINDS = frozenset(("mcp_list_tools", "mcp_approval_request"))
# Where the provider's own tools have their arguments, and their output.
_ARGUMENTS = ("arguments", "input", "code", "action", "queries")
_OUTPUTS = ("output", "outputs", "results", "result")
_HOSTED_STATES = {"completed": "done", "failed": "failed", "incomplete": "failed"}


@dataclass(slots=True)
class Book:
    """What all strands of a view share."""

    index: dict[int, Entry] = field(default_factory=dict[int, Entry])
    pending: list[int] = field(default_factory=list[int])
    """Ids of the calls that wait for a person's approval."""
    keep_void: bool = True

    def forget(self, entry: Entry) -> None:
        """The entry, and what is within it, is taken out."""
        self.index.pop(entry.id, None)
        if isinstance(entry, ToolEntry) and entry.nested is not None:
            for inner in entry.nested.entries:
                self.forget(inner)


class Spot:
    """Where the deltas of one part go, as long as nothing but deltas comes."""

    __slots__ = (
        "attempt",
        "changed",
        "delta_class",
        "index",
        "index_name",
        "output_index",
        "path",
        "tail",
        "text",
        "turn",
    )

    def __init__(
        self, event: Event, changed: tuple[int, ...], text: Growing, index_name: str | None, turn: Turn | None
    ) -> None:
        data: Any = event.data
        fields: dict[str, Any] = data.__dict__
        self.delta_class = data.__class__
        self.path = event.path
        self.attempt = event.attempt
        self.output_index: Any = fields.get("output_index")
        self.index_name = index_name
        self.index: Any = fields.get(index_name or "")
        self.text = text
        self.tail = text.tail
        self.turn = turn
        """The turn whose figures the delta counts for; None for what is no text."""
        self.changed = changed


def key_of(event: Event) -> tuple[Any, ...]:
    """What the deltas of one part have in common."""
    data: Any = event.data
    get = data.__dict__.get
    indexes = get("output_index"), get("content_index"), get("summary_index")
    return data.__class__, event.path, event.attempt, indexes


class ResponseFold:
    """Model events of one path, in their order."""

    def __init__(self, book: Book, shown: Strand, parents: tuple[int, ...] = ()) -> None:
        self.book = book
        self.shown = shown
        self.parents = parents
        """Ids of the tool entries that the strand is in, the innermost first."""
        self.open: dict[int, Said] = {}
        """What the response at hand has begun, by its place in the output."""
        self.unclaimed: list[Said] = []
        """What the latest response has begun and no item event was about yet, in its order."""
        self.voided: list[int] = []
        """Ids of what became void with the event at hand."""

    def resume(self) -> None:
        """Find out from the entries where the strand stands."""
        turns = self.shown.turns
        if not turns:
            return
        turn = turns[-1]
        for entry in self.shown.entries:
            if not isinstance(entry, Said) or entry.turn != turn.number or entry.void or entry.item_seq is not None:
                continue
            self.unclaimed.append(entry)
            if turn.state == "open":
                self.open[entry.output_index] = entry

    def changed(self, *entries: Entry) -> tuple[int, ...]:
        """What `RunView.apply` returns for a change of these."""
        return (*(entry.id for entry in entries), *self.parents)

    def add(self, entry: Entry) -> None:
        """A new entry, at the end."""
        self.shown.entries.append(entry)
        self.book.index[entry.id] = entry

    # Turns.

    def _turn(self, event: Event) -> Turn:
        """The turn that the event belongs to."""
        turns = self.shown.turns
        turn = turns[-1] if turns else None
        if turn is None or turn.state not in ("open", "failed"):
            turn = Turn(number=len(turns) + 1, agent=event.agent, attempt=event.attempt, started_at=event.at)
            turns.append(turn)
            self.open, self.unclaimed = {}, []
        elif (turn.attempt != event.attempt or turn.state != "open") and not self.shown.cut:
            self._begin_again(turn, event)
        return turn

    def _begin_again(self, turn: Turn, event: Event) -> None:
        """The call is made again: what its last attempt left behind, if it was not discarded, counts no more."""
        self.make_void([entry for entry in self.unclaimed if not entry.void], event.at)
        turn.attempt, turn.state = event.attempt, "open"
        turn.ended_at = turn.usage = None

    def make_void(self, entries: Sequence[Entry], at: float) -> None:
        """These entries, and whatever the response at hand has begun, count as never said."""
        self.open, self.unclaimed = {}, []
        for entry in entries:
            entry.void = True
            self.voided.append(entry.id)
            if isinstance(entry, MessageEntry | ReasoningEntry) and entry.state == "streaming":
                entry.state, entry.ended_at = "incomplete", at
            elif isinstance(entry, ToolEntry) and entry.state in ("arguments", "waiting", "running"):
                entry.state, entry.ended_at = "cancelled", at
                if entry.id in self.book.pending:
                    self.book.pending.remove(entry.id)
        if entries and not self.book.keep_void:
            self.shown.entries[:] = [entry for entry in self.shown.entries if not entry.void]
            for entry in entries:
                self.book.forget(entry)

    def lose_track(self) -> None:
        """Events that come next were not seen: what is open may have ended, and another response begun."""
        self.shown.cut = True
        for entry in self.unclaimed:
            entry.cut = True

    # Model events.

    def model(self, event: Event) -> tuple[int, ...]:
        """Take in a model event that is no delta; returns what it changed."""
        data: Any = event.data
        kind: str = data.type
        if kind == "response.created":
            return self._created(event, data)
        turn = self._turn(event)
        if kind in _ENDS:
            return self._end(turn, event, _ENDS[kind])
        if kind in _DONE:
            return self._done(event, *_DONE[kind])
        if kind in ("response.output_item.added", "response.output_item.done"):
            return self._item(event, is_done=kind.endswith("done"))
        entry = self.open.get(read_field(data, "output_index") or 0)
        if kind == "response.output_text.annotation.added":
            entry, part = self._part(event, MessageEntry, "text", "content_index")
            if part is not None:
                part.annotations.append(plain(read_field(data, "annotation")))
            return self.changed(entry)
        return self._phase(entry, kind, event.at) if isinstance(entry, ToolEntry) else ()

    def _created(self, event: Event, data: Any) -> tuple[int, ...]:
        turns = self.shown.turns
        if turns and turns[-1].state == "open":
            if self.shown.cut:
                turns[-1].state = "unknown"  # its end was not seen
                self._close_texts(event.at, "incomplete")
            elif self.unclaimed:
                self._begin_again(turns[-1], event)
        self.shown.cut = False
        turn = self._turn(event)
        response = read_field(data, "response")
        turn.model, turn.response_id = read_text(response, "model"), read_text(response, "id")
        return (0, *self.parents)

    def delta(self, event: Event) -> tuple[tuple[int, ...], Spot | None]:
        """Take in a delta; returns what it changed, and where those go that continue it."""
        data: Any = event.data
        turn = self._turn(event)
        entry_class, part_type, index_name = DELTAS[data.type]
        entry, part = self._part(event, entry_class, part_type, index_name)
        text = part.growing if part is not None else entry.growing if isinstance(entry, ToolEntry) else None
        piece: Any = read_field(data, "delta")
        if text is None or not piece:
            return self.changed(entry), None
        text.add(str(piece))
        is_text = data.type == "response.output_text.delta"
        if is_text:
            turn.text_deltas += 1
            turn.last_text_at = event.at
            if turn.first_text_at is None:
                turn.first_text_at = event.at
        spot = Spot(event, self.changed(entry), text, index_name, turn if is_text else None)
        return spot.changed, spot if "delta" in data.__dict__ else None

    def _part(
        self, event: Event, entry_class: type[Any], part_type: Any, index_name: str | None
    ) -> tuple[Said, Part | None]:
        """The entry, and its part, that an event is about; they are made where they are not there."""
        data: Any = event.data
        output_index: int = read_field(data, "output_index") or 0
        entry = self._known(output_index, read_text(data, "item_id"))
        if entry is None or type(entry) is not entry_class:
            entry = self._begin(event, entry_class, output_index, read_text(data, "item_id"))
            entry.cut = self.shown.cut
        if not isinstance(entry, MessageEntry | ReasoningEntry):
            return entry, None
        index: int = 0 if index_name is None else read_field(data, index_name) or 0
        for part in reversed(entry.parts):
            if part.index == index and part.type == part_type:
                return entry, part
        part = Part(part_type, index)
        entry.parts.append(part)
        return entry, part

    def _known(self, output_index: int, item_id: str | None) -> Said | None:
        """What the response has begun there. By the place: some servers change an item's id from event to event."""
        entry = self.open.get(output_index)
        if entry is not None and entry.cut and entry.item_id != item_id:
            return None  # of a response whose end was not seen
        return entry

    def _begin(self, event: Event, entry_class: type[Any], output_index: int, item_id: str | None) -> Said:
        entry: Said = entry_class(
            id=event.seq,
            at=event.at,
            agent=event.agent,
            turn=self.shown.turns[-1].number,
            attempt=event.attempt,
            output_index=output_index,
            item_id=item_id,
        )
        self.add(entry)
        self.open[output_index] = entry
        self.unclaimed.append(entry)
        return entry

    def _phase(self, entry: ToolEntry, kind: str, at: float) -> tuple[int, ...]:
        """`response.web_search_call.searching` and the like."""
        prefix, _, phase = kind.rpartition(".")
        if prefix != f"response.{entry.kind}":
            return ()
        entry.phase = phase
        if entry.state == "arguments" and phase != "completed":
            entry.state, entry.started_at = "running", at
        return self.changed(entry)

    def _done(self, event: Event, delta_type: str, name: str) -> tuple[int, ...]:
        entry, part = self._part(event, *DELTAS[delta_type])
        whole = read_field(event.data, name)
        if isinstance(whole, str) and whole:
            if part is not None:
                part.growing.replace(whole)
            elif isinstance(entry, ToolEntry):
                entry.growing.replace(whole)
        if isinstance(entry, ToolEntry):
            entry.name = entry.name or read_text(event.data, "name") or ""
            entry.parsed = _parsed(entry.arguments)
        return self.changed(entry)

    def _item(self, event: Event, *, is_done: bool) -> tuple[int, ...]:
        raw = read_field(event.data, "item")
        output_index: int = read_field(event.data, "output_index") or 0
        item_id = read_text(raw, "id")
        entry = self._known(output_index, item_id)
        if entry is None:
            entry = self._begin(event, _entry_class(raw), output_index, item_id)
        entry.item_id = item_id or entry.item_id
        if is_done:
            self.complete(entry, raw, event.at)
        elif isinstance(entry, ToolEntry):
            fill_call(entry, raw, event.at, is_done=False)
        elif isinstance(entry, OtherEntry):
            entry.kind = str(read_field(raw, "type"))
        return self.changed(entry)

    def complete(self, entry: Said, raw: Any, at: float) -> None:
        """The item is whole."""
        entry.cut = False
        if entry.ended_at is None and not isinstance(entry, ToolEntry | HandoffEntry):
            entry.ended_at = at
        if isinstance(entry, MessageEntry):
            _set_parts(entry, content_parts(raw))
            entry.state = "incomplete" if read_field(raw, "status") == "incomplete" else "done"
        elif isinstance(entry, ReasoningEntry):
            _set_parts(entry, reasoning_parts(raw))
            entry.state = "done"
        elif isinstance(entry, OtherEntry):
            entry.kind, entry.raw = str(read_field(raw, "type")), plain(raw)
        elif isinstance(entry, ToolEntry):
            fill_call(entry, raw, at, is_done=True)

    def _end(self, turn: Turn, event: Event, state: Any) -> tuple[int, ...]:
        """The response has ended, in one way or another."""
        data: Any = event.data
        response = read_field(data, "response")
        turn.state = state
        turn.ended_at = event.at
        turn.model = turn.model or read_text(response, "model")
        turn.response_id = turn.response_id or read_text(response, "id")
        turn.usage = _usage(read_field(response, "usage"))
        touched = self._close_texts(event.at, "done" if state == "completed" else "incomplete")
        if state != "completed":
            for entry in self.open.values():
                if isinstance(entry, ToolEntry) and entry.state == "arguments":
                    entry.state, entry.ended_at = "cancelled", event.at
                    touched.append(entry)
            failure = _failure(event, data, response)
            self.add(failure)
            touched.append(failure)
        self.open = {}
        return (0, *self.changed(*touched))

    def _close_texts(self, at: float, state: Any) -> list[Entry]:
        closed: list[Entry] = []
        for entry in self.open.values():
            if isinstance(entry, MessageEntry | ReasoningEntry) and entry.state == "streaming":
                entry.state, entry.ended_at = state, at
                closed.append(entry)
        return closed


def _entry_class(raw: Any) -> type[Said]:
    kind = str(read_field(raw, "type"))
    if kind == "message":
        return MessageEntry
    if kind == "reasoning":
        return ReasoningEntry
    return ToolEntry if kind.endswith("_call") or kind in _TOOL_KINDS else OtherEntry


def _set_parts(entry: MessageEntry | ReasoningEntry, given: list[tuple[str, str, list[Any]]]) -> None:
    """The parts of the whole item. Some servers leave them out at the end: then the deltas have said it all."""
    if not any(text for _, text, _ in given):
        return
    seen: dict[str, int] = {}
    parts: list[Part] = []
    for number, (kind, text, notes) in enumerate(given):
        index = number if isinstance(entry, MessageEntry) else seen.get(kind, 0)
        seen[kind] = index + 1
        known = next((part for part in entry.parts if part.type == kind and part.index == index), None)
        part = known or Part(kind, index)  # type: ignore[arg-type]
        part.growing.replace(text)
        part.annotations = plain(notes)
        parts.append(part)
    entry.parts = parts


def fill_call(entry: ToolEntry, raw: Any, at: float, *, is_done: bool) -> None:
    """What an item says about its call. The provider's own tools have run when their item is done."""
    kind = str(read_field(raw, "type"))
    entry.kind = kind
    entry.call_id = read_text(raw, "call_id") or read_text(raw, "id") or entry.call_id
    name = read_text(raw, "name") or read_text(raw, "server_label")
    entry.name = name or entry.name or kind.removesuffix("_call")
    given = next((value for value in (read_field(raw, field) for field in _ARGUMENTS) if value), None)
    if given is not None:
        entry.growing.replace(given if isinstance(given, str) else json.dumps(plain(given), ensure_ascii=False))
    if not is_done:
        return
    entry.parsed = _parsed(entry.arguments)
    state = _HOSTED_STATES.get(read_text(raw, "status") or "completed")
    is_ours = kind == "function_call" or kind == "mcp_approval_request"
    if is_ours or state is None or entry.state not in ("arguments", "running"):
        return
    error = read_field(raw, "error")
    entry.state = "failed" if error else state  # type: ignore[assignment]
    entry.ended_at = at
    output = error or next((value for value in (read_field(raw, name) for name in _OUTPUTS) if value), None)
    if output is not None:
        entry.output = output_text(output if isinstance(output, str) else plain(output))


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def _usage(usage: Any) -> dict[str, int] | None:
    names = ("input_tokens", "output_tokens", "total_tokens")
    found = {name: value for name in names if isinstance(value := read_field(usage, name), int)}
    return found or None


def _failure(event: Event, data: Any, response: Any) -> ErrorEntry:
    kind: str = data.type
    error = read_field(response, "error")
    if kind == "error":
        code, message = read_field(data, "code"), read_field(data, "message")
    elif kind == "response.incomplete":
        code = read_field(read_field(response, "incomplete_details"), "reason")
        message = "The response is incomplete" + (f": {code}" if code else "")
    else:
        code, message = read_field(error, "code"), read_field(error, "message")
    return ErrorEntry(
        id=event.seq,
        at=event.at,
        agent=event.agent,
        source="model",
        name=kind,
        message=str(message or "The model's response failed"),
        code=None if code is None else str(code),
    )
