"""run/durable, run/host: what is told of a run is kept; a store that fails is never passed over silently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from faulty_stores import Flaky
from runstream import Agent, RunConfig, Runner, function_tool
from runstream.errors import (
    LeaseLost,
    RunExists,
    RunNotFound,
    RunTimeoutError,
    StoreError,
    StoreUnavailable,
)
from runstream.events.event import Event
from runstream.events.segment import decode_segment
from runstream.log.base import Append, Command, NewRun, Refusal
from runstream.log.memory_store import MemoryStore
from runstream.log.wrap import StoreWrapper
from runstream.run.host import host_of, opened, worker_name
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn

WORDS = "one two three four five six seven eight nine ten"


class Scene:
    """A store that may fail, and a run with a tool that is kept in it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.memory = MemoryStore(clock=self.clock)
        self.store = Flaky(self.memory)
        self.in_tool = asyncio.Event()
        self.calls: list[str] = []

        @function_tool
        async def work() -> str:
            self.calls.append("work")
            self.in_tool.set()
            await self.clock.sleep(1.0)
            return "done"

        steps = [Turn((WORDS, ToolCall("work")), every_s=0.1), Turn((WORDS,), every_s=0.1)]
        self.agent = Agent(name="Desk", model=ScriptedModel(steps, clock=self.clock), tools=[work])

    def start(self, **options: Any) -> Any:
        config: dict[str, Any] = {"clock": self.clock, "store": self.store, "run_id": "run", "store_timeout_s": 3.0}
        return Runner.run_streamed(self.agent, "hi", run_config=RunConfig(**{**config, **options}))

    async def stored(self, run_id: str = "run") -> list[Event]:
        page = await self.memory.read(run_id, 0)
        return [event for segment in page.segments for event in decode_segment(segment.body, run_id)]


@pytest.fixture
async def scene() -> AsyncGenerator[Scene]:
    scene = Scene()
    await scene.store.open()
    yield scene
    await scene.store.aclose()


def numbered(events: Sequence[Event]) -> list[tuple[int, str]]:
    return [(event.seq, event.kind) for event in events]


async def test_the_store_has_what_readers_saw(scene: Scene) -> None:
    """The same events under the same seqs, the end included, and the run's status."""
    result = scene.start()
    seen = [event async for event in result.events()]
    assert numbered(await scene.stored()) == numbered(seen)
    record = await scene.memory.find("run")
    assert (record.status, record.ended, record.deliveries) == ("completed", True, 1)
    assert (record.worker or "").startswith(worker_name())


async def test_a_call_is_kept_before_its_tool_starts(scene: Scene) -> None:
    """When the tool runs, the store has the call; a store that is away by then keeps the tool from starting."""
    result = scene.start()
    await scene.in_tool.wait()
    assert [event.data.type for event in await scene.stored() if event.kind == "item"][-1] == "tool_call_item"
    await result.wait()


async def test_no_tool_starts_while_the_store_is_away(scene: Scene) -> None:
    """Within the run's limit the store is waited for; past it the run fails, and the tool has not run."""
    result = scene.start()
    async for event in result.events():
        if event.seq == 8:
            scene.store.fail_with()
    assert isinstance(result.run_loop_exception, StoreUnavailable)
    assert scene.calls == []
    assert scene.store.failed > 1


async def test_an_outage_that_is_shorter_than_the_limit_is_sat_out(scene: Scene) -> None:
    """Nobody notices, and nothing is missing."""
    result = scene.start()
    seen: list[Event] = []
    async for event in result.events():
        seen.append(event)
        if event.seq == 8:
            scene.store.fail_with()
            asyncio.get_running_loop().create_task(back(scene))
    assert result.final_output == WORDS
    assert scene.store.failed
    assert numbered(await scene.stored()) == numbered(seen)


async def back(scene: Scene) -> None:
    await scene.clock.sleep(1.5)
    scene.store.error = None


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("locked"), StoreUnavailable("disk is full"), StoreError("read-only")],
    ids=["locked", "full", "read-only"],
)
@pytest.mark.parametrize("policy", ["fail", "continue"])
async def test_a_store_that_fails_in_mid_run(
    scene: Scene, policy: Any, error: StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails with the store's error, or goes on, and the log says so: never silently."""
    result = scene.start(on_store_failure=policy)
    with caplog.at_level(logging.ERROR, "runstream"):
        async for event in result.events():
            if event.seq == 8:
                scene.store.fail_with(error)
    if policy == "fail":
        assert isinstance(result.run_loop_exception, StoreError)
        assert result.final_output is None
    else:
        assert result.final_output == WORDS
        assert scene.calls == ["work"]
        assert "goes on without its store" in caplog.text
    await scene.clock.sleep(2.0)  # the flush that is repeated sees that nobody waits for it any more
    # What is there is a prefix, and is not said to have ended.
    stored = await scene.stored()
    assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
    assert not (await scene.memory.find("run")).ended


async def test_a_run_that_went_on_is_whole_once_the_store_is_back(scene: Scene) -> None:
    """What was missing is written, and the end with it."""
    result = scene.start(on_store_failure="continue")
    seen: list[Event] = []
    async for event in result.events():
        seen.append(event)
        if event.seq == 8:
            scene.store.fail_with()
        elif event.kind == "item" and event.data.type == "tool_call_output_item":
            scene.store.error = None
    assert result.final_output == WORDS
    assert numbered(await scene.stored()) == numbered(seen)
    assert (await scene.memory.find("run")).status == "completed"


class Closed(StoreWrapper):
    """A store that takes no run: it refuses, or never answers; until it is back."""

    error: Exception | None = None
    is_back = False

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        if self.is_back:
            return await self.store.create(run, worker=worker, lease_s=lease_s)
        if self.error is None:
            await asyncio.get_running_loop().create_future()
            raise AssertionError
        raise self.error


@pytest.mark.parametrize("error", [None, StoreUnavailable("away")], ids=["hangs", "refuses"])
async def test_a_store_that_cannot_be_used_from_the_start(
    scene: Scene, error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    """In bounded time: StoreUnavailable before the model is asked, or a run without a store, which is logged."""
    closed = Closed(scene.memory)
    closed.error = error
    with pytest.raises(StoreUnavailable):
        await scene.start(store=closed).wait()
    assert scene.agent.model.calls == ()  # type: ignore[union-attr]
    result = scene.start(store=closed, on_store_failure="continue")
    await result.wait()
    assert result.final_output == WORDS
    assert "goes on without its store" in caplog.text


async def test_a_run_that_begins_while_the_store_is_away_for_a_moment(scene: Scene) -> None:
    """It waits for its store, as one that is under way."""
    closed = Closed(scene.memory)
    closed.error = StoreUnavailable("away")
    result = scene.start(store=closed)
    await scene.clock.sleep(2.0)
    assert scene.agent.model.calls == ()  # type: ignore[union-attr]
    closed.is_back = True
    await result.wait()
    assert (await scene.stored())[-1].data.status == "completed"


async def test_a_run_of_an_id_that_is_taken(scene: Scene) -> None:
    """RunExists, whatever is to become of runs whose store fails."""
    await scene.memory.create(NewRun("run", "Desk", job=b"{}"))
    for policy in ("fail", "continue"):
        with pytest.raises(RunExists):
            await scene.start(on_store_failure=policy).wait()


async def test_two_runs_of_one_id_that_begin_together(scene: Scene) -> None:
    """The store takes one of them; the other is told at once, also where both are of one process."""
    results = [scene.start(), scene.start()]
    ends = await asyncio.gather(*(result.wait() for result in results), return_exceptions=True)
    assert sorted(isinstance(end, RunExists) for end in ends) == [False, True]
    assert scene.calls == ["work"]


@pytest.mark.parametrize("policy", ["fail", "continue"])
async def test_a_lease_that_is_lost_in_the_middle_of_a_tool(scene: Scene, policy: Any) -> None:
    """The run ends here at once, whatever the policy; the tool is cancelled, and the log is the other worker's."""
    result = scene.start(on_store_failure=policy, on_abandon="detach")
    await scene.in_tool.wait()
    await scene.clock.sleep(0.1)
    stored = len(await scene.stored())
    scene.memory._core.runs["run"].lease_until = 0.0
    claim = await scene.memory.claim("run", "other", 1e6)
    assert claim is not None
    host = host_of(scene.store, scene.clock)
    next(iter(host._keepers.values())).beat()
    with pytest.raises(LeaseLost):
        await result.wait()
    assert len(await scene.stored()) == stored
    assert host.run_of("run") is None


async def test_a_run_that_is_deleted_in_the_middle_of_a_tool(scene: Scene) -> None:
    """RunNotFound, also for runs that go on without their store: somebody wants it gone."""
    result = scene.start(on_store_failure="continue")
    await scene.in_tool.wait()
    await scene.memory.delete("run")
    with pytest.raises(RunNotFound):
        await result.wait()
    with pytest.raises(RunNotFound):
        await scene.memory.find("run")


async def test_a_cancel_through_the_store_ends_the_run_wherever_it_is(scene: Scene) -> None:
    """Sent after each event in turn, the last ones included: one end, cancelled or completed, and no hang."""
    statuses: set[str] = set()
    at = 0
    while True:
        at += 1
        each = Scene()
        await each.store.open()
        result = each.start(on_abandon="detach")
        seen: list[Event] = []
        async for event in result.events():
            seen.append(event)
            if event.seq == at and event.kind != "run.end":
                with suppress(RunNotFound):  # its own process may see it before the store does
                    await each.memory.send("run", Command("cancel", {"mode": "immediate"}))
        assert [event.kind for event in seen].count("run.end") == 1
        assert numbered(await each.stored()) == numbered(seen)
        status = (await each.memory.find("run")).status
        statuses.add(status)
        await each.store.aclose()
        if at >= len(seen):
            break
    assert statuses == {"cancelled", "completed"}


async def test_a_command_that_the_notification_missed_comes_with_the_heartbeat(scene: Scene) -> None:
    """A store whose notifications are lost: the run is cancelled all the same."""

    class Deaf(Flaky):
        async def wait_commands(self, known: Mapping[str, int]) -> Any:
            await asyncio.get_running_loop().create_future()

    scene.store = Deaf(scene.memory)
    result = scene.start(on_abandon="detach")
    await scene.in_tool.wait()
    await scene.memory.send("run", Command("cancel", {"mode": "immediate"}))
    next(iter(host_of(scene.store, scene.clock)._keepers.values())).beat()
    await result._run.wait_ended()
    assert (await scene.memory.find("run")).status == "cancelled"


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ZeroDivisionError("bug")])
async def test_commands_that_cannot_be_read_for_a_while(scene: Scene, error: Exception) -> None:
    """Whatever the error, they are asked for again."""

    class Moody(Flaky):
        failures = 1

        async def wait_commands(self, known: Mapping[str, int]) -> Any:
            if self.failures:
                self.failures -= 1
                raise error
            return await self.store.wait_commands(known)

    scene.store = Moody(scene.memory)
    result = scene.start(on_abandon="detach")
    await scene.clock.sleep(0.5)
    await scene.memory.send("run", Command("cancel", {"mode": "immediate"}))
    await result._run.wait_ended()
    assert (await scene.memory.find("run")).status == "cancelled"


async def test_a_run_past_its_time_limit_fails_in_its_log(scene: Scene) -> None:
    """RunTimeoutError, with its end kept."""
    result = scene.start(time_limit_s=1.5)
    with pytest.raises(RunTimeoutError):
        await result.wait()
    assert (await scene.memory.find("run")).status == "failed"


async def test_a_reply_that_is_lost_at_the_end(scene: Scene) -> None:
    """The end was written, the answer was not heard: sent again, it is there once, and the run is completed."""

    class Mute(StoreWrapper):
        lost = 0

        async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
            answers = await self.store.append(appends)
            if appends[0].status == "completed" and self.lost < 2:
                self.lost += 1
                raise StoreUnavailable("no reply")
            return answers

    result = scene.start(store=Mute(scene.memory))
    await result.wait()
    assert [event.kind for event in await scene.stored()].count("run.end") == 1


async def test_opening_is_done_once_and_again_after_a_failure() -> None:
    """Many that ask at once wait for one opening; one that failed is tried again."""

    class Slow(StoreWrapper):
        openings = 0

        async def open(self) -> None:
            self.openings += 1
            await asyncio.sleep(0)
            if self.openings == 1:
                raise StoreUnavailable("not yet")
            await self.store.open()

    clock = FakeClock()
    store = Slow(MemoryStore(clock=clock))
    failed = await asyncio.gather(*(opened(store, clock) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in failed] == [StoreUnavailable] * 3
    hosts = await asyncio.gather(*(opened(store, clock) for _ in range(3)))
    assert store.openings == 2
    assert len({id(host) for host in hosts}) == 1
    await store.aclose()
