"""flow/breaker: closed, open, half open; what counts and what does not; one probe at a time."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import openai
import pytest

from runstream.agent.model import Model, ModelBatch, ModelRequest, ModelTracing, open_batches, streams_in_batches
from runstream.agent.settings import ModelSettings
from runstream.errors import CircuitOpen, ModelStreamTruncated, ModelTimeoutError, UserError
from runstream.events.model_event import build_event
from runstream.flow.breaker import CircuitBreaker, CircuitBreakers, GuardedModel
from runstream.testing import FakeClock, ScriptedModel

REQUEST = ModelRequest(None, "hi", ModelSettings(), [], None, [], ModelTracing.DISABLED)
_HTTP = httpx2.Request("POST", "http://model.test")
CREATED, TEXT, DONE = "response.created", "response.output_text.delta", "response.completed"


def status(code: int) -> Exception:
    return openai.APIStatusError(str(code), response=httpx2.Response(code, request=_HTTP), body=None)


FAULT = ModelStreamTruncated("cut")
COUNTED = [FAULT, status(500), status(503), ModelTimeoutError(1.0), openai.APIConnectionError(request=_HTTP)]
ALIVE = [status(400), status(401), status(404)]
NEUTRAL = [status(429), UserError("mine"), ValueError("bug")]


def breaker(clock: FakeClock, **options: Any) -> CircuitBreaker:
    return CircuitBreaker("server m", **{"failures": 3, "open_s": 10.0, "clock": clock, **options})


def fail(guard: CircuitBreaker, *errors: Exception) -> None:
    for error in errors:
        guard.enter().fail(error)


def test_it_opens_after_failures_in_a_row() -> None:
    """So many without a success between them; the refusal says who, and for how long."""
    clock = FakeClock()
    guard = breaker(clock)
    fail(guard, FAULT, FAULT)
    guard.enter().succeed()
    fail(guard, FAULT, FAULT)
    assert (guard.state, guard.failures_in_a_row) == ("closed", 2)
    fail(guard, FAULT)
    assert (guard.state, guard.probe_in_s, guard.last_failure) == ("open", 10.0, "ModelStreamTruncated: cut")
    with pytest.raises(CircuitOpen, match=r"server m is not asked.*\(ModelStreamTruncated: cut\).*in 10 s") as caught:
        guard.enter()
    assert (caught.value.endpoint, caught.value.probe_in_s, caught.value.retryable) == ("server m", 10.0, True)


async def test_one_probe_decides() -> None:
    """After the pause one call goes through and the others are refused; its outcome closes the breaker or opens it."""
    clock = FakeClock(autojump=False)
    guard = breaker(clock)
    fail(guard, FAULT, FAULT, FAULT)
    await clock.advance(10.0)
    assert guard.state == "half_open"
    probe = guard.enter()
    assert probe.is_probe
    with pytest.raises(CircuitOpen, match="being tried again now"):
        guard.enter()
    probe.fail(FAULT)
    assert guard.state == "open"
    await clock.advance(10.0)
    guard.enter().succeed()
    assert (guard.state, guard.failures_in_a_row) == ("closed", 0)


@pytest.mark.parametrize("error", COUNTED, ids=repr)
def test_what_counts(error: Exception) -> None:
    """Limits of time, broken connections and 5xx."""
    guard = breaker(FakeClock())
    fail(guard, error, error, error)
    assert guard.state == "open"


@pytest.mark.parametrize("error", [*ALIVE, *NEUTRAL], ids=repr)
def test_what_does_not_count(error: Exception) -> None:
    """Answers that blame the request, and what is no failure of the model's; the former show that it is alive."""
    guard = breaker(FakeClock())
    fail(guard, FAULT, FAULT, *[error] * 5)
    assert (guard.state, guard.failures_in_a_row) == ("closed", 0 if error in ALIVE else 2)


async def test_a_probe_that_is_given_up_is_none() -> None:
    """The next call is the probe; one that only shows that the endpoint is there closes the breaker."""
    clock = FakeClock(autojump=False)
    guard = breaker(clock)
    fail(guard, FAULT, FAULT, FAULT)
    await clock.advance(10.0)
    guard.enter().leave()
    fail(guard, NEUTRAL[0])
    assert guard.state == "half_open"
    fail(guard, ALIVE[0])
    assert guard.state == "closed"


async def test_old_news_change_nothing() -> None:
    """A call that began before the breaker opened decides nothing afterwards; a permit counts once."""
    clock = FakeClock(autojump=False)
    guard = breaker(clock)
    old = guard.enter()
    fail(guard, FAULT, FAULT, FAULT)
    old.succeed()
    old.succeed()
    assert guard.state == "open"
    await clock.advance(10.0)
    late = guard.enter()
    late.succeed()
    late.fail(FAULT)
    assert (guard.state, guard.failures_in_a_row) == ("closed", 0)


def test_changes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Each once, with the breaker; who fails to listen hinders nobody."""
    states: list[str] = []

    def told(each: CircuitBreaker) -> None:
        states.append(each.state)
        raise ValueError("listener")

    guard = breaker(FakeClock(), on_change=told)
    with caplog.at_level(logging.INFO, "runstream"):
        fail(guard, FAULT, FAULT, FAULT)
        guard.close()
        guard.close()
        guard.open()
    assert states == ["open", "closed", "open"]
    assert "the breaker of server m is open" in caplog.text
    assert "on_change of the breaker of server m has failed" in caplog.text


class _Model(Model):
    """Streams each call's steps: types of events, errors, or a wait for ever (None)."""

    def __init__(self, *scripts: list[Any], endpoint: str | None = None) -> None:
        self.scripts = list(scripts)
        self.calls = 0
        if endpoint is not None:
            self.endpoint = endpoint

    async def get_response(self, *arguments: Any, **options: Any) -> Any:
        async for _ in self.batches(REQUEST):
            pass
        return "whole"

    @streams_in_batches("batches")
    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        yield

    async def batches(self, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
        self.calls += 1
        for step in self.scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            if step is None:
                await asyncio.get_running_loop().create_future()
            yield ModelBatch([build_event({"type": step, "response": {"error": None}, "delta": "x"})], [None])


async def drain(model: Model) -> None:
    batches = open_batches(model, REQUEST)
    try:
        async for _ in batches:
            pass
    finally:
        await batches.aclose()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_guarded_model(streamed: bool) -> None:
    """Failures of both calls count; while the breaker is open the model is not asked."""
    guard = breaker(FakeClock())
    inner = _Model([FAULT], [status(500)], [CREATED, TEXT, FAULT])
    model = GuardedModel(inner, guard)
    for _ in range(3):
        with pytest.raises((ModelStreamTruncated, openai.APIStatusError)):
            await (drain(model) if streamed else model.respond(REQUEST))
    with pytest.raises(CircuitOpen):
        await (drain(model) if streamed else model.respond(REQUEST))
    assert inner.calls == 3


@pytest.mark.parametrize(
    ("steps", "failures"),
    [
        ([CREATED, TEXT, DONE], 0),
        ([CREATED, TEXT, "response.incomplete"], 0),
        ([CREATED, TEXT, "response.failed"], 2),
        ([CREATED, TEXT], 2),
        ([CREATED, TEXT, DONE, FAULT], 0),
    ],
)
async def test_how_a_stream_ends_counts(steps: list[Any], failures: int) -> None:
    """The end of the response is a success; its failure, or no end at all, is a failure; what follows is nothing."""
    guard = breaker(FakeClock())
    fail(guard, FAULT)
    try:
        await drain(GuardedModel(_Model(steps), guard))
    except ModelStreamTruncated:
        pass
    assert guard.failures_in_a_row == failures


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_cancelled_call_tells_nothing(streamed: bool) -> None:
    """Nor does one that is left; the probe is free again."""
    clock = FakeClock(autojump=False)
    guard = breaker(clock)
    fail(guard, FAULT, FAULT, FAULT)
    await clock.advance(10.0)
    model = GuardedModel(_Model([CREATED, None], [CREATED, None]), guard)
    task = asyncio.ensure_future(drain(model) if streamed else model.respond(REQUEST))
    await clock.settle()
    with pytest.raises(CircuitOpen):
        guard.enter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert guard.state == "half_open"
    batches = open_batches(model, REQUEST)
    await batches.__anext__()
    await batches.aclose()
    guard.enter().leave()


async def test_a_probe_succeeds_with_its_first_content() -> None:
    """The others need not wait for the end of a long answer."""
    clock = FakeClock(autojump=False)
    guard = breaker(clock)
    fail(guard, FAULT, FAULT, FAULT)
    await clock.advance(10.0)
    batches = open_batches(GuardedModel(_Model([CREATED, TEXT, None]), guard), REQUEST)
    await batches.__anext__()
    assert guard.state == "half_open"
    await batches.__anext__()
    assert guard.state == "closed"
    await batches.aclose()


def test_breakers_are_the_endpoints() -> None:
    """Models of one endpoint share a breaker, models without one have their own, for as long as they live."""
    breakers = CircuitBreakers(failures=1, clock=FakeClock())
    first, second = _Model(endpoint="s a"), _Model(endpoint="s a")
    other, unnamed = _Model(endpoint="s b"), ScriptedModel()
    assert breakers.of(first) is breakers.of(second) is breakers.of(GuardedModel(first, breakers.of(first)))
    assert breakers.of(first) is not breakers.of(other)
    assert breakers.of(unnamed) is breakers.of(unnamed)
    assert {each.endpoint for each in breakers} == {"s a", "s b", "ScriptedModel"}
    del unnamed
    gc.collect()
    assert {each.endpoint for each in breakers} == {"s a", "s b"}


@pytest.mark.parametrize("options", [{"failures": 0}, {"open_s": 0.0}, {"open_s": -1.0}])
def test_options_out_of_range(options: Any) -> None:
    """Refused where they are written."""
    for kind in (CircuitBreaker, CircuitBreakers):
        with pytest.raises(ValueError, match=next(iter(options))):
            kind(**options)
