"""flow/smooth: even text for one reader, nothing lost, everything in its place."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseReasoningTextDeltaEvent, ResponseTextDeltaEvent

from runstream import Agent, Event, RawResponsesStreamEvent, RunConfig, Runner, UserError, function_tool
from runstream.events.model_event import build_event, new_text_delta
from runstream.flow.smooth import smooth
from runstream.testing import FakeClock, Message, ScriptedModel, ToolCall, Turn, say


class Source:
    """Events at their times, by a fake clock; what became of it can be asked."""

    def __init__(self, clock: FakeClock, steps: list[tuple[float, Any]], error: Exception | None = None) -> None:
        self._clock = clock
        self._steps = [(clock.now() + at, event) for at, event in steps]
        self._error = error
        self.asked = 0
        self.closed = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        self.asked += 1
        if not self._steps:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        while (wait_s := self._steps[0][0] - self._clock.now()) > 0:
            await self._clock.sleep(wait_s)
        return self._steps.pop(0)[1]

    async def aclose(self) -> None:
        self.closed += 1


def raw(text: str, seq: int = 0, item: str = "msg") -> RawResponsesStreamEvent:
    return RawResponsesStreamEvent(new_text_delta(item, 0, 0, text, seq), seq=seq, run_id="r")


def other(seq: int = 0) -> RawResponsesStreamEvent:
    return RawResponsesStreamEvent(build_event({"type": "response.in_progress", "response": {"id": "x"}}), seq=seq)


def text_of(events: list[Any]) -> str:
    return "".join(event.data.delta for event in events if hasattr(event.data, "delta"))


async def test_the_first_text_comes_at_once_and_words_whole() -> None:
    """The first delta waits for nothing; after it no word comes in two pieces, wherever deltas are cut."""
    clock = FakeClock()
    deltas = ["Wo", "rds are", " n", "ever", " cut in", " tw", "o."]
    source = Source(clock, [(number * 0.1, raw(delta, number + 1)) for number, delta in enumerate(deltas)])
    start = clock.now()
    pieces = []
    async for event in smooth(source, clock=clock):
        if not pieces:
            assert clock.now() == start
        pieces.append(event.data.delta)
    assert pieces == ["Wo", "rds", " are", " never", " cut", " in", " two."]


async def test_pieces_are_events_of_the_same_class_with_their_fields() -> None:
    """A piece has the fields of the event that its last character came in; a whole event is the event itself."""
    clock = FakeClock()
    events = [raw("One", 4), raw(" two three", 5), raw(" four", 6)]
    steps = [(0.0, events[0]), (0.1, events[1]), (0.5, events[2])]
    pieces = [piece async for piece in smooth(Source(clock, steps), clock=clock, max_lag_s=0.3)]
    assert pieces[0] is events[0]
    assert [(piece.data.delta, piece.seq) for piece in pieces] == [("One", 4), (" two", 5), (" three", 5), (" four", 6)]
    assert pieces[3] is events[2]
    assert all(isinstance(piece, RawResponsesStreamEvent) for piece in pieces)
    assert all(isinstance(piece.data, ResponseTextDeltaEvent) and piece.data.item_id == "msg" for piece in pieces)
    assert [piece.data.sequence_number for piece in pieces] == [4, 5, 5, 6]
    assert events[1].data.delta == " two three", "other readers see the same event"  # type: ignore[union-attr]


async def test_numbered_events_keep_their_envelope_but_not_their_frame() -> None:
    """A piece of a numbered event is no longer the bytes that arrived."""
    clock = FakeClock()
    event = Event("r", 7, 1.5, "model", "Ann", 1, ("c",), raw("a b").data, None, b"{}")
    pieces = [piece async for piece in smooth(Source(clock, [(0.0, event)]), clock=clock)]
    assert [(piece.data.delta, piece.frame) for piece in pieces] == [("a", None), (" b", None)]
    assert {(piece.seq, piece.at, piece.agent, piece.path, piece.kind) for piece in pieces} == {
        (7, 1.5, "Ann", ("c",), "model")
    }


async def test_logprobs_go_with_the_end_of_their_event() -> None:
    """Each event's logprobs are in one piece."""
    clock = FakeClock()
    entry = {"token": " b", "logprob": -0.5, "top_logprobs": []}
    delta = build_event(
        {
            "type": "response.output_text.delta",
            "item_id": "m",
            "output_index": 0,
            "content_index": 0,
            "delta": "a b",
            "sequence_number": 1,
            "logprobs": [entry],
        }
    )
    source = Source(clock, [(0.0, RawResponsesStreamEvent(delta))])
    pieces = [piece async for piece in smooth(source, clock=clock)]
    assert [len(piece.data.logprobs) for piece in pieces] == [0, 1]


async def test_text_is_flushed_before_any_other_event() -> None:
    """What is held comes before the other event, at once, and the other event is the very object."""
    clock = FakeClock()
    marker = other(3)
    source = Source(clock, [(0.0, raw("one", 1)), (0.1, raw(" two three fo", 2)), (0.15, marker)])
    start = clock.now()
    smoothed = smooth(source, clock=clock)
    seen = [(round(clock.now() - start, 3), event) async for event in smoothed]
    assert text_of([event for _, event in seen]) == "one two three fo"
    assert seen[-1] == (0.15, marker)
    assert seen[-1][1] is marker
    assert smoothed.cursor == 3


async def test_reasoning_is_smoothed_unless_that_is_switched_off() -> None:
    """An option; answers and refusals are always smoothed."""
    clock = FakeClock()

    def thought() -> Any:
        fields = {"type": "response.reasoning_text.delta", "item_id": "r", "output_index": 0, "content_index": 0}
        return RawResponsesStreamEvent(build_event({**fields, "delta": "a b c", "sequence_number": 1}))

    for reasoning, count in ((True, 3), (False, 1)):
        source = Source(clock, [(0.0, thought())])
        pieces = [piece async for piece in smooth(source, reasoning=reasoning, clock=clock, rate=20.0)]
        assert all(isinstance(piece.data, ResponseReasoningTextDeltaEvent) for piece in pieces)
        assert text_of(pieces) == "a b c"
        assert (len(pieces) > 1) == (count > 1)


async def test_a_burst_comes_evenly_and_in_time() -> None:
    """Bursts of ten words each half second come out in steps without a pause, once the pauses are known."""
    clock = FakeClock()
    source = Source(clock, [(burst * 0.5, raw(" word" * 10, burst + 1)) for burst in range(10)])
    start = clock.now()
    times = [clock.now() - start async for _ in smooth(source, clock=clock, max_lag_s=1.0)]
    assert max(later - earlier for earlier, later in itertools.pairwise(times) if later > 1.5) < 0.08
    assert times[-1] <= 4.5 + 1.0


async def test_an_error_comes_after_the_text_before_it() -> None:
    """What is held is handed on before the source's error, which is the source's own."""
    clock = FakeClock()
    error = ValueError("gone")
    smoothed = smooth(Source(clock, [(0.0, raw("a b c d"))], error), clock=clock)
    pieces = []
    with pytest.raises(ValueError, match="gone") as caught:  # noqa: PT012
        async for piece in smoothed:
            pieces.append(piece)
    assert caught.value is error
    assert text_of(pieces) == "a b c d"
    with pytest.raises(StopAsyncIteration):
        await anext(smoothed)


async def test_a_wait_that_is_given_up_loses_nothing() -> None:
    """`asyncio.wait_for(anext(...))` with a time-out each millisecond of the way, over a source that is a generator."""
    clock = FakeClock()
    text = "The quick brown fox jumps over the lazy dog."

    async def generator() -> AsyncIterator[Any]:
        for number, character in enumerate(text):
            await asyncio.sleep(0)
            yield raw(character, number + 1)
            if number % 9 == 0:
                await clock.sleep(0.3)

    smoothed = smooth(generator(), clock=clock)
    pieces: list[Any] = []
    given_up = 0
    while True:
        try:
            async with clock.timeout(0.01):
                pieces.append(await anext(smoothed))
        except TimeoutError:
            given_up += 1
        except StopAsyncIteration:
            break
    assert given_up > 10
    assert text_of(pieces) == text


async def test_a_slow_consumer_gets_larger_pieces() -> None:
    """Who takes half a second for each piece is not shown the past: what is due comes together."""
    clock = FakeClock()
    source = Source(clock, [(number * 0.05, raw(" word", number + 1)) for number in range(100)])
    pieces = []
    async for piece in smooth(source, clock=clock):
        pieces.append(piece)
        await clock.sleep(0.5)
    assert text_of(pieces) == " word" * 100
    assert len(pieces) < 20


async def test_what_is_held_has_a_bound() -> None:
    """A source that never pauses is not read without end: what is held goes out and the source waits meanwhile."""
    clock = FakeClock()
    source = Source(clock, [(0.0, raw(" word", number + 1)) for number in range(20_000)])
    smoothed = smooth(source, clock=clock, max_lag_s=60.0, rate=0.1)
    await anext(smoothed)
    await anext(smoothed)
    await clock.settle()
    assert source.asked < 9_000
    await smoothed.aclose()
    assert source.closed == 1


async def test_other_events_are_not_read_ahead() -> None:
    """Without text that is held, the source is asked when the consumer asks."""
    clock = FakeClock()
    source = Source(clock, [(0.0, other(number)) for number in range(5)])
    smoothed = smooth(source, clock=clock)
    for count in range(1, 4):
        await anext(smoothed)
        await clock.settle()
        assert source.asked == count


async def test_texts_that_alternate_go_through_in_order() -> None:
    """Text of another part ends the holding of the one before it."""
    clock = FakeClock()
    steps = [(0.0, raw(f"{number} x", number, item=f"m{number % 2}")) for number in range(1, 7)]
    pieces = [piece async for piece in smooth(Source(clock, steps), clock=clock)]
    assert text_of(pieces) == "".join(event.data.delta for _, event in steps)  # type: ignore[union-attr]
    assert [piece.seq for piece in pieces] == sorted(piece.seq for piece in pieces)


async def test_one_consumer_at_a_time() -> None:
    """A second wait while one goes on is refused, and disturbs nothing."""
    clock = FakeClock(autojump=False)
    smoothed = smooth(Source(clock, [(1.0, raw("a"))]), clock=clock)
    first = asyncio.create_task(anext(smoothed))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(UserError, match="somebody waits"):
        await anext(smoothed)
    await clock.advance(1.0)
    assert (await first).data.delta == "a"


async def test_aclose_wakes_who_waits() -> None:
    """Closed by another task, a wait for text ends as at the end of the stream."""
    clock = FakeClock(autojump=False)
    source = Source(clock, [(0.0, raw("a b")), (50.0, raw("c"))])
    smoothed = smooth(source, clock=clock)
    await anext(smoothed)
    waiting = asyncio.create_task(anext(smoothed, None))  # type: ignore[arg-type]
    await clock.settle()
    await smoothed.aclose()
    assert await waiting is None
    assert source.closed == 1


@pytest.mark.parametrize(
    "options", [{"by": "words"}, {"rate": 0}, {"rate": float("nan")}, {"max_lag_s": -1.0}, {"max_lag_s": float("inf")}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """With the value in the message."""
    with pytest.raises(UserError, match=str(next(iter(options.values())))):
        smooth(Source(FakeClock(), []), **options)


def test_a_coroutine_is_no_source() -> None:
    """The message says what it is."""

    async def not_a_generator() -> None: ...

    with pytest.raises(UserError, match="coroutine: an `async def` without a `yield`"):
        smooth(not_a_generator())  # type: ignore[arg-type]


# Over runs.


class Desk:
    """A run that says something, calls a tool that takes long, and says more."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.model = ScriptedModel(
            [
                Turn([Message("Let me have a look at that for you."), ToolCall("slow")], every_s=0.03),
                say("It is on its way. " * 20, every_s=0.02),
            ],
            clock=self.clock,
        )

        @function_tool
        async def slow() -> str:
            await self.clock.sleep(5.0)
            return "ok"

        self.result = Runner.run_streamed(
            Agent(name="Ann", model=self.model, tools=[slow]), "hi", run_config=RunConfig(clock=self.clock, **config)
        )

    async def status(self) -> str:
        return [event async for event in self.result.events()][-1].data.status


@pytest.mark.parametrize("by", ["word", "line", "sentence", "character"])
async def test_a_whole_run_says_the_same(by: Any) -> None:
    """Smoothed and plain, the text is the same and the other events are the same objects in the same places."""
    desk = Desk()
    smoothed = [event async for event in smooth(desk.result.stream_events(), by=by, clock=desk.clock)]
    plain = [event async for event in desk.result.stream_events()]

    def outline(events: list[Any]) -> list[Any]:
        """The texts between the other events, and those."""
        found: list[Any] = [""]
        for event in events:
            if isinstance(getattr(event, "data", None), ResponseTextDeltaEvent):
                found[-1] += event.data.delta
            else:
                found += [(event.seq, event.type), ""]
        return found

    assert outline(smoothed) == outline(plain)
    assert await desk.status() == "completed"


async def test_numbered_events_of_a_run_are_smoothed_too() -> None:
    """`result.events()`, to run.end; the cursor is the last seq."""
    desk = Desk()
    smoothed = smooth(desk.result.events(), clock=desk.clock)
    events = [event async for event in smoothed]
    assert events[-1].kind == "run.end"
    assert smoothed.cursor == events[-1].seq
    assert text_of([event for event in events if event.kind == "model"]).endswith("It is on its way. ")


@pytest.mark.parametrize("texts", [0, 1, 4])
async def test_break_abandons_the_run(texts: int) -> None:
    """Also in the middle of a text, when the source is being read ahead."""
    desk = Desk()
    async for event in smooth(desk.result.stream_events(), clock=desk.clock):
        texts -= isinstance(getattr(event, "data", None), ResponseTextDeltaEvent)
        if texts <= 0:
            break
    await desk.clock.settle()
    assert desk.result.is_complete
    assert await desk.status() == "cancelled"


async def test_aclose_abandons_the_run_and_returns_after_its_end() -> None:
    """As the reader's own aclose() does; a second one does nothing."""
    desk = Desk()
    smoothed = smooth(desk.result.stream_events(), clock=desk.clock)
    async for event in smoothed:
        if isinstance(getattr(event, "data", None), ResponseTextDeltaEvent):
            break
    await smoothed.aclose()
    assert desk.result.is_complete
    await smoothed.aclose()
    assert [event async for event in smoothed] == []
    assert await desk.status() == "cancelled"


async def test_a_wait_that_is_given_up_does_not_abandon_the_run() -> None:
    """Only leaving does; the error that was kept holds nothing open."""
    desk = Desk()
    smoothed = smooth(desk.result.stream_events(), clock=desk.clock)
    kept: list[BaseException] = []
    count = 0
    while True:
        try:
            async with desk.clock.timeout(0.005):
                await anext(smoothed)
            count += 1
        except TimeoutError as error:
            kept.append(error)
        except StopAsyncIteration:
            break
    assert count > 20
    assert len(kept) > 20
    assert await desk.status() == "completed"


async def test_an_error_that_is_kept_does_not_keep_the_run() -> None:
    """The traceback of a time-out does not hold the iterator."""
    desk = Desk()
    kept: list[BaseException] = []

    async def give_up() -> None:
        smoothed = smooth(desk.result.stream_events(), clock=desk.clock)
        while not kept:
            try:
                async with desk.clock.timeout(1.0):
                    await anext(smoothed)
            except TimeoutError as error:
                kept.append(error)
                del smoothed
                return

    await give_up()
    gc.collect()
    await desk.clock.settle()
    assert await desk.status() == "cancelled"


async def test_after_cancel_what_was_said_comes_and_the_end() -> None:
    """Text that is in the history is shown; nothing comes after the cancel."""
    desk = Desk()
    texts: list[str] = []
    async for event in smooth(desk.result.stream_events(), clock=desk.clock):
        if isinstance(getattr(event, "data", None), ResponseTextDeltaEvent):
            texts.append(event.data.delta)
            if len(texts) == 4:
                desk.result.cancel()
    assert await desk.status() == "cancelled"
    assert desk.result.new_items[0].raw_item.content[0].text.startswith("".join(texts))  # type: ignore[union-attr]


async def test_the_pause_of_the_turn_holds() -> None:
    """Who is handed the last event of a turn can still cancel before the next model call."""
    desk = Desk()
    async for event in smooth(desk.result.stream_events(), clock=desk.clock):
        if getattr(event, "name", None) == "tool_output":
            desk.result.cancel()
    assert len(desk.model.calls) == 1


async def test_break_while_the_bound_is_reached_abandons_the_run() -> None:
    """The reading ahead waits for room then, and holds nothing all the same."""
    clock = FakeClock()
    model = ScriptedModel([Turn([Message("word " * 20_000)])], clock=clock)
    result = Runner.run_streamed(Agent(name="Ann", model=model), "hi", run_config=RunConfig(clock=clock))
    seen = 0
    async for event in smooth(result.stream_events(), clock=clock, rate=0.1, max_lag_s=1000.0):
        seen += isinstance(getattr(event, "data", None), ResponseTextDeltaEvent)
        if seen == 2:
            break
    await clock.settle()
    assert result.is_complete


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0, max_value=0.5),
            st.one_of(st.none(), st.text(alphabet="ab .\n你。👩\u200d\u0301[]()`", min_size=1, max_size=12)),
        ),
        max_size=30,
    ),
    st.sampled_from(["word", "line", "sentence", "character"]),
    st.sampled_from([0.0, 0.2, 1.0]),
)
def test_any_stream_keeps_its_text_its_order_and_its_time(
    steps: list[tuple[float, str | None]], by: Any, max_lag_s: float
) -> None:
    """Text joined is unchanged between other events, those keep their places and wait for nothing, none is late."""

    async def check() -> None:
        clock = FakeClock()
        now, timed = 0.0, list[tuple[float, Any]]()
        for number, (pause, text) in enumerate(steps):
            now += pause
            timed.append((now, other(number) if text is None else raw(text, number)))
        start = clock.now()
        came: list[tuple[Any, float]] = []
        for at, event in timed:
            came += [(character, at) for character in getattr(event.data, "delta", None) or [id(event)]]
        went: list[tuple[Any, float]] = []
        async for event in smooth(Source(clock, timed), by=by, max_lag_s=max_lag_s, clock=clock):
            at = clock.now() - start
            went += [(character, at) for character in getattr(event.data, "delta", None) or [id(event)]]
        assert [what for what, _ in came] == [what for what, _ in went]
        for (what, arrived_at), (_, shown_at) in zip(came, went, strict=True):
            lag_s = shown_at - arrived_at
            assert lag_s <= (max_lag_s if isinstance(what, str) else 0) + 1e-3

    asyncio.run(check())


def test_events_of_others_are_copied_by_their_means() -> None:
    """Anything with these attributes will do: here plain dataclasses."""

    @dataclasses.dataclass
    class Delta:
        delta: str
        type: str = "response.output_text.delta"

    @dataclasses.dataclass
    class Mine:
        data: Delta
        extra: int
        type: str = "raw_response_event"

    async def check() -> list[Any]:
        clock = FakeClock()
        return [piece async for piece in smooth(Source(clock, [(0.0, Mine(Delta("a b"), 5))]), clock=clock)]

    assert asyncio.run(check()) == [Mine(Delta("a"), 5), Mine(Delta(" b"), 5)]
