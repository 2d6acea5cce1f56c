"""The crash tests, in their short form: `make chaos` is the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

_TESTS = Path(__file__).parents[1]


def _chaos(*arguments: str) -> dict[str, Any]:
    """The reports of a trial, by name."""
    done = subprocess.run(
        [sys.executable, "-m", "chaos", *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert not done.stderr, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {report["name"]: report for report in reports}


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_logs_outlive_killed_workers(store: str, request: pytest.FixtureRequest) -> None:
    """kill -9 at random moments: every log dense, with one end, tools at most once, and every reader saw just that."""
    if store == "redis":
        request.getfixturevalue("redis_program")
    report = _chaos(store, "--trials", "kills", "--kills", "8")[f"{store} kills"]
    assert report["broken"] == []
    assert report["kills"] == 8
    assert report["runs"] >= 6


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_worker_that_slept_writes_nothing_into_a_log_that_was_taken_over(
    store: str, request: pytest.FixtureRequest
) -> None:
    """SIGSTOP, takeover, SIGCONT: nothing of the old worker gets in; without fencing the same checks find much."""
    if store == "redis":
        request.getfixturevalue("redis_program")
    report = _chaos(store, "--trials", "stops", "--stops", "2")[f"{store} stops"]
    assert report["broken"] == []
    assert report["takeovers"] >= 2
    # Whether the old worker had something left to write when it woke is a matter of chance: each try has one.
    tries = (_chaos(store, "--trials", "unfenced", "--stops", "2", "--seed", seed) for seed in ("1", "2", "3", "4"))
    assert any(each[f"{store} unfenced"]["broken"] for each in tries)
