"""Percentiles in bounded memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.observe.sketch import Sketch

durations = st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200)


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(durations, st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_percentiles_are_within_two_percent(values: list[float], share: float) -> None:
    """A percentile is off by at most 2 % of the true one (the value of that rank)."""
    true = sorted(values)[max(math.ceil(share * len(values)), 1) - 1]
    assert sketch_of(values).quantile(share) == pytest.approx(true, rel=0.0201)


def test_the_longest_is_exact() -> None:
    """The percentile that only the longest one reaches is that one: of a single duration, any."""
    assert sketch_of([0.7543]).quantile(0.5) == 0.7543
    assert sketch_of([0.1, 0.2, 0.7543]).quantile(0.95) == 0.7543


@given(durations, durations)
def test_merging_is_adding(one: list[float], other: list[float]) -> None:
    """Two sketches merged are the sketch of all their durations."""
    merged = sketch_of(one)
    merged.merge(sketch_of(other))
    whole = sketch_of(one + other)
    assert (merged.buckets, merged.count, merged.longest_s) == (whole.buckets, whole.count, whole.longest_s)
    assert merged.sum_s == pytest.approx(whole.sum_s)


def test_memory_is_bounded() -> None:
    """A million different durations from a microsecond to a day take fewer than 700 buckets."""
    sketch = Sketch()
    for number in range(1_000_000):
        sketch.add(1e-6 * 1.0000253**number)
    assert (sketch.count, len(sketch.buckets) < 700) == (1_000_000, True)


def test_what_is_no_duration_counts_as_the_shortest() -> None:
    """Zero, negative and NaN are counted and raise nothing."""
    sketch = sketch_of([0.0, -1.0, math.nan])
    assert sketch.count == 3
    assert (sketch.quantile(0.99) or 1.0) < 2e-9
    assert Sketch().quantile(0.5) is None


def test_counts_up_to_bounds() -> None:
    """The counts that a histogram shows rise with its bounds."""
    assert sketch_of([0.05, 0.5, 0.5, 5.0]).counts_up_to([0.1, 1.0, 10.0]) == [1, 3, 4]
