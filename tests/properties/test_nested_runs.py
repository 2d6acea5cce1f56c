"""Laws of runs with agents as tools, whatever they say and do, how deep they nest, and whoever cancels when."""

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runstream import Agent, RunConfig, Runner, ToolContext, function_tool
from runstream.events.event import Event
from runstream.log.fold import RunFold
from runstream.run.result import RunResultStreaming
from runstream.testing import FakeClock, Raise, ScriptedModel, ToolCall, Turn

DEPTH = 3
BOUND_S = 25.0


@dataclasses.dataclass(frozen=True)
class Story:
    """What each agent answers, by its level: the turns of one call of it, for every call anew."""

    levels: tuple[tuple[Turn, ...], ...]
    fails: bool
    listens: bool
    cancel_after_s: float | None


calls = st.one_of(
    st.just(("ask", {"input": "x"})),
    st.builds(lambda s, bad: ("work", {"delay_s": s, "fails": bad}), st.sampled_from([0.0, 0.5, 2.0]), st.booleans()),
).map(lambda call: ToolCall(*call))
turns = st.one_of(
    st.lists(calls, min_size=1, max_size=3).map(tuple),
    st.sampled_from([("one two three",), ("a longer text of words",)]),
    st.tuples(st.just("Wait."), calls),
).flatmap(lambda parts: st.sampled_from([0.0, 0.2]).map(lambda every_s: Turn(parts, every_s=every_s)))
broken = st.integers(0, 9).map(
    lambda dice: Turn(("part",), fault=Raise(ValueError("broken"), after=1)) if dice == 9 else None
)
levels = st.tuples(st.lists(turns, min_size=1, max_size=3), broken).map(
    lambda pair: (*pair[0], *filter(None, pair[1:]))
)
stories = st.builds(
    Story,
    levels=st.lists(levels, min_size=DEPTH, max_size=DEPTH).map(tuple),
    fails=st.booleans(),
    listens=st.booleans(),
    cancel_after_s=st.sampled_from([None, None, 0.0, 0.3, 0.9, 2.1, 4.0]),
)


class Stage:
    """Everything that a story needs to be played once."""

    def __init__(self, story: Story) -> None:
        self.clock = FakeClock()
        self.heard: list[Any] = []
        agent: Agent[Any] | None = None
        for level in reversed(range(DEPTH)):
            model = ScriptedModel(story.levels[level], default="That is all.", clock=self.clock)
            below = agent
            agent = Agent(name=f"Level {level}", model=model, tools=[self._work()])
            if below is not None:
                tool = below.as_tool(
                    "ask",
                    None,
                    max_turns=4,
                    on_stream=self.heard.append if story.listens else None,
                    **({"failure_error_function": None} if story.fails else {}),
                )
                agent.tools.append(tool)
        assert agent is not None
        self.agent = agent
        config = RunConfig(clock=self.clock, tool_not_found_behavior="return_error_to_model", cancel_timeout_s=4.0)
        self.options: dict[str, Any] = {"run_config": config, "max_turns": 5}

    def _work(self) -> Any:
        @function_tool
        async def work(ctx: ToolContext[Any], delay_s: float, fails: bool) -> str:
            ctx.emit({"delay_s": delay_s})
            await self.clock.sleep(delay_s)
            if fails:
                raise ValueError("the tool failed")
            return "worked"

        return work

    async def play(self, cancel_after_s: float | None) -> RunResultStreaming:
        result = Runner.run_streamed(self.agent, "hi", **self.options)
        begun = self.clock.now()
        if cancel_after_s is not None:
            await self.clock.sleep(cancel_after_s)
            result.cancel()
        await asyncio.wait([result.run_loop_task])  # type: ignore[list-item]
        assert result._run.error is None or result.run_loop_exception is not None
        if cancel_after_s is not None:
            assert self.clock.now() - begun < cancel_after_s + BOUND_S
        return result


def check_grammar(events: list[Event]) -> None:
    """The grammar of events/event.py, path by path."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.kind for event in events if event.kind in ("run.start", "run.end")] == ["run.start", "run.end"]
    assert (events[0].kind, events[-1].kind) == ("run.start", "run.end")
    active: dict[tuple[str, ...], str | None] = {}
    open_calls: dict[tuple[str, ...], set[str]] = {(): set()}
    for event in events[1:-1]:
        path = event.path
        if path:
            # A nested run's events come while its call is open, and so are the calls around it.
            for depth in range(len(path)):
                assert path[depth] in open_calls[path[:depth]]
        if event.kind == "agent.start":
            active[path] = event.agent
            open_calls.setdefault(path, set())
        assert active[path] == event.agent
        if event.kind == "tool.progress":
            assert event.data.call_id in open_calls[path]
        if event.kind == "item" and event.data.name == "tool_called":
            open_calls[path].add(event.live.call_id)
        if event.kind == "item" and event.data.name == "tool_output":
            call_id = event.live.call_id
            open_calls[path].remove(call_id)
            for inner in [other for other in open_calls if other[: len(path) + 1] == (*path, call_id)]:
                assert open_calls.pop(inner) == set()
    assert not any(open_calls.values())


def own(events: Iterable[Event]) -> list[Any]:
    fold = RunFold()
    for event in events:
        fold.apply(event)
    return fold.items


@settings(max_examples=60)
@given(stories)
def test_the_grammar_holds_on_every_path(story: Story) -> None:
    """Each path has its events while its call is open, each call one output, the whole run one start and one end."""

    async def play() -> None:
        stage = Stage(story)
        result = await stage.play(story.cancel_after_s)
        events = [event async for event in result.events()]
        check_grammar(events)
        assert own(events) == result.new_items
        responses = [e for e in events if e.kind == "model" and e.data.type == "response.completed"]
        if story.cancel_after_s is None and result.run_loop_exception is None:
            assert result.context_wrapper.usage.requests >= len(responses)
        if story.cancel_after_s is None:
            seen = [event async for event in result.events()]
            assert [event.seq for event in seen] == [event.seq for event in events]

    asyncio.run(play())


@settings(max_examples=40)
@given(stories)
def test_both_ways_to_run_nest_alike(story: Story) -> None:
    """Streamed or not, the same items, output, usage and error."""

    async def play() -> None:
        streamed = await Stage(story).play(None)
        stage = Stage(story)
        (whole,) = await asyncio.gather(Runner.run(stage.agent, "hi", **stage.options), return_exceptions=True)
        if isinstance(whole, BaseException):
            assert type(whole) is type(streamed.run_loop_exception)
            return
        assert streamed.run_loop_exception is None
        assert [item.type for item in whole.new_items] == [item.type for item in streamed.new_items]
        assert whole.final_output == streamed.final_output
        assert whole.context_wrapper.usage.requests == streamed.context_wrapper.usage.requests

    asyncio.run(play())


@settings(max_examples=40)
@given(stories.filter(lambda story: story.listens))
def test_listeners_hear_their_own_run_alone(story: Story) -> None:
    """Each `on_stream` gets the events of its nested run, of one path, in their order."""

    async def play() -> None:
        stage = Stage(story)
        result = await stage.play(None)
        by_path: dict[tuple[str, ...], list[int]] = {}
        for told in stage.heard:
            by_path.setdefault(told["event"].path, []).append(told["event"].seq)
            assert told["event"].path[-1] == told["tool_call"].call_id
        if result.run_loop_exception is None:
            nested: dict[tuple[str, ...], list[int]] = {}
            async for event in result.stream_events(nested=True):
                if event.path:
                    nested.setdefault(event.path, []).append(event.seq)
            assert by_path == nested

    asyncio.run(play())
