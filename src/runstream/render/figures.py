"""What a run's events amount to in numbers: a pure fold, for the line that stands under a run in a terminal.

Owns `Figures` and how they are put into words. Must not know terminals, clocks or models: all times are differences of
the events' own stamps. Events of nested agents (those with a path) count as events only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runstream.events.event import ATTEMPT_DISCARDED, MODEL, RUN_END, RUN_START

if TYPE_CHECKING:
    from runstream.events.event import Event, RunStatus

__all__ = ["Figures", "FiguresFold", "describe"]

_TEXT_DELTA = "response.output_text.delta"
# What ends a model call for good; a stream that failed or broke off may be tried again within its turn.
_RESPONSE_ENDS = ("response.completed", "response.incomplete")


@dataclass(frozen=True, slots=True)
class Figures:
    """Times are in seconds; None stands for what cannot be known (yet)."""

    time_to_first_text_s: float | None
    """From the start of the run to the first text of the model."""
    text_deltas: int
    text_deltas_per_s: float | None
    """Between the first and the last text; None for less than two, or where they came at once."""
    events: int
    turns: int
    """Model calls; one that was tried again counts once."""
    tokens: int | None
    """In and out, of the whole run; None before its end, and where the model reported none."""


class FiguresFold:
    """Apply a run's events in order, from the first; read `figures` at any time."""

    def __init__(self) -> None:
        self._started_at: float | None = None
        self._first_text_at: float | None = None
        self._last_text_at = 0.0
        self._text_deltas = 0
        self._events = 0
        self._turns = 0
        self._in_turn = False
        self._tokens: int | None = None
        self._message: tuple[Any, ...] | None = None
        self._texts: list[str] = []
        self.status: RunStatus | None = None
        """How the run ended; None before that."""

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self._events += 1
        if event.path:
            return
        if event.kind == MODEL:
            self._apply_model(event)
        elif event.kind == RUN_START:
            self._started_at = event.at
        elif event.kind == ATTEMPT_DISCARDED:
            self._message, self._texts = None, []
        elif event.kind == RUN_END:
            self.status = event.data.status
            usage: dict[str, int] | None = event.data.usage
            self._tokens = usage.get("total_tokens") or None if usage else None

    def _apply_model(self, event: Event) -> None:
        data = event.data
        if not self._in_turn:
            self._in_turn = True
            self._turns += 1
        if data.type == _TEXT_DELTA:
            if self._first_text_at is None:
                self._first_text_at = event.at
            self._last_text_at = event.at
            self._text_deltas += 1
            message = (self._turns, event.attempt, data.output_index)
            if message != self._message:
                self._message, self._texts = message, []
            self._texts.append(data.delta)
        elif data.type in _RESPONSE_ENDS:
            self._in_turn = False

    @property
    def last_message(self) -> str:
        """The text deltas of the message that was streamed last, joined: what the final output of text should equal."""
        return "".join(self._texts)

    @property
    def figures(self) -> Figures:
        """The figures of the events so far."""
        start, first = self._started_at, self._first_text_at
        took_s = 0.0 if first is None else self._last_text_at - first
        return Figures(
            time_to_first_text_s=None if start is None or first is None else first - start,
            text_deltas=self._text_deltas,
            text_deltas_per_s=(self._text_deltas - 1) / took_s if took_s > 0 else None,
            events=self._events,
            turns=self._turns,
            tokens=self._tokens,
        )


def describe(figures: Figures) -> str:
    """The figures in one line of plain text, without a line end."""
    first_s, rate = figures.time_to_first_text_s, figures.text_deltas_per_s
    return ", ".join(
        (
            "no text" if first_s is None else f"first text {first_s:.2f} s",
            _count(figures.text_deltas, "text delta") if rate is None else f"{_rounded(rate)} text deltas/s",
            _count(figures.events, "event"),
            _count(figures.turns, "turn"),
            "tokens unknown" if figures.tokens is None else _count(figures.tokens, "token"),
        )
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _rounded(rate: float) -> str:
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"
