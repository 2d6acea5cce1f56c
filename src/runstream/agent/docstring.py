"""What a function's docstring says about it and its parameters.

Owns the styles (Google, NumPy, Sphinx) and how one is recognised; griffe does the parsing and is imported only for a
docstring that may have sections. Must not know schemas or tools.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DocstringStyle", "FuncDocumentation", "generate_func_documentation"]

DocstringStyle: TypeAlias = Literal["google", "numpy", "sphinx"]

_MARKS: dict[DocstringStyle, re.Pattern[str]] = {
    "sphinx": re.compile(r"^:(param|type|returns?|rtype|raises)\b", re.MULTILINE),
    "numpy": re.compile(r"^(Parameters|Returns|Yields)\s*\n\s*-{3,}", re.MULTILINE),
    "google": re.compile(r"^(Args|Arguments|Returns|Raises):", re.MULTILINE),
}
"""What only this style has, in the order in which a style wins a tie."""

_TIGHT_SECTION = re.compile(r"(?<=\S)[ \t]*\n(?=(?:args|arguments|params|parameters):[ \t]*\n[ \t])", re.IGNORECASE)
"""The line end before a section of parameters that no blank line sets off."""


@dataclass
class FuncDocumentation:
    """What a docstring says."""

    name: str
    """The function's name."""
    description: str | None
    """The text before the first section."""
    param_descriptions: dict[str, str] | None
    """By parameter name, without the stars of `*args` and `**kwargs`; None if there are none."""


def generate_func_documentation(func: Callable[..., Any], style: DocstringStyle | None = None) -> FuncDocumentation:
    """Read the docstring of `func` (or of a class); the style is recognised unless it is given."""
    name, text = func.__name__, inspect.getdoc(func)
    if not text:
        return FuncDocumentation(name, None, None)
    # A section of any style needs a colon or a line of dashes.
    if ":" not in text and "--" not in text:
        return FuncDocumentation(name, text.strip(), None)

    from griffe import Docstring, DocstringSectionKind

    style = style or _recognise(text)
    if style == "google":
        # griffe takes a section without a blank line above it for text.
        text = _TIGHT_SECTION.sub("\n\n", text)
    # griffe cleans the text again; an empty first line keeps the indentation of a docstring that begins with a section.
    sections = Docstring("\n" + text, lineno=1).parse(style, warnings=False)
    description = next((section.value for section in sections if section.kind is DocstringSectionKind.text), None)
    parameters = {
        parameter.name.lstrip("*"): parameter.description
        for section in sections
        if section.kind is DocstringSectionKind.parameters
        for parameter in section.value
    }
    return FuncDocumentation(name, description, parameters or None)


def _recognise(text: str) -> DocstringStyle:
    marks: dict[DocstringStyle, int] = {style: len(set(pattern.findall(text))) for style, pattern in _MARKS.items()}
    best = max(marks, key=lambda style: marks[style])
    return best if marks[best] > 0 else "google"
