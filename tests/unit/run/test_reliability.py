"""run/reliability: what the policies make of a run: its log, answer, usage and history, and who is told what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from runstream import (
    Agent,
    Model,
    ModelProvider,
    ModelSettings,
    RunConfig,
    Runner,
    ToolContext,
    UserError,
    function_tool,
)
from runstream.agent.model import ModelTracing
from runstream.agent.retry import ModelRetrySettings
from runstream.agent.threads import tool_threads
from runstream.clock import system_clock
from runstream.errors import CircuitOpen, LoadRefused, ModelStreamTruncated, ModelTimeoutError, RunTimeoutError
from runstream.flow.breaker import CircuitBreakers
from runstream.flow.fallback import Fallback, PlainCall
from runstream.flow.load import LoadLimits
from runstream.flow.retry import RetryBudget
from runstream.flow.timeouts import TimeLimits
from runstream.log.fold import RunFold
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, Fault, Raise, ScriptedModel, ToolCall, Turn, say

both = pytest.mark.parametrize("streamed", [False, True])
BROKEN = say("one two three", fault=Fault("reset", after=2))
DOWN = Fault("http_error", status=503)


class Named(ScriptedModel):
    """A scripted model with a name."""

    def __init__(self, name: str, *steps: Any, clock: FakeClock | None = None) -> None:
        super().__init__(list(steps), **({} if clock is None else {"clock": clock}))
        self.model = name


async def _run(model: Any, *, streamed: bool, tools: Any = (), **config: Any) -> Any:
    """The result, ended; with an error in `run_loop_exception` where it is streamed."""
    options: Any = {"run_config": RunConfig(**{"clock": FakeClock(), **config})}
    agent = Agent(name="Ann", model=model, tools=list(tools))
    if streamed:
        return await Runner.run_streamed(agent, "hi", **options).wait()
    return await Runner.run(agent, "hi", **options)


async def _events(result: Any) -> list[Any]:
    return [event async for event in result.events()]


# Beginning again.


async def test_a_restart_is_a_new_attempt() -> None:
    """What was shown is void from its first event on, once the next attempt shows something; usage counts both."""
    session = InMemorySession("s")
    agent = Agent(name="Ann", model=Named("m", BROKEN, "whole answer"))
    config = RunConfig(clock=FakeClock(), on_broken_stream="restart")
    result = Runner.run_streamed(agent, "hi", run_config=config, session=session)
    events = await _events(result)
    [void] = [event for event in events if event.kind == "attempt.discarded"]
    first = next(event for event in events if event.kind == "model")
    assert (void.data.from_seq, void.data.reason, void.data.next_model) == (first.seq, "retry", None)
    assert "m has failed (ModelStreamTruncated" in void.data.detail
    assert [event.attempt for event in events if event.kind == "model" and event.seq < void.seq] == [1] * 6
    assert {event.attempt for event in events if event.kind == "model" and event.seq > void.seq} == {2}
    assert (result.final_output, result.is_partial, result.context_wrapper.usage.requests) == ("whole answer", False, 2)
    assert [item.type for item in result.new_items] == ["message_output_item"]
    assert len(await session.get_items()) == 2
    assert events[-1].data.usage["requests"] == 2


async def test_the_log_of_a_restart_folds_to_its_result() -> None:
    """Whoever reads the log comes to the same state as the run itself."""
    chain = [Named("b", BROKEN), Named("c", "hi there")]
    config = RunConfig(clock=FakeClock(), on_broken_stream="restart", fallback_models=chain)
    settings = ModelSettings(retry=ModelRetrySettings(max_retries=0))
    agent = Agent(name="Ann", model=Named("a", BROKEN), model_settings=settings)
    result = Runner.run_streamed(agent, "hi", run_config=config)
    fold = RunFold()
    for event in await _events(result):
        fold.apply(event)
    assert [response.answered_by for response in fold.responses] == [result.answered_by] == ["c"]
    assert fold.responses[0].fallback_reason == result.fallback_reason
    assert [item.raw_item for item in fold.items] == [item.raw_item for item in result.new_items]


async def test_where_no_attempt_shows_more_people_keep_what_they_saw() -> None:
    """Nothing is taken back that nothing replaces: it is the partial output of the failed run."""
    result = Runner.run_streamed(
        Agent(name="Ann", model=Named("m", BROKEN, DOWN, DOWN)),
        "hi",
        run_config=RunConfig(clock=FakeClock(), on_broken_stream="restart"),
    )
    events = await _events(result)
    assert "attempt.discarded" not in [event.kind for event in events]
    assert isinstance(result.run_loop_exception, openai.InternalServerError)
    assert (result.final_output, result.partial_output, result.is_partial) == (None, "one two", True)
    assert result.new_items[0].raw_item.status == "incomplete"  # type: ignore[union-attr]


async def test_cancelled_while_it_waits_to_begin_again() -> None:
    """What readers saw is kept, as on any cancel."""
    clock = FakeClock(autojump=False)
    result = Runner.run_streamed(
        Agent(name="Ann", model=Named("m", BROKEN)),
        "hi",
        run_config=RunConfig(clock=clock, on_broken_stream="restart"),
    )
    reader = asyncio.ensure_future(_events(result))
    await clock.settle()
    assert result.partial_output == "one two"
    result.cancel()
    events = await reader
    assert events[-1].data.status == "cancelled"
    assert result.new_items[0].raw_item.content[0].text == "one two"  # type: ignore[union-attr]


async def test_a_failed_response_counts_what_it_told() -> None:
    """The usage of a `response.failed` is counted, and the next attempt is made."""
    model = Named("m", say("one two", fault=Fault("failed", after=1)), "fine")
    result = await _run(model, streamed=True, on_broken_stream="restart")
    assert (result.final_output, result.context_wrapper.usage.requests) == ("fine", 2)


async def test_a_restart_in_the_second_turn() -> None:
    """Only the events of the open response are void: tools that have run are not run again."""
    ran: list[int] = []

    @function_tool
    async def ping() -> str:
        ran.append(1)
        return "pong"

    model = Named("m", Turn(["wait ", ToolCall("ping")]), BROKEN, "done")
    result = await _run(model, streamed=True, tools=[ping], on_broken_stream="restart")
    events = await _events(result)
    [void] = [event for event in events if event.kind == "attempt.discarded"]
    output = next(event for event in events if event.kind == "item" and event.data.name == "tool_output")
    assert void.data.from_seq > output.seq
    assert (result.final_output, ran) == ("done", [1])


# Going on with what there is.


async def test_a_partial_answer() -> None:
    """The text becomes the final output, marked partial; the conversation goes on with it."""
    session = InMemorySession("s")
    agent = Agent(name="Ann", model=Named("m", BROKEN, "more"))
    config = RunConfig(clock=FakeClock(), on_broken_stream="continue")
    result = await Runner.run_streamed(agent, "hi", run_config=config, session=session).wait()
    assert (result.final_output, result.partial_output, result.is_partial) == ("one two", "one two", True)
    assert (await _events(result))[-1].data.status == "completed"
    assert result.context_wrapper.usage.requests == 1
    assert (await Runner.run(agent, "go on", run_config=config, session=session)).final_output == "more"


# Fallback.


@both
async def test_another_model_answers(streamed: bool) -> None:
    """After its retries the first model gives way; the result and the log say who answered, and why."""
    clock = FakeClock()
    result = await _run(
        Named("a", DOWN, DOWN, DOWN), streamed=streamed, clock=clock, fallback_models=[Named("b", "from b")]
    )
    assert (result.final_output, result.answered_by, result.is_partial) == ("from b", "b", False)
    assert "a has failed (InternalServerError" in result.fallback_reason
    assert result.context_wrapper.usage.requests == 4
    assert streamed or [response.answered_by for response in result.raw_responses] == ["b"]
    result = await _run(Named("a", "own"), streamed=streamed, fallback_models=[Named("b")])
    assert (result.answered_by is not None, result.fallback_reason) == (True, None)


async def test_a_fallback_before_content_voids_nothing() -> None:
    """Its event says who takes over and covers no event."""
    result = await _run(Named("a", *[DOWN] * 3), streamed=True, fallback_models=[Named("b", "hi")])
    [void] = [event for event in await _events(result) if event.kind == "attempt.discarded"]
    assert (void.data.from_seq, void.data.reason, void.data.next_model) == (void.seq, "fallback", "b")


class _Provider(ModelProvider):
    def __init__(self, **models: Model) -> None:
        self.models = models

    def get_model(self, model_name: str | None) -> Model:
        if model_name not in self.models:
            raise UserError(f"no model {model_name}")
        return self.models[model_name]


@both
async def test_fallbacks_by_name(streamed: bool) -> None:
    """Names are the provider's; settings that nobody chose follow the model; unknown names are refused at once."""
    fine = Named("gpt-4.1", "fine")
    provider = _Provider(**{"gpt-5.1": Named("gpt-5.1", *[DOWN] * 3), "gpt-4.1": fine})
    config: Any = {"clock": FakeClock(), "model_provider": provider}
    agent = Agent(name="Ann", model="gpt-5.1")
    run: Any = Runner.run_streamed if streamed else Runner.run
    for names, options in ((["gpt-4.1"], {}), (["lost"], {})):
        result = run(agent, "hi", run_config=RunConfig(**config, fallback_models=names, **options))
        if names == ["lost"]:
            with pytest.raises(UserError, match="no model lost"):
                await (result.wait() if streamed else result)
        else:
            result = await (result.wait() if streamed else result)
            assert result.final_output == "fine"
    assert agent.model_settings.verbosity == "low"
    assert fine.calls[0].model_settings.verbosity is None


@both
async def test_the_reason_names_each_model_that_failed(streamed: bool) -> None:
    """In their order, however much their errors say, and who answers in the end."""
    chain = [Named("b", Raise(ModelStreamTruncated("no " * 300))), Named("c", "from c")]
    once = ModelSettings(retry=ModelRetrySettings(max_retries=0))
    config: Any = {"fallback_models": chain, "model_settings": once}
    result = await _run(Named("a", DOWN), streamed=streamed, **config)
    assert result.fallback_reason.startswith("a has failed (InternalServerError: ")
    assert "); b has failed (ModelStreamTruncated: no no" in result.fallback_reason
    assert result.fallback_reason.endswith("\u2026); c takes over")
    assert len(result.fallback_reason) < 400


async def test_chosen_settings_go_to_every_model() -> None:
    """What somebody has set holds for the fallback, too."""
    fine = Named("b", "fine")
    agent = Agent(name="Ann", model=Named("a", *[DOWN] * 3), model_settings=ModelSettings(temperature=0.5))
    config = RunConfig(clock=FakeClock(), fallback_models=[fine])
    await Runner.run(agent, "hi", run_config=config)
    assert fine.calls[0].model_settings.temperature == 0.5


async def test_from_streaming_to_one_plain_call() -> None:
    """The same model, unstreamed: its answer comes whole."""

    class OnlyPlain(Named):
        async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
            raise ModelStreamTruncated("no streams today")
            yield

    result = await _run(OnlyPlain("m", "whole"), streamed=True, fallback_models=[PlainCall()])
    assert (result.final_output, result.context_wrapper.usage.requests) == ("whole", 4)
    assert result.answered_by == "m"
    assert (result.fallback_reason or "").endswith("; another call of m takes over")


@both
async def test_a_chain_of_the_agents_own(streamed: bool) -> None:
    """A Fallback as the agent's model: the run's log, usage and result know of it."""
    model = Fallback(Named("a", DOWN), Named("b", "from b"))
    result = await _run(model, streamed=streamed)
    assert (result.final_output, result.answered_by) == ("from b", "b")
    assert result.context_wrapper.usage.requests == 2


async def test_who_is_told_is_the_run_alone() -> None:
    """After a run a model of its chain can be used by anybody: nobody is told any more."""
    model = Fallback(Named("a", DOWN, DOWN), Named("b", "x", "y"))
    await _run(model, streamed=True)
    arguments: Any = [None, "hi", ModelSettings(), [], None, [], ModelTracing.DISABLED]
    events = [event async for event in model.stream_response(*arguments)]
    assert events[-1].type == "response.completed"


# Time.


@both
async def test_limits_of_the_run(streamed: bool) -> None:
    """`TimeLimits.run_s` is the run's `time_limit_s`; the shorter one holds, and is named."""
    by_phase: Any = {"time_limits": TimeLimits(run_s=3)}, "TimeLimits.run_s"
    by_run: Any = {"time_limits": {"run_s": 9}, "time_limit_s": 3.0}, "RunConfig.time_limit_s"
    for config, option in (by_phase, by_run):
        clock = FakeClock()
        model = Named("m", say("one", first_after_s=60.0), clock=clock)
        with pytest.raises(RunTimeoutError, match=rf"3 s \({option}\) in turn 1, with 0 complete items\."):
            await _run(model, streamed=streamed, clock=clock, **config)


@both
async def test_limits_of_tools(streamed: bool) -> None:
    """Async tools that have no limit of their own get the run's; a tool's own goes before."""
    clock = FakeClock()

    @function_tool
    async def slow() -> str:
        await clock.sleep(10.0)
        return "slow"

    @function_tool(timeout=20.0)
    async def patient() -> str:
        await clock.sleep(10.0)
        return "patient"

    @function_tool
    def plain() -> str:
        return "plain"

    model = Named("m", Turn([ToolCall("slow"), ToolCall("patient"), ToolCall("plain")]), "done")
    result = await _run(
        model, streamed=streamed, clock=clock, tools=[slow, patient, plain], time_limits=TimeLimits(tool_s=2)
    )
    outputs = {item.output for item in result.new_items if item.type == "tool_call_output_item"}
    assert outputs == {"Tool 'slow' timed out after 2 seconds.", "patient", "plain"}


@both
async def test_a_tool_in_a_thread_is_not_waited_for(streamed: bool) -> None:
    """The run goes on without it; the tool finds out, and the model knows that it was not stopped."""
    told: list[bool] = []

    @function_tool
    def stuck(context: ToolContext[Any]) -> str:
        told.append(context.wait_cancelled(10.0))
        return "too late"

    model = Named("m", ToolCall("stuck"), "done")
    limits = TimeLimits(tool_s=0.02)
    result = await _run(model, streamed=streamed, clock=system_clock, tools=[stuck], time_limits=limits)
    [output] = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert (
        output == "Tool 'stuck' timed out after 0.02 seconds. It could not be stopped, and may still have its effect."
    )
    for thread in tool_threads():
        thread.join(10.0)
    assert (result.final_output, told) == ("done", [True])


async def test_an_idle_stream_is_given_up() -> None:
    """The error names the phase, and carries what there was."""
    clock = FakeClock()
    model = Named("m", say("one two three", fault=Fault("silence", after=2)), clock=clock)
    with pytest.raises(ModelTimeoutError) as caught:
        await _run(model, streamed=True, clock=clock, time_limits=TimeLimits(idle_s=5))
    assert (caught.value.phase, clock.now() - FakeClock().now()) == ("idle", 5.0)
    assert caught.value.run_data is not None
    assert caught.value.run_data.partial_output == "one two"


async def test_a_model_that_does_not_begin_is_asked_again() -> None:
    """No first content within its limit is a transient failure."""
    clock = FakeClock()
    model = Named("m", say("late", first_after_s=60.0), "in time", clock=clock)
    result = await _run(model, streamed=True, clock=clock, time_limits=TimeLimits(first_content_s=3))
    assert (result.final_output, result.context_wrapper.usage.requests) == ("in time", 2)


# Budget, breaker, load.


@both
async def test_a_budget_that_runs_share(streamed: bool) -> None:
    """Once it is empty, errors go up at once."""
    clock = FakeClock()
    budget = RetryBudget(2, per_minute=0.001, clock=clock)
    with pytest.raises(openai.InternalServerError):
        await _run(Named("m", *[DOWN] * 3), streamed=streamed, clock=clock, retry_budget=budget)
    model = Named("m", DOWN)
    with pytest.raises(openai.InternalServerError):
        await _run(model, streamed=streamed, clock=clock, retry_budget=budget)
    assert len(model.calls) == 1


@both
async def test_an_open_breaker_fails_over_at_once(streamed: bool) -> None:
    """Without a request and without a pause; once it has recovered, the first choice answers again."""
    clock = FakeClock()
    breakers = CircuitBreakers(failures=3, open_s=30, clock=clock)
    first, second = Named("a", *[DOWN] * 3, "a again"), Named("b", "b1", "b2")
    config: Any = {"clock": clock, "circuit_breakers": breakers, "fallback_models": [second]}
    assert (await _run(first, streamed=streamed, **config)).final_output == "b1"
    assert breakers.of(first).state == "open"
    before = clock.now()
    result = await _run(first, streamed=streamed, **config)
    assert (result.final_output, clock.now(), len(first.calls)) == ("b2", before, 3)
    assert "CircuitOpen" in result.fallback_reason
    await clock.sleep(30)
    assert (await _run(first, streamed=streamed, **config)).final_output == "a again"
    assert breakers.of(first).state == "closed"


@both
async def test_an_open_breaker_without_a_fallback(streamed: bool) -> None:
    """It refuses, and is not retried."""
    clock = FakeClock()
    breakers = CircuitBreakers(clock=clock)
    model = Named("m")
    breakers.of(model).open()
    with pytest.raises(CircuitOpen):
        await _run(model, streamed=streamed, clock=clock, circuit_breakers=breakers)


async def test_runs_queue_up() -> None:
    """A run waits its turn, shows its position, and takes nothing with it when it is cancelled or refused."""
    clock = FakeClock()
    limits = LoadLimits(max_runs=1, max_queue=2, clock=clock)
    config = RunConfig(clock=clock, load_limits=limits)

    def start(text: str) -> Any:
        model = Named("m", say(text, first_after_s=5.0), clock=clock)
        return Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=config)

    results = [start(text) for text in "abcd"]
    tasks = [asyncio.ensure_future(_events(result)) for result in results]
    for _ in range(20):
        await asyncio.sleep(0)
        if limits.queued == 2:
            break
    assert [result.queue_position for result in results] == [0, 1, 2, 0]
    results[1].cancel()
    ends = [(await task)[-1].data for task in tasks]
    assert [end.status for end in ends] == ["completed", "cancelled", "completed", "failed"]
    assert isinstance(results[3].run_loop_exception, LoadRefused)
    assert (limits.running, limits.queued, [result.queue_position for result in results]) == (0, 0, [0] * 4)


@both
async def test_requests_a_minute(streamed: bool) -> None:
    """Calls of runs that share the limits wait for their turn, retries as well."""
    clock = FakeClock()
    limits = LoadLimits(requests_per_minute=2, clock=clock)
    model = Named("m", "1", DOWN, "2", clock=clock)
    before = clock.now()
    for text in "12":
        assert (await _run(model, streamed=streamed, clock=clock, load_limits=limits)).final_output == text
    assert clock.now() - before >= 29


# As it is.


@both
async def test_a_run_that_fails_gives_what_it_had(streamed: bool) -> None:
    """With the message of an earlier turn, where the last one had none."""

    @function_tool
    async def ping() -> str:
        return "pong"

    model = Named("m", Turn(["let me see", ToolCall("ping")]), Fault("http_error", status=400))
    with pytest.raises(openai.BadRequestError):
        await _run(model, streamed=streamed, tools=[ping])
    result = Runner.run_streamed(
        Agent(name="Ann", model=Named("m", Turn(["let me see", ToolCall("ping")]), DOWN, DOWN, DOWN), tools=[ping]),
        "hi",
        run_config=RunConfig(clock=FakeClock()),
    )
    await _events(result)
    assert (result.partial_output, result.is_partial) == ("let me see", True)
    assert result.run_data.partial_output == "let me see"


def test_runs_without_a_config_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the environment is the same."""
    shared = RunConfig.of(None)
    assert RunConfig.of(None) is shared
    monkeypatch.setenv("RUNSTREAM_STORE", "memory://elsewhere")
    assert RunConfig.of(None).store == "memory://elsewhere"
    monkeypatch.delenv("RUNSTREAM_STORE")
    assert RunConfig.of(None) is shared


@pytest.mark.parametrize(
    "options", [{"on_broken_stream": "retry"}, {"fallback_models": "gpt"}, {"time_limits": {"idle_s": 0}}]
)
def test_options_out_of_range(options: Any) -> None:
    """Refused where they are written."""
    with pytest.raises(ValueError, match=next(iter(options)) if "time_limits" not in options else "idle_s"):
        RunConfig(**options)
