"""The caller's context object as a part of a run's state: what can be kept of it as JSON, and how it comes back."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from runstream.errors import UserError

__all__ = ["ContextDeserializer", "ContextSerializer", "context_from_plain", "context_to_plain"]

_logger = logging.getLogger("runstream")

ContextSerializer: TypeAlias = Callable[[Any], Mapping[str, Any]]
ContextDeserializer: TypeAlias = Callable[[Mapping[str, Any]], Any]


def context_to_plain(context: Any, serializer: ContextSerializer | None, *, strict: bool) -> dict[str, Any]:
    """A record of the context: `value` as JSON data, and `kind`, how it came about.

    Raises UserError for a serializer that fails or gives something else, and, if strict, for a context that is no JSON.
    """
    name = f"{type(context).__module__}.{type(context).__qualname__}"
    if _is_json(context):
        return {"kind": "json", "type": name, "value": context}
    if serializer is not None:
        return {"kind": "serialized", "type": name, "value": _serialized(context, serializer)}
    if strict:
        raise UserError(
            f"the context, of the type {name}, is not JSON: give a context_serializer, which makes a dict of it"
        )
    dumped = _dumped(context)
    if dumped is not None:
        _logger.warning(
            "the context, of the type %s, is kept as a dict: give from_json a context_deserializer or context_override",
            name,
        )
        return {"kind": "fields", "type": name, "value": dumped}
    _logger.warning(
        "the context, of the type %s, is not JSON and is left out of the state: give a context_serializer, or "
        "from_json a context_override",
        name,
    )
    return {"kind": "omitted", "type": name, "value": None}


def context_from_plain(record: Mapping[str, Any], deserializer: ContextDeserializer | None, *, strict: bool) -> Any:
    """The context of a record. Raises UserError for a deserializer that fails, and, if strict, for a context that
    cannot come back as it was."""
    kind, value, name = record["kind"], record["value"], record["type"]
    if deserializer is not None and isinstance(value, Mapping):
        try:
            return deserializer(dict(cast("Mapping[str, Any]", value)))
        except Exception as error:
            raise UserError(f"context_deserializer failed for the kept context of the type {name}: {error}") from error
    if kind == "json":
        return value
    what = "was left out of the state" if kind == "omitted" else "is a dict now"
    message = f"the context, of the type {name}, {what}: give a context_override or a context_deserializer"
    if strict:
        raise UserError(message)
    _logger.warning(message)
    return value


def _is_json(value: Any) -> bool:
    """Whether the value comes back from JSON as it is."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _serialized(context: Any, serializer: ContextSerializer) -> dict[str, Any]:
    try:
        given: Any = serializer(context)
    except Exception as error:
        raise UserError(f"context_serializer failed: {error}") from error
    if not isinstance(given, Mapping):
        raise UserError(f"context_serializer must return a dict, not {type(given).__name__}")
    value = dict(cast("Mapping[str, Any]", given))
    if not _is_json(value):
        raise UserError(f"context_serializer must return a dict that is JSON, not {value!r:.200}")
    return value


def _dumped(context: Any) -> dict[str, Any] | None:
    """The fields of a pydantic model or a dataclass, where they are JSON."""
    dump = getattr(context, "model_dump", None)
    if dump is not None:
        fields: Any = dump(mode="json")  # a RootModel may give anything
    elif dataclasses.is_dataclass(context) and not isinstance(context, type):
        try:
            fields = dataclasses.asdict(context)
        except TypeError:  # a field that cannot be copied
            return None
    else:
        return None
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) and _is_json(fields) else None
