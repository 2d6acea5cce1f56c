"""`/metrics`: the figures of this server's runs and of the server itself, as text for Prometheus.

The runs' come from the fold of `runstream.observe`. It is given events as they go out to the store, many at a time:
a reader of each log would wake up for every delta, and cost more than the fold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runstream.errors import MissingExtra
from runstream.events.event import Event
from runstream.observe.hub import Metrics
from runstream.observe.observers import EventSink, ObservedRun
from runstream.run.active import ActiveRun
from runstream.run.durable import DurableRun
from runstream.run.observers import run_observers
from runstream.server.carrier import Carrier
from runstream.server.counts import Counts
from runstream.server.hub import Hub

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["CONTENT_TYPE", "ServerMetrics"]

_logger = logging.getLogger("runstream.server")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """Observes the runs that this server carries out, between `begin` and `end`."""

    def __init__(self, carrier: Carrier, counts: Counts) -> None:
        self.runs = Metrics(clock=carrier.clock)
        self._carrier = carrier
        self._counts = counts
        self._hub: Hub | None = None

    def begin(self, hub: Hub) -> None:
        """From now on runs are observed. Called again, it goes on."""
        self._hub = hub
        if self._run_begins not in run_observers:
            run_observers.append(self._run_begins)

    def end(self) -> None:
        """Runs that begin later are not observed."""
        if self._run_begins in run_observers:
            run_observers.remove(self._run_begins)

    def _run_begins(self, run: ActiveRun) -> None:
        durable = run.durable
        if not isinstance(durable, DurableRun) or self._carrier.run_of(run.run_id) is not run:
            return  # of somebody else in this process
        sink = self.runs(ObservedRun(run.run_id, run.starting_agent.name, run=run))
        durable.writer.watch = _Watch(sink)

    def exposition(self) -> bytes:
        """All figures in Prometheus' text format. Raises MissingExtra."""
        try:
            from prometheus_client import CollectorRegistry
            from prometheus_client.exposition import generate_latest
        except ImportError as error:
            raise MissingExtra("/metrics", "server") from error
        from runstream.observe.prometheus import PrometheusCollector

        registry = CollectorRegistry(auto_describe=False)
        collectors: list[Any] = [PrometheusCollector(self.runs), self]
        for collector in collectors:
            registry.register(collector)
        return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Nothing: the names are known when they are collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The server's own figures."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counts, hub = self._counts, self._hub
        gauges = (
            ("runs_limit", "Runs that the server carries out at once at most.", self._carrier.max_runs),
            ("readers", "Readers of streams.", 0 if hub is None else hub.reader_count),
            ("reader_lag_events", "How many events the slowest reader is behind.", 0 if hub is None else hub.lag),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"runstream_server_{name}", text, value=value)
        totals = (
            ("readers_dropped", "Readers whose clients took nothing for too long.", counts.readers_dropped),
            ("sent_bytes", "Bytes of answers, streams included.", counts.bytes_sent),
            ("store_failures", "Requests and streams that ended because the store failed.", counts.store_failures),
        )
        for name, text, value in totals:
            yield CounterMetricFamily(f"runstream_server_{name}", text, value=value)
        refused = CounterMetricFamily(
            "runstream_server_requests_refused", "Requests that were not carried out, by reason.", labels=("reason",)
        )
        for reason, value in counts.refused.items():
            refused.add_metric((reason,), value)
        yield refused


class _Watch:
    """Gives a run's events to the fold. One that fails sees nothing more; the run goes on."""

    __slots__ = ("_sink",)

    def __init__(self, sink: EventSink) -> None:
        self._sink: EventSink | None = sink

    def __call__(self, events: Sequence[Event]) -> None:
        sink = self._sink
        if sink is None:
            return
        try:
            for event in events:
                sink(event)
        except Exception:
            self._sink = None
            _logger.exception("the run %s is counted no longer", events[0].run_id)
