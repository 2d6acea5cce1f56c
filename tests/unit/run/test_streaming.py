"""What readers of a run see: the SDK's events, the numbered ones, and the same for everybody."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types.responses import ResponseTextDeltaEvent

from runstream import (
    Agent,
    AgentUpdatedStreamEvent,
    ModelBehaviorError,
    RawResponsesStreamEvent,
    RunConfig,
    RunItemStreamEvent,
    Runner,
    UserError,
    function_tool,
)
from runstream.errors import CursorExpired, ModelStreamFailed
from runstream.testing import (
    FakeClock,
    Fault,
    HandoffTo,
    ModelStep,
    Raise,
    Reasoning,
    ScriptedModel,
    ToolCall,
    Turn,
    say,
)


@function_tool
async def look_up(word: str) -> str:
    """Look up."""
    return f"{word} is found"


def _desk(*, clock: FakeClock | None = None) -> Agent[Any]:
    """A tool call, then a handoff, then the answer of the other agent."""
    model = ScriptedModel(
        [
            Turn((Reasoning("hm"), "Wait.", ToolCall("look_up", {"word": "a"}))),
            HandoffTo("Bob"),
            say("The end is here.", every_s=0.1),
        ],
        clock=clock or FakeClock(),
    )
    return Agent(name="Ann", model=model, tools=[look_up], handoffs=[Agent(name="Bob", model=model)])


async def _names(events: AsyncIterator[Any]) -> list[str]:
    """The events in a word each, deltas left out."""
    names: list[str] = []
    async for event in events:
        if isinstance(event, RunItemStreamEvent):
            names.append(event.name)
        elif isinstance(event, AgentUpdatedStreamEvent):
            names.append(f"agent {event.new_agent.name}")
        elif event.data.type in ("response.created", "response.completed"):
            names.append(event.data.type)
    return names


async def test_the_order_of_events_over_a_whole_run() -> None:
    """agent-updated comes first and once per handoff; a turn's items follow its response, in the model's order; a
    handoff has its two own events and no tool_called."""
    assert await _names(Runner.run_streamed(_desk(), "hi").stream_events()) == [
        "agent Ann",
        "response.created",
        "response.completed",
        "reasoning_item_created",
        "message_output_created",
        "tool_called",
        "tool_output",
        "response.created",
        "response.completed",
        "handoff_requested",
        "handoff_occured",
        "agent Bob",
        "response.created",
        "response.completed",
        "message_output_created",
    ]


async def test_a_tool_call_beside_a_handoff_keeps_its_own_event() -> None:
    """A response with both gives tool_called and handoff_requested; the tool runs before the handoff."""
    model = ScriptedModel([[ToolCall("look_up", {"word": "a"}), HandoffTo("Bob")], "done"])
    agent = Agent(name="Ann", model=model, tools=[look_up], handoffs=[Agent(name="Bob", model=model)])
    names = await _names(Runner.run_streamed(agent, "hi").stream_events())
    assert names[3:7] == ["tool_called", "handoff_requested", "tool_output", "handoff_occured"]


async def test_streamed_items_are_the_new_items() -> None:
    """What item events carried is `new_items`, object by object; the text of the deltas is the final output."""
    result = Runner.run_streamed(_desk(), "hi")
    events = [event async for event in result.stream_events()]
    items = [event.item for event in events if isinstance(event, RunItemStreamEvent)]
    assert all(one is other for one, other in zip(items, result.new_items, strict=True))
    text = "".join(
        event.data.delta
        for event in events
        if isinstance(event, RawResponsesStreamEvent)
        and isinstance(event.data, ResponseTextDeltaEvent)
        and event.agent_name == "Bob"
    )
    assert text == result.final_output == "The end is here."


async def test_events_carry_their_place_in_the_log() -> None:
    """Each event of the SDK's view has the run's id, the seq of its envelope and the name of its agent."""
    result = Runner.run_streamed(_desk(), "hi")
    view = [event async for event in result.stream_events()]
    envelopes = {event.seq: event async for event in result.events()}
    assert [event.seq for event in view] == sorted(event.seq for event in view)
    assert {event.run_id for event in view} == {result.run_id}
    for event in view:
        assert event.agent_name == envelopes[event.seq].agent
        if isinstance(event, RawResponsesStreamEvent):
            assert event.data == envelopes[event.seq].data


async def test_a_call_without_arguments_gets_an_empty_object() -> None:
    """`tool_called` comes once, with `{}` where the model sent an empty string."""
    seen: list[str] = []

    @function_tool
    async def ping() -> str:
        return "pong"

    model = ScriptedModel([ToolCall("ping", ""), "ok"])
    async for event in Runner.run_streamed(Agent(name="Ann", model=model, tools=[ping]), "hi"):
        if isinstance(event, RunItemStreamEvent) and event.name == "tool_called":
            seen.append(event.item.raw_item.arguments)  # type: ignore[union-attr]
    assert seen == ["{}"]


async def _exact(agent_text: str, *, filled: str | None) -> Any:
    """The events of a message, where the terminal event has no output, or another one."""
    model = ScriptedModel([agent_text])
    events = [
        event.data
        async for event in Runner.run_streamed(Agent(name="x", model=model), "hi")
        if isinstance(event, RawResponsesStreamEvent)
    ]
    last: Any = events[-1].model_copy(deep=True)
    if filled is None:
        last.response.output = []
    else:
        last.response.output[0].content[0].text = filled
    return ModelStep.stream([*events[:-1], last])


async def test_an_empty_terminal_output_is_filled_from_the_items_before() -> None:
    """Where response.completed has no output, the items that were announced one by one count."""
    model = ScriptedModel([await _exact("Hello there.", filled=None)])
    result = await Runner.run_streamed(Agent(name="Ann", model=model), "hi").wait()
    assert result.final_output == "Hello there."
    assert len(result.new_items) == 1


async def test_a_filled_terminal_output_wins() -> None:
    """Where response.completed has an output, it counts, whatever was announced before."""
    model = ScriptedModel([await _exact("Hello there.", filled="Another.")])
    result = await Runner.run_streamed(Agent(name="Ann", model=model), "hi").wait()
    assert result.final_output == "Another."
    assert len(result.new_items) == 1


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        (Turn(("cut off",), incomplete="max_output_tokens"), "response.incomplete"),
        (say("some text", fault=Fault("failed")), "response.failed"),
        (say("some text", fault=Fault("error_event")), "error"),
    ],
)
async def test_a_failure_in_the_stream_is_delivered_and_then_raised(turn: Turn, kind: str) -> None:
    """The terminal event of a failed response reaches readers, then ModelBehaviorError; raw_responses stays empty."""
    result = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel([turn])), "hi")
    kinds: list[str] = []
    with pytest.raises(ModelBehaviorError) as caught:  # noqa: PT012
        async for event in result.stream_events():
            if isinstance(event, RawResponsesStreamEvent):
                kinds.append(event.data.type)
    assert kinds[-1] == kind
    assert isinstance(caught.value, ModelStreamFailed)
    assert caught.value.event_type == kind
    assert result.raw_responses == []
    assert result.run_loop_exception is caught.value


class _Falsy(Exception):
    def __bool__(self) -> bool:
        return False


async def test_errors_are_raised_at_the_end_even_falsy_ones() -> None:
    """The run's error surfaces from stream_events(), wait() and run_loop_task, and in run_loop_exception."""
    error = _Falsy("no")
    result = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel([Raise(error)])), "hi")
    with pytest.raises(_Falsy):
        await _names(result.stream_events())
    with pytest.raises(_Falsy):
        await result.wait()
    assert result.run_loop_task is not None
    with pytest.raises(_Falsy):
        await result.run_loop_task
    assert result.run_loop_exception is error
    assert result.is_complete


async def test_the_state_follows_the_run() -> None:
    """current_turn, current_agent, is_complete and usage are right at each moment of reading."""
    result = Runner.run_streamed(_desk(), "hi", max_turns=7)
    assert (result.current_turn, result.is_complete, result.max_turns) == (0, False, 7)
    turns: list[tuple[int, str, int]] = []
    async for event in result.stream_events():
        if isinstance(event, RunItemStreamEvent) and event.name != "handoff_requested":
            turns.append((result.current_turn, result.current_agent.name, result.context_wrapper.usage.requests))
    assert turns == [(1, "Ann", 1)] * 4 + [(2, "Bob", 2), (3, "Bob", 3)]
    assert result.is_complete
    assert result.last_agent.name == "Bob"
    assert [response.usage.requests for response in result.raw_responses] == [1, 1, 1]


# Any number of readers, at any time, at any speed.


async def _everything(result: Any, *, pause: int = 0, view: bool = True) -> list[Any]:
    """All events: of the view as their seqs and types, of the log as they are."""
    seen: list[Any] = []
    async for event in result.stream_events() if view else result.events():
        seen.append((event.seq, type(event).__name__, event.run_id, getattr(event, "data", None)))
        for _ in range(pause):
            await asyncio.sleep(0)
    return seen


async def test_all_readers_see_the_same_whatever_their_speed() -> None:
    """Readers from before, during and after the run, fast and slow, get the same sequence; so do both kinds."""
    clock = FakeClock()
    result = Runner.run_streamed(_desk(clock=clock), "hi", run_config=RunConfig(clock=clock))
    early = [asyncio.create_task(_everything(result, pause=pause)) for pause in (0, 1, 7)]
    numbered = [asyncio.create_task(_everything(result, pause=pause, view=False)) for pause in (0, 3)]
    first = result.stream_events()
    for _ in range(20):
        await anext(first)
    late = asyncio.create_task(_everything(result))
    async for _ in first:
        pass
    seen = [await task for task in [*early, late]]
    after = await _everything(result)
    assert all(other == after for other in seen)
    logs = [await task for task in numbered]
    assert logs[0] == logs[1] == await _everything(result, view=False)
    assert [seq for seq, *_ in logs[0]] == list(range(1, len(logs[0]) + 1))
    assert {entry[0] for entry in after} <= {entry[0] for entry in logs[0]}


async def test_a_reader_that_times_out_loses_nothing() -> None:
    """`wait_for(anext(...))` that times out again and again sees every event once, in order."""
    clock = FakeClock(autojump=False)
    model = ScriptedModel([say("one two three four", every_s=1.0)], clock=clock)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    reader = result.stream_events()
    seqs: list[int] = []
    timeouts = 0
    while True:
        waiting = asyncio.create_task(anext(reader))  # type: ignore[arg-type]
        await clock.settle()
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait({waiting})
            timeouts += 1
            await clock.advance(0.3)
            continue
        try:
            seqs.append(waiting.result().seq)
        except StopAsyncIteration:
            break
    assert timeouts > 5
    assert result.final_output == "one two three four"
    assert seqs == [event.seq async for event in result.stream_events()]


async def test_wait_for_on_anext_is_prompt_and_the_run_goes_on() -> None:
    """A real `asyncio.wait_for` returns at once on time-out, and the next read gets what came meanwhile."""
    clock = FakeClock(autojump=False)
    model = ScriptedModel([say("late", first_after_s=60.0)], clock=clock)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    reader = result.stream_events()
    await anext(reader)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(reader), 0.001)
    assert not result.is_complete
    clock.autojump = True
    assert [event.type async for event in reader][-1] == "run_item_stream_event"
    assert result.final_output == "late"


@pytest.mark.parametrize("after", [0, 1, 5, 10])
async def test_events_after_a_cursor(after: int) -> None:
    """`events(after)` gives exactly the events beyond that seq, during and after the run."""
    result = Runner.run_streamed(_desk(), "hi")
    whole = [event.seq async for event in result.events()]
    assert [event.seq async for event in result.events(after)] == whole[after:]
    assert [event.seq async for event in result.events(len(whole))] == []


@pytest.mark.parametrize("after", [-1, 1.5, "1", True])
async def test_a_cursor_must_be_a_seq(after: Any) -> None:
    """What is no whole number from 0 is refused when the reader is made."""
    result = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel(["x"])), "hi")
    with pytest.raises(UserError, match="after must be a whole number"):
        result.events(after)
    await result.wait()
    with pytest.raises(UserError, match="is not a cursor of this log"):
        result.events(1000)


async def test_a_cursor_that_is_no_longer_kept_says_what_is() -> None:
    """Beyond `max_log_events` the oldest go; a reader that wants them gets CursorExpired with the first seq kept."""
    model = ScriptedModel([say("word " * 3000)])
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(max_log_events=100))
    await result.wait()
    with pytest.raises(CursorExpired, match="no longer kept") as caught:
        [event async for event in result.events()]
    first = caught.value.first_seq
    assert (await anext(result.events(first - 1))).seq == first


async def test_a_failed_run_can_be_read_again() -> None:
    """events() ends with run.end and does not raise; stream_events() raises the same error each time."""
    error = ValueError("broken")
    model = ScriptedModel([say("some text here", fault=Raise(error, after=2))])
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi")
    views: list[list[int]] = []
    for _ in range(3):
        seqs: list[int] = []
        with pytest.raises(ValueError, match="broken") as caught:  # noqa: PT012
            async for event in result.stream_events():
                seqs.append(event.seq)
        assert caught.value is error
        views.append(seqs)
    assert views[0] == views[1] == views[2]
    logs = [[event async for event in result.events()] for _ in range(2)]
    assert [event.seq for event in logs[0]] == [event.seq for event in logs[1]]
    end = logs[0][-1]
    assert (end.kind, end.data.status, end.data.error.type, end.data.error.message) == (
        "run.end",
        "failed",
        "ValueError",
        "broken",
    )
    assert end.live is error


async def test_an_iterator_that_has_ended_stays_ended() -> None:
    """After its end, or aclose(), an iterator gives nothing more and raises nothing more."""
    result = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel([Raise(ValueError("x"))])), "hi")
    reader = result.stream_events()
    with pytest.raises(ValueError, match="x"):
        await _names(reader)
    assert await _names(reader) == []
    unread = result.stream_events()
    await unread.aclose()
    assert await _names(unread) == []


async def test_async_for_over_the_result_is_stream_events() -> None:
    """Iterating over the result gives what stream_events() gives, each time from the first event."""
    result = Runner.run_streamed(_desk(), "hi")
    assert await _names(aiter(result)) == await _names(result.stream_events()) == await _names(aiter(result))
