"""Turns as plain JSON data, for scripts that are files.

Owns the data form of a turn. A turn is a string (a message), or an object with the fields of `Turn` and its parts: a
list `parts`, or one part written into the turn itself. A part is a string, or an object with exactly one of `say`,
`refusal`, `reasoning`, `tool_call`, `handoff`, `item`, and that part's options.

Invariant: whatever is wrong is said with the place and the name of the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from runstream.testing.faults import Fault
from runstream.testing.request import When
from runstream.testing.script_errors import InvalidModelStep, located
from runstream.testing.steps import (
    HandoffTo,
    Item,
    Message,
    Part,
    Reasoning,
    Refusal,
    Tokens,
    ToolCall,
    Turn,
    coerce_turn,
)

__all__ = ["as_object", "fault_from_data", "turn_from_data"]

# What names the part, the field of the part that its value is, and the other fields that it may have.
_PARTS: dict[str, tuple[Callable[..., Part], str, tuple[str, ...]]] = {
    "say": (Message, "text", ("chunks",)),
    "refusal": (Refusal, "text", ("chunks",)),
    "reasoning": (Reasoning, "text", ("chunks", "raw", "encrypted_content")),
    "tool_call": (ToolCall, "name", ("arguments", "call_id", "chunks", "namespace")),
    "handoff": (HandoffTo, "agent", ("arguments", "call_id")),
    "item": (Item, "item", ("chunks",)),
}
_TURN_FIELDS = tuple(name for name in Turn.__slots__ if name != "parts")


def turn_from_data(data: object) -> Turn:
    """The turn that JSON data describes. Raises InvalidModelStep for data that is none."""
    if isinstance(data, str | list):
        return coerce_turn(_parts_from_data(cast("object", data)))
    fields = as_object(data, "a turn")
    inline = [name for name in _PARTS if name in fields]
    part_fields: set[str] = set()
    if inline:
        if "parts" in fields:
            raise InvalidModelStep(f"has both `parts` and `{inline[0]}`: put the part into the list")
        part_fields = {inline[0], *_PARTS[inline[0]][2]}
        parts: list[Part] = [
            _part_from_data({name: fields[name] for name in fields if name in part_fields or name in inline})
        ]
    else:
        parts = _parts_from_data(fields.get("parts", []))
    options = {name: value for name, value in fields.items() if name != "parts" and name not in part_fields}
    for name in options:
        if name not in _TURN_FIELDS:
            raise InvalidModelStep(f"has no field `{name}`; it has {_listed(('parts', *_PARTS, *_TURN_FIELDS))}")
    if "fault" in options:
        options["fault"] = fault_from_data(options["fault"])
        if not parts and options["fault"] is not None:
            parts = list(coerce_turn(options["fault"]).parts)
    if isinstance(options.get("usage"), Mapping):
        options["usage"] = _build(Tokens, cast("Mapping[str, Any]", options["usage"]), "usage")
    if "when" in options:
        try:
            options["when"] = When.from_data(options["when"])
        except ValueError as error:
            raise InvalidModelStep(f"`when` {error}") from error
    if not parts and not options:
        raise InvalidModelStep(f"says nothing: it needs `parts`, `fault`, or one of {_listed(tuple(_PARTS))}")
    return Turn(parts, **options)


def fault_from_data(data: object) -> Fault | None:
    """The fault that JSON data describes: a name as the command line takes it, an object, or null."""
    if data is None:
        return None
    if isinstance(data, str):
        return Fault.named(data)
    fields = dict(as_object(data, "`fault`"))
    kind = fields.get("kind")
    if isinstance(kind, str):
        fields["kind"] = kind.replace("-", "_")
    return _build(Fault, fields, "fault")


def as_object(data: object, what: str) -> Mapping[str, Any]:
    """`data` if it is a JSON object; else raises InvalidModelStep."""
    if not isinstance(data, Mapping):
        raise InvalidModelStep(f"{what} must be an object, not {data!r}")
    return cast("Mapping[str, Any]", data)


def _parts_from_data(data: object) -> list[Part]:
    if isinstance(data, str):
        return [data]
    if not isinstance(data, list):
        raise InvalidModelStep(f"`parts` must be a list, not {data!r}")
    parts: list[Part] = []
    for index, part in enumerate(cast("list[object]", data)):
        try:
            parts.append(_part_from_data(part))
        except InvalidModelStep as error:
            raise located(f"part {index + 1}", error) from error
    return parts


def _part_from_data(data: object) -> Part:
    if isinstance(data, str):
        return data
    fields = dict(as_object(data, "a part"))
    kinds = [name for name in _PARTS if name in fields]
    if len(kinds) != 1:
        raise InvalidModelStep(f"a part has exactly one of {_listed(tuple(_PARTS))}; this has {_listed(tuple(fields))}")
    make, main_field, others = _PARTS[kinds[0]]
    value = fields.pop(kinds[0])
    if kinds[0] in ("say", "refusal", "reasoning") and isinstance(value, list):
        # A list of strings gives the deltas themselves.
        pieces = cast("list[object]", value)
        fields.setdefault("chunks", tuple(pieces))
        value = "".join(str(piece) for piece in pieces)
    for name in fields:
        if name not in others:
            raise InvalidModelStep(f"`{kinds[0]}` has no field `{name}`; it has {_listed(others)}")
    return make(**{main_field: value}, **fields)


def _build(make: Any, fields: Mapping[str, Any], what: str) -> Any:
    for name in fields:
        if name not in make.__slots__:
            raise InvalidModelStep(f"`{what}` has no field `{name}`; it has {_listed(make.__slots__)}")
    try:
        return make(**fields)
    except TypeError as error:
        raise InvalidModelStep(f"`{what}` lacks a field: {error}") from error


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
