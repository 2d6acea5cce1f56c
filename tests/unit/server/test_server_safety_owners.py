"""Whose run it is, at every address of every protocol: another's is as one that does not exist."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from runstream import Agent, function_tool
from runstream.server import access as access_module
from runstream.server import create_app
from runstream.server.app import service_of
from runstream.testing import ScriptedModel, ToolCall
from serving import Client, frames_of, serving

ANN, BOB, ADMIN = "ann-" * 5, "bob-" * 5, "admin-" * 4
TOKENS: dict[str, str | None] = {ANN: "ann", BOB: "bob", ADMIN: None}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def desk() -> Agent[Any]:
    @function_tool(needs_approval=True)
    def refund() -> str:
        """Refunds."""
        return "done"

    return Agent(name="Desk", model=ScriptedModel([ToolCall("refund"), "Refunded."], repeat=True), tools=[refund])


PUBLIC = {"/", "/assets/{name}", "/healthz", "/readyz"}
"""Tell nothing of runs."""
OF_THE_SERVER = {"/openapi.json", "/metrics", "/page/server", "/v1/models", "/v1/models/{model}"}
"""Need a token, and tell nothing of anybody's runs."""
MAKING = {"/ag-ui", "/ag-ui/{agent}", "/api/chat", "/v1/chat/completions"}
"""Begin runs of their own, or go on with one that is named in the body."""
LISTS = {("GET", "/runs"), ("GET", "/page/runs")}

# With the id of a run, and what else names it: what each address is asked.
Ask = Callable[[str, str], tuple[str, str, Any]]
BY_ID: dict[tuple[str, str], Ask] = {
    ("GET", "/runs/{run_id}"): lambda run, _: ("GET", f"/runs/{run}", None),
    ("GET", "/runs/{run_id}/events"): lambda run, _: ("GET", f"/runs/{run}/events", None),
    ("POST", "/runs/{run_id}/cancel"): lambda run, _: ("POST", f"/runs/{run}/cancel", {}),
    ("POST", "/runs/{run_id}/approvals"): lambda run, call: (
        "POST",
        f"/runs/{run}/approvals",
        {"call_id": call, "approve": True},
    ),
    ("POST", "/runs/{run_id}/input"): lambda run, _: ("POST", f"/runs/{run}/input", {"input": "x"}),
    ("GET", "/v1/responses/{response_id}"): lambda run, _: ("GET", f"/v1/responses/{response(run)}", None),
    ("POST", "/v1/responses/{response_id}/cancel"): lambda run, _: (
        "POST",
        f"/v1/responses/{response(run)}/cancel",
        {},
    ),
    ("GET", "/v1/responses/{response_id}/input_items"): lambda run, _: (
        "GET",
        f"/v1/responses/{response(run)}/input_items",
        None,
    ),
    ("POST", "/v1/responses"): lambda run, _: (
        "POST",
        "/v1/responses",
        {"model": "Desk", "input": "and?", "previous_response_id": response(run)},
    ),
    ("POST", "/ag-ui"): lambda run, call: (
        "POST",
        "/ag-ui",
        {
            "threadId": "t",
            "runId": "r",
            "resume": [{"interruptId": f"{run}/9/{call}", "status": "resolved", "payload": {"approved": True}}],
        },
    ),
    ("DELETE", "/v1/responses/{response_id}"): lambda run, _: ("DELETE", f"/v1/responses/{response(run)}", None),
    ("DELETE", "/runs/{run_id}"): lambda run, _: ("DELETE", f"/runs/{run}", None),
}


def response(run_id: str) -> str:
    return run_id.replace("run_", "resp_")


def routes_of(app: Any) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        methods = getattr(route, "methods", None)
        for method in methods - {"HEAD"} if methods else {"WEBSOCKET"}:
            found.add((method, route.path.replace(":path}", "}")))
    return found


def test_every_address_is_one_of_these() -> None:
    """An address that somebody adds has to be put among those that are tried here."""
    chats = {("GET", "/api/chat/{chat_id}/stream"), ("POST", "/api/chat/{chat_id}/stop")}
    rest = routes_of(create_app(desk(), store="memory://owners")) - LISTS - set(BY_ID) - chats
    rest = {route for route in rest if route[1] not in PUBLIC | OF_THE_SERVER | MAKING}
    assert rest == {("POST", "/runs"), ("WEBSOCKET", "/runs/{run_id}/ws")}


async def test_runs_of_others_do_not_exist() -> None:
    """At every address that takes an id the answer is the one for an id that nobody has, and nothing becomes of it;
    lists and chats have one's own alone. The owner has it all."""
    app = create_app(desk(), store="memory://owners", tokens=TOKENS)
    async with serving(app) as url, Client(url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "mine"}, **bearer(ANN))
        run_id, missing_id = begun["run_id"], "run_" + "0" * 32
        call_id = ""
        async with client.get(f"/runs/{run_id}/events", headers=bearer(ANN)) as streamed:
            async for frame in frames_of(streamed):
                if frame.data["data"].get("type") == "tool_approval_item":
                    call_id = frame.data["data"]["raw"]["call_id"]
                    break
        last = ("DELETE", f"/runs/{run_id}")  # it has been deleted as a response
        before = await client.json("GET", f"/runs/{run_id}", **bearer(ANN))
        for ask in BY_ID.values():
            method, path, body = ask(run_id, call_id)
            status, told = await client.json(method, path, body, **bearer(BOB))
            method, path, body = ask(missing_id, call_id)
            expected = await client.json(method, path, body, **bearer(BOB))
            told = str(told).replace(run_id, missing_id).replace(response(run_id), response(missing_id))
            assert (status, told) == (expected[0], str(expected[1])), path
            assert 400 <= status < 500, path
        for _, path in LISTS:
            assert (await client.json("GET", path, **bearer(BOB)))[1] == {"runs": [], "next": None}
            assert len((await client.json("GET", path, **bearer(ANN)))[1]["runs"]) == 1
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(f"/runs/{run_id}/ws", headers=bearer(BOB))
        assert refused.value.status == 403
        assert await client.json("GET", f"/runs/{run_id}", **bearer(ANN)) == before
        for ask in BY_ID.values():  # so that it was not for something else that they were refused
            method, path, body = ask(run_id, call_id)
            async with client.ask(method, path, body, **bearer(ADMIN)) as answered:
                assert answered.status not in (401, 403, 404, 422) or (method, path) == last, (path, answered.status)


async def test_chats_of_others_do_not_exist() -> None:
    """A name of a chat is one's own: the same name of another is another chat."""
    app = create_app(desk(), store="memory://owners", tokens=TOKENS)
    message = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "mine"}]}
    async with serving(app) as url, Client(url) as client:
        async with client.ask("POST", "/api/chat", {"id": "c", "messages": [message]}, **bearer(ANN)) as answered:
            assert answered.status == 200, await answered.text()
            await answered.read()
        assert (await client.json("POST", "/api/chat/c/stop", {}, **bearer(BOB)))[1] == {"stopped": []}
        async with client.ask("GET", "/api/chat/c/stream", **bearer(BOB)) as answered:
            assert answered.status == 204
        async with client.ask("GET", "/api/chat/c/stream", **bearer(ANN)) as answered:
            assert answered.status == 200
            answered.close()
        assert len((await client.json("POST", "/api/chat/c/stop", {}, **bearer(ANN)))[1]["stopped"]) == 1


async def test_tokens_are_compared_as_hashes_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them is, whichever it is and wherever they differ; nothing in the process keeps their text."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Counting:
        compare_digest = staticmethod(compare)

    app = create_app(desk(), store="memory://owners", tokens=TOKENS)
    monkeypatch.setattr(access_module, "hmac", Counting)
    async with serving(app) as url, Client(url) as client:
        for token, expected in ((ANN, 200), (ADMIN, 200), (ANN[:-1] + "x", 401), ("x" * 20, 401)):
            compared.clear()
            assert (await client.json("GET", "/runs", **bearer(token)))[0] == expected
            assert len(compared) == len(TOKENS)
            assert {len(each) for pair in compared for each in pair} == {32}
    gate = service_of(app).gate
    assert not any(token.encode() in repr(vars(gate)).encode() for token in TOKENS)
