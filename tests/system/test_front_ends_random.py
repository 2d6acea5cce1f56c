"""Random runs in the protocols of front ends, read by their official clients: valid, whole, and with an end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node_tools import run_client
from properties.test_random_runs import Stage, Story, on_stage, stories
from protocol_logs import retold
from runstream.events.event import ATTEMPT_DISCARDED, MODEL, AttemptDiscarded, Event
from runstream.server.protocols.ag_ui import AgUi, RunAgentInput
from runstream.server.protocols.ai_sdk import AiSdk
from runstream.view.entries import MessageEntry
from runstream.view.run_view import view_of
from unit.view.test_view_of_random_runs import answers, guarded, play_guarded

pytestmark = pytest.mark.system


def begun_again(events: list[Event], at: float) -> list[Event]:
    """The same run, whose model had begun one of its answers before, and broke off."""
    starts = [place for place, event in enumerate(events) if event.kind == MODEL and _is(event, "response.created")]
    if not starts:
        return events
    start = starts[int(at * len(starts))]
    end = start
    while events[end + 1].kind == MODEL and not _is(events[end], "response.completed", "error"):
        end += 1
    stop = start + 1 + int(at * (end - start))
    void = Event("r", 0, events[stop - 1].at, ATTEMPT_DISCARDED, "Ann", 0, (), AttemptDiscarded(start + 1, "retry"))
    mixed = [*events[:stop], void, *events[start:]]
    return [
        Event(event.run_id, seq, event.at, event.kind, event.agent, event.attempt, event.path, event.data)
        for seq, event in enumerate(mixed, start=1)
    ]


def _is(event: Event, *types: str) -> bool:
    return event.data.type in types


def random_logs() -> list[list[Event]]:
    logs: list[list[Event]] = []

    @settings(max_examples=25)
    @given(stories(), st.floats(0, 0.99))
    def play(story: Story, at: float) -> None:
        async def act(stage: Stage) -> None:
            result, _ = await stage.play_streamed()
            events = [event async for event in result.events()]
            logs.extend((events, begun_again(events, at)))

        on_stage(act)(story)

    @settings(max_examples=12)
    @given(guarded, answers)
    def play_with_people(turns: list[Any], given_answers: list[str]) -> None:
        logs.append(asyncio.run(play_guarded(turns, given_answers))[1])

    play()
    play_with_people()
    return logs


async def test_random_runs_are_valid(node: str, tmp_path: Path) -> None:
    """Whatever models say, tools do and people answer: no client complains, each response has its end, and the texts
    that count are there once, those of a discarded attempt not at all."""
    logs = await asyncio.to_thread(random_logs)
    before = [{"id": "u", "role": "user", "content": "hi"}]
    asked = RunAgentInput("thread-1", "r1", before)
    cases: dict[str, list[Any]] = {"ag_ui_verify.mjs": [], "ai_sdk_read.mjs": []}
    for log in logs:
        run_id = log[0].run_id
        told = retold(lambda run_id=run_id, **fields: AgUi(run_id, asked, **fields), log)
        cases["ag_ui_verify.mjs"].append({"responses": [body.decode() for body in told], "messages": before})
        told = retold(lambda run_id=run_id, **fields: AiSdk(run_id, **fields), log)
        cases["ai_sdk_read.mjs"].append({"responses": [body.decode() for body in told]})
    assert any(len(case["responses"]) > 1 for case in cases["ag_ui_verify.mjs"])
    for program, given_cases in cases.items():
        (tmp_path / program).write_text(json.dumps(given_cases))
    results = await asyncio.gather(*(run_client(node, program, str(tmp_path / program)) for program in cases))
    for log, case, by_ag_ui, by_ai_sdk in zip(logs, cases["ag_ui_verify.mjs"], *results, strict=True):
        texts = [
            entry.text
            for entry in view_of(log).entries
            if isinstance(entry, MessageEntry) and not entry.void and entry.text
        ]
        assert (by_ag_ui["errors"], by_ag_ui["warnings"]) == ([], [])
        assert len(by_ag_ui["ends"]) == len(case["responses"])
        said = [message for message in by_ag_ui["messages"] if message["role"] == "assistant"]
        assert [message["content"] for message in said if message.get("content")] == texts
        assert by_ai_sdk["invalid"] == []
        assert by_ai_sdk["types"][-1] in ("finish", "abort")
        parts = by_ai_sdk["message"]["parts"]
        assert [part["text"] for part in parts if part["type"] == "text" and part["text"]] == texts
