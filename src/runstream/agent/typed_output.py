"""Tools that declare what they return: the JSON schema of it, and the check of each output.

Must not know tools or calls. pydantic is imported when a tool declares an output, not before.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from runstream.agent.strict_schema import ensure_strict_json_schema
from runstream.agent.validation import describe, summarize
from runstream.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["check_output", "declared_output", "strict_object_schema"]

_UNTYPED = (inspect.Signature.empty, Any, None, type(None), str)


def declared_output(
    tool: str, output_type: Any, *, return_annotation: Any = Any, programmatic: bool = False
) -> TypeAdapter[Any] | None:
    """What validates the outputs of a tool; None where it declares no type.

    A tool that programs may call (`programmatic`) declares the type that it is annotated to return. Raises UserError
    for a type that is no strict JSON object.
    """
    if output_type is None:
        plain = get_args(return_annotation)[0] if get_origin(return_annotation) is Annotated else return_annotation
        if not programmatic or any(plain is untyped for untyped in _UNTYPED):
            return None
    from pydantic import TypeAdapter

    declared = return_annotation if output_type is None else output_type
    try:
        adapter = TypeAdapter[Any](declared)
        strict_object_schema(adapter.json_schema(mode="serialization"))
    except Exception as error:
        what = "output_type" if output_type is not None else "programmatic function tool return annotation"
        raise UserError(
            f"Tool `{tool}`: its {what} must define a strict JSON object schema, which `{declared}` does not "
            f"({summarize(error)}). Use a pydantic model, a TypedDict or a dataclass, or give output_json_schema"
        ) from error
    return adapter


def strict_object_schema(schema: Any) -> dict[str, Any]:
    """The strict form of `schema`. Raises UserError if it is not the schema of an object."""
    strict = ensure_strict_json_schema(schema)
    if strict.get("type") != "object":
        raise UserError(f"it must be the schema of an object, not of type {strict.get('type')!r}")
    return strict


def check_output(tool: str, output: Any, adapter: TypeAdapter[Any]) -> Any:
    """The output as its declared type. Raises UserError if it is something else."""
    from pydantic_core import ValidationError

    try:
        return adapter.validate_python(output)
    except ValidationError as error:
        raise UserError(
            f"Function tool {tool} returned an output that does not match its declared output type: {describe(error)}"
        ) from error
