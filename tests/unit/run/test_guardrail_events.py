"""run/guardrail_checks: what the log tells of guardrails, what it never does, and what others make of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runstream import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    StreamGuardrail,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolOutputGuardrail,
    ToolsToFinalOutputResult,
    Window,
    function_tool,
)
from runstream.events.codec import decode, encode
from runstream.events.event import Event
from runstream.log.memory_store import MemoryStore
from runstream.render.terminal import TerminalRenderer
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook
from runstream.run.guardrail_results import GuardrailResults
from runstream.run.loop import drive
from runstream.run.resume import Resumed, fold_of_events
from runstream.server.protocols.native import shown
from runstream.testing import FakeClock, ReplayModel, ScriptedModel, ToolCall, say
from runstream.view.run_view import RunView, view_of

SECRET = "4111 1111"


def _check(clock: FakeClock, after_s: float = 0.0, *, trip: bool = False, info: Any = None) -> Any:
    async def check(*given: Any) -> GuardrailFunctionOutput:
        await clock.sleep(after_s)
        return GuardrailFunctionOutput(info, trip)

    return check


def _tool_check(outcome: ToolGuardrailFunctionOutput) -> Any:
    return lambda data: outcome


async def _events(agent: Agent[Any], clock: FakeClock, **config: Any) -> list[Event]:
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock, **config))
    return [event async for event in result.events()]


def _told(events: list[Event]) -> list[Any]:
    return [event.data for event in events if event.kind == "guardrail"]


async def test_each_check_is_in_the_log_with_what_it_took() -> None:
    """Who was asked about what, when, how long that took, and how much longer the run took for it: nothing for a check
    that ended beside the first turn, the rest of it for one that did not."""
    clock = FakeClock()
    allow = ToolGuardrailFunctionOutput.allow("fine")

    @function_tool(
        tool_input_guardrails=[ToolInputGuardrail(_tool_check(allow), "before")],
        tool_output_guardrails=[
            ToolOutputGuardrail(_tool_check(ToolGuardrailFunctionOutput.reject_content("No.")), "after")
        ],
    )
    def work() -> str:
        return SECRET

    agent = Agent(
        name="Ann",
        model=ScriptedModel(
            [say("one two", first_after_s=1.0), [ToolCall("work", call_id="c1")], "Done."], clock=clock
        ),
        tools=[work],
        input_guardrails=[
            InputGuardrail(_check(clock, 2.0, info={"score": 1}), "first", run_in_parallel=False),
            InputGuardrail(_check(clock, 0.5), "quick"),
            InputGuardrail(_check(clock, 4.0), "slow"),
        ],
        output_guardrails=[OutputGuardrail(_check(clock, 3.0, info="good"), "last")],
        stream_guardrails=[StreamGuardrail(_check(clock, 0.25), Window(characters=2), "watch")],
    )
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    await result.send("And now work.")
    events = [event async for event in result.events()]
    told = {(each.name, each.about): each for each in _told(events)}
    assert {key: each.outcome for key, each in told.items() if each.outcome != "passed"} == {
        ("after", "tool_output"): "rejected"
    }
    first, quick, slow = told["first", "input"], told["quick", "input"], told["slow", "input"]
    assert (first.duration_s, first.delay_s, first.info) == (2.0, 2.0, {"score": 1})
    assert (quick.duration_s, quick.delay_s, slow.duration_s) == (0.5, 0.0, 4.0)
    assert 0 < slow.delay_s < 3.0
    assert told["first", "added_input"].delay_s == 2.0
    assert (told["last", "output"].delay_s, told["last", "output"].info) == (3.0, "good")
    before, after = told["before", "tool_input"], told["after", "tool_output"]
    assert (before.tool_name, before.call_id, before.info) == ("work", "c1", "fine")
    assert (after.message, after.info) == ("No.", None)
    watch = told["watch", "stream"]
    assert (watch.characters, watch.info, watch.delay_max_s >= watch.delay_s > 0) == (5, None, True)
    assert SECRET not in str([encode(event) for event in events])

    # A view, stored or not, a terminal, a server's readers, and a replay.
    view = view_of(events)
    assert [(each.name, each.outcome) for each in view.main.guardrails][:3] == [
        ("first", "passed"),
        ("quick", "passed"),  # it has nothing to say that would have to wait for "slow"
        ("watch", "passed"),
    ]
    assert RunView.from_string(view.to_string()).to_json() == view.to_json()
    older = {name: value for name, value in view.to_json().items() if name != "guardrails"}
    assert RunView.from_json(older).main.guardrails == []
    terminal = TerminalRenderer()
    lines = "".join(terminal.feed(event) for event in events).splitlines()
    assert "guard    first: passed (input, 2.00 s later)" in lines
    assert "guard    after: rejected (tool output of work)" in lines
    assert all("info" not in shown(event) for event in events if event.kind == "guardrail")
    replayed = ReplayModel(events)
    others = [event for event in events if event.data is not slow]
    replayed.assert_same_events([*others, next(event for event in events if event.data is slow)])
    with pytest.raises(AssertionError, match="guardrails"):
        replayed.assert_same_events(others)


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_log_quotes_what_is_blocked(streamed: bool) -> None:
    """What a guardrail says of something that is not let pass, by it or by another, may quote it: it stays with the
    results of this process."""
    clock = FakeClock()
    quotes = ToolGuardrailFunctionOutput.allow(SECRET)

    @function_tool(
        tool_output_guardrails=[
            ToolOutputGuardrail(_tool_check(quotes), "quotes"),
            ToolOutputGuardrail(_tool_check(ToolGuardrailFunctionOutput.reject_content("No.", SECRET)), "rejects"),
        ]
    )
    def work() -> str:
        return SECRET

    agent = Agent(
        name="Ann",
        model=ScriptedModel([ToolCall("work")]),
        tools=[work],
        tool_use_behavior=lambda context, results: ToolsToFinalOutputResult(True, SECRET),
        output_guardrails=[
            OutputGuardrail(_check(clock, info=SECRET), "quotes"),
            OutputGuardrail(_check(clock, 1.0, trip=True, info=SECRET), "trips"),
        ],
    )
    store = MemoryStore()
    config = RunConfig(clock=clock, store=store, run_id="r")
    run: Any = Runner.run_streamed(agent, "hi", run_config=config).wait if streamed else None
    with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
        await (run() if streamed else Runner.run(agent, "hi", run_config=config))
    assert caught.value.guardrail_result.output.output_info == SECRET
    handle = await Runner.attach("r", store=store, agents=[agent])
    events = [event async for event in handle.events()]
    assert SECRET not in str([encode(event) for event in events])
    assert [(each.about, each.outcome) for each in _told(events)] == [
        ("tool_output", "passed"),
        ("tool_output", "rejected"),
        ("output", "passed"),
        ("output", "tripped"),
    ]
    # A handle in another process has the results, by the names of the guardrails.
    found = [(result.guardrail, result.output.tripwire_triggered) for result in handle.output_guardrail_results]
    assert found == [(agent.output_guardrails[0], False), (agent.output_guardrails[1], True)]
    (first, second) = handle.tool_output_guardrail_results
    assert (first.guardrail.get_name(), second.output.behavior) == (
        "quotes",
        {"type": "reject_content", "message": "No."},
    )


async def test_a_check_that_is_cut_short_or_fails_lets_no_quote_out() -> None:
    """A cancel, or an error, in the second check leaves what the first one said out of the log."""
    clock = FakeClock()

    for fails in (False, True):

        async def second(data: Any, fails: bool = fails) -> ToolGuardrailFunctionOutput:
            if fails:
                raise ZeroDivisionError(SECRET)
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        @function_tool(
            tool_output_guardrails=[
                ToolOutputGuardrail(_tool_check(ToolGuardrailFunctionOutput.allow(SECRET)), "quotes"),
                ToolOutputGuardrail(second, "second"),
            ]
        )
        def work() -> str:
            return "done"

        agent = Agent(name="Ann", model=ScriptedModel([ToolCall("work")]), tools=[work])
        result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
        reading = asyncio.ensure_future(_all(result))
        await clock.settle()
        result.cancel()
        events = await reading
        assert [(each.name, each.outcome, each.info) for each in _told(events)] == [
            ("quotes", "passed", None),
            *([("second", "failed", None)] if fails else []),
        ]


async def _all(result: Any) -> list[Event]:
    return [event async for event in result.events()]


async def test_the_next_worker_knows_what_has_passed() -> None:
    """What had let the input pass is not asked again; what had not is. The results of the dead worker are those of the
    run; those of its output are not, since that is checked again."""
    clock = FakeClock()
    asked: list[str] = []

    def guardrail(name: str, *, beside: bool) -> InputGuardrail[Any]:
        def check(*given: Any) -> GuardrailFunctionOutput:
            asked.append(name)
            return GuardrailFunctionOutput(name.upper(), False)

        return InputGuardrail(check, name, run_in_parallel=beside)

    def agent(model: ScriptedModel) -> Agent[Any]:
        return Agent(
            name="Ann",
            model=model,
            input_guardrails=[guardrail("a", beside=False), guardrail("b", beside=True), guardrail("a", beside=True)],
            output_guardrails=[OutputGuardrail(_check(clock), "out")],
            stream_guardrails=[StreamGuardrail(_check(clock), Window(characters=2), "watch")],
        )

    whole = await _events(agent(ScriptedModel([say("one two", first_after_s=1.0)], clock=clock)), clock)
    names = [each.name for each in _told(whole)]
    assert names == ["a", "b", "a", "watch", "out"]
    for known, again, results in ((1, ["b", "a"], ["A", "B", "A"]), (3, [], ["A", "B", "A"]), (5, [], ["A", "B", "A"])):
        asked.clear()
        last = [index for index, event in enumerate(whole) if event.kind == "guardrail"][known - 1]
        events = [decode(encode(event)) for event in whole[: last + 1]]
        second = agent(ScriptedModel(["again"], clock=clock))
        book = AgentBook([second])
        run = ActiveRun(
            agent=second,
            input="hi",
            context=None,
            max_turns=10,
            hooks=None,
            config=RunConfig(run_id="r", on_abandon="detach", clock=clock),
            error_handlers=None,
            session=None,
            previous_response_id=None,
            conversation_id=None,
            auto_previous_response_id=False,
            streamed=True,
        )
        fold = fold_of_events(events, book)
        told = [each for each in fold.guardrails if each[1].about != "output"]
        found = GuardrailResults.from_log(told, book, run.config)
        run.go_on(Resumed(fold, taken_over=True, last_seq=events[-1].seq, guardrails=found), epoch=2)
        run.start(drive(run))
        await run.wait_ended()
        assert run.error is None
        assert asked == again
        assert [result.output.output_info for result in run.guardrails.input] == results
        assert [result.guardrail.get_name() for result in run.guardrails.output] == ["out"]
        assert [(result.guardrail, result.info.characters > 0) for result in run.guardrails.stream] == [
            (second.stream_guardrails[0], True)
        ]
