"""ScriptedModel plays its script, streamed and not, and says what does not fit."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseErrorEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseTextDeltaEvent,
)

from runstream.agent.model import Model, ModelTracing
from runstream.agent.response import ModelResponse
from runstream.agent.settings import ModelSettings
from runstream.agent.usage import Usage
from runstream.errors import ModelStreamBroken, ModelStreamFailed, ModelStreamTruncated, UserError
from runstream.testing import (
    FakeClock,
    Fault,
    HandoffTo,
    InvalidModelStep,
    Message,
    ModelCall,
    ModelStep,
    Raise,
    Reasoning,
    Refusal,
    Script,
    ScriptedModel,
    Tokens,
    ToolCall,
    Turn,
    UnconsumedModelSteps,
    UnexpectedModelCall,
    When,
    assistant_message,
    function_call,
    say,
)


def _arguments(input: Any = "hi", **changes: Any) -> dict[str, Any]:
    return {
        "system_instructions": "Be kind.",
        "input": input,
        "model_settings": ModelSettings(),
        "tools": [],
        "output_schema": None,
        "handoffs": [],
        "tracing": ModelTracing.DISABLED,
        **changes,
    }


async def _respond(model: Model, input: Any = "hi", **changes: Any) -> ModelResponse:
    return await model.get_response(**_arguments(input, **changes))


async def _stream(model: Model, input: Any = "hi") -> list[Any]:
    return [event async for event in model.stream_response(**_arguments(input))]


async def _collect(events: AsyncIterator[Any], seen: list[Any]) -> None:
    async for event in events:
        seen.append(event)


def _text(response: ModelResponse) -> str:
    return "".join(item.content[0].text for item in response.output if item.type == "message")  # type: ignore[union-attr]


EVERYTHING = [Reasoning("think"), "Hello there.", ToolCall("f", {"a": 1}), HandoffTo("Ann B."), Refusal("No.")]


async def test_events_are_of_the_official_types() -> None:
    """Deltas, items and the final response are what `isinstance` checks of real programs expect."""
    events = await _stream(ScriptedModel([EVERYTHING]))
    deltas = [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)]
    assert deltas == ["Hello", " there."]
    final = events[-1]
    assert isinstance(final, ResponseCompletedEvent)
    assert isinstance(final.response.output[1], ResponseOutputMessage)
    assert isinstance(final.response.output[2], ResponseFunctionToolCall)
    assert final.response.output[3].name == "transfer_to_ann_b_"  # type: ignore[union-attr]


async def test_streamed_and_unstreamed_calls_agree() -> None:
    """The response is the same in kind, text and usage either way."""
    whole = await _respond(ScriptedModel([EVERYTHING]))
    streamed = ModelResponse.from_response((await _stream(ScriptedModel([EVERYTHING])))[-1].response)
    assert whole == streamed
    assert whole.usage.requests == 1
    assert whole.usage.output_tokens > 5


async def test_single_steps_need_no_list() -> None:
    """A string, a part or a Script stands for a whole script."""
    assert _text(await _respond(ScriptedModel("hi"))) == "hi"
    assert _text(await _respond(ScriptedModel(Message("hi")))) == "hi"
    assert _text(await _respond(ScriptedModel({"say": "hi"}))) == "hi"
    model = ScriptedModel(Script(["a"], default="b"))
    assert [_text(await _respond(model)) for _ in range(3)] == ["a", "b", "b"]


async def test_time_passes_by_the_clock() -> None:
    """Streamed or not, a slow answer takes its time, and no real time."""
    turn = say("a b c", first_after_s=60.0, every_s=3600.0)
    clock = FakeClock(0.0)
    model = ScriptedModel([turn, turn], clock=clock)
    stamps = [(event.type, clock.now()) async for event in model.stream_response(**_arguments())]
    assert stamps[0] == ("response.created", 60.0)
    assert [at for kind, at in stamps if kind.endswith(".delta")] == [60.0, 3660.0, 7260.0]
    await _respond(model)
    assert clock.now() == 2 * 7260.0


async def test_calls_are_recorded_as_they_were_made() -> None:
    """What the caller changes afterwards does not change the record."""
    items: list[Any] = [{"role": "user", "content": "hello"}]
    model = ScriptedModel(["a", "b"])
    await _respond(model, items)
    items.append({"role": "user", "content": "more"})
    await _stream(model, items)
    first, last = model.calls
    assert (first.number, first.streamed, len(first.input)) == (1, False, 1)
    assert (last.number, last.streamed, last.user_text) == (2, True, "more")
    assert first.system_instructions == first.instructions == "Be kind."
    assert (model.first_call, model.last_call) == (first, last)


async def test_a_function_chooses_the_answer() -> None:
    """It gets the call, may be a coroutine function, and may return any step."""

    async def answer(call: ModelCall) -> Any:
        return [ToolCall("f")] if not call.tool_results else lambda again: f"{again.tool_results[0].output}!"

    model = ScriptedModel([answer, answer])
    call: Any = (await _respond(model)).output[0]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
    assert _text(await _respond(model, [{"role": "user", "content": "hi"}, call, output])) == "42!"


async def test_conditions_choose_the_turn() -> None:
    """Tools and handoffs that the call offers count."""
    model = ScriptedModel([Turn("with", when=When(offers_tool="f")), "without"])
    assert _text(await _respond(model)) == "without"
    assert _text(await _respond(model, tools=[type("Tool", (), {"name": "f"})()])) == "with"


async def test_ids_differ_between_models_of_one_run() -> None:
    """After a handoff the next agent's model gives other ids, since it is asked something else."""
    first: Any = (await _respond(ScriptedModel([HandoffTo("B")]))).output[0]
    asked = [{"role": "user", "content": "hi"}, first.to_dict()]
    second: Any = (await _respond(ScriptedModel([ToolCall("f")]), asked)).output[0]
    assert first.call_id != second.call_id


async def test_a_call_beyond_the_script_is_told_so() -> None:
    """The error names the call and its last input, and is recorded with the call."""
    model = ScriptedModel(["a"])
    await _respond(model)
    with pytest.raises(UnexpectedModelCall, match=r"model call 2: .*1 turn, all used.*user: 'again'") as caught:
        await _stream(model, "again")
    assert caught.value.call_index == 1
    assert caught.value.call is model.last_call
    assert isinstance(caught.value, UserError)


async def test_steps_left_over_fail() -> None:
    """As a context manager, plain or asynchronous, and by assert_complete()."""
    with (
        pytest.raises(UnconsumedModelSteps, match=r"1 of 2.*turn 2 \(call of f\)") as caught,
        ScriptedModel(["a", ToolCall("f")]) as model,
    ):
        await _respond(model)
    assert caught.value.remaining_steps == model.remaining_steps == 1
    with pytest.raises(UnconsumedModelSteps):
        async with ScriptedModel(["a"]):
            pass
    with pytest.raises(KeyError), ScriptedModel(["a"]):
        raise KeyError("the block's own error comes first")


async def test_steps_can_be_added() -> None:
    """enqueue and extend append; a wrong step among several adds none."""
    model = ScriptedModel()
    model.enqueue("a")
    model.extend(["b", ToolCall("f")])
    with pytest.raises(InvalidModelStep, match=r"step 2: .*not 5"):
        model.extend(["c", 5])
    assert model.remaining_steps == 3
    assert [_text(await _respond(model)) for _ in range(2)] == ["a", "b"]


async def test_a_script_may_repeat() -> None:
    """With repeat=True the first turn follows the last."""
    with ScriptedModel(["a", "b"], repeat=True) as model:
        assert [_text(await _respond(model)) for _ in range(5)] == ["a", "b", "a", "b", "a"]


@pytest.mark.parametrize("as_step", [lambda error: error, Raise, ModelStep.raise_error, lambda error: {"error": error}])
async def test_exceptions_are_raised(as_step: Any) -> None:
    """However an exception is written, it is raised itself, before any event."""
    error = ValueError("boom")
    model = ScriptedModel([as_step(error), as_step(error)])
    for call in (_respond, _stream):
        with pytest.raises(ValueError, match="boom") as caught:
            await call(model)
        assert caught.value is error


async def test_an_exception_may_come_in_mid_stream() -> None:
    """After so many deltas, or at the end of them."""
    model = ScriptedModel(
        [say("a b c", fault=Raise(KeyError("x"), after=2)), say("a", fault=Raise(KeyError("x"), "end"))]
    )
    for expected in (["a", " b"], ["a"]):
        seen: list[Any] = []
        with pytest.raises(KeyError):
            await _collect(model.stream_response(**_arguments()), seen)
        assert [event.delta for event in seen if event.type == "response.output_text.delta"] == expected


@pytest.mark.parametrize(
    ("fault", "streamed", "whole"),
    [
        (Fault("http_error", status=429, retry_after_s=2), openai.RateLimitError, openai.RateLimitError),
        (Fault("http_error", status=401), openai.AuthenticationError, openai.AuthenticationError),
        (Fault("http_error", status=503), openai.InternalServerError, openai.InternalServerError),
        (Fault("http_error", status=418), openai.APIStatusError, openai.APIStatusError),
        (Fault("reset"), ModelStreamTruncated, openai.APIConnectionError),
        (Fault("reset", after="start"), openai.APIConnectionError, openai.APIConnectionError),
        (Fault("truncated_body"), ModelStreamTruncated, openai.APIConnectionError),
        (Fault("broken_frame"), ModelStreamBroken, ModelStreamBroken),
    ],
)
async def test_faults_raise_what_a_real_model_raises(fault: Fault, streamed: Any, whole: Any) -> None:
    """Each raises the error that a program meets with a real provider."""
    model = ScriptedModel([say("a b c", fault=fault)] * 2)
    with pytest.raises(whole):
        await _respond(model)
    with pytest.raises(streamed):
        await _stream(model)


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        (Fault("no_end"), "response.output_item.done"),
        (Fault("no_end", after=2), "response.output_text.delta"),
        (Fault("error_event"), "error"),
        (Fault("failed"), "response.failed"),
    ],
)
async def test_faults_end_a_stream_as_a_real_one_ends(fault: Fault, last: str) -> None:
    """The stream ends without an exception and without its proper end; an unstreamed call raises."""
    model = ScriptedModel([say("a b c", fault=fault)] * 2)
    assert (await _stream(model))[-1].type == last
    with pytest.raises(ModelStreamTruncated if fault.kind == "no_end" else ModelStreamFailed):
        await _respond(model)


async def test_an_error_tells_status_header_and_code() -> None:
    """A scripted rate limit has what retry policies look at."""
    fault = Fault("http_error", status=429, retry_after_s=2)
    with pytest.raises(openai.RateLimitError) as caught:
        await _stream(ScriptedModel([fault]))
    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.code == "rate_limit_exceeded"


async def test_an_error_event_is_typed() -> None:
    """It is the official ResponseErrorEvent, with the fault's message."""
    events = await _stream(ScriptedModel([Fault("error_event", message="Overloaded")]))
    assert isinstance(events[-1], ResponseErrorEvent)
    assert events[-1].message == "Overloaded"


async def test_silence_can_be_timed_out() -> None:
    """For ever, or for a while; a slow first byte likewise."""
    clock = FakeClock(0.0)
    steps = [
        say("a b", fault=Fault("silence")),
        say("a b", fault=Fault("silence", for_s=10.0)),
        Fault("slow_first_byte"),
    ]
    model = ScriptedModel(steps, clock=clock)
    with pytest.raises(TimeoutError):
        async with clock.timeout(100.0):
            await _stream(model)
    assert clock.now() == 100.0
    await _stream(model)
    assert clock.now() == 110.0
    await _stream(model)
    assert clock.now() == 140.0


async def test_abandoned_streams_are_counted() -> None:
    """A stream that is closed or cancelled before its end is seen; one that was read to its last event is not."""
    model = ScriptedModel(["a b c"] * 4, clock=FakeClock())
    stream = model.stream_response(**_arguments())
    await anext(stream)
    assert (model.open_streams, model.abandoned_streams) == (1, 0)
    await stream.aclose()
    assert (model.open_streams, model.abandoned_streams) == (0, 1)
    await _stream(model)
    last = model.stream_response(**_arguments())
    async for event in last:
        if event.type == "response.completed":
            break
    await last.aclose()
    assert model.abandoned_streams == 1
    silent = ScriptedModel([Fault("silence")])
    task = asyncio.create_task(_stream(silent))
    await FakeClock().settle()
    task.cancel()
    await asyncio.wait([task])
    assert silent.abandoned_streams == 1


async def test_finished_items_come_back_as_they_are() -> None:
    """The SDK's way: the step's own objects are the output, streamed and not, with the step's usage and ids."""
    items = [assistant_message("Hi"), function_call("f", {"a": 1}, call_id="c1")]
    usage = Usage(requests=1, input_tokens=3, output_tokens=4, total_tokens=7)
    step = ModelStep(items, usage=usage, response_id="resp_x", request_id="req_x")
    model = ScriptedModel([step, step, items, []])
    whole = await _respond(model)
    events = await _stream(model)
    assert whole.output == items
    assert whole.output[0] is items[0]
    assert (whole.usage, whole.response_id, whole.request_id) == (usage, "resp_x", "req_x")
    assert ModelResponse.from_response(events[-1].response) == whole
    assert [event.delta for event in events if event.type.endswith(".delta")] == ["Hi", '{"a":1}']
    assert (await _respond(model)).output == items
    assert (await _respond(model)).output == []


async def test_exact_events_are_passed_on() -> None:
    """ModelStep.stream yields the very events, from a list or from a function of the call."""
    events = await _stream(ScriptedModel(["a b"]))

    async def replay(call: ModelCall) -> AsyncIterator[Any]:
        assert call.streamed
        for event in events:
            yield event

    model = ScriptedModel([ModelStep.stream(events), ModelStep.stream(replay)])
    assert all(a is b for a, b in zip(await _stream(model), events, strict=True))
    assert await _stream(model) == events


async def test_model_responses_are_steps() -> None:
    """A recorded ModelResponse is played again."""
    recorded = ModelResponse(output=[assistant_message("Hi")], usage=Usage(requests=1), response_id="r")
    assert await _respond(ScriptedModel([recorded])) == recorded


async def test_default_usage_fills_in() -> None:
    """Steps that give no usage report the default, those that give one their own."""
    default = Usage(requests=1, input_tokens=10, output_tokens=20, total_tokens=30)
    turn = Turn("x", usage=Tokens(1, 2))
    model = ScriptedModel([[assistant_message("Hi")], "x", turn, "x"], default_usage=default)
    totals = [(await _respond(model)).usage.total_tokens for _ in range(3)]
    model.set_default_usage(None)
    assert [*totals, (await _respond(model)).usage.output_tokens] == [30, 30, 3, 1]


async def test_raw_usage_is_kept_on_request() -> None:
    """ModelStep.raw_usage comes with settings that preserve it."""
    model = ScriptedModel([ModelStep(raw_usage={"a": 1})] * 2)
    kept = await _respond(model, model_settings=ModelSettings(preserve_raw_usage=True))
    assert (kept.raw_usage, (await _respond(model)).raw_usage) == ({"a": 1}, None)


async def test_retry_advice_goes_with_its_error() -> None:
    """get_retry_advice answers for the very error that was raised, and for no other."""
    error, advice = ValueError("x"), object()
    model = ScriptedModel([ModelStep.raise_error(error, retry_advice=advice)])
    with pytest.raises(ValueError, match="x"):
        await _respond(model)
    request = type("Request", (), {"error": error})
    assert model.get_retry_advice(request) is advice
    request.error = ValueError("x")  # type: ignore[attr-defined]
    assert model.get_retry_advice(request) is None


@pytest.mark.parametrize(
    ("step", "words", "reason"),
    [
        (5, "step 2: a step is a string", "invalid_input"),
        ({"output": [], "colour": 1}, "no field 'colour'", "unsupported_field"),
        ({"output": "text"}, "ModelStep.output: must be a list", "invalid_input"),
        (ModelStep(error="x"), "ModelStep.error: must be an exception", "invalid_error"),  # type: ignore[arg-type]
        (ModelStep(responder=1), "responder: must be a function", "invalid_responder"),  # type: ignore[arg-type]
        (ModelStep(stream_events=1), "stream_events: must be", "invalid_stream_events"),  # type: ignore[arg-type]
        (ModelStep(error=ValueError(), responder=print), "only one of", "conflicting_outcomes"),
        (ModelStep(retry_advice=1), "goes with an error", "invalid_retry_advice"),
        ({"say": 5}, "Message.text: must be a string, not 5", "invalid_input"),
    ],
)
def test_wrong_steps_are_refused_when_they_are_given(step: Any, words: str, reason: str) -> None:
    """The error names the step, the field and the value, and carries the SDK's reason."""
    with pytest.raises(InvalidModelStep, match=words) as caught:
        ScriptedModel(["ok", step])
    assert (caught.value.reason, caught.value.input_index) == (reason, 1)
    with pytest.raises(InvalidModelStep):
        ScriptedModel().enqueue(step)
