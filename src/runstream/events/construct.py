"""Official `openai` models from decoded JSON, unvalidated, quickly.

The official client builds its models by reflection: it looks at every annotation again for every value, which costs
most of what a short model call costs. Here each class's annotations are read once and compiled into builders. The
outcome is the same as that of the official `construct`; wherever an annotation or a value is of a shape that is not
compiled, the official `construct` is asked instead, so that correctness never rests on this module.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import pydantic
from openai import BaseModel

__all__ = ["SharedNames", "construct", "set_dict", "set_extra", "set_fields_set", "set_private"]

_M = TypeVar("_M", bound=BaseModel)
_Builder = Callable[[Any], Any]

# So many combinations of fields are remembered for each class; servers use few.
_MAX_SHAPES = 32
_PLAIN = (str, int, bool, type(None), object)
_new = object.__new__
# The slots of pydantic's models, set without a look-up by name each time.
set_dict = pydantic.BaseModel.__dict__["__dict__"].__set__
set_fields_set = pydantic.BaseModel.__dict__["__pydantic_fields_set__"].__set__
set_extra = pydantic.BaseModel.__dict__["__pydantic_extra__"].__set__
set_private = pydantic.BaseModel.__dict__["__pydantic_private__"].__set__


class _NotCompiled(Exception):
    """The annotation or the value is not of a compiled shape."""


class SharedNames(set[str]):
    """The names of all fields of a class: the `model_fields_set` that all its models share in which none is missing.

    A set of its own would make each event half as large again. pydantic adds the name of a field that a user sets: it
    is there already, or names an extra field, which pydantic writes out in any case. Copies are sets of their own.
    """

    def add(self, element: str, /) -> None:
        pass

    def __copy__(self) -> set[str]:
        return set(self)

    def __reduce__(self) -> Any:
        return set, (list(self),)


class _Plan:
    """How to build one class: its fields by their JSON names, with a builder where the value is not plain."""

    __slots__ = ("_some_names", "all_names", "defaults", "fields", "names")

    def __init__(self, model: type[BaseModel]) -> None:
        self.fields: list[tuple[str, str, _Builder | None]] = []
        self.defaults: dict[str, Any] = {}
        for name, field in model.model_fields.items():
            self.fields.append((field.alias or name, name, _builder_of(field.annotation)))
            if not field.is_required():
                default = field.get_default(call_default_factory=False)
                if field.default_factory is not None or not isinstance(default, str | int | float | bool | None):
                    raise _NotCompiled
                self.defaults[name] = default
        # Shared by the models in which no field is missing, see SharedNames.
        self.all_names = SharedNames(model.model_fields)
        self.names = frozenset(key for key, _, _ in self.fields)
        self._some_names: dict[tuple[str, ...], frozenset[str]] = {}

    def some_names(self, names: list[str]) -> set[str]:
        """A set of these names. One that is copied takes half the memory of one that has grown."""
        key = tuple(names)
        known = self._some_names.get(key)
        if known is None:
            known = frozenset(set(names).copy())
            if len(self._some_names) < _MAX_SHAPES:
                self._some_names[key] = known
        return set(known)


_plans: dict[type[BaseModel], _Plan | None] = {}


def construct(model: type[_M], data: dict[str, Any]) -> _M:
    """The model of these fields, as `model.construct(**data)` makes it. Keeps `data`'s own nested values."""
    try:
        return _build(model, data)
    except _NotCompiled:
        return model.construct(**data)


def _plan_of(model: type[BaseModel]) -> _Plan:
    try:
        plan = _plans[model]
    except KeyError:
        try:
            plan = _Plan(model)
        except _NotCompiled:
            plan = None
        _plans[model] = plan
    if plan is None:
        raise _NotCompiled
    return plan


def _build(model: type[_M], data: Any) -> _M:
    if data.__class__ is not dict:
        raise _NotCompiled
    plan = _plan_of(model)
    given = cast("dict[str, Any]", data)
    fields, given_names = {}, list[str]()
    defaults = plan.defaults
    for key, name, builder in plan.fields:
        if key in given:
            value = given[key]
            fields[name] = value if builder is None else builder(value)
            given_names.append(name)
        else:
            fields[name] = defaults.get(name)  # the official client has None for what is missing
    extra = {}
    if len(given_names) < len(given):
        extra = {key: value for key, value in given.items() if key not in plan.names}
    fields_set = plan.all_names if len(given_names) == len(plan.fields) else plan.some_names(given_names)
    made = _new(model)
    set_dict(made, fields)
    set_fields_set(made, fields_set)
    set_extra(made, extra)
    set_private(made, None)
    return made


def _builder_of(annotation: Any) -> _Builder | None:
    """A function from the JSON value to the field's value; None where they are the same."""
    while True:
        if isinstance(annotation, TypeVar):
            raise _NotCompiled
        if hasattr(annotation, "__value__"):  # a type alias of the `type` statement or TypeAliasType
            annotation = annotation.__value__
            continue
        origin = get_origin(annotation)
        if origin is not Annotated:
            break
        annotation = get_args(annotation)[0]
    if annotation is float:
        return _to_float
    if annotation in _PLAIN or annotation is Any or origin is Literal:
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model_builder(annotation)
    if origin is list:
        return _list_builder(_builder_of(get_args(annotation)[0]))
    if origin is dict:
        return None if _builder_of(get_args(annotation)[1]) is None else _refuse
    if origin in (Union, types.UnionType):
        return _union_builder(get_args(annotation))
    raise _NotCompiled


def _to_float(value: Any) -> Any:
    return float(value) if value.__class__ is int else value


def _refuse(value: Any) -> Any:
    raise _NotCompiled


def _model_builder(model: type[BaseModel]) -> _Builder:
    def build(value: Any) -> Any:
        return None if value is None else _build(model, value)

    return build


def _list_builder(item: _Builder | None) -> _Builder | None:
    if item is None:
        return None

    def build(value: Any) -> Any:
        if value is None:
            return None
        if value.__class__ is not list:
            raise _NotCompiled
        return [item(entry) for entry in value]

    return build


def _flattened(variants: tuple[Any, ...]) -> list[Any]:
    flat: list[Any] = []
    for variant in variants:
        while get_origin(variant) is Annotated or hasattr(variant, "__value__"):
            variant = variant.__value__ if hasattr(variant, "__value__") else get_args(variant)[0]
        if get_origin(variant) in (Union, types.UnionType):
            flat += _flattened(get_args(variant))
        else:
            flat.append(variant)
    return flat


def _union_builder(variants: tuple[Any, ...]) -> _Builder | None:
    """Models of a union are told apart by their `type`; a single model needs no telling."""
    models: list[type[BaseModel]] = []
    lists: list[_Builder | None] = []
    is_float = False
    for variant in _flattened(variants):
        if isinstance(variant, type) and issubclass(variant, BaseModel):
            models.append(variant)
        elif get_origin(variant) is list:
            lists.append(_builder_of(variant))
        elif variant is float:
            is_float = True
        elif _builder_of(variant) is not None:
            raise _NotCompiled
    if not models and not any(lists):
        return _to_float if is_float else None
    if len(lists) > 1:
        raise _NotCompiled
    by_type: dict[str, type[BaseModel] | None] = {}
    for model in models:
        field = model.model_fields.get("type")
        for name in get_args(field.annotation) if field is not None else ():
            by_type[name] = None if name in by_type else model
    build_list = lists[0] if lists else None
    only = models[0] if len(models) == 1 else None

    def build(value: Any) -> Any:
        if value.__class__ is dict:
            kind = value.get("type")
            model = by_type.get(kind, only) if kind.__class__ is str else only
            if model is None:
                raise _NotCompiled
            return _build(model, value)
        if value.__class__ is list:
            if build_list is None:
                if lists:
                    return value
                raise _NotCompiled
            return build_list(value)
        return float(value) if is_float and value.__class__ is int else value

    return build
