"""Many runs, so many at a time, and what became of each, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from runstream.clock import system_clock
from runstream.errors import UserError
from runstream.flow.outcome import Outcome, Startable, discard, finish

if TYPE_CHECKING:
    from runstream.clock import Clock

__all__ = ["OnError", "gather"]

R = TypeVar("R")

OnError = Literal["keep", "cancel", "raise"]


async def gather(
    runs: Iterable[Startable[R]],
    *,
    limit: int | None = None,
    on_error: OnError = "keep",
    timeout_s: float | None = None,
    clock: Clock = system_clock,
) -> list[Outcome[R]]:
    """Let the runs go on together, at most `limit` at a time, and return what became of each, in their order.

    `on_error` says what the first failure means: `keep` lets the others go on; `cancel` stops them, and all outcomes
    are returned, with what each had; `raise` stops them and raises the error. After `timeout_s` seconds what is not
    done is stopped. Whatever happens, also when this call is cancelled, no run goes on after it, and the providers'
    connections are closed.

    Give functions that start runs where there is a limit: a run that is under way already cannot wait for its turn.
    Raises UserError for options that make no sense.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be a number of runs from 1, or None, not {limit!r}")
    if on_error not in get_args(OnError):
        raise UserError(f"on_error must be one of {', '.join(get_args(OnError))}, not {on_error!r}")
    waiting = list(runs)
    outcomes: list[Outcome[R]] = [Outcome() for _ in waiting]
    following = iter(list(zip(waiting, outcomes, strict=True)))
    failures: list[BaseException] = []
    workers: list[asyncio.Task[None]] = []

    async def work() -> None:
        for start, outcome in following:
            await finish(start, outcome)
            if outcome.error is not None:
                failures.append(outcome.error)
                if on_error != "keep":
                    for worker in workers:
                        if worker is not asyncio.current_task():
                            worker.cancel()
                    return

    try:
        async with clock.timeout(timeout_s), asyncio.TaskGroup() as group:
            workers += [group.create_task(work()) for _ in range(min(limit or len(waiting), len(waiting)))]
    except TimeoutError:
        pass
    finally:
        for start, outcome in zip(waiting, outcomes, strict=True):
            if outcome.status == "waiting":
                await discard(start)
    if failures and on_error == "raise":
        raise failures[0]
    return outcomes
