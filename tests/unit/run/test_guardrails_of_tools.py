"""Guardrails of function tools: a call that is allowed, rejected or ends the run; an output that is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runstream import (
    Agent,
    InMemorySession,
    RunConfig,
    RunHooks,
    Runner,
    RunState,
    ToolExecutionConfig,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrail,
    ToolOutputGuardrailTripwireTriggered,
    UserError,
    function_tool,
)
from runstream.testing import ScriptedModel, ToolCall

ALLOW = ToolGuardrailFunctionOutput.allow("fine")
REJECT = ToolGuardrailFunctionOutput.reject_content("Not this.", "bad")
RAISE = ToolGuardrailFunctionOutput.raise_exception("worse")


class Desk:
    """A tool `pay`, its guardrails, and what was done."""

    def __init__(self, before: Any = (), after: Any = (), **options: Any) -> None:
        self.lines: list[str] = []

        async def pay(amount: int) -> str:
            self.lines.append("paid")
            return f"paid {amount}"

        self.before = [ToolInputGuardrail(self._asked(f"in {n}", given)) for n, given in enumerate(before)]
        self.after = [ToolOutputGuardrail(self._asked(f"out {n}", given)) for n, given in enumerate(after)]
        tool = function_tool(
            pay, tool_input_guardrails=self.before or None, tool_output_guardrails=self.after or None, **options
        )
        self.model = ScriptedModel([ToolCall("pay", {"amount": 5}, call_id="c1"), "Done."])
        self.agent = Agent(name="Ann", model=self.model, tools=[tool])

    def _asked(self, name: str, given: Any) -> Any:
        async def ask(data: Any) -> Any:
            what = getattr(data, "output", json.loads(data.context.tool_arguments))
            self.lines.append(f"{name}: {data.context.tool_name} {what}")
            if isinstance(given, Exception):
                raise given
            return given

        return ask

    @property
    def hooks(self) -> RunHooks[Any]:
        lines = self.lines

        class Hooks(RunHooks[Any]):
            async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
                lines.append("start")

            async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
                lines.append(f"end: {result}")

        return Hooks()

    async def run(self, streamed: bool = False, given: Any = "hi", **options: Any) -> Any:
        options = {"hooks": self.hooks, **options}
        if not streamed:
            return await Runner.run(self.agent, given, **options)
        return await Runner.run_streamed(self.agent, given, **options).wait()


def _outputs(result: Any) -> list[Any]:
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_allowed_calls_and_outputs_pass(streamed: bool) -> None:
    """Guardrails are asked one after the other, the first ones before the hooks; the results tell of each."""
    desk = Desk([ALLOW, ALLOW], [ALLOW])
    result = await desk.run(streamed)
    asked = "pay {'amount': 5}"
    assert desk.lines == [f"in 0: {asked}", f"in 1: {asked}", "start", "paid", "out 0: pay paid 5", "end: paid 5"]
    assert [each.guardrail for each in result.tool_input_guardrail_results] == desk.before
    assert [each.output for each in result.tool_output_guardrail_results] == [ALLOW]
    assert (_outputs(result), result.final_output) == (["paid 5"], "Done.")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_rejected_call_is_not_made(streamed: bool) -> None:
    """The model is told the message; later guardrails, hooks and the tool are left out."""
    desk = Desk([REJECT, ALLOW], [ALLOW])
    result = await desk.run(streamed)
    assert desk.lines == ["in 0: pay {'amount': 5}"]
    assert (_outputs(result), result.final_output) == (["Not this."], "Done.")
    assert [each.output for each in result.tool_input_guardrail_results] == [REJECT]
    told: Any = desk.model.calls[1].input[-1]
    assert told["output"] == "Not this."


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_rejected_output_is_in_nobodys_sight(streamed: bool) -> None:
    """What replaces it is what the model, the hooks, the log and the items have."""
    desk = Desk([], [ALLOW, REJECT, ALLOW])
    result = await desk.run(streamed)
    assert desk.lines == ["start", "paid", "out 0: pay paid 5", "out 1: pay paid 5", "end: Not this."]
    assert _outputs(result) == ["Not this."]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("side", ["input", "output"])
async def test_raise_exception_ends_the_run(streamed: bool, side: str) -> None:
    """With the guardrail and what it found; the call is answered, so that the next run on the session works."""
    desk, session = Desk([RAISE], []) if side == "input" else Desk([], [RAISE]), InMemorySession("s")
    error = ToolInputGuardrailTripwireTriggered if side == "input" else ToolOutputGuardrailTripwireTriggered
    with pytest.raises(error) as caught:
        await desk.run(streamed, session=session)
    assert (caught.value.guardrail, caught.value.output) == ((desk.before or desk.after)[0], RAISE)
    assert caught.value.run_data is not None
    found = getattr(caught.value.run_data, f"tool_{side}_guardrail_results")
    assert [each.output for each in found] == [RAISE]
    items: list[Any] = await session.get_items()
    assert [item.get("role") or item["type"] for item in items] == ["user", "function_call", "function_call_output"]
    assert "paid" not in items[-1]["output"]


async def test_a_guardrail_that_fails_ends_the_run() -> None:
    """As a tool that fails without a word for the model."""
    with pytest.raises(UserError, match="Error running tool pay: its guardrail 'ask' failed: oops"):
        await Desk([ValueError("oops")]).run()
    with pytest.raises(UserError, match="must return a ToolGuardrailFunctionOutput"):
        await Desk([], ["fine"]).run()


@pytest.mark.parametrize("asked_before", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_person_may_be_spared_what_a_guardrail_rejects(streamed: bool, asked_before: bool) -> None:
    """`pre_approval_tool_input_guardrails` asks guardrails first; a call that passes is asked about once more when it
    is made."""
    execution = ToolExecutionConfig(pre_approval_tool_input_guardrails=asked_before)
    options = {"run_config": RunConfig(tool_execution=execution)}
    desk = Desk([REJECT], needs_approval=True)
    result = await desk.run(streamed, **options)
    assert (len(result.interruptions), _outputs(result)) == ((0, ["Not this."]) if asked_before else (1, []))

    desk = Desk([ALLOW], needs_approval=True)
    result = await desk.run(streamed, **options)
    assert len(desk.lines) == int(asked_before)
    state = await RunState.from_string(desk.agent, result.to_state().to_string())
    state.approve(result.interruptions[0])
    result = await desk.run(streamed, state, **options)
    assert desk.lines[-4:] == ["in 0: pay {'amount': 5}", "start", "paid", "end: paid 5"]
    assert [each.output for each in result.tool_input_guardrail_results] == [ALLOW] * (1 + asked_before)
    assert result.tool_input_guardrail_results[0].guardrail is desk.before[0]
