"""The board of a store's runs, and of this process's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner, function_tool, open_store
from runstream.observe import Metrics, set_observers
from runstream.observe.board import StoredBoard, board_of
from runstream.testing import FakeClock, Raise, ScriptedModel, ToolCall, Turn


@pytest.fixture(autouse=True)
def nobody_observes() -> Iterator[None]:
    yield
    set_observers([])


def agent(clock: FakeClock, *steps: Any, name: str = "Desk", **options: Any) -> Agent[Any]:
    return Agent(name=name, model=ScriptedModel(list(steps), clock=clock), **options)


SLOW = Turn(["one two three four five six"], every_s=0.5, first_after_s=1.0)


async def test_a_board_reads_on() -> None:
    """Each look reads only what is new; ended runs, failures and rates are as in the runs' own metrics."""
    store = open_store("memory://board")
    await store.open()
    clock = FakeClock()
    config = RunConfig(store=store, clock=clock)
    board = StoredBoard(store, clock=clock)
    await Runner.run_streamed(agent(clock, SLOW), "hi", run_config=config).wait()
    (row,) = (await board.read()).rows
    assert (row.agent, row.status, row.activity, row.turns) == ("Desk", "completed", "completed", 1)
    assert row.first_text_s == pytest.approx(1.0, abs=1e-3)
    assert row.deltas_per_s == pytest.approx(6 / 2.5, rel=1e-3)
    with pytest.raises(ValueError, match="x"):
        await Runner.run(agent(clock, Raise(ValueError("x")), name="Other"), "hi", run_config=config)
    again = await board.read()
    assert again.counts == {"completed": 1, "failed": 1}
    assert again.errors == {"ValueError": 1}
    assert next(each for each in again.rows if each.agent == "Desk") == row
    assert again.gap_p95_s == pytest.approx(0.5, rel=0.02)
    await store.aclose()


async def test_what_runs_do_now() -> None:
    """A run that goes on says what it does: it answers, or a tool runs, or a person is waited for."""
    clock = FakeClock(autojump=False)
    metrics = Metrics(clock=clock)
    set_observers([metrics])

    @function_tool
    async def look_up() -> str:
        """Look."""
        await clock.sleep(60)
        return "ready"

    config = {"clock": clock}
    answering = Runner.run_streamed(agent(clock, SLOW), "hi", run_config=config)
    calling = Runner.run_streamed(agent(clock, Turn([ToolCall("look_up")]), tools=[look_up]), "hi", run_config=config)
    await clock.advance(2.2)
    board = board_of(metrics)
    assert {row.activity for row in board.rows} == {"answers", "look_up"}
    assert board.counts == {"running": 2}
    assert board.rows[0].age_s == pytest.approx(2.2)
    answering.cancel()
    calling.cancel()
    await clock.advance(10.0)
    await asyncio.sleep(0)
    assert board_of(metrics).counts == {"cancelled": 2}
    assert board_of(metrics).rows == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_turn_counts_from_its_begin(streamed: bool) -> None:
    """While a model is asked, the turn is one more than those that the log has answers of; not so while a tool runs."""
    clock = FakeClock(autojump=False)
    metrics = Metrics(clock=clock)
    set_observers([metrics])

    @function_tool
    async def look_up() -> str:
        """Look."""
        await clock.sleep(2)
        return "ready"

    steps = [Turn([ToolCall("look_up")], first_after_s=2), Turn(["done"], first_after_s=2)]
    desk = agent(clock, *steps, tools=[look_up])
    config = RunConfig(clock=clock)
    task = None
    if streamed:
        Runner.run_streamed(desk, "hi", run_config=config)
    else:
        task = asyncio.create_task(Runner.run(desk, "hi", run_config=config))
    seen: list[Any] = []
    for _ in range(3):
        await clock.advance(1)
        seen += [(row.turns, row.activity) for row in board_of(metrics).rows]
        await clock.advance(1)
    await clock.advance(1)
    assert seen == [(1, "asks the model"), (1, "look_up"), (2, "asks the model")]
    if task is not None:
        await task


async def test_runs_that_are_gone_leave_the_board() -> None:
    """A run that was deleted is not shown; one that waits for a worker is, without figures."""
    store = open_store("memory://board-gone")
    await store.open()
    clock = FakeClock()
    board = StoredBoard(store, clock=clock)
    run_id = await Runner.submit("Desk", "hi", store=store)
    (row,) = (await board.read()).rows
    assert (row.status, row.turns, row.events) == ("queued", 0, 0)
    await store.delete(run_id)
    assert (await board.read()).rows == []
    await store.aclose()
