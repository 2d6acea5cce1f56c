"""How Markdown looks in a terminal: rich's elements, made quieter. Imports rich: only for who has it."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from markdown_it import MarkdownIt
from rich.markdown import CodeBlock, Heading, Markdown
from rich.padding import Padding
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text

__all__ = ["STYLES", "Document"]

STYLES: Final = {
    "markdown.h1": "bold underline",
    "markdown.h2": "bold",
    "markdown.h3": "bold",
    "markdown.h4": "italic",
    "markdown.h5": "italic",
    "markdown.h6": "italic",
    "markdown.code": "cyan",
    "markdown.block_quote": "dim",
    "markdown.link": "underline",
    "markdown.link_url": "blue",
    "markdown.item.bullet": "cyan",
    "markdown.item.number": "cyan",
    "markdown.hr": "dim",
    "markdown.table.border": "dim",
    "markdown.table.header": "bold",
}

_CODE: Final = Syntax.get_theme("ansi_dark")


class _QuietHeading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, Any]] = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _IndentedCode(CodeBlock):
    """Code without a box, so that it can be drawn piece by piece, and copied."""

    def __rich_console__(self, console: Any, options: Any) -> Any:
        code = str(self.text).rstrip("\n")
        if not code:
            return
        theme = _CODE if isinstance(_CODE, ANSISyntaxTheme) else "ansi_dark"
        if self.lexer_name == "text":
            yield Padding(Text(code, overflow="fold"), (0, 0, 0, 2))
        else:
            yield Padding(Syntax(code, self.lexer_name, theme=theme, word_wrap=True), (0, 0, 0, 2))


class Document(Markdown):
    """A block of Markdown. What looks like HTML is shown as it is, and links with where they lead to."""

    elements: ClassVar[dict[str, Any]] = {
        **Markdown.elements,
        "heading_open": _QuietHeading,
        "fence": _IndentedCode,
        "code_block": _IndentedCode,
    }

    def __init__(self, markup: str) -> None:
        super().__init__("", hyperlinks=False)
        self.markup = markup
        self.parsed = _parser.parse(markup)


_parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
