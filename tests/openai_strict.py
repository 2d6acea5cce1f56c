"""What the official OpenAI types say of what the server sends: every field there, of its type, and no other."""

from __future__ import annotations

import json
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from runstream.wire.sse import SSEDecoder

_events: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


def frames_in(body: bytes) -> list[Any]:
    """The frames of a stream, which must be whole."""
    decoder = SSEDecoder()
    found = decoder.feed(body)
    assert decoder.close() == b"", "the stream broke off within a frame"
    return found


def check_known(value: Any, place: str = "") -> None:
    """No object has a field that its type does not."""
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{place} {type(value).__name__} has {sorted(value.model_extra or ())}"
        for name in type(value).model_fields:
            check_known(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            check_known(each, f"{place}[{index}]")


def strict_event(data: str | bytes) -> Any:
    """An event of the Responses API."""
    event = _events.validate_json(data, strict=True)
    check_known(event)
    return event


def strict_response(fields: Any) -> Response:
    """A response object."""
    response = Response.model_validate_json(json.dumps(fields), strict=True)
    check_known(response)
    return response


def strict_chunk(data: str | bytes, extra: frozenset[str] = frozenset(("reasoning_content",))) -> ChatCompletionChunk:
    """A chunk of a chat completion. Deltas may have the fields that other servers have added, too."""
    chunk = ChatCompletionChunk.model_validate_json(data, strict=True)
    for choice in chunk.choices:
        assert extra >= set(choice.delta.model_extra or ())
        if choice.delta.__pydantic_extra__:
            choice.delta.__pydantic_extra__.clear()
    check_known(chunk)
    return chunk


def strict_completion(fields: Any) -> ChatCompletion:
    """A chat completion, as `strict_chunk`."""
    completion = ChatCompletion.model_validate_json(json.dumps(fields), strict=True)
    for choice in completion.choices:
        if choice.message.__pydantic_extra__:
            choice.message.__pydantic_extra__.pop("reasoning_content", None)
    check_known(completion)
    return completion


def checked_stream(body: bytes, *, first: int = 0) -> list[Any]:
    """The events of one response's stream: strictly typed, numbered without gaps, with consistent items, and an end."""
    events: list[Any] = []
    for frame in frames_in(body):
        event = strict_event(frame.data)
        assert frame.event.decode() == event.type
        events.append(event)
    assert [event.sequence_number for event in events] == list(range(first, first + len(events)))
    assert events, "no events"
    assert events[-1].type in TERMINAL, f"the stream ends with {events[-1].type}: it was cut"
    if first == 0:
        check_grammar(events)
    return events


def check_grammar(events: list[Any]) -> None:
    """Items begin in their order, each once, grow, and end once; the final output holds ended items alone. Before the
    first, the response may be queued."""
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    begun: dict[int, Any] = {}
    done: dict[int, Any] = {}
    parts: dict[tuple[int, str, int], str] = {}
    is_queued = len(events) > 3 and events[2].type == "response.queued"
    assert not is_queued or (events[2].response.status, events[3].type) == ("queued", "response.in_progress")
    for event in events[4 if is_queued else 2 : -1]:
        kind, index = event.type, event.output_index
        if kind == "response.output_item.added":
            assert index == len(begun)
            begun[index] = event.item
            continue
        assert index in begun, f"{kind} at {index}, which has not begun"
        assert index not in done, f"{kind} at {index}, which has ended"
        item_id = getattr(event, "item_id", None)
        assert item_id in (None, begun[index].id)
        if kind == "response.output_item.done":
            assert (event.item.id, event.item.type) == (begun[index].id, begun[index].type)
            done[index] = event.item
            assert not [place for place, state in parts.items() if place[0] == index and state == "open"]
        name = "summary_index" if "summary" in kind else "content_index"
        if hasattr(event, name):
            place = (index, name, getattr(event, name))
            if kind.endswith("part.added"):
                assert place not in parts
                parts[place] = "open"
            else:
                assert parts[place] == "open", kind
            if kind.endswith("part.done"):
                parts[place] = "done"
    assert begun.keys() == done.keys(), f"items {sorted(begun.keys() - done.keys())} never end"
    ids = [item.id for item in done.values()]
    assert len(set(ids)) == len(ids)
    by_id = {item.id: item for item in done.values()}
    for item in events[-1].response.output:
        assert item == by_id[item.id]


def texts(events: list[Any]) -> dict[str, str]:
    """The text of each message by its deltas."""
    found: dict[str, str] = {}
    for event in events:
        if event.type == "response.output_text.delta":
            found[event.item_id] = found.get(event.item_id, "") + event.delta
    return found
