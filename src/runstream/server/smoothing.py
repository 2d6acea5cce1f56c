"""Even pacing for one reader of a server: whole events are held back and given out evenly.

The pace is that of `flow/smooth`, decided in `flow/pace.py`. Unlike there no event is ever cut: a frame is one event,
its id the place after it, and a client that comes again after a lost connection must miss nothing. So an event goes
out once its text is due to its end; what a person sees ends with a unit wherever the model's own pieces do.

Stands between a reader and whoever sends its events; neither readers that do not ask for it nor channels know of it.

Invariants. Events keep their order, and all are given out. Text waits at most `max_lag_s` seconds after it was read;
the first text of a part, all that is no text, what comes from the store and the end of a stream wait for nothing, and
what is held goes out before them at once. At `_MAX_HELD` characters or `_MAX_EVENTS` events all that is held goes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

from runstream.clock import Clock
from runstream.errors import AgentsException
from runstream.events.event import MODEL, Event
from runstream.flow.pace import TextPace
from runstream.flow.smooth import ANSWER, REASONING, part_of
from runstream.flow.text_units import UNITS, Unit
from runstream.server.answers import Refused
from runstream.server.channel import Batch
from runstream.server.reader import Reader

__all__ = ["SmoothReader", "unit_of"]

_TEXTS = ANSWER | REASONING
_MAX_LAG_S = 1.0
_MAX_HELD = 64_000
_MAX_EVENTS = 4_000


def unit_of(given: str | None) -> Unit | None:
    """What a client has asked for with `smooth=`; None for nothing. Raises Refused for what is no unit."""
    if given is None:
        return None
    if given not in UNITS:
        raise Refused(422, "invalid_smooth", f"smooth is one of {', '.join(UNITS)}")
    return cast("Unit", given)


class SmoothReader:
    """`next()` is the reader's, but evenly paced. The reader stays with its owner, who drops and closes it."""

    def __init__(self, reader: Reader, by: Unit, clock: Clock, *, max_lag_s: float = _MAX_LAG_S) -> None:
        self._reader = reader
        self._clock = clock
        self._pace = TextPace(by, None, max_lag_s)
        self._held: deque[tuple[Event, int, int]] = deque()
        """Events, their epochs, and where their texts end in what the pace was fed."""
        self._fed = 0
        """Characters that the pace was fed, in all."""
        self._due = 0
        """Of them, those whose time has come."""
        self._part: tuple[Any, ...] | None = None
        """Which text is held, or was given out last; None after anything else."""
        self._error: AgentsException | None = None

    async def next(self) -> Sequence[Batch]:
        """The next batches, after a wait if none is due. Is empty, and raises, as the reader's."""
        while True:
            due = self._take_due()
            if due:
                return due
            error, self._error = self._error, None
            if error is not None:
                raise error
            try:
                batches = await self._read()
            except TimeoutError:
                continue
            except AgentsException as failure:
                if not self._held:
                    raise
                self._error = failure
                return self._take_all()
            if not batches:
                return self._take_all()
            ready = self._sorted(batches)
            if ready:
                return ready

    async def _read(self) -> Sequence[Batch]:
        """What the reader gives next. Raises TimeoutError where what is held is due before that: nothing is lost."""
        if not self._held:
            return await self._reader.next()
        async with self._clock.timeout(max(self._pace.due_at() - self._clock.now(), 0.0)):
            return await self._reader.next()

    def _take_due(self) -> list[Batch]:
        held = self._held
        if not held:
            return []
        self._due += self._pace.take(self._clock.now())
        ready: list[tuple[Event, int]] = []
        while held and held[0][2] <= self._due:
            event, epoch, _ = held.popleft()
            ready.append((event, epoch))
        return _batches(ready)

    def _take_all(self) -> list[Batch]:
        ready: list[tuple[Event, int]] = []
        self._flush(ready)
        return _batches(ready)

    def _flush(self, ready: list[tuple[Event, int]]) -> None:
        """Add what is held to that."""
        ready += [(event, epoch) for event, epoch, _ in self._held]
        self._held.clear()
        self._pace.take_all()
        self._due = self._fed

    def _sorted(self, batches: Sequence[Batch]) -> list[Batch]:
        """Hold what is to wait, and return what is not."""
        ready: list[tuple[Event, int]] = []
        if not self._reader.is_live:
            # It is from before: nobody watches that appear.
            self._flush(ready)
            self._part = None
            return [*_batches(ready), *batches]
        now = self._clock.now()
        for batch in batches:
            for event in batch.events:
                is_text = event.kind == MODEL and event.data.type in _TEXTS and event.data.delta
                part = part_of(event) if is_text else None
                begins = part is None or part != self._part
                if begins:
                    self._flush(ready)
                    ready.append((event, batch.epoch))
                    self._part = part
                if part is None:
                    continue
                if begins:
                    self._pace.begin()
                self._pace.feed(event.data.delta, now)
                self._fed += len(event.data.delta)
                if begins:
                    self._due += self._pace.take(now)
                else:
                    self._held.append((event, batch.epoch, self._fed))
        if len(self._held) >= _MAX_EVENTS or self._pace.held >= _MAX_HELD:
            self._flush(ready)
        return _batches(ready)


def _batches(ready: Iterable[tuple[Event, int]]) -> list[Batch]:
    return [Batch([event for event, _ in group], epoch) for epoch, group in groupby(ready, key=itemgetter(1))]
