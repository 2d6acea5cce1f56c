"""The tokens that a response has cost. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runstream.agent.raw_item import read_field

__all__ = ["UsageSum"]

_DETAILS = (
    ("input_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cache_write_tokens"),
    ("output_tokens_details", "reasoning_tokens"),
)


class UsageSum:
    """What the model calls of a run have used, nested agents' too, less what its former responses were told to cost."""

    def __init__(self) -> None:
        self._sum = dict.fromkeys(("input_tokens", "output_tokens", *(name for _, name in _DETAILS)), 0)
        self._before = dict(self._sum)

    def add(self, response: Any) -> None:
        """A model call is over."""
        usage = read_field(response, "usage")
        for name in ("input_tokens", "output_tokens"):
            self._sum[name] += _count(usage, name)
        for group, name in _DETAILS:
            self._sum[name] += _count(read_field(usage, group), name)

    def settle(self, usage: Mapping[str, int] | None) -> None:
        """The run's own count, which has failed attempts in it."""
        for name in ("input_tokens", "output_tokens"):
            if usage is not None and name in usage:
                self._sum[name] = max(usage[name], self._before[name])

    def begin_part(self) -> None:
        """What was used so far is not the next response's."""
        self._before = dict(self._sum)

    def counts(self) -> dict[str, int]:
        """By name, without their groups."""
        return {name: count - self._before[name] for name, count in self._sum.items()}

    def shown(self) -> dict[str, Any]:
        """As the API has it."""
        counts = self.counts()
        return {
            "input_tokens": counts["input_tokens"],
            "input_tokens_details": {
                "cached_tokens": counts["cached_tokens"],
                "cache_write_tokens": counts["cache_write_tokens"],
            },
            "output_tokens": counts["output_tokens"],
            "output_tokens_details": {"reasoning_tokens": counts["reasoning_tokens"]},
            "total_tokens": counts["input_tokens"] + counts["output_tokens"],
        }


def _count(source: Any, name: str) -> int:
    value = read_field(source, name)
    return value if isinstance(value, int) else 0
