"""What `python -m benchmarks serve` compares runstream with: the same answer, served with other tools.

`python -m benchmarks.serve_subjects SUBJECT PORT ENDPOINT_PORT` serves until it is stopped. `gateway-peer` is what
users of openai-agents write: FastAPI and sse-starlette around `Runner.run_streamed`. `gateway-floor` is an aiohttp
client behind an aiohttp server, one JSON decode and one encode a delta, with no agent and no log. Both answer
POST /chat {"model", "input"}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from typing import Any

__all__: list[str] = []


def _peer(port: int) -> None:
    import uvicorn
    from agents import Agent, Runner
    from fastapi import FastAPI, Request
    from openai.types.responses import ResponseTextDeltaEvent
    from sse_starlette.sse import EventSourceResponse

    app = FastAPI()

    async def chat(request: Request) -> EventSourceResponse:
        asked = await request.json()
        agent = Agent(name="Assistant", instructions="Answer briefly.", model=asked["model"])

        async def events() -> AsyncGenerator[dict[str, str], None]:
            result = Runner.run_streamed(agent, asked["input"])
            async for event in result.stream_events():
                if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                    yield {"data": json.dumps({"delta": event.data.delta})}
            yield {"data": json.dumps({"done": True})}

        return EventSourceResponse(events())

    chat.__annotations__["request"] = Request
    app.post("/chat", response_model=None)(chat)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", loop="uvloop", http="httptools")


def _floor(port: int, endpoint_port: int) -> None:
    import aiohttp
    import msgspec
    import uvloop
    from aiohttp import web

    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    url = f"http://127.0.0.1:{endpoint_port}/v1/responses"
    client: Any = None

    async def chat(request: web.Request) -> web.StreamResponse:
        asked = decode(await request.read())
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        rest = b""
        async with client.post(url, json={**asked, "stream": True}) as response:
            async for data in response.content.iter_any():
                *frames, rest = (rest + data).split(b"\n\n")
                events = [decode(frame.partition(b"data: ")[2]) for frame in frames]
                deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
                if deltas:
                    await answer.write(b"".join([b"data: " + encode({"delta": delta}) + b"\n\n" for delta in deltas]))
        await answer.write(b'data: {"done":true}\n\n')
        return answer

    async def with_client(app: web.Application) -> AsyncGenerator[None, None]:
        nonlocal client
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as client:
            yield

    app = web.Application()
    app.router.add_post("/chat", chat)
    app.cleanup_ctx.append(with_client)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, backlog=4096)


if __name__ == "__main__":
    subject, given_port, given_endpoint = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if subject == "gateway-peer":
        _peer(given_port)
    else:
        _floor(given_port, given_endpoint)
