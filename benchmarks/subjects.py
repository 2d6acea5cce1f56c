"""How each subject streams one answer, written as its own documentation shows it.

A subject is an async context manager that yields `ask(model, on_delta)`: ask the endpoint's model for an answer and
hand each text delta to `on_delta`; the two SDKs also take None, which starts the run and reads none of it. Libraries
are imported inside, because every subject runs in an environment that holds its own.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from typing import Any, TypeAlias

__all__ = ["SUBJECTS", "Ask", "OnDelta", "OpenSubject"]

OnDelta: TypeAlias = Callable[[str], None]
Ask: TypeAlias = Callable[[str, OnDelta | None], Awaitable[None]]
OpenSubject: TypeAlias = Callable[[str, str], AbstractAsyncContextManager[Ask]]

QUESTION = "Why is the sky blue?"


@asynccontextmanager
async def _sdk(module: str, base_url: str, api: str) -> AsyncGenerator[Ask, None]:
    """runstream and openai-agents: the same program under two import names. The address is in the environment."""
    sdk = importlib.import_module(module)
    from openai.types.responses import ResponseTextDeltaEvent

    def look_up(topic: str) -> str:
        """Look a topic up."""
        return topic

    tools = [sdk.function_tool(look_up)]

    @cache
    def agent(model: str) -> Any:
        return sdk.Agent(name="Assistant", instructions="Answer briefly.", model=model, tools=tools)

    async def ask(model: str, on_delta: OnDelta | None) -> None:
        result = sdk.Runner.run_streamed(agent(model), QUESTION)
        if on_delta is None:
            while not result.is_complete:  # noqa: ASYNC110 - the one way to wait that both have
                await asyncio.sleep(0.02)
            return
        async for event in result.stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                on_delta(event.data.delta)

    sdk.set_default_openai_api("chat_completions" if api == "chat" else "responses")
    try:
        yield ask
    finally:
        sdk.set_default_openai_api("responses")


@asynccontextmanager
async def _openai(base_url: str, api: str) -> AsyncGenerator[Ask, None]:
    """The official client and its own iterator of typed events; no agent, no tools."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=base_url) as client:

        async def ask_responses(model: str, on_delta: OnDelta | None) -> None:
            assert on_delta is not None
            async for event in await client.responses.create(model=model, input=QUESTION, stream=True):
                if event.type == "response.output_text.delta":
                    on_delta(event.delta)

        async def ask_chat(model: str, on_delta: OnDelta | None) -> None:
            assert on_delta is not None
            messages: Any = [{"role": "user", "content": QUESTION}]
            async for chunk in await client.chat.completions.create(model=model, messages=messages, stream=True):
                if chunk.choices and chunk.choices[0].delta.content:
                    on_delta(chunk.choices[0].delta.content)

        yield ask_chat if api == "chat" else ask_responses


@asynccontextmanager
async def _aiohttp(base_url: str, api: str) -> AsyncGenerator[Ask, None]:
    """The floor: read, cut at blank lines, decode each frame's JSON into dicts. What no typed stream can beat."""
    import aiohttp
    import msgspec

    decode = msgspec.json.Decoder().decode
    url = f"{base_url}/responses"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session:

        async def ask(model: str, on_delta: OnDelta | None) -> None:
            assert on_delta is not None
            rest = b""
            async with session.post(url, json={"model": model, "input": QUESTION, "stream": True}) as response:
                response.raise_for_status()
                async for data in response.content.iter_any():
                    *frames, rest = (rest + data).split(b"\n\n")
                    for frame in frames:
                        event = decode(frame.partition(b"\ndata: ")[2])
                        if event["type"] == "response.output_text.delta":
                            on_delta(event["delta"])

        yield ask


@asynccontextmanager
async def _pydantic_ai(base_url: str, api: str) -> AsyncGenerator[Ask, None]:
    from pydantic_ai import Agent, PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=base_url)
    model_class: Any = OpenAIChatModel if api == "chat" else OpenAIResponsesModel

    @cache
    def agent(model: str) -> Any:
        return Agent(model_class(model, provider=provider), instructions="Answer briefly.")

    async def ask(model: str, on_delta: OnDelta | None) -> None:
        assert on_delta is not None
        async with agent(model).run_stream_events(QUESTION) as events:
            async for event in events:
                if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                    on_delta(event.delta.content_delta)
                elif isinstance(event, PartStartEvent) and isinstance(event.part, TextPart) and event.part.content:
                    on_delta(event.part.content)  # the first delta comes as the start of its part

    yield ask


@asynccontextmanager
async def _langgraph(base_url: str, api: str) -> AsyncGenerator[Ask, None]:
    from langchain.agents import create_agent
    from langchain_core.messages import AIMessageChunk
    from langchain_openai import ChatOpenAI

    @cache
    def agent(model: str) -> Any:
        chat_model = ChatOpenAI(model=model, base_url=base_url, use_responses_api=api != "chat", streaming=True)
        return create_agent(chat_model, tools=[], system_prompt="Answer briefly.")

    async def ask(model: str, on_delta: OnDelta | None) -> None:
        assert on_delta is not None
        question = {"messages": [{"role": "user", "content": QUESTION}]}
        async for chunk, _ in agent(model).astream(question, stream_mode="messages"):
            # The whole text comes once more at the end, as a chunk of its own that has a last position.
            if isinstance(chunk, AIMessageChunk) and chunk.text and chunk.chunk_position != "last":
                on_delta(chunk.text)

    yield ask


SUBJECTS: dict[str, OpenSubject] = {
    "runstream": partial(_sdk, "runstream"),
    "openai-agents": partial(_sdk, "agents"),
    "openai": _openai,
    "aiohttp": _aiohttp,
    "pydantic-ai": _pydantic_ai,
    "langgraph": _langgraph,
}
