"""What becomes of runs on Redis when the server dies, is replaced, stands still, is full, or when replies are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from redis_server import Proxy, RedisServer, in_step
from runstream import Agent, RunConfig, Runner, RunResultStreaming
from runstream.clock import system_clock
from runstream.errors import CursorExpired, CursorInvalid, RunNotFound, StoreError, StoreUnavailable
from runstream.log.base import Append, Claim, Command, NewRun, Refusal, Segment, StoredStatus
from runstream.log.cursor import resolve
from runstream.log.redis import RedisStore
from runstream.testing import ScriptedModel, Turn

pytestmark = pytest.mark.system

_LEASE_S = 30.0


def part(run_id: str, epoch: int, first: int, last: int, status: StoredStatus | None = None) -> Append:
    return Append(run_id, epoch, Segment(first, last, b"%d-%d" % (first, last)), status)


async def opened(url: str) -> RedisStore:
    store = RedisStore(url)
    await store.open()
    return store


async def begin(store: RedisStore, run_id: str = "run", worker: str = "worker") -> int:
    return await store.create(NewRun(run_id, "agent"), worker=worker, lease_s=_LEASE_S)


async def insist(store: RedisStore, *appends: Append) -> list[Refusal | None]:
    """The same flush until it is answered."""
    while True:
        try:
            return [*await store.append(appends)]
        except StoreUnavailable:
            await system_clock.sleep(0.02)


async def read_to_the_end(store: RedisStore, run_id: str) -> list[tuple[int, int]]:
    tail = store.tail(run_id, 0)
    places: list[tuple[int, int]] = []
    while True:
        page = await tail.next()
        places += [(segment.first_seq, segment.last_seq) for segment in page.segments]
        if page.ended:
            await tail.aclose()
            return places


async def test_a_server_that_is_killed_and_restarted_in_mid_stream(redis_server: RedisServer) -> None:
    """Nothing that was acknowledged is lost, nothing comes twice; readers go on where they were."""
    store, other = await opened(redis_server.url), await opened(redis_server.url)
    epoch = await begin(store)
    readers = [asyncio.create_task(read_to_the_end(each, "run")) for each in (store, other, other)]
    for number in range(1, 301):
        status: StoredStatus | None = "completed" if number == 300 else None
        if number % 100 == 50:
            redis_server.kill()
            starting = asyncio.create_task(asyncio.to_thread(redis_server.start))
        assert await insist(store, part("run", epoch, number, number, status)) == [None]
        if number % 100 == 99:
            await starting
    for reader in readers:
        assert await reader == [(number, number) for number in range(1, 301)]
    await store.aclose()
    await other.aclose()


async def test_waiting_calls_sit_out_a_restart(redis_server: RedisServer) -> None:
    """A worker that waits for a job, and one that waits for commands, get what is sent after the outage."""
    store, other = await opened(redis_server.url), await opened(redis_server.url)
    await begin(store, "held")
    job = asyncio.create_task(store.claim_next(["agent"], "second", _LEASE_S, wait_s=20))
    commands = asyncio.create_task(store.wait_commands({"held": 0}))
    await system_clock.sleep(0.1)
    await asyncio.to_thread(redis_server.restart)
    await other.send("held", Command("cancel", {}))
    await other.create(NewRun("queued", "agent", job=b"job"))
    assert await commands == ["held"]
    claim = await job
    assert claim is not None
    assert claim.run.run_id == "queued"
    await store.aclose()
    await other.aclose()


async def test_a_reply_that_is_lost_after_the_flush_was_applied(redis_url: str) -> None:
    """The flush fails as unavailable; repeated it counts as written, and the log has it once."""
    address, _, options = redis_url.partition("?")
    async with Proxy(int(address.rpartition(":")[2])) as proxy:
        store = await opened(f"redis://127.0.0.1:{proxy.port}?{options}")
        epoch = await begin(store)
        for first in (1, 3, 5):
            proxy.loses_replies = True
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await store.append([part("run", epoch, first, first + 1)])
            proxy.loses_replies = False
            assert await store.append([part("run", epoch, first, first + 1)]) == [None]
        page = await store.read("run", 0)
        assert [segment.first_seq for segment in page.segments] == [1, 3, 5]
        await store.aclose()


async def test_a_flush_that_is_cancelled_in_mid_command(redis_server: RedisServer) -> None:
    """Its answer is nobody else's: what is asked on the same connection next gets its own answers."""
    store = await opened(redis_server.url)
    epoch = await begin(store)
    await store.append([part("run", epoch, 1, 1)])
    redis_server.pause()
    flush = asyncio.create_task(store.append([part("run", epoch, 2, 2)]))
    await system_clock.sleep(0.05)
    flush.cancel()
    with suppress(asyncio.CancelledError):
        await flush
    redis_server.resume()
    assert await store.append([part("run", epoch, 3, 3), part("no run", epoch, 1, 1)]) == [None, "gone"]
    assert await store.append([part("run", epoch, 2, 2)]) == [None]
    assert [segment.last_seq for segment in (await store.read("run", 0)).segments] == [1, 2, 3]
    await store.aclose()


async def test_a_server_that_stands_still(redis_server: RedisServer) -> None:
    """Calls fail within the time limit instead of hanging, and work once it goes on."""
    store = await opened(f"{redis_server.url}?timeout_s=0.2")
    epoch = await begin(store)
    redis_server.pause()
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        await store.append([part("run", epoch, 1, 1)])
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        await asyncio.to_thread(store.renew, [("run", epoch)], 1.0)
    redis_server.resume()
    assert await store.append([part("run", epoch, 1, 1)]) == [None]
    assert (await asyncio.to_thread(store.renew, [("run", epoch)], 1.0))[0].held
    await store.aclose()


async def test_a_failover_to_a_replica_that_lagged(redis_pair: tuple[RedisServer, RedisServer]) -> None:
    """A reader that has had what was lost is told where the histories part; the old worker cannot write on."""
    primary, replica = redis_pair
    async with Proxy(primary.port) as proxy:
        store = await opened(f"redis://127.0.0.1:{proxy.port}")
        old = await begin(store)
        await store.append([part("run", old, 1, 100)])
        tail = store.tail("run", 0)
        assert (await tail.next()).last_seq == 100
        in_step(primary, replica)
        replica.command("REPLICAOF", "NO", "ONE")
        await store.append([part("run", old, 101, 120)])
        assert (await tail.next()).last_seq == 120

        waiting = asyncio.create_task(tail.next())
        await system_clock.sleep(0.05)
        primary.kill()
        proxy.lead_to(replica.port)
        with pytest.raises(CursorInvalid) as ahead:
            await waiting
        assert (ahead.value.reason, ahead.value.resync_after) == ("ahead", 100)
        assert await insist(store, part("run", old, 121, 130)) == ["gap"]

        claim = await store.claim("run", "worker", _LEASE_S)
        assert claim is not None
        assert claim.run.epochs == ((old, 1), (claim.epoch, 101))
        assert await store.append([part("run", claim.epoch, 101, 125)]) == [None]
        assert await store.append([part("run", old, 101, 120)]) == ["fenced"]
        with pytest.raises(CursorInvalid) as parted:
            resolve(f"{old}-120", (await store.find("run")).epochs, 1, 125)
        assert (parted.value.reason, parted.value.resync_after) == ("other_history", 100)
        with pytest.raises(CursorInvalid) as parted:
            await tail.next()
        assert (parted.value.reason, parted.value.resync_after) == ("other_history", 100)
        await store.aclose()


async def test_a_flush_that_has_to_reach_a_replica(redis_pair: tuple[RedisServer, RedisServer]) -> None:
    """With wait_replicas a flush fails until a replica has it, however often it is repeated, on any connection."""
    primary, replica = redis_pair
    url = f"{primary.url}?wait_replicas=1&wait_timeout_ms=200"
    store, other = await opened(url), await opened(url)
    epoch = await begin(store)
    assert await insist(store, part("run", epoch, 1, 1)) == [None]
    replica.pause()
    for each in (store, store, other):
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await each.append([part("run", epoch, 2, 2)])
    replica.resume()
    assert await insist(other, part("run", epoch, 2, 2)) == [None]
    await store.aclose()
    await other.aclose()


async def test_a_server_that_is_full(redis_server_factory: Callable[..., RedisServer]) -> None:
    """Writing says so and can be repeated; reading and deleting go on, and make room."""
    server = redis_server_factory("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    store = await opened(server.url)
    epoch = await begin(store)
    await begin(store, "ballast")
    small = await begin(store, "small")
    await store.append([part("small", small, 1, 1)])
    with pytest.raises(StoreUnavailable, match="is full"):
        await _fill(store, epoch)
    written = (await store.find("run")).last_seq
    assert written > 0
    # Two readers on one connection: the second has to interrupt it without leaving anything on the server.
    tails = [store.tail("small", 1), store.tail("run", written)]
    waiting = [asyncio.create_task(tail.next()) for tail in tails]
    await system_clock.sleep(0.05)
    assert await store.delete("ballast")
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    again = Append("run", epoch, Segment(written + 1, written + 1, b"y"), "completed")
    assert await store.append([again, part("small", small, 2, 2)]) == [None, None]
    assert [(await page).last_seq for page in waiting] == [2, written + 1]
    for tail in tails:
        await tail.aclose()
    await store.aclose()


async def _fill(store: RedisStore, epoch: int) -> None:
    for number in range(1, 100):
        await store.append([Append("run", epoch, Segment(number, number, b"x" * 100_000))])


async def test_a_run_that_expires_under_its_reader(redis_url: str) -> None:
    """A reader that waits for more learns that the run is gone."""
    store = await opened(f"{redis_url}&live_ttl_s=0.4")
    epoch = await begin(store)
    await store.append([part("run", epoch, 1, 1)])
    tail = store.tail("run", 0)
    await tail.next()
    with pytest.raises(RunNotFound):
        await tail.next()
    assert await store.append([part("run", epoch, 2, 2)]) == ["gone"]
    await store.aclose()


async def test_jobs_that_the_server_has_lost_are_found(redis_server: RedisServer) -> None:
    """Runs whose entries in the queues are gone, with a job or left by a worker that died, are claimed all the same."""
    store = await opened(redis_server.url)
    await store.create(NewRun("queued", "agent", job=b"job"))
    await store.create(NewRun("left", "agent"), worker="dead", lease_s=0.1)
    for key in ("ready", "held", "born", "wake"):
        redis_server.command("DEL", f"rs:{{jobs:default}}:{key}:agent")
    found = {(await _claimed(store)).run.run_id for _ in range(2)}
    assert found == {"queued", "left"}
    await store.aclose()


async def _claimed(store: RedisStore) -> Claim:
    claim = await store.claim_next(["agent"], "worker", _LEASE_S, wait_s=10)
    assert claim is not None
    return claim


async def test_a_replica_takes_no_writes(redis_pair: tuple[RedisServer, RedisServer]) -> None:
    """It can be read; a write says that this is a replica."""
    primary, replica = redis_pair
    store = await opened(primary.url)
    epoch = await begin(store)
    await store.append([part("run", epoch, 1, 1, "completed")])
    in_step(primary, replica)
    reading = await opened(replica.url)
    assert await read_to_the_end(reading, "run") == [(1, 1)]
    with pytest.raises(StoreError, match="read-only replica") as refused:
        await begin(reading, "another")
    assert not refused.value.retryable
    await store.aclose()
    await reading.aclose()


async def test_a_primary_that_is_demoted_can_be_retried(redis_pair: tuple[RedisServer, RedisServer]) -> None:
    """In a failover the name leads elsewhere a moment later: that is no reason to give up."""
    primary, replica = redis_pair
    async with Proxy(primary.port) as proxy:
        store = await opened(f"redis://127.0.0.1:{proxy.port}")
        epoch = await begin(store)
        in_step(primary, replica)
        replica.command("REPLICAOF", "NO", "ONE")
        primary.command("REPLICAOF", "127.0.0.1", replica.port)
        with pytest.raises(StoreUnavailable, match="failover"):
            await store.append([part("run", epoch, 1, 1)])
        proxy.target = replica.port
        assert await insist(store, part("run", epoch, 1, 1)) == [None]
        await store.aclose()


def test_a_live_log_that_was_trimmed(redis_server: RedisServer) -> None:
    """Who comes late while the run goes on is told where to go on, and has everything from there to the end."""

    async def main() -> None:
        url = f"{redis_server.url}?prefix=trimmed&max_segments=3"
        agent = Agent(name="Desk", model=ScriptedModel([Turn(("word " * 80,), every_s=0.005)]))
        result = Runner.run_streamed(agent, "hi", run_config=RunConfig(store=url, run_id="run"))
        after, reading, seqs = 0, None, list[int]()

        async def read(late: RunResultStreaming) -> object:
            seqs.extend([event.seq async for event in late.events()])
            return late.final_output

        async for event in result.events():
            if event.seq == 50 or (after and reading is None):
                try:
                    reading = asyncio.create_task(read(await Runner.attach("run", store=url, after=after)))
                except CursorExpired as expired:
                    after = expired.first_seq - 1
        assert after > 0
        assert reading is not None
        assert await reading == "word " * 80
        assert seqs == list(range(after + 1, event.seq + 1))
        with pytest.raises(CursorExpired):
            await Runner.attach("run", store=url, after=1)

    asyncio.run(main())  # which closes the store of this URL
