"""Raw items: what the model said and what it is told, as official objects or as mappings of the same shape.

Owns how one field is read, how a value becomes plain, and how an output becomes an input. Must not know runs, agents
or openai: an object is recognised by its fields, since items may come from a store, from users or from the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from runstream.errors import UserError

__all__ = ["read_field", "read_text", "to_input_item", "to_plain"]


def read_field(source: Any, name: str) -> Any:
    """The field `name` of a mapping or an object; None where there is none."""
    if isinstance(source, Mapping):
        return cast("Mapping[str, Any]", source).get(name)
    return getattr(source, name, None)


def read_text(source: Any, name: str) -> str | None:
    """The field if it is a string that is not empty, else None."""
    value = read_field(source, name)
    return value if isinstance(value, str) and value else None


def to_plain(value: Any) -> Any:
    """A deep copy made of dicts and lists: mappings, pydantic objects (their set fields) and iterables are unfolded.

    Items that pydantic has validated may hold one-shot iterators, which could be neither stored nor sent twice.
    """
    if isinstance(value, str | bytes | bytearray):
        return value
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in cast("Mapping[Any, Any]", value).items()}
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return to_plain(dump(exclude_unset=True))
    if isinstance(value, Iterable):
        return [to_plain(entry) for entry in cast("Iterable[Any]", value)]
    return value


def to_input_item(raw_item: Any) -> dict[str, Any]:
    """The item as a dict that the model accepts as input. The item itself is not changed.

    `created_by` belongs to outputs only and is left out, as the Responses API refuses it in an input. Raises UserError
    for anything that is neither a mapping nor a pydantic object.
    """
    dump = getattr(raw_item, "model_dump", None)
    if isinstance(raw_item, Mapping):
        item = dict(cast("Mapping[str, Any]", raw_item))
    elif callable(dump):
        item = cast("dict[str, Any]", dump(exclude_unset=True))
    else:
        raise UserError(
            f"Unexpected raw item type: {type(raw_item)!r}. An item is a dict or an object of openai.types.responses."
        )
    item.pop("created_by", None)
    if item.get("type") == "shell_call_output" and isinstance(item.get("output"), list):
        item["output"] = [_without_creator(chunk) for chunk in item["output"]]
    return item


def _without_creator(chunk: Any) -> Any:
    if not isinstance(chunk, Mapping):
        return chunk
    return {key: value for key, value in cast("Mapping[str, Any]", chunk).items() if key != "created_by"}
