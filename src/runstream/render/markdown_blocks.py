"""Markdown that is still being written, cut into blocks: those that are complete, and the one that is open.

Owns where a block ends. Must not know how blocks are drawn. Pure: pieces of text go in, blocks come out.

Invariants: each character is looked at a bounded number of times, however long the text is; the blocks and the open
rest are the same however the text was cut into pieces; no text is lost. A list is cut between its items and code
between its lines, so that what is open stays small; such pieces are drawn without a gap between them.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Block", "BlockSplitter"]

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)$")
_ANY_FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})([^`]*)$")
_ITEM: Final = re.compile(r"( {0,3})([-*+]|(\d{1,9})([.)]))( {1,4}(?=\S)| *$|\t)")
_NESTED_ITEM: Final = re.compile(r"\s*([-*+]|\d{1,9}[.)])\s")
_HEADING: Final = re.compile(r" {0,3}#{1,6}(\s|$)")
_RULE: Final = re.compile(r" {0,3}([-*_])(\s*\1){2,}\s*$")
_UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)\s*$")
# Of the last line, what may yet become the mark of a block: it is not shown before more has come.
_MARKS_ALONE: Final = re.compile(r"\s*([`~#>*+=_|:-]+|\d{1,9}[.)]?)?\s*")

_CODE_LINES: Final = 24
"""So many lines of code are a piece."""


class Block(NamedTuple):
    """Markdown that can be drawn by itself."""

    text: str
    joins: bool
    """Whether it goes on with what the block before it is: no empty line stands between them."""


class BlockSplitter:
    """Feed it a text; take the blocks that have become complete. `open` is what is left, `close` ends the text."""

    def __init__(self) -> None:
        self._rest = ""
        """The last line, which is not complete."""
        self._lines: list[str] = []
        """The complete lines of the open block."""
        self._kind: str | None = None
        """Of the open block: "text", "list" or "code"."""
        self._joins = False
        self._fence: str | None = None
        """The mark that opened the code that we are in, in a list, too."""
        self._content = 0
        """The column that an item's text begins at."""
        self._marker = ""
        self._number: int | None = None
        """Of the item, as counted from the list's first."""
        self._widened = 0
        """By how much the number of the item was made longer: its other lines have to move, too."""
        self._is_after_blank = False
        self._found: list[Block] = []

    def feed(self, piece: str) -> list[Block]:
        """Take in more of the text; returns the blocks that are now complete."""
        head, *lines = piece.split("\n")
        self._rest += head
        for line in lines:
            self._line(self._rest.rstrip("\r"))
            self._rest = line
        return self._taken()

    def close(self) -> list[Block]:
        """The text is over: the rest of its blocks."""
        if self._rest:
            self._line(self._rest)
            self._rest = ""
        self._finish()
        return self._taken()

    @property
    def open(self) -> Block:
        """What there is of the block that is being written."""
        lines, rest = self._lines, self._rest
        if rest and (self._fence is not None or _MARKS_ALONE.fullmatch(rest) is None):
            lines = [*lines, rest]
        return Block("\n".join(lines), self._joins)

    def _taken(self) -> list[Block]:
        found, self._found = self._found, []
        return found

    def _line(self, line: str) -> None:
        if self._fence is not None:
            self._code(line)
        elif not line.strip():
            self._blank()
        elif self._kind == "list" and self._stays_in_item(line):
            self._lines.append(line if not self._widened else " " * self._widened + line)
            self._is_after_blank = False
            self._open_fence(_ANY_FENCE.match(line))
        elif (fence := _FENCE.match(line)) is not None:
            self._finish()
            self._begin("code", line)
            self._open_fence(fence)
        elif self._kind == "text" and _UNDERLINE.match(line):
            self._lines.append(line)
            self._finish()
        elif _HEADING.match(line) or _RULE.match(line):
            self._finish()
            self._begin("text", line)
            self._finish()
        elif (item := _ITEM.match(line)) is not None and self._may_begin_list(item):
            self._item(line, item)
        elif self._kind == "text":
            self._lines.append(line)
        else:
            self._finish()
            self._begin("text", line)

    def _blank(self) -> None:
        if self._kind == "list":
            self._lines.append("")
            self._is_after_blank = True
        else:
            self._finish()

    def _stays_in_item(self, line: str) -> bool:
        """Whether a line that follows an item's belongs to it."""
        indent = len(line) - len(line.lstrip(" "))
        if indent >= self._content or line.startswith("\t"):
            return True
        if self._is_after_blank or _FENCE.match(line) or _HEADING.match(line) or _RULE.match(line):
            return False
        if _NESTED_ITEM.match(line):
            # Models often indent what is within an item by less than they should.
            return indent >= 2 and indent >= self._content - 1
        return True

    def _may_begin_list(self, item: re.Match[str]) -> bool:
        return self._kind != "text" or (item[3] in (None, "1") and item.end() < len(item.string))

    def _item(self, line: str, item: re.Match[str]) -> None:
        marker = item[4] or item[2]
        goes_on = self._kind == "list" and marker == self._marker
        self._finish()
        given = None if item[3] is None else int(item[3])
        self._number = given if not goes_on or self._number is None else self._number + 1
        self._marker = marker
        self._content = item.end() if item.end() < len(line) else item.end(2) + 1
        self._widened = 0
        if self._number != given:
            # An item alone does not know which it is.
            number = str(self._number)
            self._widened = max(len(number) - len(item[3]), 0)
            line = f"{item[1]}{number}{line[item.end(3) :]}"
        self._begin("list", line, joins=goes_on)
        self._is_after_blank = False
        self._open_fence(_ANY_FENCE.match(line[item.end() :]))

    def _begin(self, kind: str, line: str, *, joins: bool = False) -> None:
        self._kind, self._joins, self._lines = kind, joins, [line]

    def _open_fence(self, fence: re.Match[str] | None) -> None:
        self._fence = None if fence is None else fence[1]

    def _code(self, line: str) -> None:
        mark = line.strip()
        fence = self._fence or ""
        self._lines.append(line if not (self._kind == "list" and self._widened) else " " * self._widened + line)
        if len(mark) >= len(fence) and mark == fence[0] * len(mark):
            self._fence = None
            if self._kind == "code":
                self._finish()
        elif self._kind == "code" and len(self._lines) > _CODE_LINES:
            opening = self._lines[0]
            self._found.append(Block("\n".join([*self._lines, fence]), self._joins))
            self._begin("code", opening, joins=True)

    def _finish(self) -> None:
        """The open block is complete."""
        lines = self._lines
        while lines and not lines[-1]:
            lines.pop()
        # Of a piece of code that ends where the one before it did, nothing is left.
        if lines and not (self._kind == "code" and self._joins and len(lines) <= 2 and self._fence is None):
            self._found.append(Block("\n".join(lines), self._joins))
        self._kind, self._joins, self._lines, self._fence = None, False, [], None
