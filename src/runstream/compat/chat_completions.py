"""The SDK's inner helpers of the Chat Completions API, as thin calls into ours. Some programs and adapters use them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, cast

from runstream.agent.raw_item import read_field
from runstream.errors import UserError
from runstream.models.chat_decode import ChatDecoder, completion_to_response
from runstream.models.chat_messages import ShouldReplayReasoningContent, content_parts, to_messages
from runstream.models.chat_request import handoff_param_of, response_format_of, tool_choice_of, tool_param_of

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

    from runstream.agent.handoff import Handoff
    from runstream.agent.output import AgentOutputSchemaBase
    from runstream.agent.tool import Tool

__all__ = ["ChatCmplStreamHandler", "Converter"]


class Converter:
    """Between the items of the Responses API and the messages of the Chat Completions API."""

    @classmethod
    def items_to_messages(
        cls,
        items: str | Iterable[Any],
        model: str | None = None,
        preserve_thinking_blocks: bool = False,
        preserve_tool_output_all_content: bool = False,
        base_url: str | None = None,
        should_replay_reasoning_content: ShouldReplayReasoningContent | None = None,
        strict_feature_validation: bool = False,
    ) -> list[dict[str, Any]]:
        """The messages that say what the items say. Raises UserError for what has no form there."""
        if preserve_thinking_blocks:
            raise UserError("preserve_thinking_blocks is not supported by this version of runstream")
        return to_messages(
            items,
            model=model,
            base_url=base_url,
            should_replay_reasoning_content=should_replay_reasoning_content,
            strict=strict_feature_validation,
            keep_all_tool_output=preserve_tool_output_all_content,
        )

    @classmethod
    def message_to_output_items(
        cls, message: Any, provider_data: dict[str, Any] | None = None, strict_feature_validation: bool = False
    ) -> list[Any]:
        """The output items that an assistant's message means."""
        decoder = ChatDecoder(model=(provider_data or {}).get("model") or "", strict=strict_feature_validation)
        fields = message.model_dump(exclude_unset=True)
        response = completion_to_response({"choices": [{"message": fields, "finish_reason": "stop"}]}, decoder)
        return list(response.output)

    @classmethod
    def maybe_input_message(cls, item: Any) -> Any | None:
        """The item, if it is a message to the model."""
        is_message = read_field(item, "type") == "message"
        return item if is_message and read_field(item, "role") in ("user", "system", "developer") else None

    @classmethod
    def extract_all_content(cls, content: Any) -> str | list[dict[str, Any]]:
        """The content of a message, in the form of the Chat Completions API."""
        return content_parts(content)

    @classmethod
    def extract_text_content(cls, content: Any) -> str | list[dict[str, Any]]:
        """The same, for content that may only be text. Raises UserError for anything else."""
        parts = content_parts(content)
        if not isinstance(parts, str):
            for part in parts:
                if part["type"] != "text":
                    raise UserError(f"Only text content is supported here, got: {part!r:.300}")
        return parts

    @classmethod
    def tool_to_openai(cls, tool: Tool) -> dict[str, Any]:
        """A function tool as the API takes it."""
        return tool_param_of(tool)

    @classmethod
    def convert_handoff_tool(cls, handoff: Handoff[Any, Any]) -> dict[str, Any]:
        """A handoff as the tool that the model calls to make it."""
        return handoff_param_of(handoff)

    @classmethod
    def convert_tool_choice(cls, tool_choice: Any) -> Any:
        """The `tool_choice` argument, or the client's `omit`."""
        return _or_omit(tool_choice_of(tool_choice))

    @classmethod
    def convert_response_format(cls, final_output_schema: AgentOutputSchemaBase | None) -> Any:
        """The `response_format` argument, or the client's `omit`."""
        return _or_omit(response_format_of(final_output_schema))


class ChatCmplStreamHandler:
    """From a stream of chunks to the events of the Responses API."""

    @classmethod
    async def handle_stream(
        cls,
        response: Any,
        stream: AsyncIterator[Any],
        model: str | None = None,
        strict_feature_validation: bool = False,
        preserve_raw_usage: bool = False,
        raise_on_length_truncation: bool = False,
        require_finish_reason: bool = False,
    ) -> AsyncGenerator[ResponseStreamEvent, None]:
        """The events of the chunks. The fields of `response` are repeated in the responses that the events hold.

        An answer that its token limit cut off ends with `response.incomplete`, and one without a finish reason is
        complete where the stream ended regularly; the other arguments change nothing here.
        """
        echo = {
            name: getattr(response, name) for name in ("temperature", "top_p", "tool_choice", "parallel_tool_calls")
        }
        decoder = ChatDecoder(
            model=model or "",
            echo={name: value for name, value in echo.items() if value is not None},
            strict=strict_feature_validation,
        )
        async for chunk in stream:
            for event in decoder.feed(cast("dict[str, Any]", chunk.model_dump(exclude_unset=True))):
                yield event
        for event in decoder.close(done=True):
            yield event


def _or_omit(value: Any) -> Any:
    from openai import omit

    return omit if value is None else value
