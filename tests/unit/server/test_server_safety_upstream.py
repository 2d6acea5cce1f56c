"""What a cancelled run leaves open towards its model, over real sockets on both sides."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from runstream import Agent, OpenAIResponsesModel
from runstream.server import create_app
from runstream.testing import Endpoint, FakeClock, Turn
from serving import Client, Frame, frames_of, serving

WORDS = "one two three four five six seven eight"


@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
async def test_a_cancelled_run_and_its_model(mode: str, tmp_path: Path) -> None:
    """At once: the connection to the model is closed in the midst of its answer, while the client still reads. After
    the turn: it is not, and the answer comes to its end."""
    clock = FakeClock(autojump=False)
    async with (
        Endpoint([Turn((WORDS,), every_s=1.0)], clock=clock) as endpoint,
        AsyncOpenAI(api_key="any", base_url=endpoint.url, max_retries=0) as openai,
    ):
        desk = Agent(name="Desk", model=OpenAIResponsesModel("scripted", openai))
        app = create_app(desk, store=f"sqlite:///{tmp_path}/runs.db")
        async with serving(app) as url, Client(url) as client:
            async with client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream") as response:
                frames = frames_of(response)
                run_id = response.headers["Runstream-Run-Id"]
                seen: list[Frame] = []
                await endpoint.wait_requests()
                await clock.advance(1.5)
                while not text_of(seen):
                    seen.append(await anext(frames))
                assert endpoint.open_answers == 1
                status, _ = await client.json("POST", f"/runs/{run_id}/cancel", {"mode": mode})
                assert status == 202
                if mode == "immediate":
                    await asyncio.wait_for(endpoint.wait_disconnected(), 5)
                else:
                    assert endpoint.open_answers == 1
                    await clock.advance(10.0)
                seen += [frame async for frame in frames]
            assert seen[-1].data["kind"] == "run.end"
            assert endpoint.disconnects == (mode == "immediate")
            assert (text_of(seen) == WORDS) is (mode == "after_turn")


def text_of(frames: list[Frame]) -> str:
    """The answer so far."""
    return "".join(
        frame.data["data"]["delta"]
        for frame in frames
        if frame.data["kind"] == "model" and frame.data["data"]["type"] == "response.output_text.delta"
    )
