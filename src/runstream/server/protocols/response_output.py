"""The output of one response of the OpenAI Responses API while it grows: its items, and the events that tell of them.
Pure.

Invariants: events are numbered without gaps, told or not; a part ends before its item, and each ends once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runstream.server.protocols.response_item import Item, Part

__all__ = ["Emit", "ResponseOutput", "without_id"]

Emit = Callable[[str, dict[str, Any]], None]
"""Takes a stream event: its type, and its fields with `sequence_number`. They may change afterwards: encode at once."""


class ResponseOutput:
    """Belongs to a fold, which says what happens. Only the events of the response of that `part` are told."""

    def __init__(self, run_id: str, emit: Emit | None, wanted: int | None) -> None:
        self._short = run_id.removeprefix("run_")
        self._emit = emit
        self._wanted = wanted
        self.part = 1
        """Which of the run's responses it is."""
        self.number = 0
        """The number of the next event."""
        self.items: list[Item] = []
        self.seq = 0
        """Of the event of the log that items now begin with."""

    def begin_part(self) -> None:
        """The run's next response."""
        self.part += 1
        self.number, self.items = 0, []

    @property
    def is_told(self) -> bool:
        """Whether somebody is told what happens now."""
        return self.part == self._wanted and self._emit is not None

    def append(self, fields: dict[str, Any], prefix: str) -> Item:
        """An item begins, which the caller tells of."""
        index = len(self.items)
        number = f"{index}" if self.part == 1 else f"{self.part}_{index}"
        item = Item({"id": f"{prefix}_{self._short}_{number}", **without_id(fields)}, index, self.seq)
        self.items.append(item)
        return item

    def append_call(self, agent: str, name: str, call_id: str | None) -> Item:
        """As `append`, for a call that the run carries out."""
        fields = {
            "type": "mcp_call",
            "status": "in_progress",
            "server_label": agent,
            "name": name,
            "arguments": "",
            "approval_request_id": None,
            "output": None,
            "error": None,
        }
        item = self.append(fields, "mcp")
        item.call_id = call_id or ""
        return item

    def part_of(self, item: Item, kind: str, index: int) -> Part:
        """The item's part at the model's index; told where it is a new one."""
        part = item.parts.get((kind, index))
        if part is None:
            part = item.add_part(kind, index)
            if item.is_open:
                self.send(f"{part.form.part_event}.added", **item.place(part), part=part.shown())
        return part

    def grow(self, item: Item, part: Part, delta: str) -> None:
        """More of a text."""
        if not part.is_open:
            return
        part.pieces.append(delta)
        if part.kind == "output_text":
            self.send("response.output_text.delta", **item.place(part), delta=delta, logprobs=[])
        else:
            self.send(f"{part.form.event}.delta", **item.place(part), delta=delta)

    def end_part(self, item: Item, part: Part, text: str | None = None) -> None:
        """A text ends; `text` is all of it, where that is known: deltas may have been left out."""
        if not part.is_open:
            return
        shown = part.text
        if text is not None and text != shown:
            if text.startswith(shown):
                self.grow(item, part, text[len(shown) :])
            part.pieces = [text]
        part.is_open = False
        done: dict[str, Any] = {part.form.text_name: part.text}
        if part.kind == "output_text":
            done["logprobs"] = []
        self.send(f"{part.form.event}.done", **item.place(part), **done)
        self.send(f"{part.form.part_event}.done", **item.place(part), part=part.shown())

    def grow_arguments(self, item: Item, delta: str) -> None:
        """More of the arguments of a call."""
        if item.is_open and not item.has_arguments and delta:
            item.arguments.append(delta)
            self.send("response.mcp_call_arguments.delta", output_index=item.index, item_id=item.id, delta=delta)

    def end_arguments(self, item: Item, arguments: str) -> None:
        """All the arguments of a call."""
        if item.has_arguments or not item.is_open:
            return
        grown = "".join(item.arguments)
        if arguments.startswith(grown):
            self.grow_arguments(item, arguments[len(grown) :])
        item.has_arguments = True
        item.fields["arguments"] = arguments
        place = {"output_index": item.index, "item_id": item.id}
        self.send("response.mcp_call_arguments.done", **place, arguments=arguments)

    def close_said(self, item: Item, status: str) -> None:
        """A message, or reasoning, ends with all that it has."""
        for part in item.parts.values():
            self.end_part(item, part)
        item.fields["status"] = status
        item.take_parts()
        self.done(item)

    def done(self, item: Item) -> None:
        """The item ends as it is."""
        item.is_open = False
        self.send("response.output_item.done", output_index=item.index, item=item.fields)

    def break_off(self, item: Item, *, is_void: bool) -> None:
        """The item will not be completed."""
        item.is_void |= is_void
        if item.is_relayed:
            item.fields["status"] = "failed"
            self.done(item)
        elif item.call_id is not None:
            if not item.has_arguments:
                item.fields["arguments"] = "".join(item.arguments)
            item.fields["status"] = "incomplete"
            self.done(item)
        else:
            self.close_said(item, "incomplete")

    def send(self, kind: str, **fields: Any) -> None:
        """The next event."""
        number = self.number
        self.number += 1
        if self._emit is not None and self.part == self._wanted:
            self._emit(kind, {"type": kind, **fields, "sequence_number": number})


def without_id(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields but for the id: a provider's own are no client's business."""
    return {name: value for name, value in fields.items() if name != "id"}
