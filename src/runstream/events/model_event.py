"""Decoded JSON of the Responses stream -> the official typed events.

The frequent kinds (deltas) are built without validation by filling the official class's own slots; a delta that has
an unexpected shape, and every rare kind, goes through the official class's own `construct`. A type that the installed
`openai` package does not know becomes an `UnknownModelEvent`, which keeps every field and passes through untouched.

`obfuscation` (padding that hides the length of a delta from eavesdroppers) is dropped: it carries no meaning, and every
reader of a log, early or late, must see the same event.

This module imports `openai`, which is slow: modules that are imported with the package import it inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

from openai import BaseModel
from openai.types.responses import ResponseStreamEvent as _ResponseStreamEvent

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

__all__ = ["DELTA_CLASSES", "UnknownModelEvent", "build_event"]


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
_DELTAS: dict[str, tuple[type[BaseModel], frozenset[str]]] = {
    name: (event_class, frozenset(event_class.model_fields))
    for name, event_class in _CLASSES.items()
    if name.endswith(".delta")
}
DELTA_CLASSES: frozenset[type[Any]] = frozenset(event_class for event_class, _ in _DELTAS.values())
"""The classes of the frequent kinds: a growing piece of text, arguments, reasoning, audio or code."""

_new = object.__new__
_set = object.__setattr__


def build_event(fields: dict[str, Any]) -> ResponseStreamEvent:
    """The typed event of a decoded frame. Takes the dict over: the caller must not use it afterwards."""
    known = _DELTAS.get(fields["type"])
    if known is not None:
        event_class, names = known
        if "obfuscation" in fields:
            del fields["obfuscation"]
        if fields.keys() == names:
            fields_set = names
        elif fields.keys() <= names:
            fields_set = set(fields)
            if "logprobs" in names and "logprobs" not in fields:
                fields["logprobs"] = []  # compatible servers leave it out; the official type promises a list
        else:
            return cast("ResponseStreamEvent", event_class.construct(**fields))
        if "logprobs" in fields and fields["logprobs"]:
            return cast("ResponseStreamEvent", event_class.construct(**fields))
        event = _new(event_class)
        _set(event, "__dict__", fields)
        _set(event, "__pydantic_fields_set__", fields_set)
        _set(event, "__pydantic_extra__", {})
        _set(event, "__pydantic_private__", None)
        return cast("ResponseStreamEvent", event)
    event_class = _CLASSES.get(fields["type"], UnknownModelEvent)
    return cast("ResponseStreamEvent", event_class.construct(**fields))
