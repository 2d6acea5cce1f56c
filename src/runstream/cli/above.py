"""Standard output while a prompt is on the screen: what tools print, and what is logged, goes above it, line by line.

Must not know prompts. May be written to by any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import threading
from collections.abc import Callable, Generator

__all__ = ["printed_above"]


class _Lines(io.TextIOBase):
    """A file that hands whole lines on."""

    encoding = "utf-8"

    def __init__(self, told: Callable[[list[str]], object]) -> None:
        self._told = told
        self._rest = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        with self._lock:
            *lines, self._rest = f"{self._rest}{text}".split("\n")
        if lines:
            self._told(lines)
        return len(text)

    def end(self) -> None:
        """Hand on the line that has no end."""
        with self._lock:
            rest, self._rest = self._rest, ""
        if rest:
            self._told([rest])


@contextlib.contextmanager
def printed_above(show: Callable[[list[str]], object]) -> Generator[None]:
    """Within the block `show` is called, in the event loop and the context of the caller, with what is printed."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()

    def told(lines: list[str]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program has ended
            loop.call_soon_threadsafe(show, lines, context=context)

    file = _Lines(told)
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            yield
        finally:
            file.end()
