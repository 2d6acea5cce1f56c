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

from openai import BaseModel
from openai.types.responses import ResponseErrorEvent
from openai.types.responses import ResponseStreamEvent as _ResponseStreamEvent

from runstream.events.construct import construct

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


class _Names(set[str]):
    """The names of all fields of a class: the `model_fields_set` that all events share in which none is missing.

    A set of its own would make each event half as large again. pydantic adds the name of a field that a user sets: it
    is there already, or names an extra field, which pydantic writes out in any case. Copies are sets of their own.
    """

    def add(self, element: str, /) -> None:
        pass

    def __copy__(self) -> set[str]:
        return set(self)

    def __reduce__(self) -> Any:
        return set, (list(self),)


# Deltas whose fields are all plain values (`logprobs`, where there are any, are the exception: see build_event).
_DELTAS: dict[str, tuple[type[BaseModel], set[str]]] = {
    name: (event_class, _Names(event_class.model_fields))
    for name, event_class in _CLASSES.items()
    if name.endswith(".delta") and event_class.model_fields["delta"].annotation is str
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
        fields.pop("obfuscation", None)
        if "logprobs" in names:
            if fields.get("logprobs"):
                return cast("ResponseStreamEvent", construct(event_class, fields))
            fields["logprobs"] = []  # the official type promises the list that some servers leave out
        if fields.keys() == names:
            fields_set = names
        elif fields.keys() <= names:
            fields_set = set(fields)
            for name in names - fields_set:
                fields[name] = None  # as the official client has it
        else:
            return cast("ResponseStreamEvent", construct(event_class, fields))
        event = _new(event_class)
        _set(event, "__dict__", fields)
        _set(event, "__pydantic_fields_set__", fields_set)
        _set(event, "__pydantic_extra__", {})
        _set(event, "__pydantic_private__", None)
        return cast("ResponseStreamEvent", event)
    event_class = _CLASSES.get(fields["type"], UnknownModelEvent)
    if event_class is ResponseErrorEvent:
        _lift_error(fields)
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
