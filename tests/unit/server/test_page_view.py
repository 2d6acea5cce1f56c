"""The page's reducer is the twin of the view: the same events give the same JSON, after every one of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from page_tools import run_tool
from properties.test_random_runs import Stage, Story, on_stage, stories
from runstream import Agent, ModelSettings, RunConfig, Runner, function_tool
from runstream.agent.retry import ModelRetryBackoffSettings, ModelRetrySettings
from runstream.agent.tool_context import ToolContext
from runstream.events.event import Event, RunQueued
from runstream.server.protocols import native
from runstream.testing import FakeClock, Fault, HandoffTo, Reasoning, Refusal, ScriptedModel, ToolCall, Turn
from runstream.view.run_view import RunView
from view_events import Log, call, message, output, support_run


async def events_of(agent: Agent[Any], answers: list[str] | None = None, **options: Any) -> list[Event]:
    """The events of a run; calls that wait for a person are answered one after the other."""
    clock = FakeClock()
    for each in (agent, *agent.handoffs):
        if isinstance(each, Agent) and isinstance(each.model, ScriptedModel):
            each.model._clock = clock
    config = RunConfig(clock=clock, on_approval="wait", **options)
    result = Runner.run_streamed(agent, "hi", run_config=config)
    events: list[Event] = []
    async for event in result.events():
        events.append(event)
        if event.kind == "item" and event.data.type == "tool_approval_item" and answers:
            answer = answers.pop(0)
            decide = result.approve if answer in ("approve", "always") else result.reject
            await decide(event.data.raw.call_id, always=answer == "always")
    return events


@function_tool(needs_approval=True)
def pay(order: str) -> str:
    """Pay."""
    return f"paid {order}"


@function_tool
async def count(context: ToolContext[Any]) -> str:
    """Reports, and fails."""
    for number in range(103):
        context.emit({"percent": number})
    raise ValueError("no more")


async def scripted_runs() -> list[list[Event]]:
    """Runs of agents that do all that the page shows."""
    pays = [ToolCall("pay", {"order": str(number)}) for number in range(3)]
    guarded = Agent(name="Ann", tools=[pay], model=ScriptedModel([pays, [Reasoning("Hm."), "Done."]]))
    always = Agent(name="Ann", tools=[pay], model=ScriptedModel([[pays[0]], [pays[1]], "Done."]))
    expert = Agent(name="Expert", tools=[count], model=ScriptedModel([ToolCall("count"), [Reasoning("So."), "42"]]))
    bob = Agent(name="Bob", model=ScriptedModel([["Hello."]]))
    nesting = Agent(
        name="Ann",
        tools=[expert.as_tool("ask", "Ask."), count],
        handoffs=[bob],
        model=ScriptedModel([["I ask.", ToolCall("ask", {"input": "why"}), ToolCall("count")], HandoffTo(bob)]),
    )
    retry = ModelRetrySettings(backoff=ModelRetryBackoffSettings(jitter=False))
    broken = Turn(("one two three four five",), fault=Fault("reset", 3))
    retried = Agent(
        name="Ann",
        model=ScriptedModel([broken, "whole"]),
        model_settings=ModelSettings(retry=retry),
    )
    refusing = Agent(name="Ann", model=ScriptedModel([Turn((Refusal("No, thank you."),), incomplete="content_filter")]))
    return [
        await events_of(guarded, ["approve", "reject", "approve"]),
        await events_of(always, ["always"]),
        await events_of(nesting),
        await events_of(retried),
        await events_of(refusing),
    ]


def written_runs() -> list[list[Event]]:
    """Events that no scripted model makes: tools of the provider, calls that nobody saw begin, a repeated call id."""
    hosted = Log().start(
        [{"role": "user", "content": [{"type": "input_text", "text": "look"}, {"type": "input_image"}]}]
    )
    hosted.created()
    search = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "ü"}}
    hosted.added(search)
    hosted.model("response.web_search_call.searching", output_index=0, item_id="ws")
    hosted.done(search)
    hosted.item("tool_call_item", search)
    hosted.done({"type": "image_generation_call", "id": "ig", "status": "failed", "result": None}, 1)
    hosted.done({"type": "compaction", "id": "cm", "note": "x"}, 2)
    hosted.delta("Half", index=3)
    hosted.model("error", code="overloaded", message="later", param=None)
    twice = Log().start()
    for value in ("first", [{"type": "input_text", "text": "second"}, {"type": "input_image", "image_url": "x"}]):
        twice.created()
        twice.done(call("look", "c1", '{"n": 1}'))
        twice.completed(call("look", "c1"))
        twice.item("tool_call_item", call("look", "c1", '{"n": 1}'), title="Look")
        twice.item("tool_call_output_item", output("c1", value))
    twice.item("tool_call_output_item", output("c9", {"b": [1, 2.5, True, None]}))
    twice.item("message_output_item", message("m", "said", "twice", status="incomplete"))
    twice.end("cancelled")
    open_calls = Log().start()
    open_calls.created()
    open_calls.item("handoff_call_item", call("transfer_to_bob", "c1"))
    open_calls.item("handoff_call_item", call("transfer_to_cid", "c2"))
    open_calls.item("tool_call_item", call("look", "c3"))
    open_calls.item("handoff_output_item", output("c1", "Bob"), source="Desk", target="Bob")
    open_calls.item("tool_call_output_item", output("c2", "there is one already"))
    open_calls.end("failed")
    return [support_run(), hosted.events, twice.events, open_calls.events, *queued_runs()]


def queued_runs() -> list[list[Event]]:
    """Runs that wait for their place: until they have it, to their end, and where it was not seen how they got it."""
    placed, ended, unseen = Log().start(), Log().start(), Log().start()
    for log in (placed, ended, unseen):
        log.add("run.queued", RunQueued(12))
        log.add("run.queued", RunQueued(1))
    placed.add("run.queued", RunQueued(0))
    placed.created()
    ended.end("cancelled")
    unseen.model("response.output_item.added", skip=1, output_index=0, item=message("msg", ""))
    return [placed.events, ended.events, unseen.events]


def random_runs() -> list[list[Event]]:
    """Runs that nobody thought of, one in five with a hole in it."""
    found: list[list[Event]] = []

    @settings(max_examples=40)
    @given(stories())
    def collect(story: Story) -> None:
        async def act(stage: Stage) -> None:
            result, _ = await stage.play_streamed()
            events = [event async for event in result.events()]
            found.append(events)
            if len(found) % 5 == 0:
                found.append(events[: len(events) // 3] + events[len(events) // 2 :])

        on_stage(act)(story)

    collect()
    return found


def test_the_page_folds_as_the_view_does(page_node: str) -> None:
    """Every field after every event: runs with tools, approvals, nested agents, discarded attempts, failures, cancels,
    holes; and a stored view goes on as one that was never stored."""
    logs = [*asyncio.run(scripted_runs()), *written_runs(), *random_runs()]
    frames = [[native.record(event).decode() for event in log] for log in logs]
    lines = run_tool(page_node, "tools/fold.mjs", given=json.dumps(frames)).splitlines()
    assert len(lines) == len(logs)
    seen: set[str] = set()
    for log, line in zip(logs, lines, strict=True):
        view = RunView()
        for event, theirs in zip(log, json.loads(line), strict=True):
            view.apply(msgspec.structs.replace(event, at=round(event.at, 6)))
            ours = json.loads(view.to_string())
            if ours != theirs:
                wrong = {name: (value, theirs[name]) for name, value in ours.items() if value != theirs[name]}
                pytest.fail(f"after {native.record(event)!r}: (the view's, the page's) = {wrong}")
        seen.update(entry["type"] for entry in view.to_json()["entries"])
        seen.update(str(getattr(entry, "state", "")) for entry in view.entries)
        seen.add(view.status)
    assert seen >= {"handoff", "discarded", "gap", "error", "other", "reasoning"}
    assert seen >= {"rejected", "failed", "cancelled", "incomplete", "refused", "completed", "unknown"}
