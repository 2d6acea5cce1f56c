"""Types of final outputs: their schemas, and values from the model's text."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from runstream.agent.output import AgentOutputSchema, AgentOutputSchemaBase, output_schema_of
from runstream.errors import ModelBehaviorError, UserError


class Place(BaseModel):
    city: str
    zip_code: int | None = None


class Size(TypedDict):
    width: int


@dataclass
class Point:
    x: float


class Unit(enum.Enum):
    CELSIUS = "c"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Places(RootModel[list[Place]]):
    pass


PLACE = '{"city": "Oslo", "zip_code": null}'


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Place, PLACE, Place(city="Oslo")),
        (Size, '{"width": 1}', {"width": 1}),
        (Point, '{"response": {"x": 1}}', Point(1.0)),
        (list[Place], f'{{"response": [{PLACE}]}}', [Place(city="Oslo")]),
        (Cat | Dog, '{"response": {"kind": "dog"}}', Dog(kind="dog")),
        (Annotated[Cat | Dog, Field(discriminator="kind")], '{"response": {"kind": "cat"}}', Cat(kind="cat")),
        (Place | None, '{"response": null}', None),
        (Unit, '{"response": "c"}', Unit.CELSIUS),
        (int, '{"response": 5}', 5),
        (Literal["a", 1], '{"response": 1}', 1),
        (Places, f'{{"response": [{PLACE}]}}', Places([Place(city="Oslo")])),
    ],
)
def test_types_are_asked_for_as_objects(kind: Any, text: str, value: Any) -> None:
    """Models and TypedDicts are objects themselves, all else is wrapped; schemas are strict, values are of the type."""
    schema = AgentOutputSchema(kind)
    described = schema.json_schema()
    assert (described["type"], described["additionalProperties"]) == ("object", False)
    assert not schema.is_plain_text()
    assert schema.is_strict_json_schema()
    assert schema.validate_json(text) == value


@pytest.mark.parametrize("kind", [None, str])
def test_text_has_no_schema(kind: Any) -> None:
    """Plain text is itself."""
    schema = AgentOutputSchema(kind)
    assert schema.is_plain_text()
    assert schema.validate_json("hello") == "hello"
    with pytest.raises(UserError, match="plain text"):
        schema.json_schema()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Place, "Place"),
        (list[Place], "list[Place]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (Literal["ok"], "Literal['ok']"),
        (str, "str"),
        (None, "None"),
    ],
)
def test_names_are_the_sdks(kind: Any, name: str) -> None:
    """The name of a type is how it is written."""
    assert AgentOutputSchema(kind, strict_json_schema=False).name() == name
    assert repr(AgentOutputSchema(kind, False)) == f"AgentOutputSchema({name}, strict_json_schema=False)"


def test_strict_outputs_are_not_converted() -> None:
    """A text is no number, unless the schema is not strict."""
    text = '{"city": "Oslo", "zip_code": "25"}'
    with pytest.raises(ModelBehaviorError, match=r"Invalid JSON for output type Place: `zip_code`.*got '25'"):
        AgentOutputSchema(Place).validate_json(text)
    assert AgentOutputSchema(Place, strict_json_schema=False).validate_json(text) == Place(city="Oslo", zip_code=25)


@pytest.mark.parametrize("text", ["", "nope", "[]", "{}", '{"response": 1', '{"answer": [1]}', '{"response": ["a"]}'])
def test_what_does_not_fit_is_the_models_fault(text: str) -> None:
    """Broken JSON, a missing wrapper and wrong values raise ModelBehaviorError with the text."""
    with pytest.raises(ModelBehaviorError, match=r"Invalid JSON for output type list\[int\]") as caught:
        AgentOutputSchema(list[int]).validate_json(text)
    assert repr(text) in str(caught.value)


def test_a_type_that_cannot_be_strict_is_refused() -> None:
    """The error names the type and how to do without."""
    with pytest.raises(UserError, match=r"dict\[str, int\] is not valid.*strict_json_schema=False"):
        AgentOutputSchema(dict[str, int])
    loose = AgentOutputSchema(dict[str, int], strict_json_schema=False)
    assert not loose.is_strict_json_schema()
    assert loose.validate_json('{"a": 1}') == {"a": 1}


def test_a_type_without_a_schema_is_refused() -> None:
    """The error names the type and what can be used."""

    class Opaque:
        pass

    for strict in (True, False):
        with pytest.raises(UserError, match=r"output_type Opaque cannot become a JSON schema.*Use a pydantic model"):
            AgentOutputSchema(Opaque, strict)


class Custom(AgentOutputSchemaBase):
    def is_plain_text(self) -> bool:
        return False

    def name(self) -> str:
        return "custom"

    def json_schema(self) -> dict[str, Any]:
        return {}

    def is_strict_json_schema(self) -> bool:
        return False

    def validate_json(self, json_str: str) -> Any:
        return json_str


def test_an_agents_output_type_is_a_schema_a_type_or_text() -> None:
    """Schemas stay, types get a strict one, text has none; a schema's class is a mistake."""
    custom = Custom()
    assert output_schema_of(custom) is custom
    assert output_schema_of(None) is None
    assert output_schema_of(str) is None
    schema = output_schema_of(Place)
    assert isinstance(schema, AgentOutputSchema)
    assert schema.is_strict_json_schema()
    with pytest.raises(UserError, match="output_type is the class Custom: give an instance"):
        output_schema_of(Custom)


def test_a_type_is_described_once() -> None:
    """The schema of a type is kept, as each turn asks for it; types that cannot be kept are described anew."""
    assert output_schema_of(Place) is output_schema_of(Place)
    unhashable = Annotated[list[int], {"unhashable": 1}]
    assert output_schema_of(unhashable) is not output_schema_of(unhashable)
