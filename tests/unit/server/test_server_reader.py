"""One reader of a run: where it goes on when its channel cannot."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import open_store
from runstream.errors import CursorExpired
from runstream.events.event import RUN_END, RUN_START, Event, RunEnd, RunStart
from runstream.events.segment import encode_segment
from runstream.log.base import Append, NewRun, Segment
from runstream.server.channel import Channel
from runstream.server.reader import Reader


class Hub:
    """A hub whose channels have all failed."""

    closing = False

    def __init__(self, store: Any, error: Exception) -> None:
        self.store = store
        self.error = error
        self.left: list[Reader] = []

    def join(self, reader: Reader) -> Channel:
        channel = Channel("run_1", reader.cursor, 1000)
        channel.join(reader)
        channel.fail(self.error)
        return channel

    def leave(self, reader: Reader) -> None:
        self.left.append(reader)

    def now(self) -> float:
        return 0.0


async def test_a_channel_that_has_lost_events_is_left() -> None:
    """The reader is told once, and then reads what the store still has: it is not told the same for ever."""
    store = open_store("memory://reader-of-a-failed-channel")
    await store.open()
    try:
        epoch = await store.create(NewRun("run_1", "Desk"), worker="w", lease_s=30)
        events = [
            Event("run_1", 1, 1.0, RUN_START, "Desk", 0, (), RunStart("hi")),
            Event("run_1", 2, 1.0, RUN_END, "Desk", 0, (), RunEnd("completed")),
        ]
        [refusal] = await store.append([Append("run_1", epoch, Segment(1, 2, encode_segment(events)), "completed")])
        assert refusal is None
        reader = Reader(Hub(store, CursorExpired(0, 1)), "run_1", 0, 0.0)
        reader.join()
        with pytest.raises(CursorExpired):
            await reader.next()
        assert reader.sending
        [batch] = await reader.next()
        assert [event.seq for event in batch.events] == [1, 2]
        assert reader.ended
    finally:
        await store.aclose()
