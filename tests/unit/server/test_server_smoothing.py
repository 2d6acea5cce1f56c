"""Even pacing of a server's frames: whole events, held back and given out by a clock that jumps."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from openai.types.responses import ResponseTextDeltaEvent

from runstream import Agent
from runstream.errors import StoreError
from runstream.events.event import RUN_END, Event, RunEnd, ToolProgress
from runstream.events.segment import encode_segment
from runstream.flow.text_units import UNITS, Unit
from runstream.server import create_app
from runstream.server.channel import Channel
from runstream.server.reader import Reader
from runstream.server.smoothing import SmoothReader
from runstream.testing import FakeClock, ScriptedModel, Turn
from serving import Client, Frame, all_frames, frames_of, serving

TICK = 0.001


class Stage:
    """A run's channel that is fed by the clock, and one reader of it."""

    def __init__(self, by: Unit = "word", *, max_lag_s: float = 1.0, is_live: bool = True) -> None:
        self.clock = FakeClock()
        self.closing = False
        self.channel = Channel("r", 0, 1 << 20)
        self.reader = Reader(cast("Any", self), "r", 0, self.clock.now())
        if is_live:
            self.reader.join()
        self.smooth = SmoothReader(self.reader, by, self.clock, max_lag_s=max_lag_s)
        self.came: dict[int, float] = {}
        self.seen: list[tuple[int, float]] = []
        self.texts: dict[int, str] = {}
        self._seq = 0
        self.store = SimpleNamespace(read=self._page)
        self.pages: list[Any] = []

    async def _page(self, *_: Any, **__: Any) -> Any:
        return self.pages.pop() if self.pages else SimpleNamespace(segments=[], ended=False)

    def join(self, reader: Reader) -> Channel:
        self.channel.last_seq = max(self.channel.last_seq, reader.cursor)
        self.channel.join(reader)
        return self.channel

    def leave(self, reader: Reader) -> None:
        self.channel.leave(reader)

    def now(self) -> float:
        return self.clock.now()

    def event(self, what: str | None, part: int = 0) -> Event:
        """A text of a part, or a tool's report, or the end."""
        self._seq += 1
        kind, data = "model", cast("Any", None)
        if what is None:
            kind, data = RUN_END, RunEnd("completed")
        elif what == "!":
            kind, data = "tool.progress", ToolProgress("c", "t", 1)
        else:
            self.texts[self._seq] = what
            data = ResponseTextDeltaEvent(
                type="response.output_text.delta", delta=what, item_id="m", output_index=part, content_index=0,
                sequence_number=self._seq, logprobs=[],
            )  # fmt: skip
        self.came[self._seq] = self.clock.now()
        return Event("r", self._seq, self.clock.now(), kind, "A", 1, (), data)

    def publish(self, *whats: str | None, part: int = 0, epoch: int = 1) -> None:
        self.channel.publish([self.event(what, part) for what in whats], epoch)

    async def play(self, script: Sequence[tuple[float, Sequence[str | None]]]) -> list[tuple[int, float]]:
        """Publish each batch after its pause, and read to the end: the seqs, and when each was given out."""

        async def produce() -> None:
            for pause_s, whats in script:
                await self.clock.sleep(pause_s)
                self.publish(*whats)

        producing = asyncio.create_task(produce())
        await self.read()
        await producing
        return self.seen

    async def read(self) -> None:
        while not self.reader.ended:
            for batch in await self.smooth.next():
                assert batch.frames.count(b"\nid: ") == len(batch.events) - 1
                self.seen += [(event.seq, self.clock.now()) for event in batch.events]

    def lag_s(self) -> float:
        return max(at - self.came[seq] for seq, at in self.seen)

    def text_before(self, at: float) -> str:
        return "".join(self.texts.get(seq, "") for seq, shown in self.seen if shown <= at)


async def test_a_burst_goes_out_evenly() -> None:
    """Of bursts of twelve words every half second a reader sees single words, evenly, none of them late."""
    stage = Stage()
    words = [f" word{number}" for number in range(12)]
    seen = await stage.play([(0.5, words)] * 12 + [(0.5, [None])])
    assert [seq for seq, _ in seen] == list(range(1, 146))
    times = [at for _, at in seen]
    assert times[0] == stage.came[1]
    steady = times[48:120]
    gaps = [later - former for former, later in itertools.pairwise(steady)]
    assert max(gaps) < 0.13
    assert gaps.count(0) < 5
    assert stage.lag_s() <= 1.0 + TICK


@pytest.mark.parametrize("by", UNITS)
async def test_nothing_is_lost_late_or_out_of_order(by: Unit) -> None:
    """Whatever comes when: every event once, in order, text within the bound, everything else at once."""
    chance = random.Random(7)
    pieces = ["Hel", "lo wor", "ld. And ", "more\n", "漢字。", "👩‍👩‍👧 ", "**b", "** ", "!"]
    for _ in range(12):
        stage = Stage(by, max_lag_s=0.4)
        script = [
            (chance.choice([0.0, 0.002, 0.05, 0.3, 1.5]), [chance.choice(pieces) for _ in range(chance.randint(1, 9))])
            for _ in range(30)
        ]
        seen = await stage.play([*script, (0.1, [None])])
        assert [seq for seq, _ in seen] == list(range(1, len(stage.came) + 1))
        assert stage.lag_s() <= 0.4 + TICK
        assert all(at == stage.came[seq] for seq, at in seen if seq not in stage.texts)
        assert seen[0][1] == stage.came[1]


async def test_units_come_whole() -> None:
    """A word that comes in pieces is held until it is whole, where its pieces end with it."""
    stage = Stage(max_lag_s=5.0)
    await stage.play([(0.1, ["One"]), (0.5, [" tw"]), (0.5, ["o"]), (0.5, [" three"]), (0.5, [" four"]), (0.5, [None])])
    start = stage.came[1]
    assert stage.text_before(start + 1.4) == "One"
    assert stage.text_before(start + 1.9) == "One two"
    assert stage.text_before(start + 2.6) == "One two three four"


async def test_another_text_does_not_wait() -> None:
    """The first text of another part comes at once, after what was held of the one before; epochs stay apart."""
    stage = Stage()
    stage.publish("One", " two", " three")
    assert [batch.last_seq for batch in await stage.smooth.next()] == [1]
    stage.publish("Uno", part=1, epoch=2)
    stage.publish(None, epoch=2)
    assert [(batch.epoch, len(batch.events)) for batch in await stage.smooth.next()] == [(1, 2), (2, 2)]


async def test_what_was_is_not_paced() -> None:
    """Pages from the store come as they are."""
    stage = Stage(is_live=False)
    body = encode_segment([stage.event(text) for text in ("One", " two", " three")])
    stage.pages.append(SimpleNamespace(segments=[SimpleNamespace(epoch=1, first_seq=1, body=body)], ended=False))
    assert [batch.last_seq for batch in await stage.smooth.next()] == [3]
    stage.publish(" four", " five", None)
    assert [batch.last_seq for batch in await stage.smooth.next()] == [6]


async def test_what_is_held_comes_before_a_failure_and_a_stop() -> None:
    """Where the source fails, or the server stops, what was held goes out first."""
    stage = Stage()
    stage.publish("One", " two", " three")
    await stage.smooth.next()
    stage.channel.fail(StoreError("gone"))
    assert [batch.last_seq for batch in await stage.smooth.next()] == [3]
    with pytest.raises(StoreError):
        await stage.smooth.next()
    stage = Stage()
    stage.publish("One", " two", " three")
    await stage.smooth.next()
    stage.closing = True
    assert [batch.last_seq for batch in await stage.smooth.next()] == [3]
    assert await stage.smooth.next() == []


async def test_much_text_at_once_is_not_held() -> None:
    """Beyond the bound everything goes out: memory has an end."""
    stage = Stage()
    stage.publish(*[" word" * 20] * 700)
    assert sum(len(batch.events) for batch in await stage.smooth.next()) == 700


def _seqs(frames: list[Frame]) -> list[int]:
    return [frame.data["seq"] for frame in frames]


async def test_smooth_over_http(tmp_path: Path) -> None:
    """SSE and WebSocket give the same events paced as unpaced, also to who comes again; other values get a 422."""
    words = tuple(f"word{number} " for number in range(8))
    agent = Agent(name="Desk", model=ScriptedModel([Turn(words, every_s=0.0)], repeat=True))
    app = create_app(agent, store=f"sqlite:///{tmp_path}/runs.db")
    async with serving(app) as url, Client(url) as client:
        begun = client.ask("POST", "/runs?smooth=word", {"input": "hi"}, Accept="text/event-stream")
        async with begun as response:
            run_id = response.headers["Runstream-Run-Id"]
            cut = [frame async for frame in frames_of(response) if frame.data["seq"] <= 6]
        whole = await client.events(run_id)
        assert [(frame.id, frame.data) for frame in cut] == [(frame.id, frame.data) for frame in whole[:6]]
        again = client.get(f"/runs/{run_id}/events?smooth=line", headers={"Last-Event-ID": whole[2].id or ""})
        async with again as response:
            assert _seqs(await all_frames(response)) == _seqs(whole)[3:]
        async with client.ws_connect(f"/runs/{run_id}/ws?smooth=sentence") as socket:
            assert [message.json()["id"] async for message in socket] == [frame.id for frame in whole]
        status, told = await client.json("GET", f"/runs/{run_id}/events?smooth=words")
        assert (status, told["error"]["code"]) == (422, "invalid_smooth")
        assert "word, line, sentence, character" in told["error"]["message"]
        assert (await client.json("POST", "/runs?smooth=", {"input": "hi"}))[0] == 422
