"""A run to one client, as the server that carries the app sees it: no sockets, only what ASGI says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runstream import Agent, function_tool
from runstream.errors import CursorExpired, StoreUnavailable
from runstream.server import create_app
from runstream.server.access import User
from runstream.server.app import service_of
from runstream.server.reader import Reader
from runstream.server.service import Service
from runstream.server.starting import open_reader, start_run
from runstream.server.streaming import EventStream
from runstream.testing import ScriptedModel, ToolCall


def scope(method: str, path: str) -> dict[str, Any]:
    """A request of a client on this machine."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
    }


class Connection:
    """A client that has sent a body and then keeps quiet; after `broken_after` messages the connection is gone."""

    def __init__(self, body: Any = None, *, broken_after: int | None = None, first: str = "http.request") -> None:
        self._first: Any = {"type": first, "body": json.dumps(body).encode(), "more_body": False}
        self._broken_after = broken_after
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        first, self._first = self._first, None
        if first is None:
            await asyncio.Event().wait()
        return first

    async def send(self, message: Any) -> None:
        if len(self.sent) == self._broken_after:
            raise OSError("the client has gone")
        self.sent.append(message)


def waiting_desk() -> Agent[Any]:
    """Its tool does not come back."""

    @function_tool
    async def wait() -> str:
        """Waits for ever."""
        await asyncio.Event().wait()
        return ""

    return Agent(name="Desk", model=ScriptedModel([ToolCall("wait")]), tools=[wait])


@asynccontextmanager
async def started(desk: Agent[Any]) -> AsyncGenerator[tuple[Any, Service]]:
    app = create_app(desk, store="memory://", drain_s=0.0, page=False)
    service = service_of(app)
    await service.start()
    try:
        yield app, service
    finally:
        await service.stop()


async def statuses(service: Service) -> list[str]:
    """Of all runs, once those that were told to stop have ended; nobody reads any more."""
    assert service.hub.reader_count == 0
    for record in await service.carrier.store.list_runs():
        active = service.carrier.run_of(record.run_id)
        if active is not None:
            await asyncio.wait_for(active.wait_ended(), 1)
    return [record.status for record in await service.carrier.store.list_runs()]


def fail_reading_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many looks of readers are answered; then the store is gone for them."""
    left, look = [count], Reader.next

    async def failing(reader: Reader) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise StoreUnavailable("it is gone")
        return await look(reader)

    monkeypatch.setattr(Reader, "next", failing)


async def test_a_server_that_tells_by_an_error_that_the_client_has_gone() -> None:
    """A response is stopped then, as where the server tells it in the way of uvicorn: nobody would get it."""
    async with started(waiting_desk()) as (app, service):
        client = Connection({"model": "Desk", "input": "hi", "stream": True}, broken_after=2)
        await app(scope("POST", "/v1/responses"), client.receive, client.send)
        assert await statuses(service) == ["cancelled"]


@pytest.mark.parametrize("broken_after", [0, 1, 3])
async def test_a_websocket_that_goes_away_is_no_fault_of_the_servers(
    broken_after: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is sent just then (uvicorn tells it by an error), nothing is logged, and its reader is gone."""
    async with started(Agent(name="Desk", model=ScriptedModel(["Hi."]))) as (app, service):
        run_id = await start_run(service, User(None), agent=None, given="hi")
        connection = {**scope("GET", f"/runs/{run_id}/ws"), "type": "websocket", "subprotocols": []}
        del connection["method"]
        client = Connection(broken_after=broken_after, first="websocket.connect")
        await app(connection, client.receive, client.send)
        assert len(client.sent) == broken_after
        assert await statuses(service) == ["completed"]
    assert not caplog.records


async def test_paths_write_no_lines_into_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A line end of a path is escaped there."""
    async with started(waiting_desk()) as (app, service):

        async def find(run_id: str) -> Any:
            raise StoreUnavailable("it is gone")

        monkeypatch.setattr(service.carrier.store, "find", find)
        client = Connection()
        await app(scope("GET", "/runs/x\nnothing happened"), client.receive, client.send)
        assert client.sent[0]["status"] == 503
    assert caplog.messages == ["GET /runs/x%0Anothing%20happened: it is gone"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"input": "hi"}),
        ("/v1/responses", {"input": "hi", "store": False}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
    ],
)
async def test_an_answer_that_cannot_be_read(path: str, fields: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run is stopped, and the official clients are told not to ask again, as they do after a 503: a second run
    would do everything twice."""
    async with started(waiting_desk()) as (app, service):
        fail_reading_after(2, monkeypatch)
        client = Connection({"model": "Desk", **fields})
        await app(scope("POST", path), client.receive, client.send)
        if not fields.get("stream"):
            assert client.sent[0]["status"] == 503
            assert (b"x-should-retry", b"false") in client.sent[0]["headers"]
            assert service.counts.store_failures == 1
        assert await statuses(service) == ([] if fields.get("store") is False else ["cancelled"])


async def test_a_cancel_whose_outcome_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error, not a response that seems to go on."""
    async with started(waiting_desk()) as (app, service):
        client = Connection({"model": "Desk", "input": "hi", "background": True})
        await app(scope("POST", "/v1/responses"), client.receive, client.send)
        given = json.loads(client.sent[1]["body"])["id"]
        fail_reading_after(0, monkeypatch)
        client = Connection({})
        await app(scope("POST", f"/v1/responses/{given}/cancel"), client.receive, client.send)
        assert client.sent[0]["status"] == 503
        assert await statuses(service) == ["cancelled"]


async def test_a_store_that_fails_while_a_reader_is_led_past_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is told, as wherever the store fails: its stream does not break off."""

    class Failing:
        async def next(self) -> Any:
            raise CursorExpired(0, 5)

        async def find(self, run_id: str) -> Any:
            raise StoreUnavailable("it is gone")

    async with started(Agent(name="Desk", model=ScriptedModel(["Hi."]))) as (_, service):
        run_id = await start_run(service, User(None), agent=None, given="hi")
        monkeypatch.setattr(service.hub, "store", Failing())
        client, reader = Connection(), open_reader(service, run_id, 0)
        stream = EventStream(service.hub, reader, {}, paced=Failing())
        await stream(scope("GET", "/"), client.receive, client.send)
        assert client.sent[-2]["body"] == b'event: failure\ndata: {"code":"store_error"}\n\n', client.sent
        assert client.sent[-1]["more_body"] is False
        monkeypatch.undo()
        assert await statuses(service) == ["completed"]
