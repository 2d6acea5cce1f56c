"""Several runs for one answer: the first good one wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from runstream.clock import system_clock
from runstream.errors import AgentsException, UserError
from runstream.flow.outcome import Outcome, Startable, finish

if TYPE_CHECKING:
    from runstream.clock import Clock

__all__ = ["NoGoodAnswer", "race"]

R = TypeVar("R")


class NoGoodAnswer(AgentsException):
    """Every run of a race failed, or gave an answer that was not good; or the time was up."""

    code = "no_good_answer"

    def __init__(self, message: str, outcomes: list[Outcome[Any]]) -> None:
        super().__init__(message)
        self.outcomes = outcomes
        """What became of each run, in their order."""


def has_output(result: Any) -> bool:
    """Whether a run's result has a final output. What is no result of a run is good as it is."""
    return getattr(result, "final_output", True) is not None


async def race(
    *runs: Startable[R],
    good: Callable[[R], bool] = has_output,
    timeout_s: float | None = None,
    clock: Clock = system_clock,
) -> R:
    """Start the runs together and return the result of the first that ends with a good answer.

    The others are cancelled then, and this returns once they have ended and their providers' connections are closed:
    for runs that is within `RunConfig.cancel_timeout_s`. `good` judges a result; an error counts as no answer, and one
    that `good` raises comes out. Raises NoGoodAnswer, with every outcome, where there is none (caused by the first
    error, if any) or `timeout_s` seconds are over.
    """
    if not runs:
        raise UserError("race() needs at least one run")
    outcomes: list[Outcome[R]] = [Outcome() for _ in runs]
    racers: list[asyncio.Task[None]] = []
    winners: list[Outcome[R]] = []
    faults: list[Exception] = []

    async def compete(start: Startable[R], outcome: Outcome[R]) -> None:
        await finish(start, outcome)
        if winners or faults:
            return
        try:
            is_good = outcome.ok and good(cast("R", outcome.result))
        except Exception as fault:
            faults.append(fault)
            is_good = False
        if is_good:
            winners.append(outcome)
        if winners or faults:
            for racer in racers:
                if racer is not asyncio.current_task():
                    racer.cancel()

    is_late = False
    try:
        async with clock.timeout(timeout_s), asyncio.TaskGroup() as group:
            racers += [
                group.create_task(compete(start, outcome)) for start, outcome in zip(runs, outcomes, strict=True)
            ]
    except TimeoutError:
        is_late = True
    if faults:
        raise faults[0]
    if winners:
        return cast("R", winners[0].result)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    what = f"no good answer within {timeout_s} s" if is_late else "no run gave a good answer"
    errors = f", {len(failed)} failed: {failed[0]!r:.200}" if failed else ""
    raise NoGoodAnswer(f"{what} ({len(runs)} runs{errors})", outcomes) from (failed[0] if failed else None)
