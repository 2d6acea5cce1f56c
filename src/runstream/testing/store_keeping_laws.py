"""Laws of stores: what people ask of a run reaches it; runs are listed, kept and removed as was said."""

from __future__ import annotations

import asyncio
from typing import Any

from runstream.errors import RunNotFound, RunSealed
from runstream.log.base import Command, NewRun, Retention, Store
from runstream.testing.store_trial import StoreTrial, raised

__all__ = ["StoreKeepingLaws"]


class StoreKeepingLaws(StoreTrial):
    """Commands, listing, retention, deletion."""

    async def test_commands_come_in_order(self) -> None:
        """Numbered from 1 within the run, as they were asked, for every store; a reader asks for those that it does
        not know."""
        async with self.two_stores() as (store, other):
            await self.begin(store)
            await self.begin(store, "second")
            data: list[dict[str, Any]] = [{}, {"call_id": "ü🙂\n", "deep": [1, 2.5, None, {"x": True}]}, {"": ""}]
            kinds = ("cancel", "approval", "input")
            for index, kind in enumerate(kinds):
                assert await other.send("run", Command(kind, data[index])) == index + 1
            assert await other.send("second", Command("cancel", {})) == 1
            for reader in (store, other):
                found = await reader.commands("run", 0)
                assert list(found) == [Command(kind, data[i], i + 1) for i, kind in enumerate(kinds)]
                assert [command.number for command in await reader.commands("run", 2)] == [3]
                assert list(await reader.commands("run", 3)) == []

    async def test_many_send_at_once(self) -> None:
        """From both stores: every command has its own number and none is lost."""
        async with self.two_stores() as (store, other):
            await self.begin(store)
            sending = [
                (other if index % 2 else store).send("run", Command("input", {"index": index})) for index in range(40)
            ]
            numbers = await self.soon(asyncio.gather(*sending))
            assert sorted(numbers) == list(range(1, 41))
            found = await store.commands("run", 0)
            assert [command.number for command in found] == list(range(1, 41))
            assert [numbers[command.data["index"]] for command in found] == list(range(1, 41))

    async def test_commands_to_a_run_that_has_ended(self) -> None:
        """Are refused, those to an unknown one too; a run that only waits in a queue takes them."""
        async with self.one_store() as store:
            epoch = await self.begin(store)
            await store.send("run", Command("cancel", {}))
            assert await self.put(store, epoch, 1, status="cancelled") is None
            await raised(RunSealed, store.send("run", Command("cancel", {})))
            await raised(RunNotFound, store.send("none", Command("cancel", {})))
            await raised(RunNotFound, store.commands("none", 0))
            await store.create(NewRun("queued", "Desk", job=b"x"))
            assert await store.send("queued", Command("cancel", {})) == 1
            claim = await self.take(store, "w1")
            assert claim is not None
            assert len(await store.commands("queued", 0)) == 1

    async def test_waiting_for_commands(self) -> None:
        """Returns at once where there is one already, else when one comes, from whichever store; says to which run."""
        async with self.two_stores() as (store, other):
            for run_id in ("a", "b"):
                await self.begin(store, run_id)
            waiting = asyncio.create_task(_wait_commands(store, {"a": 0, "b": 0}))
            await self.waits(waiting)
            await other.send("b", Command("cancel", {}))
            assert await self.soon(waiting) == ["b"]
            assert await self.soon(_wait_commands(store, {"a": 0, "b": 0})) == ["b"]
            waiting = asyncio.create_task(_wait_commands(store, {"a": 0, "b": 1}))
            await self.waits(waiting)
            await store.send("a", Command("cancel", {}))
            await other.send("b", Command("cancel", {}))
            assert set(await self.soon(waiting)) <= {"a", "b"}
            assert await self.soon(_wait_commands(other, {"a": 1, "b": 1})) == ["b"]

    async def test_no_command_goes_unnoticed(self) -> None:
        """Whenever it is sent between two waits, and also where a wait was cancelled, the next wait tells of it."""
        async with self.two_stores() as (store, other):
            await self.begin(store)

            async def work() -> None:
                known, turn = 0, 0
                while known < 40:
                    waiting = asyncio.create_task(_wait_commands(store, {"run": known}))
                    turn = (turn + 1) % 5
                    if turn == 0:
                        await asyncio.sleep(0)
                        waiting.cancel()
                    await _ended(waiting)
                    if waiting.cancelled():
                        continue
                    assert waiting.result() == ["run"]
                    numbers = [command.number for command in await store.commands("run", known)]
                    assert numbers == list(range(known + 1, known + 1 + len(numbers)))
                    assert numbers, "woken for nothing"
                    known = numbers[-1]

            async def ask() -> None:
                for index in range(40):
                    await (other if index % 3 else store).send("run", Command("input", {}))
                    for _ in range(index % 4):
                        await asyncio.sleep(0)

            await self.soon(asyncio.gather(work(), ask()))

    async def test_runs_that_are_over_tell_of_no_command(self) -> None:
        """Ended and deleted runs are no reason to wake."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store, "ended")
            await self.begin(store, "gone")
            await self.begin(store, "live")
            for run_id in ("ended", "gone"):
                await other.send(run_id, Command("cancel", {}))
            assert await self.put(store, epoch, 1, run_id="ended", status="cancelled") is None
            assert await store.delete("gone")
            waiting = asyncio.create_task(_wait_commands(store, {"ended": 0, "gone": 0, "never": 0, "live": 0}))
            await self.waits(waiting)
            await other.send("live", Command("cancel", {}))
            assert await self.soon(waiting) == ["live"]

    async def test_heartbeats_tell_of_commands(self) -> None:
        """The answer to a heartbeat has the number of the newest command, after a takeover too."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store, lease_s=self.lease_s)
            for number in (0, 1, 2):
                (answer,) = await asyncio.to_thread(store.renew, [("run", epoch)], self.lease_s)
                assert (answer.held, answer.last_command) == (True, number)
                await other.send("run", Command("input", {}))
            await self.lease_runs_out()
            claim = await other.claim("run", "w2", 60.0)
            assert claim is not None
            (answer,) = await asyncio.to_thread(other.renew, [("run", claim.epoch)], 60.0)
            assert (answer.held, answer.last_command) == (True, 3)
            assert [command.number for command in await other.commands("run", 0)] == [1, 2, 3]

    async def test_listing(self) -> None:
        """The newest first, by status, agent and person, at most so many, without their jobs."""
        async with self.two_stores() as (store, other):
            for index in range(6):
                new = NewRun(f"run_{index}", "Desk" if index % 2 else "Other", "ann" if index < 4 else "bob", job=b"x")
                await store.create(new)
                await self.advance(0.002)
            claim = await store.claim("run_1", "w1", 60.0)
            assert claim is not None
            assert await self.put(store, claim.epoch, 1, run_id="run_1", status="failed") is None
            assert await store.claim("run_2", "w1", 60.0) is not None
            for reader in (store, other):
                assert await _listed(reader) == [5, 4, 3, 2, 1, 0]
                assert await _listed(reader, limit=2) == [5, 4]
                assert await _listed(reader, agent="Desk") == [5, 3, 1]
                assert await _listed(reader, owner="ann") == [3, 2, 1, 0]
                assert await _listed(reader, status=["failed", "running"]) == [2, 1]
                assert await _listed(reader, status=["queued"], agent="Other", owner="ann", limit=1) == [0]
                assert await _listed(reader, status=["completed"]) == []
                assert await _listed(reader, owner="nobody") == []
                assert {record.job for record in await reader.list_runs()} == {None}

    async def test_listing_goes_on(self) -> None:
        """The last run of a list leads to the next list, also when that run was deleted meanwhile."""
        async with self.two_stores() as (store, other):
            for index in range(6):
                await store.create(NewRun(f"run_{index}", "Desk", "bob" if index == 1 else "ann", job=b"x"))
                await self.advance(0.002)
            place: tuple[float, str] | None = None
            seen: list[str] = []
            while found := await other.list_runs(owner="ann", limit=2, before=place):
                seen += [record.run_id for record in found]
                place = (found[-1].created_at, found[-1].run_id)
                assert await store.delete(found[0].run_id)
            assert seen == ["run_5", "run_4", "run_3", "run_2", "run_0"]
            assert len(await store.list_runs(before=(0.0, "run_2"))) == 1
            assert await store.list_runs(owner="bob", before=(0.0, "run_2")) == []
            for record in await other.list_runs():
                place = (record.created_at, record.run_id)
                assert await store.delete(record.run_id)
                left = [one.run_id for one in await other.list_runs(before=place)]
                assert record.run_id not in left
                assert len(left) == len(await other.list_runs(before=(record.created_at + 60, "run_9")))
                assert await other.list_runs(before=(0.0, "run_9")) == []

    async def test_runs_are_kept_for_a_time(self) -> None:
        """Ended runs go when they are older than said; others stay however old they are."""
        async with self.two_stores() as (store, other):
            await self._end(store, "old")
            await self.begin(store, "running")
            await store.create(NewRun("queued", "Desk", job=b"x"))
            assert await other.sweep(Retention()) == 0
            assert await other.sweep(Retention(max_age_s=3600.0)) == 0
            await self.advance(self.lease_s * 3)
            await self._end(store, "new")
            assert await other.sweep(Retention(max_age_s=self.lease_s * 2.5)) == 1
            assert {record.run_id for record in await store.list_runs()} == {"running", "queued", "new"}
            await raised(RunNotFound, store.find("old"))
            await raised(RunNotFound, store.read("old", 0))

    async def test_so_many_runs_are_kept(self) -> None:
        """The newest so many of the ended ones; running ones neither count nor go."""
        async with self.one_store() as store:
            await self.begin(store, "running")
            for index in range(5):
                await self._end(store, f"run_{index}")
                await self.advance(0.002)
            assert await store.sweep(Retention(max_age_s=3600.0, max_count=5)) == 0
            assert await store.sweep(Retention(max_count=2)) == 3
            assert {record.run_id for record in await store.list_runs()} == {"running", "run_3", "run_4"}
            assert await store.sweep(Retention(max_count=0)) == 2
            assert await _names(store) == ["running"]

    async def test_deleting_under_the_worker(self) -> None:
        """The worker is told with its next flush and heartbeat; all of the run is gone; its id is free."""
        async with self.two_stores() as (store, other):
            epoch = await self.begin(store)
            await self.put_all(store, epoch, 3)
            await other.send("run", Command("cancel", {}))
            assert await other.delete("run")
            assert await self.put(store, epoch, 4) == "gone"
            assert not (await asyncio.to_thread(store.renew, [("run", epoch)], 60.0))[0].held
            again = await self.begin(other, worker="w2")
            record = await store.find("run")
            assert (record.last_seq, record.epoch, record.worker, record.deliveries) == (0, again, "w2", 1)
            assert list(await store.commands("run", 0)) == []
            assert await self.read_all(store) == []
            if again != epoch:
                assert await self.put(store, epoch, 1) == "fenced"
            await store.create(NewRun("job", "Desk", job=b"x"))
            assert await store.delete("job")
            assert await self.take(other, "w1") is None

    async def test_a_persons_runs_can_be_deleted(self) -> None:
        """All of them, in every state, and nobody else's."""
        async with self.two_stores() as (store, other):
            for index in range(5):
                await store.create(NewRun(f"ann_{index}", "Desk", "ann", job=b"x"))
                await store.create(NewRun(f"bob_{index}", "Desk", "bob", job=b"x"))
            await store.create(NewRun("nobody", "Desk", job=b"x"))
            claim = await store.claim("ann_3", "w1", 60.0)
            assert claim is not None
            assert await self.put(store, claim.epoch, 1, run_id="ann_3", status="completed") is None
            assert await store.claim("ann_4", "w1", 60.0) is not None
            assert await other.delete_owner("ann") == 5
            assert await other.delete_owner("ann") == 0
            assert len(await store.list_runs()) == 6
            assert await _listed(store, owner="bob") == [4, 3, 2, 1, 0]

    async def _end(self, store: Store, run_id: str) -> None:
        epoch = await self.begin(store, run_id)
        assert await self.put(store, epoch, 1, run_id=run_id, status="completed") is None


async def _ended(task: asyncio.Task[list[str]]) -> None:
    """Wait for it without raising what it raises; where this wait is cancelled, it is too."""
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()


async def _wait_commands(store: Store, known: dict[str, int]) -> list[str]:
    return list(await store.wait_commands(known))


async def _names(store: Store) -> list[str]:
    return [record.run_id for record in await store.list_runs()]


async def _listed(store: Store, **filters: Any) -> list[int]:
    return [int(record.run_id.split("_")[1]) for record in await store.list_runs(**filters)]
