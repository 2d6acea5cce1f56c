"""Runs that are kept in a SQLite file which another process holds for a while, or for good."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner
from runstream.errors import StoreUnavailable
from runstream.testing import ScriptedModel, Turn

pytestmark = pytest.mark.system

WORDS = "one two three four five six seven eight nine ten"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """As another process that writes for long."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


def start(path: Path, policy: Any, limit_s: float) -> Any:
    agent = Agent(name="Desk", model=ScriptedModel([Turn((WORDS,), every_s=0.03)]))
    url = f"sqlite:///{path}?busy_timeout_s=0.05"
    config = RunConfig(store=url, run_id="run", store_timeout_s=limit_s, on_store_failure=policy)
    return Runner.run_streamed(agent, "hi", run_config=config)


async def test_a_file_that_is_locked_for_a_while(tmp_path: Path) -> None:
    """Nobody notices; the log is whole."""
    path = tmp_path / "runs.db"
    result = start(path, "fail", 10.0)
    seen: list[tuple[int, str]] = []
    async for event in result.events():
        seen.append((event.seq, event.kind))
        if event.seq == 6:
            with locked(path):
                await asyncio.sleep(0.2)
    assert result.final_output == WORDS
    followed = await Runner.attach("run", store=f"sqlite:///{path}")
    assert [(event.seq, event.kind) async for event in followed.events()] == seen


@pytest.mark.parametrize("policy", ["fail", "continue"])
async def test_a_file_that_stays_locked(tmp_path: Path, policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In bounded time the run fails, or goes on and says so."""
    path = tmp_path / "runs.db"
    result = start(path, policy, 0.3)
    with caplog.at_level(logging.ERROR, "runstream"):
        reader = result.events()
        async for event in reader:
            if event.seq == 6:
                break
        with locked(path):
            async for _ in reader:
                pass
    if policy == "fail":
        assert isinstance(result.run_loop_exception, StoreUnavailable)
    else:
        assert result.final_output == WORDS
        assert "goes on without its store" in caplog.text
    while asyncio.all_tasks() - {asyncio.current_task()}:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # the flush that is repeated sees that nobody waits for it any more
