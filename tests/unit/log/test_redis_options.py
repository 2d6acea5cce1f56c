"""A Redis store's URL."""

from __future__ import annotations

import sys

import pytest

from runstream.errors import MissingExtra, UserError
from runstream.log.redis import RedisStore
from runstream.log.redis_options import RedisOptions

pytest.importorskip("redis")


def test_what_the_store_takes_and_what_the_client_takes() -> None:
    """Options of the store go by name, the others to the client; the shown URL has no secret in it."""
    options = RedisOptions.parse("redis://ada:secret@host:7000/2?prefix=app&ttl_s=60&max_segments=9&client_name=me")
    assert (options.prefix, options.ttl_s, options.max_segments) == ("app", 60.0, 9)
    assert options.connection["client_name"] == "me"
    assert (options.connection["username"], options.connection["password"]) == ("ada", "secret")
    assert options.shown == "redis://host:7000/2?prefix=app&ttl_s=60.0&max_segments=9&client_name=me"
    assert "secret" not in repr(options)


def test_a_password_among_the_options() -> None:
    """It is a secret there as well."""
    store = RedisStore("redis://host?password=secret&username=ada")
    assert store.url == "redis://host?username=ada"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_schemes(scheme: str) -> None:
    """Valkey's are those of Redis."""
    options = RedisOptions.parse(f"{scheme}://host")
    assert options.shown == f"{scheme}://host"
    assert ("connection_class" in options.connection) == (scheme in ("rediss", "valkeys"))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://host", "no Redis store"),
        ("redis://host?ttl_s=soon", "ttl_s='soon'"),
        ("redis://host?ttl_s=-1", "negative"),
        ("redis://host?prefix={a}", "braces"),
        ("redis://host?colour=red", "colour"),
        ("redis://host:99999", "malformed"),
    ],
)
def test_what_is_wrong_is_said(url: str, complaint: str) -> None:
    """When the store is made, not when it is used."""
    with pytest.raises(UserError, match=complaint):
        RedisStore(url)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client the error says what to install."""
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(MissingExtra, match=r"runstream\[redis\]"):
        RedisStore("redis://host")


def test_keys_of_a_run_share_its_slot() -> None:
    """Whatever the run is called, braces included; two runs never share a key."""
    from redis.crc import key_slot

    options = RedisOptions.parse("redis://host")
    names = ["run", "{", "}", "{}", "a}b", "a{b}c", "%7B", "ünï", "a:b"]
    keys = [[options.run_key(name, part) for part in ("meta", "log", "cmd")] for name in names]
    assert all(len({key_slot(key.encode()) for key in of_run}) == 1 for of_run in keys)
    assert len({key for of_run in keys for key in of_run}) == 3 * len(names)


def test_keys_of_a_queue_share_its_slot() -> None:
    """A worker looks for jobs of several agents at once."""
    from redis.crc import key_slot

    options = RedisOptions.parse("redis://host")
    for queue in ("default", "", "{", "a b"):
        keys = [key for agent in ("one", "{two}", "") for key in options.job_keys(queue, agent)]
        assert len({key_slot(key.encode()) for key in keys}) == 1
        assert len(set(keys)) == 12
