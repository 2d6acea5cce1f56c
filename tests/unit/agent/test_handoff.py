"""Handoffs: what the model sees, and what happens when it asks for one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from runstream.agent.context import RunContextWrapper
from runstream.agent.handoff import Handoff, HandoffInputData, handoff
from runstream.errors import ModelBehaviorError, UserError

BILLING = SimpleNamespace(name="Billing & Refunds", handoff_description="Invoices.")
CONTEXT = RunContextWrapper("mine")


class Reason(BaseModel):
    reason: str
    urgency: int


async def test_a_handoff_is_named_after_its_agent() -> None:
    """Name and description come from the agent; there are no arguments, and the agent takes over."""
    made = handoff(BILLING)
    assert made.tool_name == "transfer_to_billing___refunds"
    assert made.tool_description == "Handoff to the Billing & Refunds agent to handle the request. Invoices."
    assert made.agent_name == "Billing & Refunds"
    assert made.input_json_schema == {"additionalProperties": False, "type": "object", "properties": {}, "required": []}
    assert (made.strict_json_schema, made.is_enabled, made.input_filter) == (True, True, None)
    assert made.get_transfer_message(BILLING) == '{"assistant": "Billing & Refunds"}'
    assert await made.on_invoke_handoff(CONTEXT, "") is BILLING


@pytest.mark.parametrize(
    ("name", "tool_name"),
    [("Billing Agent", "billing_agent"), ("FAQ.v2", "faq_v2"), ("a  b", "a__b"), ("日本", "__"), ("A-1", "a_1")],
)
def test_tool_names_are_safe(name: str, tool_name: str) -> None:
    """Letters, digits and underscores, in lower case, as the SDK makes them."""
    agent = SimpleNamespace(name=name, handoff_description=None)
    assert Handoff.default_tool_name(agent) == f"transfer_to_{tool_name}"
    assert Handoff.default_tool_description(agent) == f"Handoff to the {name} agent to handle the request. "


def test_overrides_win() -> None:
    """A given name, description and filter replace the defaults."""

    def keep(data: HandoffInputData) -> HandoffInputData:
        return data

    made = handoff(BILLING, tool_name_override="n", tool_description_override="d", input_filter=keep)
    assert (made.tool_name, made.tool_description, made.input_filter) == ("n", "d", keep)


@pytest.mark.parametrize("is_async", [True, False])
async def test_on_handoff_is_called(is_async: bool) -> None:
    """With the context alone; plain or async."""
    got: list[Any] = []

    def on_handoff(context: RunContextWrapper[Any]) -> None:
        got.append(context)

    async def on_handoff_async(context: RunContextWrapper[Any]) -> None:
        got.append(context)

    made = handoff(BILLING, on_handoff=on_handoff_async if is_async else on_handoff)
    assert await made.on_invoke_handoff(CONTEXT, "{}") is BILLING
    assert got == [CONTEXT]


@pytest.mark.parametrize("is_async", [True, False])
async def test_on_handoff_gets_the_models_input(is_async: bool) -> None:
    """With an input type its schema is strict, and the value is of that type."""
    got: list[Any] = []

    def on_handoff(context: RunContextWrapper[Any], reason: Reason) -> None:
        got.append(reason)

    async def on_handoff_async(context: RunContextWrapper[Any], reason: Reason) -> None:
        got.append(reason)

    made = handoff(BILLING, on_handoff=on_handoff_async if is_async else on_handoff, input_type=Reason)
    assert made.input_json_schema["required"] == ["reason", "urgency"]
    assert made.input_json_schema["additionalProperties"] is False
    assert await made.on_invoke_handoff(CONTEXT, '{"reason": "refund", "urgency": 2}') is BILLING
    assert got == [Reason(reason="refund", urgency=2)]


@pytest.mark.parametrize("text", ["", "nope", "{}", '{"reason": "r", "urgency": "2"}', None])
async def test_input_that_does_not_fit_is_the_models_fault(text: Any) -> None:
    """Nothing is converted, nothing is called, and the error names the handoff."""
    got: list[Any] = []
    made = handoff(BILLING, on_handoff=lambda context, reason: got.append(reason), input_type=Reason)
    with pytest.raises(ModelBehaviorError, match=r"(?i)handoff to Billing & Refunds"):
        await made.on_invoke_handoff(CONTEXT, text)
    assert got == []


def takes_two(context: Any, reason: Any) -> None: ...


def takes_one(context: Any) -> None: ...


def takes_none() -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_type": Reason}, "You must provide on_handoff when input_type is provided"),
        ({"input_type": Reason, "on_handoff": "text"}, "on_handoff must be callable, not 'text'"),
        ({"on_handoff": "text"}, "on_handoff must be callable, not 'text'"),
        ({"input_type": Reason, "on_handoff": takes_one}, "on_handoff must take two arguments: context and input"),
        ({"on_handoff": takes_two}, "on_handoff must take one argument: context .*give an input_type"),
        ({"on_handoff": takes_none}, "on_handoff must take one argument: context"),
        ({"input_type": Reason | None, "on_handoff": takes_two}, "root of a strict JSON schema"),
        ({"input_type": int, "on_handoff": takes_two}, "must be the schema of an object, not of type 'integer'"),
        ({"input_type": dict[str, int], "on_handoff": takes_two}, "cannot become a strict JSON schema"),
        ({"input_type": object(), "on_handoff": takes_two}, "cannot become a strict JSON schema"),
        ({"nest_handoff_history": True}, "nest_handoff_history is not supported"),
    ],
)
def test_misuse_is_refused(options: dict[str, Any], message: str) -> None:
    """Each error says what is wrong, with the value, when the handoff is declared."""
    with pytest.raises(UserError, match=message):
        handoff(BILLING, **options)


def test_only_an_agent_can_take_over() -> None:
    """Names, tools and handoffs are none."""
    for wrong in ("Billing", None, handoff(BILLING)):
        with pytest.raises(UserError, match="handoff expects an Agent"):
            handoff(wrong)


def test_history_is_not_nested() -> None:
    """False and None are fine, and so is a handoff made by hand."""
    assert handoff(BILLING, nest_handoff_history=False).nest_handoff_history is False
    with pytest.raises(UserError, match="not supported"):
        dataclasses.replace(handoff(BILLING), nest_handoff_history=True)


@pytest.mark.parametrize("answer", [True, False])
async def test_it_may_be_enabled_by_a_function(answer: bool) -> None:
    """Plain or async, it gets the context and the asking agent; a bool stays a bool."""
    got: list[Any] = []

    def ask(context: RunContextWrapper[Any], agent: Any) -> bool:
        got.append((context, agent))
        return answer

    async def ask_async(context: RunContextWrapper[Any], agent: Any) -> bool:
        return ask(context, agent)

    assert handoff(BILLING, is_enabled=answer).is_enabled is answer
    for function in (ask, ask_async):
        enabled: Any = handoff(BILLING, is_enabled=function).is_enabled
        assert await enabled(CONTEXT, "agent") is answer
    assert got == [(CONTEXT, "agent")] * 2


def test_input_data_can_be_changed_by_copies() -> None:
    """A clone has some fields changed; the original cannot be."""
    data = HandoffInputData(input_history="hello", pre_handoff_items=(), new_items=())
    cloned = data.clone(input_history=())
    assert (cloned.input_history, data.input_history) == ((), "hello")
    assert (data.run_context, data.input_items) == (None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.input_history = "other"  # pyright: ignore
