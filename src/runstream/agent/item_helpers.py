"""Small questions that programs ask of items: what text a message has, how a tool's result becomes an input.

Owns `ItemHelpers`. Must not know runs or agents; run items are recognised by their `type`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from runstream.agent.raw_item import read_field, read_text, to_plain
from runstream.agent.tool_output import tool_output_to_input
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from openai.types.responses import ResponseFunctionToolCall
    from openai.types.responses.response_input_item_param import FunctionCallOutput
    from pydantic import TypeAdapter

    from runstream.agent.response import TResponseInputItem, TResponseOutputItem

__all__ = ["ItemHelpers"]


class _Item(Protocol):
    """A run item, as far as it is read here."""

    @property
    def type(self) -> str: ...
    @property
    def raw_item(self) -> Any: ...


class ItemHelpers:
    """Functions on items. Messages may be official objects or dicts."""

    @classmethod
    def extract_last_content(cls, message: TResponseOutputItem) -> str:
        """The last text or refusal of a message; empty for other items. Raises ModelBehaviorError for other content."""
        content = _content(message)
        if not content:
            return ""
        kind = read_field(content[-1], "type")
        if kind == "output_text":
            return read_field(content[-1], "text") or ""
        if kind == "refusal":
            return read_field(content[-1], "refusal") or ""
        raise ModelBehaviorError(f"Unexpected content type: {kind!r}. A message holds output_text and refusal only.")

    @classmethod
    def extract_last_text(cls, message: TResponseOutputItem) -> str | None:
        """The last text of a message; None for other items, and where the last content is no text."""
        content = _content(message)
        if content and read_field(content[-1], "type") == "output_text":
            return read_field(content[-1], "text")
        return None

    @classmethod
    def extract_text(cls, message: TResponseOutputItem) -> str | None:
        """All text of a message, joined; None if it has none. Refusals are no text."""
        return _join(message, "output_text", "text") or None

    @classmethod
    def extract_refusal(cls, message: TResponseOutputItem) -> str | None:
        """All refusals of a message, joined; None if it has none."""
        return _join(message, "refusal", "refusal") or None

    @classmethod
    def input_to_new_input_list(cls, input: str | list[TResponseInputItem]) -> list[TResponseInputItem]:
        """A run's input as a new list of items: a string becomes a user's message, a list is copied deeply."""
        if isinstance(input, str):
            return [{"content": input, "role": "user"}]
        return cast("list[TResponseInputItem]", to_plain(input))

    @classmethod
    def text_message_outputs(cls, items: Iterable[_Item]) -> str:
        """The text of all messages among the run items, joined."""
        return "".join(cls.text_message_output(item) for item in items if item.type == "message_output_item")

    @classmethod
    def text_message_output(cls, message: _Item) -> str:
        """The text of one `MessageOutputItem`."""
        return _join(message.raw_item, "output_text", "text")

    @classmethod
    def tool_call_output_item(
        cls,
        tool_call: ResponseFunctionToolCall,
        output: Any,
        *,
        output_json_schema: dict[str, Any] | None = None,
        output_type_adapter: TypeAdapter[Any] | None = None,
    ) -> FunctionCallOutput:
        """The input item that tells the model what a function call returned.

        Text, images and files (`ToolOutputText` and companions, their dicts, or a list of them) stay what they are;
        anything else becomes a string. With a declared output type or schema, and for calls that a hosted program
        made, it becomes JSON; raises UserError if that fails.
        """
        if output_type_adapter is not None:
            converted = _validated_json(output, output_type_adapter)
        elif output_json_schema is not None:
            converted = _object_json(output)
        else:
            converted = tool_output_to_input(output)
            if isinstance(converted, str) and not isinstance(output, str) and _made_by_program(tool_call):
                converted = _any_json(output)
        item = {"call_id": read_field(tool_call, "call_id"), "output": converted, "type": "function_call_output"}
        return cast("FunctionCallOutput", cls.copy_tool_call_caller(tool_call, item))

    @classmethod
    def copy_tool_call_caller(cls, tool_call: Any, output_item: Any) -> Any:
        """Name in the output the hosted program that made the call, if one did. Changes and returns `output_item`."""
        caller = read_field(tool_call, "caller")
        if caller is not None:
            dump = getattr(caller, "model_dump", None)
            output_item["caller"] = dump(mode="json", exclude_none=True) if callable(dump) else to_plain(caller)
        return output_item


def _content(message: Any) -> list[Any]:
    """The parts of a message; none for items that are no messages. One that was built without validation may have
    content and no type."""
    return read_field(message, "content") or [] if read_field(message, "type") in ("message", None) else []


def _join(message: Any, kind: str, name: str) -> str:
    return "".join(read_text(part, name) or "" for part in _content(message) if read_field(part, "type") == kind)


def _made_by_program(tool_call: Any) -> bool:
    return read_field(read_field(tool_call, "caller"), "type") == "program"


def _validated_json(output: Any, adapter: TypeAdapter[Any]) -> str:
    from pydantic import ValidationError

    try:
        value = adapter.validate_json(output) if isinstance(output, str) else adapter.validate_python(output)
    except ValidationError as error:
        raise UserError(
            f"Function tool output does not match its declared output schema ({error.error_count()} errors)."
        ) from error
    return _dump_object(adapter.dump_python(value, mode="json", by_alias=True))


def _object_json(output: Any) -> str:
    if not isinstance(output, str):
        from pydantic import TypeAdapter

        return _dump_object(TypeAdapter(Any).dump_python(output, mode="json"))
    try:
        return _dump_object(json.loads(output))
    except json.JSONDecodeError as error:
        raise UserError(f"Function tool output schema requires a JSON object, not {output[:100]!r}.") from error


def _dump_object(value: Any) -> str:
    if not isinstance(value, Mapping):
        raise UserError(f"Function tool output schema requires a JSON object, not {type(value).__name__}.")
    return json.dumps(dict(cast("Mapping[str, Any]", value)), ensure_ascii=False, separators=(",", ":"))


def _any_json(output: Any) -> str:
    from pydantic import TypeAdapter
    from pydantic_core import PydanticSerializationError

    try:
        return TypeAdapter(Any).dump_json(output).decode()
    except PydanticSerializationError as error:
        raise UserError(
            f"Programmatic function tool outputs must be strings, structured tool outputs or JSON-serializable values, "
            f"not {type(output).__name__}."
        ) from error
