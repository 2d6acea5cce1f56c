"""cli/screen: text that is to appear evenly."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from runstream import Agent, RunConfig, Runner
from runstream.cli.screen import Screen
from runstream.testing import FakeClock, ScriptedModel, say


@pytest.mark.parametrize("options", [{}, {"smooth": "word"}, {"smooth": "word", "as_json": True}])
async def test_the_same_is_shown(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Paced or not, the text and the lines are the same; what counts deltas sees those of the model; the cursor tells
    what was shown as a whole; JSON lines are never cut."""
    clock = FakeClock()
    model = ScriptedModel([say(["one two three ", "four five ", "six"], every_s=0.3)], clock=clock)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    await result.wait()
    events = [event async for event in result.events()]
    told: list[Any] = []
    screen = Screen(**{"as_json": False, **options})
    behind: list[bool] = []
    async with aclosing(screen.paced(result.events(), told.append)) as shown:
        async for event in shown:
            screen.show(event)
            behind.append(screen.cursor is None or screen.cursor <= event.seq)
    screen.close()
    assert [(event.seq, event.kind) for event in told] == [(event.seq, event.kind) for event in events]
    assert all(behind)
    output = capsys.readouterr().out
    is_paced = options == {"smooth": "word"}
    assert (len(behind) == len(events)) is not is_paced
    assert screen.cursor == (events[-1].seq if is_paced else None)
    if "as_json" in options:
        assert output.count("\n") == len(events)
    else:
        assert "one two three four five six" in output
