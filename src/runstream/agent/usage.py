"""Tokens and requests that a run has used, in total and request by request.

Owns `Usage` and `RequestUsage` and their plain form. Must not know models, runs or items.

Invariants: the two details are always the official `InputTokensDetails` and `OutputTokensDetails` with integers in
them, whatever a provider left out; `add` keeps one entry for each request that used tokens, so that prices that depend
on a single request's size can be computed. openai is imported when the first `Usage` is made, not before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from runstream.agent.raw_item import read_field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
else:
    # Types that resolve at run time keep `typing.get_type_hints` and pydantic models that hold a Usage working.
    InputTokensDetails = OutputTokensDetails = Any

__all__ = ["RequestUsage", "Usage", "deserialize_usage", "serialize_usage"]


@dataclass
class RequestUsage:
    """The tokens of one request."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens_details: OutputTokensDetails

    def __post_init__(self) -> None:
        self.input_tokens_details = _input_details(self.input_tokens_details)
        self.output_tokens_details = _output_details(self.output_tokens_details)


@dataclass
class Usage:
    """What one or more model calls have used.

    Details may be given as the official objects, those of Chat Completions, mappings or None.
    """

    requests: int = 0
    """Requests that were answered, and attempts that failed: the ones that were followed by another and the one that
    ended the run. Not among them are calls that were never sent (a `UserError`, a refusal by an open breaker or by a
    limit on load), and, as in the SDK, a call that was under way when its run was cancelled or ran out of time."""
    input_tokens: int = 0
    input_tokens_details: InputTokensDetails = field(default_factory=lambda: _input_details(None))
    """Tokens of the input that a cache held, or that were written to it."""
    output_tokens: int = 0
    output_tokens_details: OutputTokensDetails = field(default_factory=lambda: _output_details(None))
    """Tokens of the output that were reasoning."""
    total_tokens: int = 0
    request_usage_entries: list[RequestUsage] = field(default_factory=list[RequestUsage])
    """One entry for each request that used tokens or failed, in order."""

    def __post_init__(self) -> None:
        self.input_tokens_details = _input_details(self.input_tokens_details)
        self.output_tokens_details = _output_details(self.output_tokens_details)
        self.request_usage_entries = [_request_entry(entry) for entry in self.request_usage_entries]

    @classmethod
    def from_response(cls, response_usage: Any | None) -> Usage:
        """The usage of one request, from the `usage` of a response: the official object, a mapping, or None.

        None counts the request and no tokens: some providers report nothing.
        """
        return cls(
            requests=1,
            input_tokens=_count(response_usage, "input_tokens"),
            input_tokens_details=read_field(response_usage, "input_tokens_details"),
            output_tokens=_count(response_usage, "output_tokens"),
            output_tokens_details=read_field(response_usage, "output_tokens_details"),
            total_tokens=_count(response_usage, "total_tokens"),
        )

    @classmethod
    def of_failed_request(cls, told: Any = None) -> Usage:
        """The usage of a request that failed, as its error tells it (`told`, the `usage` of a response); where that
        is nothing, or nothing that can be counted, an entry with no tokens."""
        counts = [_count(told, name) for name in ("input_tokens", "output_tokens", "total_tokens")]
        if any(counts) and all(isinstance(count, int) for count in counts):
            return cls.from_response(told)
        return cls(requests=1, request_usage_entries=[_request_entry(None)])

    def add(self, other: Usage) -> None:
        """Add `other` to this usage, with its entries; a single request with tokens and no entry becomes one."""
        self.requests += other.requests or 0
        self.input_tokens += other.input_tokens or 0
        self.output_tokens += other.output_tokens or 0
        self.total_tokens += other.total_tokens or 0
        self.input_tokens_details = _make_input_details(
            *(
                _count(self.input_tokens_details, name) + _count(other.input_tokens_details, name)
                for name in ("cached_tokens", "cache_write_tokens")
            )
        )
        self.output_tokens_details = _make_output_details(
            _count(self.output_tokens_details, "reasoning_tokens")
            + _count(other.output_tokens_details, "reasoning_tokens")
        )
        if other.request_usage_entries:
            self.request_usage_entries.extend(copy.deepcopy(other.request_usage_entries))
        elif other.requests == 1 and (other.input_tokens or other.output_tokens or other.total_tokens):
            entry = RequestUsage(
                input_tokens=other.input_tokens,
                output_tokens=other.output_tokens,
                total_tokens=other.total_tokens,
                input_tokens_details=copy.deepcopy(other.input_tokens_details),
                output_tokens_details=copy.deepcopy(other.output_tokens_details),
            )
            self.request_usage_entries.append(entry)


def serialize_usage(usage: Usage) -> dict[str, Any]:
    """The usage as plain JSON values, in the SDK's form (the two details of the total are lists of one)."""
    return {
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "input_tokens_details": [_dump_input_details(usage.input_tokens_details)],
        "output_tokens": usage.output_tokens,
        "output_tokens_details": [_dump_output_details(usage.output_tokens_details)],
        "total_tokens": usage.total_tokens,
        "request_usage_entries": [
            {
                "input_tokens": entry.input_tokens,
                "output_tokens": entry.output_tokens,
                "total_tokens": entry.total_tokens,
                "input_tokens_details": _dump_input_details(entry.input_tokens_details),
                "output_tokens_details": _dump_output_details(entry.output_tokens_details),
            }
            for entry in usage.request_usage_entries
        ],
    }


def deserialize_usage(usage_data: Mapping[str, Any]) -> Usage:
    """The usage that `serialize_usage` wrote, or an older form of it: whatever is missing counts as zero."""
    return Usage(
        requests=_count(usage_data, "requests"),
        input_tokens=_count(usage_data, "input_tokens"),
        input_tokens_details=_first(usage_data.get("input_tokens_details")),
        output_tokens=_count(usage_data, "output_tokens"),
        output_tokens_details=_first(usage_data.get("output_tokens_details")),
        total_tokens=_count(usage_data, "total_tokens"),
        request_usage_entries=list(usage_data.get("request_usage_entries") or []),
    )


def _count(source: Any, name: str) -> int:
    return read_field(source, name) or 0


def _first(details: Any) -> Any:
    if isinstance(details, list):
        entries = cast("list[Any]", details)
        return entries[0] if entries else None
    return details


def _request_entry(entry: Any) -> RequestUsage:
    if isinstance(entry, RequestUsage):
        return entry
    return RequestUsage(
        input_tokens=_count(entry, "input_tokens"),
        output_tokens=_count(entry, "output_tokens"),
        total_tokens=_count(entry, "total_tokens"),
        input_tokens_details=_first(read_field(entry, "input_tokens_details")),
        output_tokens_details=_first(read_field(entry, "output_tokens_details")),
    )


def _input_details(details: Any) -> InputTokensDetails:
    """The official object itself where it is whole, else one with zeros for what is missing."""
    from openai.types.responses.response_usage import InputTokensDetails

    # Read by name, since an object built without validation may lack an attribute as well as hold None.
    cached, written = read_field(details, "cached_tokens"), read_field(details, "cache_write_tokens")
    if isinstance(details, InputTokensDetails) and cached is not None and written is not None:
        return details
    return _make_input_details(cached or 0, written or 0)


def _output_details(details: Any) -> OutputTokensDetails:
    from openai.types.responses.response_usage import OutputTokensDetails

    reasoning = read_field(details, "reasoning_tokens")
    if isinstance(details, OutputTokensDetails) and reasoning is not None:
        return details
    return _make_output_details(reasoning or 0)


def _make_input_details(cached_tokens: int, cache_write_tokens: int) -> InputTokensDetails:
    from openai.types.responses.response_usage import InputTokensDetails

    return InputTokensDetails(cached_tokens=cached_tokens, cache_write_tokens=cache_write_tokens)


def _make_output_details(reasoning_tokens: int) -> OutputTokensDetails:
    from openai.types.responses.response_usage import OutputTokensDetails

    return OutputTokensDetails(reasoning_tokens=reasoning_tokens)


def _dump_input_details(details: InputTokensDetails) -> dict[str, Any]:
    return {
        "cached_tokens": _count(details, "cached_tokens"),
        "cache_write_tokens": _count(details, "cache_write_tokens"),
    }


def _dump_output_details(details: OutputTokensDetails) -> dict[str, Any]:
    return {"reasoning_tokens": _count(details, "reasoning_tokens")}
