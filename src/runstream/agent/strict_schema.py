"""JSON schemas in the strict form that the OpenAI API guarantees to follow.

Owns the conversion and its limits. Must not know tools, agents or pydantic: schemas may come from anywhere, so neither
their size nor their references are trusted.

Invariants of a result: every object is closed (`additionalProperties` false) and requires all its properties, a `$ref`
stands alone, there is no `oneOf`, no default of None, and no union or nullable object at the root. A schema whose
meaning would change is refused instead. The schema that is given is never changed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

from runstream.errors import UserError

__all__ = ["ensure_strict_json_schema"]

Schema: TypeAlias = dict[str, Any]

_MAX_DEPTH = 100
"""Nested dicts and lists, or references in references: far more than real schemas have, and safe to recurse into."""
_MAX_NODES = 100_000
"""Schemas that one conversion may visit: references can multiply a small schema into an endless one."""

# fmt: off
_ANNOTATIONS = frozenset({
    "$anchor", "$comment", "$defs", "$schema", "contentEncoding", "contentMediaType", "contentSchema", "default",
    "definitions", "deprecated", "description", "examples", "readOnly", "title", "writeOnly",
})
# fmt: on
"""Keywords that say nothing about which values are valid, so that they may stand beside a reference."""

_NESTED_RESOURCE = (
    "JSON schema contains a reference into, or inside, a nested `$id` resource, which cannot be resolved against the "
    "document root: remove the `$id` or write the referenced schema out"
)


class _BadReference(UserError, ValueError):
    """A `$ref` that leads nowhere. A ValueError too, since that is what the SDK raises."""


def ensure_strict_json_schema(schema: Schema, *, _reject_open_objects: bool = False) -> Schema:
    """The strict form of `schema`; `{}` becomes an object without properties.

    With `_reject_open_objects` an object that does not say what it contains is refused instead of being closed.
    Raises UserError where the schema has no strict form (open objects, contradictory parts, a union at the root) or is
    too deep or too large, and TypeError where a schema is no dict.
    """
    _check_depth(schema)
    if schema == {}:
        return {"additionalProperties": False, "type": "object", "properties": {}, "required": []}
    strict = _Conversion(schema, reject_open_objects=_reject_open_objects).convert(schema, _Place())
    if isinstance(strict.get("anyOf"), list):
        raise UserError("The root of a strict JSON schema must not use `anyOf`: wrap the union in an object")
    kind = strict.get("type")
    if kind == ["object"]:
        strict["type"] = "object"
    elif isinstance(kind, list) and "object" in kind:
        raise UserError(
            f"The root of a strict JSON schema must be a non-nullable object, but its type is {kind}: "
            "make it a plain object, or do not use a strict schema"
        )
    return strict


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the document a schema stands."""

    path: tuple[str, ...] = ()
    depth: int = 1
    in_resource: bool = False
    """Whether it is inside a nested `$id` resource, which references mean instead of the document."""
    open_refs: frozenset[str] = frozenset()
    """The references that it is being written out for."""

    def inside(self, *keys: str) -> _Place:
        # The document's definitions stand for themselves, also where its root is a reference to one of them.
        refs = frozenset[str]() if not self.path and keys[0] in ("$defs", "definitions") else self.open_refs
        return replace(self, path=(*self.path, *keys), depth=self.depth + 1, open_refs=refs)

    def __str__(self) -> str:
        return f"`{'.'.join(self.path)}`" if self.path else "the root"


class _Conversion:
    """One conversion of one document: its root, and how much it has visited."""

    def __init__(self, root: Schema, *, reject_open_objects: bool) -> None:
        self._root = root
        self._reject_open_objects = reject_open_objects
        self._nodes_left = _MAX_NODES

    def convert(self, schema: object, place: _Place) -> Schema:
        """The strict form of the schema at `place`."""
        if not isinstance(schema, dict):
            raise TypeError(f"Expected a JSON schema to be a dictionary, got {schema!r:.100} at {place}")
        self._visit(place.depth)
        node = cast("Schema", schema)
        if place.path and _is_resource(node):
            place = replace(place, in_resource=True)
        if "$ref" in node:
            return self._convert_reference(node, place)
        if _has_single_all_of(node):
            return self.convert(self._merge_all_of(node, place), replace(place, depth=place.depth + 1))
        strict: Schema = {}
        for key, value in self._close(node, place).items():
            if key in ("$defs", "definitions", "properties") and isinstance(value, dict):
                members = cast("Schema", value)
                strict[key] = {name: self.convert(members[name], place.inside(key, name)) for name in members}
            elif key in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
                members = enumerate(cast("list[Any]", value))
                variants = [self.convert(variant, place.inside(key, str(i))) for i, variant in members]
                if key == "oneOf":
                    # Strict mode has none; for the discriminated unions that use it, anyOf accepts the same values.
                    strict["anyOf"] = [*strict.get("anyOf", ()), *variants]
                else:
                    strict[key] = [*variants, *strict.get(key, ())]
            elif key == "items" and isinstance(value, dict):
                strict[key] = self.convert(cast("Schema", value), place.inside(key))
            elif key != "default" or value is not None:
                strict[key] = copy.deepcopy(value)
        if isinstance(strict.get("properties"), dict):
            strict["required"] = list(strict["properties"])
        return strict

    def _close(self, node: Schema, place: _Place) -> Schema:
        """The schema with its object closed. Raises UserError if it was left open on purpose."""
        node = _with_type(node)
        properties, kind = node.get("properties"), node.get("type")
        if kind is not None and kind != "object" and not (isinstance(kind, list) and "object" in kind):
            return node
        extra = node.get("additionalProperties")
        if self._reject_open_objects and kind is not None and not properties and extra is not False:
            raise UserError(
                f"JSON schema contains an object that permits undeclared properties at {place} and cannot be "
                "converted to a strict schema without changing its accepted values"
            )
        # An empty schema as additionalProperties means that anything is allowed, so only false itself is closed.
        if extra is not False and "additionalProperties" in node:
            raise UserError(
                f"additionalProperties should not be set for object types, but is {extra!r:.100} at {place}: "
                "a strict schema names every field, which dict[str, ...], Mapping and extra='allow' do not"
            )
        return node if kind is None else {**node, "additionalProperties": False}

    def _convert_reference(self, node: Schema, place: _Place) -> Schema:
        if place.in_resource:
            raise UserError(_NESTED_RESOURCE)
        allowed = _ANNOTATIONS if place.path else _ANNOTATIONS | {"$id"}
        extra = sorted(set(node) - {"$ref"} - allowed)
        if extra:
            raise UserError(
                f"JSON schema contains a `$ref` with incompatible sibling keyword(s) ({', '.join(extra)}) at {place}, "
                "which cannot be merged without changing its accepted values"
            )
        # What leads back to the schema it stands in would be written out for ever, so it loses its description.
        if len(node) == 1 or str(node["$ref"]) in place.open_refs:
            if self._reject_open_objects:
                raise UserError(f"JSON schema contains a reference whose target was not validated: {node['$ref']!r}")
            return {"$ref": node["$ref"]}
        target, followed = self._follow(node, _MAX_DEPTH - place.depth)
        place = replace(place, depth=place.depth + len(followed), open_refs=place.open_refs | followed)
        return self.convert(target, place)

    def _merge_all_of(self, node: Schema, place: _Place) -> Schema:
        """An `allOf` of one schema, merged into the schema around it. Raises UserError if they contradict."""
        parent = _with_type({key: value for key, value in node.items() if key != "allOf"})
        entry: Any = node["allOf"][0]
        if isinstance(entry, dict) and _is_annotated_reference(cast("Schema", entry)):
            if place.in_resource:
                raise UserError(_NESTED_RESOURCE)
            entry, _ = self._follow(cast("Schema", entry), _MAX_NODES)
        else:
            entry = self.convert(cast("object", entry), place.inside("allOf", "0"))
        clashes = {
            key
            for key in parent.keys() & entry.keys() - _ANNOTATIONS
            if (key, parent[key]) not in (("properties", {}), ("required", [])) and not _equal(parent[key], entry[key])
        }
        # A closed object sees only its own properties, not those that an allOf would have added.
        if parent.get("additionalProperties") is False and not parent.get("properties") and entry.get("properties"):
            clashes.add("properties")
        if clashes:
            raise UserError(
                f"JSON schema contains a singleton `allOf` entry with incompatible parent keyword(s) "
                f"({', '.join(sorted(clashes))}) at {place}, which cannot be merged without changing its "
                "accepted values"
            )
        return {**parent, **entry, **{key: parent[key] for key in parent.keys() & _ANNOTATIONS}}

    def _follow(self, node: Schema, most: int) -> tuple[Schema, frozenset[str]]:
        """What at most `most` references in a row end at, with the annotations along them (the outermost win).

        Also the references themselves. Raises UserError if they are more, or a circle.
        """
        followed: set[str] = set()
        annotations: Schema = {}
        while not followed or _is_annotated_reference(node):
            ref = node["$ref"]
            target = self._resolve(ref)
            if ref in followed:
                raise UserError(f"JSON schema contains a circular `$ref` chain: {ref!r} leads back to itself")
            if len(followed) >= most:
                raise _too_deep()
            followed.add(ref)
            self._visit()
            annotations = {**{key: value for key, value in node.items() if key != "$ref"}, **annotations}
            node = target
        return {**node, **annotations}, frozenset(followed)

    def _resolve(self, ref: object) -> Schema:
        if not isinstance(ref, str) or not ref.startswith("#/"):
            raise _BadReference(f"Unexpected $ref format {ref!r}: only references that start with '#/' can be resolved")
        found: Any = self._root
        for token in unquote(ref[2:]).split("/"):
            key = token.replace("~1", "/").replace("~0", "~")
            found = cast("Schema", found).get(key) if isinstance(found, dict) else None
            if not isinstance(found, dict):
                raise _BadReference(f"Expected `$ref: {ref}` to resolve to a dictionary, but there is none at {key!r}")
            if _is_resource(cast("Schema", found)):
                raise UserError(_NESTED_RESOURCE)
        return cast("Schema", found)

    def _visit(self, depth: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise _too_deep()
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise UserError(
                f"JSON schema is too large to convert to a strict schema: it has more than {_MAX_NODES:,} nodes once "
                "its `$ref`s are expanded, which may indicate a malformed or malicious schema"
            )


def _check_depth(schema: object) -> None:
    """Refuse nesting that recursion could not survive; without recursion."""
    open_values: list[tuple[object, int]] = [(schema, 1)]
    while open_values:
        value, depth = open_values.pop()
        if depth > _MAX_DEPTH and isinstance(value, dict | list):
            raise _too_deep()
        if isinstance(value, dict):
            value = list(cast("Schema", value).values())
        if isinstance(value, list):
            open_values.extend((child, depth + 1) for child in cast("list[object]", value))


def _too_deep() -> UserError:
    return UserError(
        f"JSON schema is too deeply nested to process safely (more than {_MAX_DEPTH} levels): simplify or flatten it"
    )


def _with_type(node: Schema) -> Schema:
    """What has properties is an object, whether it says so or not."""
    if "type" in node or not isinstance(node.get("properties"), dict):
        return node
    return {"type": "object", **node}


def _is_resource(node: Schema) -> bool:
    return isinstance(node.get("$id"), str)


def _is_annotated_reference(node: Schema) -> bool:
    return "$ref" in node and not set(node) - {"$ref"} - _ANNOTATIONS


def _has_single_all_of(node: Schema) -> bool:
    entries = node.get("allOf")
    return isinstance(entries, list) and len(cast("list[Any]", entries)) == 1


def _equal(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 and 1.0 are the same number, 1 and true are different."""
    if isinstance(left, dict) and isinstance(right, dict):
        left, right = cast("Schema", left), cast("Schema", right)
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        left, right = cast("list[Any]", left), cast("list[Any]", right)
        return len(left) == len(right) and all(map(_equal, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right
