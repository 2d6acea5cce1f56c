"""Laws of stores: a reader gets every segment once, in order, at its own pace, wherever it is, or is told why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from runstream.clock import system_clock
from runstream.errors import CursorExpired, RunNotFound, StoreError
from runstream.log.base import Retention, Store
from runstream.testing.store_trial import StoreTrial, raised

__all__ = ["StoreReaderLaws"]


class StoreReaderLaws(StoreTrial):
    """Tails, trimmed logs, readers of runs that go away."""

    async def test_replay_then_follow(self) -> None:
        """Readers of both stores, from any cursor, slow and quick, begun early and late: no gap, nothing twice."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            readers: list[asyncio.Task[list[int]]] = []

            async def read(reader: Store, after: int, pause_s: float) -> list[int]:
                tail = reader.tail("run", after)
                try:
                    return [part.last_seq for part in await self.follow(tail, after, pause_s=pause_s)]
                finally:
                    await tail.aclose()

            for seq in range(1, 61):
                assert await self.put(store, epoch, seq, status="completed" if seq == 60 else None) is None
                if seq % 10 == 5:
                    for reader in (store, other):
                        for after in (0, seq // 2, seq):
                            pause_s = 0.004 if after else 0.0
                            readers.append(asyncio.create_task(read(reader, after, pause_s)))
                await asyncio.sleep(0)
            for task in readers:
                seqs = await self.soon(task)
                assert seqs == list(range(seqs[0], 61))

    async def test_many_runs_are_followed_at_once(self) -> None:
        """Each reader gets the segments of its own run, whoever else is written to and followed beside it."""
        async with self.two_stores() as (store, other):
            names = [f"run_{index}" for index in range(100)]
            epochs = dict(zip(names, await asyncio.gather(*(self.begin(store, name) for name in names)), strict=True))

            async def read(name: str, reader: Store) -> None:
                tail = reader.tail(name, 0)
                found = await self.follow(tail, 0)
                assert [part.body for part in found] == [f"{name} {seq}".encode() for seq in range(1, 6)]
                await tail.aclose()

            async def write(name: str) -> None:
                for seq in range(1, 6):
                    status = "completed" if seq == 5 else None
                    body = f"{name} {seq}".encode()
                    assert await self.put(store, epochs[name], seq, run_id=name, status=status, body=body) is None

            readers = [read(name, reader) for name in names for reader in (store, other)]
            await self.soon(asyncio.gather(*readers, *(write(name) for name in names)))

    async def test_a_tail_waits_for_what_comes(self) -> None:
        """At the end of a log that goes on, a tail waits; a segment wakes it, from this store and from another."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            tails = [store.tail("run", 0), other.tail("run", 0)]
            for seq in (1, 2, 3):
                tasks = [asyncio.create_task(tail.next()) for tail in tails]
                for task in tasks:
                    await self.waits(task)
                assert await self.put(store, epoch, seq) is None
                for task in tasks:
                    page = await self.soon(task)
                    assert [part.last_seq for part in page.segments] == [seq]
                    assert (page.last_seq, page.ended) == (seq, False)
            for tail in tails:
                await tail.aclose()

    async def test_the_end_wakes_every_tail(self) -> None:
        """Many tails of one run get its last segment; after it, pages without segments, as often as asked."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            await self.put_all(store, epoch, 2)
            tails = [(store if index % 2 else other).tail("run", 2) for index in range(20)]
            tasks = [asyncio.create_task(tail.next()) for tail in tails]
            await self.waits(tasks[-1])
            assert await self.put(store, epoch, 3, status="completed") is None
            for tail, task in zip(tails, tasks, strict=True):
                page = await self.soon(task)
                assert ([part.last_seq for part in page.segments], page.last_seq, page.ended) == ([3], 3, True)
                for _ in range(2):
                    page = await self.soon(tail.next())
                    assert (list(page.segments), page.last_seq, page.ended) == ([], 3, True)
                await tail.aclose()
            late = other.tail("run", 3)
            assert (await self.soon(late.next())).ended
            await late.aclose()

    async def test_a_cancelled_next_loses_nothing(self) -> None:
        """However often and whenever a reader gives up waiting, its next call goes on where it was."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            done = asyncio.Event()

            async def write() -> None:
                for seq in range(1, 61):
                    assert await self.put(store, epoch, seq, status="completed" if seq == 60 else None) is None
                    for _ in range(seq % 4):
                        await asyncio.sleep(0)
                done.set()

            async def read(reader: Store) -> list[int]:
                tail = reader.tail("run", 0)
                seqs: list[int] = []
                turns = 0
                while not seqs or seqs[-1] < 60:
                    task = asyncio.create_task(tail.next())
                    if done.is_set():
                        await asyncio.wait({task}, timeout=self.patience_s)
                    turns = (turns + 1) % 7
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.wait({task})
                    if task.cancelled():
                        await system_clock.sleep(0.001)
                        continue
                    seqs += [part.last_seq for part in task.result().segments]
                await tail.aclose()
                return seqs

            _, *found = await self.soon(asyncio.gather(write(), read(store), read(other)))
            assert found == [list(range(1, 61))] * 2

    async def test_a_trimmed_log_begins_later(self) -> None:
        """Whole segments go; the record tells the oldest seq; a reader that wants older ones is told, not made to
        wait or skip."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            for first_seq in (1, 4, 7, 10):
                assert await self.put(store, epoch, first_seq, first_seq + 2) is None
            behind = other.tail("run", 2)
            assert await store.trim("run", 1) == 1
            assert await store.trim("run", 3) == 1  # seq 3 is to be kept, and with it its segment
            assert await store.trim("run", 6) == 4
            assert await store.trim("run", 5) == 4
            for reader in (store, other):
                record = await reader.find("run")
                assert (record.first_seq, record.last_seq) == (4, 12)
                assert [part.first_seq for part in await self.read_all(reader, after=3)] == [4, 7, 10]
                for after in (0, 2):
                    await self._is_expired(reader.read("run", after), 4)
                    await self._is_expired(self.soon(reader.tail("run", after).next()), 4)
            await self._is_expired(self.soon(behind.next()), 4)
            assert await self.put(store, epoch, 13) is None
            assert await store.trim("run", 100) == 14
            record = await other.find("run")
            assert (record.first_seq, record.last_seq) == (14, 13)
            await self._is_expired(other.read("run", 12), 14)
            assert list((await other.read("run", 13)).segments) == []
            assert await self.put(store, epoch, 14, status="completed") is None
            assert [part.last_seq for part in await self.read_all(other, after=13)] == [14]

    async def _is_expired(self, reading: Awaitable[object], first_seq: int) -> None:
        error = await raised(CursorExpired, reading)
        assert isinstance(error, CursorExpired)
        assert error.first_seq == first_seq

    async def test_trimming_does_not_disturb_who_is_up_to_date(self) -> None:
        """A tail that waits at the end goes on waiting, and gets what comes."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            await self.put_all(store, epoch, 5)
            tail = other.tail("run", 5)
            task = asyncio.create_task(tail.next())
            await self.waits(task)
            assert await store.trim("run", 6) == 6
            await self.waits(task)
            assert await self.put(store, epoch, 6) is None
            assert [part.last_seq for part in (await self.soon(task)).segments] == [6]
            await tail.aclose()

    async def test_a_run_deleted_under_its_readers(self) -> None:
        """Waiting tails are told, and those that ask later; so is the writer."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            await self.put_all(store, epoch, 2)
            waiting = [store.tail("run", 2), other.tail("run", 2)]
            behind = other.tail("run", 0)
            tasks = [asyncio.create_task(tail.next()) for tail in waiting]
            for task in tasks:
                await self.waits(task)
            assert await other.delete("run")
            for task in tasks:
                await raised(RunNotFound, self.soon(task))
            await raised(RunNotFound, self.soon(behind.next()))
            await raised(RunNotFound, store.read("run", 0))
            assert await self.put(store, epoch, 3) == "gone"
            assert not (await asyncio.to_thread(store.renew, [("run", epoch)], 60.0))[0].held
            assert not await other.delete("run")
            for tail in (*waiting, behind):
                await tail.aclose()

    async def test_a_run_that_is_swept_under_its_readers(self) -> None:
        """One that has not come to its end is told that the run is gone."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            await self.put_all(store, epoch, 3, end=True)
            tails = [store.tail("run", 1), other.tail("run", 1)]
            await self.lease_runs_out()
            assert await store.sweep(Retention(max_age_s=0.0)) == 1
            for tail in tails:
                await raised(RunNotFound, self.soon(tail.next()))
                await tail.aclose()

    async def test_another_run_of_the_same_id(self) -> None:
        """A reader of a deleted run never gets what a later one of its id writes; that one has nothing of the old."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            await self.put_all(store, epoch, 3)
            tail = other.tail("run", 0)
            assert [part.last_seq for part in await self.follow(tail, 0, until=3)] == [1, 2, 3]
            assert await store.delete("run")
            epoch = await self.begin(store)
            assert (await other.find("run")).last_seq == 0
            for seq in range(1, 6):
                assert await self.put(store, epoch, seq, body=b"later") is None
            await raised(RunNotFound, self.soon(tail.next()))
            assert {part.body for part in await self.read_all(other)} == {b"later"}
            await tail.aclose()

    async def test_closing_ends_what_waits(self) -> None:
        """Calls that wait end with a StoreError when their store is closed; the other store's go on."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            doomed, kept = other.tail("run", 0), store.tail("run", 0)
            tasks: list[asyncio.Task[object]] = [
                asyncio.create_task(doomed.next()),
                asyncio.create_task(other.claim_next(["Desk"], "w2", 60.0, wait_s=3600.0)),
                asyncio.create_task(_commands(other)),
            ]
            goes_on = asyncio.create_task(kept.next())
            for task in (*tasks, goes_on):
                await self.waits(task)
            await other.aclose()
            for task in tasks:
                await raised(StoreError, self.soon(task))
            assert await self.put(store, epoch, 1) is None
            assert (await self.soon(goes_on)).last_seq == 1
            await kept.aclose()
            await doomed.aclose()

    async def test_closing_a_tail_leaves_the_others(self) -> None:
        """A tail is closed as often as one likes; its neighbours on the same run and store go on."""
        async with self.one_store() as store:
            epoch = await self.begin(store)
            first, second = store.tail("run", 0), store.tail("run", 0)
            assert await self.put(store, epoch, 1) is None
            assert (await self.soon(first.next())).last_seq == 1
            await first.aclose()
            await first.aclose()
            assert await self.put(store, epoch, 2) is None
            assert [part.last_seq for part in await self.follow(second, 0, until=2)] == [1, 2]
            await second.aclose()


async def _commands(store: Store) -> object:
    return await store.wait_commands({"run": 0})
