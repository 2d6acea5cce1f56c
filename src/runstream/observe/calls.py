"""Model calls and turns while they go on: what the fold of the metrics counts in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runstream.agent.raw_item import read_field
from runstream.events.event import GuardrailChecked
from runstream.observe.figures import SHORTEST_S, AttemptMetrics, FirstTimes, GapFigures, TokenUsage, TurnMetrics
from runstream.observe.sketch import Sketch

__all__ = [
    "CONTENT",
    "EVENT",
    "FIRST_NAMES",
    "OUTCOMES",
    "REASONING",
    "TEXT",
    "TOOL",
    "Attempt",
    "Lane",
    "QueueTime",
    "Turn",
    "contents_of",
    "held_up_turn",
    "is_fallback",
    "total_usage",
    "usage_of",
]

EVENT, REASONING, TEXT, TOOL = range(4)
FIRST_NAMES = ("event", "reasoning", "text", "tool")

CONTENT = {
    "response.output_text.delta": TEXT,
    "response.refusal.delta": TEXT,
    "response.reasoning_text.delta": REASONING,
    "response.reasoning_summary_text.delta": REASONING,
    "response.function_call_arguments.delta": TOOL,
    "response.custom_tool_call_input.delta": TOOL,
    "response.mcp_call_arguments.delta": TOOL,
}
OUTCOMES = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "error": "error",
}


class Attempt:
    """A model call while it goes on."""

    __slots__ = (
        "chunks",
        "deltas",
        "ended_at",
        "first_at",
        "firsts",
        "gaps",
        "last_at",
        "model",
        "number",
        "outcome",
        "reason",
        "stalls",
        "started_at",
        "usage",
    )

    def __init__(self, number: int, started_at: float) -> None:
        self.number = number
        self.started_at = started_at
        self.ended_at: float | None = None
        self.model: str | None = None
        self.outcome: str | None = None
        self.reason: str | None = None
        self.usage: TokenUsage | None = None
        self.firsts: list[float | None] = [None, None, None, None]
        self.gaps = Sketch()
        self.stalls = 0
        self.chunks = 0
        self.deltas = 0
        self.first_at = 0.0
        self.last_at = 0.0

    @property
    def metrics(self) -> AttemptMetrics:
        return AttemptMetrics(
            self.number,
            self.model,
            self.started_at,
            self.ended_at,
            self.outcome,
            FirstTimes(*self.firsts),
            self.chunks,
            self.deltas,
            self.last_at - self.first_at,
            GapFigures.of(self.gaps, self.stalls),
            self.usage,
            self.reason,
        )


class Turn:
    """A turn while it goes on."""

    __slots__ = ("agent", "attempts", "ended_at", "firsts", "is_answered", "made", "made_before", "path", "started_at")

    def __init__(self, agent: str | None, path: tuple[str, ...], started_at: float) -> None:
        self.agent = agent
        self.path = path
        self.started_at = started_at
        self.ended_at: float | None = None
        self.attempts: list[Attempt] = []
        self.made = 0
        self.made_before = 0
        """How many were made by workers that have left the run."""
        self.firsts: list[float | None] = [None, None, None, None]
        self.is_answered = False

    def metrics(self, number: int) -> TurnMetrics:
        rate = None
        for attempt in self.attempts:
            streaming_s = attempt.last_at - attempt.first_at
            if attempt.outcome == "completed" and attempt.usage is not None and streaming_s >= SHORTEST_S:
                rate = attempt.usage.output_tokens / streaming_s
        return TurnMetrics(
            number,
            self.agent,
            self.path,
            self.started_at,
            self.ended_at,
            self.made,
            tuple(attempt.metrics for attempt in self.attempts),
            FirstTimes(*self.firsts),
            rate,
        )


class Lane:
    """The run itself, or a nested agent: each takes its turns one after the other."""

    __slots__ = ("agent", "attempt", "last_at", "path", "restart_at", "turn")

    def __init__(self, path: tuple[str, ...], at: float) -> None:
        self.path = path
        self.agent: str | None = None
        self.turn: Turn | None = None
        self.attempt: Attempt | None = None
        self.last_at = at
        self.restart_at: float | None = None
        """When the attempt before the next one was discarded."""


class QueueTime:
    """How long a run has waited for its place."""

    __slots__ = ("_at", "position", "waited_s")

    def __init__(self) -> None:
        self._at = 0.0
        self.position = 0
        self.waited_s = 0.0

    def move(self, position: int, at: float) -> None:
        """It stands there now; 0 is that it waits no longer."""
        if self.position:
            self.waited_s += at - self._at
        self.position, self._at = position, at


def contents_of(response: Any) -> list[int]:
    """What is in an answer that did not stream: it is there all at once."""
    kinds = [str(read_field(item, "type")) for item in read_field(response, "output") or ()]
    known = {"message": TEXT, "reasoning": REASONING}
    return [known.get(kind, TOOL) for kind in kinds if kind in known or kind.endswith("_call")]


def is_fallback(before: Attempt, attempt: Attempt) -> bool:
    """Whether another model answers, though no event has said so."""
    if before.reason == "fallback" or before.model is None or attempt.model is None:
        return False
    return before.model != attempt.model


def usage_of(response: Any) -> TokenUsage | None:
    usage = read_field(response, "usage")
    if usage is None:
        return None
    cached = read_field(read_field(usage, "input_tokens_details"), "cached_tokens")
    reasoning = read_field(read_field(usage, "output_tokens_details"), "reasoning_tokens")
    return TokenUsage(
        read_field(usage, "input_tokens") or 0,
        read_field(usage, "output_tokens") or 0,
        read_field(usage, "total_tokens") or 0,
        cached or 0,
        reasoning or 0,
    )


def total_usage(told: Iterable[TokenUsage | None], counted: Mapping[str, int]) -> TokenUsage:
    """The sum of what responses told; or what the run itself has counted, where that is more."""
    used = [usage for usage in told if usage is not None]
    return TokenUsage(
        max(sum(usage.input_tokens for usage in used), counted.get("input_tokens", 0)),
        max(sum(usage.output_tokens for usage in used), counted.get("output_tokens", 0)),
        max(sum(usage.total_tokens for usage in used), counted.get("total_tokens", 0)),
        sum(usage.cached_input_tokens for usage in used),
        sum(usage.reasoning_tokens for usage in used),
    )


def held_up_turn(told: GuardrailChecked) -> bool:
    """Whether the turn that follows began only after that check: not one beside a model call, nor of its text."""
    return told.about in ("input", "added_input") and told.delay_s > 0
