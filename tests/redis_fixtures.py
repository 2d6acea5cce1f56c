"""Fixtures that start redis-servers: one for each process that runs tests, and others for tests that kill theirs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from debian_tools import skip
from redis_server import NO_REDIS, RedisServer, free_port, install_server, wait_until


@pytest.fixture(scope="session")
def redis_program() -> str:
    """Path of redis-server or valkey-server. Skips where there is none and none can be had; in CI that is a failure."""
    pytest.importorskip("redis", reason="the extra runstream[redis] is not installed")
    found = install_server()
    if found is None:
        skip(NO_REDIS)
    return found


@pytest.fixture
def redis_server_factory(redis_program: str, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """`make(*options, persistent=True)`: a started server of the test's own, which may kill, restart and pause it."""
    servers: list[RedisServer] = []

    def make(*options: str, persistent: bool = True) -> RedisServer:
        server = RedisServer(redis_program, tmp_path / f"redis-{len(servers)}", *options, persistent=persistent)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def redis_server(redis_server_factory: Callable[..., RedisServer]) -> RedisServer:
    """A server of the test's own."""
    return redis_server_factory()


@pytest.fixture
def redis_pair(redis_server_factory: Callable[..., RedisServer]) -> tuple[RedisServer, RedisServer]:
    """A primary and its replica, in step."""
    primary = redis_server_factory("--repl-diskless-sync-delay", "0")
    replica = redis_server_factory("--replicaof", f"127.0.0.1 {primary.port}")
    wait_until(lambda: "master_link_status:up" in replica.command("INFO", "replication"))
    return primary, replica


@pytest.fixture(scope="session")
def redis_session_server(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests of this process that leave it alive."""
    server = RedisServer(redis_program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_cluster(redis_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, ...]]:
    """A cluster of two nodes, each with half of the slots."""
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    buses = [free_port(), free_port()]
    nodes = tuple(RedisServer(redis_program, folder / str(bus), *options, "--cluster-port", str(bus)) for bus in buses)
    try:
        for node, slots in zip(nodes, ((0, 8191), (8192, 16383)), strict=True):
            node.start()
            node.command("CLUSTER", "ADDSLOTSRANGE", *slots)
        nodes[0].command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port, buses[1])
        for node in nodes:
            wait_until(lambda node=node: "cluster_state:ok" in node.command("CLUSTER", "INFO"))
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@pytest.fixture
def redis_url(redis_session_server: RedisServer) -> str:
    """The URL of an empty store on a running server: a prefix of the test's own."""
    return f"{redis_session_server.url}?prefix=t{uuid.uuid4().hex[:12]}"
