"""An app of the server within another one, its description, and its end."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from runstream import Agent, RunConfig
from runstream.errors import MissingExtra
from runstream.server import create_app
from runstream.server.app import service_of
from runstream.server.openapi import describe
from runstream.testing import ScriptedModel, Turn
from serving import Client, Frame, all_frames, frames_of, serving

WORDS = "one two three four five six seven eight nine ten"


def desk(every_s: float = 0.0) -> Agent[Any]:
    return Agent(name="Desk", model=ScriptedModel([Turn((WORDS,), every_s=every_s)], repeat=True))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.mark.parametrize("shares_lifespan", [True, False])
async def test_mounted_in_another_app(store: str, shares_lifespan: bool) -> None:
    """Below a path, whether or not the outer app tells it when it starts and stops: everything works."""
    agents = create_app(desk(), store=store)

    async def home(request: Any) -> PlainTextResponse:
        return PlainTextResponse("home")

    routes = [Route("/", home), Mount("/agents", agents)]
    lifespan = agents.router.lifespan_context if shares_lifespan else None
    app = Starlette(routes=routes, lifespan=None if lifespan is None else lambda _: lifespan(agents))
    async with serving(app) as url, Client(url) as client:
        async with client.get("/") as response:
            assert await response.text() == "home"
        async with client.ask("POST", "/agents/runs", {"input": "x"}) as response:
            location = response.headers["Location"]
        async with client.get(f"{location}/events") as response:
            assert (await all_frames(response))[-1].data["kind"] == "run.end"
        assert (await client.json("GET", "/agents/healthz"))[0] == 200
        _, description = await client.json("GET", "/agents/openapi.json")
        assert description["servers"] == [{"url": "/agents"}]
        if not shares_lifespan:
            await service_of(agents).stop()


async def test_mounted_in_fastapi(store: str) -> None:
    """As in Starlette."""
    fastapi = pytest.importorskip("fastapi")
    agents = create_app(desk(), store=store)
    app = fastapi.FastAPI(lifespan=lambda _: agents.router.lifespan_context(agents))
    app.mount("/agents", agents)
    async with serving(app) as url, Client(url) as client:
        asking = client.ask("POST", "/agents/runs", {"input": "x"}, Accept="text/event-stream")
        async with asking as response:
            assert (await all_frames(response))[-1].data["kind"] == "run.end"


async def test_the_description_is_of_this_app(store: str) -> None:
    """Every address and method is described, and nothing else; the bodies are those that are taken."""
    app = create_app([desk()], store=store, tokens=["t" * 20])
    described = describe(["Desk"], "", needs_token=True, routes=app.routes)
    served = {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in app.routes
        for method in getattr(route, "methods", None) or ()
        if method != "HEAD"
    }
    told = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert told == served
    from runstream.server.requests import AnswerCall, CancelRun, MoreInput, NewRun

    for name, body in (("NewRun", NewRun), ("Cancel", CancelRun), ("Approval", AnswerCall), ("MoreInput", MoreInput)):
        assert set(described["components"]["schemas"][name]["properties"]) == set(body.__struct_fields__)
    async with serving(app) as url, Client(url) as client:
        assert (await client.json("GET", "/openapi.json", Authorization=f"Bearer {'t' * 20}"))[1] == described
        assert (await client.json("GET", "/nothing", Authorization=f"Bearer {'t' * 20}"))[0] == 404
        assert (await client.json("PUT", "/runs", Authorization=f"Bearer {'t' * 20}"))[0] == 405


async def test_stopping_lets_runs_end(store: str) -> None:
    """While they do, readers read on, new runs are refused, and the server is not ready."""
    app = create_app(desk(0.02), store=store)
    service = service_of(app)
    async with serving(app) as url, Client(url) as client:
        async with client.ask("POST", "/runs", {"input": "x"}, Accept="text/event-stream") as response:
            frames = frames_of(response)
            await anext(frames)
            stopping = asyncio.create_task(service.stop())
            await asyncio.sleep(0)
            while not service.carrier.stopping:  # noqa: ASYNC110
                await asyncio.sleep(0)
            left = [frame async for frame in frames]
            assert left[-1].data["data"]["status"] == "completed"
        await stopping


async def test_a_run_that_is_handed_on(store: str) -> None:
    """A server that stops at once leaves its runs to the next one of the store; a reader that comes again misses
    nothing and gets nothing twice."""
    seen: list[Frame] = []
    async with serving(create_app(desk(0.05), store=store, drain_s=0.0)) as url, Client(url) as client:
        asking = client.ask("POST", "/runs", {"input": "x"}, Accept="text/event-stream")
        async with asking as response:
            run_id = response.headers["Runstream-Run-Id"]
            async for frame in frames_of(response):
                seen.append(frame)
                if len(seen) == 8:
                    break
    async with serving(create_app(desk(), store=store)) as url, Client(url) as client:
        seen += await client.events(run_id, seen[-1].id or "")
        assert [frame.data["seq"] for frame in seen] == list(range(1, len(seen) + 1))
        end = seen[-1].data["data"]
        assert (end["status"], end["final_output"]) == ("completed", WORDS)
        assert "attempt.discarded" in [frame.data["kind"] for frame in seen]
        assert [frame.id for frame in await client.events(run_id)] == [frame.id for frame in seen]


async def test_the_context_of_a_run(store: str) -> None:
    """Tools get what the server makes of the user's name: JSON data, which the next server has as well."""
    from runstream import RunContextWrapper, function_tool
    from runstream.testing import ToolCall

    @function_tool
    def whoami(context: RunContextWrapper[Any]) -> str:
        """Tell."""
        return str(context.context)

    agent = Agent(name="Desk", model=ScriptedModel([[ToolCall("whoami")], "ok"]), tools=[whoami])

    async def context(user: str | None) -> Any:
        return {"user": user}

    app = create_app(agent, store=store, tokens={"t" * 20: "ann"}, context=context)
    async with serving(app) as url, Client(url) as client:
        frames = await client.stream({"input": "x"}, Authorization=f"Bearer {'t' * 20}")
    outputs = [f.data["data"]["raw"]["output"] for f in frames if f.data["data"].get("type") == "tool_call_output_item"]
    assert outputs == ["{'user': 'ann'}"]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(MissingExtra, match=r"runstream\[server\]"):
        create_app(desk(), store="memory://x")


async def test_the_store_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RUNSTREAM_STORE, or a file of this user's; `run_config` may name one, too."""
    from runstream.server.service import default_store

    monkeypatch.delenv("RUNSTREAM_STORE", raising=False)
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert default_store() == f"sqlite:///{tmp_path}/runstream/runs.db"
        assert (tmp_path / "runstream").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("RUNSTREAM_STORE", "memory://environment")
    assert default_store() == "memory://environment"
    app = create_app(desk(), run_config=RunConfig(store="memory://config"))
    await service_of(app).start()
    assert service_of(app).carrier.store.url.startswith("memory://config")
    await service_of(app).stop()
