"""A run to one client, as the server that carries the app sees it: no sockets, only what ASGI says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from runstream import Agent, function_tool
from runstream.errors import CursorExpired, StoreUnavailable
from runstream.log.base import RunRecord
from runstream.server import create_app
from runstream.server.access import User
from runstream.server.app import service_of
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

    def __init__(self, body: Any = None, *, broken_after: int | None = None) -> None:
        self._body: bytes | None = json.dumps(body).encode()
        self._broken_after = broken_after
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        if len(self.sent) == self._broken_after:
            raise OSError("the client has gone")
        self.sent.append(message)


async def test_a_server_that_tells_by_an_error_that_the_client_has_gone() -> None:
    """A response is stopped then, as where the server tells it in the way of uvicorn: nobody would get it."""

    @function_tool
    async def wait() -> str:
        """Waits for ever."""
        await asyncio.Event().wait()
        return ""

    desk = Agent(name="Desk", model=ScriptedModel([ToolCall("wait")]), tools=[wait])
    app = create_app(desk, store="memory://", drain_s=0.0, page=False)
    service = service_of(app)
    await service.start()
    try:
        client = Connection({"model": "Desk", "input": "hi", "stream": True}, broken_after=2)
        await app(scope("POST", "/v1/responses"), client.receive, client.send)
        [run] = await service.carrier.store.list_runs()
        active = service.carrier.run_of(run.run_id)
        if active is not None:
            await asyncio.wait_for(active.wait_ended(), 1)
        assert (await service.carrier.store.find(run.run_id)).status == "cancelled"
        assert service.hub.reader_count == 0
    finally:
        await service.stop()


async def test_a_store_that_fails_while_a_reader_is_led_past_a_gap() -> None:
    """The client is told, as wherever the store fails: its stream does not break off."""
    app = create_app(Agent(name="Desk", model=ScriptedModel(["Hi."])), store="memory://", page=False)
    service = service_of(app)
    await service.start()
    try:
        run_id = await start_run(service, User(None), agent=None, given="hi")

        class Failing:
            async def next(self) -> Any:
                raise CursorExpired(0, 5)

            async def find(self, run_id: str) -> RunRecord:
                raise StoreUnavailable("it is gone")

        reader = open_reader(service, run_id, 0)
        service.hub.store, store = Failing(), service.hub.store
        client = Connection()
        try:
            await EventStream(service.hub, reader, {}, paced=Failing())(scope("GET", "/"), client.receive, client.send)
        finally:
            service.hub.store = store
        assert client.sent[-2]["body"] == b'event: failure\ndata: {"code":"store_error"}\n\n', client.sent
        assert client.sent[-1]["more_body"] is False
        assert service.hub.reader_count == 0
    finally:
        await service.stop()
