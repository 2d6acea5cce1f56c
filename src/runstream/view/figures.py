"""What a run amounts to in numbers. Pure: all times are differences of the events' own stamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runstream.view.entries import Turn

__all__ = ["Figures", "figures_of"]


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
    """In and out, of the whole run; None where no model reported any."""
    tokens_per_s: float | None = None
    """Tokens that the models wrote, by the time that they took for it."""


def figures_of(started_at: float | None, turns: Sequence[Turn], events: int, tokens: int | None) -> Figures:
    """The figures of a run that began then and made these calls of models."""
    first = next((turn.first_text_at for turn in turns if turn.first_text_at is not None), None)
    last = next((turn.last_text_at for turn in reversed(turns) if turn.last_text_at is not None), None)
    took_s = 0.0 if first is None or last is None else last - first
    deltas = sum(turn.text_deltas for turn in turns)
    written = [
        (turn.usage.get("output_tokens", 0), turn.ended_at - turn.started_at)
        for turn in turns
        if turn.usage is not None and turn.ended_at is not None
    ]
    writing_s = sum(took for _, took in written)
    return Figures(
        time_to_first_text_s=None if started_at is None or first is None else first - started_at,
        text_deltas=deltas,
        text_deltas_per_s=(deltas - 1) / took_s if took_s > 0 else None,
        events=events,
        turns=len(turns),
        tokens=tokens,
        tokens_per_s=sum(tokens for tokens, _ in written) / writing_s if writing_s > 0 else None,
    )
