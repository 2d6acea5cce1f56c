"""What a tool returned, as the model gets it.

Owns the dict forms of structured outputs and the conversion. Must not know tools, calls or items.
`ToolOutputText`, `ToolOutputImage` and `ToolOutputFileContent` are pydantic models, which are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from pydantic import BaseModel

    from runstream.agent.tool_content import ToolOutputFileContent, ToolOutputImage, ToolOutputText

__all__ = [
    "ToolOutputFileContent",
    "ToolOutputFileContentDict",
    "ToolOutputImage",
    "ToolOutputImageDict",
    "ToolOutputText",
    "ToolOutputTextDict",
    "tool_output_to_input",
]


_SENT = {
    "text": ("text",),
    "image": ("image_url", "file_id", "detail"),
    "file": ("file_data", "file_url", "file_id", "filename"),
}
"""The fields that the API takes; subclasses of the outputs may have others."""


class ToolOutputTextDict(TypedDict, total=False):
    """`ToolOutputText` as a dict."""

    type: Literal["text"]
    text: str


class ToolOutputImageDict(TypedDict, total=False):
    """`ToolOutputImage` as a dict."""

    type: Literal["image"]
    image_url: NotRequired[str]
    file_id: NotRequired[str]
    detail: NotRequired[Literal["low", "high", "auto"]]


class ToolOutputFileContentDict(TypedDict, total=False):
    """`ToolOutputFileContent` as a dict."""

    type: Literal["file"]
    file_data: NotRequired[str]
    file_url: NotRequired[str]
    file_id: NotRequired[str]
    filename: NotRequired[str]


def tool_output_to_input(output: Any) -> str | list[dict[str, Any]]:
    """The `output` of a `function_call_output` item for what a tool returned.

    A structured output (object or dict) and a list or tuple of nothing else become content parts. A dict counts only if
    its `type` and the fields that this type requires are right. Everything else becomes `str(output)`.
    """
    if not isinstance(output, list | tuple):
        part = _content_part(output)
        return str(output) if part is None else [part]
    parts = [_content_part(element) for element in cast("list[Any]", output)]
    # An empty list is an output too: without parts the model would be told nothing.
    return [part for part in parts if part is not None] if parts and None not in parts else str(cast("object", output))


def _content_part(value: Any) -> dict[str, Any] | None:
    """The content part of a structured output; None for any other value."""
    if value is None or isinstance(value, str | int | float):
        return None
    from runstream.agent.tool_content import ToolOutputFileContent, ToolOutputImage, ToolOutputText

    kinds: dict[Any, type[BaseModel]]
    kinds = {"text": ToolOutputText, "image": ToolOutputImage, "file": ToolOutputFileContent}
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        kind = kinds.get(fields["type"]) if isinstance(fields.get("type"), str) else None
        if kind is None:
            return None
        try:
            value = kind.model_validate(fields)
        except ValueError:
            # pydantic's errors are ValueErrors: the dict only looks like a structured output.
            return None
    for name, kind in kinds.items():
        if isinstance(value, kind):
            content = {field: getattr(value, field) for field in _SENT[name]}
            return {"type": f"input_{name}", **{field: value for field, value in content.items() if value is not None}}
    return None


def __getattr__(name: str) -> Any:
    if name in ("ToolOutputFileContent", "ToolOutputImage", "ToolOutputText"):
        from runstream.agent import tool_content

        return getattr(tool_content, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
