"""log/nested: a part of another log, read and waited for by itself."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runstream.events.event import AgentStart, RunEnd, RunStart
from runstream.events.model_event import build_event
from runstream.log.follow import Follower
from runstream.log.memory import MemoryLog
from runstream.log.nested import NestedLog


def delta(text: str, number: int) -> Any:
    return build_event(
        {
            "type": "response.output_text.delta",
            "item_id": "m",
            "output_index": 0,
            "content_index": 0,
            "delta": text,
            "sequence_number": number,
            "logprobs": [],
        }
    )


def write(log: MemoryLog, *texts: str) -> None:
    log.extend_model(1.0, "A", 1, (), [delta(text, number) for number, text in enumerate(texts)], [None] * len(texts))


def drained(log: MemoryLog, after: int = 0) -> list[Any]:
    follower = Follower(log, after)
    return list(iter(follower.next_nowait, None))


def test_events_go_into_the_whole_log() -> None:
    """Under the path of the call, with the whole log's seqs; a nested log's nested log has both calls in its path."""
    whole = MemoryLog("run")
    whole.append("agent.start", 1.0, "A", AgentStart())
    outer = NestedLog(whole, "c1")
    inner = NestedLog(outer, "c2")
    outer.append("agent.start", 1.0, "B", AgentStart())
    write(inner, "x", "y")
    write(outer, "z")
    assert [(event.seq, event.path) for event in drained(whole)] == [
        (1, ()),
        (2, ("c1",)),
        (3, ("c1", "c2")),
        (4, ("c1", "c2")),
        (5, ("c1",)),
    ]
    assert [event.seq for event in drained(outer)] == [2, 5]
    assert [event.seq for event in drained(inner)] == [3, 4]
    assert (outer.last_seq, inner.last_seq, outer.next_seq) == (5, 4, 6)


def test_two_at_once_read_their_own_from_what_is_packed() -> None:
    """However the events are mixed and packed, each reads its own, one by one or joined."""
    whole = MemoryLog("run")
    logs = [NestedLog(whole, name) for name in ("a", "b")]
    for number in range(300):
        write(logs[number % 2], f"{number} ")
        write(whole, "-")
    for index, log in enumerate(logs):
        assert "".join(event.data.delta for event in drained(log)) == "".join(f"{n} " for n in range(index, 300, 2))
        after, text = 0, ""
        while after < log.last_seq:
            for event in log.read_joined(after):
                after, text = event.seq, text + event.data.delta
        assert text == "".join(f"{n} " for n in range(index, 300, 2))


lanes = st.integers(0, 4)
writes = st.lists(st.tuples(lanes, st.sampled_from(["text", "text", "text", "other part", "rare"])), max_size=300)


@given(writes, st.data())
def test_however_agents_are_mixed_everything_is_read_again(written: list[tuple[int, str]], data: st.DataObject) -> None:
    """From any seq on the log gives what was written, whoever spoke when, packed together or not."""
    whole = MemoryLog("run")
    logs = [whole, *(NestedLog(whole, f"c{lane}") for lane in range(1, 5))]
    expected: list[Any] = []
    for number, (lane, kind) in enumerate(written):
        if kind == "rare":
            logs[lane].append("agent.start", float(number), "B", AgentStart())
            expected.append(("agent.start", logs[lane].path, None))
            continue
        event = delta(f"{number} ", number)
        event.content_index = int(kind == "other part")
        logs[lane].extend_model(float(number), "A", 1, (), [event], [None])
        expected.append((f"{number} ", logs[lane].path, event.content_index))
    after = data.draw(st.integers(0, len(written)))
    events = drained(whole, after)
    assert [event.seq for event in events] == list(range(after + 1, len(written) + 1))
    assert [event.at for event in events] == [float(number) for number in range(after, len(written))]
    told = [
        (event.data.delta, event.path, event.data.content_index)
        if event.kind == "model"
        else (event.kind, event.path, None)
        for event in events
    ]
    assert told == expected[after:]


def test_agents_that_speak_at_once_cost_little_memory() -> None:
    """Deltas of several agents, one from each in turn, are packed as those of one are."""
    whole = MemoryLog("run")
    logs = [NestedLog(whole, f"c{lane}") for lane in range(4)]
    for number in range(8_000):
        write(logs[number % 4], "word ")
    assert len(whole._blocks) < 8_000 / 100


def test_begin_and_end_are_the_whole_runs() -> None:
    """What would be said of a run that is no whole one is not written; the nested log's readers learn of its end."""
    whole = MemoryLog("run")
    log = NestedLog(whole, "c1")
    begin = log.append("run.start", 1.0, "A", RunStart("hi"))
    assert (begin.kind, begin.path, whole.last_seq) == ("run.start", ("c1",), 0)
    log.extend([])
    assert log.sealed
    assert not whole.sealed
    assert Follower(log).at_end


def test_an_earlier_call_of_the_same_id_is_another() -> None:
    """A log begins where it was made: what a call of that id had written before is not its own."""
    whole = MemoryLog("run")
    first = NestedLog(whole, "c1")
    write(first, "old")
    first.close()
    second = NestedLog(whole, "c1")
    write(second, "new")
    assert [event.data.delta for event in drained(second)] == ["new"]


def test_once_closed_nothing_is_written() -> None:
    """Whoever still writes, to a closed log or under a run that has ended, changes nothing."""
    whole = MemoryLog("run")
    log, other = NestedLog(whole, "c1"), NestedLog(whole, "c2")
    log.close()
    write(log, "late")
    log.append("agent.start", 1.0, "A", AgentStart())
    whole.append("run.end", 1.0, "A", RunEnd("completed"))
    write(other, "late")
    other.append("agent.start", 1.0, "A", AgentStart())
    assert [event.kind for event in drained(whole)] == ["run.end"]


async def test_waiting() -> None:
    """Its readers wake for its own events and for its end, not for those of others."""
    whole = MemoryLog("run")
    log, other = NestedLog(whole, "c1"), NestedLog(whole, "c2")
    waiting = log.wait(0)
    write(other, "x")
    write(whole, "y")
    assert not waiting.done()
    write(log, "z")
    assert waiting.done()
    waiting = log.wait(log.last_seq)
    log.extend([])
    async with asyncio.timeout(1):
        await waiting
