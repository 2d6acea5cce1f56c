"""Alerts: rules over the figures of a process, that fire once and resolve once.

Owns the rules, their state and who is told. Knows nothing of runs: it reads `Metrics.snapshot()` every few seconds. A
rule fires when its figure has been at or above its threshold for `for_s` seconds, and resolves when it has been below
`resolve_below` for `resolve_after_s`: between the two nothing changes, so that a figure that wavers tells nobody twice.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from runstream.clock import Clock
from runstream.errors import UserError

if TYPE_CHECKING:
    from runstream.observe.hub import Metrics, Snapshot

__all__ = ["Alert", "AlertRule", "Alerts", "breaker_open", "error_rate", "first_text_p95", "stall_rate"]

_logger = logging.getLogger("runstream.alerts")


@dataclass(frozen=True, slots=True)
class AlertRule:
    """When something is wrong. Raises UserError for limits that contradict each other."""

    name: str
    measure: Callable[[Snapshot], float | None]
    """The figure; None where there is too little to judge by, which counts as fine."""
    threshold: float
    resolve_below: float | None = None
    """Where it is fine again: 80 % of the threshold if None."""
    window_s: float = 300.0
    """What the snapshot counts: so many seconds, at most the window of the metrics."""
    for_s: float = 0.0
    resolve_after_s: float = 60.0
    unit: str = ""

    def __post_init__(self) -> None:
        if self.resolve_below is not None and self.resolve_below > self.threshold:
            raise UserError(
                f"the alert {self.name!r} would resolve at {self.resolve_below}, above its threshold {self.threshold}"
            )

    @property
    def fine_below(self) -> float:
        return self.threshold * 0.8 if self.resolve_below is None else self.resolve_below


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule has changed its mind."""

    name: str
    state: Literal["firing", "resolved"]
    value: float | None
    threshold: float
    at: float
    """Seconds since the epoch."""
    since: float
    """When the figure crossed the limit; of a resolved alert, when it fired."""
    unit: str = ""

    @property
    def text(self) -> str:
        """In one line, for people."""
        value = "nothing to measure" if self.value is None else f"{self.value:.3g}{self.unit}"
        if self.state == "firing":
            return f"{self.name}: {value} (threshold {self.threshold:.3g}{self.unit})"
        return f"{self.name} resolved after {self.at - self.since:.0f} s: {value}"


def error_rate(threshold: float = 0.05, *, window_s: float = 300.0, min_runs: int = 20, **options: Any) -> AlertRule:
    """Failed runs among those that ended (0 to 1). Fewer than `min_runs` in the window are no rate."""

    def measure(snapshot: Snapshot) -> float | None:
        return snapshot.error_rate if sum(snapshot.ended.values()) >= min_runs else None

    return AlertRule("error rate", measure, threshold, window_s=window_s, **options)


def first_text_p95(threshold_s: float, *, window_s: float = 300.0, min_runs: int = 20, **options: Any) -> AlertRule:
    """The time to the first text that 95 % of the runs do not exceed."""

    def measure(snapshot: Snapshot) -> float | None:
        return snapshot.first_text.quantile(0.95) if snapshot.first_text.count >= min_runs else None

    return AlertRule("p95 time to first text", measure, threshold_s, window_s=window_s, unit=" s", **options)


def stall_rate(threshold: float = 0.1, *, window_s: float = 300.0, min_calls: int = 20, **options: Any) -> AlertRule:
    """Stalls for each model call that ended."""

    def measure(snapshot: Snapshot) -> float | None:
        return snapshot.stall_rate if snapshot.model_calls >= min_calls else None

    return AlertRule("stall rate", measure, threshold, window_s=window_s, **options)


def breaker_open(name: str | None = None, state: Callable[[], str] | None = None, **options: Any) -> AlertRule:
    """A circuit breaker is open; without a name any of those that the metrics know, and the figure is how many.

    `name` is that of the metrics: `CircuitBreaker.endpoint`. Its state is what the function says, else what they know.
    """

    def measure(snapshot: Snapshot) -> float:
        if name is None and state is None:
            return float(list(snapshot.breakers.values()).count("open"))
        return float((snapshot.breakers.get(name or "") if state is None else state()) == "open")

    return AlertRule("breaker open" if name is None else f"breaker {name} open", measure, 1.0, 1.0, **options)


class _State:
    """Where a rule stands."""

    __slots__ = ("crossed_at", "fired_at")

    def __init__(self) -> None:
        self.fired_at: float | None = None
        self.crossed_at: float | None = None
        """Since when the figure speaks for the other state."""


class Alerts:
    """Looks at the figures every `every_s` seconds: `async with Alerts(metrics, [error_rate(0.05)], on_alert=tell):`.

    Whatever fires or resolves is logged (`runstream.alerts`, WARNING and INFO) and given to each `on_alert`, which must
    not wait; what it raises is logged. Those with `aclose` are closed at the end.
    """

    def __init__(
        self,
        metrics: Metrics,
        rules: Sequence[AlertRule],
        *,
        on_alert: Callable[[Alert], object] | Sequence[Callable[[Alert], object]] = (),
        every_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if len({rule.name for rule in rules}) < len(rules):
            raise UserError("two alert rules have the same name: give one of them another (AlertRule.name)")
        if every_s <= 0:
            raise UserError(f"every_s must be positive, not {every_s}")
        self._metrics = metrics
        self._rules = list(rules)
        self._callbacks = [on_alert] if callable(on_alert) else list(on_alert)
        self._every_s = every_s
        self._clock = metrics.clock if clock is None else clock
        self._states = {rule.name: _State() for rule in rules}
        self._task: asyncio.Task[None] | None = None

    @property
    def firing(self) -> list[str]:
        """The names of the rules that fire."""
        return [name for name, state in self._states.items() if state.fired_at is not None]

    def check(self) -> list[Alert]:
        """Look now; returns what has changed, after everybody was told."""
        changed: list[Alert] = []
        now = self._clock.now()
        for rule in self._rules:
            try:
                value = rule.measure(self._metrics.snapshot(rule.window_s))
            except Exception:
                _logger.exception("the alert %r cannot be measured", rule.name)
                continue
            alert = _decide(rule, self._states[rule.name], value, now)
            if alert is not None:
                changed.append(alert)
                self._tell(alert)
        return changed

    def _tell(self, alert: Alert) -> None:
        level = logging.WARNING if alert.state == "firing" else logging.INFO
        fields = {"alert": alert.name, "alert_state": alert.state, "value": alert.value, "threshold": alert.threshold}
        _logger.log(level, "%s", alert.text, extra=fields)
        for callback in self._callbacks:
            try:
                callback(alert)
            except Exception:
                _logger.exception("a callback of the alert %r failed", alert.name)

    async def run(self) -> None:
        """Look for ever; to be cancelled."""
        while True:
            self.check()
            await self._clock.sleep(self._every_s)

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self.run(), name="runstream alerts")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        for callback in self._callbacks:
            close: Callable[[], Awaitable[None] | None] | None = getattr(callback, "aclose", None)
            if close is not None:
                closing = close()
                if inspect.isawaitable(closing):
                    await closing


def _decide(rule: AlertRule, state: _State, value: float | None, now: float) -> Alert | None:
    """What the figure changes. Pure but for the state."""
    fires = state.fired_at is not None
    if fires:
        speaks_against = value is None or value < rule.fine_below
    else:
        speaks_against = value is not None and value >= rule.threshold
    if not speaks_against:
        state.crossed_at = None
        return None
    if state.crossed_at is None:
        state.crossed_at = now
    if now - state.crossed_at < (rule.resolve_after_s if fires else rule.for_s):
        return None
    crossed_at, state.crossed_at = state.crossed_at, None
    if state.fired_at is None:
        state.fired_at = now
        return Alert(rule.name, "firing", value, rule.threshold, now, crossed_at, rule.unit)
    fired_at, state.fired_at = state.fired_at, None
    return Alert(rule.name, "resolved", value, rule.threshold, now, fired_at, rule.unit)
