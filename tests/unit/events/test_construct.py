"""events/construct: what it builds is what the official client's own reflection builds, whatever came over the wire."""

from __future__ import annotations

import copy
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import BaseModel
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent

from runstream.events.construct import construct

thorough = settings(max_examples=300)


def example_of(annotation: Any, depth: int = 0) -> Any:
    """A value of the type, as it stands in JSON; of a union the first variant."""
    while get_origin(annotation) is Annotated or hasattr(annotation, "__value__"):
        annotation = annotation.__value__ if hasattr(annotation, "__value__") else get_args(annotation)[0]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return None if type(None) in arguments and depth > 6 else example_of(arguments[0], depth)
    if origin is list:
        return [example_of(arguments[0], depth + 1)]
    if origin is dict:
        return {"key": example_of(arguments[1], depth + 1)}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            field.alias or name: example_of(field.annotation, depth + 1)
            for name, field in annotation.model_fields.items()
        }
    examples: dict[Any, Any] = {str: "Grüße 🙂", int: 3, float: 0.5, bool: True, object: "any", Any: "any"}
    return examples[annotation]


def variants(union: Any) -> list[Any]:
    return list(get_args(get_args(union)[0]))


ITEMS = [example_of(item_class) for item_class in variants(ResponseOutputItem)]
RESPONSE = {**example_of(Response), "output": ITEMS}
# Each class of event, with each kind of item where it holds one.
CASES: list[tuple[type[BaseModel], dict[str, Any]]] = []
for event_class in variants(ResponseStreamEvent):
    fields = example_of(event_class)
    if "item" in fields:
        CASES += [(event_class, {**fields, "item": item}) for item in ITEMS]
    else:
        CASES.append((event_class, {**fields, "response": RESPONSE} if "response" in fields else fields))


def shape(value: Any) -> Any:
    """All that tells two built values apart: classes and fields, all the way down.

    Extra fields that repeat a field under its name on the wire, and names of extra fields among those that were set,
    depend on whether the client found the object valid: they make no difference to anybody.
    """
    if isinstance(value, BaseModel):
        known = {field.alias or name for name, field in type(value).model_fields.items()}
        extra = {name: entry for name, entry in (value.model_extra or {}).items() if name not in known}
        fields_set = value.model_fields_set & type(value).model_fields.keys()
        return type(value), {name: shape(entry) for name, entry in vars(value).items()}, fields_set, shape(extra)
    if isinstance(value, dict):
        return {name: shape(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [shape(entry) for entry in value]
    return type(value), value


def assert_same(event_class: type[BaseModel], fields: dict[str, Any]) -> None:
    official = event_class.construct(**copy.deepcopy(fields))
    assert shape(construct(event_class, copy.deepcopy(fields))) == shape(official)


@pytest.mark.parametrize("index", range(len(CASES)))
def test_whole_events(index: int) -> None:
    """Each event of the official union, with each kind of output item, is built as the client builds it."""
    event_class, fields = CASES[index]
    assert_same(event_class, fields)
    assert construct(event_class, copy.deepcopy(fields)) == event_class.model_validate(fields)


def places_in(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value stands, everywhere below: a tuple of keys and indexes."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, ...]] = []
    for key, entry in entries:
        found += [(*place, key), *places_in(entry, (*place, key))]
    return found


_GONE = object()
# No value that the client would convert where it validates a union (True to 1): here every value stays what it is.
_VALUES = st.sampled_from(
    [_GONE, None, 7, 1.5, "zz", [], ["q"], {}, {"a": 1}, {"type": "hologram", "b": [1]}, {"type": ["x"]}]
)


@thorough
@given(case=st.integers(0, len(CASES) - 1), changes=st.lists(st.tuples(st.integers(0, 10**6), _VALUES), max_size=3))
def test_damaged_events(case: int, changes: list[tuple[int, Any]]) -> None:
    """Values that are missing, null, of another type or unknown give what the client makes of them."""
    event_class, fields = CASES[case]
    fields = copy.deepcopy(fields)
    for which, value in changes:
        places = [place for place in places_in(fields) if place != ("type",)]
        if not places:
            continue
        *path, last = places[which % len(places)]
        parent = fields
        for key in path:
            parent = parent[key]
        if value is not _GONE:
            parent[last] = copy.deepcopy(value)
        elif isinstance(parent, dict):
            del parent[last]
    assert_same(event_class, fields)


def test_fields_that_nobody_knows_are_kept() -> None:
    """More fields than the class has become attributes, at every level."""
    event_class, fields = next(case for case in CASES if "response" in case[1])
    later = {"later": {"x": [1]}}
    response = {**fields["response"], **later}
    response["usage"] = {**response["usage"], **later}
    built: Any = construct(event_class, {**fields, **later, "response": response})
    assert built.later == built.response.later == built.response.usage.later == {"x": [1]}


@pytest.mark.parametrize("value", [None, 3, "text", [], {"a": [1]}])
def test_annotations_of_other_shapes(value: Any) -> None:
    """A class that is annotated in a way that is not compiled is left to the official constructor."""

    class Odd(BaseModel):
        anything: tuple[int, ...] | None = None

    built = construct(Odd, {"anything": value})
    assert type(built) is Odd
    assert built.anything == Odd.construct(anything=value).anything
