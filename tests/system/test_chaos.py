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
    reports = _chaos(store, "--trials", "stops", "unfenced", "--stops", "2")
    assert reports[f"{store} stops"]["broken"] == []
    assert reports[f"{store} stops"]["takeovers"] >= 2
    assert reports[f"{store} unfenced"]["broken"]
