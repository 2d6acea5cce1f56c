"""The stream of the OpenAI Responses API: a run as its server-sent events, from any `sequence_number` on. Pure.

`ResponseFold` makes the stream's events of those of the run; here they become bytes. Every reader folds the log from
its first event on and leaves out what it was told before, so that any process can go on with any stream.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import msgspec

from runstream.events.codec import plain, whole_characters
from runstream.events.event import RUN_START, Event
from runstream.log.cursor import Cursor
from runstream.server.protocols.openai_requests import (
    FAILURES,
    OpenAIRefused,
    check_fields,
    decode_object,
    flag,
    message_input,
)
from runstream.server.protocols.response_fold import ResponseFold

__all__ = [
    "HEARTBEAT",
    "OPENING",
    "Approval",
    "ResponsesEncoding",
    "ResponsesRequest",
    "encode_json",
    "input_items",
    "note_of",
    "noted",
    "responses_request",
    "run_and_part",
]

OPENING: Final = b":\n\n"
"""A comment: proxies see that the stream has begun, and no client takes it for an event, as some do a bare `retry`."""
HEARTBEAT: Final = b":\n\n"

_ID: Final = re.compile(r"resp_([0-9a-f]{32})(?:_([2-9]|[1-9][0-9]{1,3}))?")
_MOST_METADATA: Final = 16

_IGNORED: Final = frozenset(
    (
        "model", "input", "stream", "stream_options", "background", "store", "previous_response_id", "conversation",
        "include", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "prompt_cache_key",
        "prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier",
        "temperature", "top_logprobs", "top_p", "truncation", "user", "instructions", "text",
    )
)  # fmt: skip
_ONLY: Final[dict[str, tuple[Any, ...]]] = {"tools": ([],), "tool_choice": ("auto", "none"), "prompt": ()}

_encode = msgspec.json.Encoder(enc_hook=plain).encode


@dataclass(frozen=True, slots=True)
class Approval:
    """An answer to a request of an earlier response."""

    request_id: str
    approve: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """What a client asks for."""

    model: str
    given: list[Any]
    approvals: list[Approval]
    previous: str | None = None
    conversation: str | None = None
    is_streamed: bool = False
    in_background: bool = False
    is_stored: bool = True
    about: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the response repeats."""


def responses_request(body: bytes, *, trusted: bool) -> ResponsesRequest:
    """The request of a body. Raises Refused."""
    fields = decode_object(body)
    check_fields(fields, _IGNORED, _ONLY)
    model = fields.get("model")
    if not isinstance(model, str):
        raise OpenAIRefused("'model' must be the name of an agent.", param="model", code="missing_required_parameter")
    given, approvals = _given(fields.get("input"), trusted)
    instructions = fields.get("instructions")
    if instructions:
        given.insert(
            0, cast("Any", message_input({"role": "system", "content": instructions}, "instructions", trusted=trusted))
        )
    text = fields.get("text")
    form: Any = cast("dict[str, Any]", text).get("format") if isinstance(text, dict) else None
    if form is not None and form != {"type": "text"}:
        raise OpenAIRefused(
            "'text.format' is not supported by this server: the agent's own output type holds.",
            param="text.format",
            code="unsupported_parameter",
        )
    previous, conversation = fields.get("previous_response_id"), fields.get("conversation")
    if isinstance(conversation, dict):
        conversation = cast("dict[str, Any]", conversation).get("id")
    for name, value in (("previous_response_id", previous), ("conversation", conversation)):
        if value is not None and not isinstance(value, str):
            raise OpenAIRefused(f"'{name}' must be an id.", param=name)
    if previous is not None and conversation is not None:
        raise OpenAIRefused("Give 'previous_response_id' or 'conversation', not both.", param="conversation")
    in_background, is_stored = flag(fields, "background"), flag(fields, "store", True)
    if in_background and not is_stored:
        raise OpenAIRefused("A response in the background must be stored.", param="store")
    about = {
        "background": in_background,
        "conversation": None if conversation is None else {"id": conversation},
        "metadata": _metadata(fields.get("metadata")),
    }
    if previous is not None:
        about["previous_response_id"] = previous
    return ResponsesRequest(
        model, given, approvals, previous, conversation, flag(fields, "stream"), in_background, is_stored, about
    )


def _given(given: Any, trusted: bool) -> tuple[list[Any], list[Approval]]:
    if isinstance(given, str) and given:
        return [{"role": "user", "content": given}], []
    if not isinstance(given, list) or not given:
        raise OpenAIRefused("'input' must be a text or a list of items, and not empty.", param="input")
    items: list[Any] = []
    approvals: list[Approval] = []
    for index, each in enumerate(cast("list[Any]", given)):
        fields = cast("dict[str, Any]", each) if isinstance(each, dict) else {}
        if fields.get("type") != "mcp_approval_response":
            item = message_input(each, f"input[{index}]", trusted=trusted)
            items += [] if item is None else [item]
            continue
        request_id, approve, reason = (fields.get(name) for name in ("approval_request_id", "approve", "reason"))
        if not isinstance(request_id, str) or not isinstance(approve, bool) or not isinstance(reason, str | None):
            raise OpenAIRefused("An approval has an 'approval_request_id' and 'approve'.", param=f"input[{index}]")
        approvals.append(Approval(request_id, approve, reason))
    return items, approvals


def _metadata(given: Any) -> dict[str, str]:
    metadata: Any = {} if given is None else given
    if (
        not isinstance(metadata, dict)
        or len(cast("Any", metadata)) > _MOST_METADATA
        or not all(isinstance(value, str) for value in cast("dict[str, Any]", metadata).values())
    ):
        raise OpenAIRefused(f"'metadata' is an object of at most {_MOST_METADATA} texts.", param="metadata")
    return cast("dict[str, str]", metadata)


class _Note(msgspec.Struct):
    response: dict[str, Any] = {}


class _Job(msgspec.Struct):
    note: _Note | None = None


def note_of(asked: ResponsesRequest) -> dict[str, Any]:
    """What the job of a response's run notes."""
    return {"response": asked.about}


def noted(job: bytes | None) -> dict[str, Any]:
    """What a response repeats of the request that began it, by its run's job; nothing where it was begun otherwise."""
    note = None if job is None else msgspec.json.decode(job, type=_Job).note
    return {} if note is None else note.response


def run_and_part(given: str) -> tuple[str, int] | None:
    """The run of a response's id, and which of its responses that is; None for what is no such id."""
    match = _ID.fullmatch(given)
    return None if match is None else (f"run_{match[1]}", int(match[2] or 1))


class _Batch(Protocol):
    @property
    def events(self) -> Any: ...


def encode_json(value: Any) -> bytes:
    """JSON, whatever models wrote."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(whole_characters(plain(value)))


class ResponsesEncoding:
    """One reader's stream of a run's response, of that `part`, without the events up to the number `after`.

    `about` is what the request that began the response has said of it, and its object repeats.
    """

    opening = OPENING
    heartbeat = HEARTBEAT

    def __init__(
        self,
        run_id: str,
        *,
        part: int | None = 1,
        after: int = -1,
        about: dict[str, Any] | None = None,
        silent: bool = False,
    ) -> None:
        self.fold = ResponseFold(run_id, None if silent else self._emit, part=part)
        self._after = after
        self._about = about or {}
        self._frames: list[bytes] = []

    @property
    def ended(self) -> bool:
        """Whether the response is over: the run may go on."""
        return self.fold.ended

    def encode(self, batch: _Batch) -> bytes:
        """The frames of the next events."""
        for event in batch.events:
            self.fold.feed(event)
        frames, self._frames = self._frames, []
        return b"".join(frames)

    def _emit(self, kind: str, fields: dict[str, Any]) -> None:
        if fields["sequence_number"] <= self._after:
            return
        if self._about and "response" in fields:
            fields["response"] |= self._about
        self._frames.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), encode_json(fields)))

    def response(self) -> dict[str, Any]:
        """The response as it stands."""
        return self.fold.response() | self._about

    def resync(self, reason: str, given: str, after: Cursor) -> bytes:
        """Numbers cannot be counted without the events that are gone."""
        return self.failure(reason)

    def failure(self, code: str) -> bytes:
        """An `error` event. No number is used up by it: it is told to this reader alone."""
        message = FAILURES.get(code, "The stream cannot go on at present: retrieve the response again.")
        fields = {
            "type": "error",
            "code": code,
            "message": message,
            "param": None,
            "sequence_number": max(self.fold.number, self._after + 1),
        }
        return b"event: error\ndata: %b\n\n" % encode_json(fields)

    def closing(self) -> bytes:
        """The event that ends the response is its last."""
        return b""


def input_items(run_id: str, event: Event) -> list[dict[str, Any]]:
    """The messages that a run began with, as the API lists them. `event` is its `run.start`."""
    if event.kind != RUN_START:
        return []
    given = event.data.input
    items: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else plain(given)
    short = run_id.removeprefix("run_")
    found: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            continue
        content = item.get("content")
        if isinstance(content, str):
            part: dict[str, Any] = {"type": "input_text", "text": content}
            if role == "assistant":
                part = {"type": "output_text", "text": content, "annotations": [], "logprobs": []}
            content = [part]
        fields = {"id": f"msg_{short}_in{index}", "type": "message", "role": role, "status": "completed"}
        found.append({**fields, "content": content})
    return found
