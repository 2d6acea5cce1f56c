"""Markdown in a terminal, while it is written: complete blocks stand for good, the open one is drawn anew.

Owns how blocks look. Needs rich (the extra `chat`), which is imported when the first printer is made. Pure otherwise:
texts go in, lines with escape codes come out, none wider than the given width.

Invariants: drawing what is open costs no more than its size, and that is bounded; no control character of the text
reaches the terminal, no link hides where it leads to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from runstream.errors import MissingExtra
from runstream.render.markdown_blocks import Block, BlockSplitter
from runstream.render.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.segment import Segment

__all__ = ["MarkdownPrinter", "StreamedMarkdown"]

_MAX_COLUMNS: Final = 100
_MAX_OPEN_CHARS: Final = 4000
"""What is open and longer (a table, a text without any empty line) is shown as it was written until it is complete."""


class MarkdownPrinter:
    """Draws blocks of Markdown. Without `color` there are bold and italic letters, but no colours.

    Raises MissingExtra where rich is not installed.
    """

    def __init__(self, width: int, *, color: bool = True) -> None:
        try:
            from rich.color import ColorSystem
            from rich.console import Console

            from runstream.render.markdown_style import STYLES
        except ImportError as error:
            raise MissingExtra("Markdown in the terminal", "chat") from error
        from rich.theme import Theme

        self.width = max(min(width, _MAX_COLUMNS), 10)
        self._color = color
        self._system = ColorSystem.STANDARD
        self.console: Any = Console(
            width=self.width,
            color_system="standard",
            force_terminal=True,
            legacy_windows=False,
            theme=Theme(STYLES),
            highlight=False,
            emoji=False,
            markup=False,
        )

    def resize(self, width: int) -> None:
        """Draw what comes in another width."""
        self.width = self.console.width = max(min(width, _MAX_COLUMNS), 10)

    def lines(self, text: str) -> list[str]:
        """The block as lines of the terminal."""
        from runstream.render.markdown_style import Document

        drawn = self.console.render_lines(Document(visible(text).expandtabs(4)), pad=False)
        lines = [self._line(segments) for segments in drawn]
        while lines and not lines[-1]:
            lines.pop()
        while lines and not lines[0]:
            lines.pop(0)
        return lines

    def plain_lines(self, text: str, count: int) -> list[str]:
        """The last so many lines of a text as it was written."""
        from rich.cells import chop_cells

        found: list[str] = []
        for line in visible(text[-count * self.width :]).expandtabs(4).split("\n")[-count:]:
            found += chop_cells(line, self.width) or [""]
        return found[-count:]

    def _line(self, segments: Iterable[Segment]) -> str:
        kept = list(segments)
        # The padding of columns is not for the terminal: it would be copied, and wrap in a narrower one.
        while kept and not kept[-1].text.strip():
            kept.pop()
        if kept:
            kept[-1] = type(kept[-1])(kept[-1].text.rstrip(), kept[-1].style)
        pieces: list[str] = []
        for text, style, _ in kept:
            if style is not None and not self._color:
                style = style.without_color
            pieces.append(text if style is None else style.render(text, color_system=self._system))
        return "".join(pieces)


class StreamedMarkdown:
    """One text as it comes: lines that stand for good, and those of the block that is open."""

    def __init__(self, printer: MarkdownPrinter) -> None:
        self._printer = printer
        self._splitter = BlockSplitter()
        self._has_lines = False
        self._drawn: tuple[str, int] = ("", 0)
        """The text that was drawn last as open, and in which width."""
        self._drawn_lines: list[str] = []

    def feed(self, piece: str) -> list[str]:
        """Take in more of the text; returns the lines of what became complete."""
        return self._lines(self._splitter.feed(piece))

    def close(self) -> list[str]:
        """The text is over: the rest of its lines."""
        return self._lines(self._splitter.close())

    def open_lines(self, count: int) -> list[str]:
        """The last `count` lines of what is open."""
        block = self._splitter.open
        if not block.text:
            return []
        if len(block.text) > _MAX_OPEN_CHARS:
            return self._printer.plain_lines(block.text, count)
        drawn = (block.text, self._printer.width)
        if drawn != self._drawn:
            self._drawn = drawn
            self._drawn_lines = [*self._gap(block), *self._printer.lines(_completed(block.text))]
        return self._drawn_lines[-count:]

    def _lines(self, blocks: Iterable[Block]) -> list[str]:
        found: list[str] = []
        for block in blocks:
            lines = self._printer.lines(block.text)
            if lines:
                found += [*self._gap(block), *lines]
                self._has_lines = True
        return found

    def _gap(self, block: Block) -> list[str]:
        return [""] if self._has_lines and not block.joins else []


def _completed(text: str) -> str:
    """The text with what its last line has begun to mark also ended: it does not change its looks at the end."""
    if text.lstrip().startswith(("```", "~~~")):
        return text
    last = text[text.rfind("\n") + 1 :]
    stripped = last.rstrip("*_`")
    if len(stripped) < len(last):
        # Whether these begin or end something is not known.
        text, last = text[: len(text) - len(last) + len(stripped)], stripped
    if last.count("`") % 2:
        return text + "`"
    return text.rstrip() + "**" if last.count("**") % 2 else text
