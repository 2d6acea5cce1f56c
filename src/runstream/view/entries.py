"""What a view holds: plain data, in the shape that `RunView.to_json` writes. docs/views.md describes every field.

Names of fields and of states are for ever, as those of events are; new ones may be added. Times are seconds since the
epoch. `id` is the seq of the event that an entry began with, so that entries of one list are in the order of the log;
entries that come from an earlier run, which this one continues, have negative ids.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from runstream.view.growing import Growing

__all__ = [
    "Answer",
    "Checked",
    "DiscardedEntry",
    "Entry",
    "ErrorEntry",
    "GapEntry",
    "HandoffEntry",
    "InputEntry",
    "MessageEntry",
    "OtherEntry",
    "Part",
    "Progress",
    "ReasoningEntry",
    "StartedAgent",
    "Strand",
    "ToolEntry",
    "Turn",
]


class Part(msgspec.Struct):
    """A piece of a message or of reasoning that grows by itself."""

    type: Literal["text", "refusal", "summary"]
    index: int
    growing: Growing = msgspec.field(name="text", default_factory=Growing)
    annotations: list[Any] = msgspec.field(default_factory=list[Any])
    """Citations and the like, as the model gave them."""

    @property
    def text(self) -> str:
        """The text so far; joining it costs as much as it is long."""
        return str(self.growing)

    def text_after(self, length: int) -> str:
        """What has come after the first `length` characters: for whoever has drawn those."""
        return self.growing.after(length)


class _Entry(msgspec.Struct, tag_field="type", kw_only=True, eq=False):
    """What all entries have. Each is itself alone: two are never compared by what they hold."""

    id: int
    at: float | None = None
    """When it began; None where that is not known."""
    agent: str | None = None
    void: bool = False
    """Whether it counts as never said: its attempt was discarded. What is within a void entry is void, too."""


class _Said(_Entry, kw_only=True):
    """What a model has said, or is saying."""

    turn: int = 0
    """Number of the model call, from 1, that it belongs to; 0 where that is not known."""
    attempt: int = 0
    output_index: int = 0
    item_id: str | None = None
    item_seq: int | None = None
    """Seq of the event that said that the item is complete; None before that."""
    ended_at: float | None = None
    cut: bool = False
    """Whether something is missing in it, since not all of its events were seen."""


class InputEntry(_Entry, kw_only=True, tag="input"):
    """What people said: the run's input, or more of it while the run went on."""

    text: str
    """The text itself, or that of the last message among the items."""
    items: list[Any] | None = None
    """All that was given, where it is more than a text: input items of the Responses API."""
    added: bool = False
    """Whether it came while the run went on."""


class MessageEntry(_Said, kw_only=True, tag="message"):
    """A message of the model."""

    state: Literal["streaming", "done", "incomplete"] = "streaming"
    parts: list[Part] = msgspec.field(default_factory=list[Part])

    @property
    def text(self) -> str:
        """The texts of all parts, refusals included."""
        return "".join(part.text for part in self.parts)


class ReasoningEntry(_Said, kw_only=True, tag="reasoning"):
    """What the model shows of its reasoning; interfaces fold it away."""

    state: Literal["streaming", "done", "incomplete"] = "streaming"
    parts: list[Part] = msgspec.field(default_factory=list[Part])

    @property
    def text(self) -> str:
        """The texts of all parts, with empty lines between them."""
        return "\n\n".join(part.text for part in self.parts)


class Progress(msgspec.Struct):
    """A report of a running tool."""

    seq: int
    at: float
    data: Any
    """What the tool reported, as plain data."""


class Answer(msgspec.Struct):
    """What a person said about a call."""

    approved: bool
    always: bool = False
    message: str | None = None
    at: float | None = None


class ToolEntry(_Said, kw_only=True, tag="tool"):
    """A call of a tool, ours or the provider's, from its first argument to its output."""

    state: Literal["arguments", "waiting", "running", "done", "failed", "rejected", "cancelled", "unknown"] = (
        "arguments"
    )
    """`waiting` is for a person's approval; `unknown` means that it may have had its effect, or not."""
    outcome: str | None = None
    """What became of it, where the log says so: a state, or `timed_out`."""
    kind: str = "function_call"
    """The item's type in the Responses API: `function_call`, `web_search_call`, `mcp_call`, …"""
    call_id: str | None = None
    name: str = ""
    title: str | None = None
    description: str | None = None
    growing: Growing = msgspec.field(name="arguments", default_factory=Growing)
    """The arguments as they came: JSON, once complete."""
    parsed: Any = None
    """The arguments as data, once they are complete and if they are JSON."""
    phase: str | None = None
    """What the provider says of a tool that it runs itself: `searching`, `interpreting`, …"""
    progress: list[Progress] = msgspec.field(default_factory=list[Progress])
    """The latest reports of the tool."""
    progress_count: int = 0
    """How many reports it has made."""
    output: str | None = None
    """The output as text; other content is named in brackets."""
    content: list[Any] | None = None
    """The output as the model gets it, where it is more than a text."""
    answer: Answer | None = None
    started_at: float | None = None
    """When it began to run, as far as the log tells."""
    nested: Strand | None = None
    """What an agent says and does that runs as this tool."""

    @property
    def arguments(self) -> str:
        """The arguments so far, as the model writes them."""
        return str(self.growing)

    @property
    def duration_s(self) -> float | None:
        """How long it ran; None before its end, and where it never ran."""
        return None if self.started_at is None or self.ended_at is None else self.ended_at - self.started_at


class HandoffEntry(_Said, kw_only=True, tag="handoff"):
    """One agent hands over to another."""

    state: Literal["requested", "done", "refused"] = "requested"
    call_id: str | None = None
    name: str = ""
    """Of the tool that the model called for it."""
    growing: Growing = msgspec.field(name="arguments", default_factory=Growing)
    source: str | None = None
    target: str | None = None
    """The agent that goes on; None before it does."""
    output: str | None = None
    """Why it did not take place, where it is refused."""

    @property
    def arguments(self) -> str:
        """What the model passes on, as JSON."""
        return str(self.growing)


class OtherEntry(_Said, kw_only=True, tag="other"):
    """An item of another kind, as it is."""

    kind: str = ""
    raw: Any = None


class ErrorEntry(_Entry, kw_only=True, tag="error"):
    """A response that failed, or the error that ended the run."""

    source: Literal["model", "run"]
    name: str
    """The error's class, or the type of the model's event."""
    message: str
    code: str | None = None
    retryable: bool = False


class DiscardedEntry(_Entry, kw_only=True, tag="discarded"):
    """An attempt was discarded: what came from `from_seq` up to here is void."""

    from_seq: int
    reason: str
    detail: str | None = None
    next_model: str | None = None
    """The model that takes over, where it is another one."""


class GapEntry(_Entry, kw_only=True, tag="gap"):
    """Events that were not seen, as they are no longer kept: from `id` to `to_seq`."""

    to_seq: int


Entry: TypeAlias = (
    InputEntry
    | MessageEntry
    | ReasoningEntry
    | ToolEntry
    | HandoffEntry
    | OtherEntry
    | ErrorEntry
    | DiscardedEntry
    | GapEntry
)


class StartedAgent(msgspec.Struct):
    """An agent became the active one."""

    seq: int
    at: float
    name: str
    previous: str | None = None


class Turn(msgspec.Struct, kw_only=True):
    """A call of the model; one that was tried again is the same turn."""

    number: int
    agent: str | None = None
    attempt: int = 0
    """The latest one."""
    state: Literal["open", "completed", "incomplete", "failed", "unknown"] = "open"
    """`unknown` where its end was not seen."""
    model: str | None = None
    response_id: str | None = None
    started_at: float
    first_text_at: float | None = None
    last_text_at: float | None = None
    text_deltas: int = 0
    ended_at: float | None = None
    usage: dict[str, int] | None = None
    """input_tokens, output_tokens, total_tokens, as the model reported them."""

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens that the model wrote, by the time from its first event to its last."""
        if self.usage is None or self.ended_at is None or self.ended_at <= self.started_at:
            return None
        return self.usage.get("output_tokens", 0) / (self.ended_at - self.started_at)


class Checked(msgspec.Struct, kw_only=True):
    """A guardrail has decided."""

    seq: int
    at: float
    agent: str | None = None
    name: str
    about: str
    """`input`, `added_input`, `output`, `tool_input`, `tool_output`, `stream`"""
    outcome: str
    """`passed`, `tripped`, `rejected`, `failed`"""
    tool_name: str | None = None
    call_id: str | None = None
    duration_s: float = 0.0
    delay_s: float = 0.0
    """How long people waited for it; of a stream the median of its deltas."""
    delay_max_s: float = 0.0
    message: str | None = None
    """What stands in the place of what was rejected."""


class Strand(msgspec.Struct):
    """What one line of agents says and does: the run's own, or those that run under one call of a tool."""

    agent: str | None = None
    """The active one."""
    agents: list[StartedAgent] = msgspec.field(default_factory=list[StartedAgent])
    """All that became active, in order."""
    entries: list[Entry] = msgspec.field(default_factory=list[Entry])
    turns: list[Turn] = msgspec.field(default_factory=list[Turn])
    cut: bool = False
    """Whether what comes next may have begun with events that were not seen."""
    guardrails: list[Checked] = msgspec.field(default_factory=list[Checked])
    """What guardrails have decided, in order."""
