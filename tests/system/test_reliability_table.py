"""docs/reliability.md tells what happens: each row of its table is made again, over real sockets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reliability_table", ROOT / "tools" / "reliability_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reliability_table"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = _tool()


@pytest.mark.parametrize("name", tool.FAULTS)
async def test_the_page_has_what_happens(name: str) -> None:
    """What a reader sees of each fault under each policy, word for word."""
    page = tool.PAGE.read_text()
    assert await tool.row(name) in page.splitlines()


@pytest.mark.parametrize("policy", ["restart", "fallback, restart"])
@pytest.mark.parametrize("name", ["HTTP 503", "reset in the text", "silence in the text"])
async def test_chat_completions_do_the_same(name: str, policy: str) -> None:
    """The policies stand above the dialects."""
    fault, chosen = tool.FAULTS[name], tool.POLICIES[policy]
    assert await tool.see(fault, chosen, use_responses=False) == await tool.see(fault, chosen)


def test_a_page_without_a_place_is_refused() -> None:
    """The table is put where the page has its place, and nowhere else."""
    assert tool.put(f"a\n{tool.BEGIN}old\n{tool.END}b\n", "new\n") == f"a\n{tool.BEGIN}new\n{tool.END}b\n"
    with pytest.raises(ValueError, match="no place"):
        tool.put("a", "new")
