"""What `runstream chat` shows of an answer: lines that stand for good, and those under way."""

from __future__ import annotations

import re
from typing import Any

from rich.cells import cell_len

from runstream import Agent, Event, RunConfig, RunContextWrapper, Runner, function_tool
from runstream.events.event import AttemptDiscarded, InputAdded
from runstream.events.model_event import build_event
from runstream.render.chat import AnswerLines
from runstream.testing import FakeClock, HandoffTo, Message, Reasoning, ScriptedModel, ToolCall

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@function_tool
async def count(context: RunContextWrapper[Any], to: int) -> str:
    """Count."""
    for number in range(to):
        context.emit({"at": number})
        await context.context.sleep(0.5)
    return f"counted\nto {to}"


@function_tool
def broken() -> str:
    """Fail."""
    raise ValueError("no such thing")


@function_tool(needs_approval=True)
def refund(order: int, why: str) -> str:
    """Pay back."""
    return "paid"


def bare(lines: list[str]) -> list[str]:
    return [ESCAPES.sub("", line) for line in lines]


async def events_of(agent: Agent[Any], text: str = "hi", **options: Any) -> list[Event]:
    clock = FakeClock()
    result = Runner.run_streamed(agent, text, context=clock, run_config=RunConfig(clock=clock, **options))
    events: list[Event] = []
    async with result:
        async for event in result.events():
            events.append(event)
            for item in result.pending_approvals:
                await result.reject(item, message="too much")
    return events


def researcher() -> Agent[Any]:
    model = ScriptedModel([[Message("I look."), ToolCall("count", {"to": 1})], "There were three."])
    return Agent(name="Researcher", tools=[count], model=model)


def desk() -> Agent[Any]:
    refunds = Agent(
        name="Refunds",
        tools=[refund],
        model=ScriptedModel([[ToolCall("refund", {"order": 7, "why": "x" * 90})], "No **money**."]),
    )
    calls = [ToolCall("count", {"to": 2}), ToolCall("broken", {}), ToolCall("research", {"input": "old orders"})]
    model = ScriptedModel(
        [[Reasoning("What to do?"), Message("Let me look.\n\n- first\n- then"), *calls], HandoffTo("Refunds")]
    )
    research = researcher().as_tool(tool_name="research", tool_description="Look.")
    return Agent(name="Desk", tools=[count, broken, research], handoffs=[refunds], model=model)


FINISHED = """\
✻ thought for 0 ms, 11 characters

Let me look.

 • first
 • then

✓ count(to=2)  1.0 s
  counted to 2
✗ broken()  failed 0 ms
  An error occurred while running the tool. Ple...
✓ research(input="old orders")  500 ms
│ I look.
│ ✓ count(to=1)  500 ms
│   counted to 1
  There were three.
→ Desk hands over to Refunds
✗ refund(order=7, why="xxxx...  rejected: too much

No money."""


async def test_what_stands_for_good() -> None:
    """Texts as Markdown, tools with what came of them, agents that run as tools within, handoffs; however often it was
    asked for, in the order of the log, and no line wider than the screen."""
    events = await events_of(desk(), on_approval="wait")
    for often in (1, 7, len(events)):
        answer, lines = AnswerLines(50), []
        for number, event in enumerate(events, 1):
            answer.feed(event)
            if number % often == 0:
                lines += answer.finished()
                assert all(cell_len(line) <= 50 for line in bare(answer.open_lines(30, event.at)))
        lines += answer.finished()
        assert bare(lines) == FINISHED.split("\n")
        assert answer.open_lines(9, 0.0) == []


async def test_what_is_under_way() -> None:
    """Calls with the time that they take and what they report, nested agents with their latest words, and no more lines
    than were asked for."""
    answer = AnswerLines(50, color=False)
    seen: set[str] = set()
    for event in await events_of(desk(), on_approval="wait"):
        answer.feed(event)
        answer.finished()
        lines = bare(answer.open_lines(30, event.at + 0.25))
        assert answer.open_lines(2, event.at + 0.25) == answer.open_lines(30, event.at + 0.25)[-2:]
        seen.update(line.lstrip("◐◓◑◒ ") for line in lines)
    assert {
        "✻ thinking 250 ms, 11 characters",
        "count(to=2)  750 ms",
        '{"at": 1}',
        'research(input="old orders")  250 ms',
        "│ I look.",
        "→ transfer_to_refunds",
        '? refund(order=7, why="x...  waits for your answer',
    } <= seen


async def test_the_question_holds_all_arguments() -> None:
    """Who decides on a call sees it whole, or how much of it is left out."""
    answer = AnswerLines(40)
    for event in await events_of(desk(), on_approval="wait"):
        answer.feed(event)
        for entry in answer.view.pending_approvals:
            shown = bare(answer.question(entry, 20))
            assert "".join(line[2:] for line in shown).count("x") == 90
            assert bare(answer.question(entry, 3))[-1] == f"  … {len(shown) - 2} more lines"
            return
    raise AssertionError("no call waited")


def event(seq: int, kind: str, data: Any) -> Event:
    return Event("run", seq, 0.0, kind, "Desk", 1, (), data)


def delta(seq: int, text: str) -> Event:
    fields = {"item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
    return event(seq, "model", build_event({"type": "response.output_text.delta", "delta": text, **fields}))


def test_discarded_attempts() -> None:
    """What stands for good and does not count is said to; what does not stand yet goes away."""
    for shown, told in (("one\n\ntwo", "the text above does not count"), ("one", "an attempt does not count")):
        answer = AnswerLines(70)
        answer.feed(delta(1, shown))
        before = answer.finished()
        answer.feed(event(2, "attempt.discarded", AttemptDiscarded(1, "retry", "503")))
        lines = bare(answer.finished())
        assert bare(before) == (["one"] if "two" in shown else [])
        assert [line for line in lines if line] == [f"↺ {told}: 503; trying again"]
        assert answer.open_lines(9, 0.0) == []
        answer.feed(delta(3, "again"))
        assert bare(answer.open_lines(9, 0.0))[-1] == "again"


def test_more_input_and_gaps() -> None:
    """What a person said meanwhile stands where the agent saw it; events that are gone are counted."""
    answer = AnswerLines(40)
    answer.feed(event(1, "input.added", InputAdded([{"role": "user", "content": "and \x1b[2J hurry"}])))
    answer.feed(event(5, "input.added", InputAdded([{"role": "user", "content": "now"}])))
    assert bare(answer.finished()) == ["> and \\x1b[2J hurry", "… events 2 to 4 are no longer kept", "> now"]


def test_what_has_no_end() -> None:
    """Where no more comes, what was under way is not lost."""
    answer = AnswerLines(40)
    answer.feed(delta(1, "one\n\ntwo"))
    assert bare(answer.finished()) == ["one"]
    answer.close()
    assert bare(answer.finished()) == ["", "two", "", "(not complete)"]
    assert answer.open_lines(9, 0.0) == []


def test_another_history() -> None:
    """After the log turned out to be another one, what comes is shown, though its seqs were seen."""
    answer = AnswerLines(40)
    answer.feed(delta(1, "one\n\n"))
    assert bare(answer.finished()) == ["one"]
    answer.begin_again()
    answer.feed(delta(1, "two\n\n"))
    assert bare(answer.finished()) == ["", "two"]


def test_a_narrower_screen() -> None:
    """What comes after the screen's width has changed is drawn in the new one."""
    answer = AnswerLines(60)
    answer.feed(delta(1, "word " * 20))
    answer.finished()
    assert max(map(cell_len, bare(answer.open_lines(9, 0.0)))) > 30
    answer.resize(20)
    answer.feed(delta(2, "more"))
    answer.finished()
    assert max(map(cell_len, bare(answer.open_lines(9, 0.0)))) <= 20
