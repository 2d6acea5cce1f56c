"""Decoded JSON of the Responses stream -> the official typed events.

The frequent kinds (deltas) are built without validation by filling the official class's own slots; a delta that has
an unexpected shape, and every rare kind, is built field by field (`events/construct.py`). A type that the installed
`openai` package does not know becomes an `UnknownModelEvent`, which keeps every field and passes through untouched.

`obfuscation` (padding that hides the length of a delta from eavesdroppers) is dropped: it carries no meaning, and every
reader of a log, early or late, must see the same event.

This module imports `openai`, which is slow: modules that are imported with the package import it inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec
from openai import BaseModel
from openai.types.responses import ResponseErrorEvent, ResponseTextDeltaEvent
from openai.types.responses import ResponseStreamEvent as _ResponseStreamEvent

from runstream.events.construct import SharedNames, construct, set_dict, set_extra, set_fields_set, set_private

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

__all__ = [
    "DELTA_CLASSES",
    "TEXT_DELTA_PREFIX",
    "UnknownModelEvent",
    "build_event",
    "new_text_delta",
    "text_delta_event",
]


class UnknownModelEvent(BaseModel):
    """An event of a type that the installed `openai` package does not know; its fields are attributes."""

    type: str


def _event_classes() -> dict[str, type[BaseModel]]:
    union = get_args(_ResponseStreamEvent)[0]
    classes: dict[str, type[BaseModel]] = {}
    for event_class in get_args(union):
        for name in get_args(event_class.model_fields["type"].annotation):
            classes[name] = event_class
    return classes


_CLASSES = _event_classes()


# Deltas whose fields are all plain values (`logprobs`, where there are any, are the exception: see build_event).
_DELTAS: dict[str, tuple[type[BaseModel], set[str], bool]] = {
    name: (event_class, SharedNames(event_class.model_fields), "logprobs" in event_class.model_fields)
    for name, event_class in _CLASSES.items()
    if name.endswith(".delta") and event_class.model_fields["delta"].annotation is str
}
DELTA_CLASSES: frozenset[type[Any]] = frozenset(event_class for event_class, _, _ in _DELTAS.values())
"""The classes of the frequent kinds: a growing piece of text, arguments, reasoning, audio or code."""

_WITH_RESPONSE = frozenset(event_class for event_class in _CLASSES.values() if "response" in event_class.model_fields)
_TERMINAL = frozenset(("response.completed", "response.failed", "response.incomplete"))

_new = object.__new__


class _TextDelta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The JSON of the most frequent event of all, in the shape that the API sends."""

    type: str
    item_id: str
    output_index: int
    content_index: int
    delta: str
    sequence_number: int
    logprobs: list[Any]
    obfuscation: str = ""


_TEXT_DELTA = "response.output_text.delta"
TEXT_DELTA_PREFIX = b'{"type":"response.output_text.delta",'
_decode_text_delta = msgspec.json.Decoder(_TextDelta).decode
_text_names = _DELTAS[_TEXT_DELTA][1]


def text_delta_event(data: bytes) -> ResponseStreamEvent:
    """The event of JSON that begins with TEXT_DELTA_PREFIX. Raises msgspec.ValidationError where it has another shape
    than the API's: `build_event` takes any."""
    decoded = _decode_text_delta(data)
    if decoded.logprobs:
        raise msgspec.ValidationError("with logprobs")
    return new_text_delta(
        decoded.item_id, decoded.output_index, decoded.content_index, decoded.delta, decoded.sequence_number
    )


def new_text_delta(
    item_id: str, output_index: int, content_index: int, delta: str, sequence_number: int
) -> ResponseStreamEvent:
    """A text delta without logprobs."""
    event: Any = _new(ResponseTextDeltaEvent)
    set_dict(
        event,
        {
            "content_index": content_index,
            "delta": delta,
            "item_id": item_id,
            "logprobs": [],
            "output_index": output_index,
            "sequence_number": sequence_number,
            "type": _TEXT_DELTA,
        },
    )
    set_fields_set(event, _text_names)
    set_extra(event, {})
    set_private(event, None)
    return event


def build_event(fields: dict[str, Any]) -> ResponseStreamEvent:
    """The typed event of a decoded frame. Takes the dict over: the caller must not use it afterwards.

    Raises KeyError or TypeError for what is no event: no `type`, or the end of a response without the response.
    """
    known = _DELTAS.get(fields["type"])
    if known is not None:
        event_class, names, has_logprobs = known
        fields.pop("obfuscation", None)
        if has_logprobs:
            logprobs = fields.get("logprobs")
            if logprobs:
                return cast("ResponseStreamEvent", construct(event_class, fields))
            if logprobs is None:
                fields["logprobs"] = []  # the official type promises the list that some servers leave out
        if fields.keys() == names:
            fields_set = names
        elif fields.keys() <= names:
            fields_set = set(fields)
            for name in names - fields_set:
                fields[name] = None  # as the official client has it
        else:
            return cast("ResponseStreamEvent", construct(event_class, fields))
        event: Any = _new(event_class)
        set_dict(event, fields)
        set_fields_set(event, fields_set)
        set_extra(event, {})
        set_private(event, None)
        return event
    event_class = _CLASSES.get(fields["type"], UnknownModelEvent)
    if event_class is ResponseErrorEvent:
        _lift_error(fields)
    elif event_class in _WITH_RESPONSE:
        _complete_response(fields)
    elif event_class is UnknownModelEvent and not isinstance(fields["type"], str):
        raise TypeError(f"the type of an event is a string, not {fields['type']!r:.50}")
    return cast("ResponseStreamEvent", construct(event_class, fields))


def _lift_error(fields: dict[str, Any]) -> None:
    """Put what an `error` event says where its official type has it: the API itself sends it nested in `error`.

    Known from https://github.com/openai/openai-dotnet/issues/881. The nested form stays, as an extra field.
    """
    nested = fields.get("error")
    if isinstance(nested, dict):
        for name in ("code", "message", "param"):
            if fields.get(name) is None:
                fields[name] = cast("dict[str, Any]", nested).get(name)


def _complete_response(fields: dict[str, Any]) -> None:
    """Give a response the list of its output, which the official type promises and some servers leave out or null."""
    is_terminal = fields["type"] in _TERMINAL
    response: Any = fields["response"] if is_terminal else fields.get("response")
    if isinstance(response, dict):
        given = cast("dict[str, Any]", response)
        if given.get("output") is None:
            given["output"] = []
    elif is_terminal and not isinstance(response, BaseModel):
        raise TypeError(f"the event {fields['type']} has no response but {response!r:.50}")
