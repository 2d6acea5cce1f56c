"""The fold of a run's events into figures, and the line that says them."""

from typing import Any

import pytest

from runstream.events.event import AttemptDiscarded, Event, ItemAdded, RunEnd, RunStart
from runstream.events.model_event import build_event
from runstream.render.figures import Figures, FiguresFold, describe


def event(kind: str, at: float, data: Any, *, attempt: int = 0, path: tuple[str, ...] = ()) -> Event:
    return Event("run_1", 1, at, kind, "Desk", attempt, path, data)


def text(at: float, delta: str, *, output: int = 0, attempt: int = 1, path: tuple[str, ...] = ()) -> Event:
    fields = {"type": "response.output_text.delta", "item_id": "m", "output_index": output, "content_index": 0}
    return event("model", at, build_event({**fields, "delta": delta, "sequence_number": 1}), attempt=attempt, path=path)


def response(at: float, ending: str, *, attempt: int = 1) -> Event:
    data = build_event({"type": f"response.{ending}", "response": {"id": "r", "output": []}, "sequence_number": 9})
    return event("model", at, data, attempt=attempt)


def start(at: float) -> Event:
    return event("run.start", at, RunStart("hi"))


def end(at: float, *, tokens: int | None = 30, status: Any = "completed") -> Event:
    usage = None if tokens is None else {"requests": 1, "total_tokens": tokens}
    return event("run.end", at, RunEnd(status, usage=usage))


def fold_of(*events: Event) -> FiguresFold:
    fold = FiguresFold()
    for seq, each in enumerate(events, start=1):
        each.seq = seq
        fold.apply(each)
    return fold


def test_a_run_of_two_turns() -> None:
    """The times are between stamps: start to first text, and first to last text for the rate."""
    fold = fold_of(
        start(100.0),
        response(100.2, "created"),
        text(100.5, "Let"),
        text(101.0, " me"),
        response(101.0, "completed"),
        response(102.0, "created"),
        text(102.5, "Done"),
        response(102.5, "completed"),
        end(103.0),
    )
    assert fold.figures == Figures(
        time_to_first_text_s=0.5, text_deltas=3, text_deltas_per_s=1.0, events=9, turns=2, tokens=30
    )
    assert fold.status == "completed"
    assert fold.last_message == "Done"


def test_the_rate_needs_two_texts_at_two_times() -> None:
    """One text, or several in one read, have no rate."""
    assert fold_of(start(0.0), text(1.0, "a")).figures.text_deltas_per_s is None
    together = fold_of(start(0.0), text(1.0, "a"), text(1.0, "b")).figures
    assert (together.text_deltas, together.text_deltas_per_s) == (2, None)


def test_a_call_that_is_tried_again_is_one_turn() -> None:
    """A stream that broke off, or failed, and its second attempt count once; the text is the second's."""
    fold = fold_of(
        start(0.0),
        response(0.1, "created"),
        text(0.2, "Half"),
        response(0.3, "failed"),
        response(1.0, "created", attempt=2),
        text(1.1, "Whole", attempt=2),
        response(1.2, "completed", attempt=2),
    )
    assert fold.figures.turns == 1
    assert fold.last_message == "Whole"


def test_the_last_message_begins_anew_with_each_message() -> None:
    """Of two messages in one response, and of two responses, the last one counts."""
    assert (
        fold_of(start(0.0), text(0.1, "One"), text(0.2, "Tw", output=1), text(0.3, "o", output=1)).last_message == "Two"
    )
    again = fold_of(text(0.1, "One"), response(0.2, "completed"), text(0.3, "One"))
    assert again.last_message == "One"


def test_nested_agents_count_as_events_only() -> None:
    """Texts and ends under a path change neither times nor turns."""
    fold = fold_of(start(0.0), text(0.1, "inner", path=("call_1",)), response(0.4, "created"), text(0.5, "outer"))
    assert fold.figures.time_to_first_text_s == 0.5
    assert (fold.figures.events, fold.figures.turns, fold.last_message) == (4, 1, "outer")


def test_nothing_has_happened_yet() -> None:
    """The figures of no events, and of a run without text, have no times."""
    assert FiguresFold().figures == Figures(None, 0, None, 0, 0, None)
    fold = fold_of(
        start(0.0), event("item", 0.1, ItemAdded("tool_called", "tool_call_item", {})), end(1.0, tokens=None)
    )
    assert fold.figures == Figures(None, 0, None, 3, 0, None)


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        (
            Figures(0.487, 130, 26.94, 180, 4, 1648),
            "first text 0.49 s, 27 text deltas/s, 180 events, 4 turns, 1,648 tokens",
        ),
        (
            Figures(1.0, 2000, 12345.6, 2001, 1, 1),
            "first text 1.00 s, 12,346 text deltas/s, 2,001 events, 1 turn, 1 token",
        ),
        (Figures(0.1, 1, None, 1, 1, None), "first text 0.10 s, 1 text delta, 1 event, 1 turn, tokens unknown"),
        (Figures(None, 0, None, 3, 0, None), "no text, 0 text deltas, 3 events, 0 turns, tokens unknown"),
    ],
)
def test_the_line(figures: Figures, line: str) -> None:
    """One line, with what is unknown said so."""
    assert describe(figures) == line


def test_a_text_that_was_discarded_is_not_the_last_message() -> None:
    """What comes after it is, though it is of the same attempt and place."""
    discarded = event("attempt.discarded", 1.0, AttemptDiscarded(1, "taken_over"))
    fold = fold_of(text(1.0, "Half"), discarded, text(1.0, "Whole."))
    assert fold.last_message == "Whole."
