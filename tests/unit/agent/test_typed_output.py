"""Tools that declare what they return."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from runstream.agent.typed_output import check_output, declared_output, strict_object_schema
from runstream.errors import UserError


class Stock(BaseModel):
    sku: str
    units: int


def test_a_declared_type_checks_outputs() -> None:
    """An output is validated, and made the declared type; another shape is the tool's fault."""
    adapter = declared_output("stock", Stock)
    assert adapter is not None
    assert check_output("stock", {"sku": "a", "units": 1}, adapter) == Stock(sku="a", units=1)
    with pytest.raises(UserError, match=r"stock returned an output that does not match.*`units`: Input should be"):
        check_output("stock", {"sku": "a", "units": "many"}, adapter)


def test_the_annotation_counts_for_programs_only() -> None:
    """A tool that programs may call declares what it is annotated to return; text and nothing declare nothing."""
    assert declared_output("t", None, return_annotation=Stock) is None
    assert declared_output("t", None, return_annotation=Annotated[Stock, "x"], programmatic=True) is not None
    for untyped in (str, None, type(None), Any, inspect.Signature.empty, Annotated[str, "x"]):
        assert declared_output("t", None, return_annotation=untyped, programmatic=True) is None


@pytest.mark.parametrize("kind", [dict[str, Any], list[int], int, object()])
def test_only_strict_objects_can_be_declared(kind: Any) -> None:
    """Anything else is refused, and the error says where it was declared."""
    with pytest.raises(UserError, match="Tool `t`: its output_type must define a strict JSON object"):
        declared_output("t", kind)
    with pytest.raises(UserError, match="programmatic function tool return annotation must define"):
        declared_output("t", None, return_annotation=kind, programmatic=True)


def test_an_object_schema_is_made_strict() -> None:
    """References at the root are followed; what is no object is refused."""
    schema = {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {"a": {"type": "string"}}}}}
    assert strict_object_schema(schema)["additionalProperties"] is False
    with pytest.raises(UserError, match="must be the schema of an object, not of type 'string'"):
        strict_object_schema({"type": "string"})
