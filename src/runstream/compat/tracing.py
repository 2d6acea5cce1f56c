"""The SDK's tracing calls, so that programs that make them run. Nothing is recorded, and nothing is sent to anybody.

Must not pretend: a processor or a provider is accepted with a warning, since it will not be called; there is never a
current trace or span.
"""

from __future__ import annotations

import abc
import logging
import uuid
from collections.abc import Callable
from typing import Any, Generic, Self

from typing_extensions import TypedDict, TypeVar

__all__ = [
    "Span",
    "SpanError",
    "Trace",
    "TracingProcessor",
    "add_trace_processor",
    "agent_span",
    "custom_span",
    "flush_traces",
    "function_span",
    "gen_group_id",
    "gen_span_id",
    "gen_trace_id",
    "generation_span",
    "get_current_span",
    "get_current_trace",
    "guardrail_span",
    "handoff_span",
    "mcp_tools_span",
    "response_span",
    "set_trace_processors",
    "set_trace_provider",
    "set_tracing_disabled",
    "set_tracing_export_api_key",
    "task_span",
    "trace",
    "turn_span",
]

_log = logging.getLogger("runstream")

TSpanData = TypeVar("TSpanData", default=Any)


class SpanError(TypedDict):
    """What a program says of an error in a span."""

    message: str
    data: dict[str, Any] | None


class TracingProcessor(abc.ABC):
    """Base of what would be told of traces. It is never called."""

    @abc.abstractmethod
    def on_trace_start(self, trace: Trace) -> None: ...

    @abc.abstractmethod
    def on_trace_end(self, trace: Trace) -> None: ...

    @abc.abstractmethod
    def on_span_start(self, span: Span[Any]) -> None: ...

    @abc.abstractmethod
    def on_span_end(self, span: Span[Any]) -> None: ...

    @abc.abstractmethod
    def shutdown(self) -> None: ...

    @abc.abstractmethod
    def force_flush(self) -> None: ...


class _Block:
    """Use it with `with`; it records nothing."""

    trace_id = "no-op"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""

    def start(self, mark_as_current: bool = False) -> None:
        """Nothing to begin."""

    def finish(self, reset_current: bool = False) -> None:
        """Nothing to end."""

    def export(self) -> dict[str, Any] | None:
        """None: there is nothing to export."""
        return None


class Trace(_Block):
    """A block of a program that has a name."""

    def __init__(self, name: str = "no-op", trace_id: str = "no-op") -> None:
        self.name = name
        self.trace_id = trace_id


class Span(_Block, Generic[TSpanData]):
    """A part of a trace."""

    span_id = "no-op"
    parent_id: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    error: SpanError | None = None

    def set_error(self, error: SpanError) -> None:
        """Nothing to record."""


def trace(
    workflow_name: str,
    trace_id: str | None = None,
    group_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    tracing: Any | None = None,
    disabled: bool = False,
) -> Trace:
    """A block with a name; nothing else comes of it."""
    return Trace(workflow_name, trace_id or "no-op")


def _span(*args: Any, **kwargs: Any) -> Span[Any]:
    """A span that records nothing, whatever it is given."""
    return Span()


# Each takes the arguments of its kind of span, and drops them.
agent_span: Callable[..., Span[Any]] = _span
custom_span: Callable[..., Span[Any]] = _span
function_span: Callable[..., Span[Any]] = _span
generation_span: Callable[..., Span[Any]] = _span
guardrail_span: Callable[..., Span[Any]] = _span
handoff_span: Callable[..., Span[Any]] = _span
mcp_tools_span: Callable[..., Span[Any]] = _span
response_span: Callable[..., Span[Any]] = _span
task_span: Callable[..., Span[Any]] = _span
turn_span: Callable[..., Span[Any]] = _span


def get_current_trace() -> Trace | None:
    """None: no trace is ever current."""
    return None


def get_current_span() -> Span[Any] | None:
    """None: no span is ever current."""
    return None


def gen_trace_id() -> str:
    """A new id in the form of a trace's."""
    return f"trace_{uuid.uuid4().hex}"


def gen_span_id() -> str:
    """A new id in the form of a span's."""
    return f"span_{uuid.uuid4().hex[:24]}"


def gen_group_id() -> str:
    """A new id in the form of a group's."""
    return f"group_{uuid.uuid4().hex[:24]}"


def set_tracing_disabled(disabled: bool) -> None:
    """Nothing to switch: tracing is off, and stays so."""


def set_tracing_export_api_key(api_key: str) -> None:
    """Nothing to authorise: no trace leaves the process."""


def flush_traces() -> None:
    """Nothing waits to be sent."""


def add_trace_processor(span_processor: TracingProcessor) -> None:
    """Accepted with a warning: the processor will not be called."""
    _warn("add_trace_processor", span_processor)


def set_trace_processors(processors: list[TracingProcessor]) -> None:
    """Accepted, with a warning unless the list is empty: the processors will not be called."""
    if processors:
        _warn("set_trace_processors", processors)


def set_trace_provider(provider: Any) -> None:
    """Accepted with a warning: the provider will not be called."""
    _warn("set_trace_provider", provider)


def _warn(function: str, given: object) -> None:
    _log.warning("%s: runstream makes no traces yet, so %.200r will never be called", function, given)
