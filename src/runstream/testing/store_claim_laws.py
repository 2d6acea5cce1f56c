"""Laws of stores: a run has one worker at a time, and another one once it has none."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence

from runstream.log.base import Claim, NewRun, Renewal, Store
from runstream.testing.store_trial import StoreTrial

__all__ = ["StoreClaimLaws"]


class StoreClaimLaws(StoreTrial):
    """Claiming, queues, leases and heartbeats, handing back."""

    async def test_a_run_that_is_held_is_not_given_away(self) -> None:
        """While the lease lives nobody else gets it; its own worker, whose reply was lost, does."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            assert await other.claim("run", "w2", 60.0) is None
            assert await self.take(other, "w2") is None
            claim = await store.claim("run", "w1", 60.0)
            assert claim is not None
            assert claim.epoch >= epoch
            assert await self.put(store, claim.epoch, 1) is None

    async def test_taking_over_after_the_lease(self) -> None:
        """The new worker has a higher epoch and sees how far the log goes; the old one can do nothing any more."""
        async with self.two_stores() as (store, other):
            old = await self.begin(store, lease_s=self.lease_s)
            await self.put_all(store, old, 3)
            await self.lease_runs_out()
            claim = await other.claim("run", "w2", 60.0)
            assert claim is not None
            assert claim.epoch > old
            assert (claim.run.last_seq, claim.run.worker, claim.run.deliveries) == (3, "w2", 2)
            assert claim.run.status == "running"
            assert await self.put(store, old, 4) == "fenced"
            assert not (await self._renew(store, [("run", old)]))[0].held
            assert not await store.release("run", old)
            assert await self.put(other, claim.epoch, 4, status="completed") is None
            assert await self.put(store, old, 5) in ("fenced", "sealed")

    async def test_a_lease_that_ran_out_unnoticed(self) -> None:
        """As long as nobody took the run over, its worker goes on, and its next heartbeat revives the lease."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store, lease_s=self.lease_s)
            await self.lease_runs_out()
            assert await self.put(store, epoch, 1) is None
            assert (await self._renew(store, [("run", epoch)]))[0].held
            assert await other.claim("run", "w2", 60.0) is None

    async def test_heartbeats_keep_a_run(self) -> None:
        """Renewed in time, a lease never runs out; no longer renewed, it does."""
        async with self.two_stores() as (store, other):
            lease_s = self.lease_s * 3  # a slow machine needs its time as well
            epoch = await self.begin(store, lease_s=lease_s)
            for _ in range(4):
                await self.advance(lease_s * 0.4)
                assert (await self._renew(store, [("run", epoch)], lease_s))[0].held
                assert await other.claim("run", "w2", 60.0) is None
            await self.advance(lease_s * 1.2)
            assert await other.claim("run", "w2", 60.0) is not None

    async def test_heartbeats_need_no_event_loop(self) -> None:
        """From a thread, while the store's own event loop is held up."""
        async with self.one_store() as store:
            epoch = await self.begin(store)
            answers: list[Renewal] = []
            thread = threading.Thread(target=lambda: answers.extend(store.renew([("run", epoch)], 60.0)), daemon=True)
            thread.start()
            thread.join(self.patience_s)  # and nothing else runs meanwhile
            assert [answer.held for answer in answers] == [True]

    async def test_each_heartbeat_has_its_answer(self) -> None:
        """In order: held, taken over, ended, never there, handed back."""
        async with self.two_stores() as (store, other):
            held = await self.begin(store, "held")
            lost = await self.begin(store, "lost", lease_s=self.lease_s)
            ended = await self.begin(store, "ended")
            assert await self.put(store, ended, 1, run_id="ended", status="failed") is None
            back = await self.begin(store, "back")
            assert await store.release("back", back)
            await self.lease_runs_out()
            assert await other.claim("lost", "w2", 60.0) is not None
            leases = [
                ("held", held),
                ("lost", lost),
                ("ended", ended),
                ("never", 1),
                ("back", back),
                ("held", held - 1),
            ]
            answers = await self._renew(store, leases)
            assert [answer.held for answer in answers] == [True, False, False, False, False, False]
            assert list(await self._renew(store, [])) == []

    async def test_an_ended_run_has_no_worker(self) -> None:
        """It can neither be claimed nor handed back."""
        async with self.two_stores() as (store, other):
            await store.create(NewRun("run", "Desk", job=b"x"))
            claim = await self.take(store, "w1")
            assert claim is not None
            assert await self.put(store, claim.epoch, 1, status="completed") is None
            assert await other.claim("run", "w2", 60.0) is None
            assert await self.take(other, "w2") is None
            assert not await store.release("run", claim.epoch)

    async def test_two_claim_one_run(self) -> None:
        """However many try at once, from both stores, exactly one gets it."""
        async with self.two_stores() as (store, other):
            for turn in range(5):
                run_id = f"run_{turn}"
                await store.create(NewRun(run_id, "Desk", job=b"x"))
                workers = [(other if index % 2 else store, f"w{index}") for index in range(10)]
                by_name = [reader.claim(run_id, worker, 60.0) for reader, worker in workers[:6]]
                by_turn = [self.take(reader, worker) for reader, worker in workers[6:]]
                claims = [claim for claim in await self.soon(asyncio.gather(*by_name, *by_turn)) if claim is not None]
                assert len(claims) == 1
                record = await store.find(run_id)
                assert (record.worker, record.epoch) == (claims[0].run.worker, claims[0].epoch)

    async def test_every_job_is_given_once(self) -> None:
        """Workers of both stores, side by side, share what waits, and each job goes to one."""
        async with self.two_stores() as (store, other):
            names = [f"run_{index}" for index in range(24)]
            for name in names:
                await store.create(NewRun(name, "Desk", job=name.encode()))

            async def work(reader: Store, worker: str) -> list[str]:
                claims: list[Claim] = []
                while (claim := await self.take(reader, worker)) is not None:
                    claims.append(claim)
                assert all(claim.run.job == claim.run.run_id.encode() for claim in claims)
                return [claim.run.run_id for claim in claims]

            workers = [work(other if index % 2 else store, f"w{index}") for index in range(4)]
            given = await self.soon(asyncio.gather(*workers))
            assert sorted(itertools.chain(*given)) == sorted(names)

    async def test_only_ones_own_jobs_the_oldest_first(self) -> None:
        """Of the agents and the queues that were asked for; runs without a job are nobody's to take."""
        async with self.one_store() as store:
            await store.create(NewRun("no job", "Desk"))
            for run_id, agent, queue in (
                ("1", "Other", "day"),
                ("2", "Desk", "night"),
                ("3", "Desk", "day"),
                ("4", "Triage", "day"),
                ("5", "Desk", "day"),
            ):
                await store.create(NewRun(run_id, agent, queue=queue, job=b"x"))
            found = [
                await store.claim_next(["Desk", "Triage"], "w1", 60.0, queues=["day", "nothing here"]) for _ in range(4)
            ]
            assert [claim and claim.run.run_id for claim in found] == ["3", "4", "5", None]
            assert await store.claim_next(["Desk"], "w1", 60.0, queues=[]) is None
            assert await store.claim_next([], "w1", 60.0) is None
            found = [await store.claim_next(["Desk", "Other"], "w1", 60.0) for _ in range(3)]
            assert sorted(claim.run.run_id for claim in found if claim) == ["1", "2"]
            claim = await store.claim("no job", "w1", 60.0)  # by name it can be had
            assert claim is not None
            assert claim.run.status == "running"

    async def test_queues_take_turns(self) -> None:
        """A long queue does not keep a short one waiting."""
        async with self.two_stores() as (store, other):
            for index in range(6):
                await store.create(NewRun(f"long {index}", "Desk", queue="long", job=b"x"))
            for index in range(3):
                await store.create(NewRun(f"short {index}", "Desk", queue="short", job=b"x"))
            order: list[str] = []
            for turn in range(9):
                claim = await self.take(other if turn % 2 else store, "w1")
                assert claim is not None
                order.append(claim.run.run_id)
            assert [name for name in order if name[0] == "l"] == [f"long {index}" for index in range(6)]
            assert [name for name in order if name[0] == "s"] == [f"short {index}" for index in range(3)]
            assert {name[0] for name in order[0:2]} == {name[0] for name in order[2:4]} == {"l", "s"}

    async def test_waiting_for_a_job(self) -> None:
        """A job that comes, one that is handed back, and one whose worker died: each wakes who waits for it."""
        async with self.two_stores() as (store, other):
            waiting = self._wait_for_a_job(other)
            await self.waits(waiting)
            await store.create(NewRun("not ours", "Other", job=b"x"))
            await self.waits(waiting)
            await store.create(NewRun("new", "Desk", job=b"x"))
            assert await self._given(waiting) == "new"

            waiting = self._wait_for_a_job(other)
            claim = await store.claim_next(["Other"], "w1", 60.0)
            assert claim is not None
            await store.create(NewRun("back", "Desk", job=b"x"), worker="w1", lease_s=60.0)
            await self.waits(waiting)
            assert await store.release("back", (await store.find("back")).epoch)
            assert await self._given(waiting) == "back"

            waiting = self._wait_for_a_job(other)
            await self.begin(store, "left", lease_s=self.lease_s)
            await self.advance(self.lease_s * 0.3)
            await self.lease_runs_out()
            assert await self._given(waiting) == "left"

    def _wait_for_a_job(self, store: Store) -> asyncio.Task[Claim | None]:
        return asyncio.create_task(store.claim_next(["Desk"], "w2", 60.0, wait_s=3600.0))

    async def _given(self, waiting: asyncio.Task[Claim | None]) -> str:
        claim = await self.soon(waiting)
        assert claim is not None
        return claim.run.run_id

    async def test_waiting_for_a_job_ends(self) -> None:
        """After the time that was asked for there is none; a wait that is cancelled takes none."""
        async with self.two_stores() as (store, other):
            waiting = asyncio.create_task(other.claim_next(["Desk"], "w2", 60.0, wait_s=self.lease_s))
            await self.waits(waiting)
            await self.lease_runs_out()
            assert await self.soon(waiting) is None
            given_up = self._wait_for_a_job(other)
            await self.waits(given_up)
            given_up.cancel()
            await asyncio.wait({given_up})
            await store.create(NewRun("run", "Desk", job=b"x"))
            claim = await self.take(store, "w1")
            assert claim is not None

    async def test_handing_a_run_back(self) -> None:
        """It is queued again, with what was written, and the delivery does not count; who gave it back has lost it."""
        async with self.two_stores() as (store, other):
            await store.create(NewRun("run", "Desk", job=b"x"))
            claim = await self.take(store, "w1")
            assert claim is not None
            assert claim.run.deliveries == 1
            await self.put_all(store, claim.epoch, 2)
            assert await store.release("run", claim.epoch)
            assert not await store.release("run", claim.epoch)
            record = await other.find("run")
            assert (record.status, record.deliveries, record.last_seq) == ("queued", 0, 2)
            assert await self.put(store, claim.epoch, 3) == "fenced"
            again = await self.take(other, "w2")
            assert again is not None
            assert (again.run.deliveries, again.run.last_seq, again.run.job) == (1, 2, b"x")
            assert again.epoch > claim.epoch
            assert await self.put(other, again.epoch, 3) is None

    async def test_a_run_that_waits_for_a_person_does_so_whoever_has_it(self) -> None:
        """Handed back or left, it is given out as any other, and waits until an event says otherwise."""
        async with self.two_stores() as (store, other):
            await store.create(NewRun("run", "Desk", job=b"x"))
            first = await self.take(store, "w1")
            assert first is not None
            assert await self.put(store, first.epoch, 1, status="waiting") is None
            assert await store.release("run", first.epoch)
            assert (await other.find("run")).status == "waiting"
            second = await other.claim_next(["Desk"], "w2", self.lease_s)
            assert second is not None
            assert (second.run.status, second.run.deliveries) == ("waiting", 1)
            await self.lease_runs_out()
            third = await self.take(store, "w1")
            assert third is not None
            assert (third.run.status, third.run.deliveries) == ("waiting", 2)
            assert await self.put(store, third.epoch, 2) is None
            assert [record.run_id for record in await other.list_runs(status=["waiting"])] == ["run"]
            assert await self.put(store, third.epoch, 3, status="running") is None
            assert (await other.find("run")).status == "running"

    async def test_deliveries_are_counted(self) -> None:
        """So that a run that kills its workers can be told."""
        async with self.one_store() as store:
            await store.create(NewRun("run", "Desk", job=b"x"))
            for count in (1, 2, 3):
                claim = await store.claim_next(["Desk"], f"w{count}", self.lease_s)
                assert claim is not None
                assert claim.run.deliveries == (await store.find("run")).deliveries == count
                await self.lease_runs_out()

    async def test_epochs_only_grow(self) -> None:
        """Also when nothing was written, when runs are handed back, and when the clock is set back or forth."""
        async with self.two_stores() as (store, other):
            await store.create(NewRun("run", "Desk", job=b"x"))
            epochs = [0]
            steps = itertools.cycle([-3600.0, -0.001, 7200.0, 0.0, -86_400.0])
            for turn, step_s in zip(range(10), steps, strict=False):
                worker = other if turn % 2 else store
                claim = await worker.claim("run", f"w{turn}", 60.0)
                assert claim is not None
                epochs.append(claim.epoch)
                if turn % 3 == 0:
                    last_seq = claim.run.last_seq
                    assert await self.put(worker, claim.epoch, last_seq + 1) is None
                assert await worker.release("run", claim.epoch)
                await self.step_clock(step_s)
            assert epochs == sorted(set(epochs))
            record = await store.find("run")
            assert epochs[1] >= int(record.created_at * 1000)
            assert record.epoch == epochs[-1]
            assert [part.last_seq for part in await self.read_all(store)] == [1, 2, 3, 4]

    async def _renew(self, store: Store, leases: Sequence[tuple[str, int]], lease_s: float = 60.0) -> Sequence[Renewal]:
        return await asyncio.to_thread(store.renew, leases, lease_s)
