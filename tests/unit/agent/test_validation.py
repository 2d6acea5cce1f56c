"""Models' JSON: what fits, and how an error says what does not."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from runstream.agent.validation import parse_object, summarize, validate_json
from runstream.errors import ModelBehaviorError


class Line(BaseModel):
    name: str
    price: float


class Order(BaseModel):
    lines: list[Line]


ORDERS = TypeAdapter(Order)


def test_valid_json_becomes_a_value() -> None:
    """The value is of the adapter's type."""
    assert validate_json('{"lines": []}', ORDERS, subject="x") == Order(lines=[])


def test_faults_are_named_with_path_value_and_cause() -> None:
    """The message names the subject, each path and each wrong value; pydantic's error is the cause."""
    with pytest.raises(ModelBehaviorError) as caught:
        validate_json('{"lines": [{"name": "a", "price": "x"}, {"price": 1}]}', ORDERS, subject="output type Order")
    message = str(caught.value)
    assert message.startswith("Invalid JSON for output type Order: `lines[0].price`: Input should be a valid number")
    assert "(got 'x')" in message
    assert "`lines[1].name`: Field required" in message
    assert isinstance(caught.value.__cause__, ValidationError)


def test_strict_validation_converts_nothing() -> None:
    """A text is no number when strict, and is one otherwise."""
    numbers = TypeAdapter(int)
    assert validate_json('"25"', numbers, subject="x", strict=None) == 25
    with pytest.raises(ModelBehaviorError, match="valid integer"):
        validate_json('"25"', numbers, subject="x", strict=True)


def test_text_that_is_no_json_is_quoted() -> None:
    """The message says where parsing failed and what the text was, cut to a length."""
    with pytest.raises(ModelBehaviorError, match=r"Invalid JSON.*line 1.*the model sent 'nope"):
        validate_json("nope" + "!" * 1_000, ORDERS, subject="x")


def test_many_faults_are_counted() -> None:
    """A long list of faults is cut, and says by how much."""
    with pytest.raises(ModelBehaviorError, match="and 7 more") as caught:
        validate_json("[" + ",".join(["[]"] * 12) + "]", TypeAdapter(list[int]), subject="x")
    assert len(str(caught.value)) < 1_000


def test_an_object_is_parsed() -> None:
    """Arguments are a JSON object; none at all are an empty one."""
    assert parse_object('{"a": 1}', subject="tool f") == {"a": 1}
    assert parse_object("", subject="tool f") == {}


@pytest.mark.parametrize("text", ["[]", '"value"', "123", "null", "true"])
def test_other_json_is_no_object(text: str) -> None:
    """Arguments that are JSON but no object are the model's fault."""
    with pytest.raises(ModelBehaviorError, match="Invalid JSON input for tool f: expected a JSON object"):
        parse_object(text, subject="tool f")


@pytest.mark.parametrize("text", ["{", "{not json}", "[" * 100_000])
def test_broken_json_is_the_models_fault(text: str) -> None:
    """Broken or absurdly nested text raises ModelBehaviorError, and nothing else."""
    with pytest.raises(ModelBehaviorError, match="Invalid JSON input for tool f") as caught:
        parse_object(text, subject="tool f")
    assert caught.value.__cause__ is not None
    assert len(str(caught.value)) < 500


def test_an_error_is_summarized_by_its_first_sentence() -> None:
    """What a library adds as advice about itself is left out."""
    assert summarize(ValueError("It is wrong. Set `x=1`.\nSee there.")) == "It is wrong"
    assert summarize(ValueError("e.g., 1.5 is wrong.")) == "e.g., 1.5 is wrong"
