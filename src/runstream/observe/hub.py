"""The metrics of all runs of a process: totals since the begin, a sliding window, and the runs that go on now.

Owns `Metrics`, an observer, and `Snapshot`. Its figures come from each run's fold; nothing is counted for a delta
beyond what the fold does. May be read from any thread (a scraper's): what is shared is changed and copied under a lock.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from runstream.clock import Clock, system_clock
from runstream.observe.metrics import FoldListener, MetricsFold
from runstream.observe.sketch import Sketch

if TYPE_CHECKING:
    from runstream.flow.breaker import CircuitBreaker
    from runstream.observe.figures import AttemptMetrics, ToolMetrics
    from runstream.observe.metrics import RunMetrics
    from runstream.observe.observers import EventSink, ObservedRun

__all__ = ["LiveRun", "Metrics", "Snapshot", "Tally"]

# So many parts of the window are kept: it slides by one of them at a time.
_SLOTS = 60
# Labels come from programs and models; so many different ones of each kind are told apart.
_LABELS = 200
_OTHER = "_other"


class Tally:
    """Counts and durations, by labels. Figures with a label come first in their tuples."""

    __slots__ = ("counts", "durations")

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}
        self.durations: dict[tuple[str, ...], Sketch] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        key = (name, *labels)
        self.counts[key] = self.counts.get(key, 0) + by

    def duration(self, name: str, *labels: str) -> Sketch:
        """The sketch of that name, to be added to."""
        key = (name, *labels)
        sketch = self.durations.get(key)
        if sketch is None:
            sketch = self.durations[key] = Sketch()
        return sketch

    def merge(self, other: Tally) -> None:
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
        for key, sketch in other.durations.items():
            self.duration(*key).merge(sketch)

    def sum_of(self, name: str, *labels: str) -> float:
        """The sum of all counts whose name and first labels are these."""
        wanted = (name, *labels)
        return sum(count for key, count in self.counts.items() if key[: len(wanted)] == wanted)

    def sketch_of(self, name: str, *labels: str) -> Sketch:
        """All durations whose name and first labels are these, in one."""
        wanted, merged = (name, *labels), Sketch()
        for key, sketch in self.durations.items():
            if key[: len(wanted)] == wanted:
                merged.merge(sketch)
        return merged


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The window's figures at one moment. Rates are per second, shares from 0 to 1; None where nothing was counted."""

    at: float
    window_s: float
    """How long was counted: less than the window in the beginning."""
    live: int
    """Runs that go on."""
    stalled: int
    """Those of them whose answer has paused for longer than `stall_s` by now."""
    reader_lag: int
    """How many events the slowest in-process reader is behind."""
    started: int
    ended: dict[str, int]
    """By status."""
    errors: dict[str, int]
    """By the error's type."""
    error_rate: float | None
    """Failed runs among those that ended."""
    runs_per_s: float
    """That ended."""
    deltas_per_s: float
    """Of attempts that ended."""
    output_tokens_per_s: float
    first_event: Sketch
    first_reasoning: Sketch
    first_text: Sketch
    first_tool: Sketch
    run_duration: Sketch
    gaps: Sketch
    stalls: int
    stall_rate: float | None
    """Stalls for each model call that ended."""
    model_calls: int
    retries: int
    discarded: int
    fallbacks: int
    tools: dict[str, Sketch]
    """Durations, by the tool's name."""
    breakers: dict[str, str] = field(default_factory=dict[str, str])
    """The state of each circuit breaker that is known here."""


class LiveRun:
    """A run that goes on."""

    __slots__ = ("fold", "run", "started_at")

    def __init__(self, fold: MetricsFold, run: Any, started_at: float) -> None:
        self.fold = fold
        self.run = run
        """A weak reference to the `ActiveRun`, or a function that gives None."""
        self.started_at = started_at

    @property
    def is_gone(self) -> bool:
        """Whether its event loop has let go of it without an end."""
        return self.run is not _nobody and self.run() is None

    @property
    def reader_lag(self) -> int:
        """How many events its slowest in-process reader is behind; 0 without readers."""
        run = self.run()
        return max(run.reader_lags, default=0) if run is not None else 0


class Metrics:
    """Observes runs: `set_observers([metrics])`, then `metrics.snapshot()` at any time.

    `window_s` is the length of the sliding window; a pause of `stall_s` within an answer is a stall. `breakers` are the
    circuit breakers whose state is shown: `CircuitBreakers`, or functions that give it ("closed", "open", "half_open").
    """

    def __init__(
        self,
        *,
        window_s: float = 300.0,
        stall_s: float = 2.0,
        clock: Clock = system_clock,
        breakers: Mapping[str, Callable[[], str]] | Iterable[CircuitBreaker] = (),
    ) -> None:
        self.window_s = window_s
        self.stall_s = stall_s
        self.clock = clock
        self._breakers = breakers
        self.live: dict[str, LiveRun] = {}
        self.total = Tally()
        self._lock = threading.Lock()
        self._slot_s = window_s / _SLOTS
        self._slots: deque[tuple[int, Tally]] = deque()
        self._labels: dict[str, set[str]] = {}
        self._begun_at = clock.now()

    def __call__(self, run: ObservedRun) -> EventSink:
        fold = MetricsFold(stall_s=self.stall_s, listener=_Recorder(self, run.run_id))
        alive: Any = weakref.ref(run.run) if run.run is not None else _nobody
        with self._lock:
            self.live[run.run_id] = LiveRun(fold, alive, self.clock.now())
        self.record(lambda tally: tally.count("started", self.label("agent", run.agent)))
        return fold.apply

    def label(self, kind: str, name: str | None) -> str:
        """The name, or `_other` for one too many: labels are for ever where they are collected."""
        known = self._labels.setdefault(kind, set())
        name = name or ""
        if name in known or len(known) < _LABELS:
            known.add(name)
            return name
        return _OTHER

    def record(self, change: Callable[[Tally], None]) -> None:
        """Count something, in the totals and in the window."""
        number = int(self.clock.now() / self._slot_s)
        with self._lock:
            if not self._slots or self._slots[-1][0] != number:
                self._slots.append((number, Tally()))
                self._drop(number)
            change(self.total)
            change(self._slots[-1][1])

    def _drop(self, number: int) -> None:
        while self._slots and self._slots[0][0] <= number - _SLOTS:
            self._slots.popleft()

    def forget(self, run_id: str) -> None:
        """The run has ended."""
        with self._lock:
            self.live.pop(run_id, None)

    def totals(self) -> Tally:
        """A copy of what was counted since the begin."""
        with self._lock:
            copied = Tally()
            copied.merge(self.total)
            return copied

    def live_runs(self) -> list[tuple[RunMetrics, LiveRun]]:
        """The figures of the runs that go on, the oldest first. To be called in their event loop."""
        return [(run.fold.metrics, run) for run in list(self.live.values())]

    def breaker_states(self) -> dict[str, str]:
        """The state of each circuit breaker, by its endpoint or name."""
        breakers = self._breakers
        if isinstance(breakers, Mapping):
            states = cast("Mapping[str, Callable[[], str]]", breakers)
            return {name: state() for name, state in states.items()}
        return {breaker.endpoint: breaker.state for breaker in breakers}

    def snapshot(self, window_s: float | None = None) -> Snapshot:
        """The figures of the last `window_s` seconds (the whole window, if None or longer)."""
        now = self.clock.now()
        length_s = self.window_s if window_s is None else min(window_s, self.window_s)
        number = int(now / self._slot_s)
        oldest = number - max(round(length_s / self._slot_s), 1) + 1
        tally = Tally()
        with self._lock:
            for slot, counted in self._slots:
                if slot >= oldest:
                    tally.merge(counted)
            for run_id in [run_id for run_id, run in self.live.items() if run.is_gone]:
                del self.live[run_id]
            live = list(self.live.values())
        return self._snapshot(tally, live, now, max(min(length_s, now - self._begun_at), self._slot_s))

    def _snapshot(self, tally: Tally, live: list[LiveRun], now: float, length_s: float) -> Snapshot:
        ended = _by_label(tally, "ended")
        count = sum(ended.values())
        calls, stalls = int(tally.sum_of("attempts")), int(tally.sum_of("stalls"))
        return Snapshot(
            at=now,
            window_s=length_s,
            live=len(live),
            stalled=sum(run.fold.is_stalled(now) for run in live),
            reader_lag=max((run.reader_lag for run in live), default=0),
            started=int(tally.sum_of("started")),
            ended=ended,
            errors=_by_label(tally, "errors"),
            error_rate=ended.get("failed", 0) / count if count else None,
            runs_per_s=count / length_s,
            deltas_per_s=tally.sum_of("deltas") / length_s,
            output_tokens_per_s=tally.sum_of("tokens", "output") / length_s,
            first_event=tally.sketch_of("first", "event"),
            first_reasoning=tally.sketch_of("first", "reasoning"),
            first_text=tally.sketch_of("first", "text"),
            first_tool=tally.sketch_of("first", "tool"),
            run_duration=tally.sketch_of("run"),
            gaps=tally.sketch_of("gap"),
            stalls=stalls,
            stall_rate=stalls / calls if calls else None,
            model_calls=calls,
            retries=int(tally.sum_of("retries")),
            discarded=int(tally.sum_of("discarded")),
            fallbacks=int(tally.sum_of("fallbacks")),
            tools={key[1]: sketch for key, sketch in tally.durations.items() if key[0] == "tool"},
            breakers=self.breaker_states(),
        )


def _nobody() -> None:
    return None


def _by_label(tally: Tally, name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key, count in tally.counts.items():
        if key[0] == name:
            counts[key[1]] = counts.get(key[1], 0) + int(count)
    return counts


class _Recorder(FoldListener):
    """Takes what one run's fold tells to the process's figures."""

    def __init__(self, metrics: Metrics, run_id: str) -> None:
        self._metrics = metrics
        self._run_id = run_id

    def first(self, what: str, delay_s: float, agent: str | None) -> None:
        name = self._metrics.label("agent", agent)
        self._metrics.record(lambda tally: tally.duration("first", what, name).add(delay_s))

    def attempt_ended(self, attempt: AttemptMetrics, gaps: Sketch, agent: str | None) -> None:
        model = self._metrics.label("model", attempt.model)
        usage = attempt.usage

        def change(tally: Tally) -> None:
            tally.count("attempts", attempt.outcome or "", model)
            tally.count("deltas", model, by=attempt.deltas)
            tally.count("stalls", model, by=attempt.gaps.stalls)
            tally.duration("gap", model).merge(gaps)
            if usage is not None:
                tally.count("tokens", "input", model, by=usage.input_tokens)
                tally.count("tokens", "output", model, by=usage.output_tokens)

        self._metrics.record(change)

    def attempt_discarded(self, reason: str) -> None:
        label = self._metrics.label("reason", reason)
        self._metrics.record(lambda tally: tally.count("discarded", label))

    def tool_ended(self, tool: ToolMetrics) -> None:
        name = self._metrics.label("tool", tool.name)
        self._metrics.record(lambda tally: tally.duration("tool", name).add(tool.duration_s or 0.0))

    def run_ended(self, metrics: RunMetrics) -> None:
        self._metrics.forget(self._run_id)
        agent = self._metrics.label("agent", metrics.agent)
        error = None if metrics.error_type is None else self._metrics.label("error", metrics.error_type)

        def change(tally: Tally) -> None:
            tally.count("ended", metrics.status or "", agent)
            tally.duration("run", agent).add(metrics.duration_s)
            tally.count("turns", by=len(metrics.turns))
            tally.count("retries", by=metrics.retries)
            tally.count("fallbacks", by=metrics.fallbacks)
            tally.count("handoffs", by=metrics.handoffs)
            if error is not None:
                tally.count("errors", error)

        self._metrics.record(change)
