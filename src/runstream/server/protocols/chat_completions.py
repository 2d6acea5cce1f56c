"""Chat Completions: a run as the stream of one completion, or as the completion itself. Pure.

Texts of several turns are one content, with an empty line between them. Tools that the server runs are not shown: a
client would take `tool_calls` for its own to run. Reasoning is `reasoning_content`, as other servers have it. What an
attempt had said that was discarded cannot be taken back from a stream: the text begins anew after an empty line; a
completion that is not streamed holds only what counts. A run that fails ends the stream with an `error` and without
`[DONE]`.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

from runstream.agent.raw_item import read_field
from runstream.log.cursor import Cursor
from runstream.server.answers import Refused
from runstream.server.protocols.openai_requests import (
    FAILURES,
    OpenAIRefused,
    check_fields,
    decode_object,
    error_of,
    flag,
    message_input,
)
from runstream.server.protocols.response_fold import ResponseFold
from runstream.server.protocols.responses import HEARTBEAT, OPENING, encode_json

__all__ = ["ChatEncoding", "ChatRequest", "chat_request"]

_DONE: Final = b"data: [DONE]\n\n"
_BETWEEN: Final = "\n\n"

_IGNORED: Final = frozenset(
    (
        "model", "messages", "stream", "stream_options", "frequency_penalty", "logit_bias", "max_completion_tokens",
        "max_tokens", "metadata", "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key",
        "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "safety_identifier", "seed",
        "service_tier", "store", "temperature", "top_p", "user", "verbosity",
    )
)  # fmt: skip
_ONLY: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("auto", "none"),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "stop": ([],),
    "audio": (),
    "web_search_options": (),
}


class ChatRequest:
    """What a client asks for."""

    __slots__ = ("given", "has_usage", "is_streamed", "model")

    def __init__(self, model: str, given: list[Any], *, is_streamed: bool, has_usage: bool) -> None:
        self.model = model
        self.given = given
        self.is_streamed = is_streamed
        self.has_usage = has_usage


def chat_request(body: bytes, *, trusted: bool) -> ChatRequest:
    """The request of a body. Raises Refused."""
    fields = decode_object(body)
    check_fields(fields, _IGNORED, _ONLY)
    model, messages = fields.get("model"), fields.get("messages")
    if not isinstance(model, str):
        raise OpenAIRefused("'model' must be the name of an agent.", param="model", code="missing_required_parameter")
    if not isinstance(messages, list) or not messages:
        raise OpenAIRefused("'messages' must be a list that is not empty.", param="messages")
    given: list[Any] = []
    for index, message in enumerate(cast("list[Any]", messages)):
        given += _items_of(message, f"messages[{index}]", trusted)
    options: Any = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise OpenAIRefused("'stream_options' must be an object.", param="stream_options")
    has_usage = flag(cast("dict[str, Any]", options), "include_usage")
    return ChatRequest(model, given, is_streamed=flag(fields, "stream"), has_usage=has_usage)


def _items_of(message: Any, param: str, trusted: bool) -> list[dict[str, Any]]:
    fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
    role, calls = fields.get("role"), fields.get("tool_calls")
    if role in ("tool", "function") or calls or fields.get("function_call"):
        if not trusted or role == "function" or fields.get("function_call"):
            raise OpenAIRefused(
                "Calls of tools and their outputs are not a client's to write on this server: agents run their own.",
                param=param,
            )
        if role == "tool":
            output = fields.get("content")
            return [{"type": "function_call_output", "call_id": fields.get("tool_call_id"), "output": output}]
    kept = {name: value for name, value in fields.items() if name in ("role", "content")}
    if role == "assistant" and isinstance(fields.get("refusal"), str) and not kept.get("content"):
        kept["content"] = fields["refusal"]
    said = message_input(kept, param, trusted=trusted)
    items = [said] if said is not None and (role != "assistant" or said["content"]) else []
    for call in cast("list[Any]", calls) if isinstance(calls, list) else []:
        function = read_field(call, "function")
        if not isinstance(function, dict):
            raise OpenAIRefused("Only calls of functions can be taken.", param=f"{param}.tool_calls")
        items.append({"type": "function_call", "call_id": read_field(call, "id"), **cast("dict[str, Any]", function)})
    return items


class _Batch(Protocol):
    @property
    def events(self) -> Any: ...


class ChatEncoding:
    """One reader's stream of the completion that a run is, or the completion itself (`is_whole`)."""

    opening = OPENING
    heartbeat = HEARTBEAT

    def __init__(self, run_id: str, *, has_usage: bool = False, is_whole: bool = False) -> None:
        self.fold = ResponseFold(run_id, None if is_whole else self._emit, splits=False)
        self._is_whole = is_whole
        self._id = f"chatcmpl-{run_id.removeprefix('run_')}"
        self._has_usage = has_usage
        self._frames: list[bytes] = []
        self._last_said: dict[str, str] = {}
        self._is_left = False

    @property
    def is_stuck(self) -> bool:
        """Whether a person would have to act before there is a completion: whoever waits for it hears nothing till
        then, and there is no way to ask."""
        return self._is_whole and self.fold.is_stuck

    @property
    def ended(self) -> bool:
        return self.fold.ended or self.is_stuck or self._is_left

    def leave(self) -> bytes:
        """The end of a stream whose run waits for a person, and goes on to do so."""
        self._is_left = True
        run_id = self.fold.run_id
        message = (
            f"A person has to approve calls ({self._pending_names()}), which this API cannot ask for, and nobody has "
            f"yet. The run {run_id} goes on waiting: answer on the server's page or by POST /runs/{run_id}/approvals; "
            f"GET /runs/{run_id} shows what comes of it. With /v1/responses you are asked."
        )
        return _error_frame(OpenAIRefused(message, code="approval_needed", status=500))

    def _pending_names(self) -> str:
        return ", ".join(dict.fromkeys(call.name for call in self.fold.pending.values()))

    def encode(self, batch: _Batch) -> bytes:
        """The frames of the next events."""
        for event in batch.events:
            self.fold.feed(event)
        frames, self._frames = self._frames, []
        return b"".join(frames)

    def _emit(self, kind: str, fields: dict[str, Any]) -> None:
        if kind == "response.created":
            self._chunk({"role": "assistant", "content": ""})
        elif kind == "response.output_text.delta":
            self._say("content", fields)
        elif kind == "response.refusal.delta":
            self._say("refusal", fields)
        elif kind in ("response.reasoning_text.delta", "response.reasoning_summary_text.delta"):
            self._say("reasoning_content", fields)
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._finish()

    def _say(self, name: str, fields: dict[str, Any]) -> None:
        before = self._last_said.get(name)
        if before is not None and before != fields["item_id"]:
            self._chunk({name: _BETWEEN})
        self._last_said[name] = fields["item_id"]
        self._chunk({name: fields["delta"]})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        self._frame({**self._head("chat.completion.chunk"), "choices": [choice], **self._no_usage()})

    def _no_usage(self) -> dict[str, Any]:
        return {"usage": None} if self._has_usage else {}

    def _head(self, kind: str) -> dict[str, Any]:
        fold = self.fold
        return {"id": self._id, "object": kind, "created": int(fold.created_at), "model": fold.model}

    def _frame(self, value: dict[str, Any]) -> None:
        self._frames.append(b"data: %b\n\n" % encode_json(value))

    def _finish(self) -> None:
        failure = self.failed
        if failure is not None:
            self._frame({"error": error_of(failure)})
            return
        self._chunk({}, self._finish_reason())
        if self._has_usage:
            self._frame({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        self._frames.append(_DONE)

    def _finish_reason(self) -> str:
        fold = self.fold
        if fold.status != "incomplete":
            return "stop"
        return "content_filter" if fold.incomplete_reason == "content_filter" else "length"

    @property
    def failed(self) -> Refused | None:
        """Why there is no completion, once the run is over."""
        fold = self.fold
        if fold.status == "failed":
            error = fold.error or {}
            if error.get("code") == "invalid_prompt":
                return OpenAIRefused(error["message"], code="content_filter")
            status = 429 if error.get("code") == "rate_limit_exceeded" else 500
            return OpenAIRefused(error.get("message", "the run failed"), code=error.get("type"), status=status)
        if fold.status == "cancelled":
            return OpenAIRefused("The run was cancelled.", code="cancelled", status=500)
        if fold.run_status == "interrupted" or self.is_stuck:
            return OpenAIRefused(
                f"A person would have to approve calls ({self._pending_names()}), which this API cannot ask for: use "
                "/v1/responses, or stream. The run was stopped.",
                code="approval_needed",
                status=500,
            )
        return None

    def completion(self) -> dict[str, Any]:
        """The completion, once the run is over."""
        texts: dict[str, list[str]] = {"content": [], "refusal": [], "reasoning_content": []}
        for item in self.fold.output:
            if item["type"] == "message":
                for name, part in (("content", "text"), ("refusal", "refusal")):
                    _take(texts[name], item["content"], part)
            elif item["type"] == "reasoning":
                _take(texts["reasoning_content"], [*item["summary"], *item.get("content", ())], "text")
        said = {name: _BETWEEN.join(found) if found else None for name, found in texts.items()}
        message: dict[str, Any] = {"role": "assistant", "content": said["content"], "refusal": said["refusal"]}
        if said["reasoning_content"] is not None:
            message["reasoning_content"] = said["reasoning_content"]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason()}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        counts = self.fold.usage.counts()
        return {
            "prompt_tokens": counts["input_tokens"],
            "completion_tokens": counts["output_tokens"],
            "total_tokens": counts["input_tokens"] + counts["output_tokens"],
            "prompt_tokens_details": {"cached_tokens": counts["cached_tokens"]},
            "completion_tokens_details": {"reasoning_tokens": counts["reasoning_tokens"]},
        }

    def resync(self, reason: str, given: str, after: Cursor) -> bytes:
        """What is gone cannot be told."""
        return self.failure(reason)

    def failure(self, code: str) -> bytes:
        """The stream cannot go on though the run does."""
        message = FAILURES.get(code, "The stream cannot go on at present.")
        return _error_frame(OpenAIRefused(message, code=code, status=500))

    def closing(self) -> bytes:
        """`[DONE]`, or the error, is there already."""
        return b""


def _error_frame(refused: Refused) -> bytes:
    return b"data: %b\n\n" % encode_json({"error": error_of(refused)})


def _take(found: list[str], parts: Any, name: str) -> None:
    """The text of an item's parts of a kind, as one."""
    texts = [part[name] for part in parts if name in part]
    if texts:
        found.append("".join(texts))
