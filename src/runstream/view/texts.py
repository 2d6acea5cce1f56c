"""Raw items and inputs as texts to show. Items are official objects or mappings of the same shape."""

from __future__ import annotations

import json
from typing import Any, cast

from runstream.agent.raw_item import read_field

__all__ = ["content_parts", "input_text", "output_text", "queue_text", "reasoning_parts"]


def queue_text(position: int) -> str:
    """Where a run stands that waits for its place, in words."""
    return "waiting: next" if position == 1 else f"waiting: {position - 1} ahead"


def input_text(given: Any) -> str:
    """What a person said: the text itself, or that of the last message among the items."""
    if isinstance(given, str):
        return given
    items = cast("list[Any]", given)
    for item in reversed(items):
        content = read_field(item, "content")
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            return _joined(cast("list[Any]", content))
    return f"({len(items)} items)"


def output_text(output: Any) -> str:
    """A tool's output: its text, and the types of whatever else it holds."""
    if isinstance(output, str):
        return output
    if isinstance(output, list):
        return _joined(cast("list[Any]", output))
    return json.dumps(output, ensure_ascii=False, default=str)


def _joined(parts: list[Any]) -> str:
    return " ".join(read_field(part, "text") or f"[{read_field(part, 'type')}]" for part in parts)


def content_parts(raw: Any) -> list[tuple[str, str, list[Any]]]:
    """The parts of a message: their type, `text` or `refusal`, their text and its annotations."""
    found: list[tuple[str, str, list[Any]]] = []
    for part in cast("list[Any]", read_field(raw, "content") or []):
        refusal = read_field(part, "refusal")
        if refusal is not None:
            found.append(("refusal", str(refusal), []))
        else:
            found.append(("text", str(read_field(part, "text") or ""), read_field(part, "annotations") or []))
    return found


def reasoning_parts(raw: Any) -> list[tuple[str, str, list[Any]]]:
    """The parts of reasoning: their type, `summary` or `text`, and their text."""
    found: list[tuple[str, str, list[Any]]] = []
    for kind, name in (("summary", "summary"), ("text", "content")):
        for part in cast("list[Any]", read_field(raw, name) or []):
            found.append((kind, str(read_field(part, "text") or ""), []))
    return found
