"""Laws of the view over random runs: whatever the models say, the tools do and whoever cancels or answers when."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from properties.test_random_runs import Stage, Story, on_stage, stories
from runstream import Agent, ItemHelpers, MessageOutputItem, RunConfig, Runner, function_tool
from runstream.agent.raw_item import read_field
from runstream.events.event import ATTEMPT_DISCARDED, MODEL, AttemptDiscarded, Event
from runstream.events.segment import decode_segment, encode_segment
from runstream.testing import FakeClock, HandoffTo, Reasoning, ScriptedModel, ToolCall, Turn
from runstream.view.entries import Entry, HandoffEntry, MessageEntry, ReasoningEntry, ToolEntry
from runstream.view.run_view import RunView, view_of


def shown_texts(entries: list[Entry]) -> list[str]:
    """What the messages that count say."""
    return [entry.text for entry in entries if isinstance(entry, MessageEntry) and not entry.void and entry.text]


def said_texts(items: list[Any]) -> list[str]:
    """What the run's messages say, refusals included."""
    texts: list[str] = []
    for item in items:
        if isinstance(item, MessageOutputItem):
            parts = read_field(item.raw_item, "content")
            texts.append("".join(read_field(part, "text") or read_field(part, "refusal") or "" for part in parts))
    return [text for text in texts if text]


def check_calls(view: RunView, items: list[Any]) -> None:
    """Every call of the run has its card, or its badge, with the output that the log has."""
    cards = [entry for entry in view.entries if isinstance(entry, ToolEntry | HandoffEntry) and not entry.void]
    cards = [card for card in cards if card.item_seq is not None]
    calls = [item for item in items if item.type in ("tool_call_item", "handoff_call_item")]
    assert [card.call_id for card in cards] == [item.raw_item.call_id for item in calls]
    assert [card.name for card in cards] == [item.raw_item.name for item in calls]
    outputs = {item.raw_item["call_id"]: item for item in items if item.type == "tool_call_output_item"}
    for card, call in zip(cards, calls, strict=True):
        assert card.arguments == call.raw_item.arguments
        output = outputs.get(card.call_id)
        if isinstance(card, ToolEntry):
            assert card.parsed == json.loads(card.arguments)
            assert output is not None
            assert card.output == output.raw_item["output"]
            assert card.state in ("done", "failed", "cancelled", "rejected")
            assert card.duration_s is None or card.duration_s >= 0
        elif output is None:
            assert card.state == "done"
        else:
            assert (card.state, card.output) == ("refused", output.raw_item["output"])


def stored(events: list[Event]) -> list[Event]:
    """The events as another process reads them from a store."""
    return decode_segment(encode_segment(events), events[0].run_id)


def check_view(events: list[Event], items: list[Any], cuts: list[float]) -> RunView:
    """All laws, for one run."""
    view = RunView()
    for event in events:
        changed = view.apply(event)
        assert all(entry_id == 0 or view.find(entry_id) is not None for entry_id in changed)
    shown = view.to_json()
    assert shown_texts(view.entries) == said_texts(items)
    check_calls(view, items)
    assert view.status == events[-1].data.status
    assert view.last_seq == view.figures.events == len(events)
    assert not [
        entry for entry in view.entries if getattr(entry, "state", None) in ("streaming", "arguments", "running")
    ]
    ids = [entry.id for entry in view.entries]
    assert ids == sorted(set(ids))
    # From a store, and going on anywhere.
    assert view_of(stored(events)).to_json() == shown
    for cut in cuts:
        place = int(cut * len(events))
        kept = view_of(events[:place]).to_string()
        going_on = RunView.from_string(kept)
        assert going_on.to_string() == kept
        for event in events[max(place - 3, 0) :]:
            going_on.apply(event)
        assert going_on.to_json() == shown
    # Without deltas the state is the same, but for the texts of what broke off.
    sparse = view_of(decode_segment(encode_segment(events), "run", deltas=False), sparse=True)
    assert sparse.status == view.status
    assert [entry.call_id for entry in sparse.entries if isinstance(entry, ToolEntry) and entry.item_seq] == [
        entry.call_id for entry in view.entries if isinstance(entry, ToolEntry) and entry.item_seq
    ]
    assert shown_texts(sparse.entries) == shown_texts(view.entries)
    return view


cuts = st.lists(st.floats(0, 1), min_size=1, max_size=4)


def test_the_view_of_any_run() -> None:
    """Texts and calls are those of the run's items; stored, cut and continued views are the same view."""
    seen: set[str] = set()

    @settings(max_examples=150)
    @given(stories(), cuts)
    def holds(story: Story, places: list[float]) -> None:
        async def act(stage: Stage) -> None:
            result, _ = await stage.play_streamed()
            view = check_view([event async for event in result.events()], result.new_items, places)
            seen.update(str(getattr(entry, "state", "")) for entry in view.entries)
            seen.add(view.status)
            if view.status == "completed" and isinstance(result.final_output, str):
                assert view.text == result.final_output

        on_stage(act)(story)

    holds()
    assert seen >= {"done", "failed", "cancelled", "refused", "completed"}


@settings(max_examples=60)
@given(stories(cancels=False), st.data())
def test_what_was_discarded_does_not_count(story: Story, data: st.DataObject) -> None:
    """An attempt that was taken back anywhere in a response is marked, or taken out, and all else is as without it."""

    async def act(stage: Stage) -> None:
        result, _ = await stage.play_streamed()
        events = [event async for event in result.events()]
        starts = [
            index for index, event in enumerate(events) if event.kind == MODEL and event.data.type == "response.created"
        ]
        if not starts:
            return
        start = data.draw(st.sampled_from(starts))
        end = start
        while events[end + 1].kind == MODEL and events[end].data.type not in ("response.completed", "error"):
            end += 1
        stop = data.draw(st.integers(start + 1, end + 1))
        broken = events[start:stop]
        taken_back = Event(
            "r", 0, events[stop - 1].at, ATTEMPT_DISCARDED, "Ann", 0, (), AttemptDiscarded(start + 1, "x")
        )
        mixed = [*events[:start], *broken, taken_back, *events[start:]]
        numbered = [
            Event(event.run_id, seq, event.at, event.kind, event.agent, event.attempt, event.path, event.data)
            for seq, event in enumerate(mixed, start=1)
        ]
        full, compact, plain_view = view_of(numbered), view_of(numbered, keep_void=False), view_of(events)
        for view in (full, compact):
            assert shown_texts(view.entries) == said_texts(result.new_items)
            check_calls(view, result.new_items)
            assert RunView.from_json(view.to_json()).to_json() == view.to_json()
        assert not any(entry.void for entry in compact.entries)
        assert [entry.id for entry in full.entries if not entry.void] == [entry.id for entry in compact.entries]
        counted = [type(entry) for entry in compact.entries if entry.id != stop + 1]
        assert counted == [type(entry) for entry in plain_view.entries if not entry.void]

    on_stage(act)(story)


@settings(max_examples=60)
@given(stories(cancels=False), st.floats(0, 1), st.floats(0, 1))
def test_events_that_are_no_longer_kept(story: Story, from_: float, length: float) -> None:
    """With a hole anywhere the view says so, and shows to the end what came after; it goes on from anywhere."""

    async def act(stage: Stage) -> None:
        result, _ = await stage.play_streamed()
        events = [event async for event in result.events()]
        first = int(from_ * (len(events) - 2))
        kept = events[:first] + events[first + 1 + int(length * (len(events) - first - 2)) :]
        view = RunView()
        for event in kept:
            view.apply(event)
            again = RunView.from_json(view.to_json())
            assert again.to_json() == view.to_json()
        gaps = [entry for entry in view.entries if type(entry).__name__ == "GapEntry"]
        assert [(gap.id, gap.to_seq) for gap in gaps] == ([] if kept == events else [(first + 1, kept[first].seq - 1)])
        assert view.status == events[-1].data.status
        assert view.figures.events == len(kept)
        # What is said after the hole is there, and is said once.
        later = [
            "".join(read_field(part, "text") or read_field(part, "refusal") for part in event.data.raw.content)
            for event in kept[first:]
            if event.kind == "item" and event.data.type == "message_output_item"
        ]
        if later:
            assert shown_texts(view.entries)[-len(later) :] == later

    on_stage(act)(story)


guarded = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(["pay", "look"]).map(lambda name: ToolCall(name, {"order": "1"})),
            st.just(Reasoning("hm")),
            st.just("Wait."),
        ),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=3,
)
answers = st.lists(st.sampled_from(["approve", "reject", "always", "never"]), min_size=6, max_size=6)


async def play_guarded(turns: list[Any], answers: list[str]) -> tuple[Any, list[Event]]:
    """A run whose calls of `pay` wait for answers, and its events."""

    @function_tool(needs_approval=True)
    def pay(order: str) -> str:
        """Pay."""
        return f"paid {order}"

    @function_tool
    def look(order: str) -> str:
        """Look."""
        return f"saw {order}"

    clock = FakeClock()
    steps = [Turn(tuple(parts), every_s=0.1) for parts in turns]
    model = ScriptedModel([*steps, HandoffTo("Bob")], default="Done.", clock=clock)
    bob = Agent(name="Bob", model=model)
    agent = Agent(name="Ann", model=model, tools=[pay, look], handoffs=[bob])
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock, on_approval="wait"))
    events: list[Event] = []
    async for event in result.events():
        events.append(event)
        if event.kind == "item" and event.data.type == "tool_approval_item":
            # The view knows what waits, as the run does.
            view = view_of(events)
            assert {entry.call_id for entry in view.pending_approvals} >= {event.data.raw.call_id}
            answer = answers[len(events) % len(answers)]
            if event.data.raw.call_id in {request.call_id for request in result.pending_approvals}:
                call = result.approve if answer in ("approve", "always") else result.reject
                await call(event.data.raw.call_id, always=answer in ("always", "never"))
    return result, events


@settings(max_examples=60)
@given(guarded, answers, cuts)
def test_calls_that_wait_for_people(turns: list[Any], given_answers: list[str], places: list[float]) -> None:
    """Cards wait until they are answered; what was rejected is shown as that, and nothing waits in the end."""

    async def main() -> None:
        result, events = await play_guarded(turns, given_answers)
        view = check_view(events, result.new_items, places)
        assert view.pending_approvals == []
        for card in view.entries:
            if isinstance(card, ToolEntry) and card.name == "pay":
                assert (card.state == "rejected") == (card.output != "paid 1")
        assert [agent.name for agent in view.main.agents] == ["Ann", "Bob"] or view.status == "completed"

    asyncio.run(main())


@pytest.mark.parametrize("place", ["memory://view", "sqlite"])
async def test_a_stored_run(place: str, tmp_path: Any) -> None:
    """The view of an attached run is that of the run here."""
    from runstream import open_store

    url = place if place == "memory://view" else f"sqlite:///{tmp_path / 'runs.db'}"
    store = open_store(url)
    await store.open()
    try:
        agent = Agent(name="Ann", model=ScriptedModel([[Reasoning("Well."), "It is here."]]))
        result = Runner.run_streamed(agent, "Where?", run_config=RunConfig(store=store, run_id="r1"))
        here = [event async for event in result.events()]
        attached = await Runner.attach("r1", store=store)
        there = [event async for event in attached.events()]
        view = view_of(there)
        assert view.to_json() == view_of(here).to_json()
        assert view.text == result.final_output == ItemHelpers.text_message_outputs(result.new_items)
        assert [entry.text for entry in view.entries if isinstance(entry, ReasoningEntry)] == ["Well."]
    finally:
        await store.aclose()


async def test_a_run_that_goes_on_from_its_state() -> None:
    """Its view begins with what was, and shows the call that waited, answered, with its output."""

    @function_tool(needs_approval=True)
    def pay(order: str) -> str:
        """Pay."""
        return f"paid {order}"

    agent = Agent(
        name="Ann", model=ScriptedModel([["Shall I?", ToolCall("pay", {"order": "1"})], "Done."]), tools=[pay]
    )
    first = Runner.run_streamed(agent, "hi")
    asked = view_of([event async for event in first.events()])
    assert (asked.status, [card.name for card in asked.pending_approvals]) == ("interrupted", ["pay"])
    for approves in (True, False):
        state = first.to_state()
        (request,) = first.interruptions
        if approves:
            state.approve(request)
        else:
            state.reject(request)
        agent.model = ScriptedModel(["Done."])
        second = Runner.run_streamed(agent, state)
        events = [event async for event in second.events()]
        view = view_of(events)
        (card,) = [entry for entry in view.entries if isinstance(entry, ToolEntry)]
        assert shown_texts(view.entries) == ["Shall I?", "Done."]
        assert (card.state, card.id < 0) == ("done" if approves else "rejected", True)
        assert view.pending_approvals == []
        assert view_of(stored(events)).to_json() == view.to_json()
        assert RunView.from_json(view.to_json()).to_json() == view.to_json()
