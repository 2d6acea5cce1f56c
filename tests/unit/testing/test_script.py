"""Scripts: which turn answers which request, and scripts as JSON."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runstream.testing import (
    Fault,
    HandoffTo,
    InvalidModelStep,
    Item,
    Message,
    Reasoning,
    Refusal,
    Script,
    ScriptRequest,
    Tokens,
    ToolCall,
    Turn,
    UnconsumedModelSteps,
    UnexpectedModelCall,
    When,
)


class Request(ScriptRequest):
    """A request that says what a test needs it to say."""

    def __init__(self, conversation: str | Sequence[Any] = "hi", *, number: int = 1, **fields: Any) -> None:
        self.number = number
        self._conversation = conversation
        self._fields = fields

    @property
    def conversation(self) -> str | Sequence[Any]:
        return self._conversation

    @property
    def model_name(self) -> str | None:
        return self._fields.get("model")

    @property
    def instructions(self) -> str | None:
        return self._fields.get("instructions")

    @property
    def tool_names(self) -> tuple[str, ...]:
        return self._fields.get("tools", ())


async def _play(script: Script, *requests: Request) -> list[Any]:
    playback = script.play()
    return [list((await playback.answer(request)).parts) for request in requests or [Request()]]


async def test_turns_follow_each_other() -> None:
    """Each turn answers once, in order."""
    assert await _play(Script(["a", "b"]), Request(), Request()) == [["a"], ["b"]]


async def test_a_script_has_no_state() -> None:
    """Two playbacks of one script do not know of each other."""
    script = Script(["a", "b"])
    assert await _play(script) == await _play(script) == [["a"]]


async def test_a_turn_waits_for_the_request_that_it_answers() -> None:
    """A turn whose condition does not hold is passed over, and stays."""
    script = Script([Turn("first", when=When(user_contains="x")), "second"])
    assert await _play(script, Request("hi"), Request("X!")) == [["second"], ["first"]]


async def test_a_turn_may_answer_several_times() -> None:
    """`times` counts; None is for ever, and is never left over."""
    playback = Script([Turn("twice", times=2), Turn("always", times=None)]).play()
    assert playback.left_over == ["turn 1 (message 'twice')"]
    said = [str((await playback.answer(Request())).parts[0]) for _ in range(5)]
    assert said == ["twice", "twice", "always", "always", "always"]
    playback.assert_complete()


async def test_a_script_may_repeat() -> None:
    """When no turn is left that fits, all are fresh again."""
    script = Script([Turn("x", when=When(user_contains="x")), "else"], repeat=True)
    requests = [Request("x"), Request("x"), Request("x"), Request("y")]
    assert await _play(script, *requests) == [["x"], ["else"], ["x"], ["else"]]


async def test_repeating_does_not_help_what_never_fits() -> None:
    """A request that no turn accepts is an error, also in a script that repeats."""
    with pytest.raises(UnexpectedModelCall, match="none of the turns that are left accepts it"):
        await _play(Script([Turn("x", when=When(user_contains="x"))], repeat=True))


async def test_the_default_answers_the_rest() -> None:
    """A function as default is asked each time."""
    script = Script(["a"], default=lambda request: f"{request.number}")
    assert await _play(script, Request(), Request(number=2), Request(number=3)) == [["a"], ["2"], ["3"]]


async def test_functions_may_return_functions() -> None:
    """Until there is a turn; coroutine functions are awaited."""

    async def later(request: ScriptRequest) -> Any:
        return lambda again: {"say": again.user_text}

    assert await _play(Script([later])) == [[Message("hi")]]


async def test_a_function_that_returns_no_step_is_told_so() -> None:
    """The error shows what it returned."""
    with pytest.raises(InvalidModelStep, match="not 5"):
        await _play(Script([lambda request: 5]))


async def test_each_use_is_taken_once() -> None:
    """Functions that wait do not let another request take the same turn."""

    async def slow(request: ScriptRequest) -> str:
        await asyncio.sleep(0)
        return "slow"

    playback = Script([slow, "b"]).play()
    turns = await asyncio.gather(*(playback.answer(Request()) for _ in range(2)))
    assert [turn.parts for turn in turns] == [("slow",), ("b",)]


async def test_a_fault_of_the_script_spares_the_turn() -> None:
    """The struck request does not use its turn up; after `fault_times` nothing is struck."""
    fault = Fault("reset")
    playback = Script(["a"], fault=fault, fault_times=1).play()
    struck, whole = await playback.answer(Request()), await playback.answer(Request())
    assert (struck.parts, struck.fault) == (("a",), fault)
    assert (whole.parts, whole.fault) == (("a",), None)


async def test_left_over_turns_are_named() -> None:
    """Functions too, by their name."""

    def choose(request: ScriptRequest) -> str:
        return "x"

    playback = Script(["a", choose]).play()
    await playback.answer(Request())
    with pytest.raises(UnconsumedModelSteps, match=r"^1 of 2 .*: turn 2 \(function choose\)$"):
        playback.assert_complete()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Script([5]), "step 1: a step is"),
        (lambda: Script(["a", {"sya": "x"}]), "step 2: has no field `sya`"),
        (lambda: Script(default=5), "default: a step is"),
        (lambda: Script(repeat="yes"), "repeat: must be true or false"),
        (lambda: Script(fault="reset"), "fault: must be a Fault"),
        (lambda: Script(fault_times=0), "fault_times: must be a number, 1 or more"),
    ],
)
def test_wrong_scripts_are_refused(make: Any, words: str) -> None:
    """When they are made, with the step's place."""
    with pytest.raises(InvalidModelStep, match=words):
        make()


JSON_SCRIPT = {
    "repeat": True,
    "default": "What?",
    "fault": {"kind": "broken-frame", "after": 2},
    "fault_times": 3,
    "turns": [
        "Hi.",
        {"say": ["Hel", "lo"], "every_s": 0.5, "when": {"user_contains": "x", "after_tool": False}},
        {"tool_call": "f", "arguments": {"a": 1}, "call_id": "c", "times": None},
        {"handoff": "Ann"},
        {"refusal": "No.", "usage": {"input_tokens": 1, "output_tokens": 2}},
        {"parts": [{"reasoning": "Hm.", "raw": True}, "so", {"item": {"type": "x", "id": "1"}}], "chunks": 3},
        {"fault": "429"},
        {"fault": {"kind": "reset", "after": 3}},
        ["a", {"say": "b"}],
    ],
}


def test_a_script_can_be_json() -> None:
    """Everything that a turn can be has a form as data."""
    script = Script.from_json(json.dumps(JSON_SCRIPT))
    assert (script.repeat, script.fault, script.fault_times) == (True, Fault("broken_frame", after=2), 3)
    assert script.default == Turn("What?")
    assert list(script.steps) == [
        Turn("Hi."),
        Turn(Message("Hello", ("Hel", "lo")), every_s=0.5, when=When(user_contains="x", after_tool=False)),
        Turn(ToolCall("f", {"a": 1}, "c"), times=None),
        Turn(HandoffTo("Ann")),
        Turn(Refusal("No."), usage=Tokens(1, 2)),
        Turn([Reasoning("Hm.", raw=True), "so", Item({"type": "x", "id": "1"})], chunks=3),
        Turn(fault=Fault("http_error", status=429, retry_after_s=1.0)),
        Turn(["This answer is cut short by a scripted fault."], fault=Fault("reset", after=3)),
        Turn(["a", Message("b")]),
    ]
    assert list(Script.from_json('["a"]').steps) == [Turn("a")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "the script is not JSON: "),
        ("5", "a script must be an object, not 5"),
        ("{}", "a script needs `turns` or a `default`"),
        ('{"turn": []}', "a script has no field `turn`; it has turns"),
        ('{"turns": {}}', "`turns` must be a list"),
        ('["a", 5]', "turn 2: a turn must be an object, not 5"),
        ('[{"sya": "x"}]', "turn 1: has no field `sya`; it has `parts`, `say`"),
        ("[{}]", "turn 1: says nothing"),
        ('[{"say": 5}]', "turn 1: Message.text: must be a string, not 5"),
        ('[{"say": "a", "every_s": "1"}]', "turn 1: Turn.every_s"),
        ('[{"say": "a", "parts": []}]', "turn 1: has both `parts` and `say`"),
        ('[{"say": "a", "tool_call": "f"}]', "turn 1: a part has exactly one of"),
        ('[{"say": "a", "arguments": {}}]', "turn 1: has no field `arguments`"),
        ('[{"parts": "a b"}, {"parts": 5}]', "turn 2: `parts` must be a list"),
        ('[{"parts": ["a", {"tool_call": "f", "args": {}}]}]', "turn 1: part 2: `tool_call` has no field `args`"),
        ('[{"parts": [5]}]', "turn 1: part 1: a part must be an object"),
        ('[{"fault": "flood"}]', "turn 1: fault: must be one of 429"),
        ('[{"fault": {"status": 429}}]', "turn 1: `fault` lacks a field"),
        ('[{"fault": {"kind": "reset", "when": 1}}]', "turn 1: `fault` has no field `when`"),
        ('[{"say": "a", "when": {"mood": 1}}]', "turn 1: `when` has no field 'mood'"),
        ('[{"say": "a", "when": {"model": 1}}]', "turn 1: `when` cannot have 1 as 'model'"),
        ('[{"say": "a", "when": []}]', "turn 1: `when` must be an object"),
        ('[{"say": "a", "usage": {"tokens": 1}}]', "turn 1: `usage` has no field `tokens`"),
        ('{"turns": ["a"], "default": 5}', "default: a turn must be an object"),
        ('{"turns": ["a"], "fault": "x"}', "fault: fault: must be one of"),
        ('{"turns": ["a"], "repeat": 1}', "repeat: must be true or false, not 1"),
    ],
)
def test_wrong_json_is_told_with_its_place(text: str, words: str) -> None:
    """The turn, the part, the field and the value."""
    with pytest.raises(InvalidModelStep, match=words.replace("(", r"\(")):
        Script.from_json(text)


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    """A script that cannot be read says which file it is."""
    path = tmp_path / "desk.json"
    path.write_text('["a", {"every_s": 1, "sya": 2}]')
    with pytest.raises(InvalidModelStep, match=r"desk\.json: turn 2: has no field `sya`"):
        Script.load(path)
    path.write_text('["a"]')
    assert list(Script.load(path).steps) == [Turn("a")]


CONVERSATION = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "old"},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "before"},
    {"role": "user", "content": [{"type": "input_text", "text": "What "}, {"type": "input_text", "text": "now?"}]},
    {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "seven"}]},
    {"role": "assistant", "tool_calls": [{"id": "3", "function": {"name": "h", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "3", "content": "eight"},
    {"role": "tool", "tool_call_id": "4", "content": "nine"},
]


def test_a_request_tells_what_matters() -> None:
    """The user's last words, and what tools gave back since, with the names of the tools."""
    request = Request(CONVERSATION)
    assert request.user_text == "What now?"
    assert [tuple(result) for result in request.tool_results] == [
        ("g", "2", "seven"),
        ("h", "3", "eight"),
        (None, "4", "nine"),
    ]
    assert request.describe_last() == "output of tool 4: 'nine'"
    assert Request("hi").describe_last() == "user: 'hi'"
    assert Request([]).user_text == ""


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        (When(), True),
        (When(user_contains="NOW"), True),
        (When(user_contains="old"), False),
        (When(instructions_contain="kind"), True),
        (When(instructions_contain="rude"), False),
        (When(model="m"), True),
        (When(model="n"), False),
        (When(offers_tool="f"), True),
        (When(offers_tool="q"), False),
        (When(after_tool=True), True),
        (When(after_tool=False), False),
        (When(after_tool="g"), True),
        (When(after_tool="f"), False),
        (When(tool_outputs=3), True),
        (When(tool_outputs=2), False),
        (When(user_contains="now", model="n"), False),
    ],
)
def test_conditions(when: When, holds: bool) -> None:
    """Every part of a condition must hold."""
    assert when(Request(CONVERSATION, instructions="Be Kind.", model="m", tools=("f",))) is holds
