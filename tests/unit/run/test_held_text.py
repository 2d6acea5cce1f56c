"""Which part of a text may be shown after a check, for each kind of window."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseTextDeltaEvent

from runstream import HoldBackInfo, Window
from runstream.events.model_event import build_event, new_text_delta
from runstream.run.held_text import Check, HeldText, TextWatch


class Play:
    """A queue with one guardrail that lets everything pass that it is asked about, unless told otherwise."""

    def __init__(self, window: Window) -> None:
        self.now = 0.0
        self.watch = TextWatch(window, HoldBackInfo())
        self.held = HeldText([self.watch])
        self.asked: list[str] = []

    def say(self, piece: str, after_s: float = 0.0, index: int = 0) -> str:
        """One more delta; returns what is shown by then."""
        self.now += after_s
        self.held.take(new_text_delta("m", index, 0, piece, 0), None, self.now)
        return self.shown()

    def give(self, **fields: Any) -> list[str]:
        """Another event; returns the types of what is shown by then."""
        self.held.take(build_event({"sequence_number": 0, **fields}), None, self.now)
        return [event.type for event in self.events()]

    def events(self) -> list[Any]:
        while isinstance(check := self.held.next_check(self.watch, self.now), Check):
            self.asked.append(check.given.text)
            self.held.let_pass(self.watch, check, self.now)
        batch = self.held.release()
        return [] if batch is None else list(batch.events)

    def shown(self) -> str:
        return "".join(event.delta for event in self.events() if isinstance(event, ResponseTextDeltaEvent))


def test_characters_hold_back_what_something_new_could_belong_to() -> None:
    """A character is shown once so many from it on were checked."""
    play = Play(Window(characters=4, every=1))
    assert [play.say(each) for each in "abcdefg"] == ["", "", "", "a", "b", "c", "d"]
    assert play.asked == ["abcd", "abcde", "abcdef", "abcdefg"]
    play.held.complete()
    assert play.shown() == "efg"


def test_every_makes_fewer_checks() -> None:
    """By default half a window has to be new."""
    play = Play(Window(characters=4))
    assert [play.say(each) for each in "abcdefg"] == ["", "", "", "a", "", "bc", ""]
    assert play.asked == ["abcd", "abcdef"]


def test_a_delta_is_shown_whole() -> None:
    """It waits for its last character."""
    play = Play(Window(characters=3, every=1))
    assert [play.say(each) for each in ("ab", "cdef", "g", "hi")] == ["", "ab", "", "cdefg"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (1, ["", "One.", "", " Two 3.14", "", "", "! Three"]),
        (2, ["", "", "", "One.", "", "", " Two 3.14"]),
    ],
)
def test_sentences_are_shown_whole(count: int, shown: list[str]) -> None:
    """Each once it is complete, and those that belong to its window."""
    play = Play(Window(sentences=count))
    assert [play.say(each) for each in ("One.", " Tw", "o 3.14", "! Th", "r", "ee", "\nF")] == shown


def test_marks_without_spaces_end_sentences_too() -> None:
    """Chinese and Japanese have no space behind them."""
    play = Play(Window(sentences=1))
    assert [play.say(each) for each in ("你好。", "吗。", "x")] == ["", "你好。", "吗。"]


def test_seconds_hold_back_what_is_younger() -> None:
    """What came within them is checked together; where nothing more comes, time alone lets it pass."""
    play = Play(Window(seconds=2.0, every=0.5))
    assert play.say("a") == ""
    assert play.held.next_check(play.watch, play.now) == 2.0
    assert play.say("b", 1.5) == ""
    assert play.say("c", 0.6) == "a"
    assert play.asked == ["abc"]
    assert play.held.next_check(play.watch, play.now) == 3.5
    play.now = 3.6
    assert (play.shown(), play.asked) == ("b", ["abc"])
    assert play.say("d", 0.1) == ""
    play.now = 4.2
    assert (play.shown(), play.asked) == ("c", ["abc", "abcd"])


def test_a_part_ends_its_window() -> None:
    """What repeats the text follows it; what comes next has its own window."""
    play = Play(Window(characters=10))
    assert play.say("abc") == ""
    done = play.give(type="response.output_text.done", item_id="m", output_index=0, content_index=0, text="abc")
    assert done == ["response.output_text.delta", "response.output_text.done"]
    assert (play.asked, play.say("d", index=1)) == (["abc"], "")
    item = {"type": "message", "content": [{"type": "output_text", "text": "d"}]}
    assert play.give(type="response.output_item.done", output_index=1, item=item)[-1] == "response.output_item.done"
    assert play.asked == ["abc", "d"]


def test_a_text_that_comes_whole_is_checked_as_well() -> None:
    """Or otherwise than its deltas said: nothing is shown because something like it was."""
    play = Play(Window(characters=10))
    play.say("abc")
    play.give(type="response.output_text.done", item_id="m", output_index=0, content_index=0, text="abc and more")
    output = [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]
    play.give(type="response.completed", response={"output": output})
    assert play.asked == ["abc", "abc and more", "No."]


def test_other_events_keep_their_place() -> None:
    """They pass at once where nothing is held back, and stay behind what is."""
    play = Play(Window(characters=10))
    arguments = {"type": "response.function_call_arguments.delta", "item_id": "f", "output_index": 1, "delta": "{"}
    assert play.give(**arguments) == ["response.function_call_arguments.delta"]
    play.say("abc")
    assert play.give(**arguments) == []
    assert not play.held.is_empty


def test_delays_are_counted_for_each_delta() -> None:
    """From its arrival to where the guardrail had let it pass."""
    play = Play(Window(characters=2, every=1))
    for after_s in (0.0, 1.0, 3.0):
        play.say("x", after_s)
    play.now += 5.0
    play.held.complete()
    play.shown()
    info = play.watch.info
    assert list(info.delays_s) == [1.0, 3.0, 5.0]
    assert (info.deltas, info.characters, info.delay_p50_s, info.delay_max_s) == (3, 3, 3.0, 5.0)


def test_a_restart_forgets() -> None:
    """What was held back is void; the next attempt begins with a window of its own."""
    play = Play(Window(characters=2, every=1))
    play.say("ab")
    play.held.restart()
    assert [play.say(each) for each in "xyz"] == ["", "x", "y"]
