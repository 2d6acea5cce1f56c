"""How Markdown looks in a terminal, whole and while it is written."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from runstream.errors import MissingExtra
from runstream.render.markdown import MarkdownPrinter, StreamedMarkdown

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
SAMPLE = """# A title

Some *words* with **weight**, `code`, <b>tags</b>, List<int> and [a link](https://example.com/x).

- one 日本語のテキストがここに長く続いて折り返されます
  - nested with a text that is so long that it has to be wrapped
1. first
1. second

| item | price |
|---|---|
| 日本 | 34.90 |

```python
def refund(order: int) -> str:
    return "a text that is a good deal longer than the screen is wide"
```

> quoted

The end.
"""


def drawn(text: str, width: int = 60, *, step: int = 10_000, color: bool = True) -> list[str]:
    stream = StreamedMarkdown(MarkdownPrinter(width, color=color))
    lines: list[str] = []
    for start in range(0, len(text), step):
        lines += stream.feed(text[start : start + step])
        assert len(stream.open_lines(5)) <= 5
    return [*lines, *stream.close()]


def bare(lines: list[str]) -> list[str]:
    return [ESCAPES.sub("", line) for line in lines]


def test_what_each_thing_looks_like() -> None:
    """Marks are gone, numbers count, code is indented, HTML is text, links tell where they lead to."""
    assert bare(drawn(SAMPLE)) == [
        "A title",
        "",
        "Some words with weight, code, <b>tags</b>, List<int> and a",
        "link (https://example.com/x).",
        "",
        " • one 日本語のテキストがここに長く続いて折り返されます",
        "    • nested with a text that is so long that it has to be",
        "      wrapped",
        "",
        " 1 first",
        " 2 second",
        "",
        " item  price",
        " ───────────",
        " 日本  34.90",
        "",
        "  def refund(order: int) -> str:",
        '      return "a text that is a good deal longer than the',
        '  screen is wide"',
        "",
        "▌ quoted",
        "",
        "The end.",
    ]


def test_links() -> None:
    """Pictures are links that stand where the text has them, and tell where they lead to; an address stands once."""
    assert bare(drawn("See <https://example.com>, or <ann@example.com>.")) == [
        "See https://example.com, or ann@example.com."
    ]
    text = "It *looks* like ![a lid](https://example.com/lid.png) and ![](x.png).\n"
    assert bare(drawn(text, 80)) == ["It looks like Picture: a lid (https://example.com/lid.png) and Picture (x.png)."]


def test_a_table_that_is_too_wide() -> None:
    """Nothing of it is cut off: its rows become lists where a word does not fit into its column."""
    text = "| Name | Amount | |\n|---|--:|---|\n| a *long* name | 1,234.50 | x |\n| b | 2 | |\n"
    assert bare(drawn(text, 28)) == [
        " Name           Amount",
        " ────────────────────────",
        " a long name  1,234.50  x",
        " b                   2",
    ]
    assert bare(drawn(text, 14)) == ["Name  a long", "name", "Amount", "1,234.50", "x", "", "Name  b", "Amount  2"]


@pytest.mark.parametrize("step", [1, 7])
def test_the_pieces_do_not_matter(step: int) -> None:
    """What stands for good is the same however the text came."""
    assert drawn(SAMPLE, step=step) == drawn(SAMPLE)


@pytest.mark.parametrize("width", [10, 24, 40, 80])
def test_no_line_is_too_wide(width: int) -> None:
    """Neither what stands for good nor what is open, wide characters counted as the two columns that they take."""
    stream = StreamedMarkdown(MarkdownPrinter(width))
    for start in range(0, len(SAMPLE), 5):
        lines = stream.feed(SAMPLE[start : start + 5]) + stream.open_lines(30)
        assert all(cell_len(ESCAPES.sub("", line)) <= width for line in lines)


def test_without_colour() -> None:
    """Weights stay, colours go."""
    assert "36" in "".join(ESCAPES.findall("".join(drawn(SAMPLE))))
    codes = {
        code for escape in ESCAPES.findall("".join(drawn(SAMPLE, color=False))) for code in escape[2:-1].split(";")
    }
    assert codes <= {"0", "1", "2", "3", "4", "9"}


@given(st.text(alphabet="\x00\x07\x08\x1b\x9b\r\n\u202e\u2066[]()*_`# a1<>|-31mHJ;\\", max_size=60))
def test_a_text_cannot_steer_the_terminal(text: str) -> None:
    """Whatever a model writes, only letters' styles are set by escape codes; no line moves the cursor."""
    stream = StreamedMarkdown(PRINTER)
    for line in stream.feed(text) + stream.open_lines(9) + stream.close():
        left = ESCAPES.sub("", line)
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", left), left


PRINTER = MarkdownPrinter(40)


def test_what_is_open_looks_as_it_will() -> None:
    """Bold letters and code that are not ended yet are shown as such; their marks do not flash up."""
    for text, shown in (
        ("some **bo", "some bo"),
        ("some **bo*", "some bo"),
        ("some **", "some"),
        ("some `x = ", "some x ="),
        ("- it", " • it"),
        ("```\nx\n``", "  x\n  ``"),
    ):
        stream = StreamedMarkdown(PRINTER)
        stream.feed(text)
        assert bare(stream.open_lines(9)) == shown.split("\n"), text


def test_what_is_open_and_long_is_shown_as_it_is() -> None:
    """A text without an end costs no more to draw than its last lines; at its end it is drawn whole."""
    stream = StreamedMarkdown(PRINTER)
    stream.feed("**a** " * 2000)
    lines = stream.open_lines(4)
    assert len(lines) == 4
    assert "**a** **a**" in lines[-1]
    assert "*" not in "".join(bare(stream.close()))


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install."""
    monkeypatch.setitem(sys.modules, "rich.color", None)
    with pytest.raises(MissingExtra, match=r"pip install 'runstream\[chat\]'"):
        MarkdownPrinter(40)
