"""run/followed, run/feed: runs that are read from their store. Readers own nothing, miss nothing and never hang."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runstream import RunConfig, Runner
from runstream.cli.storage import stored
from runstream.errors import CursorExpired, CursorInvalid, RunNotFound, StoreError, StoreUnavailable, UserError
from runstream.events.event import RUN_END, RUN_START, Event, RunEnd, RunStart
from runstream.events.model_event import build_event
from runstream.events.segment import encode_segment
from runstream.log.base import Append, Command, NewRun, Page, Segment, StoredStatus, Tail
from runstream.log.memory_store import MemoryStore
from runstream.log.wrap import StoreWrapper
from runstream.run import feed as feeds
from runstream.run.bind import AgentBook
from runstream.run.feed import StoredFeed
from runstream.run.result import RunResultStreaming
from runstream.testing import FakeClock


class Scene:
    """A store with a run whose events are written by hand: notes, and an end."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(clock=self.clock)
        self.epoch = 0
        self.seq = 0

    async def begin(self) -> None:
        await self.store.open()
        self.epoch = await self.store.create(NewRun("run", "Desk"), worker="w", lease_s=1e6)

    async def write(self, count: int = 1, *, end: bool = False) -> None:
        """One segment of so many events."""
        events: list[Event] = []
        for number in range(count):
            self.seq += 1
            kind, data = ("note", {"n": self.seq}) if self.seq > 1 else (RUN_START, RunStart("hi", 7))
            if end and number == count - 1:
                kind, data = RUN_END, RunEnd("completed", None, "all is well", {"requests": 3})
            events.append(Event("run", self.seq, 1.0, kind, "Desk", 0, (), data))
        status: StoredStatus | None = "completed" if end else None
        segment = Segment(events[0].seq, events[-1].seq, encode_segment(events))
        assert await self.store.append([Append("run", self.epoch, segment, status)]) == [None]

    async def attach(self, after: int | str = 0, store: Any = None) -> RunResultStreaming:
        config = RunConfig(clock=self.clock)
        return await Runner.attach("run", store=store or self.store, after=after, run_config=config)


@pytest.fixture
async def scene() -> AsyncGenerator[Scene]:
    scene = Scene()
    await scene.begin()
    yield scene
    await scene.store.aclose()


async def seqs_of(result: RunResultStreaming, after: int = 0) -> list[int]:
    return [event.seq async for event in result.events(after)]


async def test_replay_then_tail(scene: Scene) -> None:
    """What was there, then what comes, to the end; each once, from wherever the reader begins."""
    await scene.write(3)
    result = await scene.attach()
    reading = [asyncio.create_task(seqs_of(result, after)) for after in (0, 1, 3)]
    await asyncio.sleep(0)
    await scene.write(2)
    await scene.write(2, end=True)
    assert [await each for each in reading] == [[1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7], [4, 5, 6, 7]]
    assert result.final_output == "all is well"
    assert (result.input, result.max_turns, result.is_complete) == ("hi", 7, True)
    assert result.context_wrapper.usage.requests == 3


async def test_every_cursor_gives_the_rest(scene: Scene) -> None:
    """Also that of the last event of a run that has ended: nothing, and at once."""
    await scene.write(3)
    await scene.write(2, end=True)
    for seq in range(6):
        cursor = f"{scene.epoch}-{seq}" if seq else "0-0"
        for after in (seq, cursor):
            result = await scene.attach(after)
            reader = result.events(result._run.after)
            assert [event.seq async for event in reader] == list(range(seq + 1, 6))
            assert result._run.cursor_of(seq) == cursor


async def test_waiting_for_a_run_that_has_ended(scene: Scene) -> None:
    """Returns at once, for each handle."""
    await scene.write(2, end=True)
    result = await scene.attach()
    assert await result.wait() is result
    assert await result.wait() is result
    assert result.is_complete


@pytest.mark.parametrize(
    ("after", "reason", "resync_after"),
    [("x", "malformed", 0), (-1, "malformed", 0), (9, "ahead", 3), ("1-2", "other_history", 0)],
)
async def test_cursors_that_are_none_of_this_log(scene: Scene, after: Any, reason: str, resync_after: int) -> None:
    """A clear answer, with where to go on."""
    await scene.write(3)
    with pytest.raises(CursorInvalid) as refused:
        await scene.attach(after)
    assert (refused.value.reason, refused.value.resync_after) == (reason, resync_after)
    with pytest.raises(UserError, match="not a cursor"):
        (await scene.attach()).events(9)


async def test_events_that_are_no_longer_kept(scene: Scene) -> None:
    """A gap that is told, at once, also to a reader that is overtaken by it."""
    for _ in range(3):
        await scene.write(2)
    result = await scene.attach()
    reader = result.events()
    assert (await anext(reader)).seq == 1
    behind = result.events(0)
    await scene.store.trim("run", 5)
    with pytest.raises(CursorExpired):
        await scene.attach(1)
    with pytest.raises(CursorExpired):
        await anext(behind)
    later = await scene.attach(4)
    assert (await anext(later.events(4))).seq == 5


async def test_a_run_that_is_not_there(scene: Scene) -> None:
    """RunNotFound, also for those who read and wait when it is deleted."""
    with pytest.raises(RunNotFound):
        await Runner.attach("other", store=scene.store)
    await scene.write(2)
    result = await scene.attach()
    reader = result.events(2)
    waiting = [asyncio.create_task(anext(reader)), asyncio.create_task(result.wait())]  # type: ignore[arg-type, list-item]
    await asyncio.sleep(0)
    await scene.store.delete("run")
    for task in waiting:
        with pytest.raises(RunNotFound):
            await task
    with pytest.raises(RunNotFound):
        await anext(reader)


async def test_a_reader_that_gives_up_waiting_loses_nothing(scene: Scene) -> None:
    """A wait that times out is gone on with by the next one."""
    await scene.write(1)
    result = await scene.attach()
    reader = result.events(1)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(reader), 0.001)
    await scene.write(2)
    assert [(await anext(reader)).seq, (await anext(reader)).seq] == [2, 3]
    await reader.aclose()


async def test_a_reader_that_goes_away_ends_nothing(scene: Scene) -> None:
    """Neither leaving the loop nor leaving `async with` the handle sends the run anything."""
    await scene.write(2)
    async with await scene.attach() as result:
        async for _ in result.events():
            break
        async for _ in result.events(1):
            break
    assert await scene.store.commands("run", 0) == []


async def test_cancel_goes_through_the_store(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The open view yields nothing more; a run that ended meanwhile is no error, a store that is away is told."""
    await scene.write(2)
    result = await scene.attach()
    result.cancel("after_turn")
    await asyncio.sleep(0)
    result.cancel()
    await asyncio.sleep(0)
    sent = await scene.store.commands("run", 0)
    assert [(each.kind, each.data["mode"]) for each in sent] == [("cancel", "after_turn"), ("cancel", "immediate")]
    assert result.is_complete
    with pytest.raises(UserError, match="cancel mode"):
        result.cancel("later")  # type: ignore[arg-type]

    class Away(StoreWrapper):
        async def send(self, run_id: str, command: Command) -> int:
            raise StoreUnavailable("away")

    other = await scene.attach(store=Away(scene.store))
    with caplog.at_level(logging.ERROR, "runstream"):
        other.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert "cannot be told to end: away" in caplog.text
    await scene.write(1, end=True)
    late = await scene.attach()
    late.cancel()
    await asyncio.sleep(0)


class Scripted(StoreWrapper):
    """A store whose tails give these pages, or raise these errors, and then wait."""

    def __init__(self, *pages: Page | Exception) -> None:
        super().__init__(MemoryStore())
        self.pages = list(pages)
        self.closed = 0

    def tail(self, run_id: str, after: int) -> Tail:
        store = self

        class _Tail:
            async def next(self) -> Page:
                if not store.pages:
                    await asyncio.get_running_loop().create_future()
                page = store.pages.pop(0)
                if isinstance(page, Exception):
                    raise page
                return page

            async def aclose(self) -> None:
                store.closed += 1

        return _Tail()


def page(*seqs: int, end: bool = False) -> Page:
    events = [Event("run", seq, 1.0, "note", None, 0, (), {}) for seq in seqs]
    return Page([Segment(seqs[0], seqs[-1], encode_segment(events))] if seqs else [], seqs[-1] if seqs else 0, end)


def read_now(feed: StoredFeed, after: int) -> Sequence[int]:
    return [event.seq for event in feed.read(after)]


async def test_a_feed_skips_what_its_reader_has() -> None:
    """A segment may begin before the cursor; each event comes once."""
    feed = StoredFeed(Scripted(page(1, 2, 3), page(2, 3), page(3, 4)), "run", 2, AgentBook())
    await feed.wait(2)
    assert read_now(feed, 2) == [3]
    while feed.last_seq < 4:
        await feed.wait(3)
    assert read_now(feed, 3) == [4]
    await feed.aclose()


async def test_readers_that_are_equally_far_decode_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of handles of their own, too, each stretch of deltas; what carries live objects each reader has for itself. Where
    the log has other events under the same seqs by now, nobody gets those of before. Nothing outlives its readers."""
    decoded: list[bytes] = []
    decode = feeds.decode_segment
    monkeypatch.setattr(
        feeds, "decode_segment", lambda body, *given, **more: (decoded.append(body), decode(body, *given, **more))[1]
    )

    def deltas(text: str) -> list[Event]:
        given = {"item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
        data = build_event({"type": "response.output_text.delta", "delta": text, **given})
        scene.seq += 2
        return [Event("run", scene.seq + index, 1.0, "model", "Desk", 1, (), data) for index in (-1, 0)]

    await scene.write(2)
    results = [await scene.attach() for _ in range(5)]
    decoded.clear()
    readers = [asyncio.create_task(_all_of(result)) for result in results]
    bodies = [encode_segment(deltas(text)) for text in ("a", "b", "c")]
    for number, body in enumerate(bodies):
        await asyncio.sleep(0)
        segment = Segment(3 + 2 * number, 4 + 2 * number, body)
        assert await scene.store.append([Append("run", scene.epoch, segment)]) == [None]
    await scene.write(1, end=True)
    first, *others = [await reader for reader in readers]
    assert [decoded.count(body) for body in bodies] == [1, 1, 1]
    for other in others:
        assert [event is same for event, same in zip(first, other, strict=True)] == [False] * 2 + [True] * 6 + [False]
    key = (id(scene.store), "run")
    decoder = feeds._Decoder.of(scene.store, "run")
    assert decoder is feeds._Decoder.of(scene.store, "run")
    scene.seq = 2
    (again, _) = decoder.decode(Segment(3, 4, encode_segment(deltas("other"))), "run")
    assert again.data.delta == "other"
    del decoder, results, readers
    await asyncio.gather(*feeds._background)
    gc.collect()
    assert key not in feeds._decoders


async def _all_of(result: RunResultStreaming) -> list[Event]:
    return [event async for event in result.events()]


@pytest.mark.parametrize("seqs", [(4, 5), (5,)])
async def test_a_gap_in_what_the_store_gives_is_an_error(seqs: tuple[int, ...]) -> None:
    """Never passed over silently."""
    feed = StoredFeed(Scripted(page(1, 2), page(*seqs)), "run", 0, AgentBook())
    await feed.wait(0)
    with pytest.raises(StoreError, match=r"after 2.*damaged"):
        await feed.wait(2)
    await feed.aclose()


async def test_an_error_of_the_store_is_told_and_asked_again() -> None:
    """The next wait may succeed; an error that nobody waited for is not reported as never retrieved."""
    feed = StoredFeed(Scripted(StoreUnavailable("away"), page(1), StoreUnavailable("away")), "run", 0, AgentBook())
    with pytest.raises(StoreUnavailable):
        await feed.wait(0)
    await feed.wait(0)
    assert feed.last_seq == 1
    waiting = asyncio.create_task(feed.wait(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    for _ in range(5):
        await asyncio.sleep(0)
    await feed.aclose()


@pytest.mark.parametrize("how", ["aclose", "abandon"])
async def test_a_feed_gives_its_place_back(how: str) -> None:
    """In the middle of a wait, too; no task is left."""
    store = Scripted(page(1))
    feed = StoredFeed(store, "run", 0, AgentBook())
    await feed.wait(0)
    waiting = asyncio.create_task(feed.wait(1))
    await asyncio.sleep(0)
    if how == "aclose":
        await feed.aclose()
    else:
        feed.abandon()
        for _ in range(5):
            await asyncio.sleep(0)
    assert store.closed == 1
    waiting.cancel()
    await asyncio.wait({waiting})


def test_a_cancel_is_sent_though_the_program_ends_at_once(tmp_path: Path) -> None:
    """`cancel()` returns at once; the end of `asyncio.run` right after it loses nothing."""
    url = f"sqlite:///{tmp_path}/runs.db"

    async def begin() -> None:
        async with stored(url, creates=True) as store:
            await store.create(NewRun("run", "Desk"), worker="w", lease_s=60.0)

    async def cancel() -> None:
        (await Runner.attach("run", store=url)).cancel()

    async def sent() -> list[str]:
        async with stored(url) as store:
            return [command.kind for command in await store.commands("run", 0)]

    asyncio.run(begin())
    asyncio.run(cancel())
    assert asyncio.run(sent()) == ["cancel"]
