"""What kind of failure an error of a model call is: retries, fallbacks and breakers decide by kind.

Owns the kinds, and the reading of a stream's own failure events. Must not know policies or runs. openai is imported
when the first error is looked at.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from runstream.agent.model_failure import incomplete_message
from runstream.errors import (
    CircuitOpen,
    LoadRefused,
    ModelStreamBroken,
    ModelStreamFailed,
    ModelStreamTruncated,
    ModelTimeoutError,
)

__all__ = ["FAILURE_EVENTS", "FAULTS", "FailureKind", "failure_kind", "failure_of"]

FailureKind: TypeAlias = Literal[
    "timeout",
    "connection",
    "server",
    "rate_limit",
    "broken_stream",
    "quota",
    "circuit_open",
    "load_refused",
    "not_found",
    "refused",
    "incomplete",
    "other",
]
"""`timeout`: a limit of time, 408. `connection`: refused, reset, cut off. `server`: 5xx, `response.failed`, `error`.
`rate_limit`: 429. `broken_stream`: a frame that is no JSON. `quota`: used up. `not_found`: 404, such as a model that
does not exist. `refused`: any other 4xx. `incomplete`: cut by the model's own limits. `other`: no failure of the
model's."""

FAULTS: Final[frozenset[FailureKind]] = frozenset(("timeout", "connection", "server", "rate_limit", "broken_stream"))
"""What may happen to any call and says nothing about it: the same call may succeed elsewhere, or later."""

FAILURE_EVENTS: Final = frozenset(("response.failed", "response.incomplete", "error"))

# Codes of `error` and `response.failed` that blame the request, so that any other attempt fails as well.
_REFUSALS = frozenset(("invalid_prompt", "invalid_request_error", "context_length_exceeded"))


def failure_kind(error: BaseException) -> FailureKind:
    """The kind of an error that a model call raised."""
    if isinstance(error, ModelTimeoutError):
        return "timeout"
    if isinstance(error, CircuitOpen):
        return "circuit_open"
    if isinstance(error, LoadRefused):
        return "load_refused"
    if isinstance(error, ModelStreamTruncated):
        return "connection"
    if isinstance(error, ModelStreamBroken):
        return "broken_stream"
    if isinstance(error, ModelStreamFailed):
        return _kind_of_event(error.event_type, error.error_code)
    return _kind_of_client_error(error)


def _kind_of_event(event_type: str, code: str | None) -> FailureKind:
    if event_type == "response.incomplete":
        return "incomplete"
    if code == "insufficient_quota":
        return "quota"
    if code in _REFUSALS:
        return "refused"
    return "rate_limit" if code == "rate_limit_exceeded" else "server"


def _kind_of_client_error(error: BaseException) -> FailureKind:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    if isinstance(error, openai.APIConnectionError):
        return "connection"
    if not isinstance(error, openai.APIStatusError):
        return "other"
    if error.code == "insufficient_quota":
        return "quota"
    status = error.status_code
    by_status: dict[int, FailureKind] = {404: "not_found", 408: "timeout", 429: "rate_limit"}
    return "server" if status >= 500 else by_status.get(status, "refused")


def failure_of(event: Any) -> ModelStreamFailed:
    """The error that a failure event of a stream tells. Raises AttributeError, TypeError where it makes no sense."""
    kind = event.type
    if kind == "error":
        code = event.code
        message = f"The model's stream reported an error: {event.message}"
    elif kind == "response.incomplete":
        reason = getattr(event.response.incomplete_details, "reason", None)
        code = reason or "no reason given"
        message = incomplete_message(reason)
    else:
        error = event.response.error
        code = error.code if error is not None else None
        said = f"{error.code}: {error.message}" if error is not None else "no error given"
        message = f"The model's response failed ({said})"
    failed = ModelStreamFailed(
        message, event_type=kind, error_code=code, retryable=_kind_of_event(kind, code) in FAULTS
    )
    failed.usage = getattr(getattr(event, "response", None), "usage", None)
    return failed
