"""A turn as the answer to one request: its output items, ids and usage, before any dialect.

Owns what both dialects share. Must not know events or chunks. Pure.

Ids are the same in each run of a program and unique in a conversation: they hold the number of the call and a digest of
what it was asked, so that two scripted models in one run (after a handoff) never give one id to two calls.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from runstream.agent.raw_item import to_plain
from runstream.testing.steps import (
    Chunks,
    HandoffTo,
    Item,
    Message,
    Part,
    Reasoning,
    Refusal,
    Tokens,
    ToolCall,
    Turn,
    split_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Output", "Reply", "StreamEvent", "digest_of", "interleaved"]


class StreamEvent(NamedTuple):
    """One event of a stream, as the dict that goes over the wire."""

    data: dict[str, Any]
    is_delta: bool = False
    """Whether it carries generated text; pauses and faults count these."""
    is_end: bool = False
    """Whether it is one of the events that end a response properly."""


class Output(NamedTuple):
    """One complete output item, and how its texts are cut."""

    item: dict[str, Any]
    chunks: Chunks

    def deltas(self, text: str) -> Iterator[str]:
        return split_text(text, self.chunks, is_code=self.item["type"] == "function_call")


def digest_of(request: bytes) -> str:
    """Six hexadecimal digits that tell what was asked."""
    return hashlib.blake2b(request, digest_size=3).hexdigest()


@dataclass(frozen=True)
class Reply:
    """`turn` as the answer to call number `number`, whose request has the digest `digest`."""

    turn: Turn
    number: int
    digest: str
    asked_model: str
    created_at: int
    input_tokens: int = 1
    """What "auto" usage reports as the input's size."""
    echo: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the request that a Responses object repeats."""

    @property
    def tag(self) -> str:
        return f"{self.number}_{self.digest}"

    @property
    def response_id(self) -> str:
        return self.turn.response_id or f"resp_{self.tag}"

    @property
    def model(self) -> str:
        return self.turn.model or self.asked_model

    @cached_property
    def outputs(self) -> list[Output]:
        """The output items, complete."""
        outputs = [
            self._output(part, f"{self.tag}_{index}") for index, part in enumerate(cast("list[Part]", self.turn.parts))
        ]
        if outputs and self.turn.incomplete is not None and "status" in outputs[-1].item:
            outputs[-1].item["status"] = "incomplete"
        return outputs

    @cached_property
    def usage(self) -> Tokens | None:
        if isinstance(self.turn.usage, Tokens):
            return self.turn.usage
        if self.turn.usage == "none":
            return None
        total = reasoning = 0
        for output in self.outputs:
            count = sum(1 for text in _texts(output.item) for _ in output.deltas(text))
            total += count
            reasoning += count if output.item["type"] == "reasoning" else 0
        return Tokens(self.input_tokens, max(total, 1), reasoning_tokens=reasoning)

    def _output(self, part: Part, tag: str) -> Output:
        chunks = getattr(part, "chunks", None)
        if chunks is None:
            chunks = self.turn.chunks
        match part:
            case str() | Message():
                text = part if isinstance(part, str) else part.text
                content: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
                item = _message(tag, content)
            case Refusal(text=text):
                item = _message(tag, {"type": "refusal", "refusal": text})
            case Reasoning():
                item = _reasoning(tag, part)
            case ToolCall():
                item = _call(tag, part)
            case HandoffTo():
                item = _call(tag, part.as_tool_call())
            case Item(item=given):
                item = cast("dict[str, Any]", to_plain(given))
                # Official objects may have been made without ids, which events cannot do without.
                if not item.get("id"):
                    item["id"] = f"item_{tag}"
        return Output(item, chunks)


def interleaved(bodies: Iterable[Iterator[StreamEvent]]) -> Iterator[StreamEvent]:
    """The events of all bodies, one from each in turn."""
    bodies = list(bodies)
    while bodies:
        for body in list(bodies):
            event = next(body, None)
            if event is None:
                bodies.remove(body)
            else:
                yield event


def _message(tag: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"msg_{tag}", "type": "message", "role": "assistant", "status": "completed", "content": [content]}


def _reasoning(tag: str, part: Reasoning) -> dict[str, Any]:
    item: dict[str, Any] = {"id": f"rs_{tag}", "type": "reasoning", "summary": []}
    if part.raw:
        item["content"] = [{"type": "reasoning_text", "text": part.text}]
    else:
        item["summary"] = [{"type": "summary_text", "text": part.text}]
    if part.encrypted_content is not None:
        item["encrypted_content"] = part.encrypted_content
    return item


def _call(tag: str, part: ToolCall) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": f"fc_{tag}",
        "type": "function_call",
        "status": "completed",
        "name": part.name,
        "arguments": part.arguments_json,
        "call_id": part.call_id or f"call_{tag}",
    }
    if part.namespace is not None:
        item["namespace"] = part.namespace
    return item


def _texts(item: Mapping[str, Any]) -> list[str]:
    """The texts of an item that are streamed in deltas."""
    if item["type"] == "function_call":
        return [item["arguments"]]
    contents = cast("list[dict[str, Any]]", [*(item.get("summary") or ()), *(item.get("content") or ())])
    if item["type"] not in ("message", "reasoning"):
        return []
    return [content.get("text") or content.get("refusal") or "" for content in contents]
