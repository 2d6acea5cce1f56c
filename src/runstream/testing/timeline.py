"""When what happens in a reply: events, pauses and the fault, in order.

Owns how `Turn`'s timing and its fault are laid over the events of a stream. Pure: it waits for nothing and sends
nothing; `ScriptedModel` and the endpoint act on what it yields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from runstream.testing.faults import Fault, Raise
from runstream.testing.reply import StreamEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runstream.testing.steps import Turn

__all__ = ["Moment", "Strike", "Wait", "timeline"]


class Wait(NamedTuple):
    """Nothing happens for so long."""

    delay_s: float


class Strike(NamedTuple):
    """The fault strikes now, in place of, or before, `event`. If it leaves something of the stream, that follows."""

    fault: Fault | Raise
    event: StreamEvent


Moment: TypeAlias = StreamEvent | Wait | Strike


def timeline(turn: Turn, events: Iterable[StreamEvent]) -> Iterator[Moment]:
    """The moments of a stream with these events.

    A fault that is to come after more deltas than there are strikes before the end.
    """
    if turn.first_after_s:
        yield Wait(turn.first_after_s)
    fault = turn.fault
    place = None if fault is None else fault.place
    deltas = 0
    for event in events:
        if event.is_delta and deltas and turn.every_s:
            yield Wait(turn.every_s)
        is_hit = place == "start" or event.is_end or (event.is_delta and deltas == place)
        if fault is not None and is_hit:
            yield Strike(fault, event)
            if not isinstance(fault, Fault) or fault.kind not in ("silence", "slow_first_byte", "broken_frame"):
                return
            is_lost = fault.kind == "broken_frame"
            fault = place = None
            if is_lost:
                continue
        deltas += event.is_delta
        yield event
