"""Laws that hold for every run, whatever the model says, the tools do and whoever cancels when.

A `Story` is such a run, drawn at random: what the model answers turn by turn, how long tools take and how they fail,
handoffs, unknown tools, refusals, broken streams; how slow the session is; how long it waits for its place; when it is
cancelled and how.
"""

import asyncio
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runstream import Agent, ModelSettings, RunConfig, Runner, function_tool
from runstream.agent.retry import ModelRetryBackoffSettings, ModelRetrySettings
from runstream.events.event import Event
from runstream.flow.load import LoadLimits, Place
from runstream.run.config import ToolExecutionConfig
from runstream.run.history import CANCELLED_OUTPUT, input_items_of
from runstream.run.result import RunResultStreaming
from runstream.run.stream_events import to_stream_event
from runstream.sessions.memory import InMemorySession
from runstream.testing import FakeClock, Fault, HandoffTo, Raise, Reasoning, Refusal, ScriptedModel, ToolCall, Turn

AGENTS = ("Ann", "Bob", "Cid")
# A cancelled run may take this long: the limit for tools, and the one for the session after it.
BOUND_S = 25.0


@dataclasses.dataclass(frozen=True)
class Story:
    """One run."""

    turns: tuple[Turn, ...]
    max_turns: int
    tells_unknown: bool
    concurrency: int | None
    session_delay_s: float
    cancel_mode: str | None = None
    cancel_after_s: float = 0.0
    reader: str = "view"
    ahead_s: tuple[float, ...] = ()
    """After how long each run leaves that was there before, in the one place that there is and in the queue."""


durations = st.sampled_from([1.0, 0.0, 0.5, 2.5])
names = st.sampled_from(["work", "work", "work", "strict", "stubborn", "sudden", "nowhere"])
calls = st.builds(
    lambda name, delay_s, fails: ToolCall(name, {"delay_s": delay_s, "fails": fails}), names, durations, st.booleans()
)
handoffs = st.sampled_from([HandoffTo(name) for name in AGENTS])
texts = st.sampled_from(["Hi.", "one two three", "a longer answer of several words"])
openings = st.lists(st.one_of(texts, texts.map(Reasoning)), max_size=2)


def seldom(fault: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Most turns are good ones, so that stories go on."""
    return st.integers(0, 9).flatmap(lambda dice: fault if dice == 9 else st.none())


faults = seldom(
    st.one_of(
        st.builds(
            Fault, st.sampled_from(["failed", "error_event", "reset", "no_end", "broken_frame"]), st.integers(0, 4)
        ),
        st.builds(lambda after: Raise(ValueError("the model broke"), after=after), st.integers(0, 3)),
        st.builds(lambda status: Fault("http_error", status=status), st.sampled_from([400, 429, 503])),
    )
)


def turns(fault: st.SearchStrategy[Any]) -> st.SearchStrategy[Turn]:
    return st.builds(
        lambda parts, every_s, fault: Turn(tuple(parts), every_s=every_s, fault=fault),
        st.one_of(
            st.tuples(openings, st.lists(calls, min_size=1, max_size=4), st.lists(handoffs, max_size=2)).map(
                lambda parts: [part for group in parts for part in group]
            ),
            st.tuples(openings, st.lists(calls, min_size=2, max_size=4)).map(lambda parts: parts[0] + parts[1]),
            st.lists(calls, min_size=1, max_size=3),
            st.tuples(openings, handoffs).map(lambda parts: [*parts[0], parts[1]]),
            texts.map(lambda text: [text]),
            st.sampled_from([["All done."], [Refusal("I would rather not.")]]),
        ),
        st.sampled_from([0.0, 0.3]),
        fault,
    )


def stories(*, fault: st.SearchStrategy[Any] = faults, cancels: bool = True) -> st.SearchStrategy[Story]:
    return st.builds(
        Story,
        turns=st.lists(turns(fault), min_size=1, max_size=5).map(tuple),
        max_turns=st.sampled_from([6, 6, 3, 1]),
        tells_unknown=st.sampled_from([True, True, False]),
        concurrency=st.sampled_from([None, None, 1, 2]),
        session_delay_s=st.sampled_from([0.0, 0.4]),
        cancel_mode=st.sampled_from([None, "immediate", "immediate", "after_turn"]) if cancels else st.none(),
        cancel_after_s=st.sampled_from([0.0, 0.1, 0.4, 0.7, 1.1, 2.6, 5.0]),
        reader=st.sampled_from(["view", "log", "none"]),
        ahead_s=st.sampled_from([(), (), (), (0.5,), (1.2, 0.1), (0.2, 2.0, 2.0)]),
    )


# What few stories come to.
TIMED_OUT = Story(
    (Turn((ToolCall("sudden", {"delay_s": 2.5, "fails": False}),)),), 6, True, None, 0.0, ahead_s=(0.2, 2.0, 2.0)
)


class _Session(InMemorySession):
    def __init__(self, clock: FakeClock, delay_s: float) -> None:
        super().__init__("s")
        self._clock, self._delay_s = clock, delay_s

    async def get_items(self, limit: int | None = None) -> list[Any]:
        await self._clock.sleep(self._delay_s)
        return await super().get_items(limit)

    async def add_items(self, items: list[Any]) -> None:
        await self._clock.sleep(self._delay_s)
        await super().add_items(items)


class Stage:
    """Everything that a story needs to be played once."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.clock = FakeClock()
        self.session = _Session(self.clock, story.session_delay_s)
        self.ends: list[str] = []
        """The ids of the calls whose tools have returned, in the order in which they did."""
        self.model = ScriptedModel(story.turns, default="That is all.", clock=self.clock)
        retry = ModelRetrySettings(backoff=ModelRetryBackoffSettings(jitter=False))
        agents = [
            Agent(name=name, model=self.model, tools=self._tools(), model_settings=ModelSettings(retry=retry))
            for name in AGENTS
        ]
        for agent in agents:
            agent.handoffs.extend(agents)
        self.agent = agents[0]
        config = RunConfig(
            clock=self.clock,
            tool_not_found_behavior="return_error_to_model" if story.tells_unknown else "raise_error",
            tool_execution=ToolExecutionConfig(max_function_tool_concurrency=story.concurrency),
        )
        if story.ahead_s:
            config.load_limits = LoadLimits(max_runs=1, clock=self.clock)
            self._ahead = [
                asyncio.create_task(self._leave(config.load_limits.ask("ahead"), after_s)) for after_s in story.ahead_s
            ]
        self.options: dict[str, Any] = {
            "max_turns": story.max_turns,
            "session": self.session,
            "run_config": config,
        }

    async def _leave(self, place: Place, after_s: float) -> None:
        await self.clock.sleep(after_s)
        place.leave()

    def _tools(self) -> list[Any]:
        from runstream.agent.tool_context import ToolContext

        async def body(context: ToolContext[Any], delay_s: float, fails: bool) -> str:
            await self.clock.sleep(delay_s)
            if fails:
                raise ValueError("the tool failed")
            self.ends.append(context.tool_call_id)
            return f"result of {context.tool_call_id}"

        @function_tool
        async def work(context: ToolContext[Any], delay_s: float, fails: bool) -> str:
            """Fails in a way that the model is told."""
            return await body(context, delay_s, fails)

        @function_tool(failure_error_function=None)
        async def strict(context: ToolContext[Any], delay_s: float, fails: bool) -> str:
            """Fails in a way that ends the run, but rarely."""
            return await body(context, delay_s, fails and delay_s > 2)

        @function_tool
        async def stubborn(context: ToolContext[Any], delay_s: float, fails: bool) -> str:
            """Takes its time to be cancelled, sometimes longer than the run waits."""
            try:
                return await body(context, delay_s, fails=False)
            except asyncio.CancelledError:
                await self.clock.sleep(9.0 if fails else 1.0)
                raise

        @function_tool(timeout=1.5)
        async def sudden(context: ToolContext[Any], delay_s: float, fails: bool) -> str:
            """Has a timeout."""
            return await body(context, delay_s, fails)

        return [work, strict, stubborn, sudden]

    async def play_streamed(self) -> tuple[RunResultStreaming, BaseException | None]:
        """The run to its end, read and cancelled as the story has it, and its error."""
        result = Runner.run_streamed(self.agent, "hi", **self.options)
        reading = None if self.story.reader == "none" else asyncio.create_task(self._read(result))
        cancelling = asyncio.create_task(self._cancel(result))
        error: BaseException | None = None
        try:
            await result.wait()
        except Exception as raised:
            error = raised
        cancelling.cancel()
        await asyncio.wait({cancelling} | ({reading} if reading else set()))
        return result, error

    async def _read(self, result: RunResultStreaming) -> None:
        told: Exception | None = None
        try:
            async for _ in result.stream_events() if self.story.reader == "view" else result.events():
                pass
        except Exception as error:
            told = error
        assert told is (result.run_loop_exception if self.story.reader == "view" else None)

    async def _cancel(self, result: RunResultStreaming) -> None:
        if self.story.cancel_mode is not None:
            await self.clock.sleep(self.story.cancel_after_s)
            result.cancel(self.story.cancel_mode)  # type: ignore[arg-type]

    async def leave(self) -> None:
        """Let the tools that were left behind come to their end; nothing else may be there."""
        await self.clock.sleep(20.0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert self.model.open_streams == 0


def on_stage(act: Callable[[Stage], Any]) -> Callable[[Story], None]:
    """Play a story in an event loop of its own."""

    def play(story: Story) -> None:
        async def main() -> None:
            stage = Stage(story)
            await act(stage)
            await stage.leave()

        asyncio.run(main())

    return play


# The grammar of events.


def check_grammar(events: list[Event]) -> None:
    """The published grammar."""
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds[-1]) == ("run.start", "run.end")
    assert (kinds.count("run.start"), kinds.count("run.end")) == (1, 1)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert all(earlier.at <= later.at for earlier, later in itertools.pairwise(events))
    assert {event.run_id for event in events} == {events[0].run_id}
    queued = [event.data.position for event in events if event.kind == "run.queued"]
    assert kinds[1 : 1 + len(queued)] == ["run.queued"] * len(queued)
    assert queued == sorted(set(queued), reverse=True)
    # It has its place in the end, or never began.
    assert not queued or queued[-1] == 0 or len(kinds) == len(queued) + 2
    active: str | None = None
    calls: dict[str, bool] = {}
    for event in events[1 + len(queued) : -1]:
        if event.kind == "agent.start":
            assert event.data.previous == active
            active = event.agent
        assert active is not None
        assert event.agent == active
        if event.kind == "item" and event.data.type in ("tool_call_item", "handoff_call_item"):
            assert event.data.raw.call_id not in calls
            calls[event.data.raw.call_id] = False
        elif event.kind == "item" and event.data.type in ("tool_call_output_item", "handoff_output_item"):
            # There is a call, and it is still open.
            assert calls[event.data.raw["call_id"]] is False
            calls[event.data.raw["call_id"]] = True
    assert all(calls.values())


def check_items_follow_their_response(events: list[Event]) -> None:
    """Between the first event of a response and its end there are no items, and each of its items has its turn."""
    is_open = False
    for event in events:
        if event.kind == "model":
            assert is_open or event.data.type in ("response.created", "error", "response.failed")
            is_open = event.data.type not in ("response.completed", "response.incomplete", "response.failed", "error")
        elif event.kind == "item" and event.data.type not in ("message_output_item", "tool_call_output_item"):
            assert not is_open  # what broke off has partial messages and answers only
        elif event.kind == "agent.start":
            assert not is_open


async def _grammar(stage: Stage) -> list[Event]:
    story = stage.story
    result, error = await stage.play_streamed()
    ended_at = stage.clock.now() - FakeClock().now()
    events = [event async for event in result.events()]
    check_grammar(events)
    check_items_follow_their_response(events)
    end = events[-1].data
    assert result.is_complete
    assert (end.status == "failed") == (error is not None)
    assert error is result.run_loop_exception
    if end.status == "cancelled":
        assert story.cancel_mode is not None
        assert result.final_output is None
    if story.cancel_mode == "immediate":
        assert ended_at <= story.cancel_after_s + BOUND_S
    # Outputs come in the order in which the tools ended.
    outputs = [
        event.data.raw["call_id"]
        for event in events
        if event.kind == "item"
        and event.data.type == "tool_call_output_item"
        and str(event.data.raw["output"]).startswith("result of ")
    ]
    assert outputs == [call for call in stage.ends if call in outputs]
    # Whoever asks after the end gets what there was.
    assert [event.live for event in events if event.kind == "item"] == result.new_items
    assert sum(response.usage.requests for response in result.raw_responses) <= result.context_wrapper.usage.requests
    # The session holds the same, once, and works.
    stored = await stage.session.get_items()
    expected = input_items_of(result.new_items)
    assert stored in ([], [{"role": "user", "content": "hi"}, *expected])
    assert stored or not expected
    again = Agent(name="Ann", model=ScriptedModel(["works"]))
    assert (await Runner.run(again, "more", session=stage.session)).final_output == "works"
    return events


def test_the_grammar_of_events() -> None:
    """run.start first, run.end last, dense seqs, agents announced, every call answered once, in bounded time."""
    seen: set[str] = set()

    async def act(stage: Stage) -> None:
        events = await _grammar(stage)
        seen.add(events[-1].data.status)
        for event in events:
            if event.kind == "run.queued":
                seen.add(f"queued as {event.data.position}")
            if event.kind == "item":
                seen.add(event.data.name)
                if event.data.name == "tool_output":
                    seen.add(str(event.data.raw["output"])[:12])

    @settings(max_examples=150)
    @given(stories())
    @example(TIMED_OUT)
    def holds(story: Story) -> None:
        on_stage(act)(story)

    holds()
    # The stories reached every end and every kind of item: else they would prove little.
    assert seen >= {
        "completed",
        "failed",
        "cancelled",
        "message_output_created",
        "reasoning_item_created",
        "tool_called",
        "tool_output",
        "handoff_requested",
        "handoff_occured",
        "result of ca",
        "An error occ",
        CANCELLED_OUTPUT[:12],
        "Tool 'sudden",
        "Multiple han",
        "Tool nowhere",
        "queued as 3",
        "queued as 0",
    }


# run and run_streamed.


# What fails the same way, whether the answer is streamed or not.
same_faults = seldom(
    st.one_of(
        st.builds(lambda status: Fault("http_error", status=status), st.sampled_from([400, 429, 503])),
        st.just(Fault("failed", after=0)),
        st.just(Raise(ValueError("the model broke"))),
    )
)


def _outcome(result: Any, error: BaseException | None) -> dict[str, Any]:
    """What a run came to, without what only readers of a stream could have seen: the text that broke off."""
    data = result if result is not None else error.run_data  # type: ignore[union-attr]
    usage = data.context_wrapper.usage
    return {
        "items": [
            (item.type, item.agent.name, item.to_input_item(), getattr(item, "output", None))
            for item in data.new_items
            if getattr(item.raw_item, "status", None) != "incomplete"
        ],
        "responses": [response.response_id for response in data.raw_responses],
        "usage": (usage.requests, usage.input_tokens, usage.output_tokens, len(usage.request_usage_entries)),
        "agent": data.last_agent.name,
        # The two ways may word a failure that the provider reports in words of their own.
        "error": (type(error), getattr(error, "error_code", str(error))),
    }


async def _both_ways(story: Story) -> None:
    outcomes: list[Any] = []
    for is_streamed in (False, True):
        stage = Stage(story)
        error: BaseException | None = None
        result: Any = None
        if is_streamed:
            result, error = await stage.play_streamed()
        else:
            try:
                result = await Runner.run(stage.agent, "hi", **stage.options)
            except Exception as raised:
                error = raised
        if result is None and getattr(error, "run_data", None) is None:
            outcome: dict[str, Any] = {"error": (type(error), str(error))}
        else:
            outcome = _outcome(result, error)
            outcome["output"] = None if result is None else result.final_output
        stored: list[Any] = await stage.session.get_items()
        outcome["session"] = [item for item in stored if item.get("status") != "incomplete"]
        outcome["time"] = stage.clock.now()
        outcomes.append(outcome)
        await stage.leave()
    run, streamed = outcomes
    if "items" not in run:
        streamed = {name: streamed[name] for name in run}
    assert run == streamed


@settings(max_examples=80)
@given(stories(fault=same_faults, cancels=False))
def test_run_and_a_drained_run_streamed_end_the_same(story: Story) -> None:
    """The same items, output, usage, session, error and duration, whichever way the run is made."""
    asyncio.run(_both_ways(story))


# Readers.


@dataclasses.dataclass(frozen=True)
class Reading:
    """One reader: of which kind, when it begins (turns of the loop), how slow it is, how often it gives up waiting."""

    kind: str
    begins_after: int
    pause: int
    gives_up: bool


readings = st.builds(
    Reading, st.sampled_from(["view", "log"]), st.integers(0, 60), st.sampled_from([0, 0, 1, 3]), st.booleans()
)


async def _read_all(result: RunResultStreaming, reading: Reading) -> list[Any]:
    """What that reader sees, as (seq, kind of event); in the end the error, if one was raised."""
    for _ in range(reading.begins_after):
        await asyncio.sleep(0)
    reader: Any = result.stream_events() if reading.kind == "view" else result.events()
    seen: list[Any] = []
    while True:
        try:
            if reading.gives_up:
                event = await _impatient(reader)
                if event is None:
                    continue
            else:
                event = await anext(reader)
        except StopAsyncIteration:
            return seen
        except Exception as error:
            return [*seen, error]
        seen.append((event.seq, type(event).__name__))
        for _ in range(reading.pause):
            await asyncio.sleep(0)


async def _impatient(reader: Any) -> Any:
    """The next event, or None if it does not come in a few turns of the loop."""
    waiting = asyncio.ensure_future(anext(reader))
    for _ in range(3):
        await asyncio.sleep(0)
        if waiting.done():
            return waiting.result()
    waiting.cancel()
    try:
        return await waiting
    except asyncio.CancelledError:
        # Let time pass, which stands still while anybody is busy.
        await asyncio.wait({asyncio.create_task(_turns(30))})
        return None


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _readers(many: list[Reading]) -> Callable[[Stage], Any]:
    async def act(stage: Stage) -> None:
        # Real turns of the loop pass for impatient readers, so time must not wait until nobody is busy.
        result = Runner.run_streamed(stage.agent, "hi", **stage.options)
        ticking = asyncio.create_task(_tick(stage.clock))
        seen = await asyncio.gather(*(_read_all(result, reading) for reading in many))
        ticking.cancel()
        await asyncio.wait({ticking})
        log = [event async for event in result.events()]
        full_log = [(event.seq, "Event") for event in log]
        full_view: list[Any] = [
            (view.seq, type(view).__name__) for event in log if (view := to_stream_event(event)) is not None
        ]
        if result.run_loop_exception is not None:
            full_view.append(result.run_loop_exception)
        for reading, events in zip(many, seen, strict=True):
            assert events == (full_view if reading.kind == "view" else full_log)

    return act


async def _tick(clock: FakeClock) -> None:
    """Let time pass although readers keep the loop busy."""
    clock.autojump = False
    while True:
        deadline = clock._next_deadline()
        for _ in range(20):
            await asyncio.sleep(0)
        if deadline is not None and clock._next_deadline() == deadline:
            clock._jump(deadline)


@settings(max_examples=60)
@given(stories(cancels=False), st.lists(readings, min_size=1, max_size=4))
def test_every_reader_sees_the_same(story: Story, many: list[Reading]) -> None:
    """Readers of both kinds, begun at any time, slow or impatient, all get the whole sequence in order."""

    async def act(stage: Stage) -> None:
        await _readers(many)(stage)
        stage.clock.autojump = True

    on_stage(act)(story)


@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
def test_the_same_story_gives_the_same_log(mode: str) -> None:
    """Runs with the fake clock are repeatable to the event."""
    story = Story(
        turns=(Turn(("one two", ToolCall("work", {"delay_s": 1.0, "fails": False})), every_s=0.3),),
        max_turns=3,
        tells_unknown=True,
        concurrency=None,
        session_delay_s=0.4,
        cancel_mode=mode,
        cancel_after_s=1.1,
    )
    logs: list[list[Any]] = []

    async def act(stage: Stage) -> None:
        result, _ = await stage.play_streamed()
        logs.append([(event.seq, event.at, event.kind) async for event in result.events()])

    for _ in range(2):
        on_stage(act)(story)
    assert logs[0] == logs[1]
