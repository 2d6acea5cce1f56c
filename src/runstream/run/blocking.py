"""Runs from code that is not asynchronous: a plain `for`, and calls from inside a running loop (notebooks)."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from runstream.errors import UserError
from runstream.run.active import ActiveRun
from runstream.run.stream_events import StreamEvent, StreamReader

__all__ = ["iterate", "run_blocking"]

_T = TypeVar("_T")


def run_blocking(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of the coroutine, on a loop of its own: in this thread, or where a loop runs here, in another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[_T] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def target() -> None:
        try:
            outcome.append(context.run(asyncio.run, work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="runstream run_sync", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def iterate(open_reader: Callable[[], StreamReader], run: ActiveRun) -> Iterator[StreamEvent]:
    """The events of a run, for a plain `for`, on a private loop.

    Raises UserError where the run already goes on in an event loop: only `async for` can read it there.
    """
    if run.task is not None and not run.ended and not _withdraw(run):
        raise UserError("this run goes on in an event loop: read it there, with `async for`")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _iterate_here(open_reader)
    return _iterate_in_thread(open_reader)


def _withdraw(run: ActiveRun) -> bool:
    """Take a run back from the loop that it was to start on, before its first step."""
    task = run.task
    if task is None or run.begun:
        return False
    task.cancel()
    run.task = None
    return True


def _iterate_here(open_reader: Callable[[], StreamReader]) -> Iterator[StreamEvent]:
    with asyncio.Runner() as runner:
        reader = open_reader()
        try:
            while True:
                try:
                    event = runner.run(_next(reader))
                except StopAsyncIteration:
                    return
                yield event
        finally:
            runner.run(reader.aclose())


async def _next(reader: Any) -> Any:
    return await anext(reader)


def _iterate_in_thread(open_reader: Callable[[], StreamReader]) -> Iterator[StreamEvent]:
    # The loop of this thread cannot go on while a plain `for` holds it, so the run gets a thread. The queue is short:
    # the reader there waits for the caller here, and the run's log keeps what comes meanwhile.
    events: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=64)
    stopped = threading.Event()
    context = contextvars.copy_context()

    def put(entry: tuple[str, Any]) -> bool:
        while not stopped.is_set():
            try:
                events.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    async def read() -> None:
        reader = open_reader()
        try:
            async for event in reader:
                if not put(("event", event)):
                    break
        finally:
            await reader.aclose()

    def target() -> None:
        try:
            context.run(asyncio.run, read())
        except BaseException as error:
            put(("error", error))
        else:
            put(("end", None))

    thread = threading.Thread(target=target, name="runstream for", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = events.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
