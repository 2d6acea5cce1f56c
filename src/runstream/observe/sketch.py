"""Percentiles of any number of durations in bounded memory: counts in buckets that grow by 4 %.

Owns `Sketch`. A percentile is off by at most 2 % of its value (the idea of DDSketch, Masson et al., VLDB 2019); the
count, the sum and the longest are exact. The same durations in any order, merged in any way, give the same sketch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["SCALE", "SHIFT", "Sketch"]

_GROWTH = 1.04
SCALE = 1.0 / math.log(_GROWTH)
"""The bucket of x seconds is `int(log(x) * SCALE + SHIFT)`."""
SHIFT = 1024.0
# Shorter than any clock's tick.
_SHORTEST_S = 1e-9


class Sketch:
    """Durations in seconds."""

    __slots__ = ("buckets", "count", "longest_s", "sum_s")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        """How many there are of each bucket; at most a thousand buckets for durations of up to years."""
        self.count = 0
        self.sum_s = 0.0
        self.longest_s = 0.0

    def add(self, duration_s: float) -> None:
        """Take in one duration; what is no positive number counts as the shortest."""
        if not duration_s > _SHORTEST_S:
            duration_s = _SHORTEST_S
        bucket = int(math.log(duration_s) * SCALE + SHIFT)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.sum_s += duration_s
        if duration_s > self.longest_s:
            self.longest_s = duration_s

    def merge(self, other: Sketch) -> None:
        """Take in all of another sketch."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.sum_s += other.sum_s
        self.longest_s = max(self.longest_s, other.longest_s)

    def copy(self) -> Sketch:
        other = Sketch()
        other.merge(self)
        return other

    def quantile(self, share: float) -> float | None:
        """The duration that this share of them (0 to 1) does not exceed; None where there are none."""
        if not self.count:
            return None
        rank = max(math.ceil(share * self.count), 1)
        if rank == self.count:
            return self.longest_s  # which is known exactly
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min(_middle_s(bucket), self.longest_s)
        return self.longest_s

    def counts_up_to(self, bounds_s: Sequence[float]) -> list[int]:
        """For each bound, in rising order, how many durations do not exceed it (within the 2 %)."""
        counts: list[int] = []
        buckets = sorted(self.buckets)
        index = seen = 0
        for bound_s in bounds_s:
            while index < len(buckets) and _middle_s(buckets[index]) <= bound_s:
                seen += self.buckets[buckets[index]]
                index += 1
            counts.append(seen)
        return counts


def _middle_s(bucket: int) -> float:
    return math.exp((bucket - SHIFT + 0.5) / SCALE)
