"""The AI SDK with its official transport, chat and validators: streams of every kind of run, and chats over HTTP.

A stream that was cut passes for success there: every test asks for `finish` or `abort`.
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
from runstream.server.protocols.ai_sdk import AiSdk
from runstream.testing import Fault, HandoffTo, ScriptedModel, ToolCall, Turn
from serving import Client, serving

pytestmark = pytest.mark.system

WORDS = " ".join(f"word{number}" for number in range(25))
WHOLE = HOSTILE.replace("\ud800", "\ufffd")


def texts_of(message: dict[str, Any], type: str = "text") -> list[str]:
    return [part["text"] for part in message["parts"] if part["type"] == type]


def states_of(message: dict[str, Any]) -> dict[str, str]:
    return {part["type"]: part["state"] for part in message["parts"] if part["type"].startswith("tool-")}


async def test_every_kind_of_run_is_valid(node: str, tmp_path: Path) -> None:
    """Each chunk is of the official schema, and the message validates after each of them; a stream that was cut is no
    error to the reader: only its missing end tells."""
    all_logs = await logs()
    cases: dict[str, Any] = {}
    for name, log in all_logs.items():
        bodies = retold(lambda log=log, **fields: AiSdk(log[0].run_id, **fields), log)
        cases[name] = {"responses": [body.decode() for body in bodies]}
    whole: str = cases["nested"]["responses"][0]
    cases["cut"] = {"responses": [whole[: whole.rindex('data: {"type":"finish"')]]}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(list(cases.values())))
    results = await run_client(node, "ai_sdk_read.mjs", str(file))
    seen = dict(zip(cases, results, strict=True))
    cut = seen.pop("cut")
    assert (cut["errors"], cut["invalid"]) == ([], [])
    assert not {"finish", "abort"} & set(cut["types"])
    for name, each in seen.items():
        assert each["invalid"] == [], name
        assert each["types"][-1] == ("abort" if name == "cancelled" else "finish"), name
        status = each["message"]["metadata"]["status"]
        assert bool(each["errors"]) == (status == "failed"), name
    assert texts_of(seen["retried"]["message"]) == ["Whole."]
    assert texts_of(seen["hostile"]["message"]) == [WHOLE, WHOLE]
    assert texts_of(seen["hostile"]["message"], "reasoning") == [WHOLE]
    assert states_of(seen["support"]["message"]) == {
        "tool-look_up": "output-available",
        "tool-ask_expert": "output-available",
        "tool-refund": "output-denied",
        "tool-transfer_to_boss": "output-available",
    }
    nested = [part["data"] for part in seen["nested"]["message"]["parts"] if part["type"] == "data-nested"]
    assert [(each["kind"], each.get("state")) for each in nested] == [
        ("reasoning", None),
        ("tool", "failed"),
        ("text", None),
    ]


async def test_chats_over_http(node: str, tmp_path: Path) -> None:
    """An approval and a handoff; a page that is loaded again in mid-sentence; a stop; a model that fails; nothing to
    resume after the end."""
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
        {"answer": True},
        {"say": "Talk.", "leave_after": 6},
        {"resume": True},
        {"say": "Talk.", "stop_after": 6},
        {"say": "Break."},
    ]
    app = create_app(desk, store=f"sqlite:///{tmp_path}/runs.db", run_config=config, page=False)
    async with serving(app) as url:
        asked, paid, left, again, nothing, stopped, failed = await run_client(node, "ai_sdk_chats.mjs", url, wanted)
        for each in (asked, paid, left, again, nothing, stopped, failed):
            assert each["invalid"] is None
        assert states_of(asked["messages"][-1])["tool-refund"] == "approval-requested"
        assert asked["types"][-1] == "finish"
        answer = paid["messages"][-1]
        assert (len(paid["messages"]), answer["id"]) == (2, asked["messages"][-1]["id"])
        assert states_of(answer) == {"tool-refund": "output-available", "tool-transfer_to_boss": "output-available"}
        assert texts_of(answer) == ["May I? ", WHOLE]
        assert (answer["metadata"]["status"], answer["metadata"]["agent"]) == ("completed", "Boss")
        assert not {"finish", "abort"} & set(left["types"])
        assert (again["statuses"], again["types"][-1]) == ([200], "finish")
        assert texts_of(again["messages"][-1]) == [WORDS]
        assert again["messages"][-1]["id"] == left["messages"][-1]["id"]
        assert (nothing["statuses"], nothing["messages"]) == ([204], again["messages"])
        assert stopped["types"][-1] == "abort"
        [said] = texts_of(stopped["messages"][-1])
        assert WORDS.startswith(said)
        assert said != WORDS
        assert (failed["status"], failed["messages"][-1]["metadata"]["status"]) == ("error", "failed")
        assert failed["error"]
        async with Client(url) as client:
            _, shown = await client.json("GET", f"/runs/{stopped['messages'][-1]['metadata']['runId']}")
            assert shown["status"] == "cancelled"
