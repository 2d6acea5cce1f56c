"""The tracing calls under the alias: they run, and nothing is traced."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from runstream.compat import tracing
from runstream.compat.tracing import SpanError, Trace, TracingProcessor, trace

SPANS = [name for name in tracing.__all__ if name.endswith("_span") and not name.startswith("get")]


class Recorder(TracingProcessor):
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_trace_start(self, trace: Trace) -> None:
        self.calls.append(trace)

    def on_trace_end(self, trace: Trace) -> None:
        self.calls.append(trace)

    def on_span_start(self, span: Any) -> None:
        self.calls.append(span)

    def on_span_end(self, span: Any) -> None:
        self.calls.append(span)

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def force_flush(self) -> None:
        self.calls.append("flush")


def test_a_block_with_a_name_runs() -> None:
    """`with trace(...)` runs its block, lets errors through, and makes nothing current."""
    with trace("workflow", group_id="g", metadata={"a": "b"}) as block:
        assert (block.name, block.trace_id, block.export()) == ("workflow", "no-op", None)
        assert tracing.get_current_trace() is None
    with pytest.raises(ZeroDivisionError), trace("workflow", trace_id="trace_1"):
        _ = 1 / 0
    block.start(mark_as_current=True)
    block.finish(reset_current=True)


@pytest.mark.parametrize("name", SPANS)
def test_spans_of_every_kind_run(name: str) -> None:
    """A span takes whatever its kind takes, and records nothing."""
    with getattr(tracing, name)("x", parent=None, disabled=False) as span:
        span.set_error(SpanError(message="no", data=None))
        assert tracing.get_current_span() is None
    assert (span.error, span.export(), span.started_at, span.ended_at) == (None, None, None, None)
    span.start()
    span.finish()


def test_ids_have_the_sdks_form() -> None:
    """Ids are unique and have the prefixes and lengths that OpenAI's traces have."""
    for make, prefix, length in (
        (tracing.gen_trace_id, "trace_", 32),
        (tracing.gen_span_id, "span_", 24),
        (tracing.gen_group_id, "group_", 24),
    ):
        first, second = make(), make()
        assert first != second
        assert first.startswith(prefix)
        assert len(first) == len(prefix) + length


def test_processors_are_not_called_and_the_program_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever adds a processor finds out from the log that it will not be called."""
    recorder = Recorder()
    with caplog.at_level(logging.WARNING, "runstream"):
        tracing.add_trace_processor(recorder)
        tracing.set_trace_processors([recorder])
        tracing.set_trace_provider(object())
        tracing.set_trace_processors([])
    with trace("workflow"), tracing.custom_span("step"):
        pass
    tracing.flush_traces()
    assert recorder.calls == []
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "add_trace_processor",
        "set_trace_processors",
        "set_trace_provider",
    ]


def test_switching_tracing_off_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What programs call to keep the SDK from tracing is accepted without a word, and traces can still be written."""
    with caplog.at_level(logging.DEBUG, "runstream"):
        tracing.set_tracing_disabled(True)
        tracing.set_tracing_export_api_key("key")
    assert caplog.records == []
    with trace("workflow") as entered:
        assert entered is not None


def test_a_processor_must_be_whole() -> None:
    """As in the SDK, a processor that lacks a method cannot be made."""
    with pytest.raises(TypeError, match="abstract"):
        TracingProcessor()  # type: ignore[abstract]
