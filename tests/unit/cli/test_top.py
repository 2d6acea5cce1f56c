"""`runstream top`: what it prints once, and what it draws."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from runstream import Agent, RunConfig, Runner
from runstream.cli import _cli
from runstream.cli.top import lines_of, show
from runstream.errors import MissingExtra
from runstream.observe import Metrics
from runstream.observe.board import Board, Row
from runstream.testing import ScriptedModel


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with one run."""
    url = f"sqlite:///{tmp_path}/runs.db"
    agent = Agent(name="Desk", model=ScriptedModel(["All is well."]))
    Runner.run_sync(agent, "hi", run_config=RunConfig(store=url, run_id="run_of_the_desk"))
    return url


def top(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(_cli, ["top", *arguments], prog_name="runstream")
    return result.exit_code, result.output


def test_once(store: str) -> None:
    """Plain lines: the summary, and a table with a line for each run."""
    status, output = top("--store", store, "--once")
    assert status == 0
    lines = output.splitlines()
    assert lines[0] == "runs: 1 completed"
    assert lines[1].startswith("first text p50 ")
    assert lines[3].split()[:4] == ["RUN", "AGENT", "STATUS", "DOES"]
    assert lines[4].split()[:3] == ["run_of_the_desk", "Desk", "completed"]


def test_as_json(store: str) -> None:
    """One object with the rows, for scripts."""
    status, output = top("--store", store, "--json")
    assert status == 0
    board = json.loads(output)
    assert (board["counts"], board["rows"][0]["run_id"]) == ({"completed": 1}, "run_of_the_desk")


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    """A file that is not there is said to be missing."""
    status, output = top("--store", f"sqlite:///{tmp_path}/none.db", "--once")
    assert status == 1
    assert "there is no file" in output


def board(**fields: object) -> Board:
    rows = [
        Row(
            "run_0123456789abcdef0123",
            "Desk\x1b[31m",
            "running",
            "look_up",
            75.0,
            2,
            0.25,
            41.4,
            0.0002,
            1,
            0,
            1500,
            90,
        ),
        Row("run_2", None, "failed", "failed", 3.0, error="RateLimitError"),
    ]
    values: dict[str, object] = {
        "at": 0.0,
        "source": "sqlite:///runs.db",
        "rows": rows,
        "counts": {"running": 1, "failed": 1},
        "errors": {"RateLimitError": 1},
        "first_text_p50_s": 0.25,
        "first_text_p95_s": 2.5,
        "gap_p95_s": None,
        "stalls": 1,
        "retries": 0,
        "tokens": 1500,
        "deltas_per_s": 41.4,
        **fields,
    }
    return Board(**values)  # type: ignore[arg-type]


def test_the_lines() -> None:
    """Figures in words; long ids by their end; nothing of an agent's name reaches the terminal as a command."""
    lines = lines_of(board(reader_lag=7, breakers={"gpt": "open"}))
    assert lines[:4] == [
        "runs: 1 running, 1 failed",
        "first text p50 250 ms, p95 2.5 s; gap p95 -; stalls 1; retries 0; 41 deltas/s; 1,500 tokens; "
        "reader lag 7 events",
        "errors: 1 RateLimitError",
        "breakers: gpt open",
    ]
    assert lines[6].split() == ["…bcdef0123"] or lines[6].startswith("…")
    assert "\x1b" not in "".join(lines)
    assert "RateLimitError" in lines[7]
    assert lines_of(board(rows=[], errors={}))[-1] == "no runs"


async def test_the_live_view_of_this_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It draws until it is cancelled, and then ends in order."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    task = asyncio.create_task(show(Metrics(), every_s=60.0))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await task
    drawn = capsys.readouterr().out
    assert "runstream top  this process" in drawn
    assert drawn.endswith("\x1b[?25h\x1b[?1049l")  # the cursor and the screen are back


async def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich the error says what to install, and what does without."""
    monkeypatch.setitem(sys.modules, "rich.live", None)
    with pytest.raises(MissingExtra, match=r"runstream\[top\]"):
        await show(Metrics())
