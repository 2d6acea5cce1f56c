"""From a Python function to what a model needs to call it: a name, a description and a JSON schema, and back.

Owns how parameters become fields and how validated arguments become a call. Must not know tools or how they are run.
Importing it is cheap: pydantic is imported when the first function is described, griffe when the first docstring with
sections is read.

Invariants: a parameter's description comes from the docstring, else from a string in `Annotated`, else from a `Field`;
the context parameter is never in the schema; what cannot become a schema is refused here, by name, and not at the call.
"""

from __future__ import annotations

import inspect
import re
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_origin, get_type_hints

from runstream.agent.context import RunContextWrapper
from runstream.agent.docstring import DocstringStyle, FuncDocumentation, generate_func_documentation
from runstream.agent.strict_schema import ensure_strict_json_schema
from runstream.agent.validation import summarize
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

__all__ = [
    "DocstringStyle",
    "FuncDocumentation",
    "FuncSchema",
    "callable_of",
    "function_schema",
    "generate_func_documentation",
]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_CONTEXT_NAME = re.compile(r"(\w+\.)*(RunContextWrapper|ToolContext)\b")
_PLAIN_TYPES = (
    "Annotate it with what JSON can express: str, int, float, bool, None, Literal, an Enum, a list, a union, "
    "a pydantic model, a dataclass or a typing_extensions.TypedDict"
)


@dataclass
class FuncSchema:
    """A function, as a model sees it and as it is called."""

    name: str
    description: str | None
    params_pydantic_model: type[BaseModel]
    """Validates the arguments; one field for each parameter but the context."""
    params_json_schema: dict[str, Any]
    """The schema of the arguments, strict if `strict_json_schema` says so."""
    signature: inspect.Signature
    takes_context: bool = False
    """Whether the first parameter is the run's context."""
    strict_json_schema: bool = True
    return_annotation: Any = inspect.Signature.empty

    def to_call_args(self, data: BaseModel) -> tuple[list[Any], dict[str, Any]]:
        """The arguments (positional, by keyword) of a call, without the context.

        Raises ModelBehaviorError if a key for `**kwargs` is the name of another parameter.
        """
        positional: list[Any] = []
        by_keyword: dict[str, Any] = {}
        # Not by attribute: a parameter may be named like a method of pydantic's models (`copy`, `json`).
        values = vars(data)
        for parameter in list(self.signature.parameters.values())[self.takes_context :]:
            value = values.get(parameter.name)
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional.extend(value or ())
            elif parameter.kind is parameter.VAR_KEYWORD:
                by_keyword.update(self._free_keywords(parameter.name, value or {}))
            elif parameter.kind is parameter.KEYWORD_ONLY:
                by_keyword[parameter.name] = value
            else:
                positional.append(value)
        return positional, by_keyword

    def _free_keywords(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        named = {parameter.name for parameter in self.signature.parameters.values() if parameter.kind in _NAMED}
        clashes = sorted(named & values.keys())
        if clashes:
            raise ModelBehaviorError(
                f"Invalid arguments for tool {self.name}: {', '.join(map(repr, clashes))} given both as a named "
                f"parameter and as a key of '{name}'; pass each argument once, as a named parameter"
            )
        return values


def function_schema(
    func: Callable[..., Any],
    docstring_style: DocstringStyle | None = None,
    name_override: str | None = None,
    description_override: str | None = None,
    use_docstring_info: bool = True,
    strict_json_schema: bool = True,
) -> FuncSchema:
    """Describe `func`: a function, a method, or an object with `__call__`.

    Raises UserError, naming function, parameter and annotation, where an annotation cannot be resolved or has no
    (strict) JSON schema, where the context is not the first parameter, or where there are `**kwargs` in strict mode.
    """
    call = callable_of(func)
    if use_docstring_info:
        documentation = _document(func, call, docstring_style)
    else:
        documentation = FuncDocumentation(_name(func), None, None)
    name = name_override or documentation.name
    try:
        signature = inspect.signature(call)
    except ValueError as error:
        raise UserError(f"Tool `{name}`: its parameters are not known ({error}). Wrap it in a function") from error
    parameters = list(signature.parameters.values())
    _refuse_unbound(call, name, parameters)
    hints = _resolve_annotations(call, name)
    takes_context = bool(parameters) and _is_context(hints.get(parameters[0].name))
    parameters = parameters[takes_context:]
    _refuse_unusable(name, parameters, hints, strict_json_schema)

    descriptions = documentation.param_descriptions or {}
    fields = {
        parameter.name: _field(parameter, _hint(parameter, hints), descriptions.get(parameter.name))
        for parameter in parameters
    }
    closed = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    try:
        model, json_schema = _build(f"{name}_args", fields, strict=strict_json_schema, closed=closed)
    except Exception as error:
        raise _blame(name, fields, hints, strict_json_schema, error) from error
    return FuncSchema(
        name=name,
        description=description_override or documentation.description,
        params_pydantic_model=model,
        params_json_schema=json_schema,
        signature=signature,
        takes_context=takes_context,
        strict_json_schema=strict_json_schema,
        return_annotation=hints.get("return", signature.return_annotation),
    )


def callable_of(func: Callable[..., Any]) -> Callable[..., Any]:
    """What a call of `func` calls: itself, or the `__call__` of an object, bound now."""
    return func if inspect.isroutine(func) or inspect.isclass(func) else cast("Any", func).__call__


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", None) or type(func).__name__


def _document(func: Callable[..., Any], call: Callable[..., Any], style: DocstringStyle | None) -> FuncDocumentation:
    if call is func:
        return generate_func_documentation(func, style)
    # The class says what the tool is for, its `__call__` what the arguments mean; either may say both.
    of_class, of_call = generate_func_documentation(type(func), style), generate_func_documentation(call, style)
    return FuncDocumentation(
        of_class.name,
        of_class.description or of_call.description,
        of_call.param_descriptions or of_class.param_descriptions,
    )


def _resolve_annotations(call: Callable[..., Any], tool: str) -> dict[str, Any]:
    """The annotations as types. One of the result may stay unresolved: nothing needs it."""
    try:
        return get_type_hints(call, include_extras=True)
    except Exception:
        # An annotation is any expression, so anything can go wrong; find out where.
        annotations: Mapping[str, Any] = getattr(call, "__annotations__", {})
    global_names: dict[str, Any] = getattr(inspect.unwrap(call), "__globals__", {})
    owner = getattr(call, "__self__", None)
    class_names = {name: value for base in reversed(type(owner).__mro__) for name, value in vars(base).items()}
    hints: dict[str, Any] = {}
    for name, annotation in annotations.items():
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints.update(get_type_hints(holder, global_names, class_names, include_extras=True))
        except Exception as error:
            if isinstance(annotation, str) and _CONTEXT_NAME.match(annotation):
                hints[name] = RunContextWrapper
            elif name != "return":
                raise UserError(
                    f"Tool `{tool}`: the annotation `{annotation}` of parameter `{name}` cannot be resolved ({error}). "
                    "Define or import what it names at module level, not under TYPE_CHECKING or inside a function"
                ) from error
    return hints


def _refuse_unbound(call: Callable[..., Any], tool: str, parameters: list[inspect.Parameter]) -> None:
    owner = getattr(call, "__qualname__", "").rpartition(".")[0]
    if inspect.isfunction(call) and owner and not owner.endswith("<locals>") and parameters:
        first = parameters[0]
        if first.name in ("self", "cls") and first.annotation is first.empty:
            raise UserError(
                f"Tool `{tool}`: `{call.__qualname__}` is a method without its object, so the model would have to give "
                f"`{first.name}`: make the tool of a bound method, function_tool(instance.{call.__name__})"
            )


def _refuse_unusable(tool: str, parameters: list[inspect.Parameter], hints: dict[str, Any], strict: bool) -> None:
    for parameter in parameters:
        name = parameter.name
        if _is_context(hints.get(name)):
            raise UserError(
                f"Tool `{tool}`: the context parameter `{name}` (RunContextWrapper or ToolContext) is found at "
                "non-first position: make it the first parameter"
            )
        if name.startswith("_"):
            raise UserError(f"Tool `{tool}`: the parameter `{name}` must not begin with an underscore: rename it")
        if parameter.kind is parameter.VAR_KEYWORD and strict:
            raise UserError(
                f"Tool `{tool}`: the variadic keyword parameter `**{name}` cannot have a strict schema. Name the "
                f"parameters, or set strict_mode=False; the model then gives them as one object `{name}`"
            )


def _is_context(annotation: Any) -> bool:
    annotation = _without_metadata(annotation)
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, RunContextWrapper)


def _without_metadata(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _hint(parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    # A class has the annotations of its attributes, which are not always those of its constructor.
    hint = hints.get(parameter.name, parameter.annotation)
    return Any if hint is parameter.empty else hint


def _field(parameter: inspect.Parameter, hint: Any, description: str | None) -> Any:
    """The field of a parameter, as `pydantic.create_model` takes it: a type, or a type and a default."""
    from pydantic import Field
    from pydantic.fields import FieldInfo

    if description is None and get_origin(hint) is Annotated:
        description = next((text for text in get_args(hint)[1:] if isinstance(text, str)), None)
    if parameter.kind is parameter.VAR_POSITIONAL:
        return list[hint], Field(default_factory=list[Any], description=description)
    if parameter.kind is parameter.VAR_KEYWORD:
        return dict[str, hint], Field(default_factory=dict[str, Any], description=description)
    default = parameter.default
    if isinstance(default, FieldInfo):
        hint = Annotated[hint, default]
    if description is not None:
        hint = Annotated[hint, Field(description=description)]
    return hint if default is parameter.empty or isinstance(default, FieldInfo) else (hint, default)


def _build(
    title: str, fields: dict[str, Any], *, strict: bool, closed: bool = False
) -> tuple[type[BaseModel], dict[str, Any]]:
    from pydantic import ConfigDict, create_model
    from pydantic.json_schema import PydanticJsonSchemaWarning

    # Arguments that no parameter takes are ignored, unless the function takes any: then the model meant those.
    config = ConfigDict(protected_namespaces=(), extra="forbid" if closed else "ignore")
    with warnings.catch_warnings():
        # Parameters may be named like pydantic's methods: values are never read by attribute.
        warnings.filterwarnings("ignore", r"Field name .* shadows an attribute", UserWarning)
        # A default that JSON cannot express is still the default of the call.
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        model = create_model(title, __config__=config, **fields)
        json_schema = model.model_json_schema()
    return model, ensure_strict_json_schema(json_schema) if strict else json_schema


def _blame(tool: str, fields: dict[str, Any], hints: dict[str, Any], strict: bool, error: Exception) -> UserError:
    """The error for a function whose schema failed with `error`: which parameter it is, and what to do."""
    for name, field in fields.items():
        try:
            _build("probe", {name: field}, strict=strict)
        except Exception as reason:
            annotation = inspect.formatannotation(_without_metadata(hints.get(name, Any)))
            advice = _PLAIN_TYPES
            if strict and isinstance(reason, UserError):
                advice = "Give it a type with named fields, or set strict_mode=False"
            return UserError(
                f"Tool `{tool}`: parameter `{name}` is annotated `{annotation}`, which cannot become a "
                f"{'strict ' if strict else ''}JSON schema: {summarize(reason)}. {advice}"
            )
    return UserError(f"Tool `{tool}`: its parameters cannot become a JSON schema: {summarize(error)}")
