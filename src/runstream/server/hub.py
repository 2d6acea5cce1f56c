"""One channel for each run that has readers, and the clock of all readers: heartbeats, and who is stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runstream.clock import Clock
from runstream.log.base import Store
from runstream.run.active import ActiveRun
from runstream.server.channel import Channel
from runstream.server.counts import Counts
from runstream.server.reader import Reader
from runstream.server.source import LocalSource, StoredSource

__all__ = ["Hub", "TooManyReaders"]

_TICK_S = 1.0


class TooManyReaders(Exception):
    """The run has as many readers as the server allows."""


class Hub:
    """Belongs to one event loop. `carried` gives the run of an id where it is carried out in this process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        carried: Callable[[str], ActiveRun | None],
        counts: Counts,
        *,
        max_readers_per_run: int,
        ring_bytes: int,
        heartbeat_s: float,
        stuck_after_s: float,
    ) -> None:
        self.store = store
        self.max_readers_per_run = max_readers_per_run
        self._clock = clock
        self._carried = carried
        self.counts = counts
        self._ring_bytes = ring_bytes
        self._heartbeat_s = heartbeat_s
        self._stuck_after_s = stuck_after_s
        self._channels: dict[str, Channel] = {}
        self._readers: dict[str, set[Reader]] = {}
        self._ticking: asyncio.Task[None] | None = None
        self.closing = False

    @property
    def reader_count(self) -> int:
        """How many readers there are."""
        return sum(len(readers) for readers in self._readers.values())

    @property
    def lag(self) -> int:
        """How many events the slowest reader is behind what this process knows of its run."""
        return max(
            (
                channel.last_seq - reader.cursor
                for run_id, channel in self._channels.items()
                for reader in self._readers.get(run_id, ())
            ),
            default=0,
        )

    def open(self, run_id: str, after: int) -> Reader:
        """A reader that begins after that seq. To be closed. Raises TooManyReaders."""
        readers = self._readers.setdefault(run_id, set())
        if len(readers) >= self.max_readers_per_run:
            raise TooManyReaders
        reader = Reader(self, run_id, after, self._clock.now())
        readers.add(reader)
        if self._ticking is None and not self.closing:
            self._ticking = asyncio.get_running_loop().create_task(self._tick(), name="runstream server heartbeat")
        return reader

    def leave(self, reader: Reader) -> None:
        """A reader goes away; the channel goes with the last one."""
        readers = self._readers.get(reader.run_id)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self._readers[reader.run_id]
        channel = self._channels.get(reader.run_id)
        if channel is not None:
            channel.leave(reader)
            if channel.closed:
                del self._channels[reader.run_id]
        if not self._readers and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def join(self, reader: Reader) -> Channel | None:
        """The channel of the reader's run, which wakes it from now on. A new one begins where the reader is. None
        where it lacks what has left the ring already."""
        run_id = reader.run_id
        channel = self._channels.get(run_id)
        if channel is not None and not channel.over:
            return channel if channel.join(reader) else None
        channel = self._channels[run_id] = Channel(run_id, reader.cursor, self._ring_bytes)
        channel.join(reader)
        run = self._carried(run_id)
        stored = StoredSource(channel, self.store)
        if run is not None and LocalSource.can_begin(run, reader.cursor):
            channel.begin(LocalSource(channel, run, stored))
        else:
            channel.begin(stored)
        return channel

    def now(self) -> float:
        """The time by the server's clock."""
        return self._clock.now()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_TICK_S)
            now = self._clock.now()
            for readers in list(self._readers.values()):
                for reader in list(readers):
                    if reader.sending:
                        if now - reader.active_at > self._stuck_after_s:
                            self.counts.readers_dropped += not reader.dropped
                            reader.drop()
                    elif now - reader.active_at >= self._heartbeat_s:
                        reader.beat()

    def close(self) -> None:
        """Every reader is told that there is nothing more, here."""
        self.closing = True
        for readers in list(self._readers.values()):
            for reader in list(readers):
                reader.wake()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
