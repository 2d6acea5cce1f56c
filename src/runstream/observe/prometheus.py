"""The figures of a process for Prometheus. Needs the extra `prometheus`.

Owns the names (all begin with `runstream_`; docs/observability.md lists them) and the collector. Counters and
histograms are since the begin of the process; a histogram's counts come from a sketch: right within 2 % of each bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from runstream.errors import MissingExtra

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from runstream.observe.hub import Metrics, Tally
    from runstream.observe.sketch import Sketch

__all__ = ["PrometheusCollector", "start_prometheus"]

_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)

# Our name of a count -> the name, its labels and what it is.
_COUNTERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "started": ("runs_started", ("agent",), "Runs that began."),
    "ended": ("runs_ended", ("status", "agent"), "Runs that ended, by status."),
    "errors": ("run_errors", ("type",), "Runs that failed, by the error's type."),
    "attempts": ("model_calls", ("outcome", "model"), "Model calls that ended, by outcome; each attempt is one."),
    "retries": ("model_retries", (), "Model calls that were made again."),
    "fallbacks": ("model_fallbacks", (), "Model calls that another model took over."),
    "discarded": ("attempts_discarded", ("reason",), "Attempts that readers had seen of and that became void."),
    "deltas": ("deltas", ("model",), "Pieces of answers."),
    "stalls": ("stalls", ("model",), "Pauses within an answer that were longer than the threshold."),
    "tokens": ("tokens", ("direction", "model"), "Tokens, as the models reported them."),
    "turns": ("turns", (), "Turns of runs that ended."),
    "handoffs": ("handoffs", (), "Handoffs in runs that ended."),
}
_HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "first": (
        "time_to_first_seconds",
        ("what", "agent"),
        "From a run's begin to its first event, text, …",
    ),
    "run": ("run_duration_seconds", ("agent",), "How long runs took."),
    "gap": ("chunk_gap_seconds", ("model",), "Pauses between the chunks of an answer."),
    "tool": ("tool_duration_seconds", ("tool",), "From a tool's call to its output."),
}
_BREAKER_STATES = ("closed", "half_open", "open")


class PrometheusCollector:
    """A collector over `Metrics`: register it, or scrape what `start_prometheus` serves.

    Raises MissingExtra where the extra is not installed.
    """

    def __init__(self, metrics: Metrics, *, prefix: str = "runstream_") -> None:
        _check_installed()
        self._metrics = metrics
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        """What a registry asks for at each scrape, from any thread."""
        tally = self._metrics.totals()
        for name in _COUNTERS:
            yield self._counter(tally, name)
        for name in _HISTOGRAMS:
            yield self._histogram(tally, name)
        yield from self._gauges()

    def describe(self) -> list[Metric]:
        """Nothing: the names are known when they are collected."""
        return []

    def _counter(self, tally: Tally, key: str) -> Metric:
        from prometheus_client.core import CounterMetricFamily

        name, labels, text = _COUNTERS[key]
        family = CounterMetricFamily(self._prefix + name, text, labels=labels)
        found = {found[1:]: count for found, count in tally.counts.items() if found[0] == key}
        if not labels:
            found.setdefault((), 0)  # so that a rate is there from the beginning
        for values, count in found.items():
            family.add_metric(values, count)
        return family

    def _histogram(self, tally: Tally, key: str) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        name, labels, text = _HISTOGRAMS[key]
        family = HistogramMetricFamily(self._prefix + name, text, labels=labels)
        for found, sketch in tally.durations.items():
            if found[0] == key:
                family.add_metric(found[1:], _buckets(sketch), sum_value=sketch.sum_s)
        return family

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        snapshot = self._metrics.snapshot()
        for name, text, value in (
            ("runs_live", "Runs that go on.", snapshot.live),
            ("runs_stalled", "Runs whose answer pauses for longer than the threshold now.", snapshot.stalled),
            ("reader_lag_events", "How many events the slowest in-process reader is behind.", snapshot.reader_lag),
        ):
            yield GaugeMetricFamily(self._prefix + name, text, value=value)
        family = GaugeMetricFamily(
            self._prefix + "breaker_state", "1 for the state that a circuit breaker is in.", labels=("breaker", "state")
        )
        for breaker, state in snapshot.breakers.items():
            for each in _BREAKER_STATES:
                family.add_metric((breaker, each), float(each == state))
        yield family


def _buckets(sketch: Sketch) -> list[tuple[str, float]]:
    counts = sketch.counts_up_to(_BOUNDS_S)
    return [
        *((str(bound_s), float(count)) for bound_s, count in zip(_BOUNDS_S, counts, strict=True)),
        ("+Inf", float(sketch.count)),
    ]


def _check_installed() -> None:
    try:
        import prometheus_client  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingExtra("Prometheus", "prometheus") from error


def start_prometheus(
    metrics: Metrics, port: int = 9464, *, host: str = "127.0.0.1", registry: CollectorRegistry | None = None
) -> Callable[[], None]:
    """Serve the figures at `http://host:port/metrics`, from a thread; returns a function that stops it.

    Without a registry, only these figures are served. Raises MissingExtra, and OSError for a port that is taken.
    """
    _check_installed()
    from prometheus_client import CollectorRegistry, start_http_server

    chosen = CollectorRegistry() if registry is None else registry
    collector: Any = PrometheusCollector(metrics)
    chosen.register(collector)
    server, thread = start_http_server(port, host, chosen)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()
        chosen.unregister(collector)

    return stop
