"""Whatever ends a run, the conversation that it leaves is one that a provider accepts."""

from typing import Any

import pytest

from runstream import (
    Agent,
    Model,
    ModelBehaviorError,
    ModelResponse,
    RunConfig,
    RunItemStreamEvent,
    Runner,
    Usage,
    UserError,
    function_tool,
)
from runstream.agent.items import MCPApprovalRequestItem, MCPApprovalResponseItem, ToolCallItem, ToolCallOutputItem
from runstream.run.history import CANCELLED_OUTPUT, input_items_of
from runstream.sessions.memory import InMemorySession
from runstream.testing import (
    FakeClock,
    Fault,
    HandoffTo,
    Item,
    Raise,
    Reasoning,
    Refusal,
    ScriptedModel,
    ToolCall,
    Turn,
    say,
)


@function_tool
async def ping() -> str:
    """Ping."""
    return "pong"


@function_tool
async def for_ever() -> str:
    """Never ends by itself."""
    import asyncio

    await asyncio.get_running_loop().create_future()
    return ""


def assert_acceptable(items: list[Any]) -> None:
    """What OpenAI asks of a conversation: each call has exactly one output, after it; no output without its call; no
    message with an id but without the reasoning that came before it."""
    calls: dict[str, int] = {}
    outputs: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.get("type") == "function_call":
            assert item["call_id"] not in calls
            calls[item["call_id"]] = index
        elif item.get("type") == "function_call_output":
            assert item["call_id"] not in outputs
            outputs[item["call_id"]] = index
        elif item.get("type") == "reasoning":
            assert index + 1 < len(items)
            assert items[index + 1].get("type") in ("message", "function_call", "reasoning")
    assert calls.keys() == outputs.keys()
    assert all(outputs[name] > place for name, place in calls.items())
    for item in items:
        if item.get("status") == "incomplete":
            assert "id" not in item


# What breaks off: the turn, and after how many of the item events the run is cancelled (None: the turn breaks itself).
BROKEN_TURNS: dict[str, Any] = {
    "text": say("one two three", fault=Fault("reset", after=2)),
    "no text yet": say("one two three", fault=Fault("error_event", after=0)),
    "refusal": Turn((Refusal("I will not do it"),), fault=Raise(ValueError("x"), after=2)),
    "reasoning": Turn((Reasoning("let me think about it"),), fault=Raise(ValueError("x"), after=2)),
    "text after reasoning": Turn((Reasoning("hm"), "so it is"), fault=Raise(ValueError("x"), after=3)),
    "two messages": Turn(("first", "second one"), fault=Raise(ValueError("x"), after=2)),
    "arguments": Turn((ToolCall("ping", '{"a": "long argument"}'),), fault=Raise(ValueError("x"), after=1)),
    "call after text": Turn(("Wait.", ToolCall("ping", "{}")), fault=Raise(ValueError("x"), after=2)),
    "whole answer but its end": Turn(("All of it.",), fault=Fault("no_end")),
    "whole call but its end": Turn((Reasoning("hm"), ToolCall("ping")), fault=Fault("no_end")),
    "reasoning and text but the end": Turn((Reasoning("hm"), "All of it."), fault=Fault("no_end")),
    "incomplete": Turn(("cut off here",), incomplete="max_output_tokens"),
    "failed": Turn(("it went wrong",), fault=Fault("failed")),
    "unknown tool": ToolCall("nope"),
    "handoff input": HandoffTo("Bob", "{broken"),
    "computer": Item(
        {
            "type": "computer_call",
            "id": "cu_1",
            "call_id": "cc_1",
            "action": {"type": "screenshot"},
            "pending_safety_checks": [],
            "status": "completed",
        }
    ),
}


def _agent(*steps: Any) -> Agent[Any]:
    model = ScriptedModel(steps, clock=FakeClock())
    return Agent(name="Ann", model=model, tools=[ping, for_ever], handoffs=[Agent(name="Bob", model=model)])


async def _fail(agent: Agent[Any], session: InMemorySession, *, streamed: bool) -> Any:
    """Run until it fails; returns the error's items, or the result's."""
    config = RunConfig(clock=FakeClock())
    result: Any = None
    try:
        if streamed:
            result = Runner.run_streamed(agent, "hi", session=session, run_config=config)
            await result.wait()
        else:
            await Runner.run(agent, "hi", session=session, run_config=config)
    except Exception as error:
        return result, error
    raise AssertionError("the run did not fail")


# Unstreamed, the scripted model hands an incomplete answer over as if it were complete.
CASES = [(name, streamed) for name in BROKEN_TURNS for streamed in (True, False) if streamed or name != "incomplete"]


@pytest.mark.parametrize(("name", "streamed"), CASES)
async def test_a_failed_turn_leaves_an_acceptable_conversation(name: str, streamed: bool) -> None:
    """After a good turn and one that fails, the session is complete, and so is the result's own input list."""
    session = InMemorySession("s")
    agent = _agent(ToolCall("ping"), BROKEN_TURNS[name], *[BROKEN_TURNS[name]] * 2)
    result, _ = await _fail(agent, session, streamed=streamed)
    stored: list[Any] = await session.get_items()
    if name != "computer":
        assert_acceptable(stored)
        if result is not None:
            assert_acceptable(result.to_input_list())
    assert [item.get("type", item.get("role")) for item in stored[:3]] == [
        "user",
        "function_call",
        "function_call_output",
    ]
    again = await Runner.run(Agent(name="Ann", model=(model := ScriptedModel(["works"]))), "more", session=session)
    assert again.final_output == "works"
    assert model.calls[0].input[: len(stored)] == stored


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text", ["one two"]),
        ("no text yet", []),
        ("refusal", ["I will"]),
        ("reasoning", []),
        ("two messages", ["first", "second"]),
        ("call after text", ["Wait."]),
        ("whole answer but its end", ["All of it."]),
        ("whole call but its end", []),
        ("incomplete", ["cut off here"]),
        ("failed", ["it"]),
    ],
)
async def test_what_readers_saw_is_kept(name: str, expected: list[str]) -> None:
    """The text of a broken answer is in the items, in the event stream and in the session."""
    session = InMemorySession("s")
    result = Runner.run_streamed(_agent(*[BROKEN_TURNS[name]] * 3), "hi", session=session)
    shown: list[str] = []
    with pytest.raises(Exception, match=r"."):  # noqa: PT012
        async for event in result.stream_events():
            if isinstance(event, RunItemStreamEvent) and event.name == "message_output_created":
                shown.append(_text(event.item.raw_item))
    assert shown == expected
    stored: list[Any] = await session.get_items()
    assert [_text(item) for item in stored if item.get("type") == "message"] == expected


def _text(message: Any) -> str:
    [part] = message["content"] if isinstance(message, dict) else message.content
    fields = part if isinstance(part, dict) else part.model_dump()
    return fields.get("text") or fields.get("refusal") or ""


async def test_a_message_without_its_reasoning_has_no_id() -> None:
    """A provider refuses a message whose reasoning is missing: complete or not, it is stored without its id."""
    session = InMemorySession("s")
    turn = Turn((Reasoning("hm"), "First.", "Second"), fault=Raise(ValueError("x"), after=2))
    with pytest.raises(ValueError, match="x"):
        await Runner.run_streamed(_agent(turn), "hi", session=session).wait()
    stored: list[Any] = await session.get_items()
    messages = [item for item in stored if item.get("type") == "message"]
    assert [_text(item) for item in messages] == ["First."]
    assert all("id" not in item for item in messages)


async def test_odd_deltas_do_not_hinder_the_end() -> None:
    """Deltas without an item id, as some servers send them, are kept as text too."""
    from openai.types.responses import ResponseTextDeltaEvent

    from runstream.testing import ModelStep

    async def events(call: Any) -> Any:
        for text in ("some", " text"):
            yield ResponseTextDeltaEvent.model_construct(type="response.output_text.delta", delta=text, item_id=None)
        raise ValueError("x")

    agent = Agent(name="Ann", model=ScriptedModel([ModelStep.stream(events)]))
    result = Runner.run_streamed(agent, "hi")
    with pytest.raises(ValueError, match="x"):
        await result.wait()
    assert [event.kind async for event in result.events()][-1] == "run.end"


async def test_open_calls_of_parallel_tools_are_answered_in_order() -> None:
    """Of several open calls each gets its `cancelled`, those that ended keep their output."""
    calls = [ToolCall("for_ever", call_id="a"), ToolCall("ping", call_id="b"), ToolCall("for_ever", call_id="c")]
    result = Runner.run_streamed(_agent(calls), "hi")
    async for event in result.stream_events():
        if isinstance(event, RunItemStreamEvent) and event.name == "tool_output":
            result.cancel()
    assert [(item.raw_item["call_id"], item.output) for item in result.new_items[3:]] == [  # type: ignore[union-attr]
        ("b", "pong"),
        ("a", CANCELLED_OUTPUT),
        ("c", CANCELLED_OUTPUT),
    ]
    assert_acceptable(result.to_input_list())


async def test_cancelled_answers_are_events_in_the_log() -> None:
    """Readers of the log see the answers of open calls, before run.end."""
    result = Runner.run_streamed(_agent([ToolCall("for_ever", call_id="a")]), "hi")
    async for event in result.stream_events():
        if isinstance(event, RunItemStreamEvent):
            result.cancel()
    last = [event async for event in result.events()][-2:]
    assert [(event.kind, getattr(event.data, "name", "")) for event in last] == [
        ("item", "tool_output"),
        ("run.end", ""),
    ]


@pytest.mark.parametrize(
    "kind",
    ["computer_call", "local_shell_call", "shell_call", "apply_patch_call", "custom_tool_call"],
)
async def test_what_nobody_here_can_answer_is_not_kept(kind: str) -> None:
    """A call that the run refuses is among its items, but not in the session, nor is the reasoning that led to it."""
    unanswered = {"type": kind, "id": "x_1", "call_id": "call_1", "server_label": "docs", "name": "x"}

    class Asks(Model):
        async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
            said = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": []}
            called = {"type": "function_call", "call_id": "c1", "name": "ping", "arguments": "{}"}
            loose: dict[str, Any] = {"type": "reasoning", "id": "r", "summary": []}
            output: Any = [said, called, loose, unanswered]
            return ModelResponse(output=output, usage=Usage(), response_id=None)

    session = InMemorySession("s")
    agent = Agent(name="Ann", model=Asks(), tools=[ping])
    with pytest.raises((ModelBehaviorError, UserError)) as raised:
        await Runner.run(agent, "hi", session=session)
    assert raised.value.run_data is not None
    assert unanswered in [item.raw_item for item in raised.value.run_data.new_items]
    items: list[Any] = await session.get_items()
    assert [item.get("type") or item["role"] for item in items] == [
        "user",
        "message",
        "function_call",
        "function_call_output",
    ]


def test_a_call_with_its_answer_is_kept() -> None:
    """Hosted tools answer their calls themselves, and approvals may be given: these stay."""
    agent = Agent(name="Ann")
    call: Any = {"type": "shell_call", "id": "x", "call_id": "c1"}
    output: Any = {"type": "shell_call_output", "call_id": "c1", "output": []}
    asked: Any = {"type": "mcp_approval_request", "id": "a1", "server_label": "docs", "name": "x", "arguments": "{}"}
    given: Any = {"type": "mcp_approval_response", "approval_request_id": "a1", "approve": True}
    items: list[Any] = [
        ToolCallItem(agent=agent, raw_item=call),
        ToolCallOutputItem(agent=agent, raw_item=output, output=[]),
        MCPApprovalRequestItem(agent=agent, raw_item=asked),
        MCPApprovalResponseItem(agent=agent, raw_item=given),
    ]
    assert len(input_items_of(items)) == 4
    assert input_items_of([items[0]]) == []
