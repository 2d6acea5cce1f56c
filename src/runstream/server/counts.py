"""What a server counts of itself: plain numbers, so that counting costs next to nothing."""

from __future__ import annotations

from collections import Counter

__all__ = ["Counts"]


class Counts:
    """Since the server's begin. Belongs to its event loop; may be read from anywhere."""

    __slots__ = ("bytes_sent", "readers_dropped", "refused", "store_failures")

    def __init__(self) -> None:
        self.bytes_sent = 0
        """Of the bodies of answers, and of WebSocket messages."""
        self.readers_dropped = 0
        """Readers whose clients took nothing for too long."""
        self.refused: Counter[str] = Counter()
        """Requests that were not carried out, by the code of the answer."""
        self.store_failures = 0
        """Requests and streams that ended because the store failed."""
