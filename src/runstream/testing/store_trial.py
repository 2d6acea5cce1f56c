"""What the laws of stores are tried with: the hooks that a store's tests override, and small steps of a trial."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from runstream.clock import system_clock
from runstream.log.base import Append, Claim, NewRun, Refusal, Segment, Store, StoredStatus, Tail
from runstream.log.wrap import StoreWrapper

__all__ = ["StoreTrial", "UnfencedStore", "raised", "segment"]

_Result = TypeVar("_Result")


class UnfencedStore(StoreWrapper):
    """A broken store: whoever appends is taken for the holder of the newest epoch, and what is in the way is passed.

    With it a test of fencing must fail: it shows that the test can.
    """

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        unfenced: list[Append] = []
        for append in appends:
            run = await self.store.find(append.run_id)
            length = append.segment.last_seq - append.segment.first_seq
            place = Segment(run.last_seq + 1, run.last_seq + 1 + length, append.segment.body)
            unfenced.append(Append(append.run_id, run.epoch, place, append.status))
        return await self.store.append(unfenced)


class StoreTrial:
    """The hooks. Each test has an object of its own: `open_store` gives stores on data that are empty at first."""

    lease_s: float = 0.25
    """A lease that tests let run out. A store with fake time may have a long one."""
    patience_s: float = 10.0
    """What has not come after so long is missing."""
    pause_s: float = 0.05
    """What has not come after so long is taken to wait."""

    async def open_store(self) -> Store:
        """A new store object, open, on this test's data; its test closes it."""
        raise NotImplementedError("a subclass of StoreConformance has to say what open_store() opens")

    async def second_store(self) -> Store:
        """As another process would see the same data."""
        return await self.open_store()

    async def advance(self, delay_s: float) -> None:
        """Let so many seconds pass, for the store."""
        await system_clock.sleep(delay_s)

    async def step_clock(self, delay_s: float) -> bool:
        """Set the store's wall clock, by a negative number of seconds too; False where that cannot be done."""
        return False

    # Steps.

    @asynccontextmanager
    async def one_store(self) -> AsyncGenerator[Store]:
        store = await self.open_store()
        try:
            yield store
        finally:
            await store.aclose()

    @asynccontextmanager
    async def two_stores(self) -> AsyncGenerator[tuple[Store, Store]]:
        async with self.one_store() as store:
            other = await self.second_store()
            try:
                yield store, other
            finally:
                await other.aclose()

    async def soon(self, awaitable: Awaitable[_Result]) -> _Result:
        """Its result; fails where it hangs."""
        try:
            async with system_clock.timeout(self.patience_s):
                return await awaitable
        except TimeoutError as error:
            raise AssertionError(f"nothing came within {self.patience_s:g} s: {awaitable!r}") from error

    async def waits(self, task: asyncio.Task[object]) -> None:
        """Fails where the task does not wait."""
        await asyncio.wait({task}, timeout=self.pause_s)
        assert not task.done(), f"it should wait, but has ended: {task!r}"

    async def lease_runs_out(self) -> None:
        await self.advance(self.lease_s * 1.2)

    async def begin(self, store: Store, run_id: str = "run", *, worker: str = "w1", lease_s: float = 60.0) -> int:
        """Enter a run that a worker holds; its epoch."""
        return await store.create(NewRun(run_id, "Desk"), worker=worker, lease_s=lease_s)

    async def take(self, store: Store, worker: str, *, agents: Sequence[str] = ("Desk",)) -> Claim | None:
        return await store.claim_next(agents, worker, 60.0)

    async def put(
        self,
        store: Store,
        epoch: int,
        first_seq: int,
        last_seq: int | None = None,
        *,
        run_id: str = "run",
        status: StoredStatus | None = None,
        body: bytes | None = None,
    ) -> Refusal | None:
        """Append one segment; the answer."""
        part = segment(first_seq, last_seq, body)
        (answer,) = await store.append([Append(run_id, epoch, part, status)])
        return answer

    async def put_all(self, store: Store, epoch: int, count: int, *, run_id: str = "run", end: bool = False) -> None:
        """Append segments of one event each, from 1 on, with an end if asked for."""
        for seq in range(1, count + 1):
            status = "completed" if end and seq == count else None
            assert await self.put(store, epoch, seq, run_id=run_id, status=status) is None

    async def read_all(self, store: Store, run_id: str = "run", after: int = 0) -> list[Segment]:
        """Page by page; fails where a page does not go on from the one before."""
        found: list[Segment] = []
        while True:
            page = await store.read(run_id, after)
            if not page.segments:
                assert page.last_seq <= after, f"nothing after {after} in a log that goes to {page.last_seq}"
                return found
            after = _check_follows(page.segments, after)
            found += page.segments

    async def follow(self, tail: Tail, after: int, until: int | None = None, *, pause_s: float = 0.0) -> list[Segment]:
        """What a tail hands out until the end, or until that seq; fails at a gap or a repetition."""
        found: list[Segment] = []
        while until is None or after < until:
            page = await self.soon(tail.next())
            if page.segments:
                after = _check_follows(page.segments, after)
                found += page.segments
            else:
                assert page.ended, "a page without segments before the end"
            assert after <= page.last_seq
            if page.ended and after == page.last_seq:
                break
            if pause_s:
                await system_clock.sleep(pause_s)
        return found


def _check_follows(segments: Sequence[Segment], after: int) -> int:
    first = segments[0]
    assert first.first_seq <= after + 1 <= first.last_seq, (
        f"after {after} comes a segment of {first.first_seq}-{first.last_seq}"
    )
    for previous, current in itertools.pairwise(segments):
        assert current.first_seq == previous.last_seq + 1, (
            f"after {previous.last_seq} comes a segment of {current.first_seq}-{current.last_seq}"
        )
    return segments[-1].last_seq


def segment(first_seq: int, last_seq: int | None = None, body: bytes | None = None) -> Segment:
    """A segment whose body tells its seqs."""
    last_seq = first_seq if last_seq is None else last_seq
    return Segment(first_seq, last_seq, f"{first_seq}-{last_seq}".encode() if body is None else body)


async def raised(kind: type[Exception], awaitable: Awaitable[object]) -> Exception:
    """The error of that kind that it raises; fails where it does not."""
    try:
        result = await awaitable
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised; the result was {result!r}")
