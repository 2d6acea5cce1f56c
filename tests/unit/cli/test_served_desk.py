"""The desk that `runstream serve` shows where nobody names agents."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from runstream import RunConfig, Runner
from runstream.cli import _cli
from runstream.cli.served_desk import served_desk
from runstream.view.entries import HandoffEntry, MessageEntry, ReasoningEntry, ToolEntry
from runstream.view.run_view import RunView

QUESTION = "My order 1042 came with a cracked lid. Can I have my money back?"


async def play(said: Any, *, approves: bool = True, desk: Any = None) -> tuple[RunView, Any]:
    """The view of a run in which the call that waits is answered, and the run."""
    desk = desk or served_desk(scripted=True, pace=0)
    result = Runner.run_streamed(desk, said, run_config=RunConfig(on_approval="wait"))
    view = RunView()
    async for event in result.events():
        view.apply(event)
        for call in view.pending_approvals:
            if call.answer is None and event.kind == "item" and event.data.type == "tool_approval_item":
                answer = result.approve if approves else result.reject
                await answer(call.call_id or "", **({} if approves else {"message": "Too expensive."}))
    return view, result


async def test_it_shows_all_that_the_page_can() -> None:
    """Reasoning, a tool that reports, an agent as a tool, a handoff, a call that waits, an answer; and again, as often
    as it is asked, also in the same conversation."""
    desk = served_desk(scripted=True, pace=0)
    said: Any = QUESTION
    for _ in range(2):
        view, result = await play(said, desk=desk)
        kinds = {type(entry) for entry in view.entries}
        assert kinds >= {ReasoningEntry, MessageEntry, ToolEntry, HandoffEntry}
        look_up, ask, refund = [entry for entry in view.entries if isinstance(entry, ToolEntry)]
        assert look_up.progress_count == 4
        assert ask.nested is not None
        assert [entry.name for entry in ask.nested.entries if isinstance(entry, ToolEntry)] == ["read_manual"]
        assert (refund.state, refund.output) == ("done", "refund R-7301 of 34.90 EUR sent")
        assert "on its way" in view.text
        assert view.status == "completed"
        said = [*result.to_input_list(), {"role": "user", "content": "And my order 2077 is broken, too."}]
    refused, _ = await play(QUESTION, approves=False)
    assert "Too expensive." in refused.text


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [
        ("Some code, please", "completed", "```python"),
        ("Fail", "failed", "warehouse"),
        ("Hm?", "completed", "scripted"),
    ],
)
async def test_what_else_it_knows(said: str, status: str, text: str) -> None:
    """Code, an error in mid-sentence, and what it is."""
    view, _ = await play(said)
    assert (view.status, text in view.text) == (status, True)


def test_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """`runstream serve` alone says that its model is scripted, or that it is a real one's."""
    from runstream.cli import serve

    served: list[Any] = []
    monkeypatch.setattr(serve, "_serve", lambda *given: served.append(given))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for key, words in ((None, "its model is scripted"), ("sk-x", "to try the page with\n")):
        if key is None:
            monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        else:
            monkeypatch.setenv("OPENAI_API_KEY", key)
        result = CliRunner().invoke(_cli, ["serve", "--store", "memory://desk"])
        assert result.exit_code == 0, result.output
        assert words in result.output
        assert ("scripted" in result.output) == (key is None)
    assert [service.agents[0].model is None for _, service, *_ in served] == [False, True]
