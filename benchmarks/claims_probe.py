"""What one subject does where its users struggle: `python -m benchmarks.claims_probe SUBJECT` prints it as JSON.

The same program for every subject, against the names that runstream and openai-agents share. It runs in the subject's
environment, so it needs the standard library and the subject only. Nothing leaves the process: the model is a script.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

__all__ = ["CLAIMS", "observe"]

WORDS = 20
EVERY_S = 0.05
SLOW_S = 0.6


class Subject:
    """The library under its module's name, with what the claims need of it."""

    def __init__(self, module: str) -> None:
        os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"  # else openai-agents sends what it ran to its maker
        self.api = importlib.import_module(module)

    def agent(self, model: Script, **fields: Any) -> Any:
        """An agent on this model, which becomes one of the library's."""
        base = self.api.Model
        made = type("ScriptModel", (base,), {"stream_response": model.stream, "get_response": model.answer})()
        return self.api.Agent(name="Ann", model=made, **fields)


class Script:
    """A model that says these outputs, one a turn: a text comes word by word."""

    def __init__(self, api: Any, *turns: list[dict[str, Any]]) -> None:
        self.api = api
        self.turns = list(turns)
        self.said = 0
        self.closed_early = False

    async def answer(self, *_: Any, **__: Any) -> Any:
        """The next turn at once."""
        return self.api.ModelResponse(
            output=[_official(item) for item in self.turns.pop(0)], usage=self.api.Usage(), response_id=None
        )

    async def stream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """The next turn, event by event."""
        from openai.types import responses

        turn, number = self.turns.pop(0), 0
        try:
            for index, item in enumerate(turn):
                for word in item["content"][0]["text"].split() if item["type"] == "message" else ():
                    yield responses.ResponseTextDeltaEvent(
                        type="response.output_text.delta",
                        item_id=item["id"],
                        output_index=index,
                        content_index=0,
                        delta=word + " ",
                        logprobs=[],
                        sequence_number=(number := number + 1),
                    )
                    self.said += 1
                    await asyncio.sleep(EVERY_S)
            yield responses.ResponseCompletedEvent.model_validate(
                {"type": "response.completed", "sequence_number": number + 1, "response": _response(turn)}
            )
        except BaseException:
            self.closed_early = True
            raise


def _response(output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": "script",
        "status": "completed",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "output": output,
    }


def _official(item: dict[str, Any]) -> Any:
    from openai.types.responses import Response

    return Response.model_validate(_response([item])).output[0]


def _text() -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "output_text", "text": " ".join(["word"] * WORDS), "annotations": []}]
    return {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": content}


def _call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "id": f"f_{name}", "call_id": f"c_{name}", "name": name, "arguments": "{}"}


def _is_delta(event: Any) -> bool:
    return event.type == "raw_response_event" and event.data.type == "response.output_text.delta"


async def leave_by_break(subject: Subject) -> str:
    """`break` out of the loop."""
    model = Script(subject.api, [_text()])
    result = subject.api.Runner.run_streamed(subject.agent(model), "hi")
    async for event in result.stream_events():
        if _is_delta(event):
            break
    await asyncio.sleep(2 * WORDS * EVERY_S)
    if model.said == WORDS:
        return "the run goes on to its end"
    return "the run is cancelled, the model's stream is closed" if model.closed_early else "the run stands still"


async def time_out_a_read(subject: Subject) -> str:
    """`asyncio.wait_for(anext(stream), ...)` times out."""
    gate = asyncio.Event()

    async def slow() -> str:
        await gate.wait()
        return "done"

    tool = subject.api.function_tool(slow)
    model = Script(subject.api, [_call("slow")], [_text()])
    result = subject.api.Runner.run_streamed(subject.agent(model, tools=[tool]), "hi")
    stream = result.stream_events()
    try:
        while True:
            await asyncio.wait_for(anext(stream), 0.2)
    except TimeoutError:
        gate.set()
    rest = [event async for event in stream]
    return "the next read goes on where it was" if any(map(_is_delta, rest)) else "the stream ends, silently"


async def read_twice(subject: Subject) -> str:
    """A second reader, after the first."""
    result = subject.api.Runner.run_streamed(subject.agent(Script(subject.api, [_text()])), "hi")
    first = [event async for event in result.stream_events()]
    try:
        second = await asyncio.wait_for(_read(result), 2.0)
    except TimeoutError:
        return "waits for ever"
    if len(second) == len(first):
        return "sees every event"
    return f"sees {len(second)} of {len(first)} events" if second else "gets nothing"


async def read_side_by_side(subject: Subject) -> str:
    """A second reader, beside the first."""
    result = subject.api.Runner.run_streamed(subject.agent(Script(subject.api, [_text()])), "hi")
    reading = [asyncio.ensure_future(_read(result)) for _ in range(2)]
    await asyncio.wait(reading, timeout=4 * WORDS * EVERY_S)
    stuck = [task for task in reading if not task.done()]
    counts = [len(task.result()) for task in reading if task.done()]
    for task in stuck:
        task.cancel()
    if stuck:
        return "one of them waits for ever" if len(stuck) == 1 else "both wait for ever"
    return "both see every event" if counts[0] == counts[1] > WORDS else "the events are split among them"


async def _read(result: Any) -> list[Any]:
    return [event async for event in result.stream_events()]


async def tools_side_by_side(subject: Subject) -> str:
    """A fast tool beside a slow one."""

    async def fast() -> str:
        return "fast"

    async def slow() -> str:
        await asyncio.sleep(SLOW_S)
        return "slow"

    tools = [subject.api.function_tool(fast), subject.api.function_tool(slow)]
    model = Script(subject.api, [_call("fast"), _call("slow")], [_text()])
    result = subject.api.Runner.run_streamed(subject.agent(model, tools=tools), "hi")
    seen: dict[str, float] = {}
    async for event in result.stream_events():
        if event.type == "run_item_stream_event" and event.name == "tool_output":
            seen[event.item.output] = time.monotonic()
    apart_s = seen["slow"] - seen["fast"]
    return "its output comes when it ends" if apart_s > SLOW_S / 2 else "its output comes with the slow one's"


async def cancel_in_a_text(subject: Subject) -> str:
    """`cancel()` in the middle of a text."""
    session = subject.api.SQLiteSession("s")
    result = subject.api.Runner.run_streamed(subject.agent(Script(subject.api, [_text()])), "hi", session=session)
    async for event in result.stream_events():
        if _is_delta(event):
            result.cancel()
    await asyncio.sleep(0.2)
    roles = [(item["role"], item.get("status")) for item in await session.get_items()]
    session.close()
    if roles == [("user", None), ("assistant", "incomplete")]:
        return "the partial message is saved, marked incomplete"
    return "only the user's message is saved" if roles == [("user", None)] else f"the session has {roles}"


async def run_in_a_running_loop(subject: Subject) -> str:
    """`run_sync` where a loop runs already (a notebook)."""
    try:
        subject.api.Runner.run_sync(subject.agent(Script(subject.api, [_text()])), "hi")
    except RuntimeError:
        return "raises RuntimeError"
    return "works"


CLAIMS: dict[str, Callable[[Subject], Coroutine[Any, Any, str]]] = {
    "`break` out of the loop": leave_by_break,
    "`asyncio.wait_for(anext(stream), 0.2)` times out": time_out_a_read,
    "a second reader, after the first": read_twice,
    "a second reader, beside the first": read_side_by_side,
    "a fast tool beside a slow one": tools_side_by_side,
    "cancel in the middle of a text": cancel_in_a_text,
    "`run_sync` in a notebook": run_in_a_running_loop,
}


def observe(module: str) -> dict[str, str]:
    """What the library of that module does, by claim."""
    subject = Subject(module)
    return {claim: asyncio.run(asyncio.wait_for(try_it(subject), 30.0)) for claim, try_it in CLAIMS.items()}


if __name__ == "__main__":
    print(json.dumps(observe({"runstream": "runstream", "openai-agents": "agents"}[sys.argv[1]])))
