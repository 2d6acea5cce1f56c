"""The client of the server's own protocol: what it asks, and how it follows a run across lost connections."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cutting import wire_to
from runstream import Agent, AgentsException, Event, SQLiteSession, UserError, function_tool
from runstream.clock import SystemClock
from runstream.server import create_app
from runstream.server.client import Lost, RequestRefused, Resumed, Resync, ServerClient, ServerUnreachable
from runstream.testing import ScriptedModel, ToolCall, Turn
from runstream.view.run_view import view_of
from serving import serving

WORDS = " ".join(f"word{number}" for number in range(40))


class Hasty(SystemClock):
    """Counts the pauses and does not make them."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []
        self._more = asyncio.Event()

    async def sleep(self, delay_s: float) -> None:
        self.pauses.append(delay_s)
        self._more.set()
        await asyncio.sleep(0.005)

    async def paused(self, times: int) -> None:
        """Wait until there were so many pauses."""
        while len(self.pauses) < times:
            self._more.clear()
            await self._more.wait()


@function_tool(needs_approval=True)
def refund(number: int) -> str:
    """Pay back."""
    return f"refunded {number}"


def text_of(events: list[Any]) -> str:
    return view_of([event for event in events if isinstance(event, Event)]).text


async def test_a_run_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """Agents are named; a run is begun, followed, asked for more, answered, listed and told of; what is refused says
    why."""
    model = ScriptedModel([ToolCall("refund", {"number": 7}), ToolCall("refund", {"number": 8}), "Done.", "Nothing."])
    slow = ScriptedModel([Turn((WORDS,), every_s=0.02)])
    agents = [Agent(name="Desk", tools=[refund], model=model), Agent(name="Other", model=slow)]
    app = create_app(
        agents,
        store=f"sqlite:///{tmp_path}/runs.db",
        tokens={"a-long-enough-token": None},
        session=lambda name: SQLiteSession(name, tmp_path / "s.db"),
    )
    async with serving(app) as url, ServerClient(url + "/", token="a-long-enough-token") as client:
        assert await client.agents() == ["Desk", "Other"]
        run_id = await client.begin("Refund 7.", agent="Desk", session="one")
        events: list[Any] = []
        waiting = 0
        async for found in client.follow(run_id):
            events.append(found)
            if found.kind == "item" and found.data.type == "tool_approval_item":
                waiting += 1
                if waiting == 1:
                    await client.send(run_id, "And quickly.")
                call_id = found.data.raw["call_id"]
                await client.answer(run_id, call_id, approve=waiting == 1, message=None if waiting == 1 else "enough")
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        outputs = [
            event.data.raw["output"] for event in events if event.kind == "item" and event.data.name == "tool_output"
        ]
        assert outputs == ["refunded 7", "enough"]
        assert "input.added" in [event.kind for event in events]
        told = await client.run(run_id)
        assert (told["status"], told["agent"]) == ("completed", "Desk")
        assert [found async for found in client.follow(run_id, told["cursor"])] == []  # 204
        other = await client.begin("Go.", agent="Other")
        follower = client.follow(other)
        async for found in follower:
            if found.kind == "model" and found.data.type == "response.output_text.delta":
                break
        await client.cancel(other)
        assert [found async for found in follower][-1].data.status == "cancelled"
        assert not await client.cancel(other)
        assert [run["run_id"] for run in await client.runs(limit=2)] == [other, run_id]
        with pytest.raises(RequestRefused, match="there is no such run") as refused:
            await client.run("nobody")
        assert (refused.value.status, refused.value.reason, refused.value.retryable) == (404, "run_not_found", False)
        with pytest.raises(RequestRefused, match="say which agent: Desk, Other"):
            await client.begin("x")
        async with ServerClient(url) as stranger:
            with pytest.raises(RequestRefused, match="401 unauthorized"):
                await stranger.runs()


async def test_a_connection_that_is_cut(tmp_path: Path) -> None:
    """In the middle of an answer nothing gets through for a while: no event is lost, none comes twice."""
    model = ScriptedModel([Turn((WORDS,), every_s=0.01)])
    app = create_app(Agent(name="Desk", model=model), store=f"sqlite:///{tmp_path}/runs.db")
    clock = Hasty()
    async with serving(app) as url, wire_to(url) as wire, ServerClient(wire.url, clock=clock) as client:
        follower = client.follow(await client.begin("Go."))
        found: list[Any] = [await anext(follower) for _ in range(12)]
        await wire.cut()
        while not isinstance(found[-1], Lost):
            found.append(await anext(follower))
        reading = asyncio.ensure_future(anext(follower))
        await clock.paused(3)
        await wire.mend()
        found.append(await reading)
        found += [each async for each in follower]
    lost = [each for each in found if not isinstance(each, Event)]
    assert [type(each) for each in lost] == [Lost, Resumed]
    assert lost[0].after == lost[1].after != ""
    events = [each for each in found if isinstance(each, Event)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert text_of(events) == WORDS
    assert events[-1].data.status == "completed"


def frame(seq: int, kind: str = "later.kind", *, epoch: int = 1, data: Any = None) -> bytes:
    record = {"v": 1, "run": "r", "seq": seq, "at": 0.0, "kind": kind, "data": data or {}}
    return f"id: {epoch}-{seq}\ndata: {json.dumps(record)}\n\n".encode()


END = frame(4, "run.end", data={"status": "completed"})
RESYNC = b'id: 2-1\nevent: resync\ndata: {"reason": "other_history", "cursor": "1-3", "after": "2-1"}\n\n'


@asynccontextmanager
async def playing(*answers: bytes | int) -> AsyncGenerator[tuple[str, list[str]]]:
    """A server that gives each request the next of these: the beginning of a stream that then breaks off, or a status;
    and the cursors that it was asked with."""
    asked: list[str] = []
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(request.partition("after=")[2].partition(" ")[0])
        given = left.pop(0)
        if isinstance(given, int):
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % given)
        else:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nContent-Type: text/event-stream\r\n\r\n" + given
            )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", asked


async def test_each_event_once() -> None:
    """Streams break off within a frame, servers fail, repeat themselves, and answer 503: each event comes once, and
    each pause is longer than the one before, until something comes again."""
    clock = Hasty()
    failure = b'event: failure\ndata: {"code": "store_unavailable"}\n\n'
    streams = [
        frame(1) + frame(2)[:-20],
        503,
        b"retry: 1000\n\n: \n\n" + frame(1) + frame(2) + frame(2),
        failure + frame(9),
        b"event: of_a_later_version\ndata: {}\n\n" + frame(2) + frame(3) + END,
    ]
    async with playing(*streams) as (url, asked), ServerClient(url, clock=clock) as client:
        found = [each async for each in client.follow("r")]
    assert [each.seq for each in found if isinstance(each, Event)] == [1, 2, 3, 4]
    assert [type(each).__name__ for each in found if not isinstance(each, Event)] == ["Lost", "Resumed"] * 3
    assert [each.reason for each in found if isinstance(each, Lost)] == [
        "it broke off",
        "it broke off",
        "the server cannot go on: store_unavailable",
    ]
    assert asked == ["", "1-1", "1-1", "1-2", "1-2"]
    assert clock.pauses == [0.25, 0.5, 0.25, 0.5]


async def test_resync() -> None:
    """Where the server says that its log is another one, the events after the given place are new ones."""
    streams = [frame(1) + frame(2) + frame(3), RESYNC + frame(2, epoch=2) + frame(3, epoch=2) + END]
    async with playing(*streams) as (url, _), ServerClient(url, clock=Hasty()) as client:
        follower = client.follow("r")
        found = [each async for each in follower]
    told = next(each for each in found if isinstance(each, Resync))
    assert told == Resync("other_history", "1-3", "2-1")
    assert [each.seq for each in found[found.index(told) :] if isinstance(each, Event)] == [2, 3, 4]
    assert follower.cursor == "1-4"


async def test_when_it_gives_up() -> None:
    """A server that was never there, that does not know the run any more, or that is gone for longer than one has
    patience."""
    async with ServerClient("http://127.0.0.1:9") as client:
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9 cannot be reached: nothing listens there"):
            await anext(client.follow("r"))
        with pytest.raises(ServerUnreachable, match="nothing listens"):
            await client.runs()
    async with playing(frame(1), 404) as (url, _), ServerClient(url, clock=Hasty()) as client:
        follower = client.follow("r")
        with pytest.raises(RequestRefused, match="404"):
            _ = [each async for each in follower]
    async with playing(frame(1), 503) as (url, _), ServerClient(url, clock=Hasty()) as client:
        with pytest.raises(RequestRefused, match="503"):
            _ = [each async for each in client.follow("r", patience_s=0.0)]


async def test_a_newer_server() -> None:
    """What cannot be read is an error of this package."""
    async with playing(frame(1).replace(b'"v": 1', b'"v": 99')) as (url, _), ServerClient(url) as client:
        with pytest.raises(AgentsException, match="version 99"):
            await anext(client.follow("r"))


async def test_misuse() -> None:
    """Said at once: no URL, a client that is not open, a page that is no server of ours."""
    for url in ("localhost:8000", "ftp://x", ""):
        with pytest.raises(UserError, match="is no URL of a server"):
            ServerClient(url)
    with pytest.raises(UserError, match="not open"):
        await ServerClient("http://127.0.0.1:9").runs()
    async with playing(200) as (url, _), ServerClient(url) as client:
        with pytest.raises(ServerUnreachable, match="no runstream server"):
            await client.agents()


def test_it_needs_no_server_installed() -> None:
    """The client does not import what only servers need."""
    names = ("starlette", "uvicorn", "aiohttp")
    code = f"import sys, runstream.server.client; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
