"""flow/timeouts: each phase of a model call has its limit; what is life and what is silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from runstream.agent.model import Model, ModelBatch, ModelRequest, ModelTracing, open_batches, streams_in_batches
from runstream.agent.response import ModelResponse
from runstream.agent.settings import ModelSettings
from runstream.agent.usage import Usage
from runstream.errors import ModelTimeoutError
from runstream.events.model_event import build_event
from runstream.flow.timeouts import TimedModel, TimeLimits, limit_batches, limit_call
from runstream.testing import FakeClock

CREATED, TEXT, DONE = "response.created", "response.output_text.delta", "response.completed"
REASONING = "response.reasoning_summary_text.delta"


def request(**settings: Any) -> ModelRequest:
    return ModelRequest(None, "hi", ModelSettings(**settings), [], None, [], ModelTracing.DISABLED)


def batch(*kinds: str, delta: str = "word ") -> ModelBatch:
    events = [build_event({"type": kind, "response": {}, "delta": delta}) for kind in kinds]
    return ModelBatch(events, [None] * len(kinds))


class Steps:
    """Batches and pauses, in order; knows whether it was closed."""

    def __init__(self, clock: FakeClock, *steps: Any, connects_after_s: float | None = None) -> None:
        self._clock = clock
        self._steps = steps
        self._generator = self._play()
        self.closed = False
        if connects_after_s is not None:
            self._connects_at = clock.now() + connects_after_s

    @property
    def is_connected(self) -> bool | None:
        connects_at = getattr(self, "_connects_at", None)
        return None if connects_at is None else self._clock.now() >= connects_at

    def __aiter__(self) -> Steps:
        return self

    def __anext__(self) -> Any:
        return self._generator.__anext__()

    async def aclose(self) -> None:
        await self._generator.aclose()
        self.closed = True

    async def _play(self) -> AsyncGenerator[ModelBatch, None]:
        for step in self._steps:
            if isinstance(step, float):
                await self._clock.sleep(step)
            elif isinstance(step, Exception):
                raise step
            else:
                yield step


async def outcome(clock: FakeClock, limits: TimeLimits, *steps: Any, **options: Any) -> tuple[float, Any]:
    """When it ended, and with which error."""
    started = clock.now()
    inner = Steps(clock, *steps, **options)
    batches = limit_batches(inner, limits, clock)
    error: Any = None
    try:
        async for _ in batches:
            pass
    except Exception as caught:
        error = caught
    await batches.aclose()
    assert inner.closed
    return clock.now() - started, error


@pytest.mark.parametrize(
    ("limits", "steps", "phase", "at_s"),
    [
        (TimeLimits(connect_s=3), [9.0], "connect", 3.0),
        (TimeLimits(connect_s=3), [1.0, batch(CREATED), 9.0, batch(TEXT)], None, 10.0),
        (TimeLimits(first_content_s=3), [1.0, batch(CREATED), 9.0], "first_content", 3.0),
        (TimeLimits(first_content_s=3), [1.0, batch(CREATED), 1.0, batch(TEXT), 9.0, batch(DONE)], None, 11.0),
        (TimeLimits(first_content_s=3), [2.0, batch(REASONING), 9.0], None, 11.0),
        (TimeLimits(idle_s=2), [9.0, batch(TEXT), 1.5, batch(TEXT), 9.0], "idle", 12.5),
        (TimeLimits(idle_s=2), [batch(TEXT), 1.5, batch(REASONING), 1.5, batch(TEXT)], None, 3.0),
        (TimeLimits(idle_s=2, first_content_s=60), [1.0, batch(TEXT), 9.0], "idle", 3.0),
        (TimeLimits(model_call_s=5), [batch(TEXT), 3.0, batch(TEXT), 3.0], "model_call", 5.0),
        (TimeLimits(connect_s=1, first_content_s=1, idle_s=1, model_call_s=9), [batch(TEXT), 5.0], "idle", 1.0),
    ],
)
async def test_each_phase_has_its_limit(limits: Any, steps: list[Any], phase: str | None, at_s: float) -> None:
    """The limit that passes is named, at its time to the instant; what is in time is left alone."""
    took_s, error = await outcome(FakeClock(), limits, *steps)
    assert took_s == pytest.approx(at_s)
    assert (None if error is None else error.phase) == phase
    if phase is not None:
        assert error.limit_s == error.timeout_seconds == getattr(limits, f"{phase}_s")
        assert f"TimeLimits.{phase}_s" in str(error)
        assert error.retryable


@pytest.mark.parametrize(
    "sign", [batch("keepalive"), batch(CREATED), batch(TEXT, delta=""), batch("response.in_progress")], ids=range(4)
)
async def test_signs_of_life_are_no_content(sign: ModelBatch) -> None:
    """Keep-alives, lifecycle events and empty deltas keep neither the first content nor the idle limit from passing."""
    pings = [step for _ in range(20) for step in (0.4, sign)]
    took_s, error = await outcome(FakeClock(), TimeLimits(idle_s=2), batch(TEXT), *pings)
    assert (error.phase, took_s) == ("idle", pytest.approx(2.0))
    took_s, error = await outcome(FakeClock(), TimeLimits(first_content_s=3), *pings)
    assert (error.phase, took_s) == ("first_content", pytest.approx(3.0))


async def test_headers_end_the_connect_phase() -> None:
    """A stream that tells of its connection is connected before its first event."""
    clock = FakeClock()
    _, error = await outcome(clock, TimeLimits(connect_s=2), 5.0, batch(TEXT), connects_after_s=1.0)
    assert error is None
    _, error = await outcome(clock, TimeLimits(connect_s=2), 5.0, batch(TEXT), connects_after_s=3.0)
    assert error.phase == "connect"


async def test_the_error_tells_what_had_come() -> None:
    """Events, characters and seconds."""
    _, error = await outcome(FakeClock(), TimeLimits(idle_s=2), batch(CREATED), 1.0, batch(TEXT, REASONING), 9.0)
    assert (error.events, error.chars, error.waited_s) == (3, 10, pytest.approx(3.0))
    assert "3 events with 10 characters had come in 3 s" in str(error)


async def test_a_slow_consumer_is_no_silence() -> None:
    """While nobody waits for the model, its silence does not matter; the limit of the whole call holds all the same."""
    clock = FakeClock()
    steps = [batch(TEXT), batch(TEXT), 1.0, batch(TEXT)]
    seen = 0
    batches = limit_batches(Steps(clock, *steps), TimeLimits(idle_s=2), clock)
    async for _ in batches:
        seen += 1
        await clock.sleep(10.0)
    assert seen == 3
    batches = limit_batches(Steps(clock, *steps), TimeLimits(model_call_s=5), clock)
    await batches.__anext__()
    await clock.sleep(10.0)
    with pytest.raises(ModelTimeoutError) as caught:
        await batches.__anext__()
    assert caught.value.phase == "model_call"
    await batches.aclose()


async def test_an_error_of_the_streams_own_stays() -> None:
    """A TimeoutError of the model's is not ours."""
    mine = TimeoutError("mine")
    _, error = await outcome(FakeClock(), TimeLimits(idle_s=2, model_call_s=9), batch(TEXT), mine)
    assert error is mine


@pytest.mark.parametrize("before_s", [0.0, 0.5, 1.999])
async def test_a_cancellation_goes_through(before_s: float) -> None:
    """Whoever cancels the reader is not told of a limit, and no watch is left behind."""
    clock = FakeClock(autojump=False)
    inner = Steps(clock, 9.0)
    batches = limit_batches(inner, TimeLimits(connect_s=2), clock)
    task = asyncio.ensure_future(batches.__anext__())
    await clock.advance(before_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await batches.aclose()
    await clock.settle()
    assert clock.sleepers == 0


async def test_a_cancellation_with_the_limit_wins() -> None:
    """In the very turn in which the limit passes, too."""
    clock = FakeClock(autojump=False)
    batches = limit_batches(Steps(clock, 9.0), TimeLimits(connect_s=2), clock)
    task = asyncio.ensure_future(batches.__anext__())
    asyncio.get_running_loop().create_task(_cancel_at(clock, 2.0, task))
    await clock.advance(2.0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await batches.aclose()


async def _cancel_at(clock: FakeClock, at_s: float, task: Any) -> None:
    await clock.sleep(at_s)
    task.cancel()


async def test_a_stream_that_swallows_the_cancellation() -> None:
    """A model that catches everything is told off all the same, and the task is left uncancelled."""
    clock = FakeClock()

    class Deaf(Steps):
        async def _play(self) -> AsyncGenerator[ModelBatch, None]:
            try:
                await clock.sleep(9.0)
            except asyncio.CancelledError:
                yield batch(TEXT)

    batches = limit_batches(Deaf(clock), TimeLimits(connect_s=2), clock)
    with pytest.raises(ModelTimeoutError):
        await batches.__anext__()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await batches.aclose()


class _Slow(Model):
    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    async def get_response(self, *arguments: Any, **options: Any) -> Any:
        await self._clock.sleep(10.0)
        return ModelResponse([], Usage(), None)

    @streams_in_batches("batches")
    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        yield

    def batches(self, request: ModelRequest) -> Any:
        return Steps(self._clock, batch(TEXT), 10.0, batch(DONE))


@pytest.mark.parametrize(
    ("limits", "own_s", "limit_s", "option"),
    [
        (TimeLimits(), None, None, None),
        (TimeLimits(model_call_s=20), None, None, None),
        (TimeLimits(model_call_s=4), None, 4.0, "TimeLimits.model_call_s"),
        (TimeLimits(model_call_s=4), 6.0, 6.0, "ModelSettings.timeout"),
        (TimeLimits(), 6.0, 6.0, "ModelSettings.timeout"),
    ],
)
async def test_a_model_of_its_own(limits: TimeLimits, own_s: float | None, limit_s: float | None, option: Any) -> None:
    """A TimedModel limits both calls; the call's own `timeout` goes before."""
    clock = FakeClock()
    model = TimedModel(_Slow(clock), limits, clock=clock)

    async def drain() -> None:
        batches = open_batches(model, request(timeout=own_s))
        try:
            async for _ in batches:
                pass
        finally:
            await batches.aclose()

    for work in (drain(), model.respond(request(timeout=own_s))):
        if limit_s is None:
            await work
        else:
            with pytest.raises(ModelTimeoutError, match=option) as caught:
                await work
            assert (caught.value.limit_s, caught.value.phase) == (limit_s, "model_call")


async def test_a_call_that_is_in_time() -> None:
    """Its result or its own error is what comes."""
    clock = FakeClock()

    async def work(error: Exception | None) -> int:
        await clock.sleep(1.0)
        if error is not None:
            raise error
        return 7

    assert await limit_call(work(None), clock, 2.0, "x") == 7
    with pytest.raises(TimeoutError, match="mine"):
        await limit_call(work(TimeoutError("mine")), clock, 2.0, "x")


@pytest.mark.parametrize("name", [*TimeLimits.__slots__])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_limits_out_of_range(name: str, value: float) -> None:
    """Refused where they are written, by name."""
    with pytest.raises(ValueError, match=f"TimeLimits.{name}"):
        TimeLimits(**{name: value})
