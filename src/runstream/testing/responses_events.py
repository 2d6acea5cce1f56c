"""A reply in the format of the Responses API: the events of its stream, and the whole response.

Owns the shapes of that dialect. Pure: dicts in the order in which they are sent, `sequence_number` from 0 without gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from runstream.testing.reply import Output, Reply, StreamEvent, interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runstream.testing.faults import Fault
    from runstream.testing.steps import Tokens


__all__ = ["error_event", "failed_event", "request_echo", "response_events", "response_object"]

_ECHOED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
    "user",
)


def request_echo(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that the response repeats, as the API does."""
    echo = {name: body[name] for name in _ECHOED if body.get(name) is not None}
    if isinstance(echo.get("tools"), list):
        # What a request may leave out, the response states.
        echo["tools"] = [
            {"strict": True, "parameters": None, **tool}
            if isinstance(tool, dict) and cast("dict[str, Any]", tool).get("type") == "function"
            else tool
            for tool in cast("list[Any]", echo["tools"])
        ]
    return echo


def response_object(reply: Reply) -> dict[str, Any]:
    """The whole response, as an unstreamed request gets it and as the last event holds it."""
    incomplete = reply.turn.incomplete
    response = _response(reply, "completed" if incomplete is None else "incomplete")
    response["output"] = [output.item for output in reply.outputs]
    if reply.usage is not None:
        response["usage"] = _usage(reply.usage)
    if incomplete is not None:
        response["incomplete_details"] = {"reason": incomplete}
    return response


def response_events(reply: Reply) -> Iterator[StreamEvent]:
    """The events of a complete stream, the terminal one included. Made one by one: a stream may be long."""
    for number, event in enumerate(_events(reply)):
        event.data["sequence_number"] = number
        yield event


def error_event(fault: Fault, sequence_number: int) -> dict[str, Any]:
    """The event that reports an error after HTTP 200."""
    return {
        "type": "error",
        "code": fault.shown_code,
        "message": fault.text,
        "param": None,
        "sequence_number": sequence_number,
    }


def failed_event(reply: Reply, fault: Fault, sequence_number: int) -> dict[str, Any]:
    """The terminal event of a response that failed."""
    return {
        "type": "response.failed",
        "response": failed_response(reply, fault),
        "sequence_number": sequence_number,
    }


def failed_response(reply: Reply, fault: Fault) -> dict[str, Any]:
    """The response object of a response that failed."""
    return {**_response(reply, "failed"), "error": {"code": fault.shown_code, "message": fault.text}}


def _events(reply: Reply) -> Iterator[StreamEvent]:
    for kind in ("response.created", "response.in_progress"):
        yield _event(kind, response=_response(reply, "in_progress"))
    outputs = list(enumerate(reply.outputs))
    groups = [outputs] if reply.turn.interleave else [[each] for each in outputs]
    for group in groups:
        for index, output in group:
            yield _event("response.output_item.added", output_index=index, item=_begun(output.item))
        yield from interleaved(_body(output, index) for index, output in group)
        for index, output in group:
            yield _event("response.output_item.done", output_index=index, item=output.item)
    response = response_object(reply)
    yield StreamEvent({"type": f"response.{response['status']}", "response": response}, is_end=True)


def _event(kind: str, **fields: Any) -> StreamEvent:
    return StreamEvent({"type": kind, **fields})


def _delta(kind: str, fields: dict[str, Any]) -> StreamEvent:
    return StreamEvent({"type": kind, **fields}, is_delta=True)


def _response(reply: Reply, status: str) -> dict[str, Any]:
    return {
        "id": reply.response_id,
        "object": "response",
        "created_at": reply.created_at,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": reply.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        **reply.echo,
    }


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input_tokens,
        "input_tokens_details": {"cached_tokens": tokens.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": tokens.output_tokens,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "total_tokens": tokens.input_tokens + tokens.output_tokens,
    }


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """The item as it is when nothing of it has come yet."""
    match item["type"]:
        case "message":
            return {**item, "content": [], "status": "in_progress"}
        case "function_call":
            return {**item, "arguments": "", "status": "in_progress"}
        case "reasoning":
            return {"id": item["id"], "type": "reasoning", "summary": []}
        case _:
            # Not every type has a status.
            return {**item, "status": "in_progress"} if "status" in item else item


def _body(output: Output, output_index: int) -> Iterator[StreamEvent]:
    """What comes between the item's added and done events."""
    item = output.item
    where: dict[str, Any] = {"item_id": item["id"], "output_index": output_index}
    if item["type"] == "function_call":
        prefix = "response.function_call_arguments"
        for delta in output.deltas(item["arguments"]):
            yield _delta(f"{prefix}.delta", {**where, "delta": delta})
        yield _event(f"{prefix}.done", **where, name=item["name"], arguments=item["arguments"])
    elif item["type"] in ("message", "reasoning"):
        for index, part in enumerate(cast("list[dict[str, Any]]", item.get("summary") or [])):
            yield from _summary(output, part, {**where, "summary_index": index})
        for index, part in enumerate(cast("list[dict[str, Any]]", item.get("content") or [])):
            yield from _content(output, part, {**where, "content_index": index})


def _content(output: Output, content: dict[str, Any], where: dict[str, Any]) -> Iterator[StreamEvent]:
    """One part of a message's or of a reasoning's content."""
    kind = content["type"]
    prefix = f"response.{kind}"
    field = "refusal" if kind == "refusal" else "text"
    more: dict[str, Any] = {}
    empty: dict[str, Any] = {**content, field: ""}
    if kind == "output_text":
        more = {"logprobs": []}
        content = {"annotations": [], "logprobs": [], **content}
        empty = {**content, "text": "", "annotations": [], "logprobs": []}
    text = content[field]
    yield _event("response.content_part.added", **where, part=empty)
    for delta in output.deltas(text):
        yield _delta(f"{prefix}.delta", {**where, "delta": delta, **more})
    for index, annotation in enumerate(cast("list[dict[str, Any]]", content.get("annotations") or [])):
        yield _event(f"{prefix}.annotation.added", **where, annotation_index=index, annotation=annotation)
    yield _event(f"{prefix}.done", **where, **{field: text}, **more)
    yield _event("response.content_part.done", **where, part=content)


def _summary(output: Output, part: dict[str, Any], where: dict[str, Any]) -> Iterator[StreamEvent]:
    prefix = "response.reasoning_summary"
    yield _event(f"{prefix}_part.added", **where, part={**part, "text": ""})
    for delta in output.deltas(part["text"]):
        yield _delta(f"{prefix}_text.delta", {**where, "delta": delta})
    yield _event(f"{prefix}_text.done", **where, text=part["text"])
    yield _event(f"{prefix}_part.done", **where, part=part)
