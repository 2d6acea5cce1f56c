"""run/model_call, run/reliability, run/resume: attempts that failed, in the usage of a run, wherever that is told."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from runstream import (
    Agent,
    ModelSettings,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    UserError,
    function_tool,
)
from runstream.agent.guardrail import GuardrailFunctionOutput
from runstream.agent.retry import ModelRetrySettings
from runstream.agent.stream_guardrail import StreamedText, Window, stream_guardrail
from runstream.errors import CircuitOpen, LoadRefused, ModelStreamFailed
from runstream.flow.breaker import CircuitBreakers
from runstream.flow.fallback import Fallback, PlainCall
from runstream.flow.load import LoadLimits
from runstream.flow.retry import RetryingModel
from runstream.flow.timeouts import TimeLimits
from runstream.log.memory_store import MemoryStore
from runstream.observe import RunMetrics
from runstream.run.worker import Worker
from runstream.testing import FakeClock, Fault, Message, Script, ScriptedModel, Tokens, ToolCall, Turn, say
from runstream.view.run_view import RunView

both = pytest.mark.parametrize("streamed", [False, True])
BREAKING = [say("one two", fault=Fault(kind, after=1)) for kind in ("reset", "failed", "silence", "no_end")]
DOWN, WRONG = Fault("http_error", status=503), Fault("http_error", status=400)


class Named(ScriptedModel):
    """A scripted model with a name."""

    def __init__(self, name: str, *steps: Any) -> None:
        super().__init__(list(steps))
        self.model = name


async def _told(model: Any, *, streamed: bool, **config: Any) -> tuple[BaseException, Any]:
    """The error of a run that fails, and its usage, which is the same wherever it is told."""
    options: Any = {"run_config": RunConfig(**{"clock": FakeClock(), **config})}
    agent = Agent(name="Ann", model=model)
    if not streamed:
        try:
            await Runner.run(agent, "hi", **options)
        except Exception as failure:
            return failure, failure.run_data.context_wrapper.usage  # type: ignore[attr-defined]
        raise AssertionError("it has not failed")
    result = Runner.run_streamed(agent, "hi", **options)
    events = [event async for event in result.events()]
    error, usage = result.run_loop_exception, result.context_wrapper.usage
    assert error is not None
    assert error.run_data.context_wrapper.usage is usage  # type: ignore[attr-defined]
    view = RunView()
    for event in events:
        view.apply(event)
    metrics = RunMetrics.of(events)
    end = events[-1].data.usage
    assert end == view.usage
    assert (end["requests"], end["total_tokens"]) == (usage.requests, usage.total_tokens)
    assert (metrics.requests, metrics.usage.total_tokens) == (usage.requests, usage.total_tokens)
    return error, usage


@both
@pytest.mark.parametrize(
    ("first", "others", "count"),
    [([WRONG], None, 1), ([DOWN] * 3, None, 3), ([DOWN] * 3, [[WRONG]], 4), ([DOWN] * 3, [[DOWN] * 3], 6)],
)
async def test_the_last_attempt_counts(first: Any, others: Any, count: int, streamed: bool) -> None:
    """One request and an entry with no tokens for each attempt, the one that ended the run among them."""
    chain = [Named(f"other {index}", *steps) for index, steps in enumerate(others or ())]
    _, usage = await _told(Named("m", *first), streamed=streamed, fallback_models=chain)
    assert (usage.requests, [entry.total_tokens for entry in usage.request_usage_entries]) == (count, [0] * count)


@pytest.mark.parametrize("on_broken_stream", ["fail", "restart", "continue"])
async def test_a_stream_that_breaks_counts_once(on_broken_stream: Any) -> None:
    """Whatever the policy: nothing here can be gone on with."""
    broken = Turn([ToolCall("ping", {"text": "one two three"})], fault=Fault("reset", after=1))
    model = Named("m", *[broken] * (3 if on_broken_stream == "restart" else 1))
    _, usage = await _told(model, streamed=True, on_broken_stream=on_broken_stream)
    assert usage.requests == len(model.calls) == len(usage.request_usage_entries)


class _Failing(Named):
    async def get_response(self, *arguments: Any, **options: Any) -> Any:
        raise _failure(Tokens(10, 2))

    async def stream_response(self, *arguments: Any, **options: Any) -> Any:
        raise _failure(Tokens(10, 2))
        yield


def _failure(tokens: Tokens) -> ModelStreamFailed:
    failed = ModelStreamFailed("no", event_type="response.failed")
    failed.usage = {"input_tokens": tokens.input_tokens, "output_tokens": tokens.output_tokens, "total_tokens": 12}
    return failed


@both
@pytest.mark.parametrize("chain", [(), (PlainCall(),)])
async def test_what_the_error_tells_counts(streamed: bool, chain: Any) -> None:
    """The tokens of a failed response, once for each attempt."""
    _, usage = await _told(
        _Failing("m"), streamed=streamed, fallback_models=chain, fallback_on=lambda error: isinstance(error, Exception)
    )
    count = 1 + len(chain)
    assert (usage.requests, usage.total_tokens, len(usage.request_usage_entries)) == (count, 12 * count, count)


@both
async def test_what_was_never_sent_does_not_count(streamed: bool) -> None:
    """An open breaker, a full queue and a model that cannot be asked: also in front of one that was asked."""
    breakers = CircuitBreakers(clock=FakeClock())
    closed = Named("m")
    breakers.of(closed).open()
    error, usage = await _told(closed, streamed=streamed, circuit_breakers=breakers)
    assert (type(error), usage.requests) == (CircuitOpen, 0)
    error, usage = await _told(
        closed, streamed=streamed, circuit_breakers=breakers, fallback_models=[Named("b", WRONG)]
    )
    assert usage.requests == 1
    limits = LoadLimits(requests_per_minute=1, max_queue=0, clock=FakeClock())
    error, usage = await _told(Named("m", DOWN), streamed=streamed, load_limits=limits)
    assert (type(error), usage.requests) == (LoadRefused, 1)  # the first attempt was made, its retry refused
    error, usage = await _told(Named("m", UserError("no such form")), streamed=streamed)
    assert (type(error), usage.requests) == (UserError, 0)


@both
async def test_an_answer_that_was_blocked_counts_with_its_tokens(streamed: bool) -> None:
    """Where they are known when it is blocked."""

    @stream_guardrail(window=Window(characters=100))
    def words(context: Any, agent: Any, text: StreamedText) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, "SECRET" in text.text)

    agent = Agent(
        name="Ann", model=Named("m", Turn([Message("a SECRET")], usage=Tokens(10, 2))), stream_guardrails=[words]
    )
    with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
        await (Runner.run_streamed(agent, "hi").wait() if streamed else Runner.run(agent, "hi"))
    assert caught.value.run_data is not None
    usage = caught.value.run_data.context_wrapper.usage
    assert (usage.requests, usage.total_tokens) == (1, 12)


@both
async def test_a_cancelled_call_does_not_count(streamed: bool) -> None:
    """As in the SDK: neither the user's cancel nor the run's limit of time leaves a request."""
    clock = FakeClock()
    slow = say("one two", first_after_s=60.0)
    model = ScriptedModel([slow], clock=clock)
    _, usage = await _told(model, streamed=streamed, clock=clock, time_limit_s=5)
    assert usage.requests == 0


async def test_a_run_that_is_taken_over_keeps_what_failed_before() -> None:
    """Attempts of the worker that is gone, and what its nested agents have used, are in the usage of the next one."""
    clock = FakeClock(autojump=False)
    store = MemoryStore(clock=clock)
    await store.open()
    config = RunConfig(clock=clock)
    waits, once = asyncio.Event(), ModelSettings(retry=ModelRetrySettings(backoff={"initial_delay": 0.0}))

    @function_tool
    async def ping() -> str:
        waits.set()
        await clock.sleep(3600)
        return "pong"

    nested = Agent(name="Helper", model=Named("n", DOWN, Turn(["yes"], usage=Tokens(5, 1))), model_settings=once)
    steps = [
        DOWN,
        Turn([ToolCall("ask", {"input": "?"})], usage=Tokens(10, 2)),
        Turn([ToolCall("ping")], usage=Tokens(1, 1)),
        WRONG,
    ]
    tools = [nested.as_tool("ask", "Ask."), ping]
    agent = Agent(name="Desk", model=Named("m", *steps), tools=tools, model_settings=once)
    await Runner.submit(agent, "hi", store=store, run_id="run")
    result = await Runner.attach("run", store=store, run_config=config)
    for _ in range(2):
        worker = Worker([agent], store=store, run_config=config)
        task = asyncio.create_task(worker.run())
        if waits.is_set():
            _ = [event async for event in result.events()]
        await waits.wait()
        worker.stop(drain_s=0)
        await task
    events = [event async for event in result.events()]
    usage = events[-1].data.usage
    assert (usage["requests"], usage["total_tokens"]) == (6, 20)
    assert result.context_wrapper.usage.requests == 6
    await store.aclose()


@pytest.mark.parametrize("seed", range(40))
async def test_each_request_counts_once(seed: int) -> None:
    """Whatever fails, and whatever is configured: the run has counted the requests that its models got."""
    chance, clock = random.Random(seed), FakeClock()

    def answer(_: Any) -> Any:
        return chance.choice([DOWN, WRONG, ToolCall("ping"), "fine", *BREAKING])

    class Model(Named):
        def __init__(self, name: str) -> None:
            ScriptedModel.__init__(self, Script(default=answer), clock=clock)
            self.model = name

    @function_tool
    async def ping() -> str:
        return "pong"

    models = [Model(name) for name in "abcd"]
    own = chance.choice([models[0], RetryingModel(models[0], clock=clock), Fallback(models[0], models[1])])
    nested = Agent(name="Helper", model=own, tools=[ping])
    agent = chance.choice([nested, Agent(name="Ann", model=own, tools=[nested.as_tool("ping", "Ask.")])])
    config = RunConfig(
        clock=clock,
        on_broken_stream=chance.choice(["fail", "restart", "continue"]),
        fallback_models=chance.choice([[], [models[2], models[3]], [PlainCall()]]),
        circuit_breakers=chance.choice([None, CircuitBreakers(failures=1, clock=clock)]),
        load_limits=chance.choice([None, LoadLimits(requests_per_minute=3, max_queue=0, clock=clock)]),
        time_limits=TimeLimits(first_content_s=5, idle_s=5, model_call_s=20),
    )
    result = Runner.run_streamed(agent, "hi", run_config=config)
    events = [event async for event in result.events()]
    made = sum(len(model.calls) for model in models)
    assert (result.context_wrapper.usage.requests, RunMetrics.of(events).requests) == (made, made)
