"""One model call of a run: what is sent, how failures are retried and counted, and its limits of time."""

import asyncio
import contextvars
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai
import pytest

from runstream import (
    Agent,
    MaxTurnsExceeded,
    Model,
    ModelBehaviorError,
    ModelProvider,
    ModelSettings,
    RunConfig,
    Runner,
    UserError,
    function_tool,
)
from runstream.agent.model import ModelBatch, ModelRequest, streams_in_batches
from runstream.agent.response import ModelResponse
from runstream.agent.retry import ModelRetryBackoffSettings, ModelRetrySettings, retry_policies
from runstream.agent.usage import Usage
from runstream.errors import ModelStreamBroken, ModelStreamFailed, ModelStreamTruncated, ModelTimeoutError
from runstream.events.model_event import build_event
from runstream.run.config import CallModelData, ModelInputData
from runstream.testing import FakeClock, Fault, Raise, ScriptedModel, Tokens, ToolCall, Turn, assistant_message, say


async def _run(agent: Agent[Any], *, streamed: bool, **config: Any) -> Any:
    options: Any = {"run_config": RunConfig(**config)}
    if streamed:
        return await Runner.run_streamed(agent, "hi", **options).wait()
    return await Runner.run(agent, "hi", **options)


both = pytest.mark.parametrize("streamed", [False, True])


# What is sent.


@both
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_filter_changes_what_is_sent_and_nothing_else(streamed: bool, is_async: bool) -> None:
    """`call_model_input_filter` sees each call's input and instructions; the conversation itself stays whole."""
    seen: list[CallModelData[Any]] = []

    def last_only(data: CallModelData[Any]) -> ModelInputData:
        seen.append(data)
        return ModelInputData(data.model_data.input[-1:], "changed")

    async def last_only_async(data: CallModelData[Any]) -> ModelInputData:
        return last_only(data)

    @function_tool
    async def ping() -> str:
        return "pong"

    model = ScriptedModel([ToolCall("ping"), "done"])
    agent = Agent(name="Ann", model=model, instructions="given", tools=[ping])
    chosen: Any = last_only_async if is_async else last_only
    result = await _run(agent, streamed=streamed, call_model_input_filter=chosen)
    assert [len(call.input) for call in model.calls] == [1, 1]
    assert [len(data.model_data.input) for data in seen] == [1, 3]
    assert {call.system_instructions for call in model.calls} == {"changed"}
    assert {data.model_data.instructions for data in seen} == {"given"}
    assert len(result.to_input_list()) == 4


@both
async def test_a_filter_must_return_model_input(streamed: bool) -> None:
    """Anything else is refused, by name of its type."""
    agent = Agent(name="Ann", model=ScriptedModel([]))
    with pytest.raises(UserError, match="must return ModelInputData, not list"):
        await _run(agent, streamed=streamed, call_model_input_filter=lambda data: data.model_data.input)


async def test_the_settings_of_agent_and_run_are_joined() -> None:
    """What the run's settings say wins; the rest is the agent's."""
    model = ScriptedModel(["x"])
    agent = Agent(name="Ann", model=model, model_settings=ModelSettings(temperature=0.1, max_tokens=5))
    await _run(agent, streamed=True, model_settings=ModelSettings(max_tokens=7))
    settings = model.calls[0].model_settings
    assert (settings.temperature, settings.max_tokens) == (0.1, 7)


# Models that offer one of the two calls, and batches.


class _OnlyResponse(Model):
    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        return ModelResponse([assistant_message("whole")], Usage(requests=1, input_tokens=3), "resp_1")


class _OnlyStream(Model):
    def __init__(self) -> None:
        self.inner = ScriptedModel([say("in pieces")])

    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        async for event in self.inner.stream_response(*arguments, **options):
            yield event


class _Neither(Model):
    pass


@both
@pytest.mark.parametrize(("model_class", "text"), [(_OnlyResponse, "whole"), (_OnlyStream, "in pieces")])
async def test_a_model_may_offer_one_call(model_class: Any, text: str, streamed: bool) -> None:
    """The other call is made from the one that there is: the run ends the same."""
    result = await _run(Agent(name="Ann", model=model_class()), streamed=streamed)
    assert result.final_output == text
    assert result.context_wrapper.usage.requests == 1


@both
async def test_a_model_without_any_call_is_refused(streamed: bool) -> None:
    """The error names the class."""
    with pytest.raises(UserError, match="_Neither implements neither get_response nor stream_response"):
        await _run(Agent(name="Ann", model=_Neither()), streamed=streamed)


class _Returns(Model):
    """Both calls give what the test says."""

    def __init__(self, given: Any) -> None:
        self.given = given

    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        return self.given

    def stream_response(self, *arguments: Any, **options: Any) -> Any:
        return self.given


async def _pieces() -> AsyncGenerator[Any, None]:
    yield "text"


@pytest.mark.parametrize(
    ("streamed", "given", "message"),
    [
        (False, "text", "_Returns.get_response must return a ModelResponse, not 'text'"),
        (True, None, "_Returns.stream_response must return an async iterator of events"),
        (True, _pieces, "_Returns.stream_response must give events of openai.types.responses, not str: 'text'"),
    ],
    ids=["response", "stream", "event"],
)
async def test_what_a_model_gives_is_checked(streamed: bool, given: Any, message: str) -> None:
    """A model of the user's that gives something else is named, with what it gave."""
    with pytest.raises(UserError, match=message):
        await _run(Agent(name="Ann", model=_Returns(given() if callable(given) else given)), streamed=streamed)


class _Provider(ModelProvider):
    def get_model(self, model_name: str | None) -> Any:
        return None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": 3}, "RunConfig.model must be a Model, not 3"),
        ({"model_provider": 3}, "RunConfig.model_provider must be a ModelProvider, not 3"),
        ({"model_provider": _Provider()}, r"what _Provider.get_model\(None\) returns must be a Model, not None"),
    ],
    ids=["model", "provider", "provided"],
)
async def test_what_is_no_model_is_refused(config: dict[str, Any], message: str) -> None:
    """Before anything is asked, and by the name of who gave it."""
    with pytest.raises(UserError, match=message):
        await _run(Agent(name="Ann"), streamed=True, **config)


class _Events(Model):
    """Streams exactly these batches of events, and notes who closes it."""

    def __init__(self, *batches: list[Any], silent: bool = False) -> None:
        self.batches = batches
        self.silent = silent
        self.read_by: list[Any] = []
        self.closed_by: list[Any] = []

    @streams_in_batches("stream_batches")
    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        raise AssertionError("the batches are to be used")
        yield

    async def stream_batches(self, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
        self.read_by.append(asyncio.current_task())
        try:
            for events in self.batches:
                yield ModelBatch(events, [None] * len(events))
            if self.silent:
                await asyncio.get_running_loop().create_future()
        finally:
            self.closed_by.append(asyncio.current_task())


async def _events_of(turn: Any) -> list[Any]:
    """The model events of a turn."""
    result = Runner.run_streamed(Agent(name="x", model=ScriptedModel([turn])), "hi")
    events: list[Any] = []
    try:
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                events.append(event.data)
    except ModelBehaviorError:
        pass
    return events


async def test_whole_reads_are_taken_as_batches() -> None:
    """A model's own batches reach the readers event by event, in order."""
    events = await _events_of("one two three")
    for sizes in (1, 3, len(events)):
        batches = [events[start : start + sizes] for start in range(0, len(events), sizes)]
        result = Runner.run_streamed(Agent(name="Ann", model=_Events(*batches)), "hi")
        seen = [event.data async for event in result if event.type == "raw_response_event"]
        assert seen == events
        assert result.final_output == "one two three"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("turn", ["one two", Turn(["one two"], fault=Fault("failed"))])
async def test_nothing_follows_the_end_of_a_response(turn: Any, together: bool) -> None:
    """What a server sends after the terminal event is dropped, in the same read as in one of its own."""
    events = await _events_of(turn)
    more = [events[0], events[-1]]
    batches = [[*events, *more]] if together else [events, more]
    result = Runner.run_streamed(Agent(name="Ann", model=_Events(*batches)), "hi")
    seen: list[Any] = []
    try:
        seen += [event.data async for event in result.events() if event.kind == "model"]
        await result.wait()
    except ModelStreamFailed:
        pass
    assert seen == events


@pytest.mark.parametrize(
    ("kind", "response", "expected"),
    [
        ("completed", {"output": 7}, ModelStreamBroken),
        ("completed", {"usage": {"input_tokens_details": {"cached_tokens": "many"}}}, ModelStreamBroken),
        ("completed", {"usage": 5}, None),
        ("failed", {"error": "broken"}, ModelStreamBroken),
        ("incomplete", {"incomplete_details": {"reason": 7}}, ModelStreamFailed),
    ],
)
async def test_an_end_of_no_sensible_shape(kind: str, response: Any, expected: Any) -> None:
    """A terminal event of which no sense can be made is the model's fault, and no TypeError; what came before stays."""
    events = await _events_of("one two")
    end = build_event({"type": f"response.{kind}", "sequence_number": 99, "response": {"id": "resp_1", **response}})
    result = Runner.run_streamed(Agent(name="Ann", model=_Events([*events[:-1], end])), "hi")
    await asyncio.wait([result.run_loop_task])
    error = result.run_loop_exception
    assert error is None if expected is None else type(error) is expected
    seen = [event.data async for event in result.events() if event.kind == "model"]
    assert seen[: len(events) - 1] == events[:-1]
    assert result.new_items


@pytest.mark.parametrize("kind", ["failed", "error_event"])
async def test_a_failure_is_found_wherever_it_stands_in_a_batch(kind: Any) -> None:
    """Also a failure that other events follow in the same read fails the run."""
    events = await _events_of(say("one two", fault=Fault(kind)))
    more = await _events_of("three")
    model = _Events([*events, *more[1:-1]])
    with pytest.raises(ModelStreamFailed, match="scripted fault"):
        await Runner.run_streamed(Agent(name="Ann", model=model), "hi").wait()


async def test_a_failed_stream_is_closed_by_the_task_that_read_it() -> None:
    """On a failure the model's stream is closed by the task that read it, before run.end."""
    events = await _events_of(say("one two", fault=Fault("failed")))
    model = _Events(events, silent=True)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi")
    with pytest.raises(ModelStreamFailed):
        await result.wait()
    assert model.closed_by == model.read_by


async def test_a_stream_that_goes_silent_after_its_end_is_not_waited_for() -> None:
    """A complete response counts although the connection stays open: the run goes on after a second."""
    clock = FakeClock()
    model = _Events(await _events_of("one two"), silent=True)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    await result.wait()
    assert result.final_output == "one two"
    assert clock.now() - FakeClock().now() == 0.25
    assert model.closed_by == model.read_by


async def test_items_are_told_before_the_body_ends() -> None:
    """Readers have the items of a complete response while the end of its body is still to come."""
    clock = FakeClock(autojump=False)
    model = _Events(await _events_of("one two"), silent=True)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    async for event in result.stream_events():
        if event.type == "run_item_stream_event":
            assert (event.name, model.closed_by) == ("message_output_created", [])
            await clock.advance(0.25)
    assert result.final_output == "one two"


async def test_a_complete_response_counts_although_the_run_is_cancelled_right_then() -> None:
    """Cancelled after the response's last event, its items are kept whole and its usage is counted."""
    clock = FakeClock(autojump=False)
    model = _Events(await _events_of("one two"), silent=True)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.completed":
            result.cancel()
    [message] = result.new_items
    assert (message.raw_item.status, message.raw_item.content[0].text) == ("completed", "one two")  # type: ignore[union-attr]
    assert result.context_wrapper.usage.requests == 1


class _PlainIterator(Model):
    """A user's model whose stream is an async iterator without aclose()."""

    def stream_response(self, *arguments: Any, **options: Any) -> Any:
        inner = ScriptedModel(["hi"]).stream_response(*arguments, **options)

        class Stream:
            def __aiter__(self) -> AsyncIterator[Any]:
                return self  # type: ignore[return-value]

            async def __anext__(self) -> Any:
                return await anext(inner)

        return Stream()


async def test_a_stream_may_be_any_async_iterator() -> None:
    """`stream_response` need not be an async generator."""
    assert (await _run(Agent(name="Ann", model=_PlainIterator()), streamed=True)).final_output == "hi"


# Retries.


@both
async def test_failures_before_content_are_retried_and_counted(streamed: bool) -> None:
    """A transient failure is retried after a pause; each failed request counts in usage."""
    clock = FakeClock()
    ok = Turn(("done",), usage=Tokens(10, 2))
    model = ScriptedModel([Fault("http_error", status=503), Fault("http_error", status=429), ok], clock=clock)
    result = await _run(Agent(name="Ann", model=model), streamed=streamed, clock=clock)
    usage = result.context_wrapper.usage
    assert (result.final_output, len(model.calls)) == ("done", 3)
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (3, 10, 2)
    assert [entry.input_tokens for entry in usage.request_usage_entries] == [0, 0, 10]
    assert 0.7 < clock.now() - FakeClock().now() < 2.0
    assert [response.usage.requests for response in result.raw_responses] == [1]


@both
async def test_failed_attempts_count_although_the_answer_tells_no_usage(streamed: bool) -> None:
    """Where the provider reports no tokens, each request still has its entry."""
    clock = FakeClock()
    model = ScriptedModel([Fault("http_error", status=503), Turn(("done",), usage="none")], clock=clock)
    result = await _run(Agent(name="Ann", model=model), streamed=streamed, clock=clock)
    usage = result.context_wrapper.usage
    assert (usage.requests, [entry.total_tokens for entry in usage.request_usage_entries]) == (2, [0, 0])


async def test_a_retry_is_invisible_to_readers() -> None:
    """Events of attempts that failed before content are not shown; what is shown names its attempt."""
    clock = FakeClock()
    answer = await _events_of("done")

    class Flaky(Model):
        calls = 0

        async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
            self.calls += 1
            for event in answer:
                yield event
                if self.calls == 1:
                    raise ModelStreamTruncated("broke right after response.created")

    result = Runner.run_streamed(Agent(name="Ann", model=Flaky()), "hi", run_config=RunConfig(clock=clock))
    events = [event async for event in result.events() if event.kind == "model"]
    assert [event.data.type for event in events].count("response.created") == 1
    assert {event.attempt for event in events} == {2}
    assert result.final_output == "done"


async def test_nothing_is_retried_after_content() -> None:
    """Text that was seen is not taken back: the error goes up, and the partial text is kept."""
    clock = FakeClock()
    model = ScriptedModel([say("one two", fault=Fault("reset", after=1))], clock=clock)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    with pytest.raises(ModelStreamTruncated):
        await result.wait()
    assert len(model.calls) == 1
    assert result.new_items[0].raw_item.content[0].text == "one"  # type: ignore[union-attr]


@both
async def test_the_servers_pause_is_kept(streamed: bool) -> None:
    """Retry-After decides the pause; one that is too long is no reason to wait."""
    clock = FakeClock()
    model = ScriptedModel([Fault("http_error", status=429, retry_after_s=30.0), "done"], clock=clock)
    await _run(Agent(name="Ann", model=model), streamed=streamed, clock=clock)
    assert clock.now() - FakeClock().now() == 30.0
    model = ScriptedModel([Fault("http_error", status=429, retry_after_s=3600.0)], clock=clock)
    with pytest.raises(openai.RateLimitError):
        await _run(Agent(name="Ann", model=model), streamed=streamed, clock=clock)
    assert clock.now() - FakeClock().now() == 30.0


@both
async def test_retry_settings_replace_the_default(streamed: bool) -> None:
    """max_retries, backoff and policy are the model settings'."""
    clock = FakeClock()
    retry = ModelRetrySettings(
        max_retries=4,
        backoff=ModelRetryBackoffSettings(initial_delay=2.0, multiplier=1.0, jitter=False),
        policy=retry_policies.http_status([418]),
    )
    model = ScriptedModel([*[Fault("http_error", status=418)] * 4, "done"], clock=clock)
    agent = Agent(name="Ann", model=model, model_settings=ModelSettings(retry=retry))
    result = await _run(agent, streamed=streamed, clock=clock)
    assert result.context_wrapper.usage.requests == 5
    assert clock.now() - FakeClock().now() == 8.0


@both
async def test_without_retries_the_first_failure_goes_up(streamed: bool) -> None:
    """max_retries=0 sends each request once."""
    model = ScriptedModel([Fault("http_error", status=503)])
    settings = ModelSettings(retry=ModelRetrySettings(max_retries=0))
    with pytest.raises(openai.InternalServerError):
        await _run(Agent(name="Ann", model=model, model_settings=settings), streamed=streamed)


@both
async def test_cancel_during_the_pause_before_a_retry(streamed: bool) -> None:
    """The pause is no hindrance: the run ends at once, and no request follows."""
    clock = FakeClock(autojump=False)
    model = ScriptedModel([Fault("http_error", status=503)], clock=clock)
    agent = Agent(name="Ann", model=model)
    config = RunConfig(clock=clock)
    if streamed:
        result = Runner.run_streamed(agent, "hi", run_config=config)
        await clock.settle()
        result.cancel()
        assert [event async for event in result.stream_events()] == []
    else:
        running = asyncio.create_task(Runner.run(agent, "hi", run_config=config))
        await clock.settle()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(model.calls) == 1


# Time.


@both
async def test_a_model_call_has_a_limit(streamed: bool) -> None:
    """Past ModelSettings.timeout the call is given up, its stream is closed, and the error names the limit."""
    clock = FakeClock()
    model = ScriptedModel([say("one two three four", every_s=3.0)], clock=clock)
    agent = Agent(name="Ann", model=model, model_settings=ModelSettings(timeout=7.0))
    with pytest.raises(ModelTimeoutError, match="time limit of 7 s") as caught:
        await _run(agent, streamed=streamed, clock=clock)
    assert clock.now() - FakeClock().now() == 7.0
    assert model.open_streams == 0
    assert caught.value.run_data is not None
    texts = [item.raw_item.content[0].text for item in caught.value.run_data.new_items]
    assert texts == (["one two three"] if streamed else [])


@both
async def test_the_limit_is_each_attempts_own(streamed: bool) -> None:
    """Pauses between attempts do not count, and each attempt has the whole limit."""
    clock = FakeClock()
    steps = [
        Turn(first_after_s=4.0, fault=Fault("http_error", status=429, retry_after_s=20.0)),
        say("done", first_after_s=4.0),
    ]
    agent = Agent(name="Ann", model=ScriptedModel(steps, clock=clock), model_settings=ModelSettings(timeout=5.0))
    assert (await _run(agent, streamed=streamed, clock=clock)).final_output == "done"
    assert clock.now() - FakeClock().now() == 28.0


@both
async def test_a_timeout_error_of_the_models_own_is_not_the_limit(streamed: bool) -> None:
    """A TimeoutError that the model raises stays what it is, with a limit and without."""
    for timeout in (None, 5.0):
        error = TimeoutError("mine")
        agent = Agent(name="Ann", model=ScriptedModel([Raise(error)]), model_settings=ModelSettings(timeout=timeout))
        with pytest.raises(TimeoutError) as caught:
            await _run(agent, streamed=streamed)
        assert caught.value is error


@both
async def test_tools_do_not_count_against_the_models_limit(streamed: bool) -> None:
    """The limit is for model calls; tools take what time they need."""
    clock = FakeClock()

    @function_tool
    async def slow() -> str:
        await clock.sleep(100.0)
        return "ok"

    model = ScriptedModel([ToolCall("slow"), "done"], clock=clock)
    agent = Agent(name="Ann", model=model, tools=[slow], model_settings=ModelSettings(timeout=5.0))
    assert (await _run(agent, streamed=streamed, clock=clock)).final_output == "done"


@both
async def test_each_turn_counts_once(streamed: bool) -> None:
    """A run of several turns has one response a turn, in raw_responses and in usage."""
    model = ScriptedModel([ToolCall("ping")] * 3)

    @function_tool
    async def ping() -> str:
        return "pong"

    agent = Agent(name="Ann", model=model, tools=[ping])
    with pytest.raises(MaxTurnsExceeded) as caught:  # noqa: PT012
        options: Any = {"max_turns": 3}
        if streamed:
            await Runner.run_streamed(agent, "hi", **options).wait()
        else:
            await Runner.run(agent, "hi", **options)
    assert caught.value.run_data is not None
    assert len(caught.value.run_data.raw_responses) == 3
    assert caught.value.run_data.context_wrapper.usage.requests == 3


@both
async def test_a_run_is_gone_before_the_contexts_that_were_copied_in_it(streamed: bool) -> None:
    """Timers and connections that are kept hold on to the context of the call that made them, for long."""
    kept: list[contextvars.Context] = []

    class Keeping(ScriptedModel):
        def stream_response(self, *args: Any, **kwargs: Any) -> Any:
            kept.append(contextvars.copy_context())
            return super().stream_response(*args, **kwargs)

        async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
            kept.append(contextvars.copy_context())
            return await super().get_response(*args, **kwargs)

    async def run() -> weakref.ref[Any]:
        result = await _run(Agent(name="a", model=Keeping("fine")), streamed=streamed)
        return weakref.ref(result.context_wrapper)

    context = await run()
    await asyncio.sleep(0)
    assert kept
    assert context() is None
