"""The exception tree.

Names that exist in the OpenAI Agents SDK keep their names, constructors and place in the tree, so that `except`
clauses written for it go on working. Every error carries a stable `code` (for programs) and `retryable` (whether the
same call may succeed later). Errors that carry objects of an agent's declarations (guardrail tripwires) live beside
those declarations in `runstream.agent.guardrail`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "AgentsException",
    "CircuitOpen",
    "CursorExpired",
    "CursorInvalid",
    "LeaseHeld",
    "LeaseLost",
    "LoadRefused",
    "MaxTurnsExceeded",
    "MissingExtra",
    "ModelBehaviorError",
    "ModelRefusalError",
    "ModelStreamBroken",
    "ModelStreamFailed",
    "ModelStreamTruncated",
    "ModelTimeoutError",
    "RunErrorDetails",
    "RunExists",
    "RunFailed",
    "RunNotFound",
    "RunSealed",
    "RunTimeoutError",
    "StoreError",
    "StoreUnavailable",
    "TimeoutPhase",
    "ToolTimeoutError",
    "UserError",
]


@dataclass
class RunErrorDetails:
    """What a run had when it failed; found as `error.run_data`."""

    input: Any
    """The original input: a string or a list of input items."""
    new_items: list[Any]
    """The run items that were complete."""
    raw_responses: list[Any]
    """The `ModelResponse`s that were complete."""
    last_agent: Any
    context_wrapper: Any
    input_guardrail_results: list[Any]
    output_guardrail_results: list[Any]
    tool_input_guardrail_results: list[Any] = field(default_factory=list[Any])
    tool_output_guardrail_results: list[Any] = field(default_factory=list[Any])
    partial_output: Any = None
    """What there was of an answer: the final output if it was there, else the text of the last message, else None."""

    def __str__(self) -> str:
        return (
            f"RunErrorDetails(last_agent={getattr(self.last_agent, 'name', self.last_agent)!r}, "
            f"{len(self.new_items)} items, {len(self.raw_responses)} responses)"
        )


class AgentsException(Exception):
    """Base of every error that this package raises for a run."""

    code: str = "error"
    retryable: bool = False
    run_data: RunErrorDetails | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)


class UserError(AgentsException):
    """The program that uses the library is wrong; the message says what to change."""

    code = "user_error"
    message: str

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class MissingExtra(UserError):
    """A feature needs an optional dependency that is not installed."""

    code = "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(f"{feature} needs an optional dependency: pip install 'runstream[{extra}]'")


class MaxTurnsExceeded(AgentsException):
    """The agents took more turns than `max_turns` allows."""

    code = "max_turns_exceeded"
    message: str

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class ModelBehaviorError(AgentsException):
    """The model did something that it should not: an unknown tool, malformed JSON, a response without an end."""

    code = "model_behavior"
    message: str

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class ModelStreamFailed(ModelBehaviorError):
    """The provider reported a failure inside the stream (`response.failed`, `response.incomplete`, `error`).

    `event_type` is the type of the event that said so, `error_code` the provider's own code if it gave one.
    """

    code = "model_stream_failed"

    def __init__(
        self, message: str, *, event_type: str, error_code: str | None = None, retryable: bool = False
    ) -> None:
        self.event_type = event_type
        self.error_code = error_code
        self.retryable = retryable
        self.usage: Any = None
        """The provider's account of what the failed response used, where it gave one."""
        super().__init__(message)


class ModelStreamTruncated(ModelBehaviorError):
    """The stream ended, or its connection broke, before its terminal event: never a success."""

    code = "model_stream_truncated"
    retryable = True


class ModelStreamBroken(ModelBehaviorError):
    """A frame of the stream could not be decoded. `frame` holds its first 200 bytes."""

    code = "model_stream_broken"

    def __init__(self, message: str, *, frame: bytes = b"") -> None:
        self.frame = frame[:200]
        super().__init__(message)


class ModelRefusalError(AgentsException):
    """The model refused to answer."""

    code = "model_refusal"
    refusal: str

    def __init__(self, refusal: str) -> None:
        self.refusal = refusal
        super().__init__(f"The model refused to answer: {refusal}")


TimeoutPhase: TypeAlias = Literal["connect", "first_content", "idle", "model_call"]
_PHASES: dict[TimeoutPhase, str] = {
    "connect": "The model's server did not begin its answer within {limit:g} s",
    "first_content": "The model sent no content within {limit:g} s",
    "idle": "The model's stream brought no content for {limit:g} s",
    "model_call": "The model call exceeded its time limit of {limit:g} s",
}


class ModelTimeoutError(AgentsException):
    """A model call passed a limit of time: its own (`ModelSettings.timeout`), or one of `TimeLimits`.

    `phase` says which part of the call took too long, `limit_s` (the same as `timeout_seconds`) its limit; `events`
    and `chars` (of text, reasoning and arguments) had come by then, `waited_s` after the call had begun.
    """

    code = "model_timeout"
    retryable = True
    timeout_seconds: float

    def __init__(
        self,
        timeout_seconds: float,
        *,
        phase: TimeoutPhase = "model_call",
        option: str = "ModelSettings.timeout",
        events: int = 0,
        chars: int = 0,
        waited_s: float | None = None,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.limit_s = timeout_seconds
        self.phase = phase
        self.events = events
        self.chars = chars
        self.waited_s = timeout_seconds if waited_s is None else waited_s
        came = f"; {events} events with {chars} characters had come in {self.waited_s:.4g} s" if events else ""
        super().__init__(f"{_PHASES[phase].format(limit=timeout_seconds)} ({option}){came}.")


class CircuitOpen(AgentsException):
    """The breaker of a model's endpoint is open: it has failed again and again, and is not asked at present.

    `probe_in_s` is the time until one call may try it again; 0.0 while that call is under way. `last_failure` tells the
    latest failure in words.
    """

    code = "circuit_open"
    retryable = True

    def __init__(self, endpoint: str, probe_in_s: float, last_failure: str | None = None) -> None:
        self.endpoint = endpoint
        self.probe_in_s = probe_in_s
        self.last_failure = last_failure
        when = f"it is tried again in {probe_in_s:.3g} s" if probe_in_s > 0 else "it is being tried again now"
        why = f" ({last_failure})" if last_failure else ""
        super().__init__(f"The model at {endpoint} is not asked: it has failed too often{why}; {when}.")


class LoadRefused(AgentsException):
    """So many wait already that nobody else may (`LoadLimits.max_queue`): try again later.

    `what` is what is short ("runs", or a model's name), `queued` how many wait for it.
    """

    code = "load_refused"
    retryable = True

    def __init__(self, what: str, queued: int) -> None:
        self.what = what
        self.queued = queued
        super().__init__(f"Refused: {queued} wait for {what} already (LoadLimits.max_queue). Try again later.")


class ToolTimeoutError(AgentsException):
    """A tool took longer than its `timeout` and asked for an exception instead of a message to the model."""

    code = "tool_timeout"
    tool_name: str
    timeout_seconds: float

    def __init__(self, tool_name: str, timeout_seconds: float) -> None:
        self.tool_name = tool_name
        self.timeout_seconds = timeout_seconds
        super().__init__(f"Tool {tool_name!r} exceeded its time limit of {timeout_seconds:g} s.")


class CursorExpired(AgentsException):
    """A reader asked for events that the log no longer keeps. `first_seq` is the oldest one that it still has."""

    code = "cursor_expired"

    def __init__(self, after: int, first_seq: int) -> None:
        self.after = after
        self.first_seq = first_seq
        super().__init__(
            f"events after {after} are no longer kept: the oldest kept is {first_seq}; "
            f"read again with after={first_seq - 1}. How many are kept: RunConfig(max_log_events=...) in memory, "
            "max_segments in the URL of a Redis store"
        )


class CursorInvalid(AgentsException):
    """A cursor that does not belong to the log: malformed, ahead of it, or of another history.

    `reason` is one of `malformed`, `ahead`, `other_history`; `resync_after` is the seq to go on from.
    """

    code = "cursor_invalid"

    def __init__(self, cursor: str, reason: str, resync_after: int) -> None:
        self.cursor = cursor
        self.reason = reason
        self.resync_after = resync_after
        super().__init__(f"the cursor {cursor!r} is {reason.replace('_', ' ')}: go on with after={resync_after}")


class RunFailed(AgentsException):
    """A run that was carried out in another process has failed; `error_type` names the class of its error there."""

    code = "run_failed"

    def __init__(self, message: str, *, error_type: str, code: str | None = None, retryable: bool = False) -> None:
        self.error_type = error_type
        if code is not None:
            self.code = code
        self.retryable = retryable
        super().__init__(f"{error_type}: {message}")


class RunTimeoutError(AgentsException):
    """The whole run took longer than `limit_s`; `option` names where that limit was set.

    It had come to its turn `turn` by then (0: to none, it waited for its place or its guardrails) and had `items`
    complete items; `run_data` has them, with the text of an answer that was under way.
    """

    code = "run_timeout"
    retryable = True

    def __init__(
        self, limit_s: float, option: str = "RunConfig.time_limit_s", *, turn: int = 0, items: int = 0
    ) -> None:
        self.limit_s = limit_s
        self.option = option
        self.turn = turn
        self.items = items
        came = f"in turn {turn}, with {items} complete items" if turn else "before its first turn"
        super().__init__(f"The run exceeded its time limit of {limit_s:g} s ({option}) {came}.")


class StoreError(AgentsException):
    """The store cannot be used: read-only, damaged, of a newer version, refused by its server."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The store cannot be used at present: not reachable, locked by another process, full."""

    code = "store_unavailable"
    retryable = True


class RunNotFound(AgentsException):
    """There is no such run: it never was, was deleted, or is past its time of keeping."""

    code = "run_not_found"

    def __init__(self, run_id: str, store: str) -> None:
        self.run_id = run_id
        super().__init__(f"there is no run {run_id!r} in {store}: it was deleted, has expired, or is in another store")


class RunExists(AgentsException):
    """A run of that id is there already."""

    code = "run_exists"

    def __init__(self, run_id: str, store: str) -> None:
        self.run_id = run_id
        super().__init__(f"there is a run {run_id!r} in {store} already")


class RunSealed(AgentsException):
    """The run has ended: nothing can be asked of it any more."""

    code = "run_sealed"

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"the run {run_id!r} has ended: it takes no commands any more")


class LeaseHeld(AgentsException):
    """Another worker carries the run out at present."""

    code = "lease_held"
    retryable = True

    def __init__(self, run_id: str, worker: str | None) -> None:
        self.run_id = run_id
        self.worker = worker
        super().__init__(
            f"the run {run_id!r} is being carried out by {worker or 'another worker'}: read it with Runner.attach; it "
            "can be taken over once that worker has not been heard of for the length of its lease"
        )


class LeaseLost(AgentsException):
    """Another worker has taken the run over; what this one did since is not in the log."""

    code = "lease_lost"

    def __init__(self, run_id: str, reason: str = "another worker has taken it over") -> None:
        self.run_id = run_id
        self.reason = reason
        super().__init__(
            f"the run {run_id!r} is no longer this process's: {reason}; read on with Runner.attach({run_id!r}, ...)"
        )
