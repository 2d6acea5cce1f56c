"""The items of an answer while they grow, and the parts of which they are made.

`KINDS` says for each kind of part how it appears in its item and which events it gives as it starts, grows and ends.
Must not know chunks. The fields that all deltas of a part share are made once, when it begins.
"""

from __future__ import annotations

import uuid
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runstream.models.chat_calls import Call

__all__ = ["ITEM_PREFIXES", "KINDS", "Item", "Part", "PartKind", "logprob", "new_id"]


class PartKind(NamedTuple):
    """The item that holds it, the fields that it has there and in events, and the types of its events."""

    item_type: str
    parts_field: str
    index_field: str
    text_field: str
    added: str
    delta: str
    text_done: str
    done: str


KINDS = {
    "output_text": PartKind(
        "message",
        "content",
        "content_index",
        "text",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
    ),
    "refusal": PartKind(
        "message",
        "content",
        "content_index",
        "refusal",
        "response.content_part.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
    ),
    "summary_text": PartKind(
        "reasoning",
        "summary",
        "summary_index",
        "text",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ),
    "reasoning_text": PartKind(
        "reasoning",
        "content",
        "content_index",
        "text",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
    ),
}

ITEM_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


def new_id(prefix: str) -> str:
    """A unique id. A tool call's (prefix "call") has nine letters and digits, the only form that all servers accept."""
    unique = uuid.uuid4().hex
    return unique[:9] if prefix == "call" else f"{prefix}_{unique}"


class Part:
    """Text that grows. `place` says where it is; `delta` holds what all its delta events share.

    The text is kept as one buffer: 200,000 deltas as strings of their own would take ten times the memory.
    """

    __slots__ = ("annotations", "delta", "item", "kind", "logprobs", "place", "text")

    def __init__(self, kind: str, item: Item, place: dict[str, Any]) -> None:
        self.kind = kind
        self.item = item
        self.place = place
        self.delta: dict[str, Any] = {"type": KINDS[kind].delta, **place}
        self.text = StringIO()
        self.logprobs: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def content(self) -> dict[str, Any]:
        """The part as it is now, as its item shows it."""
        content: dict[str, Any] = {"type": self.kind, KINDS[self.kind].text_field: self.text.getvalue()}
        if self.kind == "output_text":
            content["annotations"] = list(self.annotations)
            content["logprobs"] = list(self.logprobs)
        return content


class Item:
    """A message or reasoning with its parts, or a tool call."""

    __slots__ = ("call", "delta", "id", "official", "output_index", "parts", "type")

    def __init__(self, item_type: str, item_id: str, output_index: int, call: Call | None = None) -> None:
        self.type = item_type
        self.id = item_id
        self.output_index = output_index
        self.call = call
        self.parts: list[Part] = []
        self.delta: dict[str, Any] = {
            "type": "response.function_call_arguments.delta",
            "item_id": item_id,
            "output_index": output_index,
        }
        self.official: Any = None
        """The finished item as its official class; None while it grows."""

    def fields(self, model: str, status: str) -> dict[str, Any]:
        """The item as it is now. `provider_data` holds what a later request to the same `model` must give back."""
        fields: dict[str, Any] = {"type": self.type, "id": self.id}
        call = self.call
        if call is not None:
            fields |= {"call_id": call.call_id, "name": call.name, "arguments": call.arguments, "status": status}
            if call.signature:
                fields["provider_data"] = {"model": model, "thought_signature": call.signature}
            return fields
        if self.type == "message":
            fields |= {"role": "assistant", "status": status, "content": []}
        else:
            fields |= {"summary": [], "provider_data": {"model": model}}
        for part in self.parts:
            fields.setdefault(KINDS[part.kind].parts_field, []).append(part.content())
        if self.type == "reasoning" and fields.get("content") and not fields["summary"]:
            # Under this key the Agents SDK, too, remembers in which field the server wants its reasoning back.
            fields["provider_data"]["_chat_completions_reasoning_field"] = "reasoning"
        return fields


def logprob(entry: Mapping[str, Any], *, with_bytes: bool) -> dict[str, Any]:
    """A token's log probability in the Responses API's form: an item's has the token's bytes, an event's has not."""

    def one(source: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {"token": source["token"], "logprob": source["logprob"]}
        if with_bytes:
            fields["bytes"] = source.get("bytes") or []
        return fields

    return {**one(entry), "top_logprobs": [one(top) for top in entry.get("top_logprobs") or ()]}
