"""What becomes of one of several runs, and how a run is awaited and given up. Knows runs by their methods only."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from runstream.errors import UserError

__all__ = ["Outcome", "Startable", "StreamedRun", "discard", "finish"]

R = TypeVar("R")


@runtime_checkable
class StreamedRun(Protocol):
    """What a streamed run's result offers here."""

    def cancel(self) -> None:
        """Stop the run."""
        ...

    async def wait(self) -> Any:
        """Wait for the end; raises the run's error."""
        ...


Startable: TypeAlias = Callable[[], R | Awaitable[R]] | Awaitable[R] | R
"""A function that starts a run (`lambda: Runner.run_streamed(agent, "hi")`, `lambda: Runner.run(agent, "hi")`), or one
that is under way: a streamed run's result, or anything that can be awaited. Only functions can wait for their turn."""


@dataclass(slots=True)
class Outcome(Generic[R]):
    """What became of one run."""

    status: Literal["waiting", "running", "completed", "failed", "cancelled"] = "waiting"
    """`waiting`: it was never started. `cancelled`: it was given up. `completed`: it ended without an error; one that
    somebody else has stopped has no `final_output`."""
    result: R | None = None
    """The run's result; of a streamed run that failed or was cancelled, what it had by then."""
    error: BaseException | None = None
    """Why it failed."""

    @property
    def ok(self) -> bool:
        """Whether the run ended without an error."""
        return self.status == "completed"

    @property
    def final_output(self) -> Any:
        """The result's final output; None where there is none."""
        return getattr(self.result, "final_output", None)


async def finish(start: Startable[R], outcome: Outcome[R]) -> None:
    """Start the run and wait for its end; the outcome tells what came of it. Raises nothing but CancelledError.

    When the task that waits is cancelled, the run is, too, and this returns once it has ended: the provider's
    connection is closed then.
    """
    outcome.status = "running"
    try:
        given: Any = cast("Any", start)() if callable(start) else start
        if isinstance(given, StreamedRun):
            outcome.result = cast("R", given)
            await _wait_or_stop(given)
        elif isinstance(given, Awaitable):
            outcome.result = await cast("Awaitable[R]", given)
        else:
            raise UserError(
                f"a run is a function that starts one, a result of run_streamed or an awaitable, not {given!r:.100}"
            )
        outcome.status = "completed"
    except asyncio.CancelledError:
        outcome.status = "cancelled"
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody gave up this wait: what was awaited had been cancelled by others.
    except Exception as error:
        outcome.status = "failed"
        outcome.error = error


async def discard(start: Any) -> None:
    """Give up what was never waited for, so that it neither goes on nor warns."""
    if inspect.iscoroutine(start):
        start.close()
    elif isinstance(start, StreamedRun):
        await _stop(start)
    elif isinstance(start, asyncio.Future):
        cast("asyncio.Future[Any]", start).cancel()
        await asyncio.wait({cast("asyncio.Future[Any]", start)})


async def _wait_or_stop(run: StreamedRun) -> None:
    try:
        await run.wait()
    except asyncio.CancelledError:
        await _stop(run)
        raise


async def _stop(run: StreamedRun) -> None:
    run.cancel()
    ended = asyncio.ensure_future(run.wait())
    await asyncio.wait({ended})
    if not ended.cancelled():
        ended.exception()  # why it ended does not matter any more
