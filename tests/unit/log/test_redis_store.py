"""The store on Redis keeps the laws of stores, and says what is wrong with its server."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from redis_server import RedisServer
from runstream.clock import system_clock
from runstream.errors import CursorExpired, RunNotFound, StoreError, StoreUnavailable, UserError
from runstream.log.base import Append, NewRun, Segment, Store
from runstream.log.redis import RedisStore
from runstream.testing import StoreConformance


class TestRedisStore(StoreConformance):
    """On a single server."""

    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.store_url = redis_url

    async def open_store(self) -> Store:
        return await opened(self.store_url)


async def opened(url: str) -> RedisStore:
    store = RedisStore(url)
    await store.open()
    return store


async def begin(store: RedisStore, run_id: str = "run") -> int:
    return await store.create(NewRun(run_id, "agent"), worker="worker", lease_s=30)


async def write(store: RedisStore, epoch: int, first: int, last: int, run_id: str = "run") -> None:
    """Segments of one event."""
    for seq in range(first, last + 1):
        assert await store.append([Append(run_id, epoch, Segment(seq, seq, b"body"))]) == [None]


async def test_a_server_that_loses_data_is_warned_of_once(
    redis_server_factory: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """One warning for each setting, which says what to set."""
    server = redis_server_factory("--maxmemory-policy", "allkeys-lru", persistent=False)
    store = await opened(server.url)
    await store.open()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["maxmemory-policy noeviction" in warnings[0], "appendonly yes" in warnings[1]] == [True, True]
    assert len(warnings) == 2
    await store.aclose()


async def test_a_server_that_is_right_is_not_warned_of(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged."""
    store = await opened(redis_url)
    assert caplog.records == []
    await store.aclose()


async def test_a_user_of_few_rights(
    redis_server_factory: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that may not be looked at are no warning; what is needed and not permitted is an error that says so."""
    server = redis_server_factory()
    server.command("ACL", "SETUSER", "ada", "on", ">secret", "~rs:*", "+@all", "-@admin", "-@dangerous")
    server.command("ACL", "SETUSER", "bob", "on", ">secret", "~other:*", "+@all")
    store = await opened(f"redis://ada:secret@127.0.0.1:{server.port}")
    await write(store, await begin(store), 1, 3)
    await store.aclose()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    store = await opened(f"redis://bob:secret@127.0.0.1:{server.port}")
    with pytest.raises(StoreError, match="does not permit") as refused:
        await begin(store)
    assert not refused.value.retryable
    await store.aclose()


async def test_a_wrong_password_is_not_repeated(redis_server_factory: Callable[..., RedisServer]) -> None:
    """The error says what to check, without the secret; trying again would not help."""
    server = redis_server_factory("--requirepass", "right")
    for user in ("", "ada:wrong-secret@", ":wrong-secret@"):
        store = RedisStore(f"redis://{user}127.0.0.1:{server.port}")
        with pytest.raises(StoreError, match="check user and password") as refused:
            await store.open()
        assert "wrong-secret" not in str(refused.value)
        assert not refused.value.retryable
    store = await opened(f"redis://:right@127.0.0.1:{server.port}/3")
    await write(store, await begin(store), 1, 1)
    assert (await asyncio.to_thread(store.renew, [("run", 1)], 1.0))[0].held is False
    await store.aclose()


async def test_nobody_is_there() -> None:
    """That may pass: the error is retryable."""
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await RedisStore("redis://127.0.0.1:1").open()


async def test_another_kind_of_server() -> None:
    """What does not speak Redis is named as such."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreError, match=r"does not speak Redis|cannot be reached"):
            await RedisStore(f"redis://127.0.0.1:{port}").open()


async def test_a_unix_socket(redis_server_factory: Callable[..., RedisServer], tmp_path: Path) -> None:
    """A server on the same machine needs no port; heartbeats find it as well."""
    path = tmp_path / "s"
    redis_server_factory("--unixsocket", str(path))
    store = await opened(f"unix://{path}?prefix=app")
    epoch = await begin(store)
    await write(store, epoch, 1, 1)
    assert (await asyncio.to_thread(store.renew, [("run", epoch)], 1.0))[0].held
    await store.aclose()


async def test_scripts_that_the_server_forgot(redis_server: RedisServer) -> None:
    """They are loaded again, and the call is answered."""
    store = await opened(redis_server.url)
    epoch = await begin(store)
    redis_server.command("SCRIPT", "FLUSH")
    await write(store, epoch, 1, 2)
    assert (await store.read("run", 0)).last_seq == 2
    await store.aclose()


async def test_what_is_not_open_says_so(redis_url: str) -> None:
    """Before, and after; an error that does not pass by itself."""
    store = RedisStore(redis_url)
    with pytest.raises(StoreError, match="is not open"):
        await store.find("run")
    await store.open()
    await store.aclose()
    with pytest.raises(StoreError, match="is not open"):
        await store.find("run")
    await store.open()
    with pytest.raises(RunNotFound):
        await store.find("run")
    await store.aclose()


async def test_who_waits_when_the_store_is_closed(redis_url: str) -> None:
    """Gets an error at once, instead of sitting out what looks like an outage."""
    store = await opened(redis_url)
    await begin(store)
    tail = store.tail("run", 0)
    waiting = [
        asyncio.create_task(tail.next()),
        asyncio.ensure_future(store.wait_commands({"run": 0})),
        asyncio.create_task(store.claim_next(["agent"], "other", 5, wait_s=30)),
    ]
    await system_clock.sleep(0.05)
    await store.aclose()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(result, StoreError) for result in results] == [True, True, True]


async def test_a_log_of_bounded_length(redis_url: str) -> None:
    """The newest segments are kept; a reader who is behind is told where the log begins now."""
    store = await opened(f"{redis_url}&max_segments=50")
    epoch = await begin(store)
    await write(store, epoch, 1, 400)
    first_seq = (await store.find("run")).first_seq
    assert 100 < first_seq <= 351
    with pytest.raises(CursorExpired) as expired:
        await store.tail("run", 0).next()
    assert expired.value.first_seq == first_seq
    page = await store.read("run", first_seq - 1)
    assert (page.segments[0].first_seq, page.segments[-1].last_seq) == (first_seq, 400)
    await store.aclose()


async def test_a_run_is_kept_for_a_while_after_its_end(redis_url: str, redis_session_server: RedisServer) -> None:
    """Then the server forgets all that belongs to it; lists pass over it."""
    store = await opened(f"{redis_url}&ttl_s=0.2")
    epoch = await begin(store)
    assert await store.append([Append("run", epoch, Segment(1, 1, b"body"), "completed")]) == [None]
    assert (await store.read("run", 0)).ended
    await system_clock.sleep(0.3)
    with pytest.raises(RunNotFound):
        await store.find("run")
    assert await store.list_runs() == []
    prefix = redis_url.rpartition("=")[2]
    assert ":log" not in redis_session_server.command("KEYS", f"{prefix}:*run*")
    await store.aclose()


async def test_a_reader_that_is_slower_than_the_log(redis_url: str) -> None:
    """It holds no more than a bound, and goes back to pages: nothing is lost or comes twice."""
    store = await opened(redis_url)
    epoch = await begin(store)
    await write(store, epoch, 1, 1)
    tail = store.tail("run", 0)
    await tail.next()
    await write(store, epoch, 2, 1500)
    await system_clock.sleep(0.05)
    assert len(tail._queue) <= 512  # type: ignore[attr-defined]
    seqs: list[int] = []
    while not seqs or seqs[-1] < 1500:
        seqs += [segment.last_seq for segment in (await tail.next()).segments]
    assert seqs == list(range(2, 1501))
    await tail.aclose()
    await store.aclose()


async def test_many_readers_need_few_connections(redis_server: RedisServer) -> None:
    """600 runs are followed over three; a reader that joins is served at once, not after the others' second."""
    store = await opened(redis_server.url)
    names = [f"run-{number}" for number in range(600)]
    epochs = await asyncio.gather(*(begin(store, name) for name in names))
    tails = [store.tail(name, 0) for name in names]
    waiting = [asyncio.create_task(tail.next()) for tail in tails]
    await system_clock.sleep(0.3)
    assert redis_server.command("CLIENT", "LIST").count("cmd=xread") == 3
    flush = [Append(name, epoch, Segment(1, 1, b"body")) for name, epoch in zip(names, epochs, strict=True)]
    assert await store.append(flush) == [None] * 600
    async with system_clock.timeout(0.9):
        pages = await asyncio.gather(*waiting)
    assert {page.last_seq for page in pages} == {1}
    for tail in tails:
        await tail.aclose()
    await store.aclose()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_store_that_was_left_open_serves_the_next_event_loop(redis_url: str) -> None:
    """A program that keeps a store and calls `asyncio.run`, or `Runner.run_sync`, again and again."""
    store = RedisStore(redis_url)

    async def enter(run_id: str) -> int:
        await store.open()
        return await asyncio.wait_for(begin(store, run_id), 5)

    assert asyncio.run(enter("one")) > 0
    assert asyncio.run(enter("two")) > 0

    async def close() -> None:
        await store.open()
        await store.aclose()

    asyncio.run(close())
    gc.collect()


async def test_a_store_in_two_event_loops_at_once(redis_url: str) -> None:
    """Told at once, instead of waiting for answers that come to the other loop."""
    store = await opened(redis_url)
    with pytest.raises(UserError, match="in another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(store.open()))
    await begin(store)
    await store.aclose()


async def test_tasks_of_a_connection_that_are_cancelled_before_they_began(redis_url: str) -> None:
    """As `asyncio.run` does at its end: who waits is told, and who asks next gets a connection."""
    store = await opened(redis_url)
    lane = store._server.new_lane(None)
    before = asyncio.all_tasks()
    asking = lane.ask([("PING",)])
    for task in asyncio.all_tasks() - before:
        task.cancel()
    with pytest.raises(StoreUnavailable, match="connecting was given up"):
        await asking
    assert await lane.ask([("PING",)]) == [b"PONG"]
    await lane.aclose()
    await store.aclose()
