"""docs/operators.md: every block of Python on the page runs, in its order."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from runstream import Agent, Runner
from runstream.testing import ScriptedModel, say

PAGE = Path(__file__).parents[3] / "docs" / "operators.md"


async def test_the_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The mask masks, merged events are printed with their tags, and there are outcomes and a winner."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    model = ScriptedModel([say("Oh heck, that is darn good.") for _ in range(20)])
    names: dict[str, Any] = {"agent": Agent(name="Ann", model=model)}
    printed: list[str] = []
    for number, block in enumerate(blocks):
        if number == 3:
            names["result"] = Runner.run_streamed(names["agent"], "again")
        code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = eval(code, names)
        if inspect.iscoroutine(outcome):
            await outcome
        printed.append(capsys.readouterr().out)
    assert printed[1] == printed[2] == "Oh ****, that is **** good."
    assert {"first raw_response_event", "second run_item_stream_event"} <= set(printed[4].splitlines())
    assert names["answers"] == ["Oh heck, that is darn good."] * 4
    assert names["winner"].final_output == "Oh heck, that is darn good."
