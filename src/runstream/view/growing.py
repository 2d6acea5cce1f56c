"""A text that grows by pieces: adding one costs the same however long the text is; it is joined when it is read."""

from __future__ import annotations

__all__ = ["FULL", "Growing"]

FULL = 512
"""So many loose pieces are made one, so that a long text takes little more memory than its characters."""


class Growing:
    """Pieces of a text. `tail` stays the same list: who adds often may hold it, and calls `pack` once it is `FULL`."""

    __slots__ = ("_chunks", "tail")

    def __init__(self, text: str = "") -> None:
        self._chunks: list[str] = [text] if text else []
        self.tail: list[str] = []

    def add(self, piece: str) -> None:
        """Let the text grow."""
        self.tail.append(piece)
        if len(self.tail) >= FULL:
            self.pack()

    def pack(self) -> None:
        """Make one of the loose pieces."""
        self._chunks.append("".join(self.tail))
        self.tail.clear()

    def replace(self, text: str) -> None:
        """Forget the pieces: this is the whole text."""
        self._chunks = [text] if text else []
        self.tail.clear()

    def after(self, length: int) -> str:
        """The text without its first `length` characters, without joining those."""
        missing = len(self) - length
        if missing <= 0:
            return ""
        found: list[str] = []
        for piece in (*reversed(self.tail), *reversed(self._chunks)):
            found.append(piece)
            missing -= len(piece)
            if missing <= 0:
                break
        found.reverse()
        return "".join(found)[-missing:] if missing else "".join(found)

    def __len__(self) -> int:
        return sum(map(len, self._chunks)) + sum(map(len, self.tail))

    def __str__(self) -> str:
        if self.tail or len(self._chunks) > 1:
            self.replace("".join((*self._chunks, *self.tail)))
        return self._chunks[0] if self._chunks else ""

    def __repr__(self) -> str:
        return repr(str(self))
