"""The vocabulary of scripts: what a step may be, and what is said of a wrong one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.testing import (
    Fault,
    HandoffTo,
    InvalidModelStep,
    Item,
    Message,
    Raise,
    Reasoning,
    Tokens,
    ToolCall,
    Turn,
    say,
)
from runstream.testing.steps import coerce_turn, split_text


@given(st.text(), st.sampled_from(["word", "char", "whole"]) | st.integers(1, 10), st.booleans())
def test_deltas_add_up(text: str, chunks: Any, is_code: bool) -> None:
    """Whatever the cut, nothing is lost and no delta is empty."""
    deltas = list(split_text(text, chunks, is_code=is_code))
    assert "".join(deltas) == text
    assert all(deltas)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ("word", ["Hello,", " big", "  world", "\n"]),
        ("char", list("Hello, big  world\n")),
        ("whole", ["Hello, big  world\n"]),
        (7, ["Hello, ", "big  wo", "rld\n"]),
        (("Hello, big", "  world\n"), ["Hello, big", "  world\n"]),
    ],
)
def test_text_is_cut_as_asked(chunks: Any, expected: list[str]) -> None:
    """By words with the space before them, by characters, by length, or as given."""
    assert list(split_text("Hello, big  world\n", chunks)) == expected


def test_arguments_are_cut_at_punctuation() -> None:
    """JSON has few spaces; its deltas are words and what stands between them."""
    assert list(split_text('{"city":"Paris"}', "word", is_code=True)) == ['{"', "city", '":"', "Paris", '"}']


@pytest.mark.parametrize("step", ["hi", Message("hi"), ["hi"], ("hi",), Turn("hi"), Turn(["hi"]), Turn(Message("hi"))])
def test_short_forms_are_turns(step: Any) -> None:
    """A string, a part and a list of parts stand for a turn."""
    (part,) = coerce_turn(step).parts
    assert part in ("hi", Message("hi"))


@pytest.mark.parametrize("step", [5, None, {"say": "hi"}, [5], [["hi"]], b"hi", ValueError("x")])
def test_what_is_no_step_is_refused(step: Any) -> None:
    """The error shows what was given."""
    with pytest.raises(InvalidModelStep, match=r"not "):
        coerce_turn(step)


def test_say_takes_the_deltas_themselves() -> None:
    """A list of strings is the text and how it is cut."""
    turn = say(["Hel", "lo"], every_s=0.5)
    assert turn.parts == (Message("Hello"),)
    assert (turn.chunks, turn.every_s) == (("Hel", "lo"), 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Message(5), "Message.text: must be a string, not 5"),
        (lambda: Message("ab", chunks=["a"]), r"Message.chunks: \['a'\] do not add up to the text 'ab'"),
        (lambda: Message("ab", chunks=0), "Message.chunks"),
        (lambda: Message("ab", chunks="lines"), 'Message.chunks: must be "word"'),
        (lambda: Message("ab", chunks=[1, 2]), "Message.chunks"),
        (lambda: Reasoning("x", raw=1), "Reasoning.raw: must be true or false"),
        (lambda: ToolCall(""), "ToolCall.name: must be the name of a tool"),
        (lambda: ToolCall("f", [1]), "ToolCall.arguments: must be an object or a string"),
        (lambda: ToolCall("f", {"x": object()}), "ToolCall.arguments: cannot be written as JSON"),
        (lambda: ToolCall("f", call_id=5), "ToolCall.call_id"),
        (lambda: HandoffTo(5), "HandoffTo.agent: must be an agent, or the name of one"),
        (lambda: Item({"id": 1}), "Item.item"),
        (lambda: Item({"type": "x"}, chunks=-1), "Item.chunks"),
        (lambda: Tokens(-1), "usage.input_tokens: must be a number of tokens, 0 or more, not -1"),
        (lambda: Turn(5), "Turn.parts: must be a list"),
        (lambda: Turn([5]), "Turn.parts: must be a string or one of the parts, not 5"),
        (lambda: Turn("a", every_s=-1), "Turn.every_s: must be a number of seconds, 0 or more, not -1"),
        (lambda: Turn("a", first_after_s="1"), "Turn.first_after_s"),
        (lambda: Turn("a", first_after_s=float("inf")), "Turn.first_after_s"),
        (lambda: Turn("a", usage="some"), "Turn.usage"),
        (lambda: Turn("a", incomplete="tired"), "Turn.incomplete"),
        (lambda: Turn("a", interleave="yes"), "Turn.interleave"),
        (lambda: Turn("a", fault="reset"), "Turn.fault: must be a Fault"),
        (lambda: Turn("a", when=5), "Turn.when"),
        (lambda: Turn("a", times=0), "Turn.times: must be a number, 1 or more, not 0"),
        (lambda: Turn("a", cut_bytes=True), "Turn.cut_bytes"),
        (lambda: Turn("a", model=5), "Turn.model"),
        (lambda: Turn(["a", "b"], chunks=["ab"]), "Turn.chunks: must be a size"),
        (lambda: Turn("ab", chunks=["b"]), "Turn.chunks: .* do not add up"),
        (lambda: Turn(ToolCall("f", "{}"), chunks=["{"]), "Turn.chunks: .* do not add up"),
        (lambda: Fault("flood"), "Fault.kind: must be one of http_error, reset"),
        (lambda: Fault("reset", after=-1), "Fault.after: must be a number of deltas"),
        (lambda: Fault("http_error", after=2), 'Fault.after: must be "start" for the fault http_error'),
        (lambda: Fault("http_error", status=200), "Fault.status: must be an HTTP status from 400 to 599, not 200"),
        (lambda: Fault("silence", for_s=-1), "Fault.for_s"),
        (lambda: Fault("silence", pings_every_s=0), "Fault.pings_every_s: must be more than 0"),
        (lambda: Fault("reset", message=5), "Fault.message"),
        (lambda: Fault("http_error", headers={"a": 1}), "Fault.headers: must be an object of strings"),
        (lambda: Raise("x"), "Raise.error: must be an exception"),
        (lambda: Raise(ValueError(), after=-1), "Raise.after"),
    ],
)
def test_wrong_fields_are_named(make: Any, words: str) -> None:
    """The error names the field, what it must be, and what it is."""
    with pytest.raises(InvalidModelStep, match=words):
        make()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("429", Fault("http_error", status=429, retry_after_s=1.0)),
        ("503", Fault("http_error", status=503)),
        ("reset", Fault("reset")),
        ("broken-frame:5", Fault("broken_frame", after=5)),
        ("silence:start", Fault("silence", after="start")),
        ("no_end", Fault("no_end")),
    ],
)
def test_faults_have_names(name: str, expected: Fault) -> None:
    """The command line's names give the fault and its place."""
    assert Fault.named(name) == expected


@pytest.mark.parametrize("name", ["flood", "", "reset:soon", "200"])
def test_an_unknown_fault_is_refused(name: str) -> None:
    """The error lists what there is, or names the field."""
    with pytest.raises(InvalidModelStep):
        Fault.named(name)


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        (Fault("http_error"), "start"),
        (Fault("slow_first_byte"), "start"),
        (Fault("no_end"), "end"),
        (Fault("reset"), 1),
        (Fault("reset", after=0), 0),
    ],
)
def test_a_fault_has_a_place(fault: Fault, place: Any) -> None:
    """Each kind has the place where it happens in life."""
    assert fault.place == place


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (Turn(["hi", ToolCall("f")]), "message 'hi' + call of f"),
        (Turn([HandoffTo("A B")]), "call of transfer_to_a_b"),
        (Turn([Reasoning("x" * 100)]), "reasoning '" + "x" * 76 + "..."),
        (Turn([Item({"type": "x"})]), "item {'type': 'x'}"),
        (Turn(fault=Fault("reset")), "fault reset"),
        (Turn(fault=Raise(ValueError("x"))), "raises ValueError('x')"),
        (Turn(), "an empty answer"),
    ],
)
def test_a_turn_describes_itself(turn: Turn, words: str) -> None:
    """In a few words, for error messages."""
    assert str(turn) == words


def test_a_handoff_takes_an_agent() -> None:
    """Anything with a name; the tool's name follows the SDK's rule."""
    agent = type("Agent", (), {"name": "Billing & Refunds"})()
    assert HandoffTo(agent).as_tool_call().name == "transfer_to_billing___refunds"
