"""Chat Completions -> the events of the Responses API, as a pure object: decoded chunks in, typed events out.

An answer is a list of items (reasoning, message, tool calls) made of parts, and each of them starts, grows and ends. A
part's kind says which events that gives (`chat_parts.KINDS`); the fields of a chunk's delta say which part grows
(`_FIELDS`); `chat_calls` says which tool call does. A reasoning item ends where something else begins; all others end
with the stream, since a server may add to them until then. What servers do differently is in `chat_quirks`.

Must not know HTTP or settings. Invariants: `response.created` comes first and one terminal event last;
`sequence_number` counts from 0 without gaps; the deltas of a part, joined, are the text of its `done` event and of the
final response; every id is unique. A whole completion goes through the same decoder, so both ways give the same items.
"""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import msgspec
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem

from runstream.errors import ModelBehaviorError, ModelStreamBroken, ModelStreamFailed, ModelStreamTruncated, UserError
from runstream.events.model_event import build_event, new_text_delta
from runstream.models.chat_calls import Call, CallTable
from runstream.models.chat_parts import ITEM_PREFIXES, KINDS, Item, Part, logprob, new_id
from runstream.models.chat_quirks import REASONING_FIELDS, error_of, finish_of, text_parts, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from openai.types.responses import ResponseStreamEvent

    from runstream.wire.sse import SSEFrame

__all__ = ["ChatDecoder", "completion_to_response"]

_ITEM_CLASSES = {
    "message": ResponseOutputMessage,
    "reasoning": ResponseReasoningItem,
    "function_call": ResponseFunctionToolCall,
}
_CITATION_FIELDS = ("start_index", "end_index", "url", "title")

_decode_json = msgspec.json.Decoder().decode


class ChatDecoder:
    """Feed it `chat.completion.chunk` dicts; it returns the events that each one means.

    `model` is the name that was asked for; `echo` holds fields of the request that a `Response` repeats
    (`temperature`, `tool_choice`, ...). `buffer_tool_calls` holds tool calls back until they are complete. `strict`
    refuses what would otherwise be ignored (further choices, custom tool calls).

    Raises, from `feed` and `close`: ModelStreamFailed where the provider reports an error, ModelStreamTruncated where
    the stream ended before its answer did, ModelBehaviorError for a call that nothing could run, UserError for audio
    and, if `strict`, for what is ignored otherwise.
    """

    def __init__(
        self,
        *,
        model: str = "",
        echo: Mapping[str, Any] | None = None,
        buffer_tool_calls: bool = False,
        strict: bool = False,
        new_id: Callable[[str], str] = new_id,
    ) -> None:
        self._model = model
        self._echo = echo or {}
        self._buffer_tool_calls = buffer_tool_calls
        self._strict = strict
        self._new_id = new_id
        self._out: list[ResponseStreamEvent] = []
        self._sequence = 0
        self._head: dict[str, Any] | None = None
        self._items: list[Item] = []
        self._parts: dict[str, Part] = {}
        self._message: Item | None = None
        self._thinking: Item | None = None
        self._calls = CallTable(new_id)
        self._call_items: dict[Call, Item] = {}
        self._finish: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self.closed = False
        """The terminal event has been returned."""

    @property
    def raw_usage(self) -> Mapping[str, Any] | None:
        """The provider's own usage as it came last."""
        return self._usage

    def feed(self, chunk: dict[str, Any]) -> list[ResponseStreamEvent]:
        """The events that one chunk means, in order."""
        get = chunk.get
        if get("error") or get("object") == "error":
            raise error_of(chunk)
        if self._head is None:
            self._begin_response(chunk)
        usage = get("usage")
        if usage:
            self._usage = usage
        for choice in get("choices") or ():
            if choice.get("index"):
                self._skip("Choices with an index above 0")
                continue
            reason = choice.get("finish_reason")
            if reason:
                self._take_finish(reason, choice, chunk)
            delta = choice.get("delta")
            if delta and len(delta) == 1 and "content" in delta:
                # The most frequent chunk of all.
                if delta["content"]:
                    self._take_content(delta["content"], choice)
            elif delta:
                for field, take in _FIELDS:
                    value = delta.get(field)
                    if value:
                        take(self, value, choice)
        events = self._out
        self._out = []
        return events

    def feed_frames(self, frames: list[SSEFrame], into: list[ResponseStreamEvent]) -> None:
        """Append the events of `frames` to `into`; `[DONE]` closes the answer, and what follows it is ignored.

        Raises ModelStreamBroken for a frame that is no chunk, and what `feed` and `close` raise; `into` then holds
        the events of the frames before.
        """
        for frame in frames:
            data = frame.data
            if self.closed:
                return
            if data.startswith(b"[DONE"):
                into += self.close(done=True)
                return
            try:
                if data:
                    into += self.feed(_decode_json(data))
            except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
                raise ModelStreamBroken(
                    f"The model sent a frame that is not a chunk of a chat completion ({error!r}): {data[:200]!r}",
                    frame=data,
                ) from error

    def close(self, *, done: bool = False) -> list[ResponseStreamEvent]:
        """The stream has ended, with `[DONE]` if `done`: end what is open; the last event is the terminal one."""
        if self.closed:
            return []
        if self._finish is None and not done:
            raise ModelStreamTruncated("The model's stream ended without a finish_reason and without [DONE].")
        if self._head is None:
            self._begin_response({})
        for call in self._calls.calls:
            self._settle_call(call)
        incomplete = None if self._finish == "completed" else self._finish
        status = "incomplete" if incomplete else "completed"
        for item in self._items:
            if item.official is None:
                self._end_item(item, status)
        response = self._response(status, {"reason": incomplete} if incomplete else None)
        self._emit({"type": f"response.{status}", "response": response})
        self.closed = True
        events = self._out
        self._out = []
        return events

    # The answer as a whole

    def _emit(self, fields: dict[str, Any]) -> None:
        fields["sequence_number"] = self._sequence
        self._sequence += 1
        self._out.append(build_event(fields))

    def _begin_response(self, chunk: Mapping[str, Any]) -> None:
        created = chunk.get("created")
        self._head = {
            "id": chunk.get("id") or self._new_id("resp"),
            "created_at": float(created) if isinstance(created, int | float) else 0.0,
            "model": self._model or chunk.get("model") or "",
        }
        self._emit({"type": "response.created", "response": self._response("in_progress", None)})

    def _response(self, status: str, incomplete_details: dict[str, Any] | None) -> Response:
        fields: dict[str, Any] = {
            "object": "response",
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
            **self._echo,
            **(self._head or {}),
            "status": status,
            "output": [item.official for item in self._items if item.official is not None],
            "error": None,
            "incomplete_details": incomplete_details,
            "usage": usage_of(self._usage) if self._usage else None,
        }
        return Response.construct(**fields)

    def _take_finish(self, reason: object, choice: Mapping[str, Any], chunk: Mapping[str, Any]) -> None:
        finish = finish_of(reason)
        if finish == "failed":
            raise ModelStreamFailed(
                f"The model's provider ended its answer with finish_reason {reason!r}.",
                event_type="error",
                error_code=str(reason),
            )
        self._finish = finish or self._finish
        if self._usage is None:
            groq: Mapping[str, Any] = chunk.get("x_groq") or {}
            self._usage = choice.get("usage") or groq.get("usage")

    def _skip(self, what: str) -> None:
        if self._strict:
            raise UserError(
                f"{what} are not supported, and the model's answer has some. Ask for one choice and for function "
                "tools only, or turn strict_feature_validation off to ignore them."
            )

    # Text, refusals and reasoning

    def _grow(self, kind: str, text: str, logprobs: list[Any] | None = None) -> None:
        part = self._parts.get(kind)
        if part is None:
            part = self._begin_part(kind)
        elif self._thinking is not None and part.item is not self._thinking:
            self._end_reasoning()
        part.text.write(text)
        if kind == "output_text" and not logprobs:
            place = part.place
            event = new_text_delta(
                place["item_id"], place["output_index"], place["content_index"], text, self._sequence
            )
            self._sequence += 1
            self._out.append(event)
            return
        fields = part.delta.copy()
        fields["delta"] = text
        if kind == "output_text":
            fields["logprobs"] = []
            if logprobs:
                part.logprobs += [logprob(entry, with_bytes=True) for entry in logprobs]
                fields["logprobs"] = [logprob(entry, with_bytes=False) for entry in logprobs]
        fields["sequence_number"] = self._sequence
        self._sequence += 1
        self._out.append(build_event(fields))

    def _begin_part(self, kind: str) -> Part:
        shape = KINDS[kind]
        if shape.item_type == "reasoning":
            item = self._thinking
        else:
            self._end_reasoning()
            item = self._message
        if item is None:
            item = self._begin_item(shape.item_type)
        index = sum(KINDS[part.kind].parts_field == shape.parts_field for part in item.parts)
        part = Part(kind, item, {"item_id": item.id, "output_index": item.output_index, shape.index_field: index})
        self._emit({"type": shape.added, **part.place, "part": part.content()})
        item.parts.append(part)
        self._parts[kind] = part
        return part

    def _take_content(self, content: Any, choice: Mapping[str, Any]) -> None:
        if isinstance(content, str):
            logprobs = choice.get("logprobs")
            self._grow("output_text", content, logprobs.get("content") if logprobs else None)
            return
        for kind, text in text_parts(cast("list[Any]", content) if isinstance(content, list) else [content]):
            self._grow(kind, text)

    def _take_refusal(self, refusal: Any, choice: Mapping[str, Any]) -> None:
        self._grow("refusal", refusal)

    def _take_annotations(self, annotations: Any, choice: Mapping[str, Any]) -> None:
        part = self._parts.get("output_text")
        if part is None or not isinstance(annotations, list):
            return
        for entry in cast("list[dict[str, Any]]", annotations):
            citation: dict[str, Any] = entry.get("url_citation") or {}
            annotation = {"type": "url_citation", **{name: citation.get(name) for name in _CITATION_FIELDS}}
            if None in annotation.values():
                continue  # of another kind, or incomplete: not worth failing an answer for
            place = {**part.place, "annotation_index": len(part.annotations)}
            part.annotations.append(annotation)
            self._emit({"type": "response.output_text.annotation.added", **place, "annotation": annotation})

    def _take_audio(self, audio: Any, choice: Mapping[str, Any]) -> None:
        raise UserError("Audio is not currently supported: ask the model for text only (modalities=['text']).")

    # Tool calls

    def _take_tool_calls(self, deltas: Any, choice: Mapping[str, Any]) -> None:
        entries = cast("list[dict[str, Any]]", deltas if isinstance(deltas, list) else [deltas])
        functions = [entry for entry in entries if entry.get("type") != "custom"]
        if len(functions) < len(entries):
            self._skip("Custom tool calls")
        for call, arguments in self._calls.take(functions):
            item = self._call_items.get(call)
            if item is not None:
                if arguments:
                    self._grow_call(item, call, arguments)
                continue
            call.text.write(arguments)
            if call.name and not self._buffer_tool_calls:
                self._begin_call(call)

    def _take_function_call(self, function: Any, choice: Mapping[str, Any]) -> None:
        self._take_tool_calls([{"index": -1, "function": function}], choice)

    def _begin_call(self, call: Call) -> Item:
        self._end_reasoning()
        self._calls.name_call(call)
        arguments, call.text = call.arguments, StringIO()
        item = self._call_items[call] = self._begin_item("function_call", call)
        if arguments:
            self._grow_call(item, call, arguments)
        return item

    def _grow_call(self, item: Item, call: Call, arguments: str) -> None:
        call.text.write(arguments)
        fields = item.delta.copy()
        fields["delta"] = arguments
        fields["sequence_number"] = self._sequence
        self._sequence += 1
        self._out.append(build_event(fields))

    def _settle_call(self, call: Call) -> None:
        """The stream has ended: nothing more comes to this call."""
        cut_off = self._finish not in {"completed", None}
        item = self._call_items.get(call)
        if item is None:
            if not call.name:
                if call.arguments and not cut_off:
                    raise ModelBehaviorError(
                        f"The model called a tool without naming it; its arguments were {call.arguments[:200]!r}."
                    )
                return
            item = self._begin_call(call)
        if not call.arguments and not cut_off:
            self._grow_call(item, call, "{}")

    # Items

    def _begin_item(self, item_type: str, call: Call | None = None) -> Item:
        item = Item(item_type, self._new_id(ITEM_PREFIXES[item_type]), len(self._items), call)
        self._items.append(item)
        if item_type == "message":
            self._message = item
        elif item_type == "reasoning":
            self._thinking = item
        fields = item.fields(self._model, "in_progress")
        self._emit({"type": "response.output_item.added", "item": fields, "output_index": item.output_index})
        return item

    def _end_reasoning(self) -> None:
        item = self._thinking
        if item is not None:
            self._thinking = None
            for part in item.parts:
                del self._parts[part.kind]
            self._end_item(item, "completed")

    def _end_item(self, item: Item, status: str) -> None:
        for part in item.parts:
            shape = KINDS[part.kind]
            content = part.content()
            done: dict[str, Any] = {"type": shape.text_done, **part.place, shape.text_field: content[shape.text_field]}
            if part.kind == "output_text":
                done["logprobs"] = [logprob(entry, with_bytes=False) for entry in part.logprobs]
            self._emit(done)
            self._emit({"type": shape.done, **part.place, "part": content})
        if item.call is not None:
            place = {"item_id": item.id, "output_index": item.output_index}
            arguments = item.call.arguments
            self._emit({"type": "response.function_call_arguments.done", **place, "arguments": arguments})
        item.official = _ITEM_CLASSES[item.type].construct(**item.fields(self._model, status))
        self._emit({"type": "response.output_item.done", "item": item.official, "output_index": item.output_index})


def _reasoning_taker(field: str) -> Callable[[ChatDecoder, Any, Mapping[str, Any]], None]:
    kind = REASONING_FIELDS[field]
    names = list(REASONING_FIELDS)
    preferred = names[: names.index(field)]

    def take(decoder: ChatDecoder, text: Any, choice: Mapping[str, Any]) -> None:
        # Objects have been seen here, too: they hold nothing that could be shown.
        if isinstance(text, str) and not any(choice["delta"].get(name) for name in preferred):
            decoder._grow(kind, text)

    return take


# In the order of the parts where one chunk brings several.
_FIELDS: tuple[tuple[str, Callable[[ChatDecoder, Any, Mapping[str, Any]], None]], ...] = (
    *((field, _reasoning_taker(field)) for field in REASONING_FIELDS),
    ("content", ChatDecoder._take_content),
    ("refusal", ChatDecoder._take_refusal),
    ("tool_calls", ChatDecoder._take_tool_calls),
    ("function_call", ChatDecoder._take_function_call),
    ("annotations", ChatDecoder._take_annotations),
    ("audio", ChatDecoder._take_audio),
)


def completion_to_response(completion: Mapping[str, Any], decoder: ChatDecoder) -> Response:
    """The `Response` that a whole chat completion means, read by `decoder`, which must be a new one.

    Raises ModelBehaviorError for a completion without a choice, and what `ChatDecoder.feed` raises.
    """
    choices = completion.get("choices")
    if not completion.get("error") and not choices:
        shown = msgspec.json.encode(completion)[:500].decode(errors="replace")
        raise ModelBehaviorError(f"The model's answer has no choices: {shown}")
    deltas = [{**choice, "delta": choice.get("message")} for choice in choices or ()]
    decoder.feed({**completion, "choices": deltas})
    return cast("Any", decoder.close(done=True)[-1]).response
