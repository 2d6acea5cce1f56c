"""Laws of raw items: reading, copying, and turning outputs into inputs."""

import json
from types import SimpleNamespace

import pytest
from openai.types.responses import (
    ResponseFunctionShellToolCallOutput,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseToolSearchCall,
)

from runstream.agent.raw_item import read_field, read_text, to_input_item, to_plain
from runstream.errors import AgentsException, UserError


def test_fields_are_read_from_mappings_and_objects():
    """A missing field is None, wherever it is missing."""
    for source in ({"name": "x", "empty": ""}, SimpleNamespace(name="x", empty="")):
        assert read_field(source, "name") == "x"
        assert read_field(source, "other") is None
        assert read_text(source, "name") == "x"
        assert read_text(source, "empty") is None
    assert read_field(None, "name") is None
    assert read_text({"name": 3}, "name") is None


def test_plain_values_are_deep_copies_made_of_dicts_and_lists():
    """One-shot iterators, tuples and pydantic objects become lists and dicts; strings and numbers stay."""
    call = ResponseFunctionToolCall(arguments="{}", call_id="c", name="f", type="function_call")
    inner = {"a": 1}
    value = {"items": iter([inner]), "pair": (1, "two"), "call": call, "bytes": b"x", "none": None}
    plain = to_plain(value)
    assert plain == {
        "items": [{"a": 1}],
        "pair": [1, "two"],
        "call": {"arguments": "{}", "call_id": "c", "name": "f", "type": "function_call"},
        "bytes": b"x",
        "none": None,
    }
    inner["a"] = 2
    assert plain["items"] == [{"a": 1}]


def test_an_output_becomes_an_input_with_the_fields_it_was_given():
    """Only set fields are sent back, so that the provider gets what it sent."""
    text = {"type": "output_text", "text": "hi", "annotations": []}
    data = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    item = to_input_item(ResponseOutputMessage.model_validate(data))
    assert item == data
    json.dumps(item)


def test_the_creator_of_an_output_is_not_sent_back():
    """`created_by` is refused in inputs; it goes, also from the chunks of a shell's output, and only in the copy."""
    search = ResponseToolSearchCall(
        id="s",
        arguments={},
        call_id="c",
        execution="server",
        status="completed",
        type="tool_search_call",
        created_by="x",
    )
    assert "created_by" not in to_input_item(search)
    assert search.created_by == "x"
    chunk = {"outcome": {"type": "exit", "exit_code": 0}, "stdout": "hi", "stderr": "", "created_by": "x"}
    raw = {"id": "o", "call_id": "c", "type": "shell_call_output", "created_by": "x", "output": [chunk, "other"]}
    item = to_input_item(raw)
    assert item["output"] == [{"outcome": {"type": "exit", "exit_code": 0}, "stdout": "hi", "stderr": ""}, "other"]
    assert "created_by" not in item
    assert raw["created_by"] == chunk["created_by"] == "x"
    official = ResponseFunctionShellToolCallOutput.model_validate({**raw, "status": "completed", "output": [chunk]})
    assert "created_by" not in to_input_item(official)["output"][0]


def test_something_else_is_no_item():
    """The error says what an item is."""
    with pytest.raises(UserError, match="Unexpected raw item type"):
        to_input_item("hello")
    assert issubclass(UserError, AgentsException)
