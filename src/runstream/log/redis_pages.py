"""Pages of a run's log on Redis: what a cursor gets, or why it gets nothing.

Invariant: a page is gapless from the cursor on. What the log is, and what is in it, are asked one after the other: a
log that was trimmed, deleted or replaced between the two is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runstream.errors import CursorExpired, RunNotFound, StoreUnavailable
from runstream.log.base import Page, Segment
from runstream.log.cursor import epoch_of
from runstream.log.redis_hub import entry_order
from runstream.log.redis_lists import parse_epochs
from runstream.log.redis_server import Server

__all__ = ["Pages", "StoredPage", "decode_entry"]

_FIRST_ENTRIES = 32
"""Of a page, to see how large they are; then as many as fit."""
_ENTRIES = 4_096
"""At a time: the server serves nobody else meanwhile."""
_LOOKS = 5


def decode_entry(entry: Any) -> tuple[Segment, bool]:
    """The segment of a stream's entry, and whether the log ends with it."""
    entry_id, fields = entry
    epoch, last = entry_order(entry_id)
    return Segment(int(fields[1]), last, fields[3], epoch), len(fields) > 4


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A page, and the history that it is of."""

    page: Page
    epochs: Sequence[tuple[int, int]]
    first_seq: int
    born: bytes
    """When the run was entered: a run is another one than an earlier one of its id."""


class Pages:
    """Reads them."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def read(self, run_id: str, after: int, max_bytes: int) -> StoredPage:
        """Raises RunNotFound, CursorExpired."""
        meta, log = (self._server.options.run_key(run_id, part) for part in ("meta", "log"))
        for _ in range(_LOOKS):
            fields = await self._server.ask(
                meta, "HMGET", meta, "last", "ended", "first", "epochs", "born", purpose="read"
            )
            if fields[0] is None:
                raise RunNotFound(run_id, self._server.options.shown)
            last_seq, ended, first_seq = int(fields[0]), fields[1] != b"", int(fields[2])
            if after + 1 < first_seq:
                raise CursorExpired(after, first_seq)
            epochs = parse_epochs(fields[3])
            segments: list[Segment] = []
            if after < last_seq:
                segments, ends = await self._segments(log, epoch_of(after + 1, epochs), after + 1, max(1, max_bytes))
                if not segments or segments[0].first_seq > after + 1:
                    continue
                ended = ended or ends
                last_seq = max(last_seq, segments[-1].last_seq)
            return StoredPage(Page(segments, last_seq, ended), epochs, first_seq, fields[4])
        # Meta is there and its log is not: a server that evicts keys has taken it.
        raise StoreUnavailable(
            f"{self._server.options.shown} has lost the log of run {run_id!r}, or it changes too fast"
        )

    async def _segments(self, log: str, epoch: int, seq: int, max_bytes: int) -> tuple[list[Segment], bool]:
        """From the one that holds that seq on, about so many bytes; and whether the log ends with them."""
        segments: list[Segment] = []
        start, count, size, ends = f"{epoch}-{seq}", _FIRST_ENTRIES, 0, False
        while True:
            entries = await self._server.ask(log, "XRANGE", log, start, "+", "COUNT", count, purpose="read")
            for entry in entries:
                segment, ends = decode_entry(entry)
                segments.append(segment)
                size += len(segment.body)
                if size >= max_bytes:
                    return segments, ends
            if len(entries) < count:
                return segments, ends
            start = f"({entries[-1][0].decode()}"
            count = min(_ENTRIES, (max_bytes - size) * len(segments) // max(size, 1) + 1)
