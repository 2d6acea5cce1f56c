"""Runs over HTTP, through real sockets: begin, follow, come again, stop, answer, list, delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from runstream import Agent, LoadLimits, RunConfig, Runner, function_tool, open_store
from runstream.server import Limits, create_app
from runstream.server.app import service_of
from runstream.testing import ScriptedModel, ToolCall, Turn
from runstream.view.run_view import view_of
from serving import Client, Frame, all_frames, frames_of, serving

WORDS = " ".join(f"word{number}" for number in range(40))


@function_tool(needs_approval=True)
def refund(number: int) -> str:
    """Pay back."""
    return f"refunded {number}"


@function_tool
async def hold() -> str:
    """Take long."""
    await asyncio.sleep(60)
    return "held"


def desk(name: str = "Desk") -> Agent[Any]:
    return Agent(name=name, instructions="SECRET", model=ScriptedModel(["Hello there."], repeat=True))


def slow(every_s: float = 0.02) -> Agent[Any]:
    return Agent(name="Slow", model=ScriptedModel([Turn((WORDS,), every_s=every_s)], repeat=True))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


def text_of(frames: list[Frame]) -> str:
    return "".join(
        frame.data["data"]["delta"]
        for frame in frames
        if frame.data.get("kind") == "model" and frame.data["data"]["type"] == "response.output_text.delta"
    )


def seqs(frames: list[Frame]) -> list[int]:
    return [frame.data["seq"] for frame in frames]


async def take(response: aiohttp.ClientResponse, count: int) -> list[Frame]:
    """The first so many events."""
    found: list[Frame] = []
    async for frame in frames_of(response):
        found.append(frame)
        if len(found) == count:
            break
    return found


async def until(client: Client, run_id: str, *statuses: str) -> dict[str, Any]:
    """The snapshot, once the run has one of these statuses."""
    while True:
        status, shown = await client.json("GET", f"/runs/{run_id}")
        assert status == 200
        if shown["status"] in statuses:
            return shown
        await asyncio.sleep(0.01)


async def test_a_run_streams_at_once(store: str) -> None:
    """The answer is the run: all of its events, to the end, under cursors that other routes know."""
    async with serving(create_app(desk(), store=store)) as url, Client(url) as client:
        async with client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream") as response:
            headers = response.headers
            frames = await all_frames(response)
        assert headers["Content-Type"].startswith("text/event-stream")
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in headers
        assert "Access-Control-Allow-Origin" not in headers
        run_id = headers["Runstream-Run-Id"]
        assert (frames[0].data["kind"], frames[-1].data["kind"]) == ("run.start", "run.end")
        assert seqs(frames) == list(range(1, len(frames) + 1))
        assert text_of(frames) == "Hello there."
        assert {frame.data["run"] for frame in frames} == {run_id}
        assert "SECRET" not in json.dumps([frame.data for frame in frames])
        again = await client.events(run_id)
        assert [(frame.id, frame.data) for frame in again] == [(frame.id, frame.data) for frame in frames]


async def test_a_run_that_nobody_reads_goes_on(store: str) -> None:
    """POST answers with the id; the snapshot is the view of the stored events."""
    async with serving(create_app(desk(), store=store)) as url, Client(url) as client:
        async with client.ask("POST", "/runs", {"input": "hi"}) as response:
            assert response.status == 201
            begun = await response.json()
            assert response.headers["Location"] == f"/runs/{begun['run_id']}"
        shown = await until(client, begun["run_id"], "completed")
        assert (shown["agent"], shown["view"]["final_output"]) == ("Desk", "Hello there.")
        result = await Runner.attach(begun["run_id"], store=store)
        whole = view_of([event async for event in result.events()]).to_json()
        assert (await client.json("GET", f"/runs/{begun['run_id']}"))[1]["view"] == whole
        assert await client.events(begun["run_id"], shown["cursor"]) == []


async def test_a_reader_that_comes_again_at_every_event(store: str) -> None:
    """From every cursor, by header or query, live or later: each event once, in order."""
    async with serving(create_app(slow(0.005), store=store)) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        path = f"/runs/{begun['run_id']}/events"
        seen: list[Frame] = []
        while not seen or seen[-1].data["kind"] != "run.end":
            headers = {"Last-Event-ID": seen[-1].id} if seen else {}
            async with client.get(path, headers=headers) as response:
                seen += await take(response, 3)
        assert seqs(seen) == list(range(1, len(seen) + 1))
        assert text_of(seen) == WORDS
        for frame in seen[::7]:
            rest = await client.events(begun["run_id"], frame.id or "")
            assert [later.id for later in rest] == [later.id for later in seen[frame.data["seq"] :]]
        async with client.get(path, params={"after": seen[-1].id}) as response:
            assert response.status == 204


async def test_a_hundred_readers_cost_one_encode(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many read a run that is carried out here, its events are encoded once, and not decoded at all."""
    from runstream.server import channel, reader
    from runstream.server.protocols import native

    encoded: list[int] = []
    encode = native.encode

    def counted(events: Any, epoch: int) -> bytes:
        encoded.extend(event.seq for event in events)
        return encode(events, epoch)

    monkeypatch.setattr(channel.native, "encode", counted)
    decoded: list[str] = []
    monkeypatch.setattr(reader, "decode_segment", lambda *args: decoded.append("segment"))
    app = create_app(slow(), store=store)
    async with serving(app) as url, Client(url) as client:
        asking = client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream")
        async with asking as first:
            run_id = first.headers["Runstream-Run-Id"]
            hub = service_of(app).hub
            (asking_one,) = hub._readers[run_id]
            start = asking_one.cursor  # what it has already may have left the ring
            readers = [hub.open(run_id, start) for _ in range(100)]
            for each in readers:
                each.join()

            async def read(each: Any) -> list[int]:
                found: list[int] = []
                while not each.ended:
                    found += [event.seq for batch in await each.next() for event in batch.events]
                each.close()
                return found

            reading = [asyncio.create_task(read(each)) for each in readers]
            frames = await all_frames(first)
            for task in reading:
                assert await task == [seq for seq in seqs(frames) if seq > start]
    assert start < len(frames) / 2
    assert encoded == seqs(frames)
    assert decoded == []


async def test_two_servers_of_one_store(store: str) -> None:
    """A run is read, stopped and answered from a server that does not carry it out."""
    async with (
        serving(create_app(slow(0.05), store=store)) as one,
        serving(create_app(slow(), store=store)) as other,
        Client(one) as here,
        Client(other) as there,
    ):
        _, begun = await here.json("POST", "/runs", {"input": "hi"})
        run_id = begun["run_id"]
        async with there.get(f"/runs/{run_id}/events") as response:
            seen = [frame async for frame in _cancelling(response, there, run_id)]
        assert seen[-1].data["data"]["status"] == "cancelled"
        assert seqs(seen) == list(range(1, len(seen) + 1))


async def _cancelling(response: aiohttp.ClientResponse, client: Client, run_id: str) -> AsyncIterator[Frame]:
    asked = False
    async for frame in frames_of(response):
        yield frame
        if frame.data["seq"] > 8 and not asked:
            asked = True
            status, answer = await client.json("POST", f"/runs/{run_id}/cancel", {})
            assert (status, answer["accepted"]) == (202, True)


async def test_cancelling_stops_the_model(store: str) -> None:
    """The run ends as cancelled, its tool is stopped; a second time there is nothing to stop."""
    agent = Agent(name="Holder", model=ScriptedModel([[ToolCall("hold")]]), tools=[hold])
    async with serving(create_app(agent, store=store)) as url, Client(url) as client:
        async with client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream") as response:
            run_id = response.headers["Runstream-Run-Id"]
            async for frame in frames_of(response):
                if frame.data["kind"] == "item" and frame.data["data"]["type"] == "tool_call_item":
                    assert (await client.json("POST", f"/runs/{run_id}/cancel", {"mode": "immediate"}))[0] == 202
                last = frame
            assert last.data["data"]["status"] == "cancelled"
        again = await client.json("POST", f"/runs/{run_id}/cancel", {})
        assert again == (200, {"run_id": run_id, "accepted": False})
        assert (await client.json("POST", f"/runs/{run_id}/cancel", {"mode": "never"}))[0] == 422


async def test_a_reader_that_goes_away_stops_nothing(store: str) -> None:
    """Nor does it leave anything behind."""
    app = create_app(slow(), store=store)
    async with serving(app) as url, Client(url) as client:
        async with client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream") as response:
            run_id = response.headers["Runstream-Run-Id"]
            await take(response, 4)
            response.close()
        hub = service_of(app).hub
        while hub.reader_count:  # noqa: ASYNC110 (the server has no event for it)
            await asyncio.sleep(0.005)
        shown = await until(client, run_id, "completed")
        assert shown["view"]["final_output"] == WORDS


async def test_approval_over_http(store: str) -> None:
    """A call waits for its answer, which is given once."""
    model = ScriptedModel([[ToolCall("refund", {"number": 7}, call_id="c1")], "Done."])
    agent = Agent(name="Cashier", model=model, tools=[refund])
    async with serving(create_app(agent, store=store)) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        path = f"/runs/{begun['run_id']}/approvals"
        await until(client, begun["run_id"], "waiting")
        assert (await client.json("POST", path, {"call_id": "c9", "approve": True}))[0] == 409
        assert (await client.json("POST", path, {"call_id": "c1", "approve": True}))[0] == 202
        shown = await until(client, begun["run_id"], "completed")
        assert shown["view"]["final_output"] == "Done."
        assert (await client.json("POST", path, {"call_id": "c1", "approve": True}))[0] == 409


async def test_input_while_the_run_goes_on(store: str) -> None:
    """What is said meanwhile is in the log; after the end it is refused."""
    model = ScriptedModel([[ToolCall("refund", {"number": 7}, call_id="c1")], "Done."])
    agent = Agent(name="Cashier", model=model, tools=[refund])
    async with serving(create_app(agent, store=store)) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        run_id = begun["run_id"]
        await until(client, run_id, "waiting")
        assert (await client.json("POST", f"/runs/{run_id}/input", {"input": "And hurry."}))[0] == 202
        await client.json("POST", f"/runs/{run_id}/approvals", {"call_id": "c1", "approve": False, "message": "no"})
        await until(client, run_id, "completed")
        kinds = [frame.data["kind"] for frame in await client.events(run_id)]
        assert "input.added" in kinds
        assert (await client.json("POST", f"/runs/{run_id}/input", {"input": "late"}))[0] == 409


async def test_lists_and_deleting(store: str) -> None:
    """The newest first, by status and agent; what was deleted is gone, and its readers are told."""
    async with serving(create_app([desk(), slow()], store=store)) as url, Client(url) as client:
        done = (await client.stream({"input": "hi", "agent": "Desk"}))[0].data["run"]
        _, begun = await client.json("POST", "/runs", {"input": "hi", "agent": "Slow"})
        status, listed = await client.json("GET", "/runs")
        assert (status, [run["run_id"] for run in listed["runs"]]) == (200, [begun["run_id"], done])
        _, listed = await client.json("GET", "/runs?status=completed&agent=Desk&limit=5")
        assert [run["run_id"] for run in listed["runs"]] == [done]
        for wrong in ("limit=0", "limit=x", "limit=99999", "status=odd"):
            assert (await client.json("GET", f"/runs?{wrong}"))[0] == 422
        async with client.get(f"/runs/{begun['run_id']}/events") as response:
            await take(response, 3)
            assert (await client.json("DELETE", f"/runs/{begun['run_id']}"))[0] == 204
            left = await all_frames(response)
            assert (left[-1].event, left[-1].data["code"]) == ("failure", "run_not_found")
        assert (await client.json("GET", f"/runs/{begun['run_id']}"))[0] == 404
        assert (await client.json("DELETE", f"/runs/{begun['run_id']}"))[0] == 404


async def test_cursors_that_are_no_place_in_the_log(store: str) -> None:
    """A `resync` says why, and where the stream goes on; then it does."""
    async with serving(create_app(desk(), store=store)) as url, Client(url) as client:
        frames = await client.stream({"input": "hi"})
        run_id, count = frames[0].data["run"], len(frames)
        epoch = (frames[0].id or "").partition("-")[0]
        for cursor, reason, after in (
            ("nonsense", "malformed", "0-0"),
            (f"{epoch}-{count + 9}", "ahead", f"{epoch}-{count}"),
            ("7-3", "other_history", "0-0"),
        ):
            resync, *rest = await client.events(run_id, cursor)
            assert (resync.event, resync.data["reason"], resync.data["after"]) == ("resync", reason, after)
            assert resync.id == after
            assert seqs(rest) == list(range(int(after.partition("-")[2]) + 1, count + 1))


async def test_a_log_that_was_trimmed(store: str) -> None:
    """Who asks for what is no longer kept goes on with the oldest event that is."""
    opened = open_store(store)
    async with serving(create_app(slow(0.0), store=opened)) as url, Client(url) as client:
        frames = await client.stream({"input": "hi"})
        run_id = frames[0].data["run"]
        first = await opened.trim(run_id, 20)
        if first == 1:
            pytest.skip("the store kept it in one piece")
        resync, *rest = await client.events(run_id)
        assert (resync.data["reason"], seqs(rest)[0]) == ("expired", first)
        status, shown = await client.json("GET", f"/runs/{run_id}")
        assert (status, shown["view"]["status"]) == (200, "completed")
    await opened.aclose()


async def test_websockets_carry_the_same(store: str) -> None:
    """Ids and data of each message are those of the frames; then the connection is closed."""
    async with serving(create_app(slow(0.005), store=store)) as url, Client(url) as client:
        frames = await client.stream({"input": "hi"})
        run_id = frames[0].data["run"]
        async with client.ws_connect(f"/runs/{run_id}/ws", params={"after": frames[3].id}) as socket:
            messages = [json.loads(message.data) async for message in socket]
            assert socket.close_code == 1000
        assert [(message["id"], message["data"]) for message in messages] == [
            (frame.id, frame.data) for frame in frames[4:]
        ]
        async with client.ws_connect(f"/runs/{run_id}/ws", params={"after": "x"}) as socket:
            assert (await socket.receive_json())["event"] == "resync"


async def test_sessions_are_apart(store: str, tmp_path: Path) -> None:
    """A conversation goes on by its name; another owner's of the same name is another one."""
    from runstream import SQLiteSession

    asked: list[int] = []

    def answer(call: Any) -> str:
        asked.append(len(call.input))
        return "ok"

    agent = Agent(name="Desk", model=ScriptedModel([answer] * 3))
    tokens = {"a" * 20: "ann", "b" * 20: "bob"}
    app = create_app(
        agent, store=store, tokens=tokens, session=lambda name: SQLiteSession(name, tmp_path / "sessions.db")
    )
    async with serving(app) as url, Client(url) as client:
        for token in ("a", "a", "b"):
            await client.stream({"input": "hi", "session": "mine"}, Authorization=f"Bearer {token * 20}")
        assert asked == [1, 3, 1]
        refused = await client.json("POST", "/runs", {"input": "x", "session": ""}, Authorization=f"Bearer {'a' * 20}")
        assert refused[0] == 422


async def test_heartbeats(store: str) -> None:
    """A stream in which nothing happens is heard of."""
    agent = Agent(name="Holder", model=ScriptedModel([[ToolCall("hold")]]), tools=[hold])
    async with serving(create_app(agent, store=store, heartbeat_s=0.1, drain_s=0.0)) as url, Client(url) as client:
        asking = client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream")
        async with asking as response:
            text = b""
            async with asyncio.timeout(10.0):
                while b": \n\n" not in text:
                    text += await response.content.readany()
            before, _, after = text.partition(b": \n\n")
            assert b'"item"' in before  # the call, which nobody answers
            assert b"data:" not in after
            await client.json("POST", f"/runs/{response.headers['Runstream-Run-Id']}/cancel", {})


async def test_a_slow_reader_is_sent_back_to_the_store(store: str) -> None:
    """Who falls out of what is kept for all reads the store, and has everything in the end."""
    app = create_app(slow(0.002), store=store, limits=Limits(ring_bytes=2000))
    async with serving(app) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        hub = service_of(app).hub
        reader, other = hub.open(begun["run_id"], 0), hub.open(begun["run_id"], 0)
        reader.join()
        other.join()
        found = [event.seq for batch in await reader.next() for event in batch.events]
        last = [event.seq for batch in await other.next() for event in batch.events]
        while not other.ended:
            last += [event.seq for batch in await other.next() for event in batch.events]
        while not reader.ended:
            found += [event.seq for batch in await reader.next() for event in batch.events]
        assert found == last == list(range(1, last[-1] + 1))
        reader.close()
        other.close()


async def test_errors_of_a_run_are_its_end(store: str) -> None:
    """A model that fails ends the run and the stream, in order."""
    agent = Agent(name="Desk", model=ScriptedModel([ValueError("Bearer abcdefgh12345")]))
    async with serving(create_app(agent, store=store, run_config=RunConfig())) as url, Client(url) as client:
        frames = await client.stream({"input": "hi"})
        end = frames[-1].data["data"]
        assert (end["status"], end["error"]["type"]) == ("failed", "ValueError")
        assert "abcdefgh" not in json.dumps(end)


async def test_runs_in_a_queue(store: str) -> None:
    """Each reader, and a snapshot, sees where its run stands; what would find no place in the queue is refused."""
    opened = asyncio.Event()

    @function_tool
    async def gate() -> str:
        """Wait."""
        await opened.wait()
        return "through"

    config = RunConfig(load_limits=LoadLimits(max_runs=1, max_queue=2))
    agent = Agent(name="Slow", tools=[gate], model=ScriptedModel([ToolCall("gate")], default="Done."))
    async with serving(create_app(agent, store=store, run_config=config)) as url, Client(url) as client:
        ids = [(await client.json("POST", "/runs", {"input": "x"}))[1]["run_id"] for _ in range(3)]
        async with client.get(f"/runs/{ids[2]}/events") as response, client.get(f"/runs/{ids[1]}/events") as second:
            frames = frames_of(response)
            seen = [await anext(frames) for _ in range(2)]
            assert (seen[1].data["kind"], seen[1].data["data"]) == ("run.queued", {"position": 2})
            status, answer = await client.json("POST", "/runs", {"input": "x"})
            assert (status, answer["error"]["code"]) == (429, "too_many_runs")
            view = (await client.json("GET", f"/runs/{ids[2]}"))[1]["view"]
            assert (view["status"], view["queue_position"], view["entries"][0]["text"]) == ("running", 2, "x")
            opened.set()
            told = [await all_frames(second), seen + [frame async for frame in frames]]
    positions = [
        [frame.data["data"]["position"] for frame in frames if frame.data["kind"] == "run.queued"] for frames in told
    ]
    assert positions == [[1, 0], [2, 1, 0]]
    assert [frames[-1].data["data"]["status"] for frames in told] == ["completed"] * 2
