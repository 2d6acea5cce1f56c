"""log/cursor: a cursor is either good for exactly its place, or the reader is told what is wrong and where to go on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import CursorExpired, CursorInvalid, UserError
from runstream.log.cursor import Cursor, epoch_of, resolve

LARGEST = 2**63 - 1


@given(st.integers(0, LARGEST), st.integers(0, LARGEST))
def test_cursors_come_back(epoch: int, seq: int) -> None:
    """What is written is read."""
    assert Cursor.parse(str(Cursor(epoch, seq))) == Cursor(epoch, seq)


@pytest.mark.parametrize("text", ["", "0", "0-0"])
def test_the_start(text: str) -> None:
    """No cursor, and zero, are the start."""
    assert Cursor.parse(text) == Cursor(0, 0)
    assert resolve(text, [], 1, 0) == 0
    assert resolve(text, [(5, 1)], 1, 9) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("5", "1", "-", "1-", "-1", "1-2-3", "01-2", "1-02", "00", "+1-2", "1--2", " 1-2", "1-2 ", "1-2\n", "1_0-2"),
        *("a-b", "\u0967-\u0968", "1-\u00b2", "1\u20132", "1.0-2", "0x1-2", "\x00"),
        *(f"{2**63}-1", f"1-{2**63}", f"1-{10**30}", "9" * 5000 + "-1"),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_malformed(text: str) -> None:
    """Anything that this package does not write is refused, without showing all of it."""
    with pytest.raises(CursorInvalid) as caught:
        Cursor.parse(text)
    assert (caught.value.reason, caught.value.resync_after) == ("malformed", 0)
    assert len(str(caught.value)) < 200
    with pytest.raises(CursorInvalid, match="malformed"):
        resolve(text, [(1, 1)], 1, 9)


@given(st.text(max_size=12))
def test_any_text_is_a_cursor_or_invalid(text: str) -> None:
    """Nothing else can come of parsing."""
    try:
        cursor = Cursor.parse(text)
    except CursorInvalid:
        return
    assert str(cursor) == text or text in ("", "0")


def test_epoch_of() -> None:
    """The newest epoch that began at or before the seq; one that wrote nothing owns nothing."""
    epochs = [(10, 1), (20, 5), (30, 5), (40, 9)]
    assert [epoch_of(seq, epochs) for seq in range(0, 11)] == [0, 10, 10, 10, 10, 30, 30, 30, 30, 40, 40]
    assert epoch_of(3, []) == 0


@pytest.mark.parametrize("cursor", [None, True, 2.0, b"5-5", [5]])
def test_what_is_no_cursor_at_all(cursor: Any) -> None:
    """A mistake of the program is told as one, also where it would pass for a number."""
    with pytest.raises(UserError, match="a cursor is the seq"):
        resolve(cursor, [(5, 1)], 1, 9)


@pytest.mark.parametrize(
    ("cursor", "reason", "resync_after"),
    [
        ("10-4", None, 4),
        ("20-5", None, 5),
        ("20-9", None, 9),
        ("20-10", "ahead", 9),
        (9, None, 9),
        (0, None, 0),
        (10, "ahead", 9),
        (-1, "malformed", 0),
        ("10-5", "other_history", 4),  # the first worker wrote on after the second had taken over
        ("10-700", "other_history", 4),
        ("20-4", "other_history", 4),  # nobody was ever given this one
        ("15-6", "other_history", 0),  # lost: it took over somewhere after seq 1
        ("25-6", "other_history", 4),
        ("5-1", "other_history", 0),
        ("0-3", "other_history", 0),
        ("20-0", "other_history", 0),
    ],
)
def test_resolve(cursor: str | int, reason: str | None, resync_after: int) -> None:
    """Of a log of two epochs: what is good, and what each wrong cursor is told."""
    assert _answer(cursor, [(10, 1), (20, 5)], 1, 9) == (reason, resync_after)


def test_a_store_that_lost_its_tail() -> None:
    """A failover lost seqs 81 to 90; a reader that had them is told to go on after 80, before and after 81 is new."""
    assert _answer("1-90", [(1, 1)], 1, 80) == ("ahead", 80)
    assert _answer("1-90", [(1, 1), (2, 81)], 1, 80) == ("other_history", 80)
    assert _answer("1-90", [(1, 1), (2, 81)], 1, 95) == ("other_history", 80)
    assert _answer("1-80", [(1, 1), (2, 81)], 1, 95) == (None, 80)
    assert _answer("2-90", [(1, 1), (2, 81)], 1, 95) == (None, 90)


def test_a_run_that_was_entered_anew() -> None:
    """A cursor of a deleted run of the same id begins at the start."""
    assert _answer("1-90", [], 1, 0) == ("other_history", 0)
    assert _answer("1-90", [(7, 1)], 1, 200) == ("other_history", 0)


def test_a_trimmed_log() -> None:
    """A cursor before what is kept is expired; the place to go on from is always one that can be read."""
    epochs = [(10, 1), (20, 50)]
    assert _answer("10-40", epochs, 41, 90) == (None, 40)
    assert _answer("10-39", epochs, 41, 90) == ("expired", 41)
    assert _answer(39, epochs, 41, 90) == ("expired", 41)
    assert _answer("", epochs, 41, 90) == ("expired", 41)
    assert _answer("3-7", epochs, 41, 90) == ("other_history", 40)
    assert _answer("10-60", epochs, 71, 90) == ("other_history", 70)


@given(
    starts=st.lists(st.integers(1, 60), min_size=1, max_size=5).map(sorted),
    kept=st.integers(1, 60),
    length=st.integers(0, 40),
    cursor=st.tuples(st.integers(0, 7), st.integers(0, 120)),
)
def test_every_answer_can_be_followed(starts: list[int], kept: int, length: int, cursor: Any) -> None:
    """A good cursor is of its own epoch and inside; a bad one names a place inside that is good."""
    starts[0] = 1
    epochs = list(zip(itertools.count(1), starts, strict=False))
    last_seq = kept - 1 + length
    reason, place = _answer(str(Cursor(*cursor)), epochs, kept, last_seq)
    if reason == "expired":
        place -= 1
    assert kept - 1 <= place <= last_seq
    assert resolve(place, epochs, kept, last_seq) == place
    if reason is None:
        assert (place, epoch_of(place, epochs)) == (cursor[1], cursor[0])


def _answer(cursor: str | int, epochs: list[tuple[int, int]], first_seq: int, last_seq: int) -> tuple[Any, int]:
    try:
        return None, resolve(cursor, epochs, first_seq, last_seq)
    except CursorInvalid as error:
        return error.reason, error.resync_after
    except CursorExpired as error:
        return "expired", error.first_seq
