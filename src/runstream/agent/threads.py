"""Threads for work that would block the event loop, which live only as long as there is such work.

asyncio's own pool has four threads more than there are cores, and asyncio itself looks up host names in it: tools that
are stuck there would hold up the saving of sessions and new connections. Must not know what the work is.

Invariants: work begins in the order in which it was given; no thread stays without work, so that there is nothing to
shut down; a program that ends waits for work that has begun, as it does for asyncio's pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Workers", "call_in_thread", "tool_threads"]

_TOOLS_AT_ONCE = 64
_TOOL = "runstream tool"

_R = TypeVar("_R")


class Workers:
    """At most `limit` threads. Any event loop of the process may use them."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0

    def start(self, work: Callable[[], _R]) -> asyncio.Future[_R]:
        """Have the work done in a thread. Work that is cancelled before it began is never done; later it goes on, and
        its outcome is dropped."""
        if self._process_id != os.getpid():
            self._reset()  # after a fork: the threads are the parent's
        future: Future[_R] = Future()
        with self._lock:
            self._waiting.append((future, work))
            begins = self._threads < self._limit
            self._threads += begins
        if begins:
            try:
                # Not a daemon, whatever the thread is that this is called in.
                threading.Thread(target=self._work, name=self._name, daemon=False).start()
            except RuntimeError:
                # No more threads are to be had. Those that there are do it, if there are any.
                with self._lock:
                    self._threads -= 1
                    if not self._threads:
                        self._waiting.clear()
                        raise
        return asyncio.wrap_future(future)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                future, work = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
                    del error
            del future, work  # this thread may soon be the only one that holds them


# One set for each event loop: a tool that begins an event loop of its own does not wait for itself.
_workers_of_tools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Workers] = weakref.WeakKeyDictionary()


def tool_threads() -> list[threading.Thread]:
    """The threads in which functions of the user's are at work now."""
    return [thread for thread in threading.enumerate() if thread.name == _TOOL]


async def call_in_thread(function: Callable[..., _R], *arguments: Any) -> _R:
    """Call a plain function of the user's in a thread, with the caller's context variables."""
    loop = asyncio.get_running_loop()
    workers = _workers_of_tools.get(loop)
    if workers is None:
        workers = _workers_of_tools[loop] = Workers(_TOOL, _TOOLS_AT_ONCE)
    context = contextvars.copy_context()
    return await workers.start(lambda: context.run(function, *arguments))
