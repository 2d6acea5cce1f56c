"""How the runs of the soak are read: each kind of reader that `soak/plan.py` names, and the cancels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from runstream import Runner, RunResultStreaming, gather, merge, pipe, race, smooth
from soak.plan import Plan

__all__ = ["cancel", "read"]


async def _drain(source: Any, *, stops_after: int | None = None, pause_s: float | None = None) -> None:
    count = 0
    async for _ in source:
        count += 1
        if count == stops_after:
            break
        if pause_s is not None and count < 60:
            await asyncio.sleep(pause_s)


async def _impatient(reader: Any) -> None:
    while True:
        try:
            await asyncio.wait_for(anext(reader), 0.005)
        except TimeoutError:
            continue
        except StopAsyncIteration:
            return


async def _unchanged(events: Any) -> AsyncIterator[Any]:
    async for event in events:
        yield event


async def read(plan: Plan, result: RunResultStreaming, again: Callable[[], RunResultStreaming]) -> None:
    """Read the run as the plan says; `again` starts another one like it. Raises what the run fails with."""
    match plan.reader:
        case "nobody":
            await asyncio.sleep(plan.cancel_after_s)
        case "waiting":
            await result.wait()
        case "streaming":
            await _drain(result.stream_events(nested=True))
        case "events":
            await _drain(result.events())
        case "breaking":
            await _drain(result.stream_events(), stops_after=plan.stops_after)
        case "late":
            await result.wait()
            await _drain(result.stream_events())
        case "slow":
            await _drain(result.stream_events(), pause_s=0.004)
        case "smoothed":
            await _drain(smooth(result.stream_events(), max_lag_s=0.1))
        case "merged":
            streams = result.stream_events(), result.events(), smooth(result.events(after=1), max_lag_s=0.05)
            await _drain(merge(*streams), stops_after=plan.stops_after * 4)
        case "several":
            await asyncio.gather(
                _drain(result.stream_events(), stops_after=plan.stops_after),
                _drain(result.events(), pause_s=0.002),
                _drain(result.stream_events(nested=True, progress=True)),
                return_exceptions=True,
            )
        case "impatient":
            await _impatient(result.stream_events())
        case "piped":
            piped: Any = pipe(result.stream_events(nested=True, progress=True), smooth, _unchanged)
            await _drain(piped, stops_after=plan.stops_after * 3)
        case "raced":
            await race(result, again, timeout_s=1.0)
        case "gathered":
            await gather([lambda: result, again, again], limit=2, timeout_s=1.0)
        case _:
            raise AssertionError(plan.reader)


async def cancel(plan: Plan, result: RunResultStreaming, reading: asyncio.Task[None], store: str) -> None:
    """Stop the run, or its reader, when and as the plan says."""
    await asyncio.sleep(plan.cancel_after_s)
    match plan.cancel:
        case "immediate" | "after_turn" as mode:
            result.cancel(mode)
        case "store" if plan.is_durable:
            (await Runner.attach(result.run_id, store=store)).cancel()
        case "reader" | "store":
            reading.cancel()
        case _:
            raise AssertionError(plan.cancel)
