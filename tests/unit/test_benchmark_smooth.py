"""The benchmark of smoothing: its figures in simulated time, and its tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

# Not part of the package, so not installed: found beside src/.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import smooth
from benchmarks.__main__ import main


@pytest.mark.parametrize(
    "pattern", ["12 words every 500 ms", "12 words every 300 to 700 ms", "one word at random, 20 a second"]
)
def test_bursts_come_out_evenly_and_in_time(pattern: str) -> None:
    """Less variation than before, no delay of the first text, none beyond the bound; the same figures each time."""
    row = smooth.evenness(pattern, deltas=200)
    assert row.variation[1] < 0.8 * row.variation[0]
    assert row.long_gap_ms[1] < row.long_gap_ms[0]
    assert row.first_ms == 0
    assert row.added_ms[2] <= 1000
    assert row == smooth.evenness(pattern, deltas=200)


def test_figures_go_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the marks, and the rest stays."""
    monkeypatch.setattr(smooth, "costs", lambda repetitions: [smooth.Cost("a load", 1.0, 3.5)])
    monkeypatch.setattr(smooth, "PATTERNS", {name: smooth.PATTERNS[name] for name in ["5 words every 250 ms"]})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{smooth.BEGIN}\nold\n{smooth.END}\nafter\n")
    result = CliRunner().invoke(main, ["smooth", "--write", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "| a load | 1.0 | 3.5 | 2.5 |" in text
    assert "| 5 words every 250 ms |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_costs_are_measured_in_turns() -> None:
    """A tiny load of each kind."""
    found = smooth.costs(streams=2, deltas=3, every_s=0.001, repetitions=1)
    assert [cost.without > 0 and cost.smoothed > 0 for cost in found] == [True, True]
