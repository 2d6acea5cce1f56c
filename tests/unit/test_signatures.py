"""What we offer under the names of the OpenAI Agents SDK takes what the SDK's takes.

`tests/data/sdk_signatures.json` holds facts about openai-agents 0.22: for each name that runstream offers the
parameters and their defaults (`...`: one that is no literal), the fields of dataclasses, and the public members.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runstream

FACTS: dict[str, dict[str, str]] = json.loads((Path(__file__).parents[1] / "data/sdk_signatures.json").read_text())

MISSING = {
    "RunResultStreaming.ensure_sandbox_cleanup_on_completion": "sandboxes are not there yet",
    "RunResultStreaming.()": "only Runner.run_streamed makes one",
    "OpenAIProvider.agent_registration": "the registration of agents with OpenAI is not there yet",
}
"""What a class of the SDK has and ours has not, and why. docs/compatibility.md says so, too."""

OTHER_DEFAULTS = {
    "RunConfig().tool_name_collision_policy": "'error': two tools of one name are a mistake",
}
"""Defaults that differ on purpose. docs/compatibility.md says so, too."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    required: bool
    default: Any


def parameters_of_fact(text: str) -> tuple[str, list[Parameter]]:
    """What the fact says of how it is called ("async", "class", "static"), and its parameters."""
    how, _, rest = text.partition("(")
    function = ast.parse(f"def f({rest}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    found: list[Parameter] = []
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        found.append(Parameter(argument.arg, "positional", default is None, literal(default)))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(Parameter(argument.arg, "keyword", default is None, literal(default)))
    found += [Parameter(rest.arg, "rest", False, ...) for rest in (arguments.vararg, arguments.kwarg) if rest]
    return how.strip(), found


def literal(node: ast.expr | None) -> Any:
    return ... if node is None else ast.literal_eval(node)


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_POSITIONAL: "rest",
    inspect.Parameter.VAR_KEYWORD: "rest",
}


def parameters_of(function: Any, *, bound: bool) -> list[Parameter]:
    """Our parameters; keyword options that are declared as a TypedDict are expanded."""
    found: list[Parameter] = []
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters[1:] if bound else parameters:
        if parameter.name.startswith("_"):
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD and "Unpack" in str(parameter.annotation):
            options = typing.get_type_hints(function, include_extras=True)[parameter.name].__args__[0]
            required = options.__required_keys__
            found += [Parameter(name, "keyword", name in required, ...) for name in options.__annotations__]
        else:
            has_default = parameter.default is not inspect.Parameter.empty
            factory = has_default and "factory" in repr(parameter.default)
            default = parameter.default if has_default and not factory else ...
            required = not has_default and KINDS[parameter.kind] != "rest"
            found.append(Parameter(parameter.name, KINDS[parameter.kind], required, default))
    return found


def differences(where: str, theirs: list[Parameter], ours: list[Parameter]) -> Iterator[str]:
    """What a call that suits the SDK's parameters would not find in ours."""
    known = {parameter.name: parameter for parameter in ours}
    takes_any = any(parameter.kind == "rest" for parameter in ours)
    for parameter in theirs:
        own = known.get(parameter.name)
        if own is None:
            if parameter.kind != "rest" and not takes_any:
                yield f"{where} takes no {parameter.name}"
            continue
        if parameter.kind == "positional" and own.kind == "keyword":
            yield f"{where}: {parameter.name} is keyword-only"
        if own.required and not parameter.required:
            yield f"{where}: {parameter.name} is required"
        given = (parameter.default, own.default)
        if ... not in given and given[0] != given[1] and f"{where}.{parameter.name}" not in OTHER_DEFAULTS:
            yield f"{where}: the default of {parameter.name} is {own.default!r}, not {parameter.default!r}"
    if not takes_any:
        wanted = [parameter.name for parameter in theirs if parameter.kind == "positional"]
        order = [parameter.name for parameter in ours if parameter.kind == "positional"]
        if order[: len(wanted)] != wanted and set(wanted) <= set(order):
            yield f"{where}: the order is {order}, not {wanted}"
    names = {parameter.name for parameter in theirs}
    yield from (f"{where} requires {own.name}" for own in ours if own.required and own.name not in names)


def differences_of_name(name: str, facts: dict[str, str]) -> Iterator[str]:
    ours = getattr(runstream, name)
    for member, fact in facts.items():
        where = f"{name}.{member}"
        if where in MISSING:
            assert not hasattr(ours, member)
        elif member == "()":
            yield from differences(f"{name}()", parameters_of_fact(fact)[1], parameters_of(ours, bound=False))
        elif member == "fields":
            fields = {field.name for field in dataclasses.fields(ours)} if dataclasses.is_dataclass(ours) else set()
            yield from (f"{name} has no {field}" for field in fact.split() if not has(ours, field, fields))
        elif not has(ours, member, set()):
            yield f"{where} is missing"
        elif fact != "attribute":
            how, theirs = parameters_of_fact(fact)
            bound = not inspect.isclass(ours) or not isinstance(inspect.getattr_static(ours, member), staticmethod)
            function = inspect.getattr_static(ours, member)
            function = getattr(function, "__func__", function)
            yield from differences(where, theirs, parameters_of(function, bound=bound))
            is_class_method = isinstance(inspect.getattr_static(ours, member), classmethod | staticmethod)
            if ("class" in how or "static" in how) != is_class_method:
                yield f"{where} must {'' if 'class' in how else 'not '}be callable on the class"
            if ("async" in how) != inspect.iscoroutinefunction(function) and not inspect.isasyncgenfunction(function):
                yield f"{where} must {'' if 'async' in how else 'not '}be async"


def has(ours: Any, name: str, fields: set[str]) -> bool:
    return name in fields or hasattr(ours, name) or name in getattr(ours, "__annotations__", {})


@pytest.mark.parametrize("name", FACTS)
def test_takes_what_the_sdk_takes(name: str) -> None:
    """Every parameter, field and member of the SDK is there under its name, in its place and with its default."""
    assert list(differences_of_name(name, FACTS[name])) == []


def test_every_name_that_the_facts_know_is_offered() -> None:
    """The facts hold no name that runstream does not offer."""
    assert [name for name in FACTS if not hasattr(runstream, name)] == []


@pytest.mark.parametrize(
    ("ours", "difference"),
    [
        (lambda a, b=1, *, c=None: ..., None),
        (lambda a, b=1, c=None, d=2: ..., None),
        (lambda a, b=1, **more: ..., None),
        (lambda a, b=1: ..., "f takes no c"),
        (lambda b=1, a=0, *, c=None: ..., "f: the order is ['b', 'a'], not ['a', 'b']"),
        (lambda a, *, b=1, c=None: ..., "f: b is keyword-only"),
        (lambda a, b, *, c=None: ..., "f: b is required"),
        (lambda a, b=2, *, c=None: ..., "f: the default of b is 2, not 1"),
        (lambda a, b=1, *, c=None, d: ..., "f requires d"),
    ],
)
def test_the_comparison_sees_differences(ours: Any, difference: str | None) -> None:
    """A parameter that is missing, elsewhere, required, or has another default is told; more options are not."""
    theirs = parameters_of_fact("(a, b=1, *, c=...)")[1]
    found = list(differences("f", theirs, parameters_of(ours, bound=False)))
    assert found[:1] == ([difference] if difference else [])
