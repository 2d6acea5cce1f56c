"""How a server stops while clients are connected: what ends, what is handed on, and what they are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runstream import Agent, function_tool
from runstream.server import create_app
from runstream.server.app import service_of
from runstream.testing import FakeClock, ScriptedModel, ToolCall
from serving import Client, Frame, frames_of, serving


class Gated:
    """An agent whose tool waits for the test."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

        @function_tool
        async def wait() -> str:
            """Waits."""
            await self.open.wait()
            return "done"

        self.agent = Agent(name="Desk", model=ScriptedModel([ToolCall("wait"), "Ready."], repeat=True), tools=[wait])


async def test_what_is_left_when_the_time_is_up(tmp_path: Path) -> None:
    """While runs may end, new ones are refused and readers read on. When the time is up the run is handed on: each
    reader is told that there is more elsewhere, and the next server goes on with it."""
    store, clock, first, second = f"sqlite:///{tmp_path}/runs.db", FakeClock(autojump=False), Gated(), Gated()
    app = create_app(first.agent, store=store, run_config={"clock": clock}, drain_s=30.0)
    service = service_of(app)
    seen: list[Frame] = []
    async with serving(app) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        run_id = begun["run_id"]
        async with client.ws_connect(f"/runs/{run_id}/ws") as socket, client.get(f"/runs/{run_id}/events") as response:
            frames = frames_of(response)
            while not seen or seen[-1].data["data"].get("type") != "tool_call_item":
                seen.append(await anext(frames))
            stopping = asyncio.create_task(service.stop())
            while not service.carrier.stopping:  # noqa: ASYNC110
                await asyncio.sleep(0)
            async with client.ask("POST", "/runs", {"input": "late"}) as refused:
                assert refused.status == 503
                assert refused.headers["Retry-After"] == "1"
                assert (await refused.json())["error"]["code"] == "stopping"
            assert (await client.json("GET", "/readyz"))[0] == 503
            assert (await client.json("GET", f"/runs/{run_id}"))[1]["status"] == "running"
            await clock.advance(31.0)  # it may end its turn now
            assert not stopping.done()
            await clock.advance(31.0)
            await stopping
            seen += [frame async for frame in frames]
            messages = [message async for message in socket]
        assert seen[-1].data["kind"] != "run.end"
        assert len(messages) == len(seen)
        assert socket.close_code == 1012, "the service restarts: come again"
    second.open.set()
    async with serving(create_app(second.agent, store=store)) as url, Client(url) as client:
        seen += await client.events(run_id, seen[-1].id or "")
    assert [frame.data["seq"] for frame in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].data["data"]["final_output"] == "Ready."
