"""A reply in the format of Chat Completions: the chunks of its stream, and the whole completion.

Owns the shapes of that dialect. Pure. Reasoning is `reasoning_content`, as compatible servers send it; output items
that Chat Completions has no form for are refused.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, cast

from runstream.testing.reply import Output, Reply, StreamEvent, interleaved
from runstream.testing.script_errors import InvalidModelStep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runstream.testing.faults import Fault
    from runstream.testing.steps import Tokens


__all__ = ["completion_chunks", "completion_object", "error_chunk"]


def completion_chunks(reply: Reply, *, include_usage: bool) -> Iterator[StreamEvent]:
    """The chunks of a complete stream, without the `[DONE]` after it. Made one by one: a stream may be long."""
    has_usage = include_usage and reply.usage is not None
    for chunk in _chunks(reply):
        if has_usage:
            # With usage asked for, every other chunk says that it has none.
            chunk.data["usage"] = None
        yield chunk
    if has_usage and reply.usage is not None:
        yield StreamEvent({**_head(reply, "chunk"), "choices": [], "usage": _usage(reply.usage)}, is_end=True)


def completion_object(reply: Reply) -> dict[str, Any]:
    """The whole completion, as an unstreamed request gets it."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls: list[dict[str, Any]] = []
    for output in reply.outputs:
        if output.item["type"] == "function_call":
            calls.append({"id": output.item["call_id"], "type": "function", "function": _function(output.item)})
        for field, text in _parts(output):
            message[field] = (message.get(field) or "") + text
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}
    completion = {**_head(reply, "completion"), "choices": [choice]}
    if reply.usage is not None:
        completion["usage"] = _usage(reply.usage)
    return completion


def error_chunk(fault: Fault) -> dict[str, Any]:
    """The frame that reports an error after HTTP 200."""
    return {"error": {"message": fault.text, "type": "server_error", "param": None, "code": fault.shown_code}}


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl_{reply.tag}",
        "object": "chat.completion.chunk" if kind == "chunk" else "chat.completion",
        "created": reply.created_at,
        "model": reply.model,
    }


def _chunk(
    reply: Reply, delta: dict[str, Any], *, is_delta: bool = False, finish_reason: str | None = None
) -> StreamEvent:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return StreamEvent({**_head(reply, "chunk"), "choices": [choice]}, is_delta, is_end=finish_reason is not None)


def _chunks(reply: Reply) -> Iterator[StreamEvent]:
    yield _chunk(reply, {"role": "assistant", "content": ""})
    # Tool calls are counted by themselves.
    index = itertools.count()
    outputs = [(next(index) if each.item["type"] == "function_call" else -1, each) for each in reply.outputs]
    groups = [outputs] if reply.turn.interleave else [[each] for each in outputs]
    for group in groups:
        for call_index, output in group:
            if call_index >= 0:
                function = {**_function(output.item), "arguments": ""}
                call = {"index": call_index, "id": output.item["call_id"], "type": "function", "function": function}
                yield _chunk(reply, {"tool_calls": [call]})
        yield from interleaved(_body(reply, output, call_index) for call_index, output in group)
    yield _chunk(reply, {}, finish_reason=_finish_reason(reply))


def _body(reply: Reply, output: Output, call_index: int) -> Iterator[StreamEvent]:
    if call_index >= 0:
        for delta in output.deltas(output.item["arguments"]):
            call = {"index": call_index, "function": {"arguments": delta}}
            yield _chunk(reply, {"tool_calls": [call]}, is_delta=True)
    for field, text in _parts(output):
        for delta in output.deltas(text):
            yield _chunk(reply, {field: delta}, is_delta=True)


def _parts(output: Output) -> list[tuple[str, str]]:
    """The texts of an item, each with the field of a message that holds it."""
    item = output.item
    match item["type"]:
        case "message":
            contents = cast("list[dict[str, str]]", item["content"])
            return [
                ("refusal", part["refusal"]) if part["type"] == "refusal" else ("content", part["text"])
                for part in contents
            ]
        case "reasoning":
            parts = cast("list[dict[str, str]]", [*(item.get("summary") or ()), *(item.get("content") or ())])
            return [("reasoning_content", part["text"]) for part in parts]
        case "function_call":
            return []
        case kind:
            raise InvalidModelStep(f"an output item of type {kind!r} has no form in Chat Completions")


def _function(item: dict[str, Any]) -> dict[str, str]:
    return {"name": item["name"], "arguments": item["arguments"]}


def _finish_reason(reply: Reply) -> str:
    if reply.turn.incomplete is not None:
        return "length" if reply.turn.incomplete == "max_output_tokens" else "content_filter"
    has_calls = any(output.item["type"] == "function_call" for output in reply.outputs)
    return "tool_calls" if has_calls else "stop"


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.input_tokens,
        "completion_tokens": tokens.output_tokens,
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
        "prompt_tokens_details": {"cached_tokens": tokens.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
    }
