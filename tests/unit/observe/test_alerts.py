"""Alerts fire once, resolve once, and do not waver."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from runstream.errors import UserError
from runstream.events.event import ErrorInfo, Event, RunEnd, RunStart
from runstream.observe import Alert, AlertRule, Alerts, Metrics, ObservedRun, breaker_open, error_rate, first_text_p95
from runstream.observe.alerts import stall_rate
from runstream.testing import FakeClock


class Level:
    """A figure that the test sets."""

    def __init__(self) -> None:
        self.value: float | None = 0.0

    def __call__(self, snapshot: Any) -> float | None:
        return self.value


def ended(metrics: Metrics, status: Any, count: int) -> None:
    for number in range(count):
        at = metrics.clock.now()
        sink = metrics(ObservedRun(f"run_{number}_{at}", "Desk"))
        sink(Event("r", 1, at, "run.start", "Desk", 0, (), RunStart("hi")))
        error = ErrorInfo("Broken", "…") if status == "failed" else None
        sink(Event("r", 2, at, "run.end", "Desk", 0, (), RunEnd(status, error)))


class Scene:
    """A rule over a figure, with a clock by hand."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock(autojump=False)
        self.level = Level()
        self.told: list[Alert] = []
        rule = AlertRule("level", self.level, 10.0, **options)
        self.alerts = Alerts(Metrics(clock=self.clock), [rule], on_alert=self.told.append)

    def at(self, after_s: float, value: float | None) -> list[str]:
        self.clock._now += after_s
        self.level.value = value
        return [alert.state for alert in self.alerts.check()]


def test_hysteresis() -> None:
    """It fires at the threshold, stays while the figure is above `resolve_below`, and resolves after a while below."""
    scene = Scene(resolve_below=8.0, resolve_after_s=60.0)
    assert scene.at(0, 9.9) == []
    assert scene.at(10, 10.0) == ["firing"]
    assert scene.at(10, 30.0) == []
    assert scene.at(10, 8.0) == []  # fine below 8, not at it
    assert scene.at(10, 7.0) == []  # below, but not for long enough
    assert scene.at(30, 9.0) == []  # the wait begins anew
    assert scene.at(10, 7.0) == []
    assert scene.at(59, 7.0) == []
    assert scene.alerts.firing == ["level"]
    assert scene.at(1, 7.0) == ["resolved"]
    assert scene.alerts.firing == []
    assert [alert.state for alert in scene.told] == ["firing", "resolved"]


def test_it_has_to_last() -> None:
    """With `for_s` a short peak tells nobody."""
    scene = Scene(for_s=30.0)
    assert scene.at(0, 12.0) == []
    assert scene.at(20, 5.0) == []
    assert scene.at(10, 12.0) == []
    assert scene.at(30, 12.0) == ["firing"]
    assert scene.told[0].since == scene.told[0].at - 30.0


def test_nothing_to_measure_is_fine() -> None:
    """A figure that cannot be told fires nothing, and lets what fires resolve."""
    scene = Scene(resolve_after_s=10.0)
    assert scene.at(0, None) == []
    assert scene.at(1, 99.0) == ["firing"]
    assert scene.at(1, None) == []
    assert scene.at(10, None) == ["resolved"]
    assert scene.told[-1].text == "level resolved after 11 s: nothing to measure"


def test_the_error_rate_of_runs() -> None:
    """The ready-made rule needs enough runs, and forgets what has left its window."""
    clock = FakeClock(autojump=False)
    metrics = Metrics(clock=clock, window_s=300)
    alerts = Alerts(metrics, [error_rate(0.2, window_s=60.0, min_runs=10, resolve_after_s=0.0)])
    ended(metrics, "failed", 9)
    assert alerts.check() == []
    ended(metrics, "completed", 20)
    (alert,) = alerts.check()
    assert (alert.state, alert.value) == ("firing", pytest.approx(9 / 29))
    clock._now += 120
    assert [alert.state for alert in alerts.check()] == ["resolved"]


def test_the_other_rules() -> None:
    """p95 of the first text, stalls for each call, and a breaker by the metrics' or its own function."""
    metrics = Metrics(breakers={"gpt": lambda: "open"})
    for _ in range(30):
        metrics.record(lambda tally: tally.duration("first", "text", "Desk").add(3.0))
        metrics.record(lambda tally: tally.count("attempts", "completed", "m"))
        metrics.record(lambda tally: tally.count("stalls", "m", by=2))
    rules = [first_text_p95(2.0), stall_rate(0.5), breaker_open("gpt"), breaker_open("mini", lambda: "half_open")]
    alerts = Alerts(metrics, [*rules, breaker_open()])
    alerts.check()
    assert alerts.firing == ["p95 time to first text", "stall rate", "breaker gpt open", "breaker open"]
    assert len(alerts.check()) == 0


def test_log_lines_and_callbacks_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    """Each change is a log line with fields; a callback or a measure that raises costs the others nothing."""
    told: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise ValueError("mine")

    def unmeasurable(snapshot: Any) -> float:
        raise ValueError("no")

    rules = [AlertRule("bad", unmeasurable, 1.0), AlertRule("level", lambda _: 5.0, 1.0)]
    alerts = Alerts(Metrics(), rules, on_alert=[broken, told.append])
    with caplog.at_level(logging.INFO, "runstream.alerts"):
        alerts.check()
    assert [alert.name for alert in told] == ["level"]
    line = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert line.getMessage() == "level: 5 (threshold 1)"
    assert (line.__dict__["alert"], line.__dict__["alert_state"], line.__dict__["value"]) == ("level", "firing", 5.0)


async def test_it_looks_every_few_seconds() -> None:
    """As a context it looks by itself, and leaves no task behind."""
    clock = FakeClock(autojump=False)
    level, told = Level(), []
    rule = AlertRule("level", level, 1.0)
    async with Alerts(Metrics(clock=clock), [rule], on_alert=told.append, every_s=10.0):
        await clock.advance(10.0)
        level.value = 2.0
        await clock.advance(9.0)
        assert told == []
        await clock.advance(1.0)
    assert [alert.state for alert in told] == ["firing"]


def test_rules_that_make_no_sense() -> None:
    """Limits that contradict each other and names that are taken are refused at once."""
    with pytest.raises(UserError, match="above its threshold"):
        AlertRule("x", lambda _: None, 1.0, resolve_below=2.0)
    with pytest.raises(UserError, match="same name"):
        Alerts(Metrics(), [error_rate(), error_rate()])
    with pytest.raises(UserError, match="every_s"):
        Alerts(Metrics(), [], every_s=0)
