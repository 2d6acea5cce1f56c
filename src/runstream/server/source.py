"""Where a channel's events come from: the log of a run that is carried out in this process, or the store.

The first costs no read and no decode: events come from the run's own log as soon as the store has acknowledged them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from runstream.errors import AgentsException, CursorExpired, StoreError
from runstream.events.event import Event
from runstream.log.base import Store, Tail
from runstream.log.run_writer import RunWriter
from runstream.run.active import ActiveRun
from runstream.run.durable import DurableRun
from runstream.run.feed import in_background
from runstream.server.channel import Channel, Source
from runstream.server.reader import batches_of

__all__ = ["LocalSource", "StoredSource"]


class LocalSource:
    """Follows a run that is carried out here. Where it goes on elsewhere, `successor` follows it from then on."""

    __slots__ = ("_channel", "_closed", "_run", "_successor", "_writer")

    def __init__(self, channel: Channel, run: ActiveRun, successor: Source) -> None:
        self._channel = channel
        self._run = run
        self._writer: RunWriter = cast("DurableRun", run.durable).writer
        self._successor = successor
        self._closed = False

    @staticmethod
    def can_begin(run: ActiveRun, after: int) -> bool:
        """Whether the run's own log has everything after that seq, and is being written."""
        durable = run.durable
        return (
            isinstance(durable, DurableRun) and durable.writer.failure is None and after + 1 >= run.log.first_seq
        ) and not run.ended

    def begin(self) -> None:
        if self._run.task is not None:
            # It ends here also where it is handed on, and then nobody writes any more. Not a waiter of the run's.
            asyncio.Task[None].add_done_callback(self._run.task, self._run_left)
        self._writer.listeners.append(self._committed)
        self._catch_up()

    def close(self) -> None:
        self._closed = True
        if self._run.task is not None:
            asyncio.Task[None].remove_done_callback(self._run.task, self._run_left)
        if self._committed in self._writer.listeners:
            self._writer.listeners.remove(self._committed)

    def _committed(self, events: Sequence[Event]) -> None:
        """The next events are in the store; or nothing more is written."""
        channel = self._channel
        try:
            if events and events[0].seq == channel.last_seq + 1:
                channel.publish(events, self._writer.epoch)
            else:
                self._catch_up()
        except Exception as error:  # the flush of all runs must not end here
            self.close()
            failure = StoreError(f"events of {channel.run_id} cannot be given to readers: {error!r}")
            failure.__cause__ = error
            channel.fail(failure)

    def _catch_up(self) -> None:
        """Publish what is committed and in the run's own log."""
        if self._closed:
            return
        channel, log, writer = self._channel, self._run.log, self._writer
        last = min(writer.committed_seq, log.last_seq)
        while channel.last_seq < last:
            try:
                events = log.read(channel.last_seq)
            except CursorExpired:
                self._give_up()
                return
            if events[-1].seq > last:
                events = events[: last - events[-1].seq]
            channel.publish(events, writer.epoch)
        if writer.failure is not None and not channel.ended:
            self._give_up()

    def _run_left(self, _: Any) -> None:
        """The run is over, here."""
        self._catch_up()
        if not self._channel.ended and not self._closed:
            self._give_up()

    def _give_up(self) -> None:
        self.close()
        self._channel.begin(self._successor)


class StoredSource:
    """Follows the run in its store."""

    __slots__ = ("_channel", "_store", "_task")

    def __init__(self, channel: Channel, store: Store) -> None:
        self._channel = channel
        self._store = store
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = in_background(self._follow())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        channel = self._channel
        tail: Tail = self._store.tail(channel.run_id, channel.last_seq)
        try:
            while not channel.ended:
                page = await tail.next()
                for batch in batches_of(page.segments, channel.run_id, channel.last_seq) if page.segments else ():
                    self._check(batch.events[0])
                    channel.publish(batch.events, batch.epoch)
                if page.ended and not page.segments:
                    channel.end()
        except AgentsException as error:
            channel.fail(error)
        except ValueError as error:
            channel.fail(StoreError(f"the log of {channel.run_id} cannot be read: {error}"))
        finally:
            await tail.aclose()

    def _check(self, event: Event) -> None:
        if event.seq != self._channel.last_seq + 1:
            raise StoreError(
                f"the store {self._store.url} gave the event {event.seq} of {event.run_id} after "
                f"{self._channel.last_seq}: its log is damaged"
            )
