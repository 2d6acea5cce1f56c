"""What a script may look at to choose its answer: one call of the model, whichever way it came.

Owns `ScriptRequest`, the common face of a call in process (`ModelCall`) and over HTTP (`EndpointRequest`), and `When`,
a condition that can be written as data. Must not know scripts. Reads input items of the Responses API and messages of
Chat Completions alike.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from runstream.agent.raw_item import read_field

__all__ = ["ScriptRequest", "ToolResult", "When"]


class ToolResult(NamedTuple):
    """What a tool gave back. `name` is None where the request does not hold the call."""

    name: str | None
    call_id: str
    output: str


class ScriptRequest(abc.ABC):
    """One call of the model."""

    number: int
    """Counts the calls from 1."""

    @property
    @abc.abstractmethod
    def conversation(self) -> str | Sequence[Any]:
        """The input: a string, or items of the Responses API, or messages of Chat Completions."""

    @property
    @abc.abstractmethod
    def model_name(self) -> str | None:
        """The model that was asked for; None where the call does not name one."""

    @property
    @abc.abstractmethod
    def instructions(self) -> str | None:
        """The system prompt."""

    @property
    @abc.abstractmethod
    def tool_names(self) -> tuple[str, ...]:
        """The tools that the model may call, handoffs included."""

    @property
    def user_text(self) -> str:
        """What the user said last; empty if nothing."""
        conversation = self.conversation
        if isinstance(conversation, str):
            return conversation
        for item in reversed(conversation):
            if read_field(item, "role") == "user":
                return text_of(read_field(item, "content"))
        return ""

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """What tools gave back since the user spoke last, in order."""
        conversation = self.conversation
        if isinstance(conversation, str):
            return ()
        names: dict[str, str] = {}
        results: list[ToolResult] = []
        for item in conversation:
            role, kind = read_field(item, "role"), read_field(item, "type")
            if role == "user":
                results.clear()
            elif kind == "function_call":
                names[read_field(item, "call_id")] = read_field(item, "name")
            elif role == "assistant":
                for call in read_field(item, "tool_calls") or ():
                    names[read_field(call, "id")] = read_field(read_field(call, "function"), "name")
            elif kind == "function_call_output":
                call_id = str(read_field(item, "call_id"))
                results.append(ToolResult(names.get(call_id), call_id, text_of(read_field(item, "output"))))
            elif role == "tool":
                call_id = str(read_field(item, "tool_call_id"))
                results.append(ToolResult(names.get(call_id), call_id, text_of(read_field(item, "content"))))
        return tuple(results)

    def describe_last(self) -> str:
        """The last thing of the input, in a few words, for error messages."""
        results = self.tool_results
        if results:
            return f"output of tool {results[-1].name or results[-1].call_id}: {results[-1].output[:200]!r}"
        return f"user: {self.user_text[:200]!r}"


def text_of(content: object) -> str:
    """The text in a message's content or a tool's output: a string, or a list of parts of which some hold text."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        texts = [read_field(part, "text") for part in cast("Sequence[Any]", content)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


@dataclass(frozen=True, slots=True)
class When:
    """A condition on a request; all of what is given must hold. Texts are compared without regard to case."""

    user_contains: str | None = None
    """The last words of the user contain this."""
    instructions_contain: str | None = None
    model: str | None = None
    """The name of the model."""
    offers_tool: str | None = None
    """The request offers this tool."""
    after_tool: bool | str | None = None
    """Since the user spoke last, a tool has answered (true), the tool of this name has, or none has (false)."""
    tool_outputs: int | None = None
    """Since the user spoke last, exactly so many tool outputs came."""

    def __call__(self, request: ScriptRequest) -> bool:
        results = request.tool_results
        if self.user_contains is not None and self.user_contains.lower() not in request.user_text.lower():
            return False
        instructions = (request.instructions or "").lower()
        if self.instructions_contain is not None and self.instructions_contain.lower() not in instructions:
            return False
        if self.model is not None and self.model != request.model_name:
            return False
        if self.offers_tool is not None and self.offers_tool not in request.tool_names:
            return False
        if isinstance(self.after_tool, str):
            if self.after_tool not in [result.name for result in results]:
                return False
        elif self.after_tool is not None and self.after_tool != bool(results):
            return False
        return self.tool_outputs is None or self.tool_outputs == len(results)

    @classmethod
    def from_data(cls, data: object) -> When:
        """The condition that a JSON object describes. Raises ValueError, which names the field, for what it is not."""
        if not isinstance(data, Mapping):
            raise ValueError(f"must be an object, not {data!r}")
        fields = cast("Mapping[str, Any]", data)
        for name, value in fields.items():
            if name not in cls.__slots__:
                raise ValueError(f"has no field {name!r}; it has {', '.join(cls.__slots__)}")
            if name == "after_tool":
                is_valid = isinstance(value, str | bool)
            elif name == "tool_outputs":
                is_valid = isinstance(value, int) and not isinstance(value, bool)
            else:
                is_valid = isinstance(value, str)
            if not is_valid:
                raise ValueError(f"cannot have {value!r} as {name!r}")
        return cls(**fields)
