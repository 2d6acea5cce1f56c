"""The vocabulary of scripts: what a scripted model says in one turn, and what goes wrong in it.

Owns the parts of a turn, `Turn`, and how a step that was written short (a string, one part, a list) becomes
a turn. Must not know HTTP, events or models: the same turn is played by `ScriptedModel` and by `Endpoint`.

Invariant: a step that exists is valid; whatever is wrong is said where it is made, with the field and the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from runstream.agent.raw_item import read_field
from runstream.testing.faults import Fault, Raise
from runstream.testing.script_errors import (
    InvalidModelStep,
    is_count,
    is_duration,
    require,
    require_optional_string,
    shown,
)

if TYPE_CHECKING:
    from runstream.testing.request import ScriptRequest

__all__ = [
    "Chunks",
    "HandoffTo",
    "Item",
    "Message",
    "Part",
    "Reasoning",
    "Refusal",
    "Tokens",
    "ToolCall",
    "Turn",
    "coerce_turn",
    "say",
    "split_text",
]

Chunks: TypeAlias = str | int | Sequence[str]
"""How text is cut into deltas: "word", "char", "whole", a number of characters, or the list of the deltas."""


@dataclass(frozen=True, slots=True)
class Message:
    """The model says `text`."""

    text: str
    chunks: Chunks | None = None
    """Overrides `Turn.chunks` for this part."""

    def __post_init__(self) -> None:
        _check_text("Message", self.text, self.chunks)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The model refuses, with `text`."""

    text: str
    chunks: Chunks | None = None

    def __post_init__(self) -> None:
        _check_text("Refusal", self.text, self.chunks)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The model thinks, and shows `text` of it: as a summary, or (`raw=True`) as its reasoning itself.

    In Chat Completions both are `reasoning_content`.
    """

    text: str
    chunks: Chunks | None = None
    raw: bool = False
    encrypted_content: str | None = None

    def __post_init__(self) -> None:
        _check_text("Reasoning", self.text, self.chunks)
        require("Reasoning.raw", self.raw, isinstance(self.raw, bool), "true or false")
        require_optional_string("Reasoning.encrypted_content", self.encrypted_content)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls the tool `name`. Arguments given as a string are sent as they are, broken JSON included."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    call_id: str | None = None
    """None makes an id that is unique in its conversation and the same in each run of the test."""
    chunks: Chunks | None = None
    namespace: str | None = None

    def __post_init__(self) -> None:
        require("ToolCall.name", self.name, isinstance(self.name, str) and bool(self.name), "the name of a tool")
        is_arguments = isinstance(self.arguments, str | Mapping)
        require("ToolCall.arguments", self.arguments, is_arguments, "an object or a string")
        require_optional_string("ToolCall.call_id", self.call_id)
        require_optional_string("ToolCall.namespace", self.namespace)
        _check_text("ToolCall", self.arguments_json, self.chunks)

    @property
    def arguments_json(self) -> str:
        if isinstance(self.arguments, str):
            return self.arguments
        try:
            return json.dumps(self.arguments, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise InvalidModelStep(f"ToolCall.arguments: cannot be written as JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class HandoffTo:
    """The model hands over to `agent` (an agent or its name): a call of the tool `transfer_to_<name>`.

    For a handoff with another tool name, use `ToolCall`.
    """

    agent: Any
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    call_id: str | None = None

    def __post_init__(self) -> None:
        name = self.agent if isinstance(self.agent, str) else getattr(self.agent, "name", None)
        is_name = isinstance(name, str) and bool(name)
        require("HandoffTo.agent", self.agent, is_name, "an agent, or the name of one")
        self.as_tool_call()

    def as_tool_call(self) -> ToolCall:
        name = self.agent if isinstance(self.agent, str) else cast("str", self.agent.name)
        # The rule of the SDK for the default name of a handoff's tool.
        return ToolCall(
            "transfer_to_" + re.sub(r"[^a-zA-Z0-9_]", "_", name).lower(), self.arguments, call_id=self.call_id
        )


@dataclass(frozen=True, slots=True)
class Item:
    """Any output item as it is: a mapping, or an official object, with a `type`.

    Messages, tool calls and reasoning are streamed with their deltas, other types as one added and one done event.
    """

    item: Any
    chunks: Chunks | None = None

    def __post_init__(self) -> None:
        kind = read_field(self.item, "type")
        require("Item.item", self.item, isinstance(kind, str), "an output item: a mapping or an object with a `type`")
        if self.chunks is not None:
            _check_chunks("Item", self.chunks)


Part: TypeAlias = str | Message | Refusal | Reasoning | ToolCall | HandoffTo | Item
"""One output of a turn. A string is a `Message`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The usage that a turn reports."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
            value = getattr(self, name)
            require(f"usage.{name}", value, is_count(value), "a number of tokens, 0 or more")


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model: its parts, how they are streamed, and what goes wrong."""

    parts: Sequence[Part] = ()
    chunks: Chunks = "word"
    """How text is cut into deltas. A list of deltas is possible where the turn has one part."""
    every_s: float = 0.0
    """Seconds between two deltas."""
    first_after_s: float = 0.0
    """Seconds before the first byte of the answer."""
    usage: Tokens | Literal["auto", "none"] = "auto"
    """"auto" counts one token a delta; "none" reports no usage."""
    incomplete: Literal["max_output_tokens", "content_filter"] | None = None
    """Why the answer breaks off; it then ends with `response.incomplete`, or that finish reason."""
    interleave: bool = False
    """Whether the deltas of several parts alternate, as parallel tool calls may."""
    fault: Fault | Raise | None = None
    when: Callable[[ScriptRequest], bool] | None = None
    """Which requests the turn answers, for example `When(after_tool=True)`; None: any."""
    times: int | None = 1
    """How many requests the turn answers; None: any number."""
    response_id: str | None = None
    model: str | None = None
    """The model's name in the answer; None: the one that was asked for."""
    cut_bytes: int | None = None
    """The endpoint sends the body in pieces of so many bytes, wherever they fall; None: whole frames."""

    def __post_init__(self) -> None:
        parts = self.parts
        if isinstance(parts, get_args(Part)):
            object.__setattr__(self, "parts", (parts,))
        else:
            require("Turn.parts", parts, isinstance(parts, Sequence), "a list of parts")
            object.__setattr__(self, "parts", tuple(parts))
        for part in self.parts:
            require("Turn.parts", part, isinstance(part, get_args(Part)), "a string or one of the parts")
        self._check_chunks()
        for name in ("every_s", "first_after_s"):
            value = getattr(self, name)
            require(f"Turn.{name}", value, is_duration(value), "a number of seconds, 0 or more")
        is_usage = isinstance(self.usage, Tokens) or self.usage in ("auto", "none")
        require("Turn.usage", self.usage, is_usage, 'Tokens(...), "auto" or "none"')
        is_reason = self.incomplete in (None, "max_output_tokens", "content_filter")
        require("Turn.incomplete", self.incomplete, is_reason, '"max_output_tokens" or "content_filter"')
        require("Turn.interleave", self.interleave, isinstance(self.interleave, bool), "true or false")
        require("Turn.fault", self.fault, self.fault is None or isinstance(self.fault, Fault | Raise), "a Fault")
        require("Turn.when", self.when, self.when is None or callable(self.when), "a function of the request")
        for name in ("times", "cut_bytes"):
            value = getattr(self, name)
            require(f"Turn.{name}", value, value is None or (is_count(value) and value > 0), "a number, 1 or more")
        require_optional_string("Turn.response_id", self.response_id)
        require_optional_string("Turn.model", self.model)

    def _check_chunks(self) -> None:
        _check_chunks("Turn", self.chunks)
        if isinstance(self.chunks, str | int):
            return
        is_single = len(self.parts) == 1
        require(
            "Turn.chunks", self.chunks, is_single, 'a size, "word", "char" or "whole" where a turn has several parts'
        )
        part = self.parts[0]
        text = part if isinstance(part, str) else getattr(part, "text", None)
        if isinstance(part, ToolCall):
            text = part.arguments_json
        if isinstance(text, str):
            _check_text("Turn", text, self.chunks)

    def __str__(self) -> str:
        """A few words that tell which turn this is."""
        words = [_describe_part(part) for part in self.parts]
        if isinstance(self.fault, Fault):
            words.append(f"fault {self.fault.kind}")
        elif self.fault is not None:
            words.append(f"raises {self.fault.error!r}")
        return " + ".join(words) or "an empty answer"


def say(
    text: str | Sequence[str],
    *,
    chunks: Chunks = "word",
    every_s: float = 0.0,
    first_after_s: float = 0.0,
    fault: Fault | Raise | None = None,
) -> Turn:
    """A turn with one message. A list of strings gives the deltas themselves."""
    if not isinstance(text, str):
        return say("".join(text), chunks=tuple(text), every_s=every_s, first_after_s=first_after_s, fault=fault)
    return Turn((Message(text),), chunks=chunks, every_s=every_s, first_after_s=first_after_s, fault=fault)


def coerce_turn(step: object) -> Turn:
    """The turn that a step stands for: a string, a part, a fault, a list of parts, or a turn.

    Raises InvalidModelStep for anything else.
    """
    match step:
        case Turn():
            return step
        case Fault(place="start") | Raise(place="start"):
            return Turn(fault=step)
        case Fault() | Raise():
            # A fault in mid-stream needs something that it can break off.
            return Turn(("This answer is cut short by a scripted fault.",), fault=step)
        case str() | Message() | Refusal() | Reasoning() | ToolCall() | HandoffTo() | Item():
            return Turn((step,))
        case list() | tuple():
            return Turn(cast("Sequence[Part]", step))
        case _:
            raise InvalidModelStep(
                f"a step is a string, a part such as Message or ToolCall, a list of parts, a Turn or a Fault, "
                f"not {shown(step)}"
            )


def split_text(text: str, chunks: Chunks, *, is_code: bool = False) -> Iterator[str]:
    """`text` as deltas. Words keep the space before them; `is_code` splits at punctuation too."""
    if not isinstance(chunks, str | int):
        return iter(chunks)
    if chunks == "word":
        return (found.group() for found in re.finditer(r"\w+|\W+" if is_code else r"\s*\S+|\s+", text))
    size = {"char": 1, "whole": len(text) or 1}[chunks] if isinstance(chunks, str) else chunks
    return (text[start : start + size] for start in range(0, len(text), size))


def _describe_part(part: Part) -> str:
    match part:
        case str():
            return f"message {shown(part)}"
        case ToolCall():
            return f"call of {part.name}"
        case HandoffTo():
            return f"call of {part.as_tool_call().name}"
        case Item():
            return f"item {shown(part.item)}"
        case _:
            return f"{type(part).__name__.lower()} {shown(part.text)}"


def _check_chunks(owner: str, chunks: object) -> None:
    is_valid = chunks in ("word", "char", "whole") or (is_count(chunks) and chunks != 0)
    if not is_valid and isinstance(chunks, list | tuple):
        is_valid = all(isinstance(chunk, str) for chunk in cast("Sequence[object]", chunks))
    require(
        f"{owner}.chunks",
        cast("object", chunks),
        is_valid,
        '"word", "char", "whole", a number of characters or a list of strings',
    )


def _check_text(owner: str, text: object, chunks: Chunks | None) -> None:
    require(f"{owner}.text", text, isinstance(text, str), "a string")
    if chunks is not None:
        _check_chunks(owner, chunks)
        if not isinstance(chunks, str | int) and "".join(chunks) != text:
            raise InvalidModelStep(f"{owner}.chunks: {shown(chunks)} do not add up to the text {shown(text)}")
