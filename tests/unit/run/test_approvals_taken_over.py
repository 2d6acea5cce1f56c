"""A run that waited for a person when its worker broke off: what the next worker makes of it."""

from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, ToolCallOutputItem, function_tool
from runstream.events.codec import decode, encode
from runstream.log.base import Command
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook
from runstream.run.inbox import approval_command, approval_of
from runstream.run.loop import drive
from runstream.run.resume import Resumed, fold_of_events
from runstream.run.tools import UNCERTAIN_OUTPUT
from runstream.testing import ScriptedModel, ToolCall

CALLS = [
    ToolCall("refund", {"number": 1}, call_id="r1"),
    ToolCall("refund", {"number": 2}, call_id="r2"),
    ToolCall("look", call_id="l1"),
]


def agent_of(done: list[str], *turns: Any) -> Agent[Any]:
    @function_tool(needs_approval=True)
    def refund(number: int) -> str:
        done.append(f"refund {number}")
        return f"refunded {number}"

    @function_tool
    def look() -> str:
        done.append("look")
        return "saw"

    return Agent(name="Ann", model=ScriptedModel(turns), tools=[refund, look])


async def taken_over(done: list[str], *turns: Any, answers: list[str], lost: int = 0) -> ActiveRun:
    """The second worker's run. The first one's log breaks off before its end, and before its last `lost` events; the
    answers came through the store meanwhile."""
    first = Runner.run_streamed(agent_of([], CALLS), "hi")
    await first.wait()
    events = [decode(encode(event)) async for event in first.events()]
    events = events[: len(events) - 1 - lost]
    agent = agent_of(done, *turns)
    fold = fold_of_events(events, AgentBook([agent]))
    run = ActiveRun(
        agent=agent,
        input="hi",
        context=None,
        max_turns=10,
        hooks=None,
        config=RunConfig(run_id=first.run_id, on_approval="wait", on_abandon="detach"),
        error_handlers=None,
        session=None,
        previous_response_id=None,
        conversation_id=None,
        auto_previous_response_id=False,
        streamed=True,
    )
    run.go_on(Resumed(fold, taken_over=True, last_seq=events[-1].seq), epoch=2)
    for number, call_id in enumerate(answers, 1):
        given = approval_command(approval_of(call_id, "refund", approved=True))
        run.inbox.put(Command(given.kind, given.data, number))
    run.start(drive(run))
    return run


def outputs(run: ActiveRun) -> dict[str | None, str]:
    return {item.call_id: item.output for item in run.items if isinstance(item, ToolCallOutputItem)}


async def test_an_answer_that_came_meanwhile_starts_the_call() -> None:
    """Nobody can have begun it: it was not allowed then. What had its output is not called again."""
    done: list[str] = []
    run = await taken_over(done, "Done.", answers=["r1", "r2"])
    await run.wait_ended()
    assert run.final_output == "Done."
    assert sorted(done) == ["refund 1", "refund 2"]
    assert outputs(run) == {"l1": "saw", "r1": "refunded 1", "r2": "refunded 2"}


async def test_it_goes_on_waiting() -> None:
    """For what nobody has answered."""
    done: list[str] = []
    run = await taken_over(done, "Done.", answers=["r1"])
    async for event in _events(run):
        if event.kind == "item" and event.data.name == "tool_output" and event.live.call_id == "r1":
            break
    assert done == ["refund 1"]
    run.inbox.put(Command("approval", {"call_id": "r2", "tool_name": "refund", "approved": False}, 2))
    await run.wait_ended()
    assert (done, run.final_output) == (["refund 1"], "Done.")


async def test_a_call_that_may_have_run_is_uncertain() -> None:
    """It needed nobody's leave, and its output is not in the log; the calls that wait are not touched by that."""
    done: list[str] = []
    run = await taken_over(done, "Done.", answers=["r1", "r2"], lost=1)
    await run.wait_ended()
    assert outputs(run) == {"l1": UNCERTAIN_OUTPUT, "r1": "refunded 1", "r2": "refunded 2"}


async def test_later_turns_are_not_uncertain() -> None:
    """Their calls are this worker's own."""
    done: list[str] = []
    run = await taken_over(done, ToolCall("look", call_id="l2"), "Done.", answers=["r1", "r2"])
    await run.wait_ended()
    assert outputs(run)["l2"] == "saw"


def _events(run: ActiveRun) -> Any:
    from runstream.run.stream_events import EventReader

    return EventReader(run, lambda: None, run.after)


@pytest.mark.parametrize("call_id", ["nope", "l1"])
async def test_answers_to_what_does_not_wait_change_nothing(call_id: str) -> None:
    """They came through the store: there is nobody to tell."""
    done: list[str] = []
    run = await taken_over(done, "Done.", answers=[call_id, "r1", "r1", "r2"])
    await run.wait_ended()
    assert sorted(done) == ["refund 1", "refund 2"]
