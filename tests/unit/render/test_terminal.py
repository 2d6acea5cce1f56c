"""What a terminal shows of a run: fed with events, looked at as text."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.events.event import (
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    Event,
    InputAdded,
    ItemAdded,
    RunEnd,
    RunQueued,
    RunStart,
)
from runstream.events.model_event import build_event
from runstream.render.terminal import TerminalRenderer, one_line, visible


def event(kind: str, data: Any, *, agent: str = "Desk", path: tuple[str, ...] = ()) -> Event:
    return Event("run_1", 1, 0.0, kind, agent, 0, path, data)


def model(type: str, *, output: int = 0, part: int = 0, path: tuple[str, ...] = (), **fields: Any) -> Event:
    head = {"type": type, "item_id": f"m{output}", "output_index": output, "content_index": part, "sequence_number": 1}
    return event("model", build_event({**head, **fields}), path=path)


def text(delta: str, *, output: int = 0, path: tuple[str, ...] = ()) -> Event:
    return model("response.output_text.delta", output=output, path=path, delta=delta)


def texts(*deltas: str) -> list[Event]:
    return [text(delta) for delta in deltas]


TEXT_DONE = model("response.output_text.done", text="", logprobs=[])
CREATED = model("response.created", response={"id": "r", "output": []})
COMPLETED = model("response.completed", response={"id": "r", "output": []})
START = event("agent.start", AgentStart())
END = event("run.end", RunEnd("completed"))


def item(name: str, raw: Any, *, path: tuple[str, ...] = ()) -> Event:
    return event("item", ItemAdded(name, f"{name}_item", raw), path=path)


def called(name: str, arguments: str = "{}", call_id: str = "c1", *, path: tuple[str, ...] = ()) -> Event:
    raw = {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}
    return item("tool_called", raw, path=path)


def output(value: Any, call_id: str = "c1") -> Event:
    return item("tool_output", {"type": "function_call_output", "call_id": call_id, "output": value})


def message(*contents: dict[str, str]) -> Event:
    return item("message_output_created", {"id": "m0", "type": "message", "content": list(contents)})


def render(events: Iterable[Event], **options: Any) -> str:
    renderer = TerminalRenderer(**options)
    return "".join([renderer.feed(each) for each in events] + [renderer.close()])


def test_a_whole_run() -> None:
    """Texts and lines, each kind with its label, an empty line between texts and lines."""
    events = [
        event("run.start", RunStart("hi")),
        event("agent.start", AgentStart(None)),
        *[CREATED, *texts("Let", " me", " look."), TEXT_DONE, COMPLETED],
        message({"type": "output_text", "text": "Let me look."}),
        called("look_up", '{"order": "1042", "deep": true}'),
        output("one kettle"),
        item("handoff_requested", {"type": "function_call", "name": "transfer_to_refunds", "call_id": "c2"}),
        item("handoff_occured", {"type": "function_call_output", "call_id": "c2", "output": "{}"}),
        event("agent.start", AgentStart("Desk"), agent="Refunds"),
        *[CREATED, *texts("Done.\n", "\nBye."), TEXT_DONE, COMPLETED],
        END,
    ]
    assert render(events) == (
        "agent    Desk\n"
        "\nLet me look.\n\n"
        'tool     look_up(order="1042", deep=true)\n'
        "tool     look_up -> one kettle\n"
        "handoff  Desk -> Refunds\n"
        "\nDone.\n\nBye.\n"
    )


def test_text_is_written_as_it_comes() -> None:
    """Each delta is there at once, as it is."""
    renderer = TerminalRenderer()
    assert [renderer.feed(each) for each in texts("One", " t", "wo", "\n", " three ")] == [
        "One",
        " t",
        "wo",
        "\n",
        " three ",
    ]
    assert renderer.close() == "\n"
    assert renderer.close() == ""


def test_a_line_waits_for_the_end_of_a_text() -> None:
    """A tool of a nested agent, in the middle of a text, is told after it."""
    events = [*texts("Wait a "), called("inner", path=("c9",)), *texts("moment."), TEXT_DONE, *texts("More.")]
    assert render(events) == "Wait a moment.\n\ntool     inner()\n\nMore.\n"


@pytest.mark.parametrize(
    "ending",
    [
        TEXT_DONE,
        COMPLETED,
        END,
        model("response.failed", response={"id": "r", "output": []}),
        model("response.output_item.done", item={"id": "m0", "type": "message", "content": [], "role": "assistant"}),
        model("error", message="overloaded", code=None, param=None),
    ],
)
def test_whatever_ends_a_text_lets_the_lines_go(ending: Event) -> None:
    """Also a failure, and the end of the run."""
    renderer = TerminalRenderer()
    renderer.feed(text("Half"))
    assert renderer.feed(called("f")) == ""
    assert renderer.feed(ending) == "\n\ntool     f()\n"


def test_lines_of_the_caller_keep_to_the_layout() -> None:
    """They wait like any other, and are one line."""
    renderer = TerminalRenderer()
    assert renderer.line("user", "hello\n there\t!") == "user     hello there !\n"
    assert renderer.feed(text("Hi")) == "\nHi"
    assert renderer.line("figures", "3 events") == ""
    assert renderer.feed(END) == "\n\nfigures  3 events\n"


def test_long_lines_of_the_caller_are_wrapped() -> None:
    """In a terminal, under their own beginning; a tool's line alone is cut."""
    renderer = TerminalRenderer(width=40)
    assert renderer.line("user", "a question that is longer than the terminal is wide") == (
        "user     a question that is longer than\n         the terminal is wide\n"
    )


def test_two_messages_are_two_paragraphs() -> None:
    """A message begins on a line of its own."""
    assert render([text("One."), text("Two.", output=1)]) == "One.\n\nTwo.\n"


def test_refusals_are_text() -> None:
    """What the model refuses with is shown like what it says."""
    assert render([model("response.refusal.delta", delta="No.")]) == "No.\n"


def test_a_message_that_was_not_streamed_is_shown_whole() -> None:
    """Of a run without deltas, and only then: a streamed one is not shown twice."""
    content = {"type": "output_text", "text": "Whole."}, {"type": "refusal", "refusal": " No."}
    assert render([COMPLETED, message(*content)]) == "Whole. No.\n"
    streamed = [
        CREATED,
        *texts("Streamed."),
        TEXT_DONE,
        COMPLETED,
        message({"type": "output_text", "text": "Streamed."}),
    ]
    unstreamed = [COMPLETED, message(*content)]
    assert render([*streamed, *unstreamed]) == "Streamed.\n\nWhole. No.\n"


def test_nested_agents_show_their_tools_only() -> None:
    """Their texts would run into the text of the agent above."""
    path = ("c1",)
    nested = [
        event("agent.start", AgentStart(None), agent="Inner", path=path),
        text("secret", path=path),
        called("deep", path=path),
        item("message_output_created", {"id": "m", "content": [{"type": "output_text", "text": "secret"}]}, path=path),
    ]
    assert render(nested) == "tool     deep()\n"


def test_a_run_that_waits_for_its_place() -> None:
    """A line for each change; where a terminal can be steered, one line, which is gone when the run begins."""
    events = [event("run.queued", RunQueued(position)) for position in (3, 1, 0)]
    assert render([*events, START]) == "run      waiting: 2 ahead\nrun      waiting: next\nagent    Desk\n"
    steered = click.unstyle(render([*events, START], width=80, color=True).replace("\x1b[1A\x1b[2K", "<"))
    assert steered == "run      waiting: 2 ahead\n<run      waiting: next\n<agent    Desk\n"
    renderer = TerminalRenderer(width=80, color=True)
    renderer.feed(events[0])
    renderer.line("agent", "something else")
    assert "\x1b[1A" not in renderer.feed(events[1])
    renderer.keep_line()
    assert renderer.feed(events[2]) == ""


def test_kinds_of_later_versions_are_passed_over() -> None:
    """What the renderer does not know it does not show."""
    assert render([event("tool.progress", {"percent": 3}), model("response.new.kind"), item("new_item", {})]) == ""


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"name": "f", "arguments": '{"a": [1, "é"]}', "type": "function_call"}, 'f(a=[1, "é"])'),
        ({"name": "f", "arguments": '{"a": ', "type": "function_call"}, 'f({"a": )'),
        ({"name": "f", "arguments": "[1]", "type": "function_call"}, "f([1])"),
        ({"type": "web_search_call", "id": "ws_1"}, "web_search"),
        ({"name": "bad\x1b[2Jname", "arguments": '{"t": "a\\u001b\\nb"}', "type": "function_call"}, None),
    ],
)
def test_calls(raw: dict[str, str], line: str | None) -> None:
    """Arguments as in Python where they are an object, else as they are; hosted tools by their type."""
    shown = render([item("tool_called", {**raw, "call_id": "c1"})])
    assert shown == f"tool     {line}\n" if line else "\x1b" not in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("two\nlines \x1b[31m", "two lines \\x1b[31m"),
        ([{"type": "input_text", "text": "seen"}, {"type": "input_image", "image_url": "x"}], "seen [input_image]"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_outputs(value: Any, line: str) -> None:
    """An output is one line: its text, and the types of what is none."""
    assert render([called("f"), output(value)]).splitlines()[1] == f"tool     f -> {line}"


def test_outputs_are_named_after_their_calls() -> None:
    """Two tools at once, and an output whose call was not seen."""
    shown = render([called("f", call_id="c1"), called("g", call_id="c2"), output("2", "c2"), output("?", "c3")])
    assert shown.splitlines()[2:] == ["tool     g -> 2", "tool     c3 -> ?"]


@pytest.mark.parametrize("width", [40, None])
def test_long_outputs_are_cut(width: int | None) -> None:
    """To the width of the terminal, or to what is bearable without one; wide characters count twice."""
    lines = render([called("f"), output("word " * 100), output("漢字" * 200)], width=width).splitlines()
    sizes = [len(line) + len(re.findall("[漢字]", line)) for line in lines[1:]]
    assert all(line.endswith("...") for line in lines[1:])
    assert all((width or 200) - 2 < size <= (width or 200) for size in sizes)


def test_words_are_wrapped_at_the_width() -> None:
    """Between words, with no space left at the end of a line, and line ends of the model kept."""
    events = texts(
        "The quick brown", " fox", " jumps over", " the lazy\n", "dog", " and", " more", " than", " that\n\nEnd"
    )
    assert render(events, width=40) == ("The quick brown fox jumps over\nthe lazy\ndog and more than that\n\nEnd\n")


def test_a_word_in_pieces_stays_whole() -> None:
    """Pieces without a space between them are one word, up to the spare columns at the edge."""
    assert render(texts("a" * 25, " refu", "nd", "able", " yes"), width=40) == f"{'a' * 25} refundable\nyes\n"


def test_a_word_wider_than_the_screen_is_left_to_the_terminal() -> None:
    """No break is put into it, and the column afterwards is where the terminal has it."""
    assert render(texts("x" * 50, " yes"), width=40) == f"{'x' * 50} yes\n"
    assert render(texts("x" * 30, " ", "y" * 50, " ok"), width=40) == f"{'x' * 30}\n{'y' * 50} ok\n"


@given(st.lists(st.text(alphabet="ab \n", max_size=8), max_size=20))
def test_wrapping_changes_white_space_only(deltas: list[str]) -> None:
    """The words are the same, in the same order, whatever the pieces, and short words keep within the lines."""
    shown = render(texts(*deltas), width=33)
    assert shown.split() == "".join(deltas).split()
    words_are_short = all(len(word) <= 8 for word in shown.split())
    assert not words_are_short or all(len(line) <= 33 for line in shown.splitlines())


@given(st.lists(st.text(max_size=8), max_size=20), st.sampled_from([None, 20, 80]))
def test_no_text_steers_the_terminal(deltas: list[str], width: int | None) -> None:
    """Whatever the model sends, no control character but line ends and tabs comes out."""
    shown = render([*texts(*deltas), called("".join(deltas)), output("".join(deltas)), END], width=width)
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown) is None
    shown.encode()


@given(st.lists(st.text(alphabet=st.characters(blacklist_categories=["Cc", "Cs", "Cf", "Zl", "Zp"]), max_size=8)))
def test_without_a_width_texts_are_the_models_own(deltas: list[str]) -> None:
    """Nothing is added but the line end at the end."""
    whole = "".join(deltas)
    assert render(texts(*deltas)) == (f"{whole}\n" if whole else "")


def test_what_cannot_be_shown_is_escaped() -> None:
    """With the number of the character, so that one sees what was there."""
    assert (
        visible("a\x1b]0;x\x07\r\n\tb\x9b\u202e\ud800\u2028") == "a\\x1b]0;x\\x07\\x0d\n\tb\\x9b\\u202e\\ud800\\u2028"
    )
    assert one_line("  a\r\n\tb ") == "a b"
    assert visible("naïve 漢字 🎉") == "naïve 漢字 🎉"


def test_colour_adds_nothing_but_colour() -> None:
    """Labels are coloured, texts never, and without the codes everything is the same."""
    events = [event("agent.start", AgentStart(None)), *texts("Some text."), TEXT_DONE, called("f"), output("x"), END]
    coloured = render(events, color=True)
    assert click.unstyle(coloured) == render(events)
    assert "\nSome text.\n" in coloured
    assert len(re.findall("\x1b\\[36m", coloured)) == 2


def test_pieces_at_any_time_end_where_a_line_may_begin() -> None:
    """Closing after any number of events leaves the cursor at the start of a line."""
    events = [event("agent.start", AgentStart(None)), *texts("a", " b\n", "c"), TEXT_DONE, called("f"), *texts("d")]
    for count in range(len(events) + 1):
        shown = render(itertools.islice(events, count))
        assert shown == "" or shown.endswith("\n")


def test_what_was_discarded_is_shown_as_void() -> None:
    """The text that people have seen stays, and a line says that it does not count; then it comes anew."""
    void = event("attempt.discarded", AttemptDiscarded(1, "taken_over", "the worker broke off"))
    shown = render([START, *texts("It is", " half"), void, *texts("It is whole.")])
    assert shown == (
        "agent    Desk\n\nIt is half\n\nvoid     the text above does not count: the worker broke off\n\nIt is whole.\n"
    )


def test_a_discarded_attempt_without_text_is_told_as_well() -> None:
    """Nothing that was seen is meant; without a detail the reason is given."""
    void = event("attempt.discarded", AttemptDiscarded(7, "taken_over"))
    assert render([START, *texts("Seen."), TEXT_DONE, void]) == (
        "agent    Desk\n\nSeen.\n\nvoid     an attempt does not count: taken_over\n"
    )


def test_approvals_are_lines() -> None:
    """The request with its call id, by which it is answered, and the answer."""
    raw = {"type": "function_call", "name": "refund", "arguments": '{"n": 3}', "call_id": "c9"}
    request = item("tool_approval_item", raw)
    answers = [
        ApprovalResolved("c9", "refund", True),
        ApprovalResolved("c9", "refund", True, always=True),
        ApprovalResolved("c9", "refund", False, message="too\nmuch"),
    ]
    assert render([request, *(event("approval.resolved", answer) for answer in answers)]).splitlines() == [
        "approval refund(n=3) waits for an answer [c9]",
        "approval approved refund",
        "approval approved refund, and all its calls in this run",
        "approval rejected refund: too much",
    ]


def test_what_a_person_adds_is_shown() -> None:
    """The text of the last message; the input at the start only where it is asked for."""
    start = event("run.start", RunStart([{"role": "user", "content": [{"type": "input_text", "text": "Hello?"}]}]))
    added = event("input.added", InputAdded([{"role": "user", "content": "And \x1b[2Jhurry."}]))
    image = event("input.added", InputAdded([{"role": "user", "content": [{"type": "input_image"}]}, {"type": "x"}]))
    nothing = event("input.added", InputAdded([{"type": "x"}]))
    lines = ["user     And \\x1b[2Jhurry.", "user     [input_image]", "user     (1 items)"]
    assert render([start, added, image, nothing]).splitlines() == lines
    assert render([start, added], shows_input=True).splitlines() == ["user     Hello?", lines[0]]


def test_an_agent_that_goes_on_hands_nothing_over() -> None:
    """A run that continues an earlier one begins with the agent that it had."""
    assert render([event("agent.start", AgentStart("Desk"))]) == "agent    Desk\n"
