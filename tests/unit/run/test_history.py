"""run/history: what the model is told at each turn, and a history that the next run can go on with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem

from runstream.agent.agent import Agent
from runstream.agent.items import (
    HandoffCallItem,
    HandoffOutputItem,
    ItemHelpers,
    MessageOutputItem,
    ModelResponse,
    ReasoningItem,
    ToolCallItem,
    ToolCallOutputItem,
)
from runstream.agent.usage import Usage
from runstream.events.model_event import build_event
from runstream.log.memory import MemoryLog
from runstream.run.history import (
    CANCELLED_OUTPUT,
    Conversation,
    cancelled_output,
    input_items_of,
    latest_of_each,
    open_calls,
    partial_messages,
    without_orphans,
)

DESK, BILLING = Agent(name="Desk"), Agent(name="Billing")


def message_item(text: str = "Hi", status: str = "completed", name: str = "msg_1") -> MessageOutputItem:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    fields = {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}
    return MessageOutputItem(agent=DESK, raw_item=ResponseOutputMessage.model_validate(fields))


def reasoning_item(name: str = "rs_1") -> ReasoningItem:
    raw = ResponseReasoningItem.model_validate({"id": name, "type": "reasoning", "summary": []})
    return ReasoningItem(agent=DESK, raw_item=raw)


def raw_call(call_id: str) -> ResponseFunctionToolCall:
    fields = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": "f", "arguments": "{}"}
    return ResponseFunctionToolCall.model_validate(fields)


def call_item(call_id: str) -> ToolCallItem:
    return ToolCallItem(agent=DESK, raw_item=raw_call(call_id))


def output_item(call_id: str, output: str = "done") -> ToolCallOutputItem:
    raw = ItemHelpers.tool_call_output_item(raw_call(call_id), output)
    return ToolCallOutputItem(agent=DESK, raw_item=raw, output=output)


# Items as input.


def test_items_become_input() -> None:
    """Items are sent as plain dicts, in their order."""
    items = [message_item(), reasoning_item(), call_item("c"), output_item("c")]
    converted: Any = input_items_of(items)
    assert [type(item) for item in converted] == [dict] * 4
    assert [(item["type"], item.get("id")) for item in converted] == [
        ("message", "msg_1"),
        ("reasoning", "rs_1"),
        ("function_call", "fc_c"),
        ("function_call_output", None),
    ]


def test_unfinished_messages_lose_their_id() -> None:
    """A provider refuses the id of a message that it does not have whole; the text stands for itself."""
    whole, part = message_item("All."), message_item("Half", "incomplete")
    converted: Any = input_items_of([whole, part])
    assert ["id" in item for item in converted] == [True, False]
    assert converted[1]["content"][0]["text"] == "Half"
    assert part.raw_item.id == "msg_1"


def test_reasoning_ids_can_be_left_out() -> None:
    """Where the run asks for it, reasoning goes without its id."""
    converted: Any = input_items_of([reasoning_item(), message_item()], omit_reasoning_ids=True)
    assert ["id" in item for item in converted] == [False, True]


# Open calls.


def test_calls_without_an_output_are_open() -> None:
    """A call is open until its output follows; other items do not matter."""
    first, second, third = call_item("1"), call_item("2"), call_item("3")
    items = [message_item(), first, second, output_item("1"), reasoning_item(), third]
    assert open_calls(items) == [second, third]
    assert open_calls([*items, output_item("3"), output_item("2")]) == []
    assert open_calls([]) == []


def test_handoffs_are_calls_too() -> None:
    """A handoff is open until its own output."""
    asked = HandoffCallItem(agent=DESK, raw_item=raw_call("h"))
    made = HandoffOutputItem(
        agent=DESK,
        raw_item=ItemHelpers.tool_call_output_item(raw_call("h"), "{}"),
        source_agent=DESK,
        target_agent=BILLING,
    )
    assert open_calls([asked]) == [asked]
    assert open_calls([asked, made]) == []


def test_hosted_calls_are_never_open() -> None:
    """What the provider runs itself needs no answer of ours."""
    raw: Any = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    assert open_calls([ToolCallItem(agent=DESK, raw_item=raw)]) == []


def test_an_open_call_is_answered() -> None:
    """The output of a call that had none tells the model so, and closes the call."""
    call = call_item("1")
    answer = cancelled_output(call)
    assert answer.agent is DESK
    assert answer.output == CANCELLED_OUTPUT
    assert answer.to_input_item() == {"type": "function_call_output", "call_id": "1", "output": CANCELLED_OUTPUT}
    assert open_calls([call, answer]) == []
    assert cancelled_output(call, "too late").output == "too late"


@given(st.lists(st.tuples(st.sampled_from(["call", "output", "message"]), st.integers(0, 3)), max_size=12))
def test_any_history_can_be_closed(course: list[tuple[str, int]]) -> None:
    """After the answers for what is open, nothing is open."""
    make: dict[str, Any] = {"call": call_item, "output": output_item, "message": lambda name: message_item(name=name)}
    items = [make[kind](str(number)) for kind, number in course]
    items += [cancelled_output(call) for call in open_calls(items)]
    assert open_calls(items) == []


# What broke off.


def log_of(*frames: dict[str, Any], max_events: int = 1000) -> MemoryLog:
    log = MemoryLog("run_1", max_events=max_events)
    for fields in frames:
        if fields.get("type") == "item":
            log.append("item", 1.0, "Desk", fields)
        else:
            log.extend_model(1.0, "Desk", 1, (), [build_event(copy.deepcopy(fields))], [None])
    return log


def text_delta(delta: Any, output: Any = 0, part: Any = 0, **more: Any) -> dict[str, Any]:
    kind = "response.output_text.delta"
    return {
        "type": kind,
        "item_id": f"msg_{output}",
        "output_index": output,
        "content_index": part,
        "delta": delta,
        **more,
    }


def refusal_delta(delta: str, output: int = 0, part: int = 0) -> dict[str, Any]:
    return {**text_delta(delta, output, part), "type": "response.refusal.delta"}


def done(text: str, output: int = 0) -> dict[str, Any]:
    raw = message_item(text, name=f"msg_{output}").raw_item.model_dump()
    return {"type": "response.output_item.done", "output_index": output, "item": raw}


def shown(messages: list[Any]) -> list[tuple[Any, ...]]:
    return [
        (each.id, each.status, [getattr(part, "text", None) or part.refusal for part in each.content])
        for each in messages
    ]


CREATED: dict[str, Any] = {"type": "response.created", "response": {"output": []}}


def test_the_text_that_readers_saw() -> None:
    """A message that was under way becomes an official one, marked incomplete."""
    messages = partial_messages(log_of(CREATED, text_delta("Hello"), text_delta(", wor")), 1)
    assert all(isinstance(each, ResponseOutputMessage) for each in messages)
    assert shown(messages) == [("msg_0", "incomplete", ["Hello, wor"])]


def test_a_message_that_was_complete_stays_so() -> None:
    """What was done before the response broke off is whole; order is the model's."""
    log = log_of(CREATED, text_delta("Second.", 1), text_delta("Fir"), text_delta("st."), done("First."))
    assert shown(partial_messages(log, 1)) == [
        ("msg_0", "completed", ["First."]),
        ("msg_1", "incomplete", ["Second."]),
    ]


def test_several_parts_and_refusals() -> None:
    """Parts stand in their order, and a refusal is one."""
    log = log_of(
        refusal_delta("I wi", part=1), text_delta("Well"), refusal_delta("ll not", part=1), text_delta(",", part=0)
    )
    assert shown(partial_messages(log, 1)) == [("msg_0", "incomplete", ["Well,", "I will not"])]


def test_only_what_came_since() -> None:
    """Earlier responses do not count, and events of the run between do not matter."""
    log = log_of(text_delta("old"), CREATED, text_delta("new"), {"type": "item"}, text_delta(" text"))
    assert shown(partial_messages(log, 2)) == [("msg_0", "incomplete", ["new text"])]
    assert partial_messages(log, 6) == []


def test_reasoning_and_calls_are_left_out() -> None:
    """A provider refuses them without what should have followed."""
    arguments = {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 1, "delta": "{"}
    summary = {"type": "response.reasoning_summary_text.delta", "item_id": "rs", "output_index": 0, "delta": "hm"}
    call = {"type": "response.output_item.done", "output_index": 2, "item": raw_call("1").model_dump()}
    assert partial_messages(log_of(CREATED, summary, arguments, call), 1) == []


def test_messages_after_reasoning_are_marked() -> None:
    """A provider refuses the id of a message whose reasoning is missing: even a whole one is marked, and so sent."""
    added = {"type": "response.output_item.added", "output_index": 0, "item": reasoning_item().raw_item.model_dump()}
    log = log_of(CREATED, added, done("Whole.", 1), text_delta("Half", 2))
    messages = partial_messages(log, 1)
    assert shown(messages) == [("msg_1", "incomplete", ["Whole."]), ("msg_2", "incomplete", ["Half"])]
    assert shown(partial_messages(log, 3))[0] == ("msg_1", "completed", ["Whole."])


def test_no_text_is_no_message() -> None:
    """A message that was only begun is not kept."""
    assert partial_messages(log_of(CREATED, text_delta(""), text_delta("")), 1) == []


@pytest.mark.parametrize("left_out", ["item_id", "output_index", "content_index", "delta"])
def test_servers_that_leave_fields_out(left_out: str) -> None:
    """A sparse delta does not keep the run from ending; what there is of the text is kept."""
    sparse = text_delta("two")
    del sparse[left_out]
    (message,) = partial_messages(log_of(text_delta("one "), sparse, text_delta(" three")), 1)
    assert "".join(part.text for part in message.content) == "one " + ("two" if left_out != "delta" else "") + " three"
    item = {"type": "response.output_item.done", "item": None}
    assert len(partial_messages(log_of(sparse, text_delta("x"), item), 1)) == 1


def test_a_long_text_of_which_the_beginning_is_gone() -> None:
    """Where the log no longer keeps the beginning, what is kept counts."""
    log = log_of(*(text_delta(f"{number} ") for number in range(3000)), max_events=100)
    assert log.first_seq > 1
    ((_, status, (text,)),) = shown(partial_messages(log, 1))
    assert status == "incomplete"
    assert text.split() == [str(number) for number in range(log.first_seq - 1, 3000)]


def test_the_partial_message_is_a_valid_history() -> None:
    """What is saved of a response that broke off can be sent to the model in the next run."""
    (message,) = partial_messages(log_of(text_delta("Half")), 1)
    (sent,) = input_items_of([MessageOutputItem(agent=DESK, raw_item=message)])
    assert sent == {
        "type": "message",
        "role": "assistant",
        "status": "incomplete",
        "content": [{"type": "output_text", "text": "Half", "annotations": []}],
    }


# Conversations.

BASE: list[Any] = [{"role": "user", "content": "Hi"}]


def conversation(**options: Any) -> Conversation:
    defaults: dict[str, Any] = {
        "previous_response_id": None,
        "conversation_id": None,
        "auto_previous_response_id": False,
        "omit_reasoning_ids": False,
    }
    return Conversation(BASE, **{**defaults, **options})


def response(response_id: str | None, *items: Any) -> ModelResponse:
    return ModelResponse([item.raw_item for item in items], Usage(), response_id)


def take_turn(talk: Conversation, response_id: str | None, model_items: list[Any], outputs: list[Any]) -> None:
    talk.answered(response(response_id, *model_items))
    talk.items += [*model_items, *outputs]


def test_the_whole_history_is_sent() -> None:
    """Without the provider's help each call sends everything: what the run began with, and all items since."""
    talk = conversation()
    assert talk.next_input() == BASE
    take_turn(talk, "resp_1", [call_item("1")], [output_item("1")])
    take_turn(talk, "resp_2", [call_item("2")], [output_item("2")])
    assert talk.next_input() == [
        *BASE,
        *input_items_of([call_item("1"), output_item("1"), call_item("2"), output_item("2")]),
    ]
    assert (talk.previous_response_id, talk.kept_by_provider) == (None, False)


@pytest.mark.parametrize(
    "options", [{"previous_response_id": "resp_0"}, {"auto_previous_response_id": True}, {"conversation_id": "conv_1"}]
)
def test_only_what_is_new_is_sent(options: dict[str, Any]) -> None:
    """Where the provider keeps the history, each call sends what it has not seen: the outputs of the last turn."""
    talk = conversation(**options)
    assert talk.kept_by_provider
    assert talk.next_input() == BASE
    take_turn(talk, "resp_1", [reasoning_item(), call_item("1"), call_item("2")], [output_item("2"), output_item("1")])
    assert talk.next_input() == input_items_of([output_item("2"), output_item("1")])
    take_turn(talk, "resp_2", [message_item(), call_item("3")], [output_item("3")])
    assert talk.next_input() == input_items_of([output_item("3")])
    assert talk.previous_response_id == (None if "conversation_id" in options else "resp_2")


def test_an_answer_without_an_id_cannot_be_continued() -> None:
    """A response that the provider has no id for is not one that it keeps: all that is new since goes along."""
    talk = conversation(auto_previous_response_id=True)
    take_turn(talk, None, [call_item("1")], [output_item("1")])
    assert talk.previous_response_id is None
    assert talk.next_input() == [*BASE, *input_items_of([call_item("1"), output_item("1")])]


def test_a_filter_replaces_the_history() -> None:
    """After a handoff's filter the next call sends what the filter left, and what comes after."""
    talk = conversation(omit_reasoning_ids=True)
    take_turn(talk, "resp_1", [call_item("1")], [output_item("1")])
    base: list[Any] = [{"type": "reasoning", "id": "rs", "summary": []}, {"role": "user", "content": "Short."}]
    talk.replace(base, [message_item()])
    assert talk.next_input() == [
        {"type": "reasoning", "summary": []},
        {"role": "user", "content": "Short."},
        *input_items_of([message_item()]),
    ]
    assert base[0]["id"] == "rs"


def test_what_is_sent_is_a_copy() -> None:
    """A filter of the model's input can do with it what it likes."""
    talk = conversation()
    talk.next_input().clear()
    assert talk.next_input() == BASE


# Stored histories.


def call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": arguments}


def output(call_id: str, text: str = "done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


USER: dict[str, Any] = {"role": "user", "content": "Hi"}


def test_outputs_without_their_call_are_left_out() -> None:
    """A limit may cut a stored history between a call and its output, which a provider would refuse."""
    items: list[Any] = [output("1"), USER, call("2"), output("2"), output("3")]
    assert without_orphans(items) == [USER, call("2"), output("2")]
    assert without_orphans([output("1"), call("1")]) == [call("1")]  # type: ignore[list-item]
    assert without_orphans([]) == []


def test_of_items_with_one_id_the_latest_is_kept() -> None:
    """Calls stay where they first were, before their output; outputs where they last were; what has no id stays."""
    items: list[Any] = [USER, call("1", "old"), output("1", "old"), USER, call("1", "new"), output("1", "new")]
    assert latest_of_each(items) == [USER, call("1", "new"), USER, output("1", "new")]
    assert latest_of_each([USER, USER]) == [USER, USER]  # type: ignore[list-item]


@given(st.lists(st.sampled_from([USER, call("1"), call("2"), output("1"), output("2"), output("1", "x")]), max_size=10))
def test_stored_histories_are_valid(items: list[Any]) -> None:
    """Whatever is stored, each call and each output comes at most once, and no output without or before its call."""
    kept: list[Any] = latest_of_each(without_orphans(items))
    keys = [(item["type"], item["call_id"]) for item in kept if "type" in item]
    assert len(keys) == len(set(keys))
    seen: set[str] = set()
    for kind, call_id in keys:
        assert kind == "function_call" or call_id in seen
        seen.add(call_id)
    assert [item for item in kept if item == USER] == [item for item in items if item == USER]
