"""Runs from code that is not asynchronous: a plain `for`, and calls from inside a running loop (notebooks)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from runstream.errors import UserError
from runstream.run.active import ActiveRun
from runstream.run.followed import FollowedRun
from runstream.run.stream_events import StreamEvent, StreamReader

__all__ = ["iterate", "run_blocking"]

_T = TypeVar("_T")


def run_blocking(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of the coroutine, on a loop of its own: in this thread, or where a loop runs here, in another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with _LoopThread("runstream run_sync") as loop:
        return loop.run(work)


def iterate(open_reader: Callable[[], StreamReader], run: ActiveRun | FollowedRun) -> Iterator[StreamEvent]:
    """The events of a run, for a plain `for`, on a private loop.

    Raises UserError where the run already goes on in an event loop: only `async for` can read it there.
    """
    if isinstance(run, FollowedRun):
        raise UserError("this run is read from its store, in the event loop that it was attached in: use `async for`")
    if run.task is not None and not run.ended and not _withdraw(run):
        raise UserError("this run goes on in an event loop: read it there, with `async for`")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _iterate_here(open_reader, run)
    return _iterate_in_thread(open_reader, run)


def _withdraw(run: ActiveRun) -> bool:
    """Take a run back from the loop that it was to start on, before its first step."""
    task = run.task
    if task is None or run.begun:
        return False
    run.task = None
    task.cancel()
    return True


def _iterate_here(open_reader: Callable[[], StreamReader], run: ActiveRun) -> Iterator[StreamEvent]:
    with asyncio.Runner() as runner:
        yield from _events(runner.run, open_reader, run)


def _iterate_in_thread(open_reader: Callable[[], StreamReader], run: ActiveRun) -> Iterator[StreamEvent]:
    # The loop of this thread cannot go on while a plain `for` holds it, so the run gets a thread.
    with _LoopThread("runstream for") as loop:
        yield from _events(loop.run, open_reader, run)


def _events(
    wait_for: Callable[[Coroutine[Any, Any, Any]], Any], open_reader: Callable[[], StreamReader], run: ActiveRun
) -> Iterator[StreamEvent]:
    reader = open_reader()
    try:
        while True:
            try:
                event = wait_for(_next(reader))
            except StopAsyncIteration:
                return
            yield event
    finally:
        wait_for(_leave(reader, run))


async def _next(reader: StreamReader) -> StreamEvent:
    return await anext(reader)


async def _leave(reader: StreamReader, run: ActiveRun) -> None:
    await reader.aclose()
    if run.config.on_abandon == "detach":
        # The run is to finish, and its loop ends with the `for`.
        await run.wait_ended()


class _LoopThread:
    """An event loop that goes on in a thread of its own, as long as the `with` block lasts."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._stopped = asyncio.Event()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of the coroutine, which runs in that loop, in the caller's context."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        finally:
            # Only an interrupt of this thread (Ctrl-C) ends the waiting before the work.
            future.cancel()

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            self._started.set_result(runner.get_loop())
            runner.run(self._wait_stopped())

    async def _wait_stopped(self) -> None:
        await self._stopped.wait()

    def __enter__(self) -> _LoopThread:
        self._thread.start()
        self._loop = self._started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Leaving its loop cancels what is left there and waits for it.
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
