"""An app of the server behind real sockets, and a client that reads its streams as any other would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn

from runstream.wire.sse import SSEDecoder

JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def serving(app: Any, *, port: int = 0, **options: Any) -> AsyncGenerator[str]:
    """The URL of the app, which is served as `uvicorn` does with these options."""
    defaults = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 2}
    config = uvicorn.Config(app, host="127.0.0.1", port=port, **{**defaults, **options})
    server = uvicorn.Server(config)
    serve = asyncio.create_task(server.serve())
    while not server.started:
        if serve.done():
            serve.result()
            raise RuntimeError("the server has not started")
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serve


class Frame:
    """One event of a stream."""

    def __init__(self, id: str | None, event: str, data: Any) -> None:
        self.id = id
        self.event = event
        self.data = data

    def __repr__(self) -> str:
        return f"{self.id} {self.event or self.data.get('kind')}"


async def frames_of(response: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    """The events of a response, as they come."""
    decoder = SSEDecoder()
    async for data in response.content.iter_any():
        for frame in decoder.feed(data):
            id = None if frame.id is None else frame.id.decode()
            yield Frame(id, frame.event.decode(), json.loads(frame.data))
    assert decoder.close() == b"", "the stream broke off within a frame"


async def all_frames(response: aiohttp.ClientResponse) -> list[Frame]:
    return [frame async for frame in frames_of(response)]


class Client:
    """Asks a server as a program on this machine does."""

    def __init__(self, url: str) -> None:
        self._session = aiohttp.ClientSession(
            url, timeout=aiohttp.ClientTimeout(total=20), connector=aiohttp.TCPConnector(limit=0)
        )
        self.get = self._session.get
        self.ws_connect = self._session.ws_connect

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """A request with a JSON body; underscores in the names of headers stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            named = {**JSON, **named}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return self._session.request(method, path, data=data, headers=named)

    async def json(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and body of the answer."""
        async with self.ask(method, path, body, **headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def stream(self, body: Any, **headers: str) -> list[Frame]:
        """All events of a new run."""
        async with self.ask("POST", "/runs", body, Accept="text/event-stream", **headers) as response:
            assert response.status == 200, await response.text()
            return await all_frames(response)

    async def events(self, run_id: str, after: str = "") -> list[Frame]:
        """All events of a run, from that cursor on."""
        async with self._session.get(f"/runs/{run_id}/events", params={"after": after}) as response:
            return await all_frames(response)
