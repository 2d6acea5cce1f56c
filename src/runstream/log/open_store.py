"""From the URL of a store to the store. The modules of stores are imported when one of theirs is asked for."""

from __future__ import annotations

from typing import Any, cast

from runstream.errors import UserError
from runstream.log.base import Store
from runstream.log.payload import CodedStore, PayloadCodec

__all__ = ["open_store"]

_SCHEMES = "memory://NAME, sqlite:///FILE, redis://HOST, rediss://HOST (with TLS), unix:///SOCKET (Redis)"


def open_store(store: str | Store, *, codec: PayloadCodec | None = None, **options: Any) -> Store:
    """The store of a URL; `open()` is still to be called on it. What is a store already is passed through.

    `options` are those of the store's class (`MemoryStore`, `SQLiteStore`, `RedisStore`); `codec` writes its payloads.
    Raises UserError for what is no URL of a store; MissingExtra where its client is not installed.
    """
    if isinstance(store, str):
        opened = _from_url(store, options)
    elif hasattr(store, "append") and hasattr(store, "tail"):
        if options:
            raise UserError(f"a store that is open already takes no options: {', '.join(options)}")
        opened = store
    else:
        raise UserError(f"a store is a URL ({_SCHEMES}) or an object with the methods of Store, not {store!r}")
    return opened if codec is None else CodedStore(opened, codec)


def _from_url(url: str, options: dict[str, Any]) -> Store:
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if separator and scheme == "memory":
        from runstream.log.memory_store import MemoryStore

        return MemoryStore(url, **options)
    if separator and scheme == "sqlite":
        from runstream.log.sqlite import SQLiteStore

        return SQLiteStore(url, **options)
    if separator and scheme in ("redis", "rediss", "unix", "valkey", "valkeys"):
        from runstream.log.redis import RedisStore

        return cast("Store", RedisStore(url, **options))
    shown = f"{scheme}://" if separator else url
    raise UserError(f"{shown!r} is no URL of a store: there are {_SCHEMES}")
