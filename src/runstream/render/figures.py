"""A run's figures in words, for the line that stands under a run in a terminal.

Owns the words, and what the streamed text alone says. The figures are the view's (`view/figures.py`). Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runstream.events.event import ATTEMPT_DISCARDED, MODEL
from runstream.view.figures import Figures
from runstream.view.run_view import RunView

if TYPE_CHECKING:
    from runstream.events.event import Event, RunStatus

__all__ = ["Figures", "FiguresFold", "describe"]


class FiguresFold:
    """Apply a run's events in order; read `figures` at any time."""

    def __init__(self) -> None:
        self._view = RunView(keep_void=False)
        self._message: tuple[Any, ...] | None = None
        self._texts: list[str] = []

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self._view.apply(event)
        if event.path:
            return
        if event.kind == MODEL and event.data.type == "response.output_text.delta":
            message = (len(self._view.main.turns), event.attempt, event.data.output_index)
            if message != self._message:
                self._message, self._texts = message, []
            self._texts.append(event.data.delta)
        elif event.kind == ATTEMPT_DISCARDED:
            self._message, self._texts = None, []

    @property
    def status(self) -> RunStatus | None:
        """How the run ended; None before that."""
        status = self._view.status
        return None if status == "new" or status == "running" else status

    @property
    def last_message(self) -> str:
        """The text deltas of the message that was streamed last, joined: what the final output of text should equal."""
        return "".join(self._texts)

    @property
    def figures(self) -> Figures:
        """The figures of the events so far."""
        return self._view.figures


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
