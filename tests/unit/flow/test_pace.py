"""flow/pace: when how much is shown."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.flow.pace import TextPace
from runstream.flow.text_units import UNITS


def played(arrivals: list[tuple[float, str]], pace: TextPace) -> list[tuple[float, int]]:
    """When how many characters are shown, by somebody who always comes in time. The rest is taken at the end."""
    shown: list[tuple[float, int]] = []
    pace.begin()

    def until(end: float) -> None:
        while pace.due_at() < end:
            now = pace.due_at()
            taken = pace.take(now)
            assert taken, "what is due must come"
            shown.append((now, taken))

    for at, text in arrivals:
        until(at)
        pace.feed(text, at)
    until(math.inf)
    assert pace.held == 0
    return shown


def test_the_first_text_is_due_at_once() -> None:
    """Also where it is no whole word."""
    pace = TextPace("word", None, 1.0)
    pace.begin()
    pace.feed("Hel", 100.0)
    assert pace.due_at() <= 100.0
    assert pace.take(100.0) == 3


def test_of_a_long_first_text_the_first_word_is_due_at_once() -> None:
    """The rest is spread."""
    shown = played([(100.0, "The quick brown fox jumps")], TextPace("word", None, 1.0))
    assert shown[0] == (pytest.approx(100.0, abs=0.001), 3)
    assert len(shown) > 3


def test_a_burst_is_spread_evenly() -> None:
    """Bursts of ten words every half a second come out with nearly equal gaps once the pace is known."""
    arrivals = [(burst * 0.5, " word" * 10) for burst in range(20)]
    times = [at for at, _ in played(arrivals, TextPace("word", None, 2.0))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times) if 3.0 < earlier < 9.0]
    assert statistics.pstdev(gaps) / statistics.mean(gaps) < 0.15
    assert statistics.mean(gaps) == pytest.approx(0.05, rel=0.1)


def test_steady_text_keeps_its_pace() -> None:
    """One word each 50 ms goes in and comes out, late by three of them at most."""
    arrivals = [(number * 0.05, " word") for number in range(200)]
    times = [at for at, _ in played(arrivals, TextPace("word", None, 1.0))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[20:-5])]
    assert max(gaps) == pytest.approx(min(gaps), abs=0.001)


def test_no_more_pieces_than_a_screen_shows() -> None:
    """A thousand words at once are shown in at most sixty pieces a second."""
    shown = played([(0.0, " word" * 1000)], TextPace("word", None, 1.0))
    assert len(shown) <= 61
    assert shown[-1][0] <= 1.0


def test_a_fixed_rate_holds() -> None:
    """So many units a second, however they came."""
    shown = played([(0.0, "a b c d e f")], TextPace("word", 10.0, 5.0))
    assert [round(at, 2) for at, _ in shown[:5]] == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_fixed_rate_gives_way_to_the_bound() -> None:
    """What comes faster than the rate is still never late."""
    shown = played([(0.0, " word" * 100)], TextPace("word", 10.0, 1.0))
    assert shown[-1][0] <= 1.0


def test_a_text_without_cuts_is_not_held_without_end() -> None:
    """A line of a megabyte is cut."""
    pace = TextPace("line", None, 60.0)
    pace.begin()
    pace.feed("x", 0.0)
    pace.take(0.0)
    pace.feed("x" * 100_000, 1.0)
    assert pace.due_at() < 2.0


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0, max_value=3),
            st.text(alphabet="ab .\n[]()*`你。👩\u200d\u0301🇩", min_size=1, max_size=30),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(UNITS),
    st.sampled_from([None, 1.0, 30.0]),
    st.sampled_from([0.0, 0.1, 1.0, 5.0]),
)
def test_nothing_is_late_and_nothing_is_lost(
    steps: list[tuple[float, str]], by: str, rate: float | None, max_lag_s: float
) -> None:
    """Whatever comes, each character is shown once, at most max_lag_s after it came, and never before."""
    now, arrivals = 0.0, list[tuple[float, str]]()
    for pause, text in steps:
        now += pause
        arrivals.append((now, text))
    shown = played(arrivals, TextPace(by, rate, max_lag_s))  # type: ignore[arg-type]
    came = [at for at, text in arrivals for _ in text]
    went = [at for at, length in shown for _ in range(length)]
    assert len(came) == len(went)
    for arrived_at, shown_at in zip(came, went, strict=True):
        assert arrived_at - 0.001 <= shown_at <= arrived_at + max_lag_s
