"""Laws of metrics and spans over random runs: whatever the models say, the tools do and whoever cancels when."""

from __future__ import annotations

import logging
from typing import Any

from hypothesis import given, settings
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from properties.test_random_runs import Stage, Story, on_stage, stories
from runstream.events.segment import decode_segment, encode_segment
from runstream.observe import Metrics, OpenTelemetry, RunLogger, RunMetrics, replay, set_observers


def traced() -> tuple[OpenTelemetry, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OpenTelemetry(tracer_provider=provider), exporter


def shape(spans: tuple[ReadableSpan, ...]) -> list[tuple[Any, ...]]:
    """The spans without what differs each time: ids, and when the root was made."""
    return [(span.name, span.start_time, span.end_time, span.status.status_code) for span in spans[:-1]]


def check(spans: tuple[ReadableSpan, ...]) -> None:
    """One root; every other span has its parent, begins not before it and does not outlast it."""
    known = {span.context.span_id: span for span in spans}
    roots = [span for span in spans if span.parent is None]
    assert len(roots) == 1
    for span in spans:
        assert span.end_time is not None
        assert span.start_time is not None
        assert span.start_time <= span.end_time
        if span.parent is not None:
            parent = known[span.parent.span_id]
            assert (parent.start_time or 0) <= span.start_time
            assert span.end_time <= (parent.end_time or 0), (span.name, parent.name)


def test_metrics_and_spans_of_any_run() -> None:
    """Observed live and replayed from a store, a run has the same figures and spans; nothing of it stays open."""
    seen: set[str] = set()
    failures: list[str] = []

    class Failures(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            failures.append(record.getMessage())

    logger = logging.getLogger("runstream.observe")
    handler = Failures(logging.ERROR)
    logger.addHandler(handler)

    @settings(max_examples=100)
    @given(stories())
    def holds(story: Story) -> None:
        live, (otel, exporter) = Metrics(), traced()
        set_observers([live, otel, RunLogger()])

        async def act(stage: Stage) -> None:
            result, _ = await stage.play_streamed()
            events = [event async for event in result.events()]
            set_observers([])
            stored = decode_segment(encode_segment(events), result.run_id)
            figures = RunMetrics.of(events)
            assert RunMetrics.of(stored) == figures
            assert figures.status == events[-1].data.status
            assert all(turn.ended_at is not None for turn in figures.turns)
            assert all(attempt.outcome for turn in figures.turns for attempt in turn.attempts)
            assert live.live == {}
            assert live.totals().sum_of("ended", str(figures.status)) == 1
            spans = exporter.get_finished_spans()
            check(spans)
            later, exported = traced()
            replay(stored, later)
            assert [name for name, *_ in shape(exported.get_finished_spans())] == [name for name, *_ in shape(spans)]
            seen.update(span.name.split()[0] for span in spans)
            seen.add(str(figures.status))

        try:
            on_stage(act)(story)
        finally:
            set_observers([])

    try:
        holds()
    finally:
        logger.removeHandler(handler)
    assert failures == []
    assert seen >= {"chat", "turn", "execute_tool", "handoff", "attempt", "completed", "failed", "cancelled"}
