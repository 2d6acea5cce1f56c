"""Stream guardrails in runs: what was blocked is in no log and with no reader, whatever checks and streams do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from runstream import (
    Agent,
    GuardrailFunctionOutput,
    InMemorySession,
    OutputGuardrail,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    StreamedText,
    StreamGuardrail,
    UserError,
    Window,
    function_tool,
    stream_guardrail,
)
from runstream.events.codec import plain
from runstream.testing import FakeClock, Fault, Message, Reasoning, ScriptedModel, ToolCall, Turn, say


def _forbid(word: str, window: Window, clock: FakeClock | None = None, takes_s: float = 0.0, **options: Any) -> Any:
    """A guardrail on a word; with a clock its checks take some time."""

    def find(context: Any, agent: Any, text: StreamedText) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput("found" if word in text.held else None, word in text.held)

    async def find_slowly(context: Any, agent: Any, text: StreamedText) -> GuardrailFunctionOutput:
        assert clock is not None
        await clock.sleep(takes_s)
        return find(context, agent, text)

    return StreamGuardrail(find if clock is None else find_slowly, window, "words", **options)


async def _read(result: Any) -> tuple[list[Any], str]:
    """The log, and all that readers see of it as one text."""
    events = [event async for event in result.events()]
    return events, " ".join(json.dumps(plain(event.data), sort_keys=True) for event in events)


def _text(events: list[Any]) -> str:
    return "".join(event.data.delta for event in events if _kind(event) == "response.output_text.delta")


def _kind(event: Any) -> str:
    return event.data.type if event.kind == "model" else event.kind


@given(
    words=st.lists(st.sampled_from(["ab", "x", ". ", "yz ", "\n", "a b"]), max_size=12),
    rest=st.lists(st.sampled_from(["ab", "x", ". ", "yz "]), max_size=6),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    window=st.one_of(
        st.builds(Window, characters=st.integers(6, 14), every=st.sampled_from([None, 1, 5])),
        st.builds(Window, sentences=st.integers(1, 2)),
        st.builds(Window, seconds=st.floats(10.0, 20.0), every=st.sampled_from([None, 0.2])),
    ),
    takes_s=st.sampled_from([None, 0.0, 0.05, 1.0]),
    others=st.lists(st.builds(Window, characters=st.integers(1, 30)), max_size=2),
    replace=st.booleans(),
)
def test_nothing_of_what_is_blocked_is_ever_in_the_log(
    words: list[str],
    rest: list[str],
    sizes: list[int],
    window: Window,
    takes_s: float | None,
    others: list[Window],
    replace: bool,
) -> None:
    """A word that fits into the window, wherever it stands, however the text is cut: not its first character is with
    any reader, live or late. What is not blocked comes whole, and in order."""
    secret = "QXZJKW"  # letters that nothing else in the log has
    before, after = "".join(words), "".join(rest)
    blocked = before + secret + after

    def cut(text: str) -> list[str]:
        pieces, at = [], 0
        while at < len(text):
            size = sizes[len(pieces) % len(sizes)]
            pieces.append(text[at : at + size])
            at += size
        return pieces

    async def play(text: str) -> tuple[Any, list[Any], str, list[Any]]:
        clock = FakeClock()
        guardrails = [
            _forbid(secret, window, None if takes_s is None else clock, takes_s or 0.0, **options),
            *(_forbid("nothing", other, clock, 0.1) for other in others),
        ]
        model = ScriptedModel([say(cut(text), every_s=0.1)], clock=clock)
        agent = Agent(name="Ann", model=model, stream_guardrails=guardrails)
        result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
        live, seen = await _read(result)
        late, seen_late = await _read(result)
        assert seen == seen_late
        assert model.open_streams == 0
        return result, late, seen, live

    options: dict[str, Any] = {"on_trip": "replace", "replacement": "-"} if replace else {}
    result, events, seen, _ = asyncio.run(play(blocked))
    assert not any(letter in seen for letter in secret)
    shown = _text(events)
    assert before.startswith(shown.removesuffix("-") if replace else shown)
    assert events[-1].data.status == ("completed" if replace else "failed")
    if before + after:
        result, events, _, _ = asyncio.run(play(before + after))
        assert (_text(events), result.final_output) == (before + after, before + after)


async def test_a_tripwire_ends_the_run_as_an_output_guardrails_does() -> None:
    """What was shown stays, marked incomplete; the rest is dropped and the provider's stream closed."""
    clock, session = FakeClock(), InMemorySession("s")
    model = ScriptedModel([say("Well, the word is SECRET and so on", every_s=1.0)], clock=clock)
    guardrail = _forbid("SECRET", Window(characters=6, every=1))
    agent = Agent(name="Ann", model=model, stream_guardrails=[guardrail])
    result = Runner.run_streamed(agent, "hi", session=session, run_config=RunConfig(clock=clock))
    with pytest.raises(OutputGuardrailTripwireTriggered, match="StreamGuardrail 'words'") as caught:
        async for _ in result.stream_events():
            pass
    told: Any = caught.value.guardrail_result
    assert (told.guardrail, told.agent, told.agent_output) == (guardrail, agent, "Well, the")
    assert (told.output.output_info, result.stream_guardrail_results) == ("found", [told])
    assert caught.value.run_data is not None
    assert caught.value.run_data.partial_output == "Well, the"
    assert model.open_streams == 0
    _, message = await session.get_items()
    assert (message["status"], message["content"][0]["text"], "id" in message) == (  # type: ignore[typeddict-item, index]
        "incomplete",
        "Well, the",
        False,
    )
    assert result.context_wrapper.usage.requests == 1


async def test_a_replaced_text_ends_the_message() -> None:
    """The run goes on from it; the events are those of a whole response, and calls after it are not made."""

    @function_tool
    async def work() -> str:
        raise AssertionError("it was cut off")

    clock = FakeClock()
    turn = Turn([Reasoning("hm"), Message("Please now say SECRET words"), ToolCall("work")], every_s=1.0)
    model = ScriptedModel([turn], clock=clock)
    guardrail = _forbid("SECRET", Window(characters=6), on_trip="replace", replacement="[gone]")
    agent = Agent(name="Ann", model=model, tools=[work], stream_guardrails=[guardrail])
    session = InMemorySession("s")
    result = Runner.run_streamed(agent, "hi", session=session, run_config=RunConfig(clock=clock))
    events, seen = await _read(result)
    assert "SECRET" not in seen
    assert _text(events) == "Please[gone]"
    assert [_kind(event) for event in events][-7:] == [
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
        "item",
        "run.end",
    ]
    numbers = [event.data.sequence_number for event in events if event.kind == "model"]
    assert numbers == sorted(numbers)
    assert result.final_output == "Please[gone]"
    assert [item.type for item in result.new_items] == ["message_output_item"]
    assert [item["role"] for item in await session.get_items()] == ["user", "assistant"]  # type: ignore[typeddict-item]


@pytest.mark.parametrize("on_trip", ["stop", "replace"])
async def test_a_plain_run_is_checked_as_well(on_trip: Any) -> None:
    """Before its response is in the log."""
    guardrail = _forbid("SECRET", Window(characters=6), on_trip=on_trip)
    model = ScriptedModel([[Message("Say SECRET words")], "fine"])
    agent = Agent(name="Ann", model=model, stream_guardrails=[guardrail])
    if on_trip == "stop":
        with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
            await Runner.run(agent, "hi")
        assert caught.value.run_data is not None
        assert caught.value.run_data.new_items == []
    else:
        result = await Runner.run(agent, "hi")
        assert (result.final_output, result.context_wrapper.usage.requests) == ("[withheld]", 1)
    assert (await Runner.run(agent, "hi")).final_output == "fine"


async def test_checks_do_not_stop_the_model_and_add_their_own_time_only() -> None:
    """A check of two seconds beside a stream of ten: the model is read on meanwhile, the answer comes two seconds
    later, not twenty."""
    clock = FakeClock()
    model = ScriptedModel([say(["ab"] * 10, every_s=1.0)], clock=clock)
    agent = Agent(name="Ann", model=model, stream_guardrails=[_forbid("x", Window(characters=2), clock, 2.0)])
    began = clock.now()
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    await result.wait()
    assert clock.now() - began <= 10 + 2 * 2.0
    info = result.stream_guardrail_results[0].info
    assert (info.deltas, info.characters, result.final_output) == (10, 20, "ab" * 10)
    assert info.checks < 10
    assert 2.0 <= info.delay_p50_s <= info.delay_max_s <= 4.0


async def test_reasoning_passes_at_once() -> None:
    """It is not what guardrails of the text are about."""
    clock = FakeClock()
    turn = Turn([Reasoning("one two three"), Message("never ends here")], every_s=1.0)
    agent = Agent(
        name="Ann", model=ScriptedModel([turn], clock=clock), stream_guardrails=[_forbid("x", Window(characters=999))]
    )
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    at = {_kind(event): event.at for event in (await _read(result))[0]}
    assert at["response.reasoning_summary_text.delta"] < at["response.output_text.delta"]
    assert at["response.output_text.delta"] == at["response.completed"]


async def test_a_check_that_fails_lets_nothing_pass() -> None:
    """The run fails with its error, and shows nothing that was not checked."""

    @stream_guardrail(window=Window(characters=1))
    async def broken(context: Any, agent: Any, text: StreamedText) -> GuardrailFunctionOutput:
        raise ValueError("no connection")

    @stream_guardrail
    def wrong(context: Any, agent: Any, text: StreamedText) -> Any:
        return "fine"

    @stream_guardrail
    async def gave_up(context: Any, agent: Any, text: StreamedText) -> Any:
        raise asyncio.CancelledError

    for guardrail, message in (
        (broken, "no connection"),
        (wrong, "'wrong' must return a GuardrailFunctionOutput, it returned 'fine'"),
        (StreamGuardrail(5), "must be callable"),  # type: ignore[arg-type]
        (gave_up, "'gave_up' was cancelled by something"),
    ):
        agent = Agent(name="Ann", model=ScriptedModel(["SECRET"]), stream_guardrails=[guardrail])
        result = Runner.run_streamed(agent, "hi")
        events, seen = await _read(result)
        assert "SECRET" not in seen
        assert events[-1].data.status == "failed"
        assert message in str(result.run_loop_exception)


async def test_cancelling_drops_what_is_held_back() -> None:
    """What was let pass is kept as ever; the check is stopped with the run."""
    clock = FakeClock()
    stopped: list[bool] = []
    started = asyncio.Event()

    async def slow(context: Any, agent: Any, text: StreamedText) -> GuardrailFunctionOutput:
        try:
            if "two" in text.text:
                started.set()
                await clock.sleep(600)
        except asyncio.CancelledError:
            stopped.append(True)
            raise
        return GuardrailFunctionOutput(None, False)

    guardrail = StreamGuardrail(slow, Window(characters=1))
    model = ScriptedModel([say("one two three", every_s=1.0)], clock=clock)
    agent = Agent(name="Ann", model=model, stream_guardrails=[guardrail])
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(clock=clock))
    await started.wait()
    result.cancel()
    await result.wait()
    assert (stopped, model.open_streams) == ([True], 0)
    [message] = result.new_items
    assert message.raw_item.content[0].text == "one"  # type: ignore[union-attr]


@pytest.mark.parametrize("held", [True, False])
async def test_another_attempt_begins_with_nothing_held_back(held: bool) -> None:
    """What the attempt before had not shown is never shown; what it had is taken back."""
    clock = FakeClock()
    model = ScriptedModel([say("one two three", fault=Fault("error_event", after=2)), "a new answer"], clock=clock)
    agent = Agent(
        name="Ann", model=model, stream_guardrails=[_forbid("x", Window(characters=99 if held else 1), clock, 0.01)]
    )
    config = RunConfig(clock=clock, on_broken_stream="restart")
    result = Runner.run_streamed(agent, "hi", run_config=config)
    events, _ = await _read(result)
    assert result.final_output == "a new answer"
    assert ("one" in _text(events)) is not held
    void = [event for event in events if event.kind == "attempt.discarded"]
    after = events if not void else events[events.index(void[-1]) :]
    assert _text(after) == "a new answer"


async def test_a_stream_that_breaks_off_shows_what_was_let_pass() -> None:
    """The text up to there is checked as a whole first; then the stream's own error comes."""
    for text, shown in (("one two three", "one two"), ("one SECRET three", "")):
        model = ScriptedModel([say(text, fault=Fault("error_event", after=2))])
        agent = Agent(name="Ann", model=model, stream_guardrails=[_forbid("SECRET", Window(characters=99))])
        result = Runner.run_streamed(agent, "hi")
        events, seen = await _read(result)
        assert (_text(events), "SECRET" in seen) == (shown, False)
        tripped = isinstance(result.run_loop_exception, OutputGuardrailTripwireTriggered)
        assert tripped is (shown == "")


async def test_the_configurations_guardrails_hold_for_every_agent() -> None:
    """Besides the agent's own; results tell of each guardrail for each agent, over all model calls."""

    @function_tool
    async def work() -> str:
        return "done"

    model = ScriptedModel([[Message("Working."), ToolCall("work")], "Done."])
    mine, everybodys = _forbid("x", Window(characters=3)), _forbid("y", Window(sentences=1))
    agent = Agent(name="Ann", model=model, tools=[work], stream_guardrails=[mine])
    result = await Runner.run(agent, "hi", run_config=RunConfig(stream_guardrails=[everybodys]))
    assert [each.guardrail for each in result.stream_guardrail_results] == [mine, everybodys]
    assert [each.info.characters for each in result.stream_guardrail_results] == [13, 13]


async def test_output_guardrails_come_after() -> None:
    """They see what is left."""
    seen: list[Any] = []

    def look(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        seen.append(output)
        return GuardrailFunctionOutput(None, False)

    guardrail = _forbid("SECRET", Window(characters=6), on_trip="replace", replacement="…")
    model = ScriptedModel(["A SECRET"])
    agent = Agent(name="Ann", model=model, stream_guardrails=[guardrail], output_guardrails=[OutputGuardrail(look)])
    await Runner.run_streamed(agent, "hi").wait()
    assert seen == ["…"]


async def test_half_an_object_is_no_replacement() -> None:
    """`on_trip="replace"` is refused where the output has a structure; "stop" is not."""

    class Reply(BaseModel):
        text: str

    model = ScriptedModel(['{"text":"fine"}', '{"text":"fine"}'])
    guardrail = _forbid("SECRET", Window(characters=6), on_trip="replace")
    with pytest.raises(UserError, match="half an object"):
        await Runner.run(Agent(name="A", model=model, output_type=Reply, stream_guardrails=[guardrail]), "hi")
    guardrail = _forbid("SECRET", Window(characters=6))
    agent = Agent(name="A", model=model, output_type=Reply, stream_guardrails=[guardrail])
    assert (await Runner.run(agent, "hi")).final_output == Reply(text="fine")


async def test_a_run_without_any_has_no_operator_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made for it."""
    monkeypatch.setattr("runstream.run.model_call.HoldBack", None)
    result = Runner.run_streamed(Agent(name="Ann", model=ScriptedModel(["x"])), "hi")
    assert (await result.wait()).final_output == "x"
