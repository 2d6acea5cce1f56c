"""log/memory: whatever is written is read again, from every cursor, at any pace, packed or not, until it is too old."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai import BaseModel
from openai.types.responses import ResponseTextDeltaEvent

from runstream.errors import CursorExpired, UserError
from runstream.events.event import ItemAdded, RunEnd
from runstream.events.model_event import build_event
from runstream.log.follow import Follower
from runstream.log.memory import MemoryLog

TEXT = "response.output_text.delta"
LOGPROB = {"token": "a", "logprob": -0.5, "top_logprobs": []}


def text_delta(delta: Any, number: Any = 0, item: Any = "msg_1", part: Any = 0, **more: Any) -> dict[str, Any]:
    place = {"item_id": item, "output_index": 0, "content_index": part}
    return {"type": TEXT, **place, "delta": delta, "sequence_number": number, "logprobs": [], **more}


def seen(event: Any) -> tuple[Any, ...]:
    """Everything of an event that a reader can see, but its frame, which is kept for a while only."""
    data = event.data
    if isinstance(data, BaseModel):
        fields_set = data.model_fields_set & type(data).model_fields.keys()
        data = (type(data), data.model_dump(warnings=False), data.to_dict(warnings=False), fields_set)
    envelope = (event.run_id, event.seq, event.at, event.kind, event.agent, event.attempt, event.path)
    return (*envelope, data, event.live)


def read_all(log: MemoryLog, after: int = 0) -> list[Any]:
    follower = Follower(log, after)
    events: list[Any] = []
    while (event := follower.next_nowait()) is not None:
        events.append(event)
    return events


# What may be odd about a delta: values of fields, fields that are left out.
_CHANGES: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": [LOGPROB]},
    "null logprobs": {"logprobs": None},
    "extra": {"extra": [1]},
    "null number": {"sequence_number": None},
    "null delta": {"delta": None},
    "odd number": {"sequence_number": "7"},
    "obfuscation": {"obfuscation": "xyz"},
}
_LEFT_OUT = {"no logprobs": "logprobs", "no number": "sequence_number", "no item": "item_id", "no delta": "delta"}

# One write: either an event of another kind, or a batch of model events with what their envelope has.
_PIECES = st.sampled_from(["", "a", "Hello", " world", "🙂", "日本", "e\u0301", "\n", "\x00", "x" * 50])
_FIELDS = st.tuples(
    _PIECES,
    st.sampled_from(["msg_1", "msg_1", "msg_1", "msg_2"]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([*([None] * 12), *_CHANGES, *_LEFT_OUT, "arguments", "created", "unknown"]),
    st.sampled_from([1, 1, 1, 1, 1, 0, 5]),
)
_BATCHES = st.lists(_FIELDS, min_size=1, max_size=30)
_ENVELOPES = st.tuples(
    st.sampled_from(["Desk", "Desk", "Other", None]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([(), (), ("call",)]),
    st.booleans(),  # whether the model gives the frames that its events came in
)
_WRITES = st.lists(st.one_of(st.tuples(_ENVELOPES, _BATCHES), st.just("item")), max_size=25)


def build(piece: str, item: str, part: int, change: str | None, number: int) -> tuple[Any, bytes]:
    """An event, and the JSON that it came in."""
    if change == "arguments":
        name = "response.function_call_arguments.delta"
        fields = {"type": name, "item_id": item, "output_index": 1, "delta": piece, "sequence_number": number}
    elif change == "created":
        fields = {"type": "response.created", "response": {"id": piece, "output": []}, "sequence_number": number}
    elif change == "unknown":
        fields = {"type": "server.progress", "percent": number}
    else:
        fields = {**text_delta(piece, number, item, part), **_CHANGES.get(change or "", {})}
        if change in _LEFT_OUT:
            del fields[_LEFT_OUT[change]]
    return build_event(copy.deepcopy(fields)), json.dumps(fields).encode()


def write(log: MemoryLog, writes: list[Any], *, end: bool = True) -> list[tuple[Any, ...]]:
    """Write all this; return what each event is to look like for ever."""
    expected: list[tuple[Any, ...]] = []
    at, number = 1000.0, 0
    for entry in writes:
        at += 0.125
        if entry == "item":
            data = ItemAdded("tool_output", "tool_call_output_item", {"output": len(expected)})
            expected.append(seen(log.append("item", at, "Desk", data, live=object())))
            continue
        (agent, attempt, path, framed), batch = entry
        events: list[Any] = []
        frames: list[bytes | None] = []
        for piece, item, part, change, step in batch:
            number += step
            data, frame = build(piece, item, part, change, number)
            events.append(data)
            frames.append(frame if framed else None)
        first = len(expected) + 1
        for index, data in enumerate(events):
            stand_in = SimpleNamespace(
                run_id=log.run_id, seq=first + index, at=at, kind="model", agent=agent, attempt=attempt, path=path
            )
            expected.append(seen(SimpleNamespace(**vars(stand_in), data=copy.deepcopy(data), live=None)))
        log.extend_model(at, agent, attempt, path, events, frames)
    if end:
        expected.append(seen(log.append("run.end", at, "Desk", RunEnd("completed"))))
    return expected


@given(writes=_WRITES)
@example(writes=[((None, 1, (), True), [("a", "msg_1", 0, None, 1)] * 30)] * 3)
def test_every_cursor_reads_what_was_written(writes: list[Any]) -> None:
    """From each cursor on, a reader gets the events after it: same numbers, kinds, data and times, each once."""
    log = MemoryLog("run_1")
    expected = write(log, writes)
    assert log.last_seq == len(expected)
    for after in range(len(expected) + 1):
        assert [seen(event) for event in read_all(log, after)] == expected[after:]


@given(writes=_WRITES, pace=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_readers_of_any_pace_see_the_same(writes: list[Any], pace: list[int]) -> None:
    """Readers that read while the log grows, each at its own pace, see what a late reader sees."""
    log = MemoryLog("run_1")
    followers = [Follower(log) for _ in range(3)]
    got: list[list[Any]] = [[], [], []]
    expected: list[Any] = []
    for step, entry in enumerate(writes):
        before = len(expected)
        expected += _renumbered(write(log, [entry], end=False), before)
        for which, follower in enumerate(followers):
            for _ in range(pace[(step + which) % len(pace)] * which):
                event = follower.next_nowait()
                if event is not None:
                    got[which].append(event)
    for which, follower in enumerate(followers):
        while (event := follower.next_nowait()) is not None:
            got[which].append(event)
        assert [event.seq for event in got[which]] == list(range(1, log.last_seq + 1))
        assert [seen(event)[3:] for event in got[which]] == [seen(event)[3:] for event in read_all(log)]
        assert [event.data for event in got[which]] == [event.data for event in read_all(log)]


def _renumbered(events: list[tuple[Any, ...]], before: int) -> list[tuple[Any, ...]]:
    return [(event[0], event[1] + before, *event[2:]) for event in events]


def test_frames_are_there_for_readers_that_keep_up() -> None:
    """A reader that keeps up finds the bytes that an event came in; those of deltas go when they are packed."""
    log = MemoryLog("run_1")
    for number in range(100):
        fields = text_delta("x", number) if number % 50 else {"type": "server.progress", "percent": number}
        frame = json.dumps(fields).encode()
        log.extend_model(1.0, "Desk", 1, (), [build_event(fields)], [frame])
        (newest,) = log.read(log.last_seq - 1)
        assert newest.frame == frame
    assert [event.frame is None for event in read_all(log)[:60]] == [number % 50 != 0 for number in range(60)]


@pytest.mark.parametrize("deltas", [100, 1500])
@pytest.mark.parametrize("repeats", [True, False])
def test_what_ends_an_answer_repeats_its_text(deltas: int, repeats: bool) -> None:
    """The frames come back as they came, whether they repeat the text of the deltas or not; it is kept once."""
    log = MemoryLog("run_1")
    words = [f'"{number}" \u00e9\n' for number in range(deltas)]
    for number, word in enumerate(words):
        log.extend_model(1.0, "Desk", 1, (), [build_event(text_delta(word, number))], [b"{}"])
    text = "".join(words if repeats else words[:50])
    done = {"type": "response.output_text.done", "item_id": "msg_1", "output_index": 0, "content_index": 0}
    ends = [
        {**done, "sequence_number": deltas, "text": text, "logprobs": []},
        {"type": "server.idle"},
        {"type": "server.told", "twice": [text, text]},
    ]
    frames = [msgspec.json.encode(fields) for fields in ends]
    tracemalloc.start()
    for fields, frame in zip(ends, frames, strict=True):
        log.extend_model(2.0, "Desk", 1, (), [build_event(copy.deepcopy(fields))], [bytes(bytearray(frame))])
    del fields, frame
    assert [event.frame for event in log.read(deltas)] == frames  # and they are packed
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    late = read_all(log)[deltas:]
    assert [event.frame for event in late] == frames
    assert [event.data for event in late] == [build_event(fields) for fields in ends]
    if repeats:
        assert kept < 2.2 * len(frames[0]) + 8000  # `twice` has it a second time


def test_a_packed_response_keeps_its_request_id() -> None:
    """The id came with the HTTP headers, not in the frame: early and late readers find it in the same place."""
    log = MemoryLog("run_1")
    fields = {"type": "response.completed", "sequence_number": 1, "response": {"id": "resp_1", "output": []}}
    event: Any = build_event(json.loads(json.dumps(fields)))
    event.response._request_id = "req_1"
    log.extend_model(1.0, "Desk", 1, (), [event], [json.dumps(fields).encode()])
    for number in range(100):
        log.extend_model(1.0, "Desk", 1, (), [build_event(text_delta("x", number))], [b"{}"])
    (late, *_) = log.read(0)
    assert late.data is not event
    assert late.data.response._request_id == "req_1"


@pytest.mark.parametrize("after", [0, 1, 700, 1299, 1300])
def test_joined_reading_gives_the_same_text_in_fewer_events(after: int) -> None:
    """Whoever wants the text need not have every delta built: each event has the seq of its last delta."""
    log = MemoryLog("run_1")
    for number in range(1300):
        log.extend_model(1.0, "Desk", 1, (), [build_event(text_delta(f"{number} ", number))], [None])
    events: list[Any] = []
    cursor = after
    while cursor < log.last_seq:
        events += log.read_joined(cursor)
        cursor = events[-1].seq
    assert "".join(event.data.delta for event in events) == "".join(f"{number} " for number in range(after, 1300))
    assert len(events) < 80
    assert all(event.data.sequence_number == event.seq - 1 for event in events)


def test_readers_without_delay_get_the_same_object() -> None:
    """What is not yet packed is one object for all readers: a second reader costs no second decode."""
    log = MemoryLog("run_1")
    write(log, [((None, 1, (), True), [("a", "msg_1", 0, None, 1)] * 3)])
    assert [first is second for first, second in zip(read_all(log), read_all(log), strict=True)] == [True] * 4


def test_what_readers_hold_does_not_change() -> None:
    """What one reader does to the list or the events that it was given does not show up at another."""
    log = MemoryLog("run_1")
    expected = write(log, [((None, 1, (), True), [("a", "msg_1", 0, None, 1)] * 200)])
    for after in (0, log.last_seq - 1):
        read: Any = log.read(after)
        if isinstance(read, list):
            read.clear()
    assert [seen(event) for event in read_all(log)] == expected


class _OwnDelta:
    """A user's model may yield events of its own making."""

    type = TEXT
    delta = "mine"

    def __init__(self, number: int) -> None:
        self.item_id, self.output_index, self.content_index, self.sequence_number = "msg_1", 0, 0, number
        self.logprobs: list[Any] = []


class _Subclass(ResponseTextDeltaEvent):
    note: str = "mine"


@pytest.mark.parametrize(
    "make",
    [
        _OwnDelta,
        lambda number: _Subclass.model_validate(text_delta("x", number)),
        lambda number: SimpleNamespace(type=TEXT, delta="x", item_id="msg_1", sequence_number=number),
    ],
    ids=["class", "subclass", "namespace"],
)
def test_events_of_other_classes_stay_what_they_are(make: Any) -> None:
    """An event that calls itself a text delta but is not the official object is kept as it is."""
    log = MemoryLog("run_1")
    events = [make(number) if number % 3 else build_event(text_delta("x", number)) for number in range(60)]
    for event in events:
        log.extend_model(1.0, "Desk", 1, (), [event], [None])
    log.append("run.end", 1.0, "Desk", RunEnd("completed"))
    for written, read in zip(events, read_all(log), strict=False):
        assert type(read.data) is type(written)
        assert read.data.delta == written.delta


@given(writes=_WRITES, max_events=st.integers(1, 60))
def test_the_oldest_go_beyond_the_bound(writes: list[Any], max_events: int) -> None:
    """At least `max_events` are kept; an older cursor is told the first that is left, and reads on from there."""
    log = MemoryLog("run_1", max_events=max_events)
    expected = write(log, writes)
    assert log.last_seq - log.first_seq + 1 >= min(max_events, log.last_seq)
    for after in range(len(expected) + 1):
        if after + 1 >= log.first_seq:
            assert [seen(event) for event in read_all(log, after)] == expected[after:]
            continue
        with pytest.raises(CursorExpired) as caught:
            log.read(after)
        assert (caught.value.after, caught.value.first_seq) == (after, log.first_seq)
        assert f"after={log.first_seq - 1}" in str(caught.value)
        assert [seen(event) for event in read_all(log, caught.value.first_seq - 1)] == expected[log.first_seq - 1 :]


def test_what_is_kept_is_bounded() -> None:
    """A log that may hold 100 events does not hold many times as many, however long it runs."""
    log = MemoryLog("run_1", max_events=100)
    for number in range(20_000):
        log.extend_model(1.0, "Desk", 1, (), [build_event(text_delta("x", number))], [None])
        if number % 7 == 0:
            log.append("item", 1.0, "Desk", ItemAdded("n", "t", {}))
        assert log.last_seq - log.first_seq < 100 + 1200
    assert log.first_seq > 1


def test_a_reader_in_the_middle_of_what_goes_is_told() -> None:
    """A slow reader whose next event has gone gets CursorExpired, and its cursor stays where it was."""
    log = MemoryLog("run_1", max_events=1)
    write(log, ["item"], end=False)
    follower = Follower(log)
    first = follower.next_nowait()
    assert first is not None
    write(log, [((None, 1, (), True), [("a", "msg_1", 0, "arguments", 1)] * 30)] * 100)
    assert log.first_seq > 2
    with pytest.raises(CursorExpired):
        follower.next_nowait()
    assert follower.cursor == 1


def test_a_bound_below_one_is_refused() -> None:
    """max_log_events=0 is a mistake of the program."""
    with pytest.raises(UserError, match="max_log_events must be at least 1, not 0"):
        MemoryLog("run_1", max_events=0)


def test_run_end_seals() -> None:
    """After run.end nothing can be written, and nothing was."""
    log = MemoryLog("run_1")
    assert not log.sealed
    log.append("run.end", 1.0, None, RunEnd("completed"))
    assert log.sealed
    with pytest.raises(RuntimeError, match=r"'item' cannot be written after run\.end"):
        log.append("item", 1.0, None, None)
    with pytest.raises(RuntimeError, match="sealed"):
        log.append("run.end", 1.0, None, RunEnd("completed"))
    with pytest.raises(RuntimeError, match="sealed"):
        log.extend_model(1.0, None, 1, (), [build_event(text_delta("x"))], [None])
    assert log.last_seq == 1


def test_an_empty_log_reads_as_nothing() -> None:
    """Before the first event there is nothing to read, and an empty batch writes nothing."""
    log = MemoryLog("run_1")
    assert list(log.read(0)) == []
    log.extend_model(1.0, None, 1, (), [], [])
    assert (log.last_seq, list(log.read(0))) == (0, [])


def test_an_empty_batch_after_many_events() -> None:
    """An empty batch changes nothing for any reader."""
    log = MemoryLog("run_1")
    expected = write(log, [((None, 1, (), True), [("a", "msg_1", 0, None, 1)] * 80)], end=False)
    log.extend_model(1.0, None, 1, (), [], [])
    log.extend_model(1.0, None, 1, (), [], [])
    assert list(log.read(log.last_seq)) == []
    assert [seen(event) for event in read_all(log)] == expected


def test_frames_and_events_must_pair() -> None:
    """A batch with fewer frames than events is a bug of the model."""
    with pytest.raises(ValueError, match="shorter"):
        MemoryLog("run_1").extend_model(1.0, None, 1, (), [build_event(text_delta("x"))], [])


async def test_a_wait_ends_with_the_next_event() -> None:
    """Each of several readers that wait is woken by one append, a batch, or run.end, and not before."""
    log = MemoryLog("run_1")
    writes: list[Any] = [
        lambda: log.append("item", 1.0, None, None),
        lambda: log.extend_model(1.0, None, 1, (), [build_event(text_delta("x"))], [None]),
        lambda: log.append("run.end", 1.0, None, RunEnd("completed")),
    ]
    for make in writes:
        tasks = [asyncio.ensure_future(_waited(log, log.last_seq)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        make()
        assert await asyncio.gather(*tasks) == [log.last_seq] * 3


async def _waited(log: MemoryLog, after: int) -> int:
    await log.wait(after)
    return log.last_seq


async def test_no_wait_where_there_is_something() -> None:
    """A cursor behind the newest event, or any cursor of a sealed log, does not wait."""
    log = MemoryLog("run_1")
    log.append("item", 1.0, None, None)
    assert log.wait(0).done()
    log.append("run.end", 1.0, None, RunEnd("completed"))
    assert log.wait(0).done()
    assert log.wait(log.last_seq).done()


async def test_a_cancelled_wait_disturbs_nobody() -> None:
    """A reader that gives up waiting leaves others waiting, and can wait again."""
    log = MemoryLog("run_1")
    patient = asyncio.ensure_future(_waited(log, 0))
    hasty = asyncio.ensure_future(_waited(log, 0))
    await asyncio.sleep(0)
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    assert not patient.done()
    again = asyncio.ensure_future(_waited(log, 0))
    await asyncio.sleep(0)
    log.append("item", 1.0, None, None)
    assert await asyncio.gather(patient, again) == [1, 1]


async def test_cancelled_waits_do_not_pile_up() -> None:
    """A reader that polls (a wait with a time limit, over and over) beside ones that wait leaves nothing behind."""
    log = MemoryLog("run_1")
    patient = [asyncio.ensure_future(_waited(log, 0)) for _ in range(3)]
    await asyncio.sleep(0)
    for _ in range(1000):
        hasty = asyncio.ensure_future(_waited(log, 0))
        await asyncio.sleep(0)
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)
    assert len(log._waiters) < 20
    log.append("item", 1.0, None, None)
    await asyncio.gather(*patient)
    assert log._waiters == []


async def test_a_wait_that_is_cancelled_as_it_is_woken() -> None:
    """Being woken and cancelled in one turn of the loop breaks nothing."""
    log = MemoryLog("run_1")
    hasty = asyncio.ensure_future(_waited(log, 0))
    await asyncio.sleep(0)
    log.append("item", 1.0, None, None)
    hasty.cancel()
    await asyncio.gather(hasty, return_exceptions=True)
    log.append("item", 1.0, None, None)
    assert log._waiters == []


def test_a_log_is_waited_on_in_one_loop() -> None:
    """While readers of one loop wait, a wait in another loop is refused: it could not be woken safely."""
    log = MemoryLog("run_1")
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        waiting = first.create_task(_waited(log, 0))
        first.run_until_complete(asyncio.sleep(0))
        with pytest.raises(UserError, match="another event loop"):
            second.run_until_complete(_waited(log, 0))
        log.append("run.end", 1.0, None, RunEnd("completed"))
        assert first.run_until_complete(waiting) == 1
        assert second.run_until_complete(_waited(log, 0)) == 1
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("per_read", [1, 10])
@pytest.mark.parametrize(
    "kind", [TEXT, "response.reasoning_summary_text.delta", "response.function_call_arguments.delta"]
)
def test_many_deltas_take_little_memory(kind: str, per_read: int) -> None:
    """A delta in the log takes less than 75 bytes, so that 200,000 of them keep less than 15 MB."""
    count = 10_000
    log = MemoryLog("run_1")
    gc.collect()
    tracemalloc.start()
    try:
        for start in range(0, count, per_read):
            fields: list[dict[str, Any]] = [
                {
                    "type": kind,
                    "item_id": "i",
                    "output_index": 0,
                    "delta": f"word{number % 100} ",
                    "sequence_number": number,
                }
                for number in range(start, start + per_read)
            ]
            log.extend_model(1.0 + start, "Desk", 1, (), [build_event(each) for each in fields], [b"{}"] * per_read)
        gc.collect()
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.last_seq == count
    assert kept_bytes < 75 * count
    assert log.read(4_999)[0].data.delta == "word99 "


def test_a_log_may_begin_in_the_middle() -> None:
    """A log that begins after a seq goes on from it, and says that what came before is not here."""
    log = MemoryLog("run_1", after=41)
    assert (log.first_seq, log.last_seq, list(log.read(41))) == (42, 41, [])
    assert log.append("run.end", 1.0, None, RunEnd("completed")).seq == 42
    with pytest.raises(CursorExpired):
        log.read(40)


def test_events_of_another_log_are_taken_in_as_they_are() -> None:
    """`extend` keeps the events themselves, wakes readers, seals at the end, and refuses what does not follow."""
    source = MemoryLog("run_1")
    for number in range(300):
        source.append("item", float(number), "Desk", ItemAdded("tool_called", "tool_call_item", {"n": number}))
    source.append("run.end", 301.0, None, RunEnd("completed"))
    copied = MemoryLog("run_1")
    after = 0
    while after < source.last_seq:
        events = list(source.read(after))
        copied.extend(events)
        after = events[-1].seq
    assert [seen(event) for event in _all(copied)] == [seen(event) for event in _all(source)]
    assert copied.sealed
    with pytest.raises(RuntimeError, match="does not follow"):
        MemoryLog("run_1").extend(list(source.read(5))[:1])


def test_what_is_pending_is_every_event_once_in_order() -> None:
    """With `pending` set, each event that is written is there as well, until whoever keeps them takes them out."""
    log = MemoryLog("run_1")
    log.append("item", 0.0, "Desk", ItemAdded("tool_called", "tool_call_item", {}))
    log.pending = []
    log.extend_model(1.0, "Desk", 1, (), [], [])
    log.extend_model(1.0, "Desk", 1, (), [build_event(text_delta("a")), build_event(text_delta("b", 1))], [None, None])
    log.append("run.end", 2.0, None, RunEnd("completed"))
    assert [event.seq for event in log.pending] == [2, 3, 4]


def _all(log: MemoryLog) -> list[Any]:
    events: list[Any] = []
    after = log.first_seq - 1
    while after < log.last_seq:
        events += log.read(after)
        after = events[-1].seq
    return events
