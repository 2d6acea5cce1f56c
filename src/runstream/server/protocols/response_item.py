"""One item of a response of the OpenAI Responses API while it grows, and the parts of its text. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

from runstream.agent.raw_item import read_field, read_text
from runstream.events.codec import plain
from runstream.events.event import Event
from runstream.server.protocols import native

__all__ = ["PART_OF_DELTA", "PART_OF_EVENT", "Item", "Part", "parts_of", "shown_item"]


class _Form(NamedTuple):
    """How the API speaks of a kind of part."""

    event: str
    part_event: str
    index_name: str
    text_name: str
    field: str
    """Where in the item the parts of this kind are."""


_FORMS: Final = {
    "output_text": _Form("response.output_text", "response.content_part", "content_index", "text", "content"),
    "refusal": _Form("response.refusal", "response.content_part", "content_index", "refusal", "content"),
    "reasoning_text": _Form("response.reasoning_text", "response.content_part", "content_index", "text", "content"),
    "summary_text": _Form(
        "response.reasoning_summary_text", "response.reasoning_summary_part", "summary_index", "text", "summary"
    ),
}

PART_OF_DELTA: Final = {f"{form.event}.delta": kind for kind, form in _FORMS.items()}
PART_OF_EVENT: Final = {
    "response.content_part.added": "",
    "response.reasoning_summary_part.added": "summary_text",
    "response.reasoning_summary_part.done": "summary_text",
}
"""Events about a part as a whole; the kind of content is told by the part itself."""


class Part:
    """A text within an item."""

    __slots__ = ("annotations", "form", "index", "is_open", "kind", "pieces")

    def __init__(self, kind: str, index: int) -> None:
        self.kind = kind
        self.form = _FORMS[kind]
        self.index = index
        """Its place among those of the same field."""
        self.pieces: list[str] = []
        self.annotations: list[Any] = []
        self.is_open = True

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def annotate(self, annotations: Any) -> None:
        """The citations of the whole text, where they are known."""
        if isinstance(annotations, list) and annotations:
            self.annotations = plain(annotations)

    def shown(self) -> dict[str, Any]:
        """The part as it stands."""
        part: dict[str, Any] = {"type": self.kind, self.form.text_name: self.text}
        if self.kind == "output_text":
            part |= {"annotations": self.annotations, "logprobs": []}
        return part


class Item:
    """An item of the response's output."""

    __slots__ = (
        "arguments",
        "call_id",
        "fields",
        "has_arguments",
        "id",
        "index",
        "is_open",
        "is_relayed",
        "is_void",
        "parts",
        "seq",
    )

    def __init__(self, fields: dict[str, Any], index: int, seq: int) -> None:
        self.id: str = fields["id"]
        self.fields = fields
        """The item as the API has it."""
        self.index = index
        self.seq = seq
        """Of the event that it began with."""
        self.is_open = True
        self.is_void = False
        """Whether it counts as never said."""
        self.is_relayed = False
        """Whether it is a tool of the provider's, shown as the provider shows it."""
        self.call_id: str | None = None
        """Of a call that the run carries out; None for other items."""
        self.arguments: list[str] = []
        self.has_arguments = False
        self.parts: dict[tuple[str, int], Part] = {}
        """By kind and by the model's index."""

    def add_part(self, kind: str, index: int) -> Part:
        """A part that has not been there."""
        field = _FORMS[kind].field
        part = Part(kind, sum(part.form.field == field for part in self.parts.values()))
        self.parts[kind, index] = part
        return part

    def place(self, part: Part) -> dict[str, Any]:
        """Which part of which item an event is about."""
        return {"item_id": self.id, "output_index": self.index, part.form.index_name: part.index}

    def take_parts(self) -> None:
        """The parts are complete: the item has them now."""
        for part in self.parts.values():
            self.fields.setdefault(part.form.field, []).append(part.shown())


def parts_of(raw: Any) -> list[tuple[str, int, str, Any]]:
    """The parts of a message or of reasoning: kind, index, text, annotations."""
    found: list[tuple[str, int, str, Any]] = []
    for field, default in (("summary", "summary_text"), ("content", "")):
        for index, part in enumerate(cast("list[Any]", read_field(raw, field) or [])):
            kind = read_text(part, "type") or default
            form = _FORMS.get(kind)
            if form is not None and form.field == field:
                text = read_field(part, form.text_name)
                found.append((kind, index, text if isinstance(text, str) else "", read_field(part, "annotations")))
    return found


def shown_item(event: Event) -> dict[str, Any]:
    """The item of an event, as readers may see it."""
    fields = native.shown(event)
    return dict(fields.get("item") or fields.get("raw") or {})
