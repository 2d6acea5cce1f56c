"""The code in docs/server.md runs as it stands there, and its table of addresses is that of the app."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runstream import Agent
from runstream.server import Access, create_app
from runstream.testing import ScriptedModel
from serving import Client, serving

TEXT = (Path(__file__).parents[2] / "docs/server.md").read_text()
FIRST, ASK, TOKENS, HOOKS, MOUNTED = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def run(*blocks: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/server.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def with_model(names: dict[str, Any]) -> dict[str, Any]:
    names["desk"].model = ScriptedModel(["It comes."], repeat=True)
    return names


async def test_the_client(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the run's id and the text as it comes, and returns the answer."""
    names = with_model(run(FIRST, ASK))
    async with serving(names["app"]) as url, httpx2.AsyncClient(base_url=url) as client:
        assert await names["ask"](client, "Where is my order?") == "It comes."
    assert re.fullmatch(r"run_\w+\nIt comes\.", capsys.readouterr().out)


async def test_tokens() -> None:
    """Ann and the operator are let in, each to what is theirs."""
    names = with_model(run(FIRST, TOKENS))
    async with serving(names["app"]) as url, Client(url) as client:
        bearer = {"Authorization": "Bearer the-token-of-ann-is-long", "Host": "agents.example.com"}
        await client.stream({"input": "x"}, **bearer)
        assert len((await client.json("GET", "/runs", **bearer))[1]["runs"]) == 1
        assert (await client.json("GET", "/runs", Authorization="Bearer the-token-of-the-operator"))[0] == 200
        assert (await client.json("GET", "/runs"))[0] == 401


async def test_hooks() -> None:
    """Users of the application, and a team that may read everything."""
    names = with_model(run(FIRST, HOOKS))
    assert names["authorize"](Access("support", "read", "r", "ann"))
    assert not names["authorize"](Access("support", "delete", "r", "ann"))
    async with serving(names["app"]) as url, Client(url) as client:
        assert (await client.json("POST", "/runs", {"input": "x"}))[0] == 401
        assert (await client.json("POST", "/runs", {"input": "x"}, X_User="ann"))[0] == 201


async def test_mounted() -> None:
    """Below a path of a FastAPI application."""
    pytest.importorskip("fastapi")
    names = with_model(run(FIRST, MOUNTED))
    async with serving(names["app"]) as url, Client(url) as client:
        assert (await client.json("POST", "/agents/runs", {"input": "x"}))[0] == 201


def test_every_address_is_told() -> None:
    """And no other."""
    app = create_app(Agent(name="Desk"), store="memory://docs")
    told = set(
        re.findall(r"`(?:GET |POST |DELETE )?(/[\w/{}.:-]*)`", TEXT.partition("## Addresses")[2].partition("###")[0])
    )
    assert told == {route.path.replace("{run_id}", "{id}") for route in app.routes}
