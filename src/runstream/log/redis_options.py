"""What a Redis store's URL says: where the server is, and how the store is to behave. Knows no connections.

`redis://`, `rediss://` (TLS), `unix://` and the same as `valkey://`, `valkeys://`; after `?` the fields of RedisOptions
by name, and what the `redis` package takes there (`db`, `ssl_ca_certs`, …).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from runstream.errors import MissingExtra, UserError

__all__ = ["Address", "RedisOptions"]

Address = tuple[str, int] | None
"""Host and port of a cluster's node; None is the server that the URL names."""

_SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """The parsed URL."""

    shown: str
    """The URL without its secrets."""
    connection: dict[str, Any] = field(repr=False)
    """Keywords of the `redis` package's connections."""
    prefix: str = "rs"
    """Of every key: several stores in one database."""
    ttl_s: float = 3600.0
    """A run is kept so long after its end; 0 is without limit."""
    live_ttl_s: float = 7 * 86_400.0
    """A run without an end is kept so long after it was last worked on; 0 is without limit."""
    max_segments: int = 0
    """A run's log keeps about so many segments, the newest; 0 is all."""
    wait_replicas: int = 0
    """A flush is written once so many replicas have it."""
    wait_timeout_ms: int = 1_000
    """How long a flush waits for the replicas before it is StoreUnavailable."""
    timeout_s: float = 5.0
    """The most that one answer of the server may take."""
    outage_s: float = 30.0
    """Readers and waiting calls sit out an outage of so long before StoreUnavailable."""

    @classmethod
    def parse(cls, url: str) -> RedisOptions:
        """Raises UserError where the URL is malformed."""
        parts = urlsplit(url)
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None:
            raise UserError(f"{parts.scheme}:// is no Redis store: use redis://, rediss:// or unix://")
        own, others = dict[str, Any](), list[tuple[str, str]]()
        kinds: dict[str, type[Any]] = {entry.name: type(entry.default) for entry in fields(cls)[2:]}
        for name, value in parse_qsl(parts.query):
            if name not in kinds:
                others.append((name, value))
                continue
            try:
                own[name] = kinds[name](value)
            except ValueError:
                raise UserError(f"{name}={value!r} in the store's URL is no number") from None
            if kinds[name] is not str and own[name] < 0:
                raise UserError(f"{name}={value} in the store's URL is negative")
        if set("{}") & set(own.get("prefix", "")):
            raise UserError("the prefix of a Redis store's keys must not contain braces: they name the slot")
        secret = {"password", "ssl_password"}
        shown = urlencode([*own.items(), *((name, value) for name, value in others if name not in secret)], safe="/")
        address = parts.netloc.rpartition("@")[2]
        return cls(
            urlunsplit((parts.scheme, address, parts.path, shown, "")),
            _keywords(urlunsplit((scheme, parts.netloc, parts.path, urlencode(others), ""))),
            **own,
        )

    def millis(self, name: str) -> int:
        """A field in seconds as milliseconds."""
        return int(getattr(self, name) * 1000)

    # Keys. Those of a run share its slot, those of a queue's jobs share another.

    def run_key(self, run_id: str, part: str) -> str:
        if not set("{}%").isdisjoint(run_id):
            run_id = quote(run_id)
        return f"{self.prefix}:{{{run_id}}}:{part}"

    def job_keys(self, queue: str, agent: str) -> list[str]:
        """ready, held, born, wake."""
        tag = f"{self.prefix}:{{jobs:{quote(queue, safe='')}}}"
        return [f"{tag}:{part}:{agent}" for part in ("ready", "held", "born", "wake")]

    def index_key(self, name: str) -> str:
        return f"{self.prefix}:{name}"


def _keywords(url: str) -> dict[str, Any]:
    if find_spec("redis") is None or find_spec("hiredis") is None:
        raise MissingExtra("a store on Redis", "redis")
    from redis.asyncio.connection import Connection, parse_url

    try:
        found: dict[str, Any] = {**parse_url(url)}
    except ValueError as error:
        raise UserError(f"the store's URL is malformed: {error}") from None
    found.pop("decode_responses", None)
    kind = found.get("connection_class", Connection)
    try:
        kind(**{key: value for key, value in found.items() if key != "connection_class"})
    except TypeError as error:
        raise UserError(f"the store's URL has an option that nobody knows: {error}") from None
    return found
