"""Laws of stores: runs are entered once, and their logs take segments whole, in order, from one writer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from runstream.errors import RunExists, RunNotFound
from runstream.events.event import RunStatus
from runstream.log.base import Append, Claim, Command, NewRun, Refusal, Store, StoredStatus
from runstream.log.cursor import epoch_of
from runstream.testing.store_trial import StoreTrial, UnfencedStore, raised, segment

__all__ = ["StoreLogLaws"]

ODD_NAMES = (
    "läuft 🙂",
    "a/b\\c..",
    "{tag}:*?[x]",
    "quo\"te's; --",
    "%00 $HOME\t",
    "\uff46\uff55\uff4c\uff4c",
    "x" * 200,
)


class StoreLogLaws(StoreTrial):
    """Entering runs, appending, reading."""

    async def test_a_run_is_found_as_it_was_entered(self) -> None:
        """A queued run has all that it was entered with, and no epoch; a claimed one has its worker and its epoch."""
        async with self.two_stores() as (store, other):
            job = bytes(range(256))
            assert await store.create(NewRun("queued", "Desk", "ann", "night", job)) == 0
            epoch = await store.create(NewRun("held", "Desk"), worker="w1", lease_s=60.0)
            assert epoch >= 1
            queued, held = await other.find("queued"), await other.find("held")
            assert (queued.run_id, queued.agent, queued.owner, queued.queue, queued.job) == (
                *("queued", "Desk", "ann", "night"),
                job,
            )
            assert (queued.status, queued.epoch, queued.worker, queued.deliveries) == ("queued", 0, None, 0)
            assert (held.status, held.epoch, held.worker, held.deliveries) == ("running", epoch, "w1", 1)
            assert (held.owner, held.queue, held.job) == (None, "default", None)
            for record in (queued, held):
                assert (record.first_seq, record.last_seq, record.ended_at, record.ended) == (1, 0, None, False)
                assert record.created_at <= record.updated_at

    async def test_a_run_is_entered_once(self) -> None:
        """The same call again gets the same answer; any other, or one after the run went on, finds it there."""
        async with self.two_stores() as (store, other):
            queued = NewRun("queued", "Desk", job=b"x")
            assert [await store.create(queued) for _ in range(3)] == [0, 0, 0]
            epoch = await self.begin(store, "held")
            assert await self.begin(store, "held") == epoch
            await raised(RunExists, self.begin(other, "held", worker="w2"))
            await raised(RunExists, other.create(NewRun("queued", "Other", job=b"x")))
            await raised(RunExists, other.create(queued, worker="w1", lease_s=60.0))
            assert await self.put(store, epoch, 1, run_id="held") is None
            await raised(RunExists, self.begin(store, "held"))
            assert [record.run_id for record in await store.list_runs()] == ["held", "queued"]

    async def test_a_run_that_is_not_there(self) -> None:
        """Each method says so in its way."""
        async with self.one_store() as store:
            await raised(RunNotFound, store.find("run"))
            await raised(RunNotFound, store.claim("run", "w1", 60.0))
            await raised(RunNotFound, store.read("run", 0))
            await raised(RunNotFound, self.soon(store.tail("run", 0).next()))
            await raised(RunNotFound, store.send("run", Command("cancel", {})))
            await raised(RunNotFound, store.commands("run", 0))
            await raised(RunNotFound, store.trim("run", 5))
            assert await self.put(store, 1, 1) == "gone"
            assert not (await asyncio.to_thread(store.renew, [("run", 1)], 60.0))[0].held
            assert not await store.release("run", 1)
            assert not await store.delete("run")

    async def test_segments_come_back_as_they_were(self) -> None:
        """Every byte, seq and epoch, also of bodies that are no text or empty."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            bodies = [bytes(range(256)), b"", b"\n\n", b"\x00", "ü🙂".encode(), b"\r\n"]
            for index, body in enumerate(bodies):
                first_seq = 1 + 3 * index
                assert await self.put(store, epoch, first_seq, first_seq + 2, body=body) is None
            for reader in (store, other):
                found = await self.read_all(reader)
                assert [part.body for part in found] == bodies
                assert [(part.first_seq, part.last_seq) for part in found] == [(1 + 3 * i, 3 + 3 * i) for i in range(6)]
                assert {part.epoch for part in found} == {epoch}

    async def test_big_bodies_and_the_bound_of_a_page(self) -> None:
        """A segment of 1 MB is one segment; a page has at least one segment, and about as many bytes as asked for."""
        async with self.one_store() as store:
            epoch = await self.begin(store)
            big = random.Random(1).randbytes(1_050_000)
            assert await self.put(store, epoch, 1, body=big) is None
            assert [part.body for part in (await store.read("run", 0, max_bytes=1)).segments] == [big]
            for seq in range(2, 32):
                assert await self.put(store, epoch, seq, body=big[:100_000]) is None
            page = await store.read("run", 1, max_bytes=300_000)
            assert 1 <= len(page.segments) <= 12
            assert page.last_seq == 31
            assert len(await self.read_all(store)) == 31

    async def test_reading_from_every_cursor(self) -> None:
        """A page begins with the segment that holds the next seq; at the end it is empty; it tells how far the log
        goes."""
        async with self.one_store() as store:
            epoch = await self.begin(store)
            page = await store.read("run", 0)
            assert (list(page.segments), page.last_seq, page.ended) == ([], 0, False)
            for first_seq in (1, 4, 7):
                assert await self.put(store, epoch, first_seq, first_seq + 2) is None
            for after in range(9):
                page = await store.read("run", after)
                first = page.segments[0]
                assert first.first_seq <= after + 1 <= first.last_seq
                assert (page.last_seq, page.ended) == (9, False)
            page = await store.read("run", 9)
            assert (list(page.segments), page.last_seq, page.ended) == ([], 9, False)
            assert await self.put(store, epoch, 10, status="completed") is None
            for after in (0, 9, 10):
                page = await store.read("run", after)
                assert (page.last_seq, page.ended) == (10, True)

    async def test_a_segment_has_to_follow_the_last_one(self) -> None:
        """One that leaves something out, or is new only in part, is a gap and changes nothing."""
        async with self.one_store() as store:
            epoch = await self.begin(store)
            assert await self.put(store, epoch, 2) == "gap"
            assert await self.put(store, epoch, 1, 3) is None
            for first_seq, last_seq in ((5, 5), (2, 4), (1, 4)):
                assert await self.put(store, epoch, first_seq, last_seq) == "gap"
            assert [part.last_seq for part in await self.read_all(store)] == [3]
            assert await self.put(store, epoch, 4) is None

    async def test_an_end_seals_the_log(self) -> None:
        """From the moment that the last segment is there: the status, the time of the end, nothing more."""
        async with self.two_stores() as (store, other):
            ends: tuple[RunStatus, ...] = ("completed", "failed", "cancelled", "interrupted")
            for status in ends:
                epoch = await self.begin(store, status)
                assert await self.put(store, epoch, 1, run_id=status) is None
                assert not (await other.find(status)).ended
                assert await self.put(store, epoch, 2, run_id=status, status=status) is None
                record = await other.find(status)
                assert (record.status, record.ended, record.last_seq, record.worker) == (status, True, 2, "w1")
                assert record.ended_at is not None
                assert record.ended_at >= record.created_at
                assert await self.put(store, epoch, 3, run_id=status) == "sealed"
                assert [part.last_seq for part in await self.read_all(other, status)] == [1, 2]

    async def test_other_statuses_come_and_go(self) -> None:
        """Waiting and running are set with a segment and seal nothing."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            statuses: tuple[StoredStatus, ...] = ("waiting", "running", "waiting")
            for seq, status in enumerate(statuses, 1):
                assert await self.put(store, epoch, seq, status=status) is None
                assert (await other.find("run")).status == status
            assert await self.put(store, epoch, 4) is None
            assert (await other.find("run")).status == "waiting"

    async def test_a_flush_whose_reply_was_lost(self) -> None:
        """What is there already counts as written and is not written twice: the newest, older ones, the end."""
        async with self.one_store() as store:
            epoch = await self.begin(store)
            for first_seq in (1, 4):
                for _ in range(2):
                    assert await self.put(store, epoch, first_seq, first_seq + 2) is None
            assert await self.put(store, epoch, 1, 3) is None
            for _ in range(2):
                assert await self.put(store, epoch, 7, status="completed") is None
            assert await self.put(store, epoch, 4, 6) is None
            assert [part.last_seq for part in await self.read_all(store)] == [3, 6, 7]

    async def test_a_flush_that_was_written_in_part(self) -> None:
        """Repeated as a whole, it writes what was not there."""
        async with self.one_store() as store:
            epochs = {run_id: await self.begin(store, run_id) for run_id in "abc"}
            assert await self.put(store, epochs["b"], 1, run_id="b") is None
            flush = [Append(run_id, epoch, segment(1)) for run_id, epoch in epochs.items()]
            for _ in range(2):
                assert await _answers(store, flush) == [None, None, None]
            for run_id in "abc":
                assert len(await self.read_all(store, run_id)) == 1

    async def test_each_run_of_a_flush_has_its_own_answer(self) -> None:
        """In order; what is refused holds nothing back. An empty flush is none."""
        async with self.one_store() as store:
            epochs = {run_id: await self.begin(store, run_id) for run_id in ("ok", "gap", "fenced", "sealed", "last")}
            assert await self.put(store, epochs["sealed"], 1, run_id="sealed", status="completed") is None
            appends = [
                Append("ok", epochs["ok"], segment(1)),
                Append("gap", epochs["gap"], segment(2)),
                Append("fenced", epochs["fenced"] - 1, segment(1)),
                Append("sealed", epochs["sealed"], segment(2)),
                Append("gone", 1, segment(1)),
                Append("last", epochs["last"], segment(1), "completed"),
            ]
            assert await _answers(store, appends) == [None, "gap", "fenced", "sealed", "gone", None]
            assert await _answers(store, appends) == [None, "gap", "fenced", "sealed", "gone", None]
            assert await _answers(store, []) == []
            counts = [len(await self.read_all(store, run_id)) for run_id in epochs]
            assert counts == [1, 0, 0, 1, 1]

    async def test_a_thousand_runs_in_one_flush(self) -> None:
        """All are written, each into its own log."""
        async with self.two_stores() as (store, other):
            names = [f"run_{index}" for index in range(1_000)]
            epochs = await asyncio.gather(*(self.begin(store, name) for name in names))
            for seq in (1, 2):
                flush = [
                    Append(name, epoch, segment(seq, body=f"{name} {seq}".encode()))
                    for name, epoch in zip(names, epochs, strict=True)
                ]
                assert await _answers(store, flush) == [None] * 1_000
            for name in names[::97]:
                bodies = [part.body for part in await self.read_all(other, name)]
                assert bodies == [f"{name} 1".encode(), f"{name} 2".encode()]

    async def test_a_flush_is_seen_whole(self) -> None:
        """A reader beside the writer sees segments whole and in order, and no end without all that came before it."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            bodies = {seq: bytes([seq]) * 20_000 for seq in range(1, 31)}

            async def write() -> None:
                for seq, body in bodies.items():
                    status = "completed" if seq == 30 else None
                    assert await self.put(store, epoch, seq, body=body, status=status) is None
                    await asyncio.sleep(0)

            async def read() -> None:
                while True:
                    page = await other.read("run", 0, max_bytes=10_000_000)
                    assert [part.body for part in page.segments] == [bodies[i + 1] for i in range(len(page.segments))]
                    assert page.last_seq >= len(page.segments)
                    if page.ended:
                        assert page.last_seq == len(await self.read_all(other)) == 30
                        return
                    await asyncio.sleep(0)

            await self.soon(asyncio.gather(write(), read()))

    async def test_a_flush_that_was_cancelled(self) -> None:
        """Given up at any moment, it was written or not; repeated, it is written once, and the store goes on."""
        async with self.two_stores() as (store, other):
            epochs = {run_id: await self.begin(store, run_id) for run_id in "ab"}
            for seq in range(1, 41):
                flush = [Append(run_id, epoch, segment(seq)) for run_id, epoch in epochs.items()]
                task = asyncio.create_task(_answers(store, flush))
                reading = asyncio.create_task(store.read("a", 0))
                for _ in range(seq % 8):
                    await asyncio.sleep(0)
                task.cancel()
                reading.cancel()
                await self.soon(asyncio.gather(task, reading, return_exceptions=True))
                assert await self.soon(_answers(store, flush)) == [None, None]
            for run_id in epochs:
                found = await self.read_all(other, run_id)
                assert [(part.last_seq, part.body) for part in found] == [
                    (seq, segment(seq).body) for seq in range(1, 41)
                ]

    async def test_a_takeover_amid_appends(self) -> None:
        """Whatever was acknowledged before another worker came is in the log, and nothing of the old one after it."""
        async with self.two_stores() as (store, other):
            for turn in range(5):
                run_id = f"run_{turn}"
                old = await self.begin(store, run_id, lease_s=self.lease_s)
                await self.lease_runs_out()
                acknowledged: list[int] = []

                async def write(run_id: str = run_id, old: int = old, acknowledged: list[int] = acknowledged) -> None:
                    while True:
                        seq = len(acknowledged) + 1
                        answer = await self.put(store, old, seq, run_id=run_id, body=b"old %d" % seq)
                        if answer is not None:
                            assert answer == "fenced"
                            return
                        acknowledged.append(seq)
                        await asyncio.sleep(0)

                async def take_over(run_id: str = run_id, turn: int = turn) -> Claim:
                    for _ in range(turn * 10):
                        await asyncio.sleep(0)
                    claim = await other.claim(run_id, "w2", 60.0)
                    assert claim is not None
                    first_seq = claim.run.last_seq + 1
                    assert await self.put(other, claim.epoch, first_seq, run_id=run_id, body=b"new") is None
                    return claim

                _, claim = await self.soon(asyncio.gather(write(), take_over()))
                assert claim.run.last_seq == len(acknowledged)
                bodies = [part.body for part in await self.read_all(other, run_id)]
                assert bodies == [*(b"old %d" % seq for seq in acknowledged), b"new"]

    async def test_nobody_appends_but_the_newest_epoch(self) -> None:
        """A worker that was taken over from, woken again, writes nothing, whatever it tries."""
        async with self.two_stores() as (store, other):
            assert await self._foreign_bodies(store, other) == []

    async def test_the_fencing_test_can_fail(self) -> None:
        """Negative control: over a store that does not check the epoch, the same trial finds what the old one wrote."""
        async with self.two_stores() as (store, other):
            assert await self._foreign_bodies(UnfencedStore(store), other) != []

    async def _foreign_bodies(self, old: Store, new: Store) -> list[bytes]:
        """What an old worker gets into the log of the new one."""
        epoch = await self.begin(old, lease_s=self.lease_s)
        assert await self.put(old, epoch, 1) is None
        await self.lease_runs_out()
        claim = await new.claim("run", "w2", 60.0)
        assert claim is not None
        answers: list[Refusal | None] = []
        for seq in range(2, 6):
            answers.append(await self.put(old, epoch, seq, body=b"old"))
            next_seq = (await new.find("run")).last_seq + 1
            assert await self.put(new, claim.epoch, next_seq, body=b"new") is None
            answers.append(await self.put(old, epoch, next_seq + 1, body=b"old", status="failed"))
            if (await new.find("run")).ended:
                break
        foreign = [part.body for part in await self.read_all(new, after=1) if part.body != b"new"]
        assert foreign or set(answers) == {"fenced"}
        return foreign

    async def test_which_epoch_wrote_a_seq(self) -> None:
        """The record's epochs tell it for every seq, and the segments themselves."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store, lease_s=self.lease_s)
            owners: list[int] = []
            stores = [store, other] * 2
            for turn, writer in enumerate(stores):
                for _ in range(turn + 1):
                    assert await self.put(writer, epoch, len(owners) + 1) is None
                    owners.append(epoch)
                await self.lease_runs_out()
                claim = await stores[turn - 1].claim("run", f"other {turn}", self.lease_s)
                assert claim is not None
                assert claim.run.epoch == claim.epoch > epoch
                epoch = claim.epoch
            record = await store.find("run")
            assert [epoch_of(seq + 1, record.epochs) for seq in range(len(owners))] == owners
            assert [part.epoch for part in await self.read_all(store)] == owners
            assert epoch_of(len(owners) + 1, record.epochs) == epoch == record.epoch

    async def test_names_may_be_anything(self) -> None:
        """Ids of runs, names of agents, owners, queues and workers in any script, with what other systems give a
        meaning."""
        async with self.two_stores() as (store, other):
            for name in ODD_NAMES:
                await store.create(NewRun(name, name, name, name, b"x"))
                claim = await other.claim_next([name], name, 60.0, queues=[name])
                assert claim is not None
                assert await self.put(other, claim.epoch, 1, run_id=name) is None
                await store.send(name, Command("input", {name: name}))
                record = await store.find(name)
                assert (record.run_id, record.agent, record.owner, record.queue, record.worker) == (name,) * 5
                assert [command.data for command in await other.commands(name, 0)] == [{name: name}]
            for name in ODD_NAMES:
                assert [part.body for part in await self.read_all(store, name)] == [b"1-1"]
                assert [record.run_id for record in await store.list_runs(owner=name)] == [name]
                assert await store.delete_owner(name) == 1
            assert list(await other.list_runs()) == []

    async def test_what_was_written_is_there_after_reopening(self) -> None:
        """Logs, records, leases and commands; opening and closing may be repeated."""
        store = await self.open_store()
        await store.open()
        epoch = await store.create(NewRun("run", "Desk", "ann", "night", b"job"), worker="w1", lease_s=60.0)
        await self.put_all(store, epoch, 3)
        await store.send("run", Command("cancel", {"why": "ü"}))
        record = await store.find("run")
        await store.aclose()
        await store.aclose()
        async with self.one_store() as again:
            assert await again.find("run") == record
            assert [part.last_seq for part in await self.read_all(again)] == [1, 2, 3]
            assert [command.number for command in await again.commands("run", 0)] == [1]
            assert await again.claim("run", "w2", 60.0) is None
            assert await self.put(again, epoch, 4) is None
            assert again.url == store.url


async def _answers(store: Store, appends: Sequence[Append]) -> list[Refusal | None]:
    return list(await store.append(appends))
