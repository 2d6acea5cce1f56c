"""The one-time promotion of what the first run imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from runstream.run import collector


@pytest.fixture(autouse=True)
def first_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(collector._State, "is_done", False)
    gc.unfreeze()  # conftest.py has frozen what was there before the tests
    yield
    monkeypatch.undo()
    gc.collect()
    gc.freeze()


def test_everything_is_promoted_and_nothing_stays_frozen() -> None:
    """Young objects are in the oldest generation afterwards, and are collected like any other."""

    class Node:
        pass

    node = Node()
    node.__dict__["itself"] = node
    collector.promote_imports()
    assert gc.get_freeze_count() == 0
    assert any(entry is node for entry in gc.get_objects(generation=2))
    gc.collect()
    del node
    assert gc.collect() >= 1


def test_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run leaves the collector alone."""
    calls: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: calls.append("unfreeze"))
    collector.promote_imports()
    collector.promote_imports()
    assert calls == ["freeze", "unfreeze"]


@pytest.mark.parametrize(("enabled", "frozen"), [(False, 0), (True, 5)])
def test_a_program_that_manages_its_collector_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, enabled: bool, frozen: int
) -> None:
    """No promotion where the collector is off or the program has frozen objects itself."""
    calls: list[str] = []
    monkeypatch.setattr(gc, "isenabled", lambda: enabled)
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    collector.promote_imports()
    assert calls == []
