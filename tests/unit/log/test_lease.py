"""log/lease: the heartbeat keeps leases from a thread of its own, whatever the event loop and the store do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from runstream.errors import StoreUnavailable
from runstream.log.base import Renewal
from runstream.log.lease import LeaseKeeper


class Heart:
    """A store of which only the heartbeat is asked; `answers` are given in turn, then all is held."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.beats: list[list[tuple[str, int]]] = []
        self.lease_s: list[float] = []
        self.beaten = threading.Semaphore(0)

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        self.beats.append(list(leases))
        self.lease_s.append(lease_s)
        self.beaten.release()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer()
        return [Renewal(True) for _ in leases] if answer is None else answer


@contextmanager
def keeper_of(heart: Any, *, lease_s: float = 1e6, now: Callable[[], float] = lambda: 0.0) -> Iterator[Any]:
    """A keeper, and what it told: `keeper.lost` and `keeper.commands`."""
    lost: list[str] = []
    commands: list[tuple[str, int]] = []
    keeper: Any = LeaseKeeper(
        heart, lease_s, on_lost=lost.append, on_command=lambda *told: commands.append(told), monotonic=now
    )
    keeper.lost, keeper.commands = lost, commands
    try:
        yield keeper
    finally:
        keeper.close()


def test_every_lease_is_renewed_for_its_epoch_until_it_is_dropped() -> None:
    """All in one call; a run that is dropped is in it no more, unless that was an older claim of it."""
    heart = Heart()
    with keeper_of(heart) as keeper:
        keeper.hold("a", 1)
        keeper.hold("b", 7)
        keeper.beat()
        keeper.drop("a", 1)
        keeper.drop("b", 6)
        keeper.drop("unknown", 1)
        keeper.beat()
        keeper.drop("b", 7)
        keeper.beat()
    assert heart.beats == [[("a", 1), ("b", 7)], [("b", 7)]]
    assert heart.lease_s == [1e6, 1e6]


def test_it_beats_by_itself_at_a_third_of_the_lease() -> None:
    """From its own thread, which `close` waits for."""
    heart = Heart()
    with keeper_of(heart, lease_s=0.03) as keeper:
        keeper.hold("a", 1)
        for _ in range(3):
            assert heart.beaten.acquire(timeout=5)
        thread = keeper._thread
    assert not thread.is_alive()
    assert {tuple(beat) for beat in heart.beats} == {(("a", 1),)}


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ZeroDivisionError("bug"), RuntimeError("closed")])
def test_a_beat_that_fails_ends_nothing(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the error is, it is logged, and the next beat tries again."""
    heart = Heart(error)
    with keeper_of(heart, lease_s=0.03) as keeper:
        keeper.hold("a", 1)
        for _ in range(3):
            assert heart.beaten.acquire(timeout=5)
        assert keeper.lost == []
    assert "leases could not be renewed" in caplog.text


def test_a_lease_that_is_lost_is_told_once() -> None:
    """And not asked for again; the others are kept."""
    heart = Heart([Renewal(False), Renewal(True)])
    with keeper_of(heart) as keeper:
        keeper.hold("a", 1)
        keeper.hold("b", 2)
        keeper.beat()
        keeper.beat()
        assert keeper.lost == ["a"]
    assert heart.beats[1] == [("b", 2)]


def test_an_answer_for_an_epoch_that_is_no_longer_held_is_not_heeded() -> None:
    """The run was claimed anew here while the beat was under way."""
    heart = Heart()
    with keeper_of(heart) as keeper:
        keeper.hold("a", 1)

        def claimed_anew() -> list[Renewal]:
            keeper.hold("a", 2)
            return [Renewal(False)]

        heart.answers = [claimed_anew]
        keeper.beat()
        keeper.beat()
        assert keeper.lost == []
    assert heart.beats == [[("a", 1)], [("a", 2)]]


def test_commands_are_told_with_the_beat() -> None:
    """A second way to learn of them."""
    heart = Heart([Renewal(True, 3), Renewal(True, 0)])
    with keeper_of(heart) as keeper:
        keeper.hold("a", 1)
        keeper.hold("b", 1)
        keeper.beat()
        assert keeper.commands == [("a", 3)]


def test_a_run_past_its_limit_is_not_renewed() -> None:
    """A loop that hangs for good loses its run to another worker; one without a limit keeps it."""
    heart, times = Heart(), [0.0]
    with keeper_of(heart, now=lambda: times[0]) as keeper:
        keeper.hold("limited", 1, limit_s=10.0)
        keeper.hold("free", 1)
        keeper.beat()
        times[0] = 9.9
        keeper.beat()
        times[0] = 10.0
        keeper.beat()
    assert [len(beat) for beat in heart.beats] == [2, 2, 1]
    assert heart.beats[2] == [("free", 1)]


def test_closing_twice_and_holding_after_it() -> None:
    """No thread is left or begun."""
    heart = Heart()
    with keeper_of(heart) as keeper:
        keeper.close()
        keeper.hold("a", 1)
        assert keeper._thread is None
        keeper.close()


def test_closing_from_the_keepers_own_thread() -> None:
    """What it tells may end everything: it does not wait for itself."""
    closed = threading.Event()
    heart = Heart([Renewal(False)])
    keeper: Any = None

    def lost(run_id: str) -> None:
        keeper.close()
        closed.set()

    keeper = LeaseKeeper(heart, 0.03, on_lost=lost, on_command=lambda *told: None)  # type: ignore[arg-type]
    keeper.hold("a", 1)
    assert closed.wait(5)
    keeper._thread.join(5)
    assert not keeper._thread.is_alive()
