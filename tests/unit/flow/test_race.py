"""flow/race: the first good answer wins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runstream import Agent, OpenAIProvider, RunConfig, Runner, UserError
from runstream.flow.race import NoGoodAnswer, race
from runstream.testing import Endpoint, FakeClock, ScriptedModel, say


class Track:
    """Makes runs and keeps their results."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.results: list[Any] = []

    def run(self, text: str = "ok", every_s: float = 1.0, error: Exception | None = None) -> Callable[[], Any]:
        def start() -> Any:
            model = ScriptedModel([error if error is not None else say(text, every_s=every_s)], clock=self.clock)
            config = RunConfig(clock=self.clock)
            self.results.append(Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=config))
            return self.results[-1]

        return start

    def statuses(self) -> list[str]:
        return [result._run.fold.end.status for result in self.results]


async def test_the_first_answer_wins_and_the_others_have_ended() -> None:
    """When race() returns, the losers are cancelled."""
    track = Track()
    winner = await race(track.run("slow " * 50), track.run("quick"), track.run("slow " * 50))
    assert winner is track.results[1]
    assert winner.final_output == "quick"
    assert track.statuses() == ["cancelled", "completed", "cancelled"]


async def test_an_error_is_no_answer() -> None:
    """The others go on."""
    track = Track()
    winner = await race(track.run(error=ValueError("no")), track.run("late answer"))
    assert winner.final_output == "late answer"


async def test_good_is_what_the_caller_says() -> None:
    """The first that it takes, not the first that comes."""
    track = Track()
    runs = [track.run("no"), track.run("yes please"), track.run("yes of course indeed")]
    winner = await race(*runs, good=lambda result: result.final_output.startswith("yes"))
    assert winner.final_output == "yes please"
    assert track.statuses() == ["completed", "completed", "cancelled"]


async def test_no_good_answer_tells_all() -> None:
    """Every outcome is in the error, which is caused by the first one."""
    track = Track()
    first = ValueError("no")
    with pytest.raises(NoGoodAnswer, match=r"2 runs, 1 failed: ValueError\('no'\)") as caught:
        await race(track.run(error=first), track.run("bad"), good=lambda result: False)
    assert [outcome.status for outcome in caught.value.outcomes] == ["failed", "completed"]
    assert caught.value.__cause__ is caught.value.outcomes[0].error


async def test_a_time_out_ends_all() -> None:
    """Nobody wins then."""
    track = Track()
    with pytest.raises(NoGoodAnswer, match=r"no good answer within 5.0 s \(2 runs\)"):
        await race(track.run("a " * 50), track.run("b " * 50), timeout_s=5.0, clock=track.clock)
    assert track.statuses() == ["cancelled"] * 2


async def test_a_judge_that_fails_is_heard() -> None:
    """Its error comes out and every run has ended."""
    track = Track()

    def judge(result: Any) -> bool:
        raise LookupError("no rule")

    with pytest.raises(LookupError, match="no rule"):
        await race(track.run("a"), track.run("b " * 50), good=judge)
    assert track.statuses() == ["completed", "cancelled"]


async def test_cancelled_itself_it_leaves_no_run() -> None:
    """Every run has ended when the cancellation comes out."""
    track = Track()
    task = asyncio.create_task(race(track.run("a " * 50), track.run("b " * 50)))
    await track.clock.sleep(5.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert track.statuses() == ["cancelled"] * 2


async def test_plain_coroutines_race_too() -> None:
    """What is no result of a run is good as it is, None included."""
    clock = FakeClock()

    async def after(delay_s: float, value: Any) -> Any:
        await clock.sleep(delay_s)
        return value

    assert await race(after(2.0, "slow"), after(1.0, "quick")) == "quick"
    assert await race(after(2.0, "slow"), lambda: after(1.0, None)) is None


async def test_at_least_one_runs() -> None:
    """An empty race is misuse."""
    with pytest.raises(UserError, match="at least one"):
        await race()


def _over(endpoint: Endpoint) -> Callable[[], Any]:
    config = RunConfig(model_provider=OpenAIProvider(api_key="any", base_url=endpoint.url))
    return lambda: Runner.run_streamed(Agent(name="Ann", model="m"), "hi", run_config=config)


async def test_the_losers_connections_are_closed() -> None:
    """Over real sockets: the endpoint sees its clients go, at once, in the middle of their answers."""
    answers = [say("word " * 1000, every_s=0.05), say("word " * 1000, every_s=0.05)]
    async with Endpoint(answers) as slow, Endpoint([say("quick")]) as quick:
        winner = await race(*(_over(endpoint) for endpoint in (slow, slow, quick)))
        assert winner.final_output == "quick"
        async with asyncio.timeout(2.0):
            await slow.wait_disconnected(len(slow.requests))
        assert slow.open_answers == 0
