"""OpenTelemetry: a run as spans and measurements, made from its log. Needs the extra `otel`.

Owns `OpenTelemetry`, an observer. The names are in `otel_names`, the spans of one run in `otel_spans`. Nothing is
attached to a context but in one that ends by itself: the root span is current in the context that the run's task is
made with, a tool's span in the context of its task. There is thus nothing to detach, whatever a reader does; and what
tools and clients trace by themselves has the right parent.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from runstream.errors import MissingExtra
from runstream.observe.otel_instruments import Instruments, Recording

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from runstream.observe.observers import EventSink, ObservedRun
    from runstream.observe.otel_spans import RunSpans

__all__ = ["OpenTelemetry"]

_SCOPE = "runstream"


class OpenTelemetry:
    """Observes runs: `set_observers([OpenTelemetry()])`. Raises MissingExtra where the extra is not installed.

    The providers are the global ones unless given. `record_content` puts prompts, answers, the arguments and outputs of
    tools and the texts of errors into the spans; without it there are only names, ids, sizes and times.
    `provider_name` is what the conventions call `gen_ai.provider.name`: the log does not know whom the model is from.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        record_content: bool = False,
        provider_name: str = "openai",
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError as error:
            raise MissingExtra("OpenTelemetry", "otel") from error
        version = importlib.metadata.version("runstream")
        self._recording = Recording(
            trace.get_tracer(_SCOPE, version, tracer_provider),
            Instruments(metrics.get_meter(_SCOPE, version, meter_provider)),
            record_content,
            provider_name,
        )
        self._runs: dict[str, RunSpans] = {}

    def __call__(self, run: ObservedRun) -> EventSink:
        from opentelemetry import context, trace

        from runstream.observe.otel_spans import RunSpans

        spans = RunSpans(self._recording, run, on_end=self._runs.pop)
        if run.run is not None and run.run.task is None:
            # We are in the context that the run will have: see runstream.run.observers.
            self._runs[run.run_id] = spans
            root = spans.begin(run.run.now())
            context.attach(trace.set_span_in_context(root))
        return spans.apply

    def tool_begins(self, run_id: str, call_id: str) -> None:
        """In the task of a tool: its span is the current one for the rest of the task."""
        spans = self._runs.get(run_id)
        span: Span | None = None if spans is None else spans.tool_span(call_id)
        if span is not None:
            from opentelemetry import context, trace

            context.attach(trace.set_span_in_context(span))
