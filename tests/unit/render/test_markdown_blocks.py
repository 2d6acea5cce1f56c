"""Where blocks of Markdown end, while it is still being written."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.render.markdown_blocks import Block, BlockSplitter

LINES = [
    "",
    "text",
    "  more text",
    "# head",
    "- item",
    "- ",
    "  - nested",
    "  inside",
    "1. one",
    "9. nine",
    "10) ten",
    "```py",
    "```",
    "   ~~~",
    "````",
    "| a | b |",
    "|---|---|",
    "> quote",
    "---",
    "***",
    "===",
    "    code",
    "1.",
    "\ttab",
]
texts = st.lists(st.sampled_from(LINES), max_size=30).map("\n".join)


def whole(text: str) -> list[Block]:
    splitter = BlockSplitter()
    return [*splitter.feed(text), *splitter.close()]


@given(texts, st.lists(st.integers(0, 300), max_size=8))
def test_the_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    """However the text arrives, its blocks are the same."""
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    splitter = BlockSplitter()
    found = [block for a, b in itertools.pairwise(places) for block in splitter.feed(text[a:b])]
    assert [*found, *splitter.close()] == whole(text)


@given(texts)
def test_nothing_is_lost(text: str) -> None:
    """Every word of the text is in a block or in what is open, in order; code that is cut has its fences twice."""
    splitter = BlockSplitter()
    found = splitter.feed(text + "\nx")
    shown = "\n".join([*(block.text for block in found), splitter.open.text]).split()
    words = [word for word in (text + "\nx").split() if word.isalpha()]
    assert [word for word in shown if word.isalpha()] == words


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("a\nb\n\nc\n", [("a\nb", False), ("c", False)]),
        ("# h\ntext", [("# h", False), ("text", False)]),
        ("t\n---\nu", [("t\n---", False), ("u", False)]),
        ("t\n\n---\nu", [("t", False), ("---", False), ("u", False)]),
        ("- a\n- b\n\n- c\n\nend", [("- a", False), ("- b", True), ("- c", True), ("end", False)]),
        ("- a\n  - b\n  c\n- d", [("- a\n  - b\n  c", False), ("- d", True)]),
        ("- a\nlazy\n* other", [("- a\nlazy", False), ("* other", False)]),
        ("1. a\n1. b\n1. c", [("1. a", False), ("2. b", True), ("3. c", True)]),
        ("9. a\n1. b\n   inside", [("9. a", False), ("10. b\n    inside", True)]),
        ("text\n2. no list", [("text\n2. no list", False)]),
        ("text\n- a list", [("text", False), ("- a list", False)]),
        ("```py\na\n\nb\n```\nc", [("```py\na\n\nb\n```", False), ("c", False)]),
        ("- a\n  ```\n  - no item\n  ```\n- b", [("- a\n  ```\n  - no item\n  ```", False), ("- b", True)]),
        ("````\n```\n````", [("````\n```\n````", False)]),
        ("| a |\n|---|\n| 1 |\n\nx", [("| a |\n|---|\n| 1 |", False), ("x", False)]),
        ("a\r\n\r\nb", [("a", False), ("b", False)]),
    ],
)
def test_where_blocks_end(text: str, blocks: list[tuple[str, bool]]) -> None:
    """Paragraphs at empty lines, items at the next item, code at its fence; numbers are those of the whole list."""
    assert whole(text) == [Block(*block) for block in blocks]


def test_code_comes_in_pieces() -> None:
    """Long code is cut between its lines; each piece is code by itself, and what is open stays small."""
    splitter = BlockSplitter()
    pieces: list[Block] = []
    for number in range(100):
        pieces += splitter.feed(f"{'```py' if not number else ''}\nline {number}" if not number else f"\nline {number}")
        assert len(splitter.open.text) < 500
    pieces += splitter.feed("\n```\n")
    assert [piece.joins for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    assert all(piece.text.startswith("```py\n") and piece.text.endswith("\n```") for piece in pieces)
    lines = [line for piece in pieces for line in piece.text.split("\n")[1:-1]]
    assert lines == [f"line {number}" for number in range(100)]
    assert splitter.close() == []


def test_what_may_become_a_mark_is_not_shown() -> None:
    """Half a fence, or a star that begins an item or bold letters, waits for what comes."""
    splitter = BlockSplitter()
    for piece, shown in (("``", ""), ("`", ""), ("py", "```py"), ("\nx", "```py\nx")):
        splitter.feed(piece)
        assert splitter.open.text == shown
    splitter = BlockSplitter()
    splitter.feed("text\n*")
    assert splitter.open.text == "text"
    assert splitter.close() == [Block("text\n*", False)]
