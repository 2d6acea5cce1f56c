"""Checks on a model's text while it streams: nothing of it is shown before it was checked.

Owns the declaration: which function checks, how much text is held back for it, and what its result tells. Must not
know how text is held back; agents are declared in terms of guardrails and are `Any` here.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, overload

from runstream.agent.context import RunContextWrapper, TContext
from runstream.agent.guardrail import GuardrailFunctionOutput, OutputGuardrailResult
from runstream.errors import UserError

__all__ = [
    "HoldBackInfo",
    "StreamGuardrail",
    "StreamGuardrailResult",
    "StreamedText",
    "Window",
    "stream_guardrail",
]


@dataclass(frozen=True, slots=True)
class Window:
    """How much of a text is held back: exactly one of `characters`, `sentences` and `seconds`.

    What lies within one window of each other is seen together before any of it is shown: with `characters=40`, a number
    of 40 digits that the function finds is never shown, not even its beginning. The end of a message is the end of the
    window. Raises ValueError unless exactly one is given, and for what is not positive.
    """

    characters: int | None = None
    sentences: int | None = None
    seconds: float | None = None
    every: float | None = None
    """How much must be new for another check, in the same unit; by default half a window, and each sentence. Until
    then it is held, too: fewer checks, more delay."""

    def __post_init__(self) -> None:
        given = [size for size in (self.characters, self.sentences, self.seconds) if size is not None]
        if len(given) != 1:
            raise ValueError(f"a Window has exactly one of characters, sentences and seconds, not {len(given)}")
        if not given[0] > 0 or not math.isfinite(given[0]):
            raise ValueError(f"the size of a Window must be positive, not {given[0]!r}")
        if self.every is not None and not self.every > 0:
            raise ValueError(f"Window.every must be positive or None, not {self.every!r}")

    @property
    def step(self) -> float:
        """`every`, or its default."""
        if self.every is not None:
            return self.every
        if self.sentences is not None:
            return 1
        if self.characters is not None:
            return max(1, self.characters // 2)
        assert self.seconds is not None
        return self.seconds / 2


@dataclass(frozen=True, slots=True)
class StreamedText:
    """What a stream guardrail is asked about."""

    text: str
    """The message so far."""
    held: str
    """Its end, which nobody has seen yet: what to look at for anything that fits into the window."""
    new: str
    """What was not in the text when this guardrail was asked last."""
    is_final: bool
    """Whether the message is complete."""


StreamGuardrailFunction: TypeAlias = Callable[
    [RunContextWrapper[TContext], Any, StreamedText], GuardrailFunctionOutput | Awaitable[GuardrailFunctionOutput]
]


@dataclass
class StreamGuardrail(Generic[TContext]):
    """A check on what the model says, made while it says it. Raises ValueError for an `on_trip` that is none."""

    guardrail_function: StreamGuardrailFunction[TContext]
    """Called with context, agent and `StreamedText`; sync (in the event loop: keep it short) or async."""
    window: Window = field(default_factory=lambda: Window(characters=200))
    name: str | None = None
    on_trip: Literal["stop", "replace"] = "stop"
    """After a tripwire: end the run with OutputGuardrailTripwireTriggered, or end the message with `replacement` and
    let the run go on from it."""
    replacement: str = "[withheld]"

    def __post_init__(self) -> None:
        if self.on_trip not in ("stop", "replace"):
            raise ValueError(f"on_trip must be 'stop' or 'replace', not {self.on_trip!r}")

    def get_name(self) -> str:
        """The given name, or that of the function."""
        function: Any = self.guardrail_function
        return self.name or getattr(function, "__name__", None) or type(function).__name__

    def ask(
        self, context: RunContextWrapper[TContext], agent: Any, text: StreamedText
    ) -> GuardrailFunctionOutput | Awaitable[GuardrailFunctionOutput]:
        """Make the check: its outcome, or what to await for it. Raises UserError if the guardrail is no function."""
        if not callable(self.guardrail_function):
            raise UserError(f"Guardrail function must be callable, got {self.guardrail_function!r}")
        return self.guardrail_function(context, agent, text)

    def checked(self, output: Any) -> GuardrailFunctionOutput:
        """The outcome. Raises UserError for what is none."""
        if not hasattr(output, "tripwire_triggered"):
            raise UserError(
                f"Guardrail {self.get_name()!r} must return a GuardrailFunctionOutput, it returned {output!r:.80}"
            )
        return output


@dataclass
class HoldBackInfo:
    """What a stream guardrail has cost, over all that it watched in one run."""

    checks: int = 0
    characters: int = 0
    """How much text it has let pass."""
    delays_s: array[float] = field(default_factory=lambda: array("d"), repr=False)
    """For each delta that it let pass: how long after its arrival that was."""

    @property
    def deltas(self) -> int:
        """How many deltas it has let pass."""
        return len(self.delays_s)

    @property
    def delay_p50_s(self) -> float:
        """The median of the delays; 0.0 where there are none."""
        ordered = sorted(self.delays_s)
        return ordered[(len(ordered) - 1) // 2] if ordered else 0.0

    @property
    def delay_max_s(self) -> float:
        """The longest delay."""
        return max(self.delays_s, default=0.0)


@dataclass
class StreamGuardrailResult(OutputGuardrailResult):
    """What a stream guardrail has found in a run: its latest outcome. `agent_output` is the text that was shown of the
    message it was about, never what was blocked."""

    guardrail: StreamGuardrail[Any]  # pyright: ignore[reportIncompatibleVariableOverride]
    info: HoldBackInfo = field(default_factory=HoldBackInfo)


@overload
def stream_guardrail(func: StreamGuardrailFunction[TContext]) -> StreamGuardrail[TContext]: ...
@overload
def stream_guardrail(
    *,
    window: Window | None = None,
    name: str | None = None,
    on_trip: Literal["stop", "replace"] = "stop",
    replacement: str = "[withheld]",
) -> Callable[[StreamGuardrailFunction[TContext]], StreamGuardrail[TContext]]: ...
def stream_guardrail(
    func: StreamGuardrailFunction[TContext] | None = None,
    *,
    window: Window | None = None,
    name: str | None = None,
    on_trip: Literal["stop", "replace"] = "stop",
    replacement: str = "[withheld]",
) -> StreamGuardrail[TContext] | Callable[[StreamGuardrailFunction[TContext]], StreamGuardrail[TContext]]:
    """Make a function a `StreamGuardrail`: `@stream_guardrail` or `@stream_guardrail(window=Window(...), ...)`."""

    def decorate(function: StreamGuardrailFunction[TContext]) -> StreamGuardrail[TContext]:
        return StreamGuardrail(function, window or Window(characters=200), name, on_trip, replacement)

    return decorate if func is None else decorate(func)
