"""What the metrics of a run consist of: plain records of numbers and names, no content. All times are in seconds.

None stands for what has not come (yet), or cannot be known from the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from runstream.observe.sketch import Sketch

__all__ = ["SHORTEST_S", "AttemptMetrics", "FirstTimes", "GapFigures", "TokenUsage", "ToolMetrics", "TurnMetrics"]


SHORTEST_S = 0.1
"""Over less than this a rate says nothing: what came in one burst came as fast as it was read."""


@dataclass(frozen=True, slots=True)
class FirstTimes:
    """When something was first seen, in seconds from a beginning."""

    event_s: float | None = None
    """Anything of the model."""
    reasoning_s: float | None = None
    text_s: float | None = None
    """Text of an answer, or a refusal."""
    tool_s: float | None = None
    """The beginning of a tool call."""


@dataclass(frozen=True, slots=True)
class GapFigures:
    """Pauses between the chunks of an answer. What came in one read is one chunk."""

    count: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    longest_s: float | None = None
    stalls: int = 0
    """Pauses of at least the fold's `stall_s`."""

    @classmethod
    def of(cls, sketch: Sketch, stalls: int) -> GapFigures:
        longest_s = sketch.longest_s if sketch.count else None
        p50_s, p95_s, p99_s = (sketch.quantile(share) for share in (0.5, 0.95, 0.99))
        return cls(sketch.count, p50_s, p95_s, p99_s, longest_s, stalls)


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What the model reported."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class AttemptMetrics:
    """A model call of which the log has events; attempts that failed before their first content are only counted."""

    number: int
    """As in the events: from 1 within the turn."""
    model: str | None
    """As the model's own events name it."""
    started_at: float
    """Seconds since the epoch: the turn's begin, or when the attempt before it was discarded."""
    ended_at: float | None
    outcome: str | None
    """`completed`, `incomplete`, `failed`, `error` (what the stream said), `discarded`, `broken` (it ended without a
    word); None while it goes on."""
    first: FirstTimes
    """From the attempt's begin."""
    chunks: int
    """Reads that brought content."""
    deltas: int
    streaming_s: float
    """From the first to the last content."""
    gaps: GapFigures
    usage: TokenUsage | None = None
    reason: str | None = None
    """Why it was discarded."""


@dataclass(frozen=True, slots=True)
class TurnMetrics:
    """One turn: a model call with its attempts, and the tools that it asked for."""

    number: int
    """From 1, in the order of the log."""
    agent: str | None
    path: tuple[str, ...]
    started_at: float
    """When the event came that the turn followed (a start, a tool's output): what stands before the request (hooks, a
    session, the caller's own pause) is in it."""
    ended_at: float | None
    attempts_made: int
    """Also those that left nothing in the log."""
    attempts: tuple[AttemptMetrics, ...]
    first: FirstTimes
    output_tokens_per_s: float | None
    """Of the attempt that was completed: its output tokens over its `streaming_s`."""


@dataclass(frozen=True, slots=True)
class ToolMetrics:
    """A call of a tool."""

    name: str
    call_id: str
    agent: str | None
    path: tuple[str, ...]
    started_at: float
    """When the call was in the log, or a person had allowed it."""
    duration_s: float | None
    """Until its output was in the log; None where there is none yet, and for tools that the provider runs."""
