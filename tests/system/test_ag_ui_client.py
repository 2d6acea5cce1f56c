"""AG-UI with its official client: streams are enforced, verified and applied by it, over real sockets too.

A stream that was cut passes for success there: every test asks for the end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from node_tools import run_client
from protocol_logs import HOSTILE, logs, refund, retold
from runstream import Agent, RunConfig
from runstream.server import create_app
from runstream.server.protocols.ag_ui import AgUi, RunAgentInput
from runstream.testing import Fault, HandoffTo, ScriptedModel, ToolCall, Turn
from serving import Client, serving

pytestmark = pytest.mark.system

BEFORE = [{"id": "u1", "role": "user", "content": "hi"}]
WORDS = " ".join(f"word{number}" for number in range(25))
ENDS = {
    "support": ["interrupt", "model_stream_failed"],
    "hosted": ["interrupt", "success"],
    "hostile": ["model_refusal"],
    "failed": ["model_stream_truncated"],
    "too long": ["max_turns_exceeded"],
    "cancelled": ["cancelled"],
    "interrupted": ["interrupt"],
}


def ends_of(seen: dict[str, Any]) -> list[str]:
    return [end["outcome"]["type"] if end["type"] == "RUN_FINISHED" else end["code"] for end in seen["ends"]]


def texts_of(seen: dict[str, Any], role: str = "assistant") -> list[str]:
    return [message["content"] for message in seen["messages"] if message["role"] == role and message.get("content")]


async def test_every_kind_of_run_is_valid(node: str, tmp_path: Path) -> None:
    """Enforced without a warning, verified, and with the messages and the end that the run has; a stream that was cut
    is no error to the client: only its missing end tells."""
    all_logs = await logs()
    cases: dict[str, Any] = {}
    for name, log in all_logs.items():
        given = RunAgentInput("thread-1", "r1", BEFORE)
        bodies = retold(lambda log=log, given=given, **fields: AgUi(log[0].run_id, given, **fields), log)
        cases[name] = {"responses": [body.decode() for body in bodies], "messages": BEFORE}
    whole: str = cases["nested"]["responses"][0]
    cases["cut"] = {"responses": [whole[: whole.rindex("data: ")]], "messages": BEFORE}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(list(cases.values())))
    results = await run_client(node, "ag_ui_verify.mjs", str(file))
    seen = dict(zip(cases, results, strict=True))
    cut = seen.pop("cut")
    assert (cut["errors"], cut["ends"]) == ([], [])
    for name, each in seen.items():
        assert (each["errors"], each["warnings"]) == ([], []), name
        assert ends_of(each) == ENDS.get(name, ["success"]), name
    assert texts_of(seen["retried"]) == ["Whole."]
    assert texts_of(seen["hostile"]) == [HOSTILE.replace("\ud800", "\ufffd")] * 2
    assert texts_of(seen["handoff"]) == ["Wait.", "I am the boss."]
    assert texts_of(seen["support"]) == ["Let me look.", "It was lost.", "I cannot"]
    assert texts_of(seen["support"], "user") == ["hi", "Quickly, please."]
    assert texts_of(seen["support"], "tool") == ["on its way", "It was lost.", "ask first", '{"agent":"Boss"}']
    [nested] = [message for message in seen["support"]["messages"] if message.get("subagentRunId")]
    assert nested["content"] == "It was lost."


async def test_runs_over_http(node: str) -> None:
    """An approval and a handoff; a client that goes away and asks again; a stop; a model that fails in mid-sentence."""
    boss = Agent(name="Boss", model=ScriptedModel([HOSTILE]))
    slow = Turn((WORDS,), every_s=0.02)
    steps = [
        Turn(("May I? ", ToolCall("refund", {"order": 7}))),
        HandoffTo(boss),
        slow,
        slow,
        Turn((WORDS,), fault=Fault("reset", after=3)),
    ]
    desk = Agent(name="Desk", model=ScriptedModel(steps), tools=[refund], handoffs=[boss])
    config = RunConfig(on_approval="wait", on_broken_stream="fail")
    wanted = [
        {"say": "Pay back."},
        {"answer": {"approved": True}},
        {"say": "Talk.", "leave_after": 5},
        {"say": "Talk.", "stop_after": 5},
        {"say": "Break."},
    ]
    async with serving(create_app(desk, store="memory://", run_config=config, page=False)) as url:
        asked, paid, left, again, stopped, failed = await run_client(
            node, "ag_ui_runs.mjs", f"{url}/ag-ui/Desk", wanted
        )
        assert asked["end"]["outcome"]["type"] == "interrupt"
        assert (paid["end"]["outcome"], paid["interrupts"]) == ({"type": "success"}, [])
        assert (paid["server"], texts_of(paid, "tool")[0]) == (asked["server"], "refunded 7")
        assert texts_of(paid) == ["May I? ", HOSTILE.replace("\ud800", "\ufffd")]
        assert [each["name"] for each in paid["custom"]] == ["runstream.handoff"]
        # The client calls its own going away an error, and has the beginning.
        assert left["end"]["code"] == "abort"
        assert WORDS.startswith(texts_of(left)[-1])
        assert texts_of(left)[-1] != WORDS
        assert (again["end"]["outcome"]["type"], again["server"]) == ("success", left["server"])
        assert texts_of(again) == [*texts_of(paid), WORDS]
        assert stopped["end"]["outcome"] == {"type": "cancelled"}
        assert WORDS.startswith(texts_of(stopped)[-1])
        assert texts_of(stopped)[-1] != WORDS
        assert (failed["end"]["type"], failed["error"]) == ("RUN_ERROR", None)
        assert "word0" in texts_of(failed)[-1]
        for each in (asked, paid, left, again, stopped, failed):
            assert each["warnings"] == []
        async with Client(url) as client:
            _, shown = await client.json("GET", f"/runs/{stopped['server']}")
            assert shown["status"] == "cancelled"
