"""From a tool that runs, in whatever thread, into the log of its run: what it reports.

Must not know what tools are. Reports wait here for the run's event loop, at most `_MAX_WAITING` of one call; when there
are more, the oldest go, since a newer report tells more than an older one, and the next event tells how many went.

Invariant: reports are written in their order, before their call's output, and none after that.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

from runstream.events.codec import plain
from runstream.events.event import ToolProgress
from runstream.run.active import ActiveRun

__all__ = ["Reports"]

_MAX_WAITING = 256


class Reports:
    """The reports of one call; calling it adds one. To be made in the run's event loop."""

    __slots__ = ("_call_id", "_dropped", "_is_due", "_lock", "_loop", "_run", "_thread", "_tool_name", "_waiting")

    def __init__(self, run: ActiveRun, tool_name: str, call_id: str) -> None:
        self._run: ActiveRun | None = run
        self._tool_name = tool_name
        self._call_id = call_id
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._waiting: deque[Any] = deque()
        self._dropped = 0
        self._is_due = False

    def __call__(self, data: Any) -> None:
        """Take a report, from any thread; the caller may change its data afterwards."""
        if self._run is None:
            return
        data = plain(data)
        with self._lock:
            self._waiting.append(data)
            if len(self._waiting) > _MAX_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            if self._is_due:
                return
            self._is_due = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._write)
            return
        try:
            self._loop.call_soon_threadsafe(self._write)
        except RuntimeError:
            self._run = None  # the event loop is closed, and so is everything that was in it

    def _write(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            dropped, self._dropped = self._dropped, 0
            self._is_due = False
        run = self._run
        if run is None or run.closed or run.ended:
            return
        if run.durable is not None and run.durable.is_behind:
            # The store is slower than the tool. A tool cannot be made to wait, so its reports go.
            with self._lock:
                self._dropped += dropped + len(waiting)
            return
        for data in waiting:
            run.emit_progress(ToolProgress(self._call_id, self._tool_name, data, dropped))
            dropped = 0

    def close(self) -> None:
        """The call is over: what has come until now is written, and nothing more."""
        self._write()
        self._run = None

    def abandon(self) -> None:
        """Nobody waits for the call any more: nothing more is written."""
        self._run = None
