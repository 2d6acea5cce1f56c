"""log/writer: one flush at a time for all runs, repeated until it is answered; nothing is lost silently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runstream.clock import system_clock
from runstream.errors import LeaseLost, RunNotFound, StoreError, StoreUnavailable
from runstream.events.event import MODEL, RUN_END, RUN_START, Event, RunEnd, RunStart
from runstream.events.segment import decode_segment
from runstream.log.base import Append, NewRun, Refusal, RunRecord
from runstream.log.memory import MemoryLog
from runstream.log.memory_store import MemoryStore
from runstream.log.run_writer import RunWriter
from runstream.log.wrap import StoreWrapper
from runstream.log.writer import StoreWriter
from runstream.testing import FakeClock

Answer = Callable[[Sequence[Append]], Any]


class Faulty(StoreWrapper):
    """A store that does with each flush what the next of `faults` says, and then works."""

    def __init__(self, *faults: Any) -> None:
        super().__init__(MemoryStore())
        self.faults = list(faults)
        self.flushes: list[list[tuple[str, int, int]]] = []
        self.under_way = 0
        self.asked = asyncio.Event()

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        self.flushes.append([(each.run_id, each.segment.first_seq, each.segment.last_seq) for each in appends])
        self.asked.set()
        assert not self.under_way, "two flushes at once"
        self.under_way += 1
        try:
            fault = self.faults.pop(0) if self.faults else None
            if isinstance(fault, Exception):
                raise fault
            if callable(fault):
                return await fault(self, appends)
            return await self.store.append(appends)
        finally:
            self.under_way -= 1


class Scene:
    """A process with a store, and runs whose logs are written there."""

    def __init__(self, *faults: Any) -> None:
        self.clock = FakeClock()
        self.store = Faulty(*faults)
        self.writer = StoreWriter(self.store, self.clock)
        self.told: list[Exception] = []

    async def run(self, run_id: str = "run", *, goes_on: bool = False, limit_s: float = 10.0, **log: Any) -> RunWriter:
        await self.store.open()
        epoch = await self.store.create(NewRun(run_id, "Desk"), worker="w", lease_s=1e6)
        return RunWriter(
            self.writer,
            MemoryLog(run_id, **log),
            epoch,
            limit_s=limit_s,
            goes_on_undurable=goes_on,
            on_failure=self.told.append,
        )

    async def seqs(self, run_id: str = "run") -> list[int]:
        page = await self.store.read(run_id, 0)
        return [event.seq for segment in page.segments for event in decode_segment(segment.body, run_id)]


def write(run: RunWriter, count: int = 1) -> None:
    """So many events into the run's log."""
    for _ in range(count):
        run._log.append(RUN_START if run._log.last_seq == 0 else "x", 1.0, "Desk", RunStart("hi"))
    run.changed(urgent=True)


async def committed(run: RunWriter, seq: int) -> None:
    """Returns once the store has that event."""
    reached = asyncio.Event()

    def told(events: Sequence[Event]) -> None:
        if run.committed_seq >= seq:
            reached.set()

    run.listeners.append(told)
    told(())
    await reached.wait()
    run.listeners.remove(told)


def end_of(run: RunWriter) -> Event:
    return Event(run.run_id, run._log.last_seq + 1, 2.0, RUN_END, "Desk", 0, (), RunEnd("completed"))


GONE = StoreUnavailable("it is away")


async def test_a_commit_returns_once_all_is_in_the_store() -> None:
    """What was in the log when it was asked for is there; one flush had it all."""
    scene = Scene()
    run = await scene.run()
    write(run, 3)
    await run.commit()
    assert await scene.seqs() == [1, 2, 3]
    assert run.committed_seq == 3
    assert scene.store.flushes == [[("run", 1, 3)]]
    await run.commit()
    assert len(scene.store.flushes) == 1


async def test_one_flush_serves_all_runs() -> None:
    """What two runs have written meanwhile goes out together."""
    scene = Scene()
    runs = [await scene.run(name) for name in ("a", "b", "c")]
    for run in runs:
        write(run, 2)
    await asyncio.gather(*(run.commit() for run in runs))
    assert scene.store.flushes == [[("a", 1, 2), ("b", 1, 2), ("c", 1, 2)]]


async def test_deltas_wait_for_company_but_not_long() -> None:
    """Events that are not urgent go out after the writer's time, without anybody asking."""
    scene = Scene()
    run = await scene.run()
    write(run)
    await run.commit()
    run._log.append("x", 1.0, "Desk", RunStart("hi"))
    run.changed(urgent=False)
    assert run.committed_seq == 1
    await committed(run, 2)
    assert await scene.seqs() == [1, 2]


@pytest.mark.parametrize("failures", [1, 5])
async def test_a_flush_is_repeated_while_the_store_is_away(failures: int) -> None:
    """The very same segment, until it is answered; what came meanwhile follows it."""
    scene = Scene(*[GONE] * failures)
    run = await scene.run()
    write(run, 2)
    committing = asyncio.create_task(run.commit())
    await scene.store.asked.wait()
    write(run)
    await committing
    await run.commit()
    assert scene.store.flushes == [[("run", 1, 2)]] * (failures + 1) + [[("run", 3, 3)]]
    assert await scene.seqs() == [1, 2, 3]
    assert run.failure is None


async def test_a_reply_that_was_lost_does_no_harm() -> None:
    """The flush was applied, its reply was not heard: sent again, it is there once."""

    async def lost(store: Faulty, appends: Sequence[Append]) -> Any:
        await store.store.append(appends)
        raise GONE

    scene = Scene(lost)
    run = await scene.run()
    write(run, 2)
    await run.commit()
    assert await scene.seqs() == [1, 2]


async def test_a_store_that_stays_away_fails_the_run_after_its_limit() -> None:
    """StoreUnavailable, and the run is told once; nothing more is written."""
    scene = Scene(*[GONE] * 1000)
    run = await scene.run(limit_s=3.0)
    began = scene.clock.now()
    write(run)
    with pytest.raises(StoreUnavailable, match=r"away|has not taken"):
        await run.commit()
    assert scene.clock.now() - began <= 4.0
    assert len(scene.told) == 1
    tries = len(scene.store.flushes)
    write(run)
    with pytest.raises(StoreUnavailable):
        await run.commit()
    assert len(scene.store.flushes) == tries
    await scene.writer.aclose()


async def test_a_flush_that_is_never_answered_fails_the_run_after_its_limit() -> None:
    """A store that hangs is a store that is away."""

    async def hangs(store: Faulty, appends: Sequence[Append]) -> Any:
        await asyncio.get_running_loop().create_future()

    scene = Scene(hangs)
    run = await scene.run(limit_s=3.0)
    write(run)
    with pytest.raises(StoreUnavailable, match="within 3 s"):
        await run.commit()
    await scene.writer.aclose()


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_run_may_go_on_without_its_store_and_says_so(hangs: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for longer than the limit, the log tells, and once the store is back everything is written."""
    released = asyncio.Event()

    async def hang(store: Faulty, appends: Sequence[Append]) -> Any:
        await released.wait()
        raise GONE

    scene = Scene(*([hang] if hangs else [GONE] * 10))
    run = await scene.run(goes_on=True, limit_s=3.0)
    with caplog.at_level(logging.ERROR, "runstream"):
        for _ in range(5):
            write(run)
            await run.commit()
        if not hangs:
            await committed(run, 5)
    assert ("goes on without its store" in caplog.text) == (hangs or not run.durable)
    if hangs:
        assert not run.durable
    else:
        assert await scene.seqs() == [1, 2, 3, 4, 5]
    released.set()
    await scene.writer.aclose()


async def test_another_worker_has_the_run() -> None:
    """Fenced: LeaseLost, at once, and the run is told; the other runs of the flush are written."""
    scene = Scene()
    run, other = await scene.run(), await scene.run("other")
    run.epoch -= 1
    write(run)
    write(other)
    with pytest.raises(LeaseLost):
        await run.commit()
    await other.commit()
    assert [type(error) for error in scene.told] == [LeaseLost]
    assert await scene.seqs("other") == [1]


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_run_that_was_deleted_is_not_gone_on_with(goes_on: bool) -> None:
    """RunNotFound, whatever is to become of runs whose store fails."""
    scene = Scene()
    run = await scene.run(goes_on=goes_on)
    await scene.store.delete("run")
    write(run)
    with pytest.raises(RunNotFound):
        await run.commit()
    assert [type(error) for error in scene.told] == [RunNotFound]


async def test_a_log_that_was_ended_elsewhere() -> None:
    """Sealed by the same epoch: another one has ended the run."""
    scene = Scene()
    run = await scene.run()
    write(run)
    await run.commit_end(end_of(run), "completed")
    twin = RunWriter(
        scene.writer, MemoryLog("run", after=2), run.epoch, limit_s=1, goes_on_undurable=False, on_failure=print
    )
    write(twin)
    with pytest.raises(LeaseLost, match="ended"):
        await twin.commit()


async def test_events_that_the_store_has_lost_are_written_again() -> None:
    """A gap: this process still has them, and nobody else has the run."""

    async def forgets(store: Faulty, appends: Sequence[Append]) -> Any:
        core: Any = store.store
        kept = core._core.runs["run"]
        del kept.segments[1:]
        kept.last_seq = kept.segments[0].last_seq
        return await store.store.append(appends)

    scene = Scene(None, None, forgets)
    run = await scene.run()
    watched: list[int] = []
    run.watch = lambda events: watched.extend(event.seq for event in events)
    for _ in range(3):
        write(run, 2)
        await run.commit()
    assert await scene.seqs() == [1, 2, 3, 4, 5, 6]
    assert watched == [1, 2, 3, 4, 5, 6], "who watches sees nothing twice"


async def test_a_gap_is_asked_about_until_the_store_answers() -> None:
    """A store that goes away between the refusal and the question is waited for."""

    class Forgets(Faulty):
        async def find(self, run_id: str) -> RunRecord:
            if len(self.flushes) == 2:
                raise GONE
            return await super().find(run_id)

    async def gap(store: Faulty, appends: Sequence[Append]) -> Any:
        return ["gap"]

    scene = Scene()
    scene.store = Forgets(None, gap)
    scene.writer.store = scene.store
    run = await scene.run()
    write(run)
    await run.commit()
    write(run)
    await run.commit()
    assert await scene.seqs() == [1, 2]


@pytest.mark.parametrize("after", [0, 5])
async def test_what_nobody_has_any_more_fails_the_run(after: int) -> None:
    """The store has lost more than this process can write again: a clear end, and the other runs are written."""

    async def gap(store: Faulty, appends: Sequence[Append]) -> Any:
        answers: list[Any] = list(await store.store.append(appends[1:]))
        return ["gap", *answers]

    scene = Scene(gap)
    run, other = await scene.run(after=5), await scene.run("other")
    write(run)
    write(other)
    with pytest.raises(StoreError, match="no longer has either"):
        await run.commit()
    await other.commit()
    assert await scene.seqs("other") == [1]


async def test_a_run_that_was_too_far_behind_reads_its_log_again() -> None:
    """A long outage in which events were let go from memory: those that are still in the log are written."""
    scene = Scene(*[GONE] * 30)
    run = await scene.run(goes_on=True, limit_s=1.0)
    write(run, 5_000)
    await committed(run, 5_000)
    assert (await scene.store.find("run")).last_seq == 5_000


async def test_events_that_the_log_has_let_go_meanwhile_fail_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left out silently, and the flush goes on for others."""
    scene = Scene(*[GONE] * 30)
    run = await scene.run(goes_on=True, limit_s=1.0, max_events=1)
    write(run)
    committing = asyncio.create_task(run.commit())
    await scene.store.asked.wait()
    run._log.pending = []
    write(run, 5_000)
    run._log.pending = []
    await committing
    with caplog.at_level(logging.ERROR, "runstream"):
        while run.failure is None:
            await scene.clock.sleep(1.0)
    assert "goes on without its store" in caplog.text


async def test_one_flush_that_cannot_be_written_fails_one_run() -> None:
    """An error that does not pass may be the fault of one run: the others are tried alone."""

    async def refuses(store: Faulty, appends: Sequence[Append]) -> Any:
        if any(append.run_id == "bad" for append in appends):
            raise StoreError("too large")
        return await store.store.append(appends)

    scene = Scene(refuses, refuses, refuses, refuses)
    runs = [await scene.run(name) for name in ("good", "bad", "fine")]
    for run in runs:
        write(run)
    await runs[0].commit()
    with pytest.raises(StoreError, match="too large"):
        await runs[1].commit()
    await runs[2].commit()
    assert await scene.seqs("good") == await scene.seqs("fine") == [1]


async def test_an_error_that_nobody_foresaw_fails_the_runs_of_the_flush() -> None:
    """And only those: the next flush is written."""
    scene = Scene(ZeroDivisionError("bug"))
    run = await scene.run()
    write(run)
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        await run.commit()
    other = await scene.run("other")
    write(other)
    await other.commit()


async def test_the_end_is_kept_before_anybody_is_told_also_by_runs_that_go_on() -> None:
    """`commit_end` waits for the store even where `commit` does not, within the limit."""
    scene = Scene(*[GONE] * 4)
    run = await scene.run(goes_on=True)
    write(run)
    await run.commit()
    await run.commit_end(end_of(run), "completed")
    assert (await scene.store.find("run")).ended
    assert await scene.seqs() == [1, 2]


async def test_a_status_comes_with_the_next_events() -> None:
    """It is there from the moment that they are."""
    scene = Scene()
    run = await scene.run()
    write(run)
    run.set_status("waiting")
    await run.commit()
    assert (await scene.store.find("run")).status == "waiting"
    write(run)
    run.set_status("running")
    await run.commit()
    assert (await scene.store.find("run")).status == "running"


async def test_a_commit_that_is_given_up_leaves_no_waiter() -> None:
    """Cancelled, it takes its place in the line with it; the flush goes on."""
    scene = Scene(*[GONE] * 3)
    run = await scene.run()
    write(run)
    committing = asyncio.create_task(run.commit())
    await asyncio.sleep(0)
    committing.cancel()
    await asyncio.wait({committing})
    assert run._waiters == []
    await committed(run, 1)
    assert await scene.seqs() == [1]


async def test_closing_stops_in_mid_outage() -> None:
    """No task is left, whatever was under way."""
    scene = Scene(*[GONE] * 1000)
    run = await scene.run()
    write(run)
    await scene.store.asked.wait()
    await scene.writer.aclose()
    assert scene.writer._flushing is None


async def test_a_run_far_ahead_of_its_store_is_to_wait() -> None:
    """More than a few thousand events that are not kept yet: `is_behind`, unless the run goes on without its store."""
    for goes_on in (False, True):
        scene = Scene()
        run = await scene.run(goes_on=goes_on)
        for number in range(4_001):
            run._log.append(MODEL if number else RUN_START, 1.0, "Desk", RunStart("hi"))
        assert run.is_behind is not goes_on
        run.changed(urgent=True)
        await run.commit()
        assert not run.is_behind
        assert run.committed_seq == 4_001


def flush_task() -> asyncio.Task[Any]:
    return next(task for task in asyncio.all_tasks() if task.get_name() == "runstream store writer")


async def test_a_flush_that_is_cancelled_before_it_began_holds_nothing_up():
    """What `asyncio.run` cancels at its end, at whatever moment, keeps no run from writing its end."""
    scene = Scene()
    run = await scene.run()
    write(run, 3)
    flush_task().cancel()
    await run.commit()
    assert await scene.seqs() == [1, 2, 3]


async def test_a_flush_that_is_cancelled_while_a_run_waits_for_it_is_made_again():
    """As above, where the run was already waiting for its end to be kept."""

    async def hang(store: Faulty, appends: Sequence[Append]) -> None:
        await asyncio.Event().wait()

    scene = Scene(hang)
    run = await scene.run()
    write(run, 3)
    commit = asyncio.create_task(run.commit())
    await scene.store.asked.wait()
    flush_task().cancel()
    await commit
    assert await scene.seqs() == [1, 2, 3]


async def test_a_writer_that_is_closed_flushes_no_more():
    """Closing gives up the flush that is under way, and no other takes its place."""

    async def hang(store: Faulty, appends: Sequence[Append]) -> None:
        await asyncio.Event().wait()

    scene = Scene(hang)
    write(await scene.run(), 3)
    await scene.store.asked.wait()
    await scene.writer.aclose()
    assert len(scene.store.flushes) == 1
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "runstream store writer"]


async def test_the_limit_holds_while_the_store_is_busy() -> None:
    """A run whose oldest event has waited for its limit fails then, in the hanging flush or behind it; what others wait
    for, what was answered and what came late has its own time."""
    answer = asyncio.Event()

    async def hang(store: Faulty, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        await answer.wait()
        return await store.store.append(appends)

    scene = Scene(hang)
    scene.writer = StoreWriter(scene.store, system_clock)
    patient, hasty = await scene.run("patient", limit_s=30.0), await scene.run("hasty", limit_s=0.06)
    behind, bold = await scene.run("behind", limit_s=0.05), await scene.run("bold", limit_s=0.05, goes_on=True)
    for run in (patient, hasty, bold):
        write(run)
        run.changed(urgent=True)
    await scene.store.asked.wait()
    write(behind)
    behind.changed(urgent=False)
    while len(scene.told) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert [run.failure is not None for run in (patient, hasty, behind, bold)] == [False, True, True, False]
    assert all(isinstance(error, StoreUnavailable) for error in scene.told)
    assert "hasty within 0.06 s" in str(hasty.failure)
    assert (bold.durable, patient.durable) == (False, True)
    write(patient)
    patient.changed(urgent=False)
    answer.set()
    await patient.commit()
    assert await scene.seqs("patient") == [1, 2]
    assert (patient.due, bold.due) == (None, None)
    await scene.writer.aclose()
