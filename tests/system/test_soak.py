"""The soak, in its short form: `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.trial import soak

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]


def test_whatever_happens_to_runs_they_end_once_and_leave_nothing(tmp_path: Path) -> None:
    """Random faults, policies, cancels and readers: each log lawful, and no task, socket, thread or file left."""
    report = soak(60, seed=2, concurrency=12, folder=tmp_path)
    assert report.broken == []
    assert report.left == {name: [] for name in ("tasks", "sockets", "other descriptors", "threads")}
    assert report.runs >= 60
    assert sum(report.statuses.values()) == report.runs
    # It has been through something.
    assert report.statuses.keys() >= {"completed", "cancelled", "failed"}
    assert len(report.service["faults"]) >= 8
    assert report.counts["attempts taken back"] > 0
    assert report.counts["nested agents"] > 0
    assert report.counts["read again from the store"] > 0
