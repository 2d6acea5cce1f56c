"""wire/partial_json: of a JSON text that is cut anywhere, the value so far, never a wrong one."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runstream.wire.partial_json import MISSING, JsonError, PartialJson

TEXTS = st.text(max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
LAYOUTS = st.sampled_from([None, 0, 2])


def fed(*pieces: str) -> PartialJson:
    parser = PartialJson()
    for piece in pieces:
        parser.feed(piece)
    return parser


def grows_into(earlier: Any, later: Any) -> bool:
    """Whether `later` is what `earlier` may have become."""
    if earlier is MISSING:
        return True
    if isinstance(earlier, str) and isinstance(later, str):
        return later.startswith(earlier)
    if isinstance(earlier, list) and isinstance(later, list):
        return len(earlier) <= len(later) and all(grows_into(*pair) for pair in zip(earlier, later, strict=False))
    if isinstance(earlier, dict) and isinstance(later, dict):
        return list(later)[: len(earlier)] == list(earlier) and all(grows_into(earlier[k], later[k]) for k in earlier)
    return type(earlier) is type(later) and earlier == later


@given(VALUES, st.booleans(), LAYOUTS)
@example('\ud83d\ude42 🙂 \\ " \n \x7f', True, None)
@example({"a": [1, -0.5, 1e30, "x"], "b": {"": None}}, False, 2)
def test_every_prefix_grows_into_the_whole(value: Any, ascii_only: bool, indent: int | None) -> None:
    """Character by character, what is shown is never taken back, and the end is what the standard library reads."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    whole = json.loads(text)
    parser, earlier = PartialJson(), MISSING
    for character in text:
        parser.feed(character)
        now = parser.snapshot()
        assert grows_into(earlier, now)
        assert grows_into(now, whole)
        earlier = now
    parser.close()
    assert parser.complete
    assert parser.value == whole
    assert type(parser.value) is type(whole)


@given(VALUES, st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_where_the_text_is_cut_changes_nothing(value: Any, cuts: list[int], looks: bool) -> None:
    """Any pieces of a text, looked at between them or not, give what the same prefix in one piece gives."""
    text = json.dumps(value, ensure_ascii=bool(cuts))
    places = sorted({min(cut, len(text)) for cut in cuts})
    parser = PartialJson()
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        parser.feed(text[start:end])
        if looks:
            assert parser.snapshot() == fed(text[:end]).snapshot()
    assert parser.snapshot() == fed(text).snapshot()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", MISSING),
        ("  ", MISSING),
        ("{", {}),
        ('{"na', {}),
        ('{"name"', {}),
        ('{"name":', {}),
        ('{"name":"', {"name": ""}),
        ('{"name":"A', {"name": "A"}),
        ('{"name":"A\\', {"name": "A"}),
        ('{"name":"A\\u00', {"name": "A"}),
        ('{"name":"A\\ud83d', {"name": "A"}),
        ('{"name":"A\\ud83d\\ude42', {"name": "A🙂"}),
        ('{"age":4', {}),
        ('{"age":42,', {"age": 42}),
        ('{"ok":tru', {}),
        ('{"ok":true', {}),
        ('{"ok":true}', {"ok": True}),
        ('{"a":{"b":[1,{"c":"x', {"a": {"b": [1, {"c": "x"}]}}),
        ("[[", [[]]),
        ('["a', ["a"]),
        ("4", MISSING),
        ("-", MISSING),
        ("4 ", 4),
    ],
)
def test_what_is_shown(text: str, value: Any) -> None:
    """Containers at once, texts as far as they have come, everything else when it cannot become something else."""
    assert fed(text).snapshot() == value


@pytest.mark.parametrize(
    "text",
    [
        *("}", "]", "{]", "[}", "{,", "[,", '{"a" 1', '{"a":1 2', "{1:2}", "[1,]", '{"a":1,}', "01", "1.e3", "--1"),
        *("+1", ".5", "nul1", "trux", "True", "NaN", "Infinity", '"a\nb"', '"\\x"', '"\\u12g4"', "1 2", "{} {}"),
        *('{"a":1}}', "'a'", "1" + "0" * 5000),
    ],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    """At the latest at the end, as the standard library would; whatever pieces the text comes in."""
    for pieces in ([text], list(text)):
        with pytest.raises(JsonError):
            fed(*pieces).close()


@given(st.text(alphabet='{}[]",:\\ut0123456789.eE+-nulrasf \n', max_size=20))
def test_it_agrees_with_the_standard_library(text: str) -> None:
    """A text is read to its end exactly where the standard library reads it, and gives the same."""
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(JsonError):
            fed(text).close()
        return
    parser = fed(text)
    parser.close()
    assert parser.value == expected


def test_the_error_names_the_place() -> None:
    """The position is that of the character in the whole text, whatever piece it came in."""
    with pytest.raises(JsonError, match="at character 5") as caught:
        fed('{"a":', "1x")
    assert caught.value.position == 5


@pytest.mark.parametrize("text", ["[" * 1000, "9" * 10_000])
def test_what_nobody_means_is_refused(text: str) -> None:
    """Depth and numbers have a bound, so that a model that runs wild costs nothing."""
    with pytest.raises(JsonError):
        fed(text)


def test_a_snapshot_stays() -> None:
    """What was taken is not changed by what comes."""
    parser = fed('{"a":["x')
    taken = parser.snapshot()
    parser.feed('y"],"b":1}')
    assert taken == {"a": ["x"]}
    assert parser.value == {"a": ["xy"], "b": 1}


def test_the_cost_is_linear() -> None:
    """Ten times the text takes about ten times as long, also in one long string."""

    def spent(count: int) -> float:
        parser = PartialJson()
        parser.feed('{"a":"')
        began = time.process_time()
        for _ in range(count):
            parser.feed("some words ")
        return time.process_time() - began

    spent(1000)
    assert spent(100_000) < 60 * max(min(spent(10_000) for _ in range(3)), 0.002)
