"""Runs that wait in place for a person, and take in what people say while they go on."""

from typing import Any

import pytest

from runstream import (
    Agent,
    InMemorySession,
    RunConfig,
    Runner,
    RunSealed,
    RunTimeoutError,
    ToolCallOutputItem,
    UserError,
    function_tool,
)
from runstream.run.approvals import REJECTED_OUTPUT
from runstream.run.history import CANCELLED_OUTPUT
from runstream.run.result import RunResultStreaming
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn


def agent_of(*turns: Any, done: list[str] | None = None, clock: Any = None, **fields: Any) -> Agent[Any]:
    noted = [] if done is None else done

    @function_tool(needs_approval=True)
    def refund(number: int) -> str:
        noted.append(f"refund {number}")
        return f"refunded {number}"

    @function_tool
    async def look() -> str:
        if clock is not None:
            await clock.sleep(100.0)
        noted.append("look")
        return "saw"

    return Agent(name="Ann", model=ScriptedModel(turns), tools=[refund, look], **fields)


def refund(number: int) -> ToolCall:
    return ToolCall("refund", {"number": number}, call_id=f"r{number}")


def start(agent: Agent[Any], **options: Any) -> RunResultStreaming:
    config = options.pop("config", {})
    return Runner.run_streamed(agent, "hi", run_config=RunConfig(on_approval="wait", **config), **options)


async def asked_for(result: RunResultStreaming, count: int = 1) -> list[str | None]:
    """The ids of the calls that wait, once there are so many."""
    async for event in result.events():
        if event.kind == "item" and event.data.type == "tool_approval_item":
            count -= 1
            if not count:
                break
    return [request.call_id for request in result.pending_approvals]


def outputs(result: Any) -> dict[str | None, str]:
    return {item.call_id: item.output for item in result.new_items if isinstance(item, ToolCallOutputItem)}


DETACHED = {"on_abandon": "detach"}


async def test_a_run_waits_in_place() -> None:
    """It goes on with the answer; the log tells of both; it never counts as interrupted."""
    result = start(agent_of(refund(1), "Done."), config=DETACHED)
    assert await asked_for(result) == ["r1"]
    assert (result.interruptions, result.is_complete) == ([], False)
    await result.approve(result.pending_approvals[0])
    await result.wait()
    assert (result.final_output, result.interruptions, result.pending_approvals) == ("Done.", [], [])
    kinds = [event.kind async for event in result.events() if event.kind not in ("model", "item")]
    assert kinds == ["run.start", "agent.start", "approval.resolved", "run.end"]


async def test_a_rejection_tells_the_model_why() -> None:
    """With the person's words, else the usual ones."""
    result = start(agent_of([refund(1), refund(2)], "Done."), config=DETACHED)
    await asked_for(result, 2)
    await result.reject("r1", message="Not today.")
    await result.reject("r2")
    await result.wait()
    assert outputs(result) == {"r1": "Not today.", "r2": REJECTED_OUTPUT}


async def test_an_answer_for_good_answers_the_others_too() -> None:
    """What waits for the same tool is answered with it."""
    done: list[str] = []
    result = start(agent_of([refund(1), refund(2)], refund(3), "Done.", done=done), config=DETACHED)
    await asked_for(result, 2)
    await result.approve("r2", always=True)
    await result.wait()
    assert sorted(done) == ["refund 1", "refund 2", "refund 3"]


async def test_each_call_goes_on_with_its_own_answer() -> None:
    """An approved call does not wait for the others, neither for their answers nor for slow tools."""
    clock, done = FakeClock(), list[str]()
    slow = ToolCall("look", call_id="l1")
    agent = agent_of([slow, refund(1), refund(2)], "Done.", done=done, clock=clock)
    result = start(agent, config={**DETACHED, "clock": clock})
    await asked_for(result, 2)
    await result.approve("r1")
    async for event in result.events():
        if event.kind == "item" and event.data.name == "tool_output":
            break
    assert done == ["refund 1"]
    assert [request.call_id for request in result.pending_approvals] == ["r2"]
    await result.approve("r2")
    await result.wait()
    assert done == ["refund 1", "refund 2", "look"] or done == ["refund 1", "look", "refund 2"]
    assert list(outputs(result)) != []
    # The model gets the outputs of all of them.
    sent = agent.model.calls[1].input  # type: ignore[union-attr]
    assert {item.get("call_id") for item in sent if item.get("output")} == {"l1", "r1", "r2"}


async def test_the_same_answer_twice_is_harmless() -> None:
    """People press a button twice; another answer is refused."""
    done: list[str] = []
    result = start(agent_of([refund(1), refund(2)], "Done.", done=done), config=DETACHED)
    await asked_for(result, 2)
    await result.approve("r1")
    await result.approve("r1")
    with pytest.raises(UserError, match="'r1' was approved already; what waits: "):
        await result.reject("r1")
    with pytest.raises(UserError, match=r"no call 'nope' waits for approval; what waits: .*'r2', of refund\("):
        await result.approve("nope")
    with pytest.raises(UserError, match="a call is named by"):
        await result.approve(None)  # type: ignore[arg-type]
    await result.approve("r2")
    await result.wait()
    assert sorted(done) == ["refund 1", "refund 2"]
    with pytest.raises(RunSealed):
        await result.approve("r2")


async def test_a_run_that_ended_for_a_person_is_answered_in_its_state() -> None:
    """Its handle says where."""
    result = Runner.run_streamed(agent_of(refund(1)), "hi")
    async for _ in result.stream_events():
        pass
    with pytest.raises(UserError, match="answer in its state"):
        await result.approve("r1")
    assert (result.pending_approvals, len(result.interruptions)) == ([], 1)


async def test_an_early_answer_spares_the_interruption() -> None:
    """Given while other tools still run, it holds though the run would not have waited."""
    clock = FakeClock()
    agent = agent_of([ToolCall("look", call_id="l1"), refund(1)], "Done.", clock=clock)
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock, on_abandon="detach"))
    await asked_for(result)
    await result.approve("r1")
    await result.wait()
    assert result.final_output == "Done."


async def test_a_state_goes_on_where_the_run_waits_in_place() -> None:
    """Both ways mix: interrupted first, waiting then."""
    agent = agent_of([refund(1), refund(2)], "Done.")
    state = (await Runner.run(agent, "hi")).to_state()
    state.approve("r1")
    result = Runner.run_streamed(agent, state, run_config=RunConfig(on_approval="wait", on_abandon="detach"))
    async for event in result.events():
        if event.kind == "approval.resolved":
            break
    assert [request.call_id for request in result.pending_approvals] == ["r2"]
    await result.approve("r2")
    await result.wait()
    assert outputs(result) == {"r1": "refunded 1", "r2": "refunded 2"}


async def test_a_run_without_a_handle_does_not_wait() -> None:
    """Nobody could answer; with a store somebody can."""
    with pytest.raises(UserError, match="is answered through its handle"):
        await Runner.run(agent_of("Done."), "hi", run_config=RunConfig(on_approval="wait"))
    config = RunConfig(on_approval="wait", store="memory://handles")
    assert (await Runner.run(agent_of("Done."), "hi", run_config=config)).final_output == "Done."


# Ends while a run waits.


@pytest.mark.parametrize("how", ["cancel", "leave", "time limit"])
async def test_a_run_that_ends_while_it_waits_answers_its_calls(how: str) -> None:
    """The session works on: every call in it has an output."""
    clock, session = FakeClock(), InMemorySession("s")
    agent = agent_of([ToolCall("look", call_id="l1"), refund(1)], "Next.")
    config = {"clock": clock, "time_limit_s": 60.0 if how == "time limit" else None}
    result = start(agent, config=config, session=session)
    async for event in result.events():
        if event.kind == "item" and event.data.name == "tool_output":
            if how == "leave":
                break
            if how == "cancel":
                result.cancel()
    if how == "time limit":
        with pytest.raises(RunTimeoutError):
            await result.wait()
    else:
        await result.wait()
    assert result.final_output is None
    assert outputs(result) == {"l1": "saw", "r1": CANCELLED_OUTPUT}
    stored: list[Any] = await session.get_items()
    assert [item.get("type", item.get("role")) for item in stored] == [
        "user",
        *["function_call"] * 2,
        *["function_call_output"] * 2,
    ]
    assert (await Runner.run(agent, "and now?", session=session)).final_output == "Next."


async def test_after_turn_waits_for_the_person() -> None:
    """The turn is to be finished: that includes its approvals."""
    result = start(agent_of(refund(1), "Never said."), config=DETACHED)
    await asked_for(result)
    result.cancel("after_turn")
    await result.approve("r1")
    await result.wait()
    assert (outputs(result), result.final_output) == ({"r1": "refunded 1"}, None)


async def test_a_failing_tool_ends_a_run_that_waits() -> None:
    """Nobody has to answer first."""

    @function_tool(failure_error_function=None)
    async def fails() -> str:
        raise ValueError("broken")

    agent = agent_of([ToolCall("fails", call_id="f1"), refund(1)])
    agent.tools.append(fails)
    result = start(agent, config=DETACHED)
    with pytest.raises(UserError, match="broken"):
        await result.wait()
    assert outputs(result) == {"f1": CANCELLED_OUTPUT, "r1": CANCELLED_OUTPUT}


# Saying something more.


async def test_what_is_sent_is_seen_in_the_next_turn() -> None:
    """After the outputs of the turn, in the order it was sent; it is in the log, the items and the session."""
    session = InMemorySession("s")
    agent = agent_of(refund(1), "Done.")
    result = start(agent, config=DETACHED, session=session)
    await asked_for(result)
    await result.send("Hurry.")
    await result.send([{"role": "user", "content": "Please."}])
    await result.approve("r1")
    await result.wait()
    sent: Any = agent.model.calls[1].input  # type: ignore[union-attr]
    assert [item.get("content") for item in sent[-2:]] == ["Hurry.", "Please."]
    assert sent[-3]["type"] == "function_call_output"
    assert await session.get_items() == result.to_input_list()
    assert [event.kind async for event in result.events()].count("input.added") == 2


async def test_a_run_takes_another_turn_for_what_was_sent() -> None:
    """Said while the last answer was written, it is answered, too."""
    clock = FakeClock()
    agent = Agent(
        name="Ann", model=ScriptedModel([Turn(["First answer."], every_s=1.0), "Second answer."], clock=clock)
    )
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    was_sent = False
    async for _ in result.stream_events():
        if not was_sent:
            await result.send("One more thing.")
            was_sent = True
    assert (result.final_output, len(result.raw_responses)) == ("Second answer.", 2)


async def test_too_late_is_said() -> None:
    """Nothing is taken that nobody will see: after the output, after the end, after a cancel."""
    result = Runner.run_streamed(agent_of("Done."), "hi")
    await result.wait()
    with pytest.raises(RunSealed):
        await result.send("Too late.")
    result = start(agent_of(refund(1)), config=DETACHED)
    await asked_for(result)
    result.cancel()
    with pytest.raises(RunSealed):
        await result.send("Too late.")
    await result.wait()
    with pytest.raises(UserError, match="an input item is a dict"):
        await result.send(["text"])  # type: ignore[list-item]


# With a store.


async def test_answers_and_input_go_through_the_store() -> None:
    """A run that is kept takes them from there, so that they outlive its process; each once, under its number."""
    agent = agent_of(refund(1), "Done.")
    result = start(agent, config={**DETACHED, "store": "memory://approvals", "run_id": "kept"})
    await asked_for(result)
    attached = await Runner.attach("kept", store="memory://approvals", agents=[agent])
    assert await asked_for(attached) == ["r1"]
    await attached.send("Hurry.")
    await attached.approve("r1")
    await result.wait()
    assert result.final_output == "Done."
    told = [event.data async for event in result.events() if event.kind in ("approval.resolved", "input.added")]
    assert [data.command for data in told] == [2, 1]
