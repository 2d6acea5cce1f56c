"""Laws of the guardrails' declarations."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest

from runstream.agent.context import RunContextWrapper
from runstream.agent.guardrail import (
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailResult,
    InputGuardrailTripwireTriggered,
    OutputGuardrail,
    OutputGuardrailResult,
    OutputGuardrailTripwireTriggered,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolInputGuardrailData,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrail,
    ToolOutputGuardrailData,
    ToolOutputGuardrailTripwireTriggered,
    input_guardrail,
    output_guardrail,
    tool_input_guardrail,
    tool_output_guardrail,
)
from runstream.errors import AgentsException, UserError

CONTEXT = RunContextWrapper(context="mine")
AGENT = SimpleNamespace(name="agent")


def check(context: RunContextWrapper[Any], agent: Any, value: Any) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput((context.context, agent.name, value), tripwire_triggered=value == "bad")


async def check_async(context: RunContextWrapper[Any], agent: Any, value: Any) -> GuardrailFunctionOutput:
    return check(context, agent, value)


def check_tool(data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput.allow(data)


async def check_tool_async(data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
    return check_tool(data)


@pytest.mark.parametrize("function", [check, check_async])
async def test_an_input_check(function):
    """Sync and async functions get context, agent and input; the result names the guardrail."""
    guardrail = InputGuardrail(function)
    result = await guardrail.run(AGENT, "bad", CONTEXT)
    assert result == InputGuardrailResult(guardrail, GuardrailFunctionOutput(("mine", "agent", "bad"), True))


@pytest.mark.parametrize("function", [check, check_async])
async def test_an_output_check(function):
    """Sync and async functions get context, agent and output; the result has all of them."""
    guardrail = OutputGuardrail(function)
    result = await guardrail.run(CONTEXT, AGENT, "good")
    output = GuardrailFunctionOutput(("mine", "agent", "good"), False)
    assert result == OutputGuardrailResult(guardrail, "good", AGENT, output)


@pytest.mark.parametrize("function", [check_tool, check_tool_async])
async def test_tool_checks(function):
    """Sync and async functions get the call's data; an output's data is an input's with the output."""
    before = ToolInputGuardrailData(context=CONTEXT, agent=AGENT)
    after = ToolOutputGuardrailData(context=CONTEXT, agent=AGENT, output="out")
    assert isinstance(after, ToolInputGuardrailData)
    assert (await ToolInputGuardrail(function).run(before)).output_info is before
    assert (await ToolOutputGuardrail(function).run(after)).output_info is after


def test_the_three_behaviours():
    """The strings of the behaviours are for ever; without a word a tool guardrail allows."""
    assert ToolGuardrailFunctionOutput("x").behavior == {"type": "allow"}
    assert ToolGuardrailFunctionOutput.allow("x").behavior == {"type": "allow"}
    rejected = ToolGuardrailFunctionOutput.reject_content("no", "x")
    assert (rejected.behavior, rejected.output_info) == ({"type": "reject_content", "message": "no"}, "x")
    assert ToolGuardrailFunctionOutput.raise_exception("x").behavior == {"type": "raise_exception"}


def test_decorators_without_parentheses():
    """The function's name becomes the guardrail's, and inputs are checked beside the model."""
    guardrail = input_guardrail(check)
    assert (guardrail.guardrail_function, guardrail.get_name(), guardrail.run_in_parallel) == (check, "check", True)
    assert output_guardrail(check_async).get_name() == "check_async"
    assert tool_input_guardrail(check_tool).get_name() == "check_tool"
    assert tool_output_guardrail(check_tool).get_name() == "check_tool"


def test_decorators_with_parentheses():
    """Names and the time of an input's check can be given."""
    guardrail = input_guardrail(name="first", run_in_parallel=False)(check)
    assert (guardrail.get_name(), guardrail.run_in_parallel) == ("first", False)
    assert input_guardrail()(check).get_name() == "check"
    assert output_guardrail(name="last")(check).get_name() == "last"
    assert tool_input_guardrail(name="before")(check_tool).get_name() == "before"
    assert tool_output_guardrail(name="after")(check_tool).get_name() == "after"


def test_callables_without_a_name():
    """Partials and callable objects go by the name of their type."""
    assert InputGuardrail(functools.partial(check)).get_name() == "partial"
    assert OutputGuardrail(functools.partial(check)).get_name() == "partial"
    assert ToolInputGuardrail(functools.partial(check_tool)).get_name() == "partial"


async def test_something_that_is_no_function():
    """The mistake is told when the check is to be made."""
    with pytest.raises(UserError, match="must be callable, got 'no function'"):
        await InputGuardrail("no function").run(AGENT, "x", CONTEXT)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be callable"):
        await ToolOutputGuardrail(None).run(None)  # type: ignore[arg-type]


async def test_a_function_that_returns_something_else():
    """A check without a verdict is an error, never a pass."""
    with pytest.raises(UserError, match="must return a GuardrailFunctionOutput, it returned None"):
        await OutputGuardrail(lambda *_: None).run(CONTEXT, AGENT, "x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must return a ToolGuardrailFunctionOutput, it returned True"):
        await ToolInputGuardrail(lambda _: True).run(None)  # type: ignore[arg-type]


def test_the_tripwires_errors():
    """Each names its guardrail, carries the result, and is told apart by its code."""
    verdict = GuardrailFunctionOutput("why", tripwire_triggered=True)
    tool_verdict = ToolGuardrailFunctionOutput.raise_exception("why")
    first = InputGuardrailTripwireTriggered(InputGuardrailResult(input_guardrail(check), verdict))
    last = OutputGuardrailTripwireTriggered(OutputGuardrailResult(output_guardrail(check), "x", AGENT, verdict))
    before = ToolInputGuardrailTripwireTriggered(tool_input_guardrail(check_tool), tool_verdict)
    after = ToolOutputGuardrailTripwireTriggered(tool_output_guardrail(check_tool), tool_verdict)
    assert first.guardrail_result.output is last.guardrail_result.output is verdict
    assert before.output is after.output is tool_verdict
    assert before.guardrail.get_name() == after.guardrail.get_name() == "check_tool"
    assert str(first) == "Guardrail InputGuardrail 'check' triggered tripwire"
    assert str(last) == "Guardrail OutputGuardrail 'check' triggered tripwire"
    assert str(before) == "Tool input guardrail ToolInputGuardrail 'check_tool' triggered tripwire"
    assert str(after) == "Tool output guardrail ToolOutputGuardrail 'check_tool' triggered tripwire"
    errors = (first, last, before, after)
    assert all(isinstance(error, AgentsException) and error.run_data is None for error in errors)
    assert len({error.code for error in errors}) == 4
