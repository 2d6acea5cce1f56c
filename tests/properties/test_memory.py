"""A long answer costs little memory, whether it is read or not, and a late reader still gets every event."""

import gc
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from runstream import Agent, Model, Runner
from runstream.agent.model import ModelBatch, ModelRequest, streams_in_batches
from runstream.models.decode import build_event
from runstream.testing import ScriptedModel

DELTAS = 100_000
BATCH = 50
LIMIT_BYTES = 20 * 1024 * 1024


class _Endless(Model):
    """Streams a message of 100,000 deltas in batches, without holding it."""

    @streams_in_batches("stream_batches")
    async def stream_response(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        raise AssertionError("the batches are to be used")
        yield

    async def stream_batches(self, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
        call = request.arguments()
        short: list[Any] = [event async for event in ScriptedModel(["x"]).stream_response(**call)]
        place = next(n for n, event in enumerate(short) if event.type == "response.output_text.delta")
        item_id = short[place].item_id
        yield ModelBatch(short[:place], [None] * place)
        for start in range(0, DELTAS, BATCH):
            events = [
                build_event(
                    {
                        "type": "response.output_text.delta",
                        "item_id": item_id,
                        "output_index": 0,
                        "content_index": 0,
                        "delta": "word ",
                        "logprobs": [],
                        "sequence_number": place + start + n,
                    }
                )
                for n in range(BATCH)
            ]
            yield ModelBatch(events, [None] * BATCH)
        for event in short[place + 1 :]:
            yield ModelBatch([event], [None])


async def _count(events: AsyncIterator[Any]) -> int:
    count = 0
    async for event in events:
        count += getattr(getattr(event, "data", None), "type", "") == "response.output_text.delta"
    return count


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_hundred_thousand_deltas(is_read: bool) -> None:
    """The process grows by less than 20 MB over the run, at any moment of it."""
    await Runner.run_streamed(Agent(name="warm", model=ScriptedModel(["x"])), "hi").wait()
    gc.collect()
    tracemalloc.start(1)
    try:
        result = Runner.run_streamed(Agent(name="Ann", model=_Endless()), "hi")
        if is_read:
            deltas = await _count(result.stream_events())
        else:
            await result.wait()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < LIMIT_BYTES
    if not is_read:
        deltas = await _count(result.events())
    assert deltas == DELTAS
    assert result.final_output == "x"
