"""What `smooth` does to bursty text, and what it costs: `python -m benchmarks smooth`.

How even the text comes and how late is computed in simulated time, so that the figures are the same on every machine.
The patterns of arrival are made, not recorded: each names what servers are seen to do. What it costs is measured: many
streams at once in one process, with `smooth` and without, the same arrivals, in turns.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from runstream import RawResponsesStreamEvent, smooth
from runstream.clock import Clock, system_clock
from runstream.events.model_event import new_text_delta
from runstream.testing import FakeClock

__all__ = ["BEGIN", "END", "PATTERNS", "Cost", "Evenness", "costs", "evenness", "tables"]

BEGIN, END = "<!-- smooth -->", "<!-- /smooth -->"
_DELTAS = 600
_SAMPLE = (
    "Here is what I found. The order left the warehouse on Monday, and the carrier has scanned it twice since then; "
    "according to the tracking page it should arrive on Thursday before noon. If nobody is at home, the parcel goes to "
    "the shop at the corner, where it is kept for a week. Shall I let you know as soon as anything changes?\n\n"
)


def _steady(chance: random.Random) -> Iterator[float]:
    return itertools.repeat(0.05)


def _jitter(chance: random.Random) -> Iterator[float]:
    while True:
        yield chance.expovariate(20)


def _bursts(gap_s: float, size: int, jitter: float) -> Callable[[random.Random], Iterator[float]]:
    def pauses(chance: random.Random) -> Iterator[float]:
        while True:
            yield gap_s * chance.uniform(1 - jitter, 1 + jitter)
            yield from itertools.repeat(0.001, size - 1)

    return pauses


def _stalls(chance: random.Random) -> Iterator[float]:
    while True:
        yield 0.03 if chance.random() > 0.02 else 1.5


PATTERNS: dict[str, Callable[[random.Random], Iterator[float]]] = {
    "one word every 50 ms": _steady,
    "one word at random, 20 a second": _jitter,
    "5 words every 250 ms": _bursts(0.25, 5, 0.0),
    "12 words every 500 ms": _bursts(0.5, 12, 0.0),
    "12 words every 300 to 700 ms": _bursts(0.5, 12, 0.4),
    "25 words every 1 s": _bursts(1.0, 25, 0.0),
    "one word every 2 ms": lambda chance: itertools.repeat(0.002),
    "one word every 30 ms, stalls of 1.5 s": _stalls,
}


@dataclass(frozen=True)
class Evenness:
    """One pattern, before and after."""

    pattern: str
    variation: tuple[float, float]
    """Standard deviation of the gaps between two pieces over their mean; 0 is a metronome."""
    long_gap_ms: tuple[float, float]
    """95th percentile of the gaps, weighted by their length: the pause that a random moment falls into."""
    added_ms: tuple[float, float, float]
    """Latency that a character gains: median, 95th percentile, longest."""
    first_ms: float
    """Latency that the first text gains."""


@dataclass(frozen=True)
class Cost:
    """CPU per text delta in µs."""

    load: str
    without: float
    smoothed: float


class _Arrivals:
    """Deltas at their times, as a reader of a run gives them."""

    def __init__(self, texts: list[str], times: list[float], clock: Clock) -> None:
        self._steps = zip(texts, times, strict=True)
        self._clock = clock
        self._seq = 0

    def __aiter__(self) -> _Arrivals:
        return self

    async def __anext__(self) -> RawResponsesStreamEvent:
        step = next(self._steps, None)
        if step is None:
            raise StopAsyncIteration
        text, at = step
        self._seq += 1
        # Written so that a delta whose wait is cut short is not lost: here nobody cuts it short.
        while (wait_s := at - self._clock.now()) > 0:
            await self._clock.sleep(wait_s)
        return RawResponsesStreamEvent(new_text_delta("msg", 0, 0, text, self._seq), seq=self._seq)


def _texts(count: int) -> list[str]:
    words = [f" {word}" for word in _SAMPLE.split(" ")]
    return list(itertools.islice(itertools.cycle(words), count))


def evenness(pattern: str, *, max_lag_s: float = 1.0, deltas: int = _DELTAS) -> Evenness:
    """The pattern's figures in simulated time."""
    return asyncio.run(_evenness(pattern, max_lag_s, deltas))


async def _evenness(pattern: str, max_lag_s: float, deltas: int) -> Evenness:
    clock = FakeClock()
    texts = _texts(deltas)
    pauses = PATTERNS[pattern](random.Random(1))
    times = list(itertools.accumulate(itertools.islice(pauses, deltas), initial=clock.now()))[1:]
    came = [at for text, at in zip(texts, times, strict=True) for _ in text]
    shown: list[float] = []
    went: list[float] = []
    async for event in smooth(_Arrivals(texts, times, clock), max_lag_s=max_lag_s, clock=clock):
        shown.append(clock.now())
        went += [clock.now()] * len(event.data.delta)  # type: ignore[union-attr]
    added = sorted(1000 * (there - here) for here, there in zip(came, went, strict=True))
    return Evenness(
        pattern,
        (_variation(times), _variation(shown)),
        (_long_gap_ms(times), _long_gap_ms(shown)),
        (_share(added, 0.5), _share(added, 0.95), added[-1]),
        1000 * (shown[0] - times[0]),
    )


def _gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)] or [0.0]


def _variation(times: list[float]) -> float:
    gaps = _gaps(times)
    return statistics.pstdev(gaps) / (statistics.mean(gaps) or 1.0)


def _long_gap_ms(times: list[float]) -> float:
    gaps = sorted(_gaps(times))
    limit, passed = 0.95 * sum(gaps), 0.0
    for gap in gaps:
        passed += gap
        if passed >= limit:
            return 1000 * gap
    return 0.0


def _share(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]


def costs(*, streams: int = 100, deltas: int = 60, every_s: float = 0.05, repetitions: int = 5) -> list[Cost]:
    """CPU with and without, in turns; the median of the repetitions."""
    loads = {
        f"{streams} streams, one delta every {1000 * every_s:g} ms": lambda mode: _paced(
            mode, streams, deltas, every_s
        ),
        f"1 stream, {streams * deltas:,} deltas as fast as possible": lambda mode: _fast(mode, streams * deltas),
    }
    found: list[Cost] = []
    for name, load in loads.items():
        figures: dict[str, list[float]] = {"without": [], "smooth": []}
        for _ in range(repetitions):
            for mode, values in figures.items():
                began = time.process_time()
                asyncio.run(load(mode))
                values.append(1e6 * (time.process_time() - began) / (streams * deltas))
        found.append(Cost(name, statistics.median(figures["without"]), statistics.median(figures["smooth"])))
    return found


async def _read(events: AsyncIterator[Any], mode: str) -> None:
    async for _ in smooth(events) if mode == "smooth" else events:
        pass


async def _paced(mode: Literal["without", "smooth"], streams: int, deltas: int, every_s: float) -> None:
    begin = system_clock.now() + 0.1
    texts = _texts(deltas)

    def times(number: int) -> list[float]:
        first = begin + every_s * number / streams
        return [first + every_s * index for index in range(deltas)]

    await asyncio.gather(*(_read(_Arrivals(texts, times(number), system_clock), mode) for number in range(streams)))


async def _fast(mode: Literal["without", "smooth"], deltas: int) -> None:
    await _read(_Arrivals(_texts(deltas), [0.0] * deltas, system_clock), mode)


def tables(even: list[Evenness], cost: list[Cost]) -> str:
    """Both tables in Markdown."""
    lines = [
        "| arrivals | variation of gaps, before → after | long gap, before → after (ms) | added latency, "
        "median / p95 / longest (ms) | first text (ms) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in even:
        variation = " → ".join(f"{value:.2f}" for value in row.variation)
        gap = " → ".join(f"{value:.0f}" for value in row.long_gap_ms)
        added = " / ".join(f"{value:.0f}" for value in row.added_ms)
        lines.append(f"| {row.pattern} | {variation} | {gap} | {added} | {row.first_ms:.0f} |")
    lines += ["", "| CPU per delta (µs) | without | with `smooth` | added |", "| --- | ---: | ---: | ---: |"]
    for each in cost:
        added_us = each.smoothed - each.without
        lines.append(f"| {each.load} | {each.without:.1f} | {each.smoothed:.1f} | {added_us:.1f} |")
    return "\n".join(lines)
