"""The pages about stored runs: every snippet runs, one after the other; every command is one; every link leads on."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from runstream import Agent, RunConfig, Runner
from runstream.cli import _cli
from runstream.models.provider import MultiProvider
from runstream.render.json_lines import encode_line
from runstream.testing import ScriptedModel, ToolCall, Turn, When

pytestmark = pytest.mark.system

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["durable-runs.md", "fleets.md", "testing.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; agents that name no model get a scripted one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNSTREAM_STORE", raising=False)
    model = ScriptedModel(
        [
            Turn([ToolCall("book_room", {"people": 6})], when=When(offers_tool="book_room", after_tool=False)),
            Turn(["It is on its way."]),
        ],
        repeat=True,
    )
    monkeypatch.setattr(MultiProvider, "get_model", lambda self, name: model)
    return tmp_path


async def execute(block: str, names: dict[str, Any]) -> None:
    """Run a block in which `await` may stand outside of functions."""
    code = compile(block, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result: Any = eval(code, names)
    if inspect.iscoroutine(result):
        await result


@pytest.mark.parametrize("page", ["durable-runs.md", "fleets.md"])
async def test_the_snippets_of_a_page_run(page: str, place: Path) -> None:
    """In their order, each with what those before it have made. A worker works while the rest goes on."""
    names: dict[str, Any] = {}
    worker: asyncio.Task[None] | None = None
    snippets = blocks(page, "python")
    assert len(snippets) >= 4
    for snippet in snippets:
        if "await worker.run()" in snippet:
            worker = asyncio.create_task(execute(snippet, names))
        else:
            await execute(snippet, names)
    if worker is not None:
        assert names["result"].final_output == "It is on its way."
        for run_id in names["nightly"]:
            await (await Runner.attach(run_id, store="sqlite:///runs.db")).wait()
        names["worker"].stop()
        await worker


async def test_a_recorded_run_is_a_test(place: Path) -> None:
    """The example of the page about testing, on a recording that was made here."""
    (snippet,) = [block for block in blocks("testing.md", "python") if "from_log" in block]
    agent = Agent(name="Desk", model=ScriptedModel(["Refunded."]))
    result = Runner.run_streamed(agent, "Refund it.", run_config=RunConfig(store="sqlite:///runs.db"))
    lines = [encode_line(event) async for event in result.events()]
    (place / "tests").mkdir()
    (place / "tests/refund.jsonl").write_bytes(b"".join(lines))
    names: dict[str, Any] = {"agent": agent}
    await execute(snippet, names)
    await names["test_the_refund_of_order_7"]()


@pytest.mark.parametrize("page", ["durable-runs.md", "fleets.md"])
def test_the_commands_of_a_page_are_commands(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With these options and arguments; nothing is carried out."""
    monkeypatch.setenv("RUNSTREAM_STORE", "sqlite:///runs.db")
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        program, name, *arguments = shlex.split(line)
        assert program == "runstream"
        command = _cli.get_command(click.Context(_cli), name)
        assert command is not None, line
        command.make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """To files that are there, and to headings in them."""
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"\s+", " ", (DOCS / page).read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.replace(" ", "").partition("#")
        path = DOCS / name if name else DOCS / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
