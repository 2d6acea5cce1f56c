"""The code in docs/observability.md runs as it stands there, and its tables name what there is."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

import runstream.observe.otel_names as otel_names
from runstream import Agent, Runner, function_tool
from runstream.observe import Metrics, PrometheusCollector, set_observers
from runstream.testing import ScriptedModel, ToolCall, Turn, When

DOCUMENT = Path(__file__).parents[2] / "docs/observability.md"
TEXT = DOCUMENT.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Nobody observes and nothing is logged afterwards."""
    yield
    set_observers([])
    logger = logging.getLogger("runstream.runs")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


@function_tool
def order_status(number: int) -> str:
    """Look an order up."""
    return "on its way"


def desk() -> Agent[Any]:
    call = Turn([ToolCall("order_status", {"number": 7})], when=When(after_tool=False))
    return Agent(name="Desk", model=ScriptedModel([call, "It comes."], repeat=True), tools=[order_status])


async def run(block: str, names: dict[str, Any]) -> None:
    waiting = eval(compile(block, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(waiting):
        await waiting


async def test_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Every block, one after the other, each with what those before it have made."""
    names: dict[str, Any] = {"Runner": Runner, "agent": desk(), "result": Runner.run_streamed(desk(), "Order 7?")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        for block in BLOCKS:
            await run(block.replace("9464", str(port)), names)
    finally:
        if "stop" in names:
            names["stop"]()
    assert "order_status" in capsys.readouterr().out
    await Runner.run(desk(), "hi")
    await asyncio.sleep(0)
    assert names["figures"].snapshot().ended["completed"] >= 2
    assert len(BLOCKS) == 7


def test_every_prometheus_metric_is_in_the_table() -> None:
    """The page names each family that is exported."""
    registry = CollectorRegistry()
    collector: Any = PrometheusCollector(Metrics())
    registry.register(collector)
    exported = set(re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), re.MULTILINE))
    assert {name for name in exported if f"`{name}`" not in TEXT} == set()


def test_every_measurement_is_in_the_table() -> None:
    """The page names each instrument under the name that the code has."""
    found = [value for name, value in vars(otel_names).items() if name.isupper() and isinstance(value, str)]
    assert len(found) == 7
    assert {name for name in found if f"`{name}`" not in TEXT and f"`…{name.split('.')[-1]}`" not in TEXT} == set()
