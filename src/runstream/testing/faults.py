"""What goes wrong in a scripted answer.

Owns `Fault`, which a server can do, and `Raise`, which only a model in process can. Must not know HTTP or events: who
plays a script acts on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

from runstream.testing.script_errors import is_count, is_duration, require, require_optional_string

__all__ = ["Fault", "FaultKind", "Raise"]

FaultKind: TypeAlias = Literal[
    "http_error",
    "reset",
    "silence",
    "broken_frame",
    "no_end",
    "truncated_body",
    "error_event",
    "failed",
    "slow_first_byte",
]

_AT_START_ONLY = ("http_error", "slow_first_byte")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in a turn, and when.

    - `http_error`: an answer with `status` and OpenAI's error body (or `body` as it is), and `Retry-After` if
      `retry_after_s` is given
    - `reset`: the connection is reset
    - `silence`: nothing more comes, for `for_s` seconds (None: for ever); with `pings_every_s`, only comments come
    - `broken_frame`: the frame of one event is cut in half, and the stream goes on
    - `no_end`: the body ends properly, but without the events that end a response
    - `truncated_body`: the connection is closed in the middle of a frame
    - `error_event`: an `error` event after HTTP 200, then the end of the body
    - `failed`: a `response.failed` event (in Chat Completions the same as `error_event`)
    - `slow_first_byte`: the first byte, of the HTTP head, comes after `for_s` seconds (30 if not given)
    """

    kind: FaultKind
    after: int | Literal["start", "end"] | None = None
    """When: after so many deltas; at the "start", before the first byte; at the "end", before the events that end the
    response. None is "start" for `http_error` and `slow_first_byte`, "end" for `no_end`, and else after one delta."""
    status: int = 500
    retry_after_s: float | None = None
    for_s: float | None = None
    pings_every_s: float | None = None
    message: str | None = None
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: str | None = None

    def __post_init__(self) -> None:
        kinds = get_args(FaultKind)
        require("Fault.kind", self.kind, self.kind in kinds, f"one of {', '.join(kinds)}")
        if self.after is not None:
            is_place = self.after in ("start", "end") or is_count(self.after)
            require("Fault.after", self.after, is_place, 'a number of deltas, "start" or "end"')
            if self.kind in _AT_START_ONLY:
                require("Fault.after", self.after, self.after == "start", f'"start" for the fault {self.kind}')
        is_error_status = isinstance(self.status, int) and 400 <= self.status <= 599
        require("Fault.status", self.status, is_error_status, "an HTTP status from 400 to 599")
        for name in ("retry_after_s", "for_s", "pings_every_s"):
            value = getattr(self, name)
            require(f"Fault.{name}", value, value is None or is_duration(value), "a number of seconds, 0 or more")
        require("Fault.pings_every_s", self.pings_every_s, self.pings_every_s != 0, "more than 0 seconds")
        for name in ("message", "error_code", "body"):
            require_optional_string(f"Fault.{name}", getattr(self, name))
        is_headers = isinstance(self.headers, Mapping) and all(
            isinstance(name, str) and isinstance(value, str) for name, value in self.headers.items()
        )
        require("Fault.headers", self.headers, is_headers, "an object of strings")

    @property
    def place(self) -> int | str:
        """`after` with its default filled in."""
        if self.after is not None:
            return self.after
        if self.kind in _AT_START_ONLY:
            return "start"
        return "end" if self.kind == "no_end" else 1

    @property
    def text(self) -> str:
        """The message that the fault tells the client."""
        if self.message is not None:
            return self.message
        if self.kind == "http_error" and self.status == 429:
            return "Rate limit reached (scripted fault)."
        return "The server had an error while processing the request (scripted fault)."

    @property
    def shown_code(self) -> str:
        """The error code that the fault tells the client."""
        if self.error_code is not None:
            return self.error_code
        return "rate_limit_exceeded" if self.kind == "http_error" and self.status == 429 else "server_error"

    @classmethod
    def named(cls, name: str) -> Fault:
        """The fault of a name as the command line takes it: `reset`, `429`, `broken-frame:5` (after five deltas).

        Raises InvalidModelStep for a name that does not exist.
        """
        kind, colon, place = name.partition(":")
        after: Any = None
        if colon:
            after = int(place) if place.isdecimal() else place
        if kind.isdecimal():
            status = int(kind)
            return cls("http_error", after=after, status=status, retry_after_s=1.0 if status == 429 else None)
        kinds = get_args(FaultKind)
        found = kind.replace("-", "_")
        known = ", ".join(["429", "500", *(each.replace("_", "-") for each in kinds)])
        require("fault", name, found in kinds, f"one of {known}, or one of these with `:N` for after N deltas")
        return cls(cast("FaultKind", found), after=after)


@dataclass(frozen=True, slots=True)
class Raise:
    """The model call raises `error`: before anything, or after so many deltas. For `ScriptedModel` only."""

    error: Exception
    after: int | Literal["start", "end"] = "start"
    advice: Any = None
    """The `ModelRetryAdvice` that the model gives about this error."""

    def __post_init__(self) -> None:
        require("Raise.error", self.error, isinstance(self.error, Exception), "an exception", reason="invalid_error")
        is_place = self.after in ("start", "end") or is_count(self.after)
        require("Raise.after", self.after, is_place, 'a number of deltas, "start" or "end"')

    @property
    def place(self) -> int | str:
        return self.after
