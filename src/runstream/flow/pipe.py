"""Operators, users' own among them, and how they are put together.

An operator is a callable from an asynchronous iterator of events to one. The plainest is an asynchronous generator
function with one parameter; `smooth` is one, too, and `functools.partial` gives it its options.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeAlias, TypeVar, overload

from runstream.flow.reading import aclose, guarded, iterator_of

__all__ = ["Operator", "Piped", "pipe"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")

Operator: TypeAlias = Callable[[AsyncIterator[A]], AsyncIterator[B]]
"""From a source of events to an iterator of events. It may change, drop, add and delay events."""


@overload
def pipe(source: AsyncIterable[A], /) -> Piped[A]: ...
@overload
def pipe(source: AsyncIterable[A], first: Operator[A, B], /) -> Piped[B]: ...
@overload
def pipe(source: AsyncIterable[A], first: Operator[A, B], second: Operator[B, C], /) -> Piped[C]: ...
@overload
def pipe(
    source: AsyncIterable[A], first: Operator[A, B], second: Operator[B, C], third: Operator[C, D], /
) -> Piped[D]: ...
@overload
def pipe(
    source: AsyncIterable[A],
    first: Operator[A, B],
    second: Operator[B, C],
    third: Operator[C, D],
    fourth: Operator[D, E],
    /,
) -> Piped[E]: ...
@overload
def pipe(source: AsyncIterable[Any], /, *operators: Operator[Any, Any]) -> Piped[Any]: ...


def pipe(source: AsyncIterable[Any], /, *operators: Operator[Any, Any]) -> Piped[Any]:
    """Lead the source's events through the operators, in that order.

    The result behaves as a reader of a run does: leaving it leaves the source (and abandons the run, where that was its
    last reader), a wait that is given up loses nothing, an error of the source comes out at the end unless an operator
    deals with it. Raises UserError where the source, or what an operator returns, is no asynchronous iterator.
    """
    stages = [iterator_of(source, "pipe()")]
    for operator in operators:
        name = getattr(operator, "__name__", type(operator).__name__)
        stages.append(guarded(iterator_of(operator(stages[-1]), f"what comes after the operator {name}")))
    return Piped(stages)


class Piped(Generic[A]):
    """A source and the operators over it, as one iterator."""

    def __init__(self, stages: list[AsyncIterator[Any]]) -> None:
        self._stages = stages
        self._closed = False

    def __aiter__(self) -> Piped[A]:
        return self

    async def __anext__(self) -> A:
        if self._closed:
            raise StopAsyncIteration
        try:
            return await self._stages[-1].__anext__()
        except BaseException:
            # Whoever keeps the error keeps this frame, and must not thereby keep the source open.
            del self
            raise

    async def aclose(self) -> None:
        """Close every operator, from the last to the first, and the source. An operator that fails at that does not
        keep the others open."""
        self._closed = True
        async with AsyncExitStack() as stack:
            for stage in self._stages:
                stack.push_async_callback(aclose, stage)
