"""A request to the endpoint: what it asks, whether it may, and what became of it.

Owns `EndpointRequest` and the checks that a real server makes first. Must not know scripts, and sends nothing.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from runstream.agent.raw_item import read_field
from runstream.testing.fault_replies import error_body
from runstream.testing.request import ScriptRequest, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["EndpointRequest", "Outcome", "Rejection", "check_key", "parse_body"]

Outcome: TypeAlias = Literal["open", "answered", "rejected", "fault", "disconnected", "aborted"]
"""`disconnected`: the client left before the end; `aborted`: the endpoint was closed before the end."""


@dataclass
class EndpointRequest(ScriptRequest):
    """One request as it arrived, and how far its answer has come."""

    number: int
    """Counts the requests of the endpoint from 1."""
    method: str
    path: str
    headers: Mapping[str, str]
    """With names in lower case."""
    raw_body: bytes
    received_at: float
    """By the endpoint's clock."""
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    """The decoded JSON; empty where there is none."""
    status: int | None = None
    """The HTTP status of the answer; None before it begins, or if it never does."""
    outcome: Outcome = "open"
    deltas_sent: int = 0

    @property
    def is_chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    @property
    def is_streamed(self) -> bool:
        return self.body.get("stream") is True

    @property
    def conversation(self) -> str | Sequence[Any]:
        return self.body.get("messages" if self.is_chat else "input") or ""

    @property
    def model_name(self) -> str | None:
        return self.body.get("model")

    @property
    def instructions(self) -> str | None:
        if not self.is_chat:
            return self.body.get("instructions")
        systems = [
            text_of(read_field(message, "content"))
            for message in self.conversation
            if read_field(message, "role") in ("system", "developer")
        ]
        return "\n".join(systems) if systems else None

    @property
    def tool_names(self) -> tuple[str, ...]:
        tools = cast("list[Any]", self.body.get("tools") or [])
        if self.is_chat:
            tools = [read_field(tool, "function") for tool in tools]
        names = [read_field(tool, "name") or read_field(tool, "type") for tool in tools]
        return tuple(name for name in names if isinstance(name, str))


class Rejection(Exception):
    """The request is answered with an error before the script is asked."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, "invalid_request_error", code=code, param=param)


def check_key(headers: Mapping[str, str], api_key: str | None) -> None:
    """Raises Rejection (401) unless the request carries the key; None lets any request pass."""
    if api_key is None:
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if not given or scheme.lower() != "bearer":
        raise Rejection(401, "You didn't provide an API key: send it as `Authorization: Bearer KEY`.")
    if not hmac.compare_digest(given.strip().encode(), api_key.encode()):
        raise Rejection(401, "Incorrect API key provided.", code="invalid_api_key")


def parse_body(raw_body: bytes, *, is_chat: bool) -> dict[str, Any]:
    """The request's JSON object. Raises Rejection (400) for what the real API would refuse for its shape."""
    try:
        body = json.loads(raw_body)
    except ValueError as error:
        raise Rejection(400, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(body, dict):
        raise Rejection(400, f"The body must be a JSON object, not {json.dumps(body)[:80]}.")
    fields = cast("dict[str, Any]", body)
    conversation = "messages" if is_chat else "input"
    expected: dict[str, tuple[tuple[type, ...], str, bool]] = {
        "model": ((str,), "a string", is_chat or "prompt" not in fields),
        conversation: ((list,) if is_chat else (str, list), "an array" if is_chat else "a string or an array", is_chat),
        "tools": ((list, type(None)), "an array", False),
        "stream": ((bool, type(None)), "a boolean", False),
        "stream_options": ((dict, type(None)), "an object", False),
        "instructions": ((str, type(None)) if is_chat else (str, list, type(None)), "a string", False),
    }
    for name, (types, description, is_required) in expected.items():
        if name not in fields:
            if is_required:
                raise Rejection(
                    400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name
                )
        elif not isinstance(fields[name], types):
            shown = json.dumps(fields[name])[:80]
            raise Rejection(
                400,
                f"Invalid type for '{name}': expected {description}, but got {shown} instead.",
                code="invalid_type",
                param=name,
            )
    return fields
