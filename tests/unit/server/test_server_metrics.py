"""What `/metrics` tells, whom, and what it costs a run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runstream import Agent, Runner
from runstream.errors import StoreUnavailable
from runstream.run.observers import run_observers
from runstream.server import create_app, hash_token
from runstream.server.app import service_of
from runstream.testing import ScriptedModel, ToolCall, Turn
from serving import Client, frames_of, serving

ANN, ADMIN, SCRAPER = "ann-" * 5, "admin-" * 4, "scraper-" * 3


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def desk() -> Agent[Any]:
    return Agent(name="Desk", model=ScriptedModel(["one two three"], repeat=True))


async def scraped(client: Client, **headers: str) -> dict[str, float]:
    """Every sample, as its line begins."""
    async with client.get("/metrics", headers=headers) as response:
        text = await response.text()
        assert response.status == 200, text
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return samples


async def test_runs_readers_and_refusals(tmp_path: Path) -> None:
    """Runs of this server alone are counted; so are its readers, its refusals and what it sends."""
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "done"

    from runstream import function_tool

    tool = function_tool(wait, name_override="wait", description_override="Waits.")
    slow = Agent(name="Slow", model=ScriptedModel([ToolCall("wait"), "Ready."]), tools=[tool])
    app = create_app([desk(), slow], store=f"sqlite:///{tmp_path}/runs.db")
    async with serving(app) as url, Client(url) as client:
        await client.stream({"input": "hi", "agent": "Desk"})
        await Runner.run(desk(), "not the server's")
        await client.json("POST", "/runs", {"input": 7})
        await client.json("GET", "/runs", Host="evil.com")
        await client.json("GET", "/nothing")
        _, begun = await client.json("POST", "/runs", {"input": "hi", "agent": "Slow"})
        async with client.get(f"/runs/{begun['run_id']}/events") as response:
            frames = frames_of(response)
            while (await anext(frames)).data["data"].get("type") != "tool_call_item":
                pass
            during = await scraped(client)
            gate.set()
            assert [frame async for frame in frames][-1].data["kind"] == "run.end"
        after = await scraped(client)
    assert during["runstream_runs_live"] == 1
    assert during["runstream_server_readers"] == 1
    assert during["runstream_server_reader_lag_events"] == 0
    assert during["runstream_server_runs_limit"] == 1000
    assert after["runstream_runs_live"] == 0
    assert after["runstream_server_readers"] == 0
    assert after["runstream_runs_started_total{agent=Desk}"] == 1
    assert after["runstream_runs_ended_total{agent=Slow,status=completed}"] == 1
    assert after["runstream_deltas_total{model=scripted}"] >= 3
    assert after["runstream_tool_duration_seconds_count{tool=wait}"] == 1
    for reason in ("invalid_body", "host_not_allowed", "not_found"):
        assert after[f"runstream_server_requests_refused_total{{reason={reason}}}"] == 1
    assert after["runstream_server_sent_bytes_total"] > 1000
    assert not run_observers, "a server that has stopped observes nothing"


async def test_who_may_read_it() -> None:
    """Whoever runs the server, and the token that is for nothing else; no user."""
    tokens: dict[str, str | None] = {ANN: "ann", ADMIN: None}
    app = create_app(desk(), store="memory://metrics", tokens=tokens, metrics_token=hash_token(SCRAPER))
    async with serving(app) as url, Client(url) as client:
        assert (await client.json("GET", "/metrics"))[0] == 401
        assert (await client.json("GET", "/metrics", **bearer("wrong-" * 4)))[0] == 401
        status, answer = await client.json("GET", "/metrics", **bearer(ANN))
        assert (status, answer["error"]["code"]) == (403, "forbidden")
        await scraped(client, **bearer(ADMIN))
        await scraped(client, **bearer(SCRAPER))
        for path in ("/runs", "/openapi.json", "/metrics/../runs"):
            assert (await client.json("GET", path, **bearer(SCRAPER)))[0] == 401


async def test_users_of_a_hook_do_not_read_it() -> None:
    """Where the application says who asks, everybody is a user, whatever `authorize` would allow."""
    app = create_app(
        desk(),
        store="memory://metrics",
        authenticate=lambda connection: "ann",
        authorize=lambda access: True,
        metrics_token=SCRAPER,
    )
    async with serving(app) as url, Client(url) as client:
        assert (await client.json("GET", "/metrics"))[0] == 403
        await scraped(client, **bearer(SCRAPER))


async def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install, and everything else works."""
    async with serving(create_app(desk(), store="memory://metrics")) as url, Client(url) as client:
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        status, answer = await client.json("GET", "/metrics")
        assert (status, answer["error"]["code"]) == (501, "no_metrics")
        assert "runstream[server]" in answer["error"]["message"]
        assert (await client.stream({"input": "hi"}))[-1].data["kind"] == "run.end"


async def test_failures_of_the_store_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of requests, and of streams that it breaks off."""
    agent = Agent(name="Desk", model=ScriptedModel([Turn(("one two",), every_s=30.0)]))
    app = create_app(agent, store="memory://metrics", drain_s=0.0)
    service = service_of(app)
    async with serving(app) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})

        async def fails(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(service.carrier.store, "find", fails)
            assert (await client.json("GET", f"/runs/{begun['run_id']}"))[0] == 503
        with monkeypatch.context() as patch:
            patch.setattr(service.carrier.store, "read", fails)
            frames = await client.events(begun["run_id"])
            assert frames[-1].event == "failure"
        samples = await scraped(client)
    assert samples["runstream_server_store_failures_total"] == 2
    assert samples["runstream_server_requests_refused_total{reason=store_unavailable}"] == 1


async def test_an_observer_that_fails_costs_the_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is counted no longer; that is logged, and all else goes on."""
    app = create_app(desk(), store="memory://metrics")
    service = service_of(app)

    def broken(run: Any) -> Any:
        def sink(event: Any) -> None:
            raise RuntimeError("broken")

        return sink

    monkeypatch.setattr(service.metrics, "runs", broken)
    async with serving(app) as url, Client(url) as client:
        frames = await client.stream({"input": "hi"})
        assert frames[-1].data["data"]["status"] == "completed"
