"""What is known of guardrails when a run goes on elsewhere: kept states, and runs whose worker broke off."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    OutputGuardrail,
    RunConfig,
    RunContextWrapper,
    Runner,
    RunState,
    UserError,
    function_tool,
)
from runstream.events.codec import decode, encode
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook
from runstream.run.loop import drive
from runstream.run.resume import Resumed, fold_of_events
from runstream.testing import ScriptedModel, ToolCall


def _agent(asked: list[str], *turns: Any, trip: bool = False) -> Agent[Any]:
    def check(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        asked.append(given)
        return GuardrailFunctionOutput({"by": "check"}, trip)

    @function_tool
    def work() -> str:
        return "done"

    return Agent(
        name="Ann",
        model=ScriptedModel(turns),
        tools=[work],
        input_guardrails=[InputGuardrail(check)],
        output_guardrails=[OutputGuardrail(lambda context, agent, output: GuardrailFunctionOutput(None, False), "out")],
    )


async def _taken_over(agent: Agent[Any], *turns: Any, keep: int) -> ActiveRun:
    """The second worker's run, of a log that broke off after so many responses."""
    first = Runner.run_streamed(_agent([], *turns), "hi")
    await first.wait()
    events = [decode(encode(event)) async for event in first.events()]
    ends = [index for index, event in enumerate(events) if getattr(event.data, "type", "") == "response.completed"]
    events = events[: ends[keep - 1] + 1]
    run = ActiveRun(
        agent=agent,
        input="hi",
        context=None,
        max_turns=10,
        hooks=None,
        config=RunConfig(run_id=first.run_id, on_abandon="detach"),
        error_handlers=None,
        session=None,
        previous_response_id=None,
        conversation_id=None,
        auto_previous_response_id=False,
        streamed=True,
    )
    resumed = Resumed(fold_of_events(events, AgentBook([agent])), taken_over=True, last_seq=events[-1].seq)
    run.go_on(resumed, epoch=2)
    run.start(drive(run))
    return run


async def test_the_next_worker_asks_again_in_the_first_turn() -> None:
    """Nothing tells whether the input had passed: what is not known to have passed has not."""
    asked: list[str] = []
    run = await _taken_over(_agent(asked, "never", trip=True), ToolCall("work"), "Done.", keep=1)
    assert run.task is not None
    with pytest.raises(InputGuardrailTripwireTriggered):
        await run.task
    assert asked == ["hi"]


async def test_the_next_worker_does_not_ask_again_later() -> None:
    """The second turn began once the input had passed. The output is checked where the run ends."""
    asked: list[str] = []
    run = await _taken_over(_agent(asked, trip=True), ToolCall("work"), "Done.", keep=2)
    assert run.task is not None
    await run.task
    assert (asked, run.final_output, len(run.guardrails.output)) == ([], "Done.", 1)


async def test_a_kept_state_has_the_results() -> None:
    """With the agents' own guardrails where they are there, and names where they are not."""
    result = await Runner.run(_agent([], ToolCall("work"), "Done."), "hi")
    text = result.to_state().to_string()

    agent = _agent([])
    state = await RunState.from_string(agent, text)
    kept = state._now().guardrails
    assert (kept.input_passed, kept.input[0].guardrail, kept.output[0].guardrail) == (
        True,
        agent.input_guardrails[0],
        agent.output_guardrails[0],
    )
    assert (kept.input[0].output, kept.output[0].agent_output) == (
        GuardrailFunctionOutput({"by": "check"}, False),
        "Done.",
    )
    assert kept.output[0].agent is agent

    state = await RunState.from_string(Agent(name="Ann"), text)
    gone = state._now().guardrails.input[0].guardrail
    assert gone.get_name() == "check"
    with pytest.raises(UserError, match="'check' is known by its name only"):
        await gone.run(agent, "hi", RunContextWrapper(None))
