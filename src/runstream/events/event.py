"""The envelope and the kinds of events. What is in an event is plain and serialisable; `live` alone is not.

Grammar of a run's log: `run.start` is first and `run.end` is last, each once; `agent.start` comes before anything else
of that agent; `model` events keep the model's order; a tool's output comes after its call and every call gets exactly
one output. After `attempt.discarded` with `from_seq`, what the events from that seq on had said counts as never said;
they stay in the log. `run.queued` comes before the first `agent.start`, or where another worker goes on: the run waits
for its place (`RunConfig.load_limits`), and nothing else is written until it has one, which a last one with the
position 0 tells; a run that need not wait has none. `tool.progress` comes between a call and its output. `guardrail`
comes when a check is decided: those of a run's input also in the middle of a response.

An agent that runs as a tool writes into the same log, under a path: that of the agent that called it, and the id of
the call. What holds of a run holds of each path, but for `run.start` and `run.end`, which are the whole run's: a nested
run begins with its `agent.start` and ends with the output of its call, after which nothing more comes under that path
for this call. The events of different paths are mixed; `from_seq` is about those of its own path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

__all__ = [
    "AGENT_START",
    "APPROVAL_RESOLVED",
    "ATTEMPT_DISCARDED",
    "GUARDRAIL",
    "INPUT_ADDED",
    "ITEM",
    "MODEL",
    "RUN_END",
    "RUN_QUEUED",
    "RUN_START",
    "TOOL_PROGRESS",
    "AgentStart",
    "ApprovalResolved",
    "AttemptDiscarded",
    "ErrorInfo",
    "Event",
    "EventData",
    "GuardrailChecked",
    "GuardrailOutcome",
    "GuardrailSubject",
    "InputAdded",
    "ItemAdded",
    "RunEnd",
    "RunQueued",
    "RunStart",
    "RunStatus",
    "ToolOutcome",
    "ToolProgress",
]

# Wire names: for ever.
RUN_START: Final = "run.start"
RUN_QUEUED: Final = "run.queued"
RUN_END: Final = "run.end"
AGENT_START: Final = "agent.start"
MODEL: Final = "model"
ITEM: Final = "item"
ATTEMPT_DISCARDED: Final = "attempt.discarded"
APPROVAL_RESOLVED: Final = "approval.resolved"
INPUT_ADDED: Final = "input.added"
TOOL_PROGRESS: Final = "tool.progress"
GUARDRAIL: Final = "guardrail"

RunStatus: TypeAlias = Literal["completed", "failed", "cancelled", "interrupted"]
ToolOutcome: TypeAlias = Literal["done", "failed", "timed_out", "rejected", "cancelled", "unknown"]
"""What became of a call of ours: `outcome` in the `more` of its output. `rejected`: a person or a guardrail did not let
the call, or its output, pass; `unknown`: it may have had its effect."""
GuardrailSubject: TypeAlias = Literal["input", "added_input", "output", "tool_input", "tool_output", "stream"]
GuardrailOutcome: TypeAlias = Literal["passed", "tripped", "rejected", "failed"]


@dataclass(frozen=True, slots=True)
class RunStart:
    """First event of a log."""

    input: str | list[Any]
    """What the caller passed: a string or a list of input items."""
    max_turns: int | None = None
    options: dict[str, Any] | None = None
    """What another process needs to go on with the run, as plain data."""
    resumed: dict[str, Any] | None = None
    """What the run goes on from, as plain data, where it continues an earlier one."""


@dataclass(frozen=True, slots=True)
class RunQueued:
    """The run waits for its place among those that share its limits on load, and has moved."""

    position: int
    """How many have to begin before it has begun: 1 is next, 0 that it has its place."""


@dataclass(frozen=True, slots=True)
class AgentStart:
    """The active agent changed; the event's `agent` is the new one. `live` holds the `Agent` itself."""

    previous: str | None = None
    history: list[Any] | None = None
    """The items that the agent sees, as plain data, where a handoff's filter changed them."""
    history_input: str | int | list[Any] | None = None
    """What stands for the run's input then: a text, or so many of the first items of `history`, or other items in the
    place of as many of those."""


@dataclass(frozen=True, slots=True)
class ItemAdded:
    """An item is complete. `live` holds the run item itself."""

    name: str
    """What happened, as the SDK's RunItemStreamEvent names it: `message_output_created`, `tool_called`, …"""
    type: str
    """The run item's type: `message_output_item`, `tool_call_item`, …"""
    raw: Any
    """The item in the format of the Responses API: an official typed object or a plain dict."""
    more: dict[str, Any] | None = None
    """What the run item has beyond that, as plain data: names of agents and tools that it refers to."""


@dataclass(frozen=True, slots=True)
class AttemptDiscarded:
    """Events that readers have seen are void: the call is made again, or another model or worker takes over."""

    from_seq: int
    """The first void event; all from it up to this event are."""
    reason: str
    """A short constant for programs: `retry`, `fallback`, `taken_over`."""
    detail: str | None = None
    """For people."""
    next_model: str | None = None
    """The model that takes over, where it is another one. `from_seq` is then this event's own seq if the model before
    had shown nothing."""


@dataclass(frozen=True, slots=True)
class ApprovalResolved:
    """A person has answered whether a tool may be called."""

    call_id: str
    tool_name: str
    approved: bool
    always: bool = False
    """Whether the answer holds for all calls of the tool in this run."""
    message: str | None = None
    """What the model is told about a rejected call."""
    command: int = 0
    """Number of the command that brought it, 0 if none did."""


@dataclass(frozen=True, slots=True)
class InputAdded:
    """A person said something more while the run went on."""

    items: list[Any]
    """Input items as plain data."""
    command: int = 0
    """Number of the command that brought them, 0 if none did."""


@dataclass(frozen=True, slots=True)
class ToolProgress:
    """A running tool reports."""

    call_id: str
    tool_name: str
    data: Any
    """What it has to say, as plain data."""
    dropped: int = 0
    """How many of its reports before this one were left out: they came faster than they could be written."""


@dataclass(frozen=True, slots=True)
class GuardrailChecked:
    """What a guardrail has decided, and what that took. Never what it was asked about: that may be what is blocked."""

    name: str
    about: GuardrailSubject
    """`stream`: the text of one model call, while it came."""
    outcome: GuardrailOutcome
    """`tripped` ends the run; `rejected` puts a text in the place of what was checked, and the run goes on; `failed`:
    the check itself did, and nothing was let pass."""
    began_at: float
    """Seconds since the epoch."""
    duration_s: float
    delay_s: float = 0.0
    """How much longer the run took for it; of a stream, the median of how long its deltas were held back."""
    delay_max_s: float = 0.0
    """Of a stream: how long the delta was held back that waited longest."""
    checks: int = 1
    """How often it was asked about the text of a stream."""
    characters: int = 0
    """How much of the text of a stream it let pass."""
    tool_name: str | None = None
    call_id: str | None = None
    message: str | None = None
    """What stands in the place of what was rejected."""
    info: Any = None
    """Its `output_info` as plain data, where everything that was checked with it was let pass; never of a stream."""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An error as plain data."""

    type: str
    message: str
    code: str | None = None
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class RunEnd:
    """Last event of a log; seals it. `live` holds the final output of any type, or the exception."""

    status: RunStatus
    error: ErrorInfo | None = None
    final_output: Any = None
    """The final output as plain data, None if there is none."""
    usage: dict[str, int] | None = None
    """requests, input_tokens, output_tokens, total_tokens of the whole run."""


_OwnData: TypeAlias = (
    RunStart
    | RunQueued
    | AgentStart
    | ItemAdded
    | AttemptDiscarded
    | ApprovalResolved
    | InputAdded
    | ToolProgress
    | GuardrailChecked
    | RunEnd
)
EventData: TypeAlias = "_OwnData | ResponseStreamEvent | dict[str, Any]"


class Event(msgspec.Struct, eq=False):
    """One numbered event of a run. A struct, not a dataclass, because one is made for every token."""

    run_id: str
    seq: int
    """Counts from 1 without gaps: the cursor within the process."""
    at: float
    """Seconds since the epoch; never decreases within a run. Events that came in one read share it."""
    kind: str
    """One of the wire names above, or one of a later version, whose `data` is then a plain dict."""
    agent: str | None
    """Name of the active agent."""
    attempt: int
    """Number of the model call within its turn, from 1; 0 outside model calls."""
    path: tuple[str, ...]
    """Ids of the tool calls that a nested agent runs under; empty at the top."""
    data: Any
    """One of `EventData`, by `kind`."""
    live: Any = None
    """The live object in this process (agent, item, output, exception); never leaves it."""
    frame: bytes | None = None
    """The JSON bytes that a model event arrived in, where it came as such, while they are kept."""
