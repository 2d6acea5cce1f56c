"""`ensure_strict_json_schema`: what is closed, what is refused, and that nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.agent.strict_schema import ensure_strict_json_schema
from runstream.errors import UserError


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def closed(**properties: Any) -> dict[str, Any]:
    return {**an_object(**properties), "additionalProperties": False, "required": list(properties)}


TEXT = {"type": "string"}


def test_an_empty_schema_becomes_an_object_without_properties() -> None:
    """`{}` is a tool without arguments, each time a new dict."""
    first = ensure_strict_json_schema({})
    first["properties"]["a"] = TEXT
    assert ensure_strict_json_schema({}) == closed()


def test_objects_are_closed_and_require_everything_at_any_depth() -> None:
    """Objects in properties, items, unions and definitions are closed, also those that do not name their type."""
    schema = {
        **an_object(a=an_object(b=TEXT), items={"type": "array", "items": an_object(c=TEXT)}),
        "$defs": {"D": an_object(d=TEXT)},
        "definitions": {"E": {"properties": {"e": TEXT}}},
    }
    schema["properties"]["choice"] = {"anyOf": [an_object(f=TEXT), {"type": "null"}]}
    strict = ensure_strict_json_schema(schema)
    assert strict["required"] == ["a", "items", "choice"]
    assert strict["properties"]["a"] == closed(b=TEXT)
    assert strict["properties"]["items"]["items"] == closed(c=TEXT)
    assert strict["properties"]["choice"]["anyOf"] == [closed(f=TEXT), {"type": "null"}]
    assert strict["$defs"] == {"D": closed(d=TEXT)}
    assert strict["definitions"] == {"E": closed(e=TEXT)}


def test_the_given_schema_is_not_changed() -> None:
    """The result shares nothing with the argument."""
    schema = {**an_object(a={"type": "array", "items": an_object(b={"enum": ["x"]})}), "$defs": {"D": an_object()}}
    before = copy.deepcopy(schema)
    strict = ensure_strict_json_schema(schema)
    strict["properties"]["a"]["items"]["properties"]["b"]["enum"].append("y")
    assert schema == before


@pytest.mark.parametrize("extra", [True, {}, {"type": "string"}])
@pytest.mark.parametrize("typed", [True, False])
def test_open_objects_are_refused(extra: Any, typed: bool) -> None:
    """Free keys have no strict form, whether or not the object names its type; the error says where it is."""
    node: dict[str, Any] = {"additionalProperties": extra, **({"type": "object"} if typed else {})}
    with pytest.raises(UserError, match=r"additionalProperties.*at `properties\.a`"):
        ensure_strict_json_schema(an_object(a=node))


def test_open_objects_can_be_refused_instead_of_closed() -> None:
    """For foreign schemas: an object that says nothing, and a reference nobody checked, are refused on request."""
    ensure_strict_json_schema(an_object(), _reject_open_objects=False)
    with pytest.raises(UserError, match="permits undeclared properties"):
        ensure_strict_json_schema(an_object(), _reject_open_objects=True)
    referring = {**closed(a={"$ref": "#/$defs/T"}), "$defs": {"T": TEXT}}
    with pytest.raises(UserError, match="target was not validated"):
        ensure_strict_json_schema(referring, _reject_open_objects=True)


def test_one_of_becomes_any_of() -> None:
    """Strict mode has no oneOf; its variants follow those of an anyOf that is already there."""
    schema = an_object(a={"oneOf": [TEXT, an_object()], "anyOf": [{"type": "null"}]})
    assert ensure_strict_json_schema(schema)["properties"]["a"] == {"anyOf": [{"type": "null"}, TEXT, closed()]}


def test_several_all_of_stay_and_are_closed() -> None:
    """An allOf of several schemas is kept; each is made strict."""
    schema = an_object(a={"allOf": [an_object(b=TEXT), {"description": "d"}]})
    assert ensure_strict_json_schema(schema)["properties"]["a"]["allOf"] == [closed(b=TEXT), {"description": "d"}]


def test_only_a_default_of_none_is_removed() -> None:
    """None is what a missing value means anyway; other defaults stay for the model to read."""
    strict = ensure_strict_json_schema(an_object(a={"type": "string", "default": None}, b={"default": 5}))
    assert strict["properties"] == {"a": TEXT, "b": {"default": 5}}


def test_a_lone_reference_stays() -> None:
    """Recursive types need references, and strict mode allows them where they stand alone."""
    tree = an_object(children={"type": "array", "items": {"$ref": "#/$defs/Tree"}})
    strict = ensure_strict_json_schema({"$defs": {"Tree": tree}, "$ref": "#/$defs/Tree"})
    assert strict["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert strict["additionalProperties"] is False


def test_a_reference_beside_a_description_is_written_out() -> None:
    """What the schema itself says wins over what the target says."""
    target = {**an_object(b=TEXT), "description": "target", "title": "T"}
    strict = ensure_strict_json_schema(
        {**an_object(a={"$ref": "#/$defs/T", "description": "mine"}), "$defs": {"T": target}}
    )
    assert strict["properties"]["a"] == {**closed(b=TEXT), "description": "mine", "title": "T"}


def test_a_description_beside_a_recursive_reference_is_dropped() -> None:
    """Written out it would never end; the reference alone accepts the same values."""
    node = an_object(next={"anyOf": [{"$ref": "#/$defs/Node", "description": "the next"}, {"type": "null"}]})
    strict = ensure_strict_json_schema({"$defs": {"Node": node}, "$ref": "#/$defs/Node"})
    inner = strict["$defs"]["Node"]["properties"]["next"]["anyOf"][0]
    assert inner["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/Node"}


@pytest.mark.parametrize("sibling", [{"minLength": 1}, {"type": "string"}, {"properties": {}}, {"allOf": [{}]}])
def test_a_reference_beside_a_constraint_is_refused(sibling: dict[str, Any]) -> None:
    """Merging them would change which values are valid."""
    schema = {**an_object(a={"$ref": "#/$defs/T", **sibling}), "$defs": {"T": TEXT}}
    with pytest.raises(UserError, match=rf"incompatible sibling keyword\(s\) \({next(iter(sibling))}\)"):
        ensure_strict_json_schema(schema)


@pytest.mark.parametrize(("name", "token"), [("a/b", "a~1b"), ("a~b", "a~0b"), ("a b", "a%20b")])
def test_references_are_json_pointers(name: str, token: str) -> None:
    """Escapes of JSON pointers and of URLs are undone."""
    schema = {**an_object(a={"$ref": f"#/$defs/{token}", "title": "t"}), "$defs": {name: TEXT}}
    assert ensure_strict_json_schema(schema)["properties"]["a"] == {**TEXT, "title": "t"}


@pytest.mark.parametrize("ref", ["other.json", "#/$defs/Missing", "#/$defs/T/type", 5])
def test_references_that_lead_nowhere_are_refused(ref: Any) -> None:
    """A UserError, and a ValueError as in the SDK."""
    schema = {**an_object(a={"$ref": ref, "title": "t"}), "$defs": {"T": TEXT}}
    with pytest.raises(UserError) as caught:
        ensure_strict_json_schema(schema)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("wrap", [lambda ref: {"allOf": [ref]}, lambda ref: ref])
def test_references_in_a_circle_are_refused(wrap: Any) -> None:
    """References to each other alone describe nothing."""
    definitions = {"A": {"$ref": "#/x/B", "title": "a"}, "B": {"$ref": "#/x/A", "title": "b"}}
    with pytest.raises(UserError, match="circular"):
        ensure_strict_json_schema({**an_object(a=wrap({"$ref": "#/x/A", "title": "t"})), "x": definitions})


def test_references_across_nested_resources_are_refused() -> None:
    """A nested `$id` changes what references mean, so neither those inside it nor those into it can be resolved."""
    resource = {"$id": "https://example.test/nested", **an_object(a={"$ref": "#/$defs/T"})}
    with pytest.raises(UserError, match=r"nested `\$id`"):
        ensure_strict_json_schema(an_object(a=resource))
    with pytest.raises(UserError, match=r"nested `\$id`"):
        ensure_strict_json_schema({**an_object(a={"allOf": [{"$ref": "#/x"}]}), "x": resource})
    with pytest.raises(UserError, match=r"nested `\$id`"):
        ensure_strict_json_schema(an_object(a={"$id": "y", "allOf": [{"$ref": "#/properties"}]}))


def test_the_root_may_have_an_id() -> None:
    """The document's own `$id` changes nothing, also beside a reference."""
    schema = {"$id": "https://example.test", "$defs": {"T": an_object(a={"$ref": "#/$defs/U"}), "U": TEXT}}
    strict = ensure_strict_json_schema({**schema, "$ref": "#/$defs/T"})
    assert strict["properties"] == {"a": {"$ref": "#/$defs/U"}}


def test_an_all_of_of_one_is_merged() -> None:
    """Its content joins the schema around it, through references as well."""
    definitions = {"Inner": an_object(b=TEXT), "Outer": {"$ref": "#/$defs/Inner", "title": "outer"}}
    strict = ensure_strict_json_schema(
        {"type": "object", "allOf": [{"$ref": "#/$defs/Outer"}], "description": "d", "$defs": definitions}
    )
    del strict["$defs"]
    assert strict == {**closed(b=TEXT), "description": "d", "title": "outer"}


@pytest.mark.parametrize(
    "schema",
    [
        {**an_object(a=TEXT), "allOf": [an_object(b=TEXT)]},
        {"const": True, "allOf": [{"const": 1}]},
        {"const": {"x": [1]}, "allOf": [{"const": {"x": [True]}}]},
        {"type": "object", "additionalProperties": False, "allOf": [an_object(b=TEXT)]},
    ],
)
def test_an_all_of_that_contradicts_is_refused(schema: dict[str, Any]) -> None:
    """Values that JSON tells apart, and properties that a closed object would hide, cannot be merged."""
    with pytest.raises(UserError, match="singleton `allOf`"):
        ensure_strict_json_schema(an_object(a=schema))


def test_an_all_of_with_the_same_values_is_merged() -> None:
    """1 and 1.0 are one number in JSON, and empty properties say nothing."""
    assert ensure_strict_json_schema({"const": 1.0, "allOf": [{"const": 1}]}) == {"const": 1}
    merged = ensure_strict_json_schema({"properties": {}, "required": [], "allOf": [an_object(a=TEXT)]})
    assert merged == closed(a=TEXT)


@pytest.mark.parametrize(
    "schema", [{"anyOf": [an_object(), {"type": "null"}]}, {"type": ["object", "null"], "properties": {}}]
)
def test_the_root_is_one_object(schema: dict[str, Any]) -> None:
    """Strict mode takes neither a union nor a nullable object at the root."""
    with pytest.raises(UserError, match="root of a strict JSON schema"):
        ensure_strict_json_schema(schema)


def test_a_type_list_of_one_is_that_type() -> None:
    """`["object"]` at the root is an object."""
    assert ensure_strict_json_schema({"type": ["object"], "properties": {}}) == closed()


def test_what_is_no_schema_is_a_type_error() -> None:
    """Schemas are dicts, at the root and below; the error says where."""
    not_a_schema: Any = []
    with pytest.raises(TypeError, match="the root"):
        ensure_strict_json_schema(not_a_schema)
    with pytest.raises(TypeError, match=r"`properties\.a`"):
        ensure_strict_json_schema(an_object(a=True))


def test_hostile_schemas_are_refused_in_bounded_time() -> None:
    """Depth and references that multiply end in an error, not in a crash."""
    deep: dict[str, Any] = an_object()
    for _ in range(1_000):
        deep = an_object(a=deep)
    with pytest.raises(UserError, match="too deeply nested"):
        ensure_strict_json_schema(deep)

    chain = {f"L{i}": {"$ref": f"#/$defs/L{i + 1}"} for i in range(1_000)}
    with pytest.raises(UserError, match="too deeply nested"):
        ensure_strict_json_schema(
            {**an_object(a={"$ref": "#/$defs/L0", "title": "t"}), "$defs": {**chain, "L1000": TEXT}}
        )

    double = {
        f"L{i}": an_object(**{name: {"$ref": f"#/$defs/L{i + 1}", "title": "t"} for name in "abcd"}) for i in range(20)
    }
    with pytest.raises(UserError, match="too large"):
        ensure_strict_json_schema({"$ref": "#/$defs/L0", "$defs": {**double, "L20": TEXT}})


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaves = st.sampled_from([TEXT, {"type": "integer", "default": None}, {"enum": ["a"]}, {}, {"$ref": "#/$defs/D"}])
    names = st.sampled_from("abc")
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.dictionaries(names, inner, max_size=3).map(lambda properties: an_object(**properties)),
            inner.map(lambda items: {"type": "array", "items": items}),
            st.lists(inner, min_size=1, max_size=2).map(lambda variants: {"anyOf": variants}),
            st.lists(inner, min_size=1, max_size=2).map(lambda variants: {"oneOf": variants}),
            inner.map(lambda entry: {"allOf": [entry], "description": "d"}),
        ),
        max_leaves=8,
    )


@given(st.dictionaries(st.sampled_from("xyz"), schemas(), max_size=3), schemas())
def test_the_result_is_strict_and_stays_the_same(properties: dict[str, Any], definition: dict[str, Any]) -> None:
    """Every object of a result is closed and requires all its properties; converting it again changes nothing."""
    schema = {**an_object(**properties), "$defs": {"D": definition}}
    try:
        strict = ensure_strict_json_schema(schema)
    except UserError:
        return
    waiting: list[Any] = [strict]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            assert "oneOf" not in node
            assert "$ref" not in node or len(node) == 1
            if node.get("type") == "object":
                assert node["additionalProperties"] is False
                assert node["required"] == list(node["properties"])
    assert ensure_strict_json_schema(strict) == strict
