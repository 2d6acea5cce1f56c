"""The declaration of stream guardrails: windows, decorators, figures."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import Agent, GuardrailFunctionOutput, HoldBackInfo, StreamedText, StreamGuardrail, Window
from runstream.agent.stream_guardrail import stream_guardrail


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of characters, sentences and seconds, not 0"),
        ({"characters": 1, "seconds": 1.0}, "exactly one of characters, sentences and seconds, not 2"),
        ({"characters": 0}, "must be positive, not 0"),
        ({"seconds": float("inf")}, "must be positive, not inf"),
        ({"sentences": 1, "every": 0}, "Window.every must be positive or None, not 0"),
    ],
)
def test_a_window_is_one_size(fields: dict[str, Any], message: str) -> None:
    """What is none is refused, with the value."""
    with pytest.raises(ValueError, match=message):
        Window(**fields)


def test_a_window_has_a_step() -> None:
    """By default half of it, each sentence, and never nothing."""
    assert Window(characters=200).step == 100
    assert Window(characters=1).step == 1
    assert Window(sentences=3).step == 1
    assert Window(seconds=3.0).step == 1.5
    assert Window(characters=200, every=7).step == 7


def test_the_decorator_has_two_forms() -> None:
    """With options and without."""

    @stream_guardrail
    def plain(context: Any, agent: Any, text: StreamedText) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, False)

    @stream_guardrail(window=Window(seconds=2.0), name="other", on_trip="replace", replacement="-")
    async def full(context: Any, agent: Any, text: StreamedText) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, False)

    assert (plain.get_name(), plain.window, plain.on_trip) == ("plain", Window(characters=200), "stop")
    assert (full.get_name(), full.window, full.on_trip, full.replacement) == (
        "other",
        Window(seconds=2.0),
        "replace",
        "-",
    )
    with pytest.raises(ValueError, match="on_trip must be 'stop' or 'replace', not 'halt'"):
        StreamGuardrail(plain.guardrail_function, on_trip="halt")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="stream_guardrails must be a list"):
        Agent(name="Ann", stream_guardrails=plain)  # type: ignore[arg-type]


def test_figures_of_nothing_are_zero() -> None:
    """And the median is one of the delays."""
    info = HoldBackInfo()
    assert (info.deltas, info.delay_p50_s, info.delay_max_s) == (0, 0.0, 0.0)
    info.delays_s.extend([3.0, 1.0, 2.0, 9.0])
    assert (info.deltas, info.delay_p50_s, info.delay_max_s) == (4, 2.0, 9.0)
