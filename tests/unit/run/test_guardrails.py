"""Input and output guardrails: when they are asked, what a tripwire ends, and what the session has then."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from runstream import (
    Agent,
    GuardrailFunctionOutput,
    InMemorySession,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    RunHooks,
    Runner,
    RunState,
    UserError,
    function_tool,
)
from runstream.run.guardrails import BLOCKED_OUTPUT
from runstream.testing import FakeClock, HandoffTo, Message, Reasoning, ScriptedModel, ToolCall, say


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=[True, False], ids=["streamed", "plain"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return request.param


class Diary:
    """What happened, in order; guardrails and hooks write into it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.lines: list[str] = []

    def input(
        self,
        name: str,
        *,
        trip: bool = False,
        after_s: float = 0.0,
        beside: bool = True,
        error: Exception | None = None,
    ) -> InputGuardrail[Any]:
        async def check(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
            self.lines.append(f"{name} asks {agent.name}")
            try:
                await self.clock.sleep(after_s)
            except asyncio.CancelledError:
                self.lines.append(f"{name} is stopped")
                raise
            self.lines.append(f"{name} ends")
            if error is not None:
                raise error
            return GuardrailFunctionOutput(name, trip)

        return InputGuardrail(check, name, beside)

    def output(
        self, name: str, *, trip: bool = False, after_s: float = 0.0, error: Exception | None = None
    ) -> OutputGuardrail[Any]:
        async def check(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
            self.lines.append(f"{name} asks {agent.name} about {output}")
            await self.clock.sleep(after_s)
            if error is not None:
                raise error
            return GuardrailFunctionOutput(name, trip)

        return OutputGuardrail(check, name)

    @property
    def hooks(self) -> RunHooks[Any]:
        lines = self.lines

        class Hooks(RunHooks[Any]):
            async def on_agent_start(self, context: Any, agent: Any) -> None:
                lines.append("agent start")

            async def on_llm_start(self, *arguments: Any) -> None:
                lines.append("model")

            async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
                lines.append("agent end")

        return Hooks()


async def go(streamed: bool, agent: Agent[Any], given: Any = "hi", **options: Any) -> Any:
    if not streamed:
        return await Runner.run(agent, given, **options)
    result = Runner.run_streamed(agent, given, **options)
    async for _ in result.stream_events():
        pass
    return result


async def kept(session: InMemorySession) -> list[Any]:
    """What the session has, in short."""
    items: list[Any] = await session.get_items()
    short: list[Any] = []
    for item in items:
        content = item.get("content", item.get("output"))
        text = content if isinstance(content, str) or content is None else content[0]["text"]
        short.append((item.get("role") or item["type"], text))
    return short


def names(results: Any) -> list[Any]:
    return [result.output.output_info for result in results]


async def test_blocking_checks_come_first_then_the_others_beside_the_turn(clock: FakeClock, streamed: bool) -> None:
    """The agent's and the configuration's alike; results stand in the order in which the checks ended."""
    diary = Diary(clock)
    model = ScriptedModel([say("one", first_after_s=2.0)], clock=clock)
    guardrails = [diary.input("before", beside=False, after_s=1), diary.input("beside", after_s=5)]
    agent = Agent(name="Ann", model=model, input_guardrails=guardrails)
    config = RunConfig(clock=clock, input_guardrails=[diary.input("too", beside=False), diary.input("also")])
    began = clock.now()
    result = await go(streamed, agent, run_config=config, hooks=diary.hooks)
    before, beside = diary.lines[:5], diary.lines[5:]
    assert before == ["before asks Ann", "too asks Ann", "too ends", "before ends", "agent start"]
    assert sorted(beside[:4]) == ["also asks Ann", "also ends", "beside asks Ann", "model"]
    assert beside[4:] == ["beside ends", "agent end"]
    assert names(result.input_guardrail_results) == ["too", "before", "also", "beside"]
    assert (result.final_output, clock.now() - began) == ("one", pytest.approx(6.0))


async def test_a_blocking_tripwire_prevents_the_model_call(clock: FakeClock, streamed: bool) -> None:
    """The others are stopped; the session has the user's item only."""
    diary, session = Diary(clock), InMemorySession("s")
    model = ScriptedModel(["never"])
    guardrails = [diary.input("no", trip=True, beside=False), diary.input("slow", after_s=9, beside=False)]
    agent = Agent(name="Ann", model=model, input_guardrails=guardrails)
    with pytest.raises(InputGuardrailTripwireTriggered) as caught:
        await go(streamed, agent, session=session, hooks=diary.hooks, run_config=RunConfig(clock=clock))
    error = caught.value
    assert (error.guardrail_result.guardrail, error.guardrail_result.output.output_info) == (guardrails[0], "no")
    assert error.run_data is not None
    assert (names(error.run_data.input_guardrail_results), error.run_data.new_items) == (["no"], [])
    assert diary.lines == ["no asks Ann", "slow asks Ann", "no ends", "slow is stopped"]
    assert (len(model.calls), await kept(session)) == (0, [("user", "hi")])


async def test_a_parallel_tripwire_stops_the_model(clock: FakeClock, streamed: bool) -> None:
    """The provider's stream is closed at once; what readers saw is in the items, not in the session."""
    diary, session = Diary(clock), InMemorySession("s")
    model = ScriptedModel([say("one two three", every_s=1.0)], clock=clock)
    agent = Agent(name="Ann", model=model, input_guardrails=[diary.input("no", trip=True, after_s=1.5)])
    began = clock.now()
    with pytest.raises(InputGuardrailTripwireTriggered) as caught:
        await go(streamed, agent, session=session, run_config=RunConfig(clock=clock))
    assert clock.now() - began == pytest.approx(1.5)
    assert (model.open_streams, await kept(session)) == (0, [("user", "hi")])
    assert caught.value.run_data is not None
    shown = [item.raw_item.content[0].text for item in caught.value.run_data.new_items]
    assert shown == (["one two"] if streamed else [])


async def test_a_parallel_tripwire_stops_tools(clock: FakeClock, streamed: bool) -> None:
    """Their calls are answered in the items; the session has neither."""
    diary, session = Diary(clock), InMemorySession("s")

    @function_tool
    async def work() -> str:
        try:
            await clock.sleep(60)
        finally:
            diary.lines.append("tool stopped")
        return "done"

    model = ScriptedModel([ToolCall("work"), "never"])
    agent = Agent(name="Ann", model=model, tools=[work], input_guardrails=[diary.input("no", trip=True, after_s=2)])
    with pytest.raises(InputGuardrailTripwireTriggered) as caught:
        await go(streamed, agent, session=session, run_config=RunConfig(clock=clock))
    assert diary.lines[-1] == "tool stopped"
    assert caught.value.run_data is not None
    assert [item.type for item in caught.value.run_data.new_items] == ["tool_call_item", "tool_call_output_item"]
    assert (len(model.calls), await kept(session)) == (1, [("user", "hi")])


async def test_the_next_turn_waits_for_the_parallel_checks(clock: FakeClock, streamed: bool) -> None:
    """A late tripwire still comes before anything is saved, or the model is asked again."""
    diary, session = Diary(clock), InMemorySession("s")

    @function_tool
    async def work() -> str:
        return "done"

    model = ScriptedModel([ToolCall("work"), "never"])
    agent = Agent(name="Ann", model=model, tools=[work], input_guardrails=[diary.input("no", trip=True, after_s=60)])
    with pytest.raises(InputGuardrailTripwireTriggered):
        await go(streamed, agent, session=session, run_config=RunConfig(clock=clock))
    assert (len(model.calls), await kept(session)) == (1, [("user", "hi")])


@pytest.mark.parametrize("beside", [True, False])
async def test_a_check_of_the_input_that_fails_lets_nothing_pass(
    clock: FakeClock, streamed: bool, beside: bool
) -> None:
    """Its error is the run's; the session is as after a tripwire."""
    diary, session = Diary(clock), InMemorySession("s")
    model = ScriptedModel([say("one", first_after_s=9)], clock=clock)
    agent = Agent(
        name="Ann", model=model, input_guardrails=[diary.input("bad", beside=beside, after_s=1, error=ValueError("b"))]
    )
    with pytest.raises(ValueError, match="b"):
        await go(streamed, agent, session=session, run_config=RunConfig(clock=clock))
    assert (model.open_streams, await kept(session)) == (0, [("user", "hi")])


async def test_a_failed_turn_stops_the_checks_beside_it(clock: FakeClock, streamed: bool) -> None:
    """Nobody needs to know any more; what was not let pass is not saved."""
    diary, session = Diary(clock), InMemorySession("s")

    def fail(request: Any) -> Any:
        raise ValueError("broken")

    agent = Agent(name="Ann", model=ScriptedModel([fail]), input_guardrails=[diary.input("slow", after_s=60)])
    began = clock.now()
    with pytest.raises(ValueError, match="broken"):
        await go(streamed, agent, session=session, run_config=RunConfig(clock=clock))
    assert (diary.lines[-1], clock.now() - began) == ("slow is stopped", pytest.approx(0.0))
    assert await kept(session) == [("user", "hi")]


async def test_a_check_that_ignores_its_cancellation_is_left_behind(
    clock: FakeClock, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The tripwire ends the run within the limit, and what the other finds comes too late."""
    release = asyncio.Event()

    async def deaf(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return GuardrailFunctionOutput("late", False)

    diary = Diary(clock)
    guardrails = [InputGuardrail(deaf), diary.input("no", trip=True, after_s=1)]
    agent = Agent(
        name="Ann", model=ScriptedModel([say("x", first_after_s=60)], clock=clock), input_guardrails=guardrails
    )
    began = clock.now()
    with caplog.at_level(logging.WARNING), pytest.raises(InputGuardrailTripwireTriggered) as caught:
        await go(streamed, agent, run_config=RunConfig(clock=clock, cancel_timeout_s=2.0))
    assert clock.now() - began == pytest.approx(3.0)
    assert "guardrail deaf" in caplog.text
    release.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert caught.value.run_data is not None
    assert names(caught.value.run_data.input_guardrail_results) == ["no"]


async def test_only_the_first_agents_input_and_the_last_agents_output_are_checked(
    clock: FakeClock, streamed: bool
) -> None:
    """As a handoff goes on, so do the checks."""
    diary = Diary(clock)
    bob = Agent(
        name="Bob",
        model=ScriptedModel(["from Bob"]),
        input_guardrails=[diary.input("bob in")],
        output_guardrails=[diary.output("bob out")],
    )
    ann = Agent(
        name="Ann",
        model=ScriptedModel([HandoffTo(bob)]),
        handoffs=[bob],
        input_guardrails=[diary.input("ann in")],
        output_guardrails=[diary.output("ann out")],
    )
    result = await go(streamed, ann, run_config=RunConfig(clock=clock, output_guardrails=[diary.output("too")]))
    assert (names(result.input_guardrail_results), names(result.output_guardrail_results)) == (
        ["ann in"],
        ["bob out", "too"],
    )
    assert [each.agent_output for each in result.output_guardrail_results] == ["from Bob"] * 2


async def test_sync_functions_are_checks_too(streamed: bool) -> None:
    """They are called in the event loop, as in the SDK."""
    agent = Agent(
        name="Ann",
        model=ScriptedModel(["one"]),
        input_guardrails=[InputGuardrail(lambda context, agent, given: GuardrailFunctionOutput(given, False))],
        output_guardrails=[OutputGuardrail(lambda context, agent, output: GuardrailFunctionOutput(output, False))],
    )
    result = await go(streamed, agent)
    assert (names(result.input_guardrail_results), names(result.output_guardrail_results)) == (["hi"], ["one"])


async def test_with_a_session_the_checks_see_what_the_model_sees(streamed: bool) -> None:
    """The history and the new input, as copies."""
    session = InMemorySession("s")
    await session.add_items([{"role": "user", "content": "old"}])
    seen: list[Any] = []

    def check(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        seen.extend(item["content"] for item in given)
        given.clear()
        return GuardrailFunctionOutput(None, False)

    agent = Agent(name="Ann", model=ScriptedModel(["one"]), input_guardrails=[InputGuardrail(check)])
    await go(streamed, agent, session=session)
    assert seen == ["old", "hi"]
    assert await kept(session) == [("user", "old"), ("user", "hi"), ("assistant", "one")]


# Output.


async def test_an_output_tripwire_drops_the_message_and_keeps_the_tools(clock: FakeClock, streamed: bool) -> None:
    """The session has what had its effect; the items have what readers saw."""
    diary, session = Diary(clock), InMemorySession("s")

    @function_tool
    async def work() -> str:
        return "done"

    model = ScriptedModel([ToolCall("work"), "bad words"])
    guardrails = [diary.output("no", trip=True, after_s=1), diary.output("fine")]
    agent = Agent(name="Ann", model=model, tools=[work], output_guardrails=guardrails)
    with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
        await go(streamed, agent, session=session, hooks=diary.hooks, run_config=RunConfig(clock=clock))
    data, told = caught.value.run_data, caught.value.guardrail_result
    assert (told.agent_output, told.agent, told.output.output_info) == ("bad words", agent, "no")
    assert data is not None
    assert names(data.output_guardrail_results) == ["fine", "no"]
    assert (len(data.new_items), data.partial_output) == (3, None)
    assert diary.lines[-3:] == ["agent end", "no asks Ann about bad words", "fine asks Ann about bad words"]
    assert await kept(session) == [("user", "hi"), ("function_call", None), ("function_call_output", "done")]


async def test_with_reasoning_the_whole_response_is_dropped(streamed: bool) -> None:
    """Reasoning must not stand without what it led to."""
    session = InMemorySession("s")
    model = ScriptedModel([[Reasoning("hm"), "bad words"]])
    no = OutputGuardrail(lambda context, agent, output: GuardrailFunctionOutput(None, True))
    agent = Agent(name="Ann", model=model, output_guardrails=[no])
    with pytest.raises(OutputGuardrailTripwireTriggered):
        await go(streamed, agent, session=session)
    assert await kept(session) == [("user", "hi")]


async def test_a_tools_output_that_was_to_be_the_runs_is_withheld(streamed: bool) -> None:
    """The call has had its effect: it is kept, without what it gave, and without the message beside it."""
    session = InMemorySession("s")

    @function_tool
    async def look() -> str:
        return "the secret"

    model = ScriptedModel([[Message("Looking."), ToolCall("look")]])
    no = OutputGuardrail(lambda context, agent, output: GuardrailFunctionOutput(None, True))
    agent = Agent(name="Ann", model=model, tools=[look], tool_use_behavior="stop_on_first_tool", output_guardrails=[no])
    with pytest.raises(OutputGuardrailTripwireTriggered):
        await go(streamed, agent, session=session)
    assert await kept(session) == [("user", "hi"), ("function_call", None), ("function_call_output", BLOCKED_OUTPUT)]


async def test_an_output_check_that_fails_keeps_everything(clock: FakeClock, streamed: bool) -> None:
    """Nobody has said that anything is wrong with the output; the run fails with the error."""
    diary, session = Diary(clock), InMemorySession("s")
    agent = Agent(
        name="Ann", model=ScriptedModel(["fine"]), output_guardrails=[diary.output("bad", error=ValueError("b"))]
    )
    with pytest.raises(ValueError, match="b"):
        await go(streamed, agent, session=session, run_config=RunConfig(clock=clock))
    assert await kept(session) == [("user", "hi"), ("assistant", "fine")]


async def test_cancelling_while_an_output_check_goes_on_saves_nothing_of_the_turn(clock: FakeClock) -> None:
    """It was not let pass; the run has no output."""
    session, asked = InMemorySession("s"), asyncio.Event()

    async def slow(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        asked.set()
        await clock.sleep(60)
        return GuardrailFunctionOutput(None, False)

    agent = Agent(name="Ann", model=ScriptedModel(["perhaps"]), output_guardrails=[OutputGuardrail(slow)])
    result = Runner.run_streamed(agent, "hi", session=session, run_config=RunConfig(clock=clock))
    await asked.wait()
    result.cancel()
    async for _ in result.events():
        pass
    assert (result.final_output, await kept(session)) == (None, [("user", "hi")])


async def test_what_an_error_handler_says_is_checked_before_it_is_shown(clock: FakeClock, streamed: bool) -> None:
    """Its message is in nobody's sight after a tripwire, and an event like any other where it passes."""
    for trip in (True, False):
        diary, session = Diary(clock), InMemorySession("s")

        @function_tool
        async def work() -> str:
            return "done"

        agent = Agent(
            name="Ann",
            model=ScriptedModel([ToolCall("work"), "never"]),
            tools=[work],
            output_guardrails=[diary.output("check", trip=trip)],
        )
        options: dict[str, Any] = {
            "session": session,
            "max_turns": 1,
            "error_handlers": {"max_turns": lambda data: "Sorry."},
            "run_config": RunConfig(clock=clock),
        }
        if trip:
            with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
                await go(streamed, agent, **options)
            assert caught.value.run_data is not None
            assert [item.type for item in caught.value.run_data.new_items][2:] == []
            assert len(await kept(session)) == 3
        else:
            result = await go(streamed, agent, **options)
            assert (result.final_output, result.new_items[-1].type) == ("Sorry.", "message_output_item")
            assert (await kept(session))[3:] == [("assistant", "Sorry.")]


async def test_a_sessions_error_outweighs_a_tripwire() -> None:
    """The tripwire is its context."""

    class Broken(InMemorySession):
        async def add_items(self, items: Any) -> None:
            if items[0].get("role") != "user":
                raise OSError("disk full")
            await super().add_items(items)

    @function_tool
    async def look() -> str:
        return "x"

    no = OutputGuardrail(lambda context, agent, output: GuardrailFunctionOutput(None, True))
    agent = Agent(
        name="Ann",
        model=ScriptedModel([ToolCall("look")]),
        tools=[look],
        tool_use_behavior="stop_on_first_tool",
        output_guardrails=[no],
    )
    with pytest.raises(OSError, match="disk full") as caught:
        await Runner.run(agent, "hi", session=Broken("s"))
    assert isinstance(caught.value.__context__, OutputGuardrailTripwireTriggered)


@pytest.mark.parametrize("option", ["conversation_id", "previous_response_id"])
@pytest.mark.parametrize("field", ["output_guardrails", "stream_guardrails"])
async def test_what_a_provider_keeps_cannot_be_taken_back(option: str, field: str) -> None:
    """Checks of the output and a conversation that the provider keeps are refused together, before any request."""
    agent = Agent(name="Ann", model=ScriptedModel(["x"]), **{field: [object()]})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="server-managed conversation history"):
        Runner.run_streamed(agent, "hi", **{option: "id"})  # type: ignore[arg-type]


# Going on.


async def test_input_that_passed_is_not_checked_again_but_what_is_added_is(clock: FakeClock, streamed: bool) -> None:
    """Also where the state was kept as text; results of before are there."""
    diary, session = Diary(clock), InMemorySession("s")

    @function_tool(needs_approval=True)
    async def gated() -> str:
        return "done"

    agent = Agent(
        name="Ann",
        model=ScriptedModel([ToolCall("gated"), "one"]),
        tools=[gated],
        input_guardrails=[diary.input("beside"), diary.input("before", beside=False)],
        output_guardrails=[diary.output("out")],
    )
    options: dict[str, Any] = {"session": session, "run_config": RunConfig(clock=clock)}
    result = await go(streamed, agent, **options)
    assert names(result.input_guardrail_results) == ["before", "beside"]
    state = await RunState.from_string(agent, result.to_state().to_string())
    for item in state.get_interruptions():
        state.approve(item)
    state.add_input("and hurry")
    diary.lines.clear()
    result = await go(streamed, agent, state, **options)
    assert diary.lines[:2] == ["beside asks Ann", "before asks Ann"]
    assert names(result.input_guardrail_results) == ["before", "beside", "beside", "before"]
    assert [each.guardrail for each in result.input_guardrail_results[:2]] == agent.input_guardrails[::-1]
    assert (names(result.output_guardrail_results), result.final_output) == (["out"], "one")


async def test_added_input_that_trips_is_not_seen_by_the_model(clock: FakeClock) -> None:
    """`send` while the run goes on; the turns before stay saved."""
    session = InMemorySession("s")

    def check(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, "bad" in str(given))

    started = asyncio.Event()

    @function_tool
    async def work() -> str:
        started.set()
        await clock.sleep(5)
        return "done"

    model = ScriptedModel([ToolCall("work"), "never"])
    agent = Agent(name="Ann", model=model, tools=[work], input_guardrails=[InputGuardrail(check)])
    result = Runner.run_streamed(agent, "hi", session=session, run_config=RunConfig(clock=clock))
    await started.wait()
    await result.send("bad words")
    with pytest.raises(InputGuardrailTripwireTriggered):
        await result.wait()
    assert len(model.calls) == 1
    assert await kept(session) == [("user", "hi"), ("function_call", None), ("function_call_output", "done")]


async def test_a_run_that_was_cancelled_in_its_first_turn_is_checked_again(clock: FakeClock) -> None:
    """What was not let pass then is not trusted when the run goes on from its state."""
    diary = Diary(clock)
    model = ScriptedModel([say("one two", every_s=5.0), "again"], clock=clock)
    agent = Agent(name="Ann", model=model, input_guardrails=[diary.input("slow", after_s=60)])
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            result.cancel()
    await result.wait()
    diary.lines.clear()
    gone_on = await Runner.run(agent, result.to_state(), run_config=RunConfig(clock=clock))
    assert (diary.lines, gone_on.final_output) == (["slow asks Ann", "slow ends"], "again")
