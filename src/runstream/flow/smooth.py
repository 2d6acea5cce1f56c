"""Even pacing of the text of one reader: bursts go in, a steady flow of whole words comes out.

Per reader and after the log: nothing here is seen by the run, by other readers or by what is stored. The pace itself is
decided in `flow/pace.py`; here is what waits, reads ahead, and makes events of pieces.

Invariants. The text of the pieces, joined, is the text of the events, and everything keeps its order. Events that are
no text are read only when the consumer asks and nothing is held, and are handed on as they are. The source is read
ahead, in a task, only while text is held and only up to the first event that is no text. When what is held reaches a
bound (`_MAX_HELD` characters or `_MAX_EVENTS` events) it is handed on at once and the source is not read meanwhile.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from runstream.clock import system_clock
from runstream.errors import UserError
from runstream.events.event import MODEL
from runstream.flow.pace import TextPace
from runstream.flow.reading import aclose, cancel_from_anywhere, guarded, iterator_of, stopped
from runstream.flow.text_units import UNITS, Unit

if TYPE_CHECKING:
    from runstream.clock import Clock

__all__ = ["ANSWER", "REASONING", "Smoothed", "part_of", "smooth"]

T = TypeVar("T")

ANSWER = frozenset(("response.output_text.delta", "response.refusal.delta"))
REASONING = frozenset(("response.reasoning_text.delta", "response.reasoning_summary_text.delta"))
_RAW = "raw_response_event"

# What is due sooner by less than this is not worth another wake-up.
_NOTICED_S = 0.01
_MAX_HELD = 64_000
_MAX_EVENTS = 4_000


def smooth(
    events: AsyncIterable[T],
    *,
    by: Unit = "word",
    rate: float | None = None,
    max_lag_s: float = 1.0,
    reasoning: bool = True,
    clock: Clock = system_clock,
) -> Smoothed[T]:
    """The same events with the model's text evenly paced, for people who watch it appear.

    `events` is `result.stream_events()`, `result.events()`, or anything that iterates such events. The text deltas of
    the answer, of refusals and, with `reasoning`, of reasoning come out as events of the same class with a `delta` of
    their own, cut by words, lines, sentences or characters (graphemes). Everything else stays as it is, in its place,
    and waits for nothing: text that is held goes out before it at once. So does the first text.

    No text comes more than `max_lag_s` seconds after it was read; what that leaves of evenness depends on the pauses
    between the model's bursts. `rate` fixes the pace to so many units a second, up to that bound; None adapts it.

    A piece has the fields of the event that its last character came in: `seq`, `sequence_number`, `at`. Read on from
    `Smoothed.cursor`. Raises UserError for options that make no sense.
    """
    if by not in UNITS:
        raise UserError(f"by must be one of {', '.join(UNITS)}, not {by!r}")
    if rate is not None and not 0 < rate < math.inf:
        raise UserError(f"rate must be a number of units a second, more than 0, or None, not {rate!r}")
    if not 0 <= max_lag_s < math.inf:
        raise UserError(f"max_lag_s must be a number of seconds, 0 or more, not {max_lag_s!r}")
    source = guarded(iterator_of(events, "smooth()"))
    kinds = ANSWER | REASONING if reasoning else ANSWER
    return Smoothed(_Reading(source, TextPace(by, rate, max_lag_s), kinds, clock))


class Smoothed(Generic[T]):
    """Iterates over smoothed events. Leaving it leaves the source, and with it a run that nobody else reads."""

    def __init__(self, reading: _Reading) -> None:
        self._reading = reading

    @property
    def cursor(self) -> int:
        """The seq of the last event that was handed on whole: `events(after=cursor)` reads on from there, and repeats
        what was shown of the next event, if any."""
        return self._reading.cursor

    def __aiter__(self) -> Smoothed[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return cast("T", await self._reading.next())
        except BaseException:
            # Whoever keeps the error keeps this frame, and must not thereby keep the source open.
            del self
            raise

    async def aclose(self) -> None:
        """Leave the source: what is held is dropped. The end of the last reader of a run is waited for, as there."""
        await self._reading.aclose()

    def __del__(self) -> None:
        self._reading.drop()


class _Reading:
    """The source, what is held of it, and the task that reads ahead. Knows nothing of who holds the iterator."""

    def __init__(self, source: AsyncIterator[Any], pace: TextPace, kinds: frozenset[str], clock: Clock) -> None:
        self._source: AsyncIterator[Any] | None = source
        self._pace = pace
        self._kinds = kinds
        self._clock = clock
        self.cursor = 0
        self._held: deque[_Held] = deque()
        self._part: tuple[Any, ...] | None = None
        """Which text is held, or was handed on last; None after anything else."""
        self._ahead: Any = None
        """The event that ended the reading ahead."""
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        """Who waits for text to become due, or for something to come."""
        self._waits_until = math.inf
        self._room: asyncio.Future[None] | None = None
        """The reading ahead waits for what is held to go out."""
        self._is_asked = False
        self._is_over = False
        self._is_closed = False
        self._error: BaseException | None = None

    async def next(self) -> Any:
        if self._is_asked:
            raise UserError("somebody waits for the next event already: give each consumer a smooth() of its own")
        self._is_asked = True
        try:
            return await self._next()
        finally:
            self._is_asked = False

    async def _next(self) -> Any:
        while not self._is_closed:
            if self._held:
                if self._must_flush():
                    return self._piece(self._pace.take_all())
                now = self._clock.now()
                taken = self._pace.take(now)
                if taken:
                    return self._piece(taken)
                self._read_ahead()
                await self._wait(now, self._pace.due_at())
                continue
            event, self._ahead = self._ahead, None
            if event is None:
                if self._task is not None:
                    await self._wait(0.0, math.inf)
                    continue
                if self._is_over:
                    self._end()
                event = await self._ask()
            if not self._take_in(event):
                self._part = None
                self.cursor = getattr(event, "seq", self.cursor)
                return event
        raise StopAsyncIteration

    async def _ask(self) -> Any:
        """The next event, straight from the source: whoever waits here may give up as at the source."""
        if self._source is None:
            raise StopAsyncIteration
        try:
            return await self._source.__anext__()
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._is_closed = True
            raise

    def _end(self) -> None:
        self._is_closed = True
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            raise StopAsyncIteration
        finally:
            del error

    def _must_flush(self) -> bool:
        return self._ahead is not None or self._is_over or self._room is not None

    async def _wait(self, now: float, until: float) -> None:
        """Return once it is time, or something has come that matters before."""
        if until <= now:
            return
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._waits_until = until
        try:
            if until == math.inf:
                await waiter
            else:
                async with self._clock.timeout(until - now):
                    await waiter
        except TimeoutError:
            pass
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What is held.

    def _take_in(self, event: Any) -> bool:
        """Hold the event's text; False where it has none, or where other text is held."""
        if (getattr(event, "kind", None) or getattr(event, "type", None)) not in (MODEL, _RAW):
            return False
        data = event.data
        if getattr(data, "type", None) not in self._kinds or not data.delta:
            return False
        part = part_of(event)
        if part != self._part:
            if self._held:
                return False
            self._pace.begin()
            self._part = part
        self._held.append(_Held(event))
        self._pace.feed(data.delta, self._clock.now())
        return True

    def _piece(self, length: int) -> Any:
        """So many characters of what is held, as an event."""
        first = self._held[0]
        text = first.text
        if not first.shown and len(text) == length:
            self._held.popleft()
            self.cursor = getattr(first.event, "seq", self.cursor)
            self._give_room()
            return first.event
        texts: list[str] = []
        logprobs: list[Any] = []
        last = first.event
        while length > 0:
            held = self._held[0]
            last = held.event
            piece = held.text[held.shown : held.shown + length]
            texts.append(piece)
            length -= len(piece)
            held.shown += len(piece)
            if held.shown == len(held.text):
                self._held.popleft()
                logprobs += getattr(last.data, "logprobs", None) or ()
                self.cursor = getattr(last, "seq", self.cursor)
        self._give_room()
        return _with_text(last, "".join(texts), logprobs)

    def _give_room(self) -> None:
        if self._room is not None and not self._room.done() and not self._held:
            self._room.set_result(None)
            self._room = None

    # Reading ahead.

    def _read_ahead(self) -> None:
        if self._task is None and self._source is not None and not self._must_flush():
            self._task = asyncio.get_running_loop().create_task(self._reader(self._source))

    async def _reader(self, source: AsyncIterator[Any]) -> None:
        try:
            while True:
                event = await source.__anext__()
                if not self._take_in(event):
                    self._ahead = event
                    return
                if len(self._held) >= _MAX_EVENTS or self._pace.held >= _MAX_HELD:
                    self._room = asyncio.get_running_loop().create_future()
                    self._wake()
                    await self._room
                elif self._pace.due_at() < self._waits_until - _NOTICED_S:
                    self._wake()
        except StopAsyncIteration:
            self._is_over = True
        except Exception as error:
            self._is_over = True
            self._error = error
        finally:
            # What was cancelled keeps its error, that this frame, and this must not keep the source.
            self._task = self._room = None
            del source
            self._wake()

    # Leaving.

    async def aclose(self) -> None:
        self._is_closed = True
        self._wake()
        await stopped(self._task)
        await aclose(self._source)

    def drop(self) -> None:
        """The iterator is gone: let go of the source, though an error that somebody keeps may hold on to this."""
        cancel_from_anywhere(self._task)
        self._source = None


class _Held:
    """A text event of which some text is still to be handed on."""

    __slots__ = ("event", "shown", "text")

    def __init__(self, event: Any) -> None:
        self.event = event
        self.text: str = event.data.delta
        self.shown = 0


def part_of(event: Any) -> tuple[Any, ...]:
    """What text of the same part has in common."""
    data = event.data
    index = getattr(data, "content_index", None)
    if index is None:
        index = getattr(data, "summary_index", None)
    return (
        data.type,
        getattr(data, "item_id", None),
        getattr(data, "output_index", None),
        index,
        getattr(event, "path", ()),
        getattr(event, "attempt", 0),
        getattr(event, "run_id", None),
    )


def _with_text(event: Any, text: str, logprobs: list[Any]) -> Any:
    """A copy of a text event with another text."""
    update: dict[str, Any] = {"delta": text}
    if hasattr(event.data, "logprobs"):
        update["logprobs"] = logprobs
    if hasattr(event.data, "model_copy"):
        data = event.data.model_copy(update=update)
    else:
        data = copy.copy(event.data)
        for name, value in update.items():
            setattr(data, name, value)
    if isinstance(event, msgspec.Struct):
        return msgspec.structs.replace(event, data=data, frame=None)
    if hasattr(event, "__dataclass_fields__"):
        return dataclasses.replace(event, data=data)
    changed: Any = copy.copy(event)
    changed.data = data
    return changed
