"""What a view shows, event by event; its stored form; what it makes of strange events."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runstream.errors import UserError
from runstream.events.event import (
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    ErrorInfo,
    Event,
    InputAdded,
    ItemAdded,
    RunStart,
)
from runstream.events.model_event import build_event
from runstream.run.history import CANCELLED_OUTPUT
from runstream.run.tools import UNCERTAIN_OUTPUT
from runstream.view.entries import (
    Entry,
    ErrorEntry,
    GapEntry,
    HandoffEntry,
    InputEntry,
    MessageEntry,
    OtherEntry,
    ReasoningEntry,
    ToolEntry,
)
from runstream.view.run_view import HEAD, RunView, view_of
from view_events import Log, call, message, output, support_run

GOLDEN = Path(__file__).parents[2] / "data/views/v1.json"


def only(view: RunView, entry_class: type[Any] = ToolEntry) -> Any:
    """The one entry of that class."""
    (entry,) = [entry for entry in view.entries if isinstance(entry, entry_class)]
    return entry


def same_when_stored(view: RunView) -> None:
    stored = view.to_json()
    assert RunView.from_json(json.loads(json.dumps(stored))).to_json() == stored


# The stored form.


def test_the_golden_file() -> None:
    """The shape of the JSON is for ever: a reader of today reads the views of tomorrow."""
    assert view_of(support_run()).to_json() == json.loads(GOLDEN.read_text())


def test_a_view_goes_on_from_any_place() -> None:
    """Stored after any event, and continued, also with events that were seen before, it is the view of all."""
    events = support_run()
    whole = view_of(events)
    for place in range(len(events) + 1):
        stored = view_of(events[:place]).to_string()
        going_on = RunView.from_string(stored)
        assert going_on.to_string() == stored
        for event in events[max(place - 5, 0) :]:
            going_on.apply(event)
        assert going_on.to_json() == whole.to_json()


def test_what_is_no_view_is_refused() -> None:
    """With what is wrong: the version, a field, the text itself."""
    stored = view_of(support_run()).to_json()
    with pytest.raises(UserError, match="version 2"):
        RunView.from_json({**stored, "version": 2})
    with pytest.raises(UserError, match="not the view of a run"):
        RunView.from_json({**stored, "entries": [{"type": "message"}]})
    with pytest.raises(UserError, match="not the view of a run"):
        RunView.from_json({"version": 1})
    with pytest.raises(UserError, match="not the view of a run"):
        RunView.from_string("{")
    with pytest.raises(UserError, match="version None"):
        RunView.from_string("[]")


def test_what_a_later_version_adds_is_left_out() -> None:
    """A field that this version does not know does not keep it from reading the rest."""
    stored = view_of(support_run()).to_json()
    later = {**stored, "mood": "good", "turns": [{**turn, "mood": "good"} for turn in stored["turns"]]}
    assert RunView.from_json(later).to_json() == stored


def test_halves_of_characters_can_be_stored() -> None:
    """A text that was cut within a character is no JSON; its view is."""
    log = Log().start()
    log.delta("a\ud83d")
    assert RunView.from_string(view_of(log.events).to_string()).text == "a\ufffd"


def test_importing_is_light() -> None:
    """The view brings none of the heavy packages: a page's server needs no client of a model."""
    code = (
        "import sys, runstream.view.run_view; "
        "print([name for name in ('openai', 'pydantic', 'aiohttp', 'sqlite3') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# What changed.


def test_each_event_tells_what_it_changed() -> None:
    """The entry first, then the cards that it is within; HEAD for status, agent, turns and approvals."""
    view = RunView()
    changes = {event.seq: view.apply(event) for event in support_run()}
    assert changes[1] == (HEAD, 1)  # run.start
    assert changes[2] == (HEAD,)  # agent.start
    assert changes[4] == (4,)  # the first text
    assert changes[5] == (HEAD, 5, 4)  # it is discarded
    assert changes[12] == changes[11] == (10,)  # a text that grows
    assert changes[36] == (36, 18)  # within the card
    assert changes[55] == (HEAD, 55)  # run.end, and its error


def test_nothing_of_a_run_is_looked_at_for_a_delta() -> None:
    """A delta costs the same late in a long run: it looks up no entry and joins no text."""
    log = Log().start()
    for index in range(50):
        log.created(f"resp_{index}")
        log.completed(message(f"m{index}", "done"))
        log.item("message_output_item", message(f"m{index}", "done"))
    log.created()
    log.delta("a")
    view = view_of(log.events)
    view._book = view._strands = view._main = None  # type: ignore[assignment]
    for _ in range(2000):
        assert view.apply(log.delta("b")) == view.apply(log.delta("c")) != ()


def test_deltas_that_alternate() -> None:
    """Those of parallel calls and of parallel agents find their places."""
    log = Log().start()
    log.item("tool_call_item", call("ask", "c1"))
    log.item("tool_call_item", call("ask", "c2"))
    for number in range(20):
        for path in ((), ("c1",), ("c2",)):
            log.path = path
            for index in (0, 1):
                log.delta(f"{path}{index} ", index=index)
                log.delta(f"{number} ", index=2, kind="function_call_arguments", item_id="f")
    view = view_of(log.events)
    same_when_stored(view)
    cards = [entry for entry in view.entries if isinstance(entry, ToolEntry) and entry.nested]
    strands = [view.main, *(card.nested for card in cards if card.nested)]
    for strand, path in zip(strands, ((), ("c1",), ("c2",)), strict=True):
        texts = [entry.text for entry in strand.entries if isinstance(entry, MessageEntry)]
        assert texts == [f"{path}0 " * 20, f"{path}1 " * 20]
        calls = [entry.arguments for entry in strand.entries if isinstance(entry, ToolEntry) and not entry.nested]
        assert calls == ["".join(f"{number} {number} " for number in range(20))]
    assert view.figures.text_deltas == 40


def test_what_was_drawn_need_not_be_drawn_again() -> None:
    """`text_after` gives what is new, over the places where pieces are made one."""
    log = Log().start()
    view = view_of(log.events)
    drawn = ""
    for number in range(1500):
        (entry_id,) = view.apply(log.delta(f"{number} "))
        entry = view.find(entry_id)
        assert isinstance(entry, MessageEntry)
        if number % 7 == 0:
            drawn += entry.parts[0].text_after(len(drawn))
    drawn += only(view, MessageEntry).parts[0].text_after(len(drawn))
    assert drawn == view.text == "".join(f"{number} " for number in range(1500))
    assert only(view, MessageEntry).parts[0].text_after(len(drawn)) == ""


# Texts.


def test_texts_of_several_parts_that_alternate() -> None:
    """Deltas go where their place in the output says; an id that changes from event to event does no harm."""
    log = Log().start()
    log.created()
    for number, text in enumerate(["a", "b", "c", "d"]):
        log.delta(text, index=number % 2, item_id=f"other{number}")
        log.delta(text.upper(), index=number % 2, item_id=f"x{number}", part=1)
    view = view_of(log.events)
    assert [entry.text for entry in view.entries if isinstance(entry, MessageEntry)] == ["acAC", "bdBD"]
    same_when_stored(view)


def test_the_item_holds_over_its_deltas() -> None:
    """What the model says at the end is the message, with its citations; a message that says nothing keeps its text."""
    cited = message("msg", "whole")
    cited["content"][0]["annotations"] = [{"type": "url_citation", "url": "http://a"}]
    log = Log().start()
    log.created()
    log.delta("hole")
    log.model(
        "response.output_text.annotation.added",
        item_id="msg",
        output_index=0,
        content_index=0,
        annotation_index=0,
        annotation={"type": "url_citation", "url": "http://a"},
    )
    view = view_of(log.events)
    assert only(view, MessageEntry).parts[0].annotations == [{"type": "url_citation", "url": "http://a"}]
    view.apply(log.completed())
    view.apply(log.item("message_output_item", cited))
    entry = only(view, MessageEntry)
    assert (entry.text, entry.state, len(entry.parts[0].annotations)) == ("whole", "done", 1)
    log.created()
    log.delta("kept")
    log.done({**message("msg"), "content": []})
    assert view_of(log.events).text == "kept"


def test_a_response_that_was_not_streamed() -> None:
    """Its items make the entries."""
    log = Log().start()
    raw = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    log.completed(raw, message("m", "Hello", " you"), call("look", "c1"))
    log.item("reasoning_item", raw)
    log.item("message_output_item", message("m", "Hello", " you"))
    log.item("tool_call_item", call("look", "c1"))
    view = view_of(log.events)
    assert only(view, ReasoningEntry).text == "Hm."
    assert view.text == "Hello you"
    assert only(view).state == "running"
    assert only(view).turn == 1


def test_a_text_that_ends_without_an_item() -> None:
    """Where a server ends the response and no part of it, the text is done; where the run ends, it is incomplete."""
    log = Log().start()
    log.delta("all of it")
    log.completed()
    assert only(view_of(log.events), MessageEntry).state == "done"
    log.delta("half of", index=1)
    log.end("cancelled")
    assert [entry.state for entry in view_of(log.events).entries if isinstance(entry, MessageEntry)] == [
        "done",
        "incomplete",
    ]


# Tools.


def test_the_life_of_a_call() -> None:
    """Arguments grow; then it runs, reports, and has its output and its duration."""
    log = Log().start()
    log.created()
    raw = call("look_up", "c1", '{"order": 7}')
    log.added(raw)
    view = view_of(log.events)
    card = only(view)
    assert (card.name, card.state, card.arguments, card.parsed) == ("look_up", "arguments", "", None)
    view.apply(log.delta('{"order"', kind="function_call_arguments"))
    assert (card.arguments, card.parsed) == ('{"order"', None)
    fields = {"item_id": "i", "output_index": 0, "arguments": '{"order": 7}', "name": "look_up"}
    view.apply(log.model("response.function_call_arguments.done", **fields))
    assert card.parsed == {"order": 7}
    view.apply(log.done(raw))
    view.apply(log.completed(raw))
    assert card.state == "arguments"
    began = log.item("tool_call_item", raw, description="Looks.", title="Look up")
    view.apply(began)
    assert (card.state, card.title, card.description) == ("running", "Look up", "Looks.")
    for percent in range(150):
        assert view.apply(log.add("tool.progress", {"call_id": "c1", "data": percent, "dropped": percent == 9})) == (
            card.id,
        )
    assert [report.data for report in card.progress] == list(range(50, 150))
    assert card.progress_count == 151
    ended = log.item("tool_call_output_item", output("c1", "7 is here"))
    view.apply(ended)
    assert (card.state, card.output, card.content) == ("done", "7 is here", None)
    assert card.duration_s == ended.at - began.at


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("An error occurred while running the tool. Please try again. Error: no", "failed"),
        (CANCELLED_OUTPUT, "cancelled"),
        (UNCERTAIN_OUTPUT, "unknown"),
        ("Tool execution was not approved.", "rejected"),
        ("fine", "done"),
        ({"any": 1}, "done"),
    ],
)
def test_how_a_call_ended(said: Any, state: str) -> None:
    """The library's own words for a call that failed, was cancelled, rejected, or may have run, are its state."""
    log = Log().start()
    log.item("tool_call_item", call("look", "c1"))
    log.item("tool_call_output_item", output("c1", said))
    assert only(view_of(log.events)).state == state


def test_an_output_with_more_than_text() -> None:
    """It is there as it is, and named in the text."""
    parts = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "data:"}]
    log = Log().start()
    log.item("tool_call_item", call("look", "c1"))
    log.item("tool_call_output_item", output("c1", parts))
    card = only(view_of(log.events))
    assert (card.output, card.content) == ("see [input_image]", parts)


def test_two_calls_of_one_id() -> None:
    """Each output is for the first call that has none."""
    log = Log().start()
    for answer in ("one", "two"):
        log.item("tool_call_item", call("look", "c1"))
        log.item("tool_call_item", call("look", "c1"))
        log.item("tool_call_output_item", output("c1", answer))
    view = view_of(log.events)
    same_when_stored(view)
    cards = [entry for entry in view.entries if isinstance(entry, ToolEntry)]
    assert [(card.output, card.state) for card in cards] == [
        ("one", "done"),
        ("two", "done"),
        (None, "running"),
        (None, "running"),
    ]


def test_tools_of_the_provider() -> None:
    """A search goes through its phases and is done with its item; what failed says why."""
    search = {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "x"}}
    log = Log().start()
    log.created()
    log.added({"type": "web_search_call", "id": "ws"})
    view = view_of(log.events)
    view.apply(log.model("response.web_search_call.searching", output_index=0, item_id="ws"))
    card = only(view)
    assert (card.name, card.state, card.phase) == ("web_search", "running", "searching")
    view.apply(log.model("response.web_search_call.completed", output_index=0, item_id="ws"))
    view.apply(log.done(search))
    assert (card.state, card.parsed) == ("done", {"type": "search", "query": "x"})
    assert card.duration_s == 1.0
    failed = {"type": "mcp_call", "id": "mc", "name": "read", "arguments": "{}", "error": "no such file"}
    view.apply(log.done(failed, 1))
    view.apply(log.completed(search, failed))
    view.apply(log.item("tool_call_item", search))
    view.apply(log.item("tool_call_item", failed))
    cards = [entry for entry in view.entries if isinstance(entry, ToolEntry)]
    assert [(card.state, card.output) for card in cards] == [("done", None), ("failed", "no such file")]
    same_when_stored(view)


def test_items_of_other_kinds() -> None:
    """They are there as they are; listed tools of a server are a card."""
    log = Log().start()
    log.created()
    log.added({"type": "compaction", "id": "cmp"})
    log.done({"type": "compaction", "id": "cmp", "encrypted_content": "x"})
    log.done({"type": "mcp_list_tools", "id": "l", "server_label": "files", "tools": []}, 1)
    log.completed()
    log.item("compaction_item", {"type": "compaction", "id": "cmp", "encrypted_content": "x"})
    log.item("mcp_list_tools_item", {"type": "mcp_list_tools", "id": "l", "server_label": "files", "tools": []})
    log.item("novelty_item", {"type": "novelty", "id": "n"})
    view = view_of(log.events)
    others = [entry for entry in view.entries if isinstance(entry, OtherEntry)]
    assert [(entry.kind, entry.raw["id"]) for entry in others] == [("compaction", "cmp"), ("novelty", "n")]
    assert (only(view).name, only(view).state) == ("files", "done")


# Approvals.


def asked() -> Log:
    """Two calls of one tool that wait, and one of another."""
    log = Log().start()
    raws = [call("pay", "c1"), call("pay", "c2"), call("look", "c3")]
    for raw in raws:
        log.item("tool_call_item", raw)
    for raw in raws:
        log.item("tool_approval_item", raw, tool_name=raw["name"])
    return log


def test_an_answer_is_about_one_call() -> None:
    """The others go on waiting."""
    log = asked()
    view = view_of(log.events)
    assert [card.call_id for card in view.pending_approvals] == ["c1", "c2", "c3"]
    changed = view.apply(log.add("approval.resolved", ApprovalResolved("c1", "pay", approved=True)))
    assert [card.call_id for card in view.pending_approvals] == ["c2", "c3"]
    card = view.find(changed[1])
    assert isinstance(card, ToolEntry)
    assert (changed[0], card.state, card.answer and card.answer.approved) == (HEAD, "running", True)
    same_when_stored(view)


def test_an_answer_for_good() -> None:
    """It holds for the tool's other calls, too."""
    log = asked()
    log.add("approval.resolved", ApprovalResolved("c2", "pay", approved=False, always=True, message="never"))
    view = view_of(log.events)
    states = [(card.state, card.answer and card.answer.message) for card in view.entries if isinstance(card, ToolEntry)]
    assert states == [("rejected", "never"), ("rejected", "never"), ("waiting", None)]


def test_runs_that_end_while_calls_wait() -> None:
    """Interrupted for them, they go on waiting; cancelled, they do not."""
    interrupted = view_of(asked().end("interrupted").events)
    assert [card.state for card in interrupted.pending_approvals] == ["waiting"] * 3
    cancelled = view_of(asked().end("cancelled").events)
    assert cancelled.pending_approvals == []
    assert {card.state for card in cancelled.entries if isinstance(card, ToolEntry)} == {"cancelled"}


def test_a_tool_of_a_hosted_server_that_asks() -> None:
    """The request is a card; the answer of a person, or of the program, ends it."""
    request = {"type": "mcp_approval_request", "id": "r1", "name": "delete", "arguments": "{}", "server_label": "files"}
    log = Log().start()
    log.created()
    log.done(request)
    log.completed(request)
    log.item("mcp_approval_request_item", request)
    log.item("tool_approval_item", request, tool_name="delete")
    view = view_of(log.events)
    assert [card.name for card in view.pending_approvals] == ["delete"]
    view.apply(log.add("approval.resolved", ApprovalResolved("r1", "delete", approved=True)))
    answer = {"type": "mcp_approval_response", "approval_request_id": "r1", "approve": True}
    view.apply(log.item("mcp_approval_response_item", answer))
    assert only(view).state == "done"
    assert view.pending_approvals == []


def test_a_run_that_continues_another() -> None:
    """What the earlier one came to is shown before; what it had asked for is answered and goes on here."""
    earlier = [
        {"agent": "Desk", "type": "message_output_item", "raw": message("m", "I shall pay."), "more": None},
        {"agent": "Desk", "type": "tool_call_item", "raw": call("pay", "c1"), "more": None},
        {"agent": "Desk", "type": "tool_approval_item", "raw": call("pay", "c1"), "more": {"tool_name": "pay"}},
        {"agent": "Desk", "type": "input_item", "raw": {"role": "user", "content": "Yes."}, "more": None},
    ]
    log = Log().start("hi", resumed={"version": 1, "input": "Pay.", "items": earlier, "approvals": []})
    view = view_of(log.events)
    assert [entry.id for entry in view.entries] == [-5, -4, -3, -1]
    assert [entry.text for entry in view.entries if isinstance(entry, InputEntry)] == ["Pay.", "Yes."]
    assert view.text == "I shall pay."
    assert [card.call_id for card in view.pending_approvals] == ["c1"]
    same_when_stored(view)
    view.apply(log.add("approval.resolved", ApprovalResolved("c1", "pay", approved=True)))
    view.apply(log.item("tool_call_output_item", output("c1", "paid")))
    assert (only(view).state, only(view).output) == ("done", "paid")


# Agents.


def test_handoffs_that_were_not_made() -> None:
    """Of several only one takes place; the others say why not."""
    log = Log().start()
    for call_id in ("c1", "c2"):
        log.item("handoff_call_item", call("transfer", call_id))
    log.item("tool_call_output_item", output("c2", "Multiple handoffs detected, ignoring this one."))
    log.item("handoff_output_item", output("c1", "{}"), source="Desk", target="Boss")
    badges = [entry for entry in view_of(log.events).entries if isinstance(entry, HandoffEntry)]
    assert [(badge.state, badge.target) for badge in badges] == [("done", "Boss"), ("refused", None)]


def test_nested_agents_are_in_their_cards() -> None:
    """At any depth, with agents, turns and voids of their own; what a nested attempt takes back is its own."""
    log = Log().start()
    log.item("tool_call_item", call("ask", "c1"))
    log.delta("outer")
    inner = [log.path]
    log.path = ("c1",)
    log.add("agent.start", AgentStart())
    log.delta("void")
    log.add("attempt.discarded", AttemptDiscarded(1, "retry"))
    log.item("tool_call_item", call("dig", "d1"))
    log.path = ("c1", "d1")
    deep = log.delta("deep")
    log.path = inner[0]
    view = RunView()
    for event in log.events:
        changed = view.apply(event)
        if event is deep:
            card = only(view)
            assert changed == (deep.seq, card.nested.entries[-1].id, card.id)
    card = only(view)
    assert view.text == "outer"
    assert only(view, MessageEntry).void is False
    assert [entry.void for entry in card.nested.entries if isinstance(entry, MessageEntry)] == [True]
    assert card.nested.agent == "Desk"
    dig = card.nested.entries[-1]
    assert isinstance(dig, ToolEntry)
    assert dig.nested is not None
    assert isinstance(dig.nested.entries[0], MessageEntry)
    assert dig.nested.entries[0].text == "deep"
    same_when_stored(view)


def test_a_nested_run_is_over_with_its_call() -> None:
    """What it left open ends; a call of the same id has a strand of its own."""
    log = Log().start()
    for text in ("one", "two"):
        log.item("tool_call_item", call("ask", "c1"))
        log.path = ("c1",)
        log.created()
        log.delta(text)
        log.path = ()
        view = view_of(log.events)
        same_when_stored(view)
        log.item("tool_call_output_item", output("c1", text))
        view.apply(log.events[-1])
        assert view.to_json() == view_of(log.events).to_json()
        same_when_stored(view)
    cards = [card for card in view_of(log.events).entries if isinstance(card, ToolEntry) and card.nested]
    inner = [entry for card in cards if card.nested for entry in card.nested.entries]
    assert [(entry.text, entry.state) for entry in inner if isinstance(entry, MessageEntry)] == [
        ("one", "incomplete"),
        ("two", "incomplete"),
    ]


# What is void, missing or strange.


def test_a_failed_attempt_that_nobody_took_back() -> None:
    """The call is made again: what the failed attempt had begun is void, its error stays."""
    log = Log().start()
    log.created()
    log.added(message("m"))
    log.added(call("look", "c1"), 1)
    log.model("error", code="overloaded", message="later", param=None)
    log.attempt = 2
    log.created()
    log.delta("whole")
    for keep_void in (True, False):
        view = view_of(log.events, keep_void=keep_void)
        kept = [(type(entry).__name__, entry.void) for entry in view.entries[1:]]
        void = [("MessageEntry", True), ("ToolEntry", True)] if keep_void else []
        assert kept == [*void, ("ErrorEntry", False), ("MessageEntry", False)]
        assert view.figures.turns == 1
        assert only(view, ErrorEntry).message == "later"
        same_when_stored(view)


def test_a_fallback_names_the_next_model() -> None:
    """The entry says who takes over."""
    data = SimpleNamespace(from_seq=3, reason="fallback", detail="timeout", next_model="other-model")
    log = Log().start()
    log.add("attempt.discarded", data)
    entry = view_of(log.events).entries[-1]
    assert getattr(entry, "next_model", None) == "other-model"


def test_a_view_that_begins_in_the_middle() -> None:
    """It says what was not kept; a text whose beginning is missing is marked until the item brings it."""
    log = Log()
    log.delta("the end.", item_id="m")
    for event in log.events:
        event.seq += 100
    view = view_of(log.events)
    gap, entry = view.entries
    assert isinstance(gap, GapEntry)
    assert isinstance(entry, MessageEntry)
    assert (gap.id, gap.to_seq, entry.cut, entry.text, view.figures.events) == (1, 100, True, "the end.", 1)
    same_when_stored(view)
    view.apply(log.done(message("m", "It is the end.")))
    assert (entry.cut, entry.text) == (False, "It is the end.")


def test_a_hole_within_a_text() -> None:
    """The same message goes on as one, another response's as another."""
    log = Log().start()
    log.created()
    log.delta("one ", item_id="m1")
    log.model("response.output_text.delta", skip=10, output_index=0, content_index=0, item_id="m1", delta="three")
    view = view_of(log.events)
    assert [entry.text for entry in view.entries if isinstance(entry, MessageEntry)] == ["one three"]
    assert only(view, MessageEntry).cut
    log.model("response.output_text.delta", skip=10, output_index=0, content_index=0, item_id="m2", delta="other")
    log.created("resp_9")
    view = view_of(log.events)
    texts = [(entry.text, entry.state) for entry in view.entries if isinstance(entry, MessageEntry)]
    assert texts == [("one three", "streaming"), ("other", "incomplete")]
    assert view.main.turns[0].state == "unknown"
    same_when_stored(view)


def test_a_selection_of_events_has_no_holes() -> None:
    """What is missing in a sparse reading is no loss."""
    events = [event for event in support_run() if not event.path]
    assert any(isinstance(entry, GapEntry) for entry in view_of(events).entries)
    view = view_of(events, sparse=True)
    assert not any(isinstance(entry, GapEntry) for entry in view.entries)
    assert view.figures.events == len(events)


def test_outputs_and_nested_agents_of_calls_that_were_not_seen() -> None:
    """They have cards of their own, which say that they are not whole."""
    log = Log(path=("c1",))
    log.delta("nested")
    log.path = ()
    log.item("tool_call_output_item", output("c1", "first"))
    log.item("tool_call_output_item", output("c2", "second"))
    log.item("tool_approval_item", call("pay", "c3"))
    log.item("handoff_output_item", output("c4", "{}"), source="A", target="B")
    assert only(view_of(log.events[:1])).nested.entries[0].text == "nested"
    for event in log.events:
        event.seq += 10
    view = view_of(log.events)
    same_when_stored(view)
    cards = [entry for entry in view.entries if isinstance(entry, ToolEntry)]
    assert [(card.call_id, card.cut) for card in cards] == [("c1", True), ("c2", True), ("c3", True)]
    assert only(view, HandoffEntry).target == "B"
    view.apply(log.end("completed").events[-1])
    assert [(card.state, card.output) for card in cards] == [("done", "first"), ("done", "second"), ("cancelled", None)]


def test_kinds_that_nobody_knows() -> None:
    """They pass: events, model events, deltas of sound, and fields that are missing."""
    log = Log().start()
    log.add("mood.changed", {"mood": "good"})
    log.model("response.mood.delta", delta="x")
    log.model("response.audio.delta", delta="x")
    log.model("response.output_text.delta", item_id=None, output_index=None, content_index=None, delta=None)
    log.model("response.output_text.delta", delta="bare")
    log.model("response.output_text.delta", delta=" text")
    view = view_of(log.events)
    assert view.text == "bare text"
    assert view.last_seq == len(log.events)
    same_when_stored(view)


def test_a_run_that_is_going_on() -> None:
    """Status, agent, usage and figures as far as they are known; added input; then the end."""
    log = Log().start([{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}])
    assert RunView().status == "new"
    log.created()
    log.delta("Hello")
    log.completed(tokens=(8, 2))
    log.add("input.added", InputAdded([{"role": "user", "content": "More."}]))
    view = view_of(log.events)
    assert (view.status, view.agent, view.usage) == (
        "running",
        "Desk",
        {"input_tokens": 8, "output_tokens": 2, "total_tokens": 10},
    )
    assert [(entry.text, entry.added) for entry in view.entries if isinstance(entry, InputEntry)] == [
        ("Hi", False),
        ("More.", True),
    ]
    figures = view.figures
    assert (figures.time_to_first_text_s, figures.tokens, figures.tokens_per_s) == (1.5, 10, 2.0)
    assert view.main.turns[0].tokens_per_s == 2.0
    log.end("failed", error=ErrorInfo("UserError", "no"), usage={"total_tokens": 12})
    view = view_of(log.events)
    assert (view.status, view.error and view.error.message, view.figures.tokens) == ("failed", "no", 12)
    assert "failed" in repr(view)


def test_live_objects_are_not_looked_at() -> None:
    """The same events with and without what they have live give the same view."""
    plain_events = support_run()
    live = [
        Event(*(getattr(event, name) for name in ("run_id", "seq", "at", "kind", "agent", "attempt", "path", "data")))
        for event in plain_events
    ]
    for event in live:
        event.live = object()
    assert view_of(live).to_json() == view_of(plain_events).to_json()


def entries_of(*events: Event) -> list[Entry]:
    return view_of(events).entries


def test_typed_and_plain_items_are_the_same() -> None:
    """A raw item may be the official object or a dict."""
    raw = call("look", "c1", '{"a": 1}')
    done: Any = build_event({"type": "response.output_item.done", "item": dict(raw), "output_index": 0})
    views = [
        view_of(
            [
                Event("r", 1, 0.0, "run.start", "A", 0, (), RunStart("hi")),
                Event("r", 2, 0.0, "item", "A", 0, (), ItemAdded("tool_called", "tool_call_item", item)),
            ]
        ).to_json()
        for item in (raw, done.item)
    ]
    assert views[0] == views[1]
