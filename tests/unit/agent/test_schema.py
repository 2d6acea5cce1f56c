"""Functions as models see them: fields, descriptions, refusals by name, and the way back to a call."""

from __future__ import annotations

import enum
import functools
import subprocess
import sys
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from runstream.agent.context import RunContextWrapper
from runstream.agent.schema import FuncSchema, function_schema
from runstream.agent.tool_context import ToolContext
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers


class Place(BaseModel):
    city: str
    zip_code: int | None = None


class Size(TypedDict):
    width: int


class Unit(enum.Enum):
    CELSIUS = "c"
    KELVIN = "k"


@dataclass
class Point:
    x: float


class Opaque:
    """A class that pydantic knows nothing about."""


def call(schema: FuncSchema, function: Callable[..., Any], /, *context: Any, **arguments: Any) -> Any:
    """What a call with these arguments of the model gives."""
    positional, by_keyword = schema.to_call_args(schema.params_pydantic_model(**arguments))
    return function(*context, *positional, **by_keyword)


def properties(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    return function_schema(function, **options).params_json_schema["properties"]


def test_a_function_is_described_by_its_annotations_and_docstring() -> None:
    """Name, description, a closed object of arguments, and the description of each."""

    def weather(city: str, unit: Unit, days: int = 3) -> str:
        """Get the weather.

        Args:
            city: The city.
            days: How many.
        """
        return city

    schema = function_schema(weather)
    assert (schema.name, schema.description) == ("weather", "Get the weather.")
    assert schema.params_json_schema == {
        "$defs": {"Unit": {"enum": ["c", "k"], "title": "Unit", "type": "string"}},
        "additionalProperties": False,
        "properties": {
            "city": {"description": "The city.", "title": "City", "type": "string"},
            "unit": {"$ref": "#/$defs/Unit"},
            "days": {"default": 3, "description": "How many.", "title": "Days", "type": "integer"},
        },
        "required": ["city", "unit", "days"],
        "title": "weather_args",
        "type": "object",
    }
    assert schema.strict_json_schema
    assert not schema.takes_context
    assert schema.return_annotation is str


def test_without_strictness_defaults_are_optional() -> None:
    """The schema is pydantic's own."""

    def f(a: int, b: int = 5, c: dict[str, int] | None = None) -> None: ...

    schema = function_schema(f, strict_json_schema=False).params_json_schema
    assert schema["required"] == ["a"]
    assert "additionalProperties" not in schema


def test_validated_arguments_become_a_call() -> None:
    """Models, dataclasses, dicts, enums and defaults arrive as what the function declares."""

    def f(
        place: Place, size: Size, point: Point, unit: Unit, kind: Literal["a"] = "a", /, *, deep: bool = False
    ) -> Any:
        return place, size, point, unit, kind, deep

    schema = function_schema(f)
    place, size, point, unit, kind, deep = call(
        schema, f, place={"city": "Oslo"}, size={"width": 1}, point={"x": 2}, unit="k", deep=True
    )
    assert (place, size, point, unit, kind, deep) == (
        Place(city="Oslo"),
        {"width": 1},
        Point(2.0),
        Unit.KELVIN,
        "a",
        True,
    )
    with pytest.raises(ValidationError):
        call(schema, f, place={}, size={"width": 1}, point={"x": 2}, unit="k")


def test_overrides_win() -> None:
    """A given name and description replace the function's; the docstring may be left out altogether."""

    def f(a: int) -> None:
        """Doc.

        Args:
            a: From the docstring.
        """

    schema = function_schema(f, name_override="g", description_override="Other.")
    assert (schema.name, schema.description, schema.params_json_schema["title"]) == ("g", "Other.", "g_args")
    bare = function_schema(f, use_docstring_info=False)
    assert (bare.name, bare.description) == ("f", None)
    assert "description" not in bare.params_json_schema["properties"]["a"]


def test_descriptions_have_an_order_of_precedence() -> None:
    """The docstring goes before a text in Annotated, and that before a Field."""

    def f(
        a: Annotated[int, "text", Field(description="field")],
        b: Annotated[int, "text", Field(description="field")],
        c: Annotated[int, Field(description="field")],
        d: int = Field(default=1, description="field"),
        e: int = Field(default=1, description="field"),
    ) -> None:
        """F.

        Args:
            a: docstring
            d: docstring
        """

    found = {name: field["description"] for name, field in properties(f).items()}
    assert found == {"a": "docstring", "b": "text", "c": "field", "d": "docstring", "e": "field"}


def test_fields_constrain_and_give_defaults() -> None:
    """A Field works as a default and inside Annotated, and both together."""

    def f(
        a: int = Field(..., gt=10, le=100),
        b: Annotated[str, Field(default="x", min_length=1)] = "y",
        c: Annotated[int, Field(ge=0)] = Field(default=7, le=9),
        d: Annotated[float, Field(default=1.5)] = Field(gt=1),
    ) -> Any:
        return a, b, c, d

    fields = properties(f)
    assert (fields["a"]["exclusiveMinimum"], fields["a"]["maximum"]) == (10, 100)
    assert (fields["c"]["minimum"], fields["c"]["maximum"]) == (0, 9)
    schema = function_schema(f)
    assert call(schema, f, a=11) == (11, "y", 7, 1.5)
    for wrong in ({"a": 5}, {"a": 11, "b": ""}, {"a": 11, "c": 10}, {"a": 11, "d": 0.5}):
        with pytest.raises(ValidationError):
            call(schema, f, **wrong)


def test_variadic_parameters_are_lists_and_objects() -> None:
    """`*args: T` is a list of T, `**kwargs: T` an object of T; annotations hold for each value, tuples included."""

    def f(a: int, *numbers: Annotated[int, Field(ge=0)], b: int = 1, **more: int) -> Any:
        """F.

        Args:
            *numbers: Some.
        """
        return a, numbers, b, more

    schema = function_schema(f, strict_json_schema=False)
    assert schema.params_json_schema["properties"]["numbers"] == {
        "description": "Some.",
        "items": {"minimum": 0, "type": "integer"},
        "title": "Numbers",
        "type": "array",
    }
    assert call(schema, f, a=1, numbers=[2, 3], b=4, more={"x": 5}) == (1, (2, 3), 4, {"x": 5})
    assert call(schema, f, a=1) == (1, (), 1, {})
    # Keywords beside `more` would be lost, so they are refused.
    with pytest.raises(ValidationError):
        call(schema, f, a=1, x=5)

    def pairs(*pair: tuple[int, str]) -> Any:
        return pair

    assert call(function_schema(pairs, strict_json_schema=False), pairs, pair=[[1, "a"]]) == ((1, "a"),)


def test_free_keywords_may_not_hide_parameters() -> None:
    """A key of `**kwargs` that names another parameter is the model's fault; a positional-only name is free."""

    def f(a: int, /, b: int = 0, **more: int) -> Any:
        return a, b, more

    schema = function_schema(f, strict_json_schema=False)
    assert call(schema, f, a=1, more={"a": 2}) == (1, 0, {"a": 2})
    with pytest.raises(ModelBehaviorError, match="'b' given both"):
        call(schema, f, a=1, more={"b": 2})


def test_free_keywords_have_no_strict_schema() -> None:
    """The error names the function and the parameter, and says what to do."""

    def f(**settings: int) -> None: ...

    with pytest.raises(UserError, match=r"Tool `f`.*`\*\*settings`.*strict_mode=False"):
        function_schema(f)


@pytest.mark.parametrize("kind", [RunContextWrapper, RunContextWrapper[str], ToolContext, ToolContext[str]])
def test_the_context_comes_first_and_is_not_in_the_schema(kind: Any) -> None:
    """A first parameter of a context type is recognised, also inside Annotated, and left out."""

    def f(ctx: Any, a: int, b: int = 2) -> Any:
        return ctx, a, b

    for annotation in (kind, Annotated[kind, "x"]):
        f.__annotations__["ctx"] = annotation
        schema = function_schema(f)
        assert schema.takes_context
        assert list(schema.params_json_schema["properties"]) == ["a", "b"]
        assert call(schema, f, "the context", a=1) == ("the context", 1, 2)


def test_the_context_may_not_come_later() -> None:
    """The error names the parameter."""

    def f(a: int, ctx: ToolContext[Any]) -> None: ...

    with pytest.raises(UserError, match=r"`ctx`.*non-first position"):
        function_schema(f)


def test_a_context_of_an_unknown_type_is_a_context() -> None:
    """What the context holds may be known to type checkers only."""

    def f(ctx: RunContextWrapper[OnlyForTypeCheckers], a: int) -> None: ...

    schema = function_schema(f)
    assert schema.takes_context
    assert list(schema.params_json_schema["properties"]) == ["a"]


def test_the_return_type_need_not_be_known() -> None:
    """Nothing is made of it, so a type that only type checkers know is fine."""

    def f(a: int) -> OnlyForTypeCheckers: ...

    assert list(properties(f)) == ["a"]


def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    """The error names function, parameter and annotation, and what to do."""

    def f(a: int, b: list[OnlyForTypeCheckers]) -> None: ...

    with pytest.raises(UserError, match=r"Tool `f`.*`list\[OnlyForTypeCheckers\]` of parameter `b`.*module level"):
        function_schema(f)


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (Opaque, "Opaque"),
        (Callable[[], int], "Callable"),
        (typing.TypedDict("Old", {"a": int}), "Old") if sys.version_info < (3, 12) else (Opaque, "Opaque"),
        (list[Opaque], "Opaque"),
    ],
)
def test_a_type_without_a_schema_is_named(annotation: Any, shown: str) -> None:
    """The error names function, parameter and annotation, strict or not; pydantic's error is its cause."""

    def f(fine: int, wrong: Any) -> None: ...

    f.__annotations__["wrong"] = annotation
    for strict in (True, False):
        with pytest.raises(UserError, match=rf"Tool `f`: parameter `wrong`.*{shown}.*Annotate it") as caught:
            function_schema(f, strict_json_schema=strict)
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize("annotation", [dict[str, int], Mapping[str, int], list[dict[str, Any]]])
def test_a_type_without_a_strict_schema_is_named(annotation: Any) -> None:
    """Free keys are refused in strict mode only, and the error says how to leave it."""

    def f(fine: int, wrong: Any) -> None: ...

    f.__annotations__["wrong"] = annotation
    with pytest.raises(UserError, match=r"Tool `f`: parameter `wrong`.*additionalProperties.*strict_mode=False"):
        function_schema(f)
    function_schema(f, strict_json_schema=False)


def test_names_that_pydantic_dislikes() -> None:
    """Parameters may be named like methods of pydantic's models, without a warning; a leading underscore may not be."""

    def f(copy: int, json: str, model_dump: bool, schema: int = 1, model_extra: int = 2) -> Any:
        return copy, json, model_dump, schema, model_extra

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = function_schema(f)
    assert call(schema, f, copy=1, json="a", model_dump=True) == (1, "a", True, 1, 2)

    def g(_a: int) -> None: ...

    with pytest.raises(UserError, match="Tool `g`: the parameter `_a` must not begin"):
        function_schema(g)


def test_defaults_may_be_any_object() -> None:
    """A default that JSON cannot express, or that compares oddly, is kept for the call and not complained about."""

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        def __hash__(self) -> int:
            return 0

    odd = Odd()

    def f(a: int, b: Any = odd) -> Any:
        return b

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = function_schema(f)
    assert call(schema, f, a=1) is odd


def test_parameters_without_annotation_are_anything() -> None:
    """They are in the schema, without a type."""

    def f(a, b=None):
        return a, b

    assert properties(f) == {"a": {"title": "A"}, "b": {"title": "B"}}


class Holder:
    class Inner(BaseModel):
        value: int

    def method(self, ctx: RunContextWrapper[Any], inner: Inner) -> int:
        """Do it."""
        return inner.value

    @classmethod
    def made(cls, a: int) -> int:
        return a

    @staticmethod
    def free(a: int) -> int:
        return a

    def __call__(self, inner: Inner) -> int:
        """Do it.

        Args:
            inner: What with.
        """
        return inner.value


def test_methods_are_functions_of_their_object() -> None:
    """Bound, class and static methods have no `self`; names of the class's scope are resolved."""
    schema = function_schema(Holder().method)
    assert schema.takes_context
    assert call(schema, Holder().method, None, inner={"value": 3}) == 3
    assert call(function_schema(Holder.made), Holder.made, a=1) == 1
    assert call(function_schema(Holder.free), Holder.free, a=1) == 1


def test_a_method_without_its_object_is_refused() -> None:
    """The model cannot give `self`; the error says how to bind it."""
    with pytest.raises(UserError, match=r"`self`.*function_tool\(instance\.method\)"):
        function_schema(Holder.method)


def test_objects_with_call_are_described_by_class_and_call() -> None:
    """The name is the class's; its docstring describes the tool, that of `__call__` the arguments, or one does both."""
    schema = function_schema(Holder())
    assert (schema.name, schema.description) == ("Holder", "Do it.")
    assert call(schema, Holder(), inner={"value": 3}) == 3

    class Described(Holder):
        """A tool."""

    described = function_schema(Described())
    assert (described.name, described.description) == ("Described", "A tool.")
    assert described.params_json_schema["properties"]["inner"]["description"] == "What with."


def test_wrapped_functions_keep_their_signature() -> None:
    """What functools.wraps tells is believed."""

    def original(a: int) -> int:
        return a

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    assert list(properties(wrapper)) == ["a"]


def test_a_builtin_without_a_signature_is_refused() -> None:
    """Its parameters are not known; the error says to wrap it."""
    with pytest.raises(UserError, match="Wrap it in a function"):
        function_schema(max)


def test_importing_it_is_cheap() -> None:
    """pydantic, griffe and openai are not loaded before the first function is described."""
    script = (
        "import sys, runstream.agent.tool, runstream.agent.handoff, runstream.agent.output\n"
        "heavy = {'pydantic', 'pydantic_core', 'griffe', 'openai', 'aiohttp', 'httpx2', 'sqlite3'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
