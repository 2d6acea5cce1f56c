"""The official OpenAI clients, in Python and JavaScript, against the server over real sockets; agents of agents."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError

from node_tools import node as node
from node_tools import run_client
from openai_strict import TERMINAL, check_grammar
from protocol_logs import logs
from runstream import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from runstream.log.open_store import open_store
from runstream.server import Limits, create_app, openai_routes
from runstream.server.app import service_of
from runstream.server.channel import Batch
from runstream.server.protocols.chat_completions import ChatEncoding
from runstream.server.protocols.responses import ResponsesEncoding
from runstream.sessions.memory import InMemorySession
from runstream.testing import ModelCall, Raise, ScriptedModel, ToolCall, Turn
from serving import Client, serving

pytestmark = pytest.mark.system

WORDS = " ".join(f"word{number}" for number in range(50))


@function_tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


@function_tool(needs_approval=True)
async def refund(number: int) -> str:
    """Pay back."""
    return f"refunded {number}"


def in_turns(first: list[Any], then: str) -> ScriptedModel:
    """Answers with `first` what a person has said, with `then` what tools have: whoever else asks meanwhile."""

    def answer(call: ModelCall) -> Any:
        before = [item for item in call.input if item.get("role") != "user"]
        return then if before and before[-1]["type"] == "function_call_output" else first

    return ScriptedModel([answer], repeat=True)


def agents() -> list[Agent[Any]]:
    desk = in_turns(["Let me see.", ToolCall("weather", {"city": "Oslo"})], "It is sunny.")
    refunds = [ToolCall("refund", {"number": number}) for number in (1, 2)]
    payer = in_turns([*refunds, ToolCall("weather", {"city": "x"})], "Done.")
    return [
        Agent(name="Desk", tools=[weather], model=desk),
        Agent(name="Slow", model=ScriptedModel([Turn((WORDS,), every_s=0.02)], repeat=True)),
        Agent(name="Payer", tools=[refund, weather], model=payer),
        Agent(
            name="Failing",
            model=ScriptedModel([Turn(("So far",), fault=Raise(RuntimeError("no more"), after="end"))], repeat=True),
        ),
    ]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@asynccontextmanager
async def served(store: str, **options: Any) -> AsyncIterator[tuple[str, AsyncOpenAI]]:
    """The URL of a server, and a client of it."""
    async with serving(create_app(agents(), store=store, **options)) as url, client_of(url) as client:
        yield url, client


def client_of(url: str, token: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, timeout=20)


async def newest(http: Client, *statuses: str) -> str:
    """The id of the newest run, once it has one of these statuses."""
    while True:
        runs = (await http.json("GET", "/runs?limit=1"))[1]["runs"]
        if runs and runs[0]["status"] in statuses:
            return runs[0]["run_id"]
        await asyncio.sleep(0.01)


async def text_of(client: AsyncOpenAI, model: str, found: list[str]) -> None:
    """The text of a streamed completion, as it comes."""
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    async for chunk in await client.chat.completions.create(model=model, messages=messages, stream=True):
        found += [choice.delta.content or "" for choice in chunk.choices]


async def test_responses(store: str) -> None:
    """Whole and streamed, retrieved and gone on with from every number, continued, listed, deleted."""
    async with served(store) as (_, client):
        whole = await client.responses.create(model="Desk", input="hi", metadata={"a": "b"})
        assert (whole.status, whole.output_text, whole.metadata) == (
            "completed",
            "Let me see.It is sunny.",
            {"a": "b"},
        )
        async with client.responses.stream(model="Desk", input="hi") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert events[-1].type == "response.completed"
        raw = [event async for event in await client.responses.retrieve(final.id, stream=True)]
        check_grammar(raw)
        assert (await client.responses.retrieve(final.id)).to_dict() == raw[-1].response.to_dict()
        for after in (0, 7, len(raw) - 2, len(raw) - 1):
            rest = [
                event async for event in await client.responses.retrieve(final.id, stream=True, starting_after=after)
            ]
            assert rest == raw[after + 1 :]
        assert await client.responses.retrieve(whole.id) == whole
        more = await client.responses.create(model="Desk", input="again", previous_response_id=final.id)
        assert more.previous_response_id == final.id
        assert await client.responses.retrieve(more.id) == more
        items = await client.responses.input_items.list(more.id, order="asc", limit=100)
        shown = [(item.role, item.content[0].text) for item in items.data]
        assert shown == [
            ("user", "hi"),
            ("assistant", "Let me see."),
            ("assistant", "It is sunny."),
            ("user", "again"),
        ]
        await client.responses.delete(final.id)
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(final.id)


async def test_who_goes_away_stops_what_nobody_else_gets(store: str) -> None:
    """A stream, an answer and a completion are stopped with their client; a response in the background goes on, and
    who reads it along stops nothing."""
    async with served(store) as (url, client), Client(url) as http:
        for path, body in (
            ("/v1/responses", {"input": "hi", "stream": True}),
            ("/v1/responses", {"input": "hi"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
        ):
            request = http.ask("POST", path, {"model": "Slow", **body})
            leaving = asyncio.create_task(_leave(request))
            run_id = await newest(http, "running")
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            assert await newest(http, "completed", "failed", "cancelled") == run_id
            assert (await http.json("GET", f"/runs/{run_id}"))[1]["status"] == "cancelled"
        begun = await client.responses.create(model="Slow", input="hi", background=True)
        assert (begun.status, begun.background) == ("in_progress", True)
        stream = await client.responses.retrieve(begun.id, stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        assert (await client.responses.retrieve(begun.id)).status == "in_progress"
        cancelled = await client.responses.cancel(begun.id)
        assert cancelled.status == "cancelled"
        assert cancelled.output_text in WORDS
        assert (await client.responses.cancel(begun.id)).status == "cancelled"


async def _leave(request: Any) -> None:
    async with request as response:
        async for _ in response.content.iter_any():
            pass


async def test_a_response_outlives_its_server(store: str) -> None:
    """Another server of the same store goes on with it, and with its stream, from any number."""
    seen: list[Any] = []
    async with served(store, drain_s=0) as (_, client):
        stream = await client.responses.create(model="Slow", input="hi", background=True, stream=True)
        async for event in stream:
            seen.append(event)
            if event.sequence_number == 12:
                break
        await stream.close()
    response_id = seen[0].response.id
    async with served(store) as (_, client):
        rest = await client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
        seen += [event async for event in rest]
        check_grammar(seen)
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert seen[-1].type == "response.completed"
        assert seen[-1].response.output_text == WORDS
        assert (await client.responses.retrieve(response_id)).output_text == WORDS


async def test_approvals(store: str) -> None:
    """Asked for by one response, answered in the next, all of them, by whoever may."""
    async with served(store) as (_, client):
        asked = await client.responses.create(model="Payer", input="pay")
        requests = [item.id for item in asked.output if item.type == "mcp_approval_request"]
        assert (asked.status, len(requests)) == ("completed", 2)
        answers: list[Any] = [
            {"type": "mcp_approval_response", "approval_request_id": each, "approve": number == 0, "reason": "No."}
            for number, each in enumerate(requests)
        ]
        with pytest.raises(BadRequestError, match="waits for approvals"):
            await client.responses.create(model="Payer", input="so?", previous_response_id=asked.id)
        with pytest.raises(BadRequestError, match="all of them"):
            await client.responses.create(model="Payer", input=answers[:1], previous_response_id=asked.id)
        more: list[Any] = [*answers, {"role": "user", "content": "Quickly."}]
        final = await client.responses.create(model="Payer", input=more, previous_response_id=asked.id)
        assert (final.id, final.status) == (f"{asked.id}_2", "completed")
        outcomes = {item.approval_request_id: item.output for item in final.output if item.type == "mcp_call"}
        assert outcomes == {requests[0]: "refunded 1", requests[1]: None}
        assert (await client.responses.retrieve(final.id)).output == final.output
        assert (await client.responses.retrieve(asked.id)).output == asked.output
        for previous in (asked.id, final.id):
            with pytest.raises(BadRequestError, match="waits for no approval"):
                await client.responses.create(model="Payer", input=answers, previous_response_id=previous)
        with pytest.raises(BadRequestError, match=f"went on as {final.id}"):
            await client.responses.create(model="Payer", input="so?", previous_response_id=asked.id)
        thanks = await client.responses.create(model="Desk", input="thanks", previous_response_id=final.id)
        assert thanks.status == "completed"
        items = (await client.responses.input_items.list(thanks.id, order="asc")).data
        assert [item.content[0].text for item in items] == ["pay", "Quickly.", "Done.", "thanks"]


async def test_an_answer_counts_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent twice at once, to two servers: its input is said once, and both get the response, with the metadata of its
    request, now and later. Another answer at the same time is refused."""
    both = asyncio.Barrier(2)
    send = openai_routes._Responses._send

    async def together(*arguments: Any) -> None:
        await both.wait()
        await send(*arguments)

    monkeypatch.setattr(openai_routes._Responses, "_send", together)
    async with served(store) as (_, client), served(store) as (_, other):

        async def asked() -> tuple[str, list[Any]]:
            response = await client.responses.create(model="Payer", input="pay", metadata={"of": "1"})
            ids = [item.id for item in response.output if item.type == "mcp_approval_request"]
            answers = [{"type": "mcp_approval_response", "approval_request_id": each, "approve": True} for each in ids]
            return response.id, [*answers, {"role": "user", "content": "Quickly."}]

        def answer(by: AsyncOpenAI, previous: str, given: list[Any]) -> Any:
            metadata = {"of": "2"}
            return by.responses.create(model="Payer", input=given, previous_response_id=previous, metadata=metadata)

        previous, given = await asked()
        one, two = await asyncio.gather(answer(client, previous, given), answer(other, previous, given))
        assert one == two == await client.responses.retrieve(one.id)
        assert (one.metadata, one.previous_response_id) == ({"of": "2"}, previous)
        assert (await client.responses.retrieve(previous)).metadata == {"of": "1"}
        more = await client.responses.create(model="Desk", input="thanks", previous_response_id=one.id)
        items = (await client.responses.input_items.list(more.id, order="asc")).data
        assert [item.content[0].text for item in items] == ["pay", "Quickly.", "Done.", "thanks"]
        previous, given = await asked()
        refused = [{**given[0], "approve": False}, *given[1:]]
        found = await asyncio.gather(
            answer(client, previous, given), answer(other, previous, refused), return_exceptions=True
        )
        assert sorted(isinstance(each, BadRequestError) for each in found) == [False, True]


async def test_completions(store: str) -> None:
    """Whole and streamed; failures in either; models."""
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    async with served(store) as (_, client):
        whole = await client.chat.completions.create(model="Desk", messages=messages)
        options: Any = {"include_usage": True}
        async with client.chat.completions.stream(model="Desk", messages=messages, stream_options=options) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == whole.choices[0].message.content == "Let me see.\n\nIt is sunny."
        assert final.usage == whole.usage
        with pytest.raises(APIError) as failed:
            await client.chat.completions.create(model="Failing", messages=messages)
        found: list[str] = []
        with pytest.raises(APIError, match="no more"):
            await text_of(client, "Failing", found)
        assert ("".join(found), failed.value.message.count("no more")) == ("So far", 1)
        assert [model.id for model in (await client.models.list()).data] == ["Desk", "Slow", "Payer", "Failing"]
        assert (await client.models.retrieve("Slow")).owned_by == "runstream"
        broken = await client.responses.create(model="Failing", input="hi")
        assert (broken.status, broken.error.code if broken.error else None) == ("failed", "server_error")


async def test_a_completion_that_would_need_a_person(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the whole of it is told at once, and the run is stopped; a stream waits for whoever answers
    elsewhere, for a while: then it says of which run, and that goes on waiting."""
    messages: list[Any] = [{"role": "user", "content": "pay"}]
    async with served(store) as (url, client), Client(url) as http:
        found: list[str] = []
        reading = asyncio.create_task(text_of(client, "Payer", found))
        run_id = await newest(http, "waiting")
        view = (await http.json("GET", f"/runs/{run_id}"))[1]["view"]
        for call_id in [entry["call_id"] for entry in view["entries"] if entry["type"] == "tool"]:
            await http.json("POST", f"/runs/{run_id}/approvals", {"call_id": call_id, "approve": True})
        await reading
        assert "".join(found) == "Done."
        with pytest.raises(APIError, match=r"approve calls \(refund\)") as refused:
            await client.chat.completions.create(model="Payer", messages=messages)
        assert refused.value.code == "approval_needed"
        await newest(http, "cancelled")
    monkeypatch.setattr("runstream.server.hub._TICK_S", 0.01)
    options: dict[str, Any] = {"heartbeat_s": 0.02, "limits": Limits(unanswered_s=0.05)}
    async with served(store, **options) as (url, client), Client(url) as http:
        async with await client.chat.completions.create(model="Payer", messages=messages, stream=True) as stream:
            with pytest.raises(APIError, match=r"approve calls \(refund\)") as refused:
                async for _ in stream:
                    pass
        run_id = await newest(http, "waiting")
        assert refused.value.code == "approval_needed"
        assert f"POST /runs/{run_id}/approvals" in refused.value.message
        view = (await http.json("GET", f"/runs/{run_id}"))[1]["view"]
        for call_id in [entry["call_id"] for entry in view["entries"] if entry["type"] == "tool"]:
            await http.json("POST", f"/runs/{run_id}/approvals", {"call_id": call_id, "approve": True})
        await newest(http, "completed")


async def test_errors_have_the_apis_shape(store: str) -> None:
    """Those of the handlers, of the guard, and of addresses that are not there."""
    token, other = "the-token-of-ann-is-long", "the-token-of-bob-is-long"
    options: Any = {"tokens": {token: "ann", other: "bob"}}
    async with served(store, **options) as (url, stranger), Client(url) as http:
        ann, bob = client_of(url, token), client_of(url, other)
        authorized = {"Authorization": f"Bearer {token}"}
        for status, path, body, headers in (
            (401, "/v1/models", None, {}),
            (401, "/v1/responses", {}, {}),
            (415, "/v1/responses", {}, {**authorized, "Content_Type": "text/plain"}),
            (413, "/v1/responses", {"input": "x" * 1_000_001}, authorized),
            (413, "/v1/responses", {"model": "Desk", "input": "x" * 200_001}, authorized),
            (400, "/v1/responses", b"{", authorized),
            (404, "/v1/responses", {"model": "No", "input": "x"}, authorized),
            (400, "/v1/chat/completions", {"model": "Desk"}, authorized),
            (404, "/v1/embeddings", {}, authorized),
            (404, "/v1/models/No", None, authorized),
        ):
            got, answer = await http.json("GET" if body is None else "POST", path, body, **headers)
            assert (got, answer["error"].keys()) == (status, {"message", "type", "param", "code"}), path
        mine = await ann.responses.create(model="Payer", input="pay")
        requests = [item.id for item in mine.output if item.type == "mcp_approval_request"]
        yes: Any = [
            {"type": "mcp_approval_response", "approval_request_id": each, "approve": True} for each in requests
        ]
        for attempt in (
            bob.responses.retrieve(mine.id),
            bob.responses.cancel(mine.id),
            bob.responses.delete(mine.id),
            bob.responses.input_items.list(mine.id),
            bob.responses.create(model="Desk", input="x", previous_response_id=mine.id),
            bob.responses.create(model="Payer", input=yes, previous_response_id=mine.id),
        ):
            with pytest.raises(NotFoundError):
                await attempt
        assert (
            await ann.responses.create(model="Payer", input=yes, previous_response_id=mine.id)
        ).status == "completed"
        await asyncio.gather(ann.close(), bob.close())
        await stranger.close()


async def test_conversations_and_what_is_not_kept(store: str) -> None:
    """A conversation is a session of the server; a response that is not to be stored is gone with its answer."""
    sessions: dict[str, InMemorySession] = {}
    async with served(store, session=lambda name: sessions.setdefault(name, InMemorySession(name))) as (_, client):
        for _ in range(2):
            response = await client.responses.create(model="Desk", input="hi", conversation="talk")
        assert response.conversation.id == "talk"
        [kept] = [await session.get_items() for session in sessions.values()]
        assert len(kept) == 10
        gone = await client.responses.create(model="Desk", input="hi", store=False)
        assert gone.status == "completed"
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(gone.id)


@pytest.mark.parametrize("graceful_s", [0, 2])
async def test_what_is_not_kept_does_not_outlive_its_server(store: str, graceful_s: int) -> None:
    """Where a server stops under a response that is not to be stored, no other goes on with it: neither where it lets
    its requests end (it answers 503), nor where it breaks them off."""
    app = create_app(agents(), store=store, drain_s=0)
    async with serving(app, timeout_graceful_shutdown=graceful_s) as url:
        client = client_of(url)
        asking = asyncio.create_task(client.responses.create(model="Slow", input="hi", store=False))
        async with Client(url) as http:
            await newest(http, "running")
        if graceful_s:
            await service_of(app).stop()
    (found,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(found, APIError)
    await client.close()
    kept = open_store(store)
    await kept.open()
    assert await kept.list_runs() == []
    await kept.aclose()


@pytest.mark.parametrize("streamed", [True, False])
async def test_agents_of_agents(store: str, streamed: bool) -> None:
    """Our own models, pointed at the server, have its agents for models."""
    async with served(store) as (_, client):
        for model in (OpenAIResponsesModel("Desk", client), OpenAIChatCompletionsModel("Desk", client)):
            asking = Agent(name="Asking", model=model)
            if streamed:
                result = Runner.run_streamed(asking, "hi")
                assert [event.kind async for event in result.events()][-1] == "run.end"
            else:
                result = await Runner.run(asking, "hi", run_config=RunConfig())
            assert str(result.final_output).endswith("It is sunny.")
            assert result.context_wrapper.usage.total_tokens > 100


async def test_the_page(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The code in docs/protocols.md for Python runs as it stands there."""
    text = (Path(__file__).parents[2] / "docs/protocols.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/protocols.md", "exec"), names)
    async with served(store) as (_, client):
        assert await names["ask"](client, "hi") == "Let me see.It is sunny."
        assert capsys.readouterr().out == "Let me see.[weather: completed]\nIt is sunny."
        paid = await names["approve"](client, await client.responses.create(model="Payer", input="pay"))
        assert paid.output_text == "Done."


async def test_the_javascript_client(store: str, node: str) -> None:
    """What it makes of the same answers, each with its last event."""
    async with served(store) as (url, _):
        program = "openai_client.mjs"
        [responses], [cancelled], [approvals], [chat] = await asyncio.gather(
            *(run_client(node, program, url, what) for what in ("responses", "cancel", "approvals", "chat"))
        )
    text = "Let me see.It is sunny."
    assert responses["last"] == responses["rawLast"] == responses["againLast"] == "response.completed"
    assert (responses["status"], responses["text"], responses["whole"]) == ("completed", text, text)
    assert (responses["items"], responses["dense"]) == (["message", "mcp_call", "message"], True)
    assert responses["again"] == list(range(8, responses["again"][-1] + 1))
    assert cancelled == {"begun": "in_progress", "cancelled": "cancelled", "gone": [404, "not_found"]}
    assert approvals["asked"] == ["completed", ["mcp_call", "mcp_approval_request", "mcp_approval_request"]]
    assert approvals["final"] == ["completed", ["refunded 1", "refunded 2", "message"]]
    assert chat["text"] == "Let me see.\n\nIt is sunny."
    assert chat["refused"] == [400, "n", "invalid_request_error"]
    assert "no more" in chat["failed"]
    assert (chat["models"], chat["tokens"] > 100) == (["Desk", "Slow", "Payer", "Failing"], True)


async def test_whatever_happens_in_a_run(node: str, tmp_path: Path) -> None:
    """The JavaScript client, which checks items and their order, takes every stream for what it is."""
    streams: list[dict[str, str]] = []
    expected: list[Any] = []
    for log in (await logs()).values():
        for part in (1, 2):
            encoding = ResponsesEncoding(log[0].run_id, part=part)
            body = encoding.encode(Batch(log, 1))
            if body:
                streams.append({"kind": "responses", "text": body.decode()})
                expected.append(encoding.response()["status"])
        chat = ChatEncoding(log[0].run_id)
        streams.append({"kind": "chat", "text": chat.encode(Batch(log, 1)).decode()})
        expected.append("stop" if chat.failed is None else chat.failed.message)
    file = tmp_path / "streams.json"
    file.write_text(json.dumps(streams))
    made = await run_client(node, "openai_read.mjs", str(file))
    assert [each.get("error", each.get("status")) for each in made] == expected
    assert {each["last"] for each in made} == {None, *TERMINAL}
    assert len(made) > 20


async def test_a_cut_stream_is_noticed(store: str, node: str) -> None:
    """A client that is told the first half of a stream takes it for a success: its last event tells that it is none."""
    asked = {"model": "Desk", "input": "hi", "stream": True}
    async with served(store) as (url, _), Client(url) as http, http.ask("POST", "/v1/responses", asked) as response:
        body = await response.read()

    async def first_half(_: web.Request) -> web.Response:
        return web.Response(body=body[: body.index(b"event: response.completed")], content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/responses", first_half)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        [cut] = await run_client(node, "openai_client.mjs", f"http://127.0.0.1:{runner.addresses[0][1]}", "cut")
    finally:
        await runner.cleanup()
    assert cut["last"] not in TERMINAL
    assert cut["status"] == "in_progress"
