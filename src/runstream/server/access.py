"""Who may do what: hosts, origins, tokens, and whose run it is. No I/O; decisions only.

Invariants: tokens are kept as hashes and compared in constant time; nothing here puts a token into an error or a log.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from runstream.errors import UserError

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

__all__ = ["Access", "Action", "AllowList", "Gate", "User", "hash_token"]

Action: TypeAlias = Literal["create", "list", "read", "cancel", "approve", "input", "delete"]

_LOOPBACK: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
_HASHED = re.compile(r"sha256:[0-9a-f]{64}")
_SHORTEST_TOKEN = 16
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str | None
    """Whose runs are theirs; None is whoever runs the server: all runs are."""


@dataclass(frozen=True, slots=True)
class Access:
    """A question to the `authorize` hook."""

    user: str | None
    """Who asks; None is whoever runs the server."""
    action: Action
    run_id: str | None = None
    owner: str | None = None
    """Whose run it is, where it is about one."""


Authenticate: TypeAlias = Callable[["HTTPConnection"], "str | Awaitable[str | None] | None"]
Authorize: TypeAlias = Callable[[Access], "bool | Awaitable[bool]"]


def hash_token(token: str) -> str:
    """The form of a token for settings files: `sha256:…`."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


class AllowList:
    """Which Host and Origin headers are let in. Against pages of other sites, which make a browser ask in its user's
    name: by a name of theirs that resolves to this machine (the Host tells it), or from their site (the Origin)."""

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        given = list(hosts)
        for host in given:
            if host != "*" and not _HOST.fullmatch(host):
                raise UserError(f"allowed_hosts holds names and addresses as in a URL, or '*', not {host!r}")
        self._any_host = "*" in given
        self._hosts = frozenset(host.lower() for host in (*_LOOPBACK, *given))
        self.origins = frozenset(origin.lower() for origin in origins)
        for origin in self.origins:
            if not re.fullmatch(r"https?://[^/]+", origin):
                raise UserError(f"allowed_origins holds origins, as 'https://example.com', not {origin!r}")

    def lets_host(self, host: str) -> bool:
        """Whether this server goes by that name, with any port unless the list names one."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        return self._any_host or host.lower() in self._hosts or match[1].lower() in self._hosts

    def lets_origin(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may ask: the server's own, or one of the list."""
        origin = origin.lower()
        return origin in self.origins or origin in (f"http://{host.lower()}", f"https://{host.lower()}")


class Gate:
    """Who asks, and what they may."""

    def __init__(
        self,
        tokens: Mapping[str, str | None] | Iterable[str] | None,
        authenticate: Authenticate | None,
        authorize: Authorize | None,
        metrics_token: str | None = None,
    ) -> None:
        if tokens is not None and authenticate is not None:
            raise UserError("give tokens or authenticate, not both")
        self._tokens = None if tokens is None else _hashes(tokens)
        self._authenticate = authenticate
        self._authorize = authorize
        self._metrics_token = None if metrics_token is None else _hashes([metrics_token])

    @property
    def is_open(self) -> bool:
        """Whether anybody on this machine may do anything."""
        return self._tokens is None and self._authenticate is None

    async def user_of(self, connection: HTTPConnection) -> User | None:
        """Who asks; None where they have not shown it."""
        if self._authenticate is not None:
            name: Any = self._authenticate(connection)
            if hasattr(name, "__await__"):
                name = await name
            return None if name is None else User(str(name))
        if self._tokens is None:
            return User(None) if _is_from_here(connection) else None
        return _user_of_token(_token_of(connection), self._tokens)

    def scraper(self, connection: HTTPConnection) -> User | None:
        """Whoever shows the token for `/metrics`, which opens nothing else."""
        return _user_of_token(_token_of(connection), self._metrics_token)

    async def allows(self, user: User, action: Action, run_id: str | None = None, owner: str | None = None) -> bool:
        """Whether they may do it: people what concerns their own runs, unless `authorize` says otherwise."""
        if self._authorize is not None:
            allowed: Any = self._authorize(Access(user.name, action, run_id, owner))
            if hasattr(allowed, "__await__"):
                allowed = await allowed
            return allowed is True
        return user.name is None or run_id is None or owner == user.name


def _user_of_token(token: str | None, tokens: list[tuple[bytes, User]] | None) -> User | None:
    if token is None or tokens is None:
        return None
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    found: User | None = None
    for known, user in tokens:  # all of them, so that the time does not tell which one
        if hmac.compare_digest(known, digest):
            found = user
    return found


def _hashes(tokens: Mapping[str, str | None] | Iterable[str]) -> list[tuple[bytes, User]]:
    if isinstance(tokens, str):
        raise UserError("tokens is a list of tokens, or a dict from tokens to their owners, not one string")
    owners = cast("Mapping[str, str | None]", tokens if isinstance(tokens, Mapping) else dict.fromkeys(tokens))
    if not owners:
        raise UserError("tokens is empty: nobody could use the server. None is a server without tokens")
    found: list[tuple[bytes, User]] = []
    for token, owner in owners.items():
        if _HASHED.fullmatch(token):
            digest = bytes.fromhex(token.removeprefix("sha256:"))
        elif len(token) < _SHORTEST_TOKEN:
            raise UserError(f"a token of {len(token)} characters can be guessed: use at least {_SHORTEST_TOKEN}")
        else:
            digest = hashlib.sha256(token.encode()).digest()
        found.append((digest, User(owner)))
    return found


def _token_of(connection: HTTPConnection) -> str | None:
    """Of the Authorization header; of a WebSocket also of its subprotocol `bearer.TOKEN`: browsers set no headers."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    if connection.scope["type"] == "websocket":
        for offered in connection.scope.get("subprotocols", ()):
            if offered.startswith("bearer."):
                return str(offered).removeprefix("bearer.")
    return None


def _is_from_here(connection: HTTPConnection) -> bool:
    """Whether the client is on this machine: the connection is, and no proxy says that it asks for somebody else."""
    client, headers = connection.client, connection.headers
    proxied = [*headers.getlist("x-forwarded-for"), *headers.getlist("x-real-ip")]
    addresses = [address.strip() for value in proxied for address in value.split(",")]
    if client is not None:
        addresses.append(client.host)
    return "forwarded" not in headers and all(map(is_loopback, addresses))


def is_loopback(address: str) -> bool:
    """Whether that is this machine."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address in ("localhost", "testclient")
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
