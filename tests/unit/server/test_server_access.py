"""Hosts, origins, tokens and whose run it is, without a network."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from runstream.errors import UserError
from runstream.server.access import Access, AllowList, Gate, hash_token, is_loopback

TOKEN = "a-token-that-is-long"


def connection(token: str | None = None, *, client: str = "127.0.0.1", **scope: Any) -> HTTPConnection:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return HTTPConnection({"type": "http", "headers": headers, "client": (client, 1), **scope})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST:1", "my.name", "my.name:9"])
def test_hosts_that_are_let_in(host: str) -> None:
    """This machine's own names, and those of the list, with any port."""
    assert AllowList(["my.name"], []).lets_host(host)


@pytest.mark.parametrize(
    "host", ["evil.com", "", "localhost.evil.com", "localhost@evil.com", "127.0.0.1.evil.com:80", "a b", "localhost:x"]
)
def test_hosts_that_are_not(host: str) -> None:
    """A name that resolves to this machine is not one of its names."""
    assert not AllowList(["my.name"], []).lets_host(host)


@pytest.mark.parametrize(
    ("origin", "let"),
    [
        ("http://localhost:8000", True),
        ("https://app.example", True),
        ("http://app.example", False),
        ("http://localhost:9000", False),
        ("null", False),
        ("http://evil.com", False),
        ("http://localhost:8000.evil.com", False),
    ],
)
def test_origins(origin: str, let: bool) -> None:
    """The server's own and those of the list, to the letter."""
    assert AllowList([], ["https://app.example"]).lets_origin(origin, "localhost:8000") is let


@pytest.mark.parametrize("wrong", ["https://a/b", "a.example", "*"])
def test_a_list_that_cannot_be_meant(wrong: str) -> None:
    """What is no origin is refused where it is written."""
    with pytest.raises(UserError, match="allowed_origins"):
        AllowList([], [wrong])
    with pytest.raises(UserError, match="allowed_hosts"):
        AllowList(["https://a"], [])


async def test_tokens() -> None:
    """A token, given itself or as its hash, shows who asks; nothing else does."""
    gate = Gate({TOKEN: "ann", hash_token("b" * 20): None}, None, None)
    ann, admin = await gate.user_of(connection(TOKEN)), await gate.user_of(connection("b" * 20))
    assert ann is not None
    assert ann.name == "ann"
    assert admin is not None
    assert admin.name is None
    for wrong in (None, "", TOKEN[:-1], TOKEN + "x", hash_token(TOKEN), "\udc80"):
        if wrong != "\udc80":
            assert await gate.user_of(connection(wrong)) is None
    basic = HTTPConnection({"type": "http", "headers": [(b"authorization", f"Basic {TOKEN}".encode())]})
    assert await gate.user_of(basic) is None
    assert TOKEN not in repr(vars(gate))


async def test_tokens_of_websockets() -> None:
    """Browsers cannot set headers there: the token comes as a subprotocol."""
    gate = Gate([TOKEN], None, None)
    offered = connection(None, type="websocket", subprotocols=["runstream", f"bearer.{TOKEN}"])
    assert await gate.user_of(offered) is not None


async def test_without_tokens_only_this_machine_is_answered() -> None:
    """Whoever comes through a proxy, or from the network, is not from here."""
    gate = Gate(None, None, None)
    assert gate.is_open
    assert await gate.user_of(connection(client="::1")) is not None
    assert await gate.user_of(connection(client="10.0.0.8")) is None
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("example.com")


def test_tokens_that_cannot_be_meant() -> None:
    """Short ones, none at all, one string, or two ways at once."""
    with pytest.raises(UserError, match="16"):
        Gate(["short"], None, None)
    with pytest.raises(UserError, match="empty"):
        Gate([], None, None)
    with pytest.raises(UserError, match="not one string"):
        Gate(TOKEN, None, None)
    with pytest.raises(UserError, match="not both"):
        Gate([TOKEN], lambda _: "x", None)


async def test_people_and_their_runs() -> None:
    """By default everything with one's own, nothing with others', all to whoever runs the server."""
    gate = Gate({TOKEN: "ann"}, None, None)
    ann = await gate.user_of(connection(TOKEN))
    assert ann is not None
    assert await gate.allows(ann, "create")
    assert await gate.allows(ann, "read", "r1", "ann")
    assert not await gate.allows(ann, "read", "r1", "bob")
    assert not await gate.allows(ann, "read", "r1", None)


async def test_the_hooks_decide() -> None:
    """`authenticate` names the user, `authorize` gets the whole question; only True is a yes."""
    asked: list[Access] = []

    async def authenticate(connection: HTTPConnection) -> str | None:
        return connection.headers.get("x-user")

    def authorize(access: Access) -> Any:
        asked.append(access)
        return access.action == "read" or "yes"

    gate = Gate(None, authenticate, authorize)
    assert await gate.user_of(connection()) is None
    user = await gate.user_of(HTTPConnection({"type": "http", "headers": [(b"x-user", b"ann")]}))
    assert user is not None
    assert await gate.allows(user, "read", "r1", "bob")
    assert not await gate.allows(user, "delete", "r1", "bob")
    assert asked == [Access("ann", "read", "r1", "bob"), Access("ann", "delete", "r1", "bob")]
