"""Laws of the small questions about items."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseInputItemParam,
    ResponseOutputMessage,
    ResponseOutputRefusal,
    ResponseOutputText,
)
from pydantic import BaseModel, TypeAdapter

from runstream.agent.items import ItemHelpers, MessageOutputItem, ReasoningItem
from runstream.errors import ModelBehaviorError, UserError

AGENT = SimpleNamespace(name="agent")
CALL = ResponseFunctionToolCall(arguments="{}", call_id="c", name="f", type="function_call")
PROGRAM_CALL: Any = {"call_id": "c", "name": "f", "caller": {"type": "program", "caller_id": "p"}}


def text(value: str | None) -> ResponseOutputText:
    return ResponseOutputText.model_construct(annotations=[], text=value, type="output_text")


def refusal(value: str) -> ResponseOutputRefusal:
    return ResponseOutputRefusal(refusal=value, type="refusal")


def message(*content: Any) -> ResponseOutputMessage:
    return ResponseOutputMessage.model_construct(
        id="m", content=list(content), role="assistant", status="completed", type="message"
    )


def test_last_content():
    """Text or refusal, whichever comes last; nothing of an empty message or another item."""
    assert ItemHelpers.extract_last_content(message(text("a"), text("b"))) == "b"
    assert ItemHelpers.extract_last_content(message(text("a"), refusal("no"))) == "no"
    assert ItemHelpers.extract_last_content(message(text(None))) == ""
    assert ItemHelpers.extract_last_content(message()) == ""
    assert ItemHelpers.extract_last_content(CALL) == ""
    with pytest.raises(ModelBehaviorError, match="Unexpected content type: 'picture'"):
        ItemHelpers.extract_last_content(message({"type": "picture"}))


def test_last_text():
    """Only text counts, and only in the last place."""
    assert ItemHelpers.extract_last_text(message(refusal("no"), text("b"))) == "b"
    assert ItemHelpers.extract_last_text(message(text("a"), refusal("no"))) is None
    assert ItemHelpers.extract_last_text(message()) is None
    assert ItemHelpers.extract_last_text(CALL) is None


def test_all_text_and_all_refusals():
    """Parts are joined, gaps of unvalidated objects skipped, and nothing at all is None."""
    mixed = message(text("a"), refusal("no"), text(None), text("b"), refusal("!"))
    assert ItemHelpers.extract_text(mixed) == "ab"
    assert ItemHelpers.extract_refusal(mixed) == "no!"
    assert ItemHelpers.extract_text(message(text(None))) is None
    assert ItemHelpers.extract_refusal(message(text("a"))) is None
    assert ItemHelpers.extract_text(CALL) is None


def test_dicts_are_messages_too():
    """A message that came from a store as a dict is read like an official one."""
    stored: Any = message(text("a"), text("b")).model_dump()
    assert ItemHelpers.extract_text(stored) == "ab"
    assert ItemHelpers.extract_last_content(stored) == "b"


def test_text_of_run_items():
    """The messages' text is joined; other items have none."""
    first, second = (
        MessageOutputItem(AGENT, message(text("a"), refusal("no"))),
        MessageOutputItem(AGENT, message(text("b"))),
    )
    other = ReasoningItem(AGENT, CALL)  # type: ignore[arg-type]
    assert ItemHelpers.text_message_output(first) == "a"
    assert ItemHelpers.text_message_outputs([first, other, second]) == "ab"


def test_an_input_becomes_a_new_list():
    """A string is a user's message; a list is copied deeply, and what pydantic left unfolded is unfolded."""
    assert ItemHelpers.input_to_new_input_list("hi") == [{"content": "hi", "role": "user"}]
    original: Any = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    copied: Any = ItemHelpers.input_to_new_input_list(original)
    assert copied == original
    copied[0]["content"][0]["text"] = "changed"
    assert original[0]["content"][0]["text"] == "hi"
    validated = TypeAdapter(list[ResponseInputItemParam]).validate_python(
        [{"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": []}]
    )
    assert ItemHelpers.input_to_new_input_list(validated)[0]["content"] == []  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("text", "text"),
        (3, "3"),
        (None, "None"),
        ({"a": 1}, "{'a': 1}"),
        ([], "[]"),
        ({"type": "text", "text": "hi"}, [{"type": "input_text", "text": "hi"}]),
    ],
)
def test_a_tools_result_becomes_an_input(output, expected):
    """Content stays content, anything else is a string."""
    item = ItemHelpers.tool_call_output_item(CALL, output)
    assert item == {"call_id": "c", "output": expected, "type": "function_call_output"}


def test_a_hosted_program_gets_json():
    """A program that calls a tool parses the result, so that it is JSON and names its caller; strings stay strings."""
    assert ItemHelpers.tool_call_output_item(PROGRAM_CALL, {"a": (1, None)}) == {
        "call_id": "c",
        "output": '{"a":[1,null]}',
        "type": "function_call_output",
        "caller": {"type": "program", "caller_id": "p"},
    }
    assert ItemHelpers.tool_call_output_item(PROGRAM_CALL, "plain")["output"] == "plain"
    with pytest.raises(UserError, match="JSON-serializable"):
        ItemHelpers.tool_call_output_item(PROGRAM_CALL, object())


def test_a_declared_output_schema_makes_a_json_object():
    """Strings must hold one and values become one; everything else is told."""
    schema = {"type": "object"}
    convert = ItemHelpers.tool_call_output_item
    assert convert(CALL, '{ "ä": 1 }', output_json_schema=schema)["output"] == '{"ä":1}'
    assert convert(CALL, {"a": (1,)}, output_json_schema=schema)["output"] == '{"a":[1]}'
    for wrong in ("not json", "[1]", 3):
        with pytest.raises(UserError, match="requires a JSON object"):
            convert(CALL, wrong, output_json_schema=schema)


def test_a_declared_output_type_is_checked():
    """The result is validated and dumped by its type; one that does not fit is told."""

    class Point(BaseModel):
        x: int

    adapter = TypeAdapter(Point)
    convert = ItemHelpers.tool_call_output_item
    assert convert(CALL, {"x": "3"}, output_type_adapter=adapter)["output"] == '{"x":3}'
    assert convert(CALL, '{"x": 3}', output_type_adapter=adapter)["output"] == '{"x":3}'
    with pytest.raises(UserError, match="does not match its declared output schema"):
        convert(CALL, {"x": "three"}, output_type_adapter=adapter)
    with pytest.raises(UserError, match="requires a JSON object"):
        convert(CALL, [1], output_type_adapter=TypeAdapter(list[int]))


def test_the_caller_is_copied_from_official_objects_too():
    """A caller object becomes plain, without its empty fields; without a caller nothing is added."""

    class Caller(BaseModel):
        type: str
        note: str | None = None

    @dataclass
    class Call:
        caller: Caller | None

    assert ItemHelpers.copy_tool_call_caller(Call(Caller(type="program")), {}) == {"caller": {"type": "program"}}
    assert ItemHelpers.copy_tool_call_caller(Call(None), {"a": 1}) == {"a": 1}
