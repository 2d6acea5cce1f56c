"""The benchmark of policies: that each configuration is measured, and its table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

# Not part of the package, so not installed: found beside src/.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import policies
from benchmarks.__main__ import main


def test_each_configuration_is_measured() -> None:
    """On both loads; afterwards runs have their policies again."""
    from runstream.run import model_call

    reliable = model_call.reliable
    found = policies.costs(lambda _: None, rounds=1, deltas=40)
    assert len(found) == 2
    assert all(value > 0 for cost in found for value in cost.us.values())
    assert all(list(cost.us)[:2] == [policies.BARE, policies.DEFAULT] for cost in found)
    assert model_call.reliable is reliable


def test_the_table_goes_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each adds, in microseconds and as a share of the bare path."""
    us = dict.fromkeys(policies.CONFIGS, 2.2) | {policies.BARE: 2.0}
    monkeypatch.setattr(policies, "costs", lambda say, rounds: [policies.Cost("a load", us)])
    page = tmp_path / "page.md"
    page.write_text(f"before\n{policies.BEGIN}\nold\n{policies.END}\nafter\n")
    result = CliRunner().invoke(main, ["policies", "--write", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "| default configuration | +0.20 (+10 %) |" in text
    assert "| bare path | 2.00 |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
