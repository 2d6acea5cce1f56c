"""The crash tests, in their short form: `make chaos` is the long one."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

_TESTS = Path(__file__).parents[1]


def _begin(store: str, trial: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "chaos", store, "--trials", trial, *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _report(trial: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = trial.communicate(timeout=110)
    assert not errors, errors
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_logs_outlive_workers_that_are_killed_or_sleep(store: str, request: pytest.FixtureRequest) -> None:
    """kill -9 at random moments, and SIGSTOP until the run is taken over: every log is dense with one end, tools run at
    most once, nothing of the old worker gets in, every reader saw just that. Without fencing the checks find much."""
    if store == "redis":
        request.getfixturevalue("redis_program")
    # At once: they are processes that mostly wait.
    kills, stops = _begin(store, "kills", "--kills", "8"), _begin(store, "stops", "--stops", "2")
    unfenced = _begin(store, "unfenced", "--stops", "2", "--seed", "1")
    killed, stopped = _report(kills), _report(stops)
    assert killed["broken"] == []
    assert killed["kills"] == 8
    assert killed["runs"] >= 6
    assert stopped["broken"] == []
    assert stopped["takeovers"] >= 2
    # Whether an old worker had something left to write when it woke is a matter of chance: each try has one.
    further = (_begin(store, "unfenced", "--stops", "2", "--seed", seed) for seed in "2345")
    tries = map(_report, itertools.chain([unfenced], further))
    assert any("not dense" in fault for each in tries for fault in each["broken"])
