"""flow/text_units: where a growing text may be cut."""

# ruff: noqa: RUF001 - wide punctuation is what is tested

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.flow.text_units import UNITS, cuts, last_cut, safe_end


def parts(text: str, by: str) -> list[str]:
    """The text in the pieces that the cuts leave; the last may grow."""
    places = [0, *cuts(text, by), len(text)]  # type: ignore[arg-type]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick brown", ["The", " quick", " brown"]),
        ("one\n\n- two\n", ["one", "\n\n-", " two", "\n"]),
        ("it's 3.14, done", ["it's", " 3.14,", " done"]),
        ("你好，世界！再见", ["你", "好，", "世", "界！", "再", "见"]),
        ("「はい」とキャット", ["「は", "い」", "と", "キャッ", "ト"]),
        ("GPT模型很好", ["GPT", "模", "型", "很", "好"]),
        ("안녕하세요 세계", ["안녕하세요", " 세계"]),
        ("see [the docs](http://a.b/c d) now", ["see", " [the docs](http://a.b/c d)", " now"]),
        ("![a b](x) y", ["![a b](x)", " y"]),
        ("x = arr[0] + 1", ["x", " =", " arr[0]", " +", " 1"]),
        ("go [the do", ["go", " [the do"]),
        ("go [the docs](http", ["go", " [the docs](http"]),
        ("so:\n```python title\nx = 1", ["so:", "\n```python title\nx", " =", " 1"]),
        ("so:\n```python ti", ["so:", "\n```python ti"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    """Words end before spaces, CJK without them; punctuation, links and fence lines stay whole."""
    assert parts(text, "word") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He is 3.5 m tall. (She, too.) Ok", ["He is 3.5 m tall.", " (She, too.)", " Ok"]),
        ("“Go.” He went.\nThen", ["“Go.”", " He went.\n", "Then"]),
        ("你好。「走！」他说。好", ["你好。", "「走！」", "他说。", "好"]),
        ("**Now.** Then", ["**Now.**", " Then"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    """Sentences keep their closing quotes; numbers do not end them; lines do."""
    assert parts(text, "sentence") == expected


def test_lines() -> None:
    """Lines end after their line end."""
    assert parts("a b\n\nc\r\nd", "line") == ["a b\n", "\n", "c\r\n", "d"]


@pytest.mark.parametrize(
    "grapheme",
    [
        "e\u0301",
        "👩‍👩‍👧",
        "👍🏽",
        "❤\ufe0f",
        "한",
        "\r\n",
        "क्षि",
        "🏴\U000e0067\U000e007f",
        "\ud83d\ude00",
        "**",
        "```",
    ],
)
def test_a_grapheme_is_never_cut(grapheme: str) -> None:
    """Combining marks, joined emoji, flags, skin tones, jamo, conjuncts, surrogate pairs and runs of marks are one."""
    text = f"a{grapheme}b{grapheme}c"
    inside = {at for start in (1, 2 + len(grapheme)) for at in range(start + 1, start + len(grapheme))}
    for by in ("word", "character"):
        assert not set(cuts(text, by)) & inside  # type: ignore[arg-type]


def test_flags_in_a_row_are_cut_between_them() -> None:
    """Regional indicators pair off from the left."""
    assert parts("🇩🇪🇫🇷🇮🇹", "character") == ["🇩🇪", "🇫🇷", "🇮🇹"]


@given(st.text(max_size=60), st.sampled_from(UNITS))
def test_cuts_lie_inside_in_order(text: str, by: str) -> None:
    """Cuts rise strictly and never stand at an edge, so that the parts joined are the text."""
    found = cuts(text, by)  # type: ignore[arg-type]
    assert found == sorted(set(found))
    assert all(0 < at < len(text) for at in found)


@given(st.text(min_size=1, max_size=60), st.integers(min_value=1))
def test_what_has_to_go_goes(text: str, least: int) -> None:
    """A forced cut leaves nothing of what has to go."""
    least = 1 + least % len(text)
    assert least <= last_cut(text, least) <= len(text)


@pytest.mark.parametrize(
    ("text", "end"), [("ab", 2), ("a👩\u200d", 1), ("🇩", 0), ("a\ud83d", 1), ("aक\u094d", 1), ("🇩🇪", 2)]
)
def test_an_open_end_waits(text: str, end: int) -> None:
    """A joiner, half a flag, half a pair and a virama call for more."""
    assert safe_end(text) == end
