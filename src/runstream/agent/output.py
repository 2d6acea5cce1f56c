"""The type of an agent's final output: its JSON schema, and from the model's text to a value of it.

Must not know agents, runs or models. pydantic is imported when a type is declared, not before.

Invariant: what the model is asked for is always a JSON object, so any type that is none (a list, a union, a number, a
dataclass) is wrapped into one under the key "response".
"""

from __future__ import annotations

import abc
import functools
import inspect
from typing import TYPE_CHECKING, Any, cast, get_args, get_origin

from runstream.agent.strict_schema import ensure_strict_json_schema
from runstream.agent.validation import summarize, validate_json
from runstream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pydantic import TypeAdapter

__all__ = ["AgentOutputSchema", "AgentOutputSchemaBase", "output_schema_of"]

_WRAPPER_KEY = "response"


class AgentOutputSchemaBase(abc.ABC):
    """How the final output is described to the model, and read. Subclass it for formats of your own."""

    @abc.abstractmethod
    def is_plain_text(self) -> bool:
        """Whether the output is text; if so, there is no schema."""

    @abc.abstractmethod
    def name(self) -> str:
        """The name of the type, for people."""

    @abc.abstractmethod
    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of the output. Not called for plain text."""

    @abc.abstractmethod
    def is_strict_json_schema(self) -> bool:
        """Whether the provider shall guarantee the schema, which then has to be strict."""

    @abc.abstractmethod
    def validate_json(self, json_str: str) -> Any:
        """The output that the model's text is. Raises ModelBehaviorError if it is none."""


class AgentOutputSchema(AgentOutputSchemaBase):
    """The schema of a Python type: a pydantic model, dataclass, TypedDict, list, union, enum, or whatever else.

    With `strict_json_schema` the provider guarantees the shape, and validation converts nothing (`"25"` is no integer).
    Raises UserError for a type that has no JSON schema, or no strict one.
    """

    output_type: Any
    """The type of the output, as it was given."""

    def __init__(self, output_type: Any, strict_json_schema: bool = True) -> None:
        self.output_type = output_type
        self._strict = strict_json_schema
        self._adapter: TypeAdapter[Any] | None = None
        self._is_wrapped = False
        self._schema: dict[str, Any] = {}
        if not self.is_plain_text():
            self._adapter, self._schema, self._is_wrapped = self._describe()

    def _describe(self) -> tuple[TypeAdapter[Any], dict[str, Any], bool]:
        from pydantic import TypeAdapter
        from typing_extensions import TypedDict

        name = self.name()
        try:
            is_wrapped = not _is_object(self.output_type)
            # A TypedDict made at run time cannot be known to a type checker.
            make: Any = TypedDict
            wanted = make("OutputType", {_WRAPPER_KEY: self.output_type}) if is_wrapped else self.output_type
            adapter = TypeAdapter[Any](wanted)
            schema = adapter.json_schema()
        except Exception as error:
            raise UserError(
                f"output_type {name} cannot become a JSON schema: {summarize(error)}. Use a pydantic "
                "model, a dataclass, a typing_extensions.TypedDict, or a list or union of such"
            ) from error
        if self._strict:
            try:
                schema = ensure_strict_json_schema(schema)
            except UserError as error:
                raise UserError(
                    f"Strict JSON schema is enabled, but the output type {name} is not valid: {error}. Either make the "
                    f"output type strict, or wrap it with AgentOutputSchema({name}, strict_json_schema=False)"
                ) from error
        return adapter, schema, is_wrapped

    def is_plain_text(self) -> bool:
        return self.output_type is None or self.output_type is str

    def is_strict_json_schema(self) -> bool:
        return self._strict

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of the output. Raises UserError for plain text, which has none."""
        if self._adapter is None:
            raise UserError("Output type is plain text, so no JSON schema is available")
        return self._schema

    def validate_json(self, json_str: str) -> Any:
        """The output that the model's text is; for plain text the text itself.

        Raises ModelBehaviorError, naming paths and values, if it is no JSON or does not fit.
        """
        if self._adapter is None:
            return json_str
        subject = f"output type {self.name()}"
        # None leaves it to the type: a pydantic model may be strict by itself.
        value = validate_json(json_str, self._adapter, subject=subject, strict=True if self._strict else None)
        return value[_WRAPPER_KEY] if self._is_wrapped else value

    def wrap(self, output: Any) -> Any:
        """The output as a model gives it: inside an object, where its type is none."""
        return {_WRAPPER_KEY: output} if self._is_wrapped else output

    def unwrap(self, output: Any, default: Any = None) -> Any:
        """The output in what a model gives; the default where it is not there yet."""
        if not self._is_wrapped:
            return output
        return cast("dict[str, Any]", output).get(_WRAPPER_KEY, default) if isinstance(output, dict) else default

    def name(self) -> str:
        return _type_name(self.output_type)

    def __repr__(self) -> str:
        return f"AgentOutputSchema({self.name()}, strict_json_schema={self._strict})"


def output_schema_of(output_type: Any) -> AgentOutputSchemaBase | None:
    """The schema of an agent's `output_type`, a strict one unless it says otherwise; None for text (None or str).

    Raises UserError for a type that has none, as `AgentOutputSchema` does.
    """
    if output_type is None or output_type is str:
        return None
    if isinstance(output_type, AgentOutputSchemaBase):
        return output_type
    if isinstance(output_type, str):
        raise UserError(f"output_type is the string {output_type!r}: give the type itself")
    if inspect.isclass(output_type) and issubclass(output_type, AgentOutputSchemaBase):
        raise UserError(f"output_type is the class {output_type.__name__}: give an instance of it")
    return _cached(output_type) if _is_hashable(output_type) else AgentOutputSchema(output_type)


@functools.lru_cache(maxsize=64)
def _cached(output_type: Hashable) -> AgentOutputSchema:
    # Asked for at every turn, and costs milliseconds.
    return AgentOutputSchema(output_type)


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        # An Annotated type is as hashable as its metadata.
        return False
    return True


def _is_object(output_type: Any) -> bool:
    """Whether the JSON of this type is an object, as the model must give one."""
    from pydantic import BaseModel, RootModel

    kind = get_origin(output_type) or output_type
    if not isinstance(kind, type) or not issubclass(kind, BaseModel | dict):
        return False
    if issubclass(kind, RootModel):
        return cast("type[BaseModel]", output_type).model_json_schema().get("type") == "object"
    return True


def _type_name(kind: Any) -> str:
    arguments = get_args(kind)
    if not arguments:
        return getattr(kind, "__name__", repr(kind))
    origin = get_origin(kind)
    return f"{getattr(origin, '__name__', str(origin))}[{', '.join(_type_name(argument) for argument in arguments)}]"
