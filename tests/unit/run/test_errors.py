"""Bad input: each ends the run with one error that says what to do, exactly one run.end, and nothing left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import openai
import pytest
from pydantic import BaseModel

from runstream import (
    Agent,
    MaxTurnsExceeded,
    ModelBehaviorError,
    RunConfig,
    RunHooks,
    Runner,
    UserError,
    function_tool,
)
from runstream.errors import (
    AgentsException,
    ModelRefusalError,
    ModelStreamBroken,
    ModelStreamFailed,
    ModelStreamTruncated,
)
from runstream.log.follow import Follower
from runstream.run.active import ActiveRun
from runstream.run.error_handlers import RunErrorHandlerInput, RunErrorHandlerResult
from runstream.run.history import CANCELLED_OUTPUT
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, Fault, Raise, Refusal, ScriptedModel, ToolCall, Turn, say


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


class Answer(BaseModel):
    value: int


def _agent(*steps: Any, **fields: Any) -> Agent[Any]:
    return Agent(name="Ann", model=ScriptedModel(steps, clock=FakeClock()), tools=[ping], **fields)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[ActiveRun]:
    """The runs that a test starts, to look at logs that no result offers."""
    started: list[ActiveRun] = []
    original = ActiveRun.start

    def start(self: ActiveRun, drive: Any) -> None:
        started.append(self)
        original(self, drive)

    monkeypatch.setattr(ActiveRun, "start", start)
    return started


def _events(run: ActiveRun) -> list[Any]:
    follower = Follower(run.log)
    events = list(iter(follower.next_nowait, None))
    assert follower.at_end
    return events


Way = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["run", "wait", "stream_events", "task"])
def way(request: pytest.FixtureRequest) -> Way:
    """The ways to run, and to be told of an error."""

    async def run(*arguments: Any, **options: Any) -> Any:
        if request.param == "run":
            return await Runner.run(*arguments, **options)
        result = Runner.run_streamed(*arguments, **options)
        if request.param == "wait":
            return await result.wait()
        if request.param == "task":
            assert result.run_loop_task is not None
            await result.run_loop_task
        async for _ in result.stream_events():
            pass
        return result

    return run


# Before the first byte of an answer, or in the middle of it.
BROKEN = (openai.APIConnectionError, ModelStreamTruncated)
FAILURES: dict[str, tuple[dict[str, Any], Any, str]] = {
    "unknown tool": ({"steps": [ToolCall("nope")]}, ModelBehaviorError, "Tool nope not found in agent Ann"),
    "max_turns": ({"steps": [ToolCall("ping")] * 2, "max_turns": 2}, MaxTurnsExceeded, r"Max turns \(2\) exceeded"),
    "no turn": ({"steps": [], "max_turns": 0}, MaxTurnsExceeded, r"Max turns \(0\) exceeded"),
    "error event": ({"steps": [say("a b", fault=Fault("error_event"))]}, ModelStreamFailed, "scripted fault"),
    "failed": ({"steps": [say("a b", fault=Fault("failed"))]}, ModelStreamFailed, "scripted fault"),
    "no end": ({"steps": [say("a b", fault=Fault("no_end"))] * 3}, ModelStreamTruncated, "ended"),
    "reset": ({"steps": [say("a b", fault=Fault("reset"))] * 3}, BROKEN, "onnection"),
    "broken frame": ({"steps": [say("a b", fault=Fault("broken_frame"))]}, ModelStreamBroken, "not an event"),
    "refused connection": ({"steps": [Fault("reset", after="start")] * 3}, openai.APIConnectionError, "onnection"),
    "unauthorised": ({"steps": [Fault("http_error", status=401)]}, openai.AuthenticationError, "401"),
    "rate limit": ({"steps": [Fault("http_error", status=429)] * 3}, openai.RateLimitError, "429"),
    "server error": ({"steps": [Fault("http_error", status=500)] * 3}, openai.InternalServerError, "500"),
    "model raises": ({"steps": [Raise(KeyError("inside the model"))]}, KeyError, "inside the model"),
    "refusal": ({"steps": [Refusal("no way")]}, ModelRefusalError, "no way"),
    "bad output": ({"steps": ['{"value": "x"}'], "output_type": Answer}, ModelBehaviorError, "Answer"),
    "no JSON": ({"steps": ["well"], "output_type": Answer}, ModelBehaviorError, "Answer"),
    "two tools": ({"steps": [], "tools": [ping, ping]}, UserError, "two tools of the name 'ping'"),
    "no schema": ({"steps": [], "output_type": Annotated[asyncio.Future, 1]}, UserError, "cannot become a JSON schema"),
    "instructions": ({"steps": [], "instructions": lambda: "x"}, TypeError, "exactly 2 arguments"),
    "prompt": ({"steps": [], "prompt": {"name": "x"}}, UserError, "a prompt is a dict with `id`"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_every_failure_ends_in_one_way(name: str, way: Way, runs: list[ActiveRun]) -> None:
    """Each bad input raises its one error, the same however the run is watched; the log ends once; data is there."""
    case, kind, message = FAILURES[name]
    fields = {key: value for key, value in case.items() if key not in ("steps", "max_turns")}
    agent = _agent(*case["steps"])
    for key, value in fields.items():
        setattr(agent, key, value)
    options = {"max_turns": case.get("max_turns", 10), "run_config": RunConfig(clock=FakeClock())}
    with pytest.raises(kind, match=message) as caught:
        await way(agent, "hi", **options)
    [run] = runs
    events = _events(run)
    assert [event.kind for event in events if event.kind.startswith("run.")] == ["run.start", "run.end"]
    end = events[-1].data
    assert (end.status, end.error.type) == ("failed", type(caught.value).__name__)
    assert events[-1].live is caught.value is run.error
    model: Any = agent.model
    assert model.open_streams == 0
    if isinstance(caught.value, AgentsException):
        data = caught.value.run_data
        assert data is not None
        assert (data.input, data.last_agent, data.new_items) == ("hi", agent, list(run.items))


async def test_no_key_is_a_clear_error_before_any_request(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the error says how to give one, and how to do without."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no API key: set the environment variable OPENAI_API_KEY"):
        await way(Agent(name="Ann"), "hi")


async def test_the_log_names_the_error_as_data() -> None:
    """run.end carries type, message, code and whether a retry may help."""
    result = Runner.run_streamed(_agent(say("a b", fault=Fault("no_end"))), "hi")
    with pytest.raises(ModelStreamTruncated):
        await result.wait()
    error = [event async for event in result.events()][-1].data.error
    assert (error.type, error.code, error.retryable) == ("ModelStreamTruncated", "model_stream_truncated", True)


class _Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


async def test_an_error_that_cannot_tell_its_message_does_not_hang_the_run(way: Way) -> None:
    """Whatever an exception class does, run.end is written and the error raised."""
    with pytest.raises(_Mute):
        await asyncio.wait_for(way(_agent(Raise(_Mute())), "hi"), 5)


async def test_an_unread_failure_is_reported_by_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody asked for is not swallowed: asyncio logs it when the run is collected."""
    import gc
    import logging

    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(repr(context.get("exception"))))
    result = Runner.run_streamed(_agent(Raise(ValueError("unseen"))), "hi")
    await FakeClock().settle()
    assert result.is_complete
    del result
    gc.collect()
    assert reported == ["ValueError('unseen')"]
    with caplog.at_level(logging.ERROR):
        told = Runner.run_streamed(_agent(Raise(ValueError("seen"))), "hi")
        with pytest.raises(ValueError, match="seen"):
            await told.wait()
        del told
        gc.collect()
    assert len(reported) == 1


async def test_max_turns_is_raised_after_the_turns_events_were_read() -> None:
    """Readers get every event of the turns that were made, then the error with its data."""
    result = Runner.run_streamed(_agent(ToolCall("ping"), ToolCall("ping")), "hi", max_turns=2)
    names: list[str] = []
    with pytest.raises(MaxTurnsExceeded) as caught:  # noqa: PT012
        async for event in result.stream_events():
            if event.type == "run_item_stream_event":
                names.append(event.name)
    assert names == ["tool_called", "tool_output"] * 2
    assert caught.value.run_data is not None
    assert len(caught.value.run_data.raw_responses) == 2
    assert caught.value.run_data.context_wrapper is result.context_wrapper


async def test_tools_of_a_failed_turn_are_answered() -> None:
    """A response with a known and an unknown tool fails before either runs; both calls are answered."""
    ran: list[int] = []

    @function_tool
    async def note() -> str:
        ran.append(1)
        return "noted"

    agent = _agent([ToolCall("note", call_id="a"), ToolCall("nope", call_id="b")])
    agent.tools.append(note)
    with pytest.raises(ModelBehaviorError) as caught:
        await Runner.run(agent, "hi")
    assert caught.value.run_data is not None
    outputs = {
        item.raw_item["call_id"]: item.output
        for item in caught.value.run_data.new_items
        if item.type == "tool_call_output_item"
    }
    assert outputs == {"a": CANCELLED_OUTPUT, "b": CANCELLED_OUTPUT}
    assert ran == []


# Error handlers.


@pytest.mark.parametrize("form", ["result", "dict", "plain", "async"])
async def test_a_handler_puts_an_output_in_place_of_max_turns(form: str, way: Way) -> None:
    """The fallback is the final output, a message in the items and in the session."""
    seen: list[RunErrorHandlerInput[Any]] = []

    def handle(data: RunErrorHandlerInput[Any]) -> Any:
        seen.append(data)
        if form == "result":
            return RunErrorHandlerResult("gave up")
        return {"final_output": "gave up"} if form == "dict" else "gave up"

    async def handle_async(data: RunErrorHandlerInput[Any]) -> Any:
        return handle(data)

    session = InMemorySession("s")
    handlers: Any = {"max_turns": handle_async if form == "async" else handle}
    agent = _agent(ToolCall("ping"))
    result = await way(agent, "hi", max_turns=1, error_handlers=handlers, session=session)
    assert result.final_output == "gave up"
    assert result.new_items[-1].type == "message_output_item"
    saved: Any = (await session.get_items())[-1]
    assert saved["content"][0]["text"] == "gave up"
    [data] = seen
    assert isinstance(data.error, MaxTurnsExceeded)
    assert data.run_data.last_agent is agent
    assert [item.get("type", item.get("role")) for item in data.run_data.history] == [  # type: ignore[union-attr]
        "user",
        "function_call",
        "function_call_output",
    ]


async def test_a_fallback_is_an_event() -> None:
    """Streamed, the handler's message comes as message_output_created."""
    handlers: Any = {"max_turns": lambda data: "gave up"}
    result = Runner.run_streamed(_agent(ToolCall("ping")), "hi", max_turns=1, error_handlers=handlers)
    events = [event async for event in result.stream_events()]
    assert events[-1].name == "message_output_created"  # type: ignore[union-attr]
    assert result.final_output == "gave up"


async def test_a_fallback_may_stay_out_of_the_history(way: Way) -> None:
    """`include_in_history=False` gives the output without a message."""
    handlers: Any = {"max_turns": lambda data: RunErrorHandlerResult({"gave": "up"}, include_in_history=False)}
    result = await way(_agent(ToolCall("ping")), "hi", max_turns=1, error_handlers=handlers)
    assert result.final_output == {"gave": "up"}
    assert [item.type for item in result.new_items] == ["tool_call_item", "tool_call_output_item"]


@pytest.mark.parametrize(
    ("kind", "step", "error"),
    [
        ("model_refusal", Refusal("no"), ModelRefusalError),
        ("invalid_final_output", '{"value": "x"}', ModelBehaviorError),
    ],
)
async def test_handlers_for_what_the_model_says(kind: str, step: Any, error: type[Exception], way: Way) -> None:
    """A refusal, and an output that does not fit, have handlers of their own."""
    seen: list[type[Exception]] = []

    def handle(data: RunErrorHandlerInput[Any]) -> Any:
        seen.append(type(data.error))
        return Answer(value=0)

    result = await way(_agent(step, output_type=Answer), "hi", error_handlers={kind: handle})
    assert result.final_output == Answer(value=0)
    assert seen == [error]


async def test_a_handler_that_returns_none_lets_the_error_go_on(way: Way) -> None:
    """None means: not handled."""
    handlers: Any = {"max_turns": lambda data: None}
    with pytest.raises(MaxTurnsExceeded):
        await way(_agent(ToolCall("ping")), "hi", max_turns=1, error_handlers=handlers)


async def test_a_handler_that_fails_is_the_runs_error(way: Way) -> None:
    """What a handler raises is raised, with the first error as its context."""

    def handle(data: RunErrorHandlerInput[Any]) -> Any:
        raise ZeroDivisionError

    handlers: Any = {"model_refusal": handle}
    with pytest.raises(ZeroDivisionError) as caught:
        await way(_agent(Refusal("no")), "hi", error_handlers=handlers)
    assert isinstance(caught.value.__context__, ModelRefusalError)


async def test_a_handlers_dict_is_checked(way: Way) -> None:
    """A misspelt key of the result is named."""
    handlers: Any = {"max_turns": lambda data: {"final_output": 1, "in_history": False}}
    with pytest.raises(UserError, match="unknown keys: in_history"):
        await way(_agent(ToolCall("ping")), "hi", max_turns=1, error_handlers=handlers)


async def test_an_incomplete_answer_is_never_a_success() -> None:
    """An answer that was cut off fails the run."""
    agent = _agent(Turn(("only half of",), incomplete="max_output_tokens"))
    with pytest.raises(ModelStreamFailed, match="max_output_tokens"):
        await Runner.run_streamed(agent, "hi").wait()


async def test_errors_of_others_have_the_runs_data_too(way: Way) -> None:
    """What a hook or a provider raises carries what there was; where its class takes no attribute, or has one of that
    name for itself, it is raised as it is."""

    class Plain(Exception):
        pass

    class Closed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise ZeroDivisionError

    class Taken(Exception):
        run_data = "its own"

    class Hooks(RunHooks[Any]):
        def __init__(self, error: Exception) -> None:
            self.error = error

        async def on_tool_end(self, *arguments: Any) -> None:
            raise self.error

    for error in (Plain("x"), Closed("x"), Taken("x")):
        model = ScriptedModel([["Let me see.", ToolCall("ping")]])
        with pytest.raises(type(error)) as caught:
            await way(Agent(name="Ann", model=model, tools=[ping]), "hi", hooks=Hooks(error))
        assert caught.value is error
        data: Any = getattr(error, "run_data", None)
        if isinstance(error, Plain):
            assert (data.partial_output, len(data.new_items)) == ("Let me see.", 3)
        else:
            assert data == ("its own" if isinstance(error, Taken) else None)
