"""The code in docs/views.md runs as it stands there, and its tables name every field."""

import ast
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, function_tool, open_store
from runstream.testing import HandoffTo, ScriptedModel, ToolCall
from runstream.view.run_view import view_of
from view_events import support_run

DOCUMENT = Path(__file__).parents[2] / "docs/views.md"
TEXT = DOCUMENT.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


async def run(block: str, names: dict[str, Any]) -> None:
    waiting = eval(compile(block, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(waiting):
        await waiting


@function_tool
def order_status(number: int) -> str:
    """Look an order up."""
    return "on its way"


def desk() -> Agent[Any]:
    model = ScriptedModel([["Let me look.", ToolCall("order_status", {"number": 7})], HandoffTo("Boss"), "It comes."])
    boss = Agent(name="Boss", model=model)
    return Agent(name="Desk", model=model, tools=[order_status], handoffs=[boss])


async def test_the_document_runs(capsys: Any) -> None:
    """Each block does what the text around it says."""
    first, terminal, page, going_on = BLOCKS
    names: dict[str, Any] = {"Runner": Runner, "result": Runner.run_streamed(desk(), "Where is order 7?")}
    await run(first, names)
    assert capsys.readouterr().out == f"completed Boss {names['view'].figures.tokens}\nIt comes.\n"
    names["result"] = Runner.run_streamed(desk(), "Where is order 7?")
    await run(terminal, names)
    shown = capsys.readouterr().out
    assert re.sub(r"\d\.\d\d", "0.00", shown) == (
        "Let me look.\n[order_status{'number': 7} running] \n\n[order_status{'number': 7} done] on its way\n"
        "\nDesk -> Boss\nIt comes.\ncompleted, first text after 0.00 s\n"
    )
    before = names["view"].to_json()
    await run(going_on, names)
    assert names["view"].to_json() == before

    store = open_store("memory://views-page")
    await store.open()
    stored = Runner.run_streamed(desk(), "Where is order 7?", run_config=RunConfig(store=store, run_id="r1"))
    await stored.wait()
    await run(page, names)
    snapshot = await names["snapshot"](store, "r1")
    assert snapshot == view_of([event async for event in stored.events()]).to_json()
    await store.aclose()


def fields_of(value: Any) -> set[str]:
    """The names of all fields in JSON data but of what users and models make."""
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    if not isinstance(value, dict):
        return set()
    free = {"parsed", "content", "items", "raw", "data", "annotations", "usage"}
    return set(value).union(*(fields_of(inner) for name, inner in value.items() if name not in free))


def test_every_field_is_described() -> None:
    """The golden view has no field that the page does not name."""
    named = set(re.findall(r"`(\w+)`", TEXT))
    assert fields_of(view_of(support_run()).to_json()) - named - {"version"} == set()


@pytest.mark.skipif(shutil.which("node") is None, reason="no node to check JavaScript with")
def test_the_script_of_the_page_is_javascript(tmp_path: Path) -> None:
    """It has no error of syntax."""
    script = tmp_path / "page.mjs"
    script.write_text(re.findall(r"```js\n(.*?)```", TEXT, re.DOTALL)[0])
    subprocess.run(["node", "--check", str(script)], check=True)
