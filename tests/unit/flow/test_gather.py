"""flow/gather: many runs, so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, UserError
from runstream.flow.gather import gather
from runstream.testing import FakeClock, ScriptedModel, say


class Office:
    """Makes runs that take their time, and counts those under way."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.results: list[Any] = []
        self.most = 0

    def run(self, text: str = "ok", every_s: float = 1.0, error: Exception | None = None) -> Callable[[], Any]:
        def start() -> Any:
            model = ScriptedModel([error if error is not None else say(text, every_s=every_s)], clock=self.clock)
            config = RunConfig(clock=self.clock)
            result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=config)
            self.results.append(result)
            self.most = max(self.most, sum(not each.is_complete for each in self.results))
            return result

        return start

    def status(self, index: int) -> str:
        return self.results[index]._run.fold.end.status


async def test_outcomes_are_in_order_whatever_ends_first() -> None:
    """Each with its result."""
    office = Office()
    outcomes = await gather([office.run("a b c d"), office.run("x")])
    assert [outcome.final_output for outcome in outcomes] == ["a b c d", "x"]
    assert [outcome.status for outcome in outcomes] == ["completed"] * 2
    assert all(outcome.ok and outcome.error is None for outcome in outcomes)
    assert await gather([]) == []


async def test_no_more_than_the_limit_go_on_at_once() -> None:
    """Runs wait for their turn, and all have it."""
    office = Office()
    outcomes = await gather([office.run(f"answer {number}") for number in range(9)], limit=3)
    assert [outcome.final_output for outcome in outcomes] == [f"answer {number}" for number in range(9)]
    assert office.most == 3


async def test_by_default_a_failure_is_a_value_and_the_others_go_on() -> None:
    """The error stands in its outcome, with the result as far as it came."""
    office = Office()
    outcomes = await gather([office.run("a"), office.run(error=ValueError("no")), office.run("c")], limit=1)
    assert [outcome.status for outcome in outcomes] == ["completed", "failed", "completed"]
    assert isinstance(outcomes[1].error, ValueError)
    assert outcomes[1].result is office.results[1]
    assert outcomes[1].final_output is None


async def test_cancel_stops_the_rest_and_tells_what_each_had() -> None:
    """Runs under way are cancelled, those that wait are never started."""
    office = Office()
    runs = [office.run("a b c d e f", 2.0), office.run(error=ValueError("no")), office.run("never")]
    outcomes = await gather(runs, limit=2, on_error="cancel")
    assert [outcome.status for outcome in outcomes] == ["cancelled", "failed", "waiting"]
    assert outcomes[0].result is office.results[0]
    assert office.status(0) == "cancelled"
    assert len(office.results) == 2


async def test_raise_raises_the_first_error_once_the_rest_have_ended() -> None:
    """Nothing goes on behind the caller's back."""
    office = Office()
    with pytest.raises(ValueError, match="no"):
        await gather([office.run("a b c d e f"), office.run(error=ValueError("no"))], on_error="raise")
    assert office.status(0) == "cancelled"


async def test_after_the_time_out_there_is_what_there_is() -> None:
    """What was not done is stopped; what was done is kept."""
    office = Office()
    runs = [office.run("quick", 0.1), office.run("slow " * 100), office.run("later " * 100)]
    outcomes = await gather(runs, timeout_s=10.0, clock=office.clock)
    assert [outcome.status for outcome in outcomes] == ["completed", "cancelled", "cancelled"]
    assert [office.status(1), office.status(2)] == ["cancelled"] * 2


async def test_cancelled_itself_it_leaves_no_run() -> None:
    """Every run has ended when the cancellation comes out."""
    office = Office()
    runs = [office.run("slow " * 100) for _ in range(3)]
    task = asyncio.create_task(gather(runs, limit=2))
    await office.clock.sleep(5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(office.results) == 2
    assert [office.status(index) for index in range(2)] == ["cancelled"] * 2


async def test_plain_awaitables_and_results_are_runs_too() -> None:
    """`Runner.run(...)`, a function that calls it, a result that is under way, and what starts with an error."""
    office = Office()
    model = ScriptedModel([say("plain"), say("called")], clock=office.clock)
    agent, config = Agent(name="Ann", model=model), RunConfig(clock=office.clock)

    def broken() -> Any:
        raise OSError("cannot start")

    runs: list[Any] = [
        Runner.run(agent, "hi", run_config=config),
        lambda: Runner.run(agent, "hi", run_config=config),
        office.run("streamed")(),
        broken,
        3,
    ]
    outcomes = await gather(runs, limit=1)
    assert [outcome.final_output for outcome in outcomes] == ["plain", "called", "streamed", None, None]
    assert isinstance(outcomes[3].error, OSError)
    assert isinstance(outcomes[4].error, UserError)


async def test_what_never_had_its_turn_neither_goes_on_nor_warns() -> None:
    """A coroutine is closed, a run that was under way is ended, a future cancelled."""
    office = Office()
    under_way = office.run("word " * 100)()
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def never() -> None:
        raise AssertionError

    runs: list[Any] = [office.run(error=ValueError("no")), never(), under_way, future]
    outcomes = await gather(runs, limit=1, on_error="cancel")
    assert [outcome.status for outcome in outcomes] == ["failed", "waiting", "waiting", "waiting"]
    assert office.status(0) == "cancelled"
    assert future.cancelled()


async def test_an_awaitable_that_others_cancelled_is_an_outcome() -> None:
    """It does not end the gathering."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.cancel()
    office = Office()
    runs: list[Any] = [future, office.run("b")]
    outcomes = await gather(runs, limit=1)
    assert [outcome.status for outcome in outcomes] == ["cancelled", "completed"]


@pytest.mark.parametrize("options", [{"limit": 0}, {"on_error": "ignore"}])
async def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """With the value in the message."""
    with pytest.raises(UserError, match=str(next(iter(options.values())))):
        await gather([], **options)
