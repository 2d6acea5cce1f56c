"""From a model's JSON to Python values: what fails to fit becomes a `ModelBehaviorError` that says where and why.

Owns the wording of those errors. Must not know tools, outputs or handoffs: they name themselves by `subject`.
pydantic is imported when something is validated, not before.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from runstream.errors import ModelBehaviorError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ValidationError

__all__ = ["describe", "parse_object", "summarize", "validate_json"]

_MAX_FAULTS = 5
"""Faults that a message lists: a wrong shape can produce one for each element of a long list."""


def validate_json(text: str, adapter: TypeAdapter[Any], *, subject: str, strict: bool | None = None) -> Any:
    """The value of `adapter`'s type that `text` is. With `strict`, `"25"` is no integer.

    Raises ModelBehaviorError (with pydantic's error as its cause) if it is no JSON or does not fit.
    """
    from pydantic_core import ValidationError

    try:
        return adapter.validate_json(text, strict=strict)
    except ValidationError as error:
        raise ModelBehaviorError(
            f"Invalid JSON for {subject}: {describe(error)}; the model sent {text!r:.200}"
        ) from error


def parse_object(text: str, *, subject: str) -> dict[str, Any]:
    """The JSON object that `text` is; an empty text is an empty object. Raises ModelBehaviorError for all else."""
    try:
        value: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise ModelBehaviorError(f"Invalid JSON input for {subject}: {error}; the model sent {text!r:.200}") from error
    if not isinstance(value, dict):
        raise ModelBehaviorError(f"Invalid JSON input for {subject}: expected a JSON object, got {text!r:.200}")
    return cast("dict[str, Any]", value)


def describe(error: ValidationError) -> str:
    """The faults in one line, each as "`items[0].price`: Input should be a valid number (got 'x')"."""
    faults = error.errors(include_url=False, include_context=False)
    lines: list[str] = []
    for fault in faults[:_MAX_FAULTS]:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
        # Of a missing field only the object around it is known, and of broken JSON only the text.
        given = "" if fault["type"] in ("missing", "json_invalid") else f" (got {fault['input']!r:.80})"
        lines.append(f"`{path}`: {fault['msg']}{given}" if path else f"{fault['msg']}{given}")
    if len(faults) > _MAX_FAULTS:
        lines.append(f"and {len(faults) - _MAX_FAULTS} more")
    return "; ".join(lines)


def summarize(error: Exception) -> str:
    """The first sentence of an error: pydantic's go on with advice about itself, where callers give their own."""
    return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
