"""Items of the Responses API -> messages of the Chat Completions API. Pure.

Owns the messages and the parts of their content, and when reasoning is sent back. Must not know tools or settings.

Invariants: what an assistant said and called between two inputs is one message with its tool calls, since the API
wants each tool's output right after the message that called it; nothing is dropped silently: what cannot be expressed
raises UserError with the offending value (reasoning, which the API does not take, is the exception by design).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import msgspec

from runstream.agent.raw_item import to_plain
from runstream.errors import UserError

__all__ = [
    "ReasoningContentReplayContext",
    "ReasoningContentSource",
    "ShouldReplayReasoningContent",
    "content_parts",
    "default_should_replay_reasoning_content",
    "to_messages",
]

_log = logging.getLogger("runstream")

_OMITTED_OUTPUT = "[tool output omitted]"


@dataclass
class ReasoningContentSource:
    """The reasoning item in question, and what is known of its origin."""

    item: Any
    origin_model: str | None
    """The model that wrote it, if known."""
    provider_data: Mapping[str, Any]


@dataclass
class ReasoningContentReplayContext:
    """What `should_replay_reasoning_content` decides upon."""

    model: str
    """The model that will get the request."""
    base_url: str | None
    reasoning: ReasoningContentSource


ShouldReplayReasoningContent: TypeAlias = Callable[[ReasoningContentReplayContext], bool]
"""Whether a reasoning item goes back to the model, as `reasoning_content` of the message that it led to."""


def default_should_replay_reasoning_content(context: ReasoningContentReplayContext) -> bool:
    """Only to DeepSeek, which asks for it with tool calls, and only what DeepSeek wrote or nobody knows who wrote."""
    if "deepseek" not in context.model.lower():
        return False
    origin = context.reasoning.origin_model
    known = any(name != "thinking_blocks" for name in context.reasoning.provider_data)
    return "deepseek" in origin.lower() if origin else not known


def to_messages(
    items: str | Iterable[Any],
    *,
    model: str | None = None,
    base_url: str | None = None,
    should_replay_reasoning_content: ShouldReplayReasoningContent | None = None,
    strict: bool = False,
    keep_all_tool_output: bool = False,
) -> list[dict[str, Any]]:
    """The messages that say what the items say; items are dicts or objects of `openai.types.responses`.

    A tool's output keeps its text only, as the API has no more, unless `keep_all_tool_output`; where nothing is left a
    placeholder is sent and a warning logged, or UserError raised if `strict`. Raises UserError for items and parts
    that this API has no form for.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    replay = should_replay_reasoning_content or default_should_replay_reasoning_content
    conversation = _Conversation(
        model, base_url.rstrip("/") if base_url else None, replay, strict, keep_all_tool_output
    )
    for item in items:
        conversation.add(to_plain(item))
    conversation.end_turn()
    return conversation.messages


class _Conversation:
    """The messages so far, and the assistant's message that may still grow."""

    def __init__(
        self,
        model: str | None,
        base_url: str | None,
        replay: ShouldReplayReasoningContent,
        strict: bool,
        keep_all_tool_output: bool,
    ) -> None:
        self.messages: list[dict[str, Any]] = []
        self._model = model
        self._base_url = base_url
        self._replay = replay
        self._strict = strict
        self._keep_all_tool_output = keep_all_tool_output
        self._assistant: dict[str, Any] | None = None
        self._reasoning: dict[str, str] = {}
        """Fields that the reasoning just before adds to the assistant's next message."""

    def add(self, item: Any) -> None:
        if not isinstance(item, dict):
            raise _unknown_item(item)
        fields = cast("dict[str, Any]", item)
        kind = fields.get("type") or "message"
        add = _ITEMS.get(kind) if isinstance(kind, str) else None
        if add is None or (kind == "message" and not {"role", "content"} <= fields.keys()):
            raise _unknown_item(fields)
        add(self, fields)

    def end_turn(self) -> None:
        """What comes now is not the assistant's: its message is complete, and reasoning without one is void."""
        self._end_assistant()
        self._reasoning = {}

    def _end_assistant(self) -> None:
        if self._assistant is not None:
            self.messages.append(self._assistant)
            self._assistant = None

    def _grow_assistant(self) -> dict[str, Any]:
        if self._assistant is None:
            self._assistant = {"role": "assistant", "content": None}
        self._assistant.update(self._reasoning)
        self._reasoning = {}
        return self._assistant

    def add_message(self, item: dict[str, Any]) -> None:
        role, content = item["role"], item["content"]
        if role == "assistant":
            self._add_assistant(content)
            return
        self.end_turn()
        if role == "user":
            self.messages.append({"role": role, "content": content_parts(content)})
        elif role in ("system", "developer"):
            parts = content_parts(content)
            if not isinstance(parts, str) and any(part["type"] != "text" for part in parts):
                raise UserError(f"Only text content is supported in a {role} message, got: {content!r:.300}")
            self.messages.append({"role": role, "content": parts})
        else:
            raise UserError(
                f"Unexpected role {role!r}: it must be user, assistant, system or developer. Item: {item!r}"
            )

    def _add_assistant(self, content: Any) -> None:
        text, refusal = _assistant_content(content)
        message = self._assistant
        if message is None or not message.get("tool_calls"):
            # Reasoning that came just before belongs to the message that begins here.
            self._end_assistant()
            message = self._grow_assistant()
        else:
            self._grow_assistant()
        if text is not None:
            message["content"] = text if message["content"] is None else f"{message['content']}\n{text}"
        if refusal is not None:
            message["refusal"] = refusal
        if message["content"] is None and refusal is not None:
            del message["content"]
        elif message["content"] is None and not message.get("tool_calls"):
            message["content"] = ""

    def add_function_call(self, item: dict[str, Any]) -> None:
        call: dict[str, Any] = {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": _arguments(item.get("arguments"))},
        }
        data: dict[str, Any] = item.get("provider_data") or {}
        signature = data.get("thought_signature")
        if signature and self._model and "gemini" in self._model.lower():
            call["extra_content"] = {"google": {"thought_signature": signature}}
        self._grow_assistant().setdefault("tool_calls", []).append(call)

    def add_file_search_call(self, item: dict[str, Any]) -> None:
        arguments = {"queries": item.get("queries", []), "status": item.get("status")}
        function = {"name": "file_search_call", "arguments": msgspec.json.encode(arguments).decode()}
        call = {"id": item["id"], "type": "function", "function": function}
        self._grow_assistant().setdefault("tool_calls", []).append(call)

    def add_function_call_output(self, item: dict[str, Any]) -> None:
        call_id = item.get("call_id")
        if call_id is None:
            raise UserError(
                f"A tool's output without a call_id has no form in Chat Completions: {item!r:.300}. Use a Responses "
                "model to keep it."
            )
        self.end_turn()
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": self._tool_output(item["output"])})

    def _tool_output(self, output: Any) -> str | list[dict[str, Any]]:
        if isinstance(output, str) or self._keep_all_tool_output:
            return content_parts(output)
        if not isinstance(output, list):
            raise UserError(f"A tool's output must be a string or a list of parts, not {output!r:.300}")
        parts = cast("list[dict[str, Any]]", output)
        texts = [part for part in parts if part.get("type") in ("input_text", "text")]
        if texts:
            return content_parts(texts)
        message = (
            "Chat Completions tool outputs cannot be empty or contain only non-text content unless "
            "keep_all_tool_output=True."
        )
        if self._strict:
            raise UserError(f"{message} Got: {parts!r:.300}")
        _log.warning("%s Replacing the tool output with a placeholder: %.300r", message, parts)
        return _OMITTED_OUTPUT

    def add_reasoning(self, item: dict[str, Any]) -> None:
        self._reasoning = {}
        data: dict[str, Any] = item.get("provider_data") or {}
        origin: str = data.get("model") or ""
        if data.get("_chat_completions_reasoning_field") == "reasoning" and origin == self._model:
            self._remember("reasoning", item.get("content"))
        if self._model is None:
            return
        source = ReasoningContentSource(item, origin or None, data)
        if self._replay(ReasoningContentReplayContext(self._model, self._base_url, source)):
            self._remember("reasoning_content", item.get("summary"))

    def _remember(self, field: str, parts: list[dict[str, Any]] | None) -> None:
        texts = [part["text"] for part in parts or () if part.get("text")]
        if texts:
            self._reasoning[field] = "\n".join(texts)

    def refuse(self, item: dict[str, Any]) -> None:
        raise UserError(
            f"Items of the type {item['type']!r} are not supported by Chat Completions, whose input must hold the "
            f"whole conversation. Use a Responses model, or leave the item out: {item!r:.300}"
        )


_ITEMS: dict[str, Callable[[_Conversation, dict[str, Any]], None]] = {
    "message": _Conversation.add_message,
    "function_call": _Conversation.add_function_call,
    "function_call_output": _Conversation.add_function_call_output,
    "file_search_call": _Conversation.add_file_search_call,
    "reasoning": _Conversation.add_reasoning,
    "item_reference": _Conversation.refuse,
    "compaction": _Conversation.refuse,
}


def _unknown_item(item: object) -> UserError:
    return UserError(
        f"Unhandled item type or structure: {item!r:.500}. Chat Completions knows messages, function calls and their "
        "outputs; what other tools of the Responses API left behind needs a Responses model."
    )


def _arguments(arguments: Any) -> str:
    """Arguments as JSON text that is valid whatever the model wrote: servers decode them to fill their templates."""
    if not isinstance(arguments, str):
        return msgspec.json.encode(arguments or {}).decode()
    if not arguments.strip():
        return "{}"
    try:
        msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return msgspec.json.encode({"invalid_json": arguments}).decode()
    return arguments


def _assistant_content(content: Any) -> tuple[str | None, str | None]:
    """Text and refusal of an assistant's message."""
    if isinstance(content, str):
        return content, None
    texts: list[str] = []
    refusal: str | None = None
    for part in cast("list[dict[str, Any]]", content or []):
        kind = part.get("type")
        if kind in ("output_text", "input_text", "text"):
            texts.append(part["text"])
        elif kind == "refusal":
            refusal = part["refusal"]
        else:
            raise UserError(f"An assistant's message can hold text and refusals in Chat Completions, but got: {part!r}")
    return "\n".join(texts) if texts else None, refusal


def content_parts(content: Any) -> str | list[dict[str, Any]]:
    """The content of an input message; parts in the form of either API are accepted.

    Raises UserError, with the part, for one that is incomplete or has no form in Chat Completions.
    """
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for part in cast("Iterable[Any]", content):
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        kind = fields.get("type")
        convert = _PARTS.get(kind) if isinstance(kind, str) else None
        if convert is None:
            raise UserError(f"Unknown content: {part!r:.300}. Known are {', '.join(sorted(_PARTS))}.")
        converted = convert(fields)
        marker = fields.get("prompt_cache_breakpoint")
        if marker is not None:
            converted["prompt_cache_breakpoint"] = marker
        parts.append(converted)
    return parts


def _text(part: dict[str, Any]) -> dict[str, Any]:
    text = part.get("text")
    if not isinstance(text, str):
        raise UserError(f"Only text content is supported here, got: {part!r:.300}")
    return {"type": "text", "text": text}


def _image(part: dict[str, Any]) -> dict[str, Any]:
    url, detail = part.get("image_url"), part.get("detail") or "auto"
    if not isinstance(url, str) or not url:
        raise UserError(f"Only image URLs are supported for input_image, got: {part!r:.300}")
    # "original" is known to the Responses API only.
    return {"type": "image_url", "image_url": {"url": url, "detail": "high" if detail == "original" else detail}}


def _chat_image(part: dict[str, Any]) -> dict[str, Any]:
    image = part.get("image_url")
    fields = cast("dict[str, Any]", image) if isinstance(image, dict) else {}
    return _image({"image_url": fields.get("url"), "detail": fields.get("detail")})


def _audio(part: dict[str, Any]) -> dict[str, Any]:
    audio = part.get("input_audio")
    fields = cast("dict[str, Any]", audio) if isinstance(audio, dict) else {}
    if not fields.get("data") or not fields.get("format"):
        raise UserError(f"input_audio requires both data and format, got: {part!r:.300}")
    return {"type": "input_audio", "input_audio": {"data": fields["data"], "format": fields["format"]}}


def _file(part: dict[str, Any]) -> dict[str, Any]:
    source = next((name for name in ("file_data", "file_id") if part.get(name)), None)
    if source is None:
        raise UserError(f"Only file_data or file_id is supported for input_file, got: {part!r:.300}")
    file = {source: part[source]}
    if part.get("filename"):
        file["filename"] = part["filename"]
    return {"type": "file", "file": file}


def _video(part: dict[str, Any]) -> dict[str, Any]:
    video = part.get("video_url")
    fields = cast("dict[str, Any]", video) if isinstance(video, dict) else {}
    if not fields.get("url"):
        raise UserError(f"Only video URLs are supported for video_url, got: {part!r:.300}")
    return {"type": "video_url", "video_url": {"url": fields["url"]}}


_PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "input_text": _text,
    "text": _text,
    "input_image": _image,
    "image_url": _chat_image,
    "input_audio": _audio,
    "input_file": _file,
    "video_url": _video,
}
