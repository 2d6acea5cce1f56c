"""How Markdown looks in a terminal: rich's elements, made quieter. Imports rich: only for who has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final, cast

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.markdown import CodeBlock, Heading, Markdown, TableElement
from rich.measure import Measurement
from rich.padding import Padding
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.table import Table
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


class _WholeTable(TableElement):
    """A table of which nothing is cut off: where a word does not fit into its column, each row is a list."""

    def __rich_console__(self, console: Any, options: Any) -> Any:
        for table in cast("Iterable[Table]", super().__rich_console__(console, options)):
            if Measurement.get(console, options.update(width=10_000), table).minimum <= options.max_width:
                yield table
            else:
                yield from self._rows()

    def _rows(self) -> Any:
        names = (
            [] if self.header is None or self.header.row is None else [cell.content for cell in self.header.row.cells]
        )
        for number, row in enumerate([] if self.body is None else self.body.rows):
            if number:
                yield Text("")
            for name, cell in zip(names, row.cells, strict=False):
                if not cell.content.plain:
                    continue
                line = Text(overflow="fold")
                if name.plain:
                    line.append(name.plain, "markdown.table.header").append("  ")
                yield line.append_text(cell.content)


class Document(Markdown):
    """A block of Markdown. What looks like HTML is shown as it is, and links and pictures with where they lead to."""

    elements: ClassVar[dict[str, Any]] = {
        **Markdown.elements,
        "heading_open": _QuietHeading,
        "fence": _IndentedCode,
        "code_block": _IndentedCode,
        "table_open": _WholeTable,
    }

    def __init__(self, markup: str) -> None:
        super().__init__("", hyperlinks=False)
        self.markup = markup
        self.parsed = _parser.parse(markup)
        for token in self.parsed:
            token.children = None if token.children is None else _plain_links(token.children)


def _plain_links(tokens: list[Token]) -> list[Token]:
    """Pictures as links to them, which rich would show before the text that they are in; bare addresses only once."""
    found: list[Token] = []
    for token in tokens:
        if token.type in ("link_open", "link_close") and token.markup == "autolink":
            continue
        if token.type != "image":
            found.append(token)
            continue
        link = Token("link_open", "a", 1, attrs={"href": token.attrs.get("src", "")})
        name = Token("text", "", 0, content=f"Picture: {token.content}" if token.content else "Picture")
        found += [link, name, Token("link_close", "a", -1)]
    return found


_parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
