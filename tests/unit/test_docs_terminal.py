"""The code in docs/terminal.md runs as it stands there, and its tables name the commands that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from runstream import Agent
from runstream.cli.chat import command
from runstream.cli.slash import COMMANDS
from runstream.server import create_app
from runstream.testing import ScriptedModel
from serving import serving

TEXT = (Path(__file__).parents[2] / "docs/terminal.md").read_text()


async def test_the_program(tmp_path: Path) -> None:
    """It gives the answer of a server's agent."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/terminal.md", "exec"), names)
    app = create_app(Agent(name="Desk", model=ScriptedModel(["It comes."])), store=f"sqlite:///{tmp_path}/runs.db")
    async with serving(app) as url:
        assert await names["ask"](url, "Where is my order?") == "It comes."


def test_the_tables() -> None:
    """Each command with a slash has its line; each option that is named exists."""
    assert re.findall(r"^\| `(/\w+)` \|", TEXT, re.MULTILINE) == list(COMMANDS)
    there = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"`(--[\w-]+)`", TEXT)) <= there
