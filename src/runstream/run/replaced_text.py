"""How a response ends whose text was blocked and replaced: events that make what was shown of it a whole one. Pure."""

from __future__ import annotations

import uuid
from typing import Any, cast

from runstream.agent.model import ModelBatch
from runstream.agent.raw_item import read_field, to_plain

__all__ = ["ShownResponse"]


class ShownResponse:
    """What readers have seen of a response."""

    def __init__(self) -> None:
        self._response: dict[str, Any] = {}
        self._messages: dict[int, dict[str, Any]] = {}
        self._is_open: dict[int, bool] = {}
        self._last_index = -1
        self._last_number = -1

    def note(self, batch: ModelBatch) -> None:
        """Take in what readers see now."""
        for event in cast("list[Any]", batch.events):
            kind = event.type
            self._last_number = max(self._last_number, read_field(event, "sequence_number") or 0)
            if kind in ("response.created", "response.in_progress"):
                self._response = to_plain(event.response)
                continue
            index = read_field(event, "output_index")
            if index is not None:
                self._last_index = max(self._last_index, index)
            if kind in ("response.output_item.added", "response.output_item.done"):
                if read_field(event.item, "type") == "message":
                    self._messages[index or 0] = {"content": [], **to_plain(event.item)}
                    self._is_open[index or 0] = kind == "response.output_item.added"
            elif kind in ("response.output_text.delta", "response.refusal.delta"):
                self._add(index or 0, event)

    def _add(self, index: int, event: Any) -> None:
        message = self._messages.get(index)
        if message is None:
            message = self._messages[index] = _message(event.item_id or f"msg_{uuid.uuid4().hex}")
            self._is_open[index] = True
        content, number = message["content"], event.content_index or 0
        is_text = event.type == "response.output_text.delta"
        while len(content) <= number:
            content.append(_part("") if is_text else {"type": "refusal", "refusal": ""})
        content[number]["text" if is_text else "refusal"] += event.delta or ""

    def end_with(self, replacement: str, usage: Any = None) -> ModelBatch:
        """The events that end the message that is open, or one of its own, with that text, and the response, which
        has used what the model's own says, where that had come."""
        index = next((index for index, is_open in self._is_open.items() if is_open), None)
        events: list[dict[str, Any]] = []
        if index is None:
            index = self._last_index + 1
            message = self._messages[index] = _message(f"msg_{uuid.uuid4().hex}")
            events.append({"type": "response.output_item.added", "item": {**message, "content": []}})
        message = self._messages[index]
        content: list[dict[str, Any]] = message["content"]
        if not content or content[-1]["type"] != "output_text":
            content.append(_part(""))
            events.append({"type": "response.content_part.added", "part": _part("")})
        part, number = content[-1], len(content) - 1
        part["text"] += replacement
        events.append({"type": "response.output_text.delta", "delta": replacement, "logprobs": []})
        events.append({"type": "response.output_text.done", "text": part["text"], "logprobs": []})
        events.append({"type": "response.content_part.done", "part": dict(part)})
        # Incomplete, so that it is sent back without the id of what the model said itself.
        message["status"] = "incomplete"
        events.append(
            {"type": "response.output_item.done", "item": {**message, "content": [dict(each) for each in content]}}
        )
        for event in events:
            event.update(output_index=index, item_id=message["id"], content_index=number)
            if "item" in event:
                del event["item_id"], event["content_index"]
        events.append({"type": "response.completed", "response": self._completed(usage)})
        return _batch(events, self._last_number + 1)

    def _completed(self, usage: Any) -> dict[str, Any]:
        blank: dict[str, Any] = {"id": f"resp_{uuid.uuid4().hex}", "created_at": 0, "model": "", "object": "response"}
        blank |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        # Calls are not among them: what led to them was cut off. Nor is reasoning, without what it led to.
        output = [{**self._messages[index], "status": "incomplete"} for index in sorted(self._messages)]
        return {**blank, **self._response, "status": "completed", "output": output, "usage": to_plain(usage)}


def _message(item_id: str) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _batch(events: list[dict[str, Any]], first_number: int) -> ModelBatch:
    from runstream.events.model_event import build_event

    made = [build_event({**event, "sequence_number": first_number + index}) for index, event in enumerate(events)]
    return ModelBatch(made, [None] * len(made))
