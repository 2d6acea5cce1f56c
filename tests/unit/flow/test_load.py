"""flow/load: places for runs and rates for calls: first in first out, bounded, and given back by whoever leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from runstream.agent.model import Model, ModelBatch, ModelRequest, ModelTracing, open_batches, streams_in_batches
from runstream.agent.response import ModelResponse
from runstream.agent.settings import ModelSettings
from runstream.agent.usage import Usage
from runstream.errors import LoadRefused
from runstream.events.model_event import build_event
from runstream.flow.load import LoadLimits, Place, RatedModel, RateLimit, estimate_tokens
from runstream.testing import FakeClock


def request(text: str = "hi", **settings: Any) -> ModelRequest:
    return ModelRequest(None, text, ModelSettings(**settings), [], None, [], ModelTracing.DISABLED)


class Runs:
    """Runs that hold their place until they are let go."""

    def __init__(self, limits: LoadLimits) -> None:
        self.limits = limits
        self.began: list[str] = []
        self.places: dict[str, Place] = {}
        self.gates: dict[str, asyncio.Event] = {}

    def start(self, name: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._run(name))

    async def _run(self, name: str) -> None:
        gate = self.gates[name] = asyncio.Event()
        place = self.places[name] = self.limits.ask(name)
        try:
            await place.wait()
            self.began.append(name)
            await gate.wait()
        finally:
            place.leave()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_runs_and_no_more() -> None:
    """The others wait in their order, know their position, and move up."""
    told: list[tuple[str, int]] = []
    limits = LoadLimits(max_runs=2, on_position=lambda place: told.append((place.name, place.position)))
    runs = Runs(limits)
    tasks = [runs.start(name) for name in "abcde"]
    await settle()
    assert runs.began == ["a", "b"]
    assert (limits.running, limits.queued) == (2, 3)
    assert [runs.places[name].position for name in "cde"] == [1, 2, 3]
    runs.gates["b"].set()
    await settle()
    assert runs.began == ["a", "b", "c"]
    assert [runs.places[name].position for name in "cde"] == [0, 1, 2]
    for gate in runs.gates.values():
        gate.set()
    await asyncio.gather(*tasks)
    assert runs.began == list("abcde")
    assert (limits.running, limits.queued) == (0, 0)
    assert told[:5] == [("c", 1), ("d", 2), ("e", 3), ("c", 0), ("d", 1)]


async def test_a_place_is_told_of_its_moves() -> None:
    """Each its own, in the queue and out of it; who need not wait is told nothing."""
    limits = LoadLimits(max_runs=1, max_queue=2)
    told: dict[str, list[int]] = {name: [] for name in "abc"}
    places = {name: limits.ask(name, told[name].append) for name in told}
    assert (limits.running, limits.queued, limits.full) == (1, 2, True)
    await places["a"].wait()
    places["a"].leave()
    places["b"].leave()  # it had its place, and had not begun
    await places["c"].wait()
    assert told == {"a": [], "b": [1, 0], "c": [2, 1, 0]}
    assert (limits.running, limits.queued, limits.full) == (1, 0, False)
    places["c"].leave()


async def test_a_full_queue_refuses() -> None:
    """At once and clearly; who waits already goes on waiting."""
    runs = Runs(LoadLimits(max_runs=1, max_queue=1))
    tasks = [runs.start(name) for name in "ab"]
    await settle()
    with pytest.raises(LoadRefused, match="1 wait for runs already") as caught:
        await runs.limits.enter("c")
    assert (caught.value.what, caught.value.queued, caught.value.retryable) == ("runs", 1, True)
    for gate in runs.gates.values():
        gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("who", ["a", "b", "c"])
async def test_who_is_cancelled_leaves(who: str, turns: int) -> None:
    """Wherever a run stands, in whichever turn of the loop: its place is the next one's, and none is lost."""
    runs = Runs(LoadLimits(max_runs=1))
    tasks = {name: runs.start(name) for name in "abc"}
    await asyncio.sleep(0)
    runs.gates["a"].set()
    for _ in range(turns):
        await asyncio.sleep(0)
    tasks[who].cancel()
    await settle()
    for gate in runs.gates.values():
        gate.set()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert (runs.limits.running, runs.limits.queued) == (0, 0)
    (await runs.limits.enter("next")).leave()


async def test_nested_runs_count_with_their_parent() -> None:
    """A run that starts another one does not wait for itself."""
    limits = LoadLimits(max_runs=1, max_queue=0)

    async def parent() -> None:
        place = await limits.enter("parent")
        nested = await asyncio.get_running_loop().create_task(limits.enter("nested"))
        assert limits.running == 1
        nested.leave()
        assert limits.running == 1
        place.leave()

    await asyncio.get_running_loop().create_task(parent())
    assert limits.running == 0
    (await limits.enter("another")).leave()


async def test_no_limit_is_no_queue() -> None:
    """Without `max_runs` nobody waits."""
    limits = LoadLimits()
    places = [await limits.enter(str(number)) for number in range(10)]
    assert (limits.running, limits.limits_rates) == (0, False)
    for place in places:
        place.leave()


async def test_requests_a_minute() -> None:
    """The first ones at once; then one each time that one has come back, in order."""
    clock = FakeClock()
    rate = RateLimit("m", requests_per_minute=6, clock=clock)
    started, at = clock.now(), list[tuple[int, float]]()

    async def call(number: int) -> None:
        await rate.take(0)
        at.append((number, clock.now() - started))

    await asyncio.gather(*(call(number) for number in range(9)))
    assert [number for number, _ in at] == list(range(9))
    assert [time for _, time in at] == pytest.approx([0.0] * 6 + [10.0, 20.0, 30.0])


async def test_tokens_a_minute_are_corrected() -> None:
    """What was reserved too much comes back at once and wakes who waits; what was too little is missing later."""
    clock = FakeClock(autojump=False)
    rate = RateLimit("m", tokens_per_minute=600, clock=clock)
    assert await rate.take(500) == 500
    waiting = asyncio.ensure_future(rate.take(300))
    await clock.settle()
    assert (rate.queued, waiting.done()) == (1, False)
    rate.correct(500, 200)
    await clock.settle()
    assert waiting.done()
    rate.correct(300, 400)
    late = asyncio.ensure_future(rate.take(100))
    await clock.advance(9.0)
    assert not late.done()
    await clock.advance(1.1)
    assert late.done()


async def test_more_than_a_minutes_worth() -> None:
    """A call that is larger than the limit waits for all of it, not for ever."""
    clock = FakeClock()
    rate = RateLimit("m", tokens_per_minute=600, clock=clock)
    assert await rate.take(5000) == 600
    started = clock.now()
    assert await rate.take(5000) == 600
    assert clock.now() - started == pytest.approx(60.0)


async def test_calls_have_a_bounded_queue() -> None:
    """As runs do; the refusal names the model."""
    clock = FakeClock(autojump=False)
    rate = RateLimit("gpt", requests_per_minute=1, max_queue=1, clock=clock)
    await rate.take(0)
    waiting = asyncio.ensure_future(rate.take(0))
    await clock.settle()
    with pytest.raises(LoadRefused, match="calls of gpt"):
        await rate.take(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert rate.queued == 0


@pytest.mark.parametrize("who", range(3))
@pytest.mark.parametrize("at_s", [0.0, 5.0, 10.0])
async def test_who_is_cancelled_leaves_the_rate(who: int, at_s: float) -> None:
    """Its turn is the next one's, at once."""
    clock = FakeClock(autojump=False)
    rate = RateLimit("m", requests_per_minute=6, clock=clock)
    for _ in range(6):
        await rate.take(0)
    waiting = [asyncio.ensure_future(rate.take(0)) for _ in range(3)]
    await clock.advance(at_s)
    waiting[who].cancel()
    await clock.advance(30.0)
    assert all(task.done() for task in waiting)
    assert rate.queued == 0
    await asyncio.gather(*waiting, return_exceptions=True)


class _Model(Model):
    endpoint = "server m"

    async def get_response(self, *arguments: Any, **options: Any) -> Any:
        return ModelResponse([], Usage(requests=1, total_tokens=50), None)

    @streams_in_batches("batches")
    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        yield

    async def batches(self, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
        usage = {"input_tokens": 20, "output_tokens": 30, "total_tokens": 50}
        yield ModelBatch([build_event({"type": "response.output_text.delta", "delta": "x"})], [None])
        yield ModelBatch([build_event({"type": "response.completed", "response": {"usage": usage}})], [None])


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_rated_model(streamed: bool) -> None:
    """Both calls reserve their estimate and give back what they did not use."""
    clock = FakeClock()
    limits = LoadLimits(tokens_per_minute=600, expected_output_tokens=500, clock=clock)
    model = RatedModel(_Model(), limits.rate_of(_Model()), expected_output_tokens=limits.expected_output_tokens)
    assert limits.limits_rates
    started = clock.now()
    for _ in range(2):
        if streamed:
            batches = open_batches(model, request())
            async for _ in batches:
                pass
            await batches.aclose()
        else:
            await model.respond(request())
    assert clock.now() == started  # 50 + 500 fit where 500 + 500 do not


def test_the_estimate() -> None:
    """A quarter of the characters, and the longest output that the call allows."""
    assert estimate_tokens(request("x" * 400), 500) == 600
    assert estimate_tokens(request("x" * 400, max_tokens=10), 500) == 110


@pytest.mark.parametrize(
    "options", [{"max_runs": 0}, {"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"max_queue": -1}]
)
def test_options_out_of_range(options: Any) -> None:
    """Refused where they are written, by name."""
    with pytest.raises(ValueError, match=next(iter(options))):
        LoadLimits(**options)
