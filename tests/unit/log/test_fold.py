"""log/fold: the state of a run is a function of its events, of nothing else."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.agent.response import ModelResponse
from runstream.agent.usage import Usage
from runstream.events import codec
from runstream.events.event import (
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    Event,
    InputAdded,
    ItemAdded,
    RunEnd,
    RunStart,
)
from runstream.events.model_event import DELTA_CLASSES, build_event
from runstream.log.fold import RunFold

USAGE = {
    "input_tokens": 3,
    "output_tokens": 4,
    "total_tokens": 7,
    "input_tokens_details": {"cached_tokens": 1},
    "output_tokens_details": {"reasoning_tokens": 2},
}


def message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": f"msg_{text}", "type": "message", "role": "assistant", "status": "completed", "content": content}


def response(**more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": USAGE, **more}


CREATED = {"type": "response.created", "response": response(status="in_progress", usage=None)}
DELTA = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0, "delta": "x"}
FAILED = {"type": "response.failed", "response": response(status="failed")}


def done(text: str) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": 0, "item": message(text)}


def completed(*texts: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": response(output=[message(text) for text in texts], **more)}


def model(fields: dict[str, Any], seq: int = 1) -> Event:
    return Event("run_1", seq, 0.0, "model", "Desk", 1, (), build_event(copy.deepcopy(fields)))


def fold_of(events: list[Event]) -> RunFold:
    fold = RunFold()
    for event in events:
        fold.apply(event)
    return fold


def fold_models(*frames: dict[str, Any]) -> RunFold:
    return fold_of([model(fields, seq) for seq, fields in enumerate(frames, 1)])


def texts(fold: RunFold) -> list[list[str]]:
    return [[item.content[0].text for item in each.output] for each in fold.responses]


def state(fold: RunFold) -> dict[str, Any]:
    """All that a fold says, as plain data."""
    names = ("start", "agent_name", "items", "response_seq", "response_index", "history", "approvals", "end")
    responses = [(each.response_id, each.usage, codec.plain(each.output)) for each in fold.responses]
    return {**{name: codec.plain(getattr(fold, name)) for name in names}, "responses": codec.plain(responses)}


def test_a_fold_of_nothing() -> None:
    """Before the first event there is no agent, no item, no response and no end."""
    fold = RunFold()
    assert (fold.start, fold.agent_name, fold.agent, fold.items, fold.responses) == (None, None, None, [], [])
    assert (fold.response_seq, fold.end) == (None, None)


def test_the_course_of_a_run() -> None:
    """Input, active agent, items and end come from their events; live objects go before records."""
    desk, item = SimpleNamespace(name="Desk"), object()
    record = ItemAdded("tool_output", "tool_call_output_item", {"output": "x"})
    end = RunEnd("completed", None, "done")
    fold = fold_of(
        [
            Event("run_1", 1, 0.0, "run.start", None, 0, (), RunStart("hello")),
            Event("run_1", 2, 0.0, "agent.start", "Triage", 0, (), AgentStart()),
            Event("run_1", 3, 0.0, "item", "Triage", 0, (), record, item),
            Event("run_1", 4, 0.0, "agent.start", "Desk", 0, (), AgentStart("Triage"), desk),
            Event("run_1", 5, 0.0, "item", "Desk", 0, (), record),
            Event("run_1", 6, 0.0, "later.kind", "Desk", 0, (), {"x": 1}),
            Event("run_1", 7, 0.0, "run.end", "Desk", 0, (), end, "done"),
        ]
    )
    assert fold.start is not None
    assert (fold.start.input, fold.agent_name, fold.agent) == ("hello", "Desk", desk)
    assert fold.items == [item, record]
    assert fold.end is end


def test_an_empty_terminal_response_is_filled() -> None:
    """Where the terminal event has no output, the items that came one by one are the output, in order."""
    fold = fold_models(CREATED, done("a"), done("b"), completed())
    assert texts(fold) == [["a", "b"]]
    assert fold.responses[0].usage.total_tokens == 7


@pytest.mark.parametrize("output", [None, "left out"])
def test_a_terminal_response_without_an_output_is_filled(output: Any) -> None:
    """A server that sends null, or no output at all, in its terminal event is understood as well."""
    fields = completed()
    fields["response"]["output"] = output
    if output is not None:
        del fields["response"]["output"]
    assert texts(fold_models(CREATED, done("a"), fields)) == [["a"]]
    assert texts(fold_models(CREATED, fields)) == [[]]


def test_a_filled_terminal_response_wins() -> None:
    """Where the terminal event has an output, it is the output, whatever came before."""
    assert texts(fold_models(CREATED, done("a"), done("b"), completed("c"))) == [["c"]]


def test_items_of_one_response_do_not_fill_another() -> None:
    """What was done in a response that completed, failed, broke off or was begun anew is not the next one's."""
    assert texts(fold_models(CREATED, done("a"), completed("a"), completed())) == [["a"], []]
    assert texts(fold_models(CREATED, done("a"), CREATED, done("b"), completed())) == [["b"]]
    fold = fold_models(CREATED, done("a"))
    fold.abandon_response()
    fold.apply(model(completed(), 3))
    assert texts(fold) == [[]]


def test_the_models_own_account_goes_before_the_event() -> None:
    """A response that the model gave as an object, with what an event has no field for, is taken as it is."""
    given = ModelResponse([], Usage(), "resp")
    event = model(completed("a"))
    event.live = given
    assert fold_of([event]).responses[0] is given


@pytest.mark.parametrize("first", [CREATED, DELTA, done("a"), {"type": "server.hello"}])
def test_where_the_open_response_begins(first: dict[str, Any]) -> None:
    """response_seq is the first event of the response that is not complete, whatever kind it is."""
    fold = fold_models(completed("z"), first, DELTA, done("b"), FAILED)
    assert fold.response_seq == 2
    fold.apply(model(completed("c"), 6))
    assert fold.response_seq is None


def test_an_end_closes_the_open_response() -> None:
    """After run.end, and after a call that was given up, no response is open."""
    fold = fold_models(CREATED, DELTA)
    fold.abandon_response()
    assert fold.response_seq is None
    fold = fold_models(CREATED, DELTA)
    fold.apply(Event("run_1", 3, 0.0, "run.end", None, 0, (), RunEnd("cancelled")))
    assert fold.response_seq is None


_EVENTS = st.lists(
    st.one_of(
        st.sampled_from(
            [CREATED, DELTA, FAILED, done("a"), done("b"), completed(), completed("c"), completed("d", "e")]
        ),
        st.sampled_from(
            [
                ("run.start", RunStart("hi")),
                ("agent.start", AgentStart()),
                ("item", ItemAdded("n", "t", {"x": [1]})),
                ("later.kind", {}),
                ("run.end", RunEnd("completed")),
            ]
        ),
    ),
    max_size=20,
)


def events_of(entries: list[Any]) -> list[Event]:
    return [
        model(entry, seq)
        if isinstance(entry, dict)
        else Event("run_1", seq, 0.0, entry[0], f"agent {seq}", 0, (), entry[1])
        for seq, entry in enumerate(entries, 1)
    ]


@given(entries=_EVENTS)
def test_folding_is_deterministic(entries: list[Any]) -> None:
    """The same events give the same state, also after they were stored and read again."""
    whole = state(fold_of(events_of(entries)))
    assert state(fold_of(events_of(entries))) == whole
    assert state(fold_of([codec.decode(codec.encode(event)) for event in events_of(entries)])) == whole


@given(entries=_EVENTS)
def test_folding_while_it_grows(entries: list[Any]) -> None:
    """After each event the state is that of folding the log up to there in one go."""
    events = events_of(entries)
    growing = RunFold()
    for count, event in enumerate(events, 1):
        growing.apply(event)
        assert state(growing) == state(fold_of(events[:count]))


@given(entries=_EVENTS)
def test_deltas_tell_nothing_but_that_a_response_is_open(entries: list[Any]) -> None:
    """Without the deltas the state is the same, but for where an open response begins."""
    events = events_of(entries)
    with_deltas = state(fold_of(events))
    without = state(fold_of([event for event in events if type(event.data) not in DELTA_CLASSES]))
    assert {**with_deltas, "response_seq": None} == {**without, "response_seq": None}


def test_what_people_answered_and_added_is_part_of_the_state() -> None:
    """Approvals, added input and the numbers of their commands are folded; a discarded attempt leaves nothing open."""
    answer = ApprovalResolved("call_1", "refund", approved=True, command=3)
    said = {"role": "user", "content": "hurry"}
    fold = fold_of(
        [
            Event("run_1", 1, 0.0, "run.start", None, 0, (), RunStart("hello")),
            Event("run_1", 2, 0.0, "agent.start", "Desk", 0, (), AgentStart()),
            model(CREATED, 3),
            Event("run_1", 4, 0.0, "attempt.discarded", "Desk", 1, (), AttemptDiscarded(3, "taken_over")),
            model(completed("a"), 5),
            Event("run_1", 6, 0.0, "approval.resolved", "Desk", 0, (), answer),
            Event("run_1", 7, 0.0, "input.added", "Desk", 0, (), InputAdded([said], command=2)),
            Event("run_1", 8, 0.0, "agent.start", "Next", 0, (), AgentStart("Desk", history=[said])),
        ]
    )
    assert (fold.response_seq, fold.response_index, fold.approvals, fold.last_command) == (None, 0, [answer], 3)
    assert (fold.items, fold.history, fold.history_index) == ([said], [said], 1)
