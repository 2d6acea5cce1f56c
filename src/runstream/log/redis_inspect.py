"""What a Redis store looks at when it is opened: whether the server will do, and whether it keeps what it is given."""

from __future__ import annotations

import logging
from typing import Any

from runstream.errors import StoreError
from runstream.log.redis_server import Server

__all__ = ["inspect_server"]

_logger = logging.getLogger("runstream")

_OLDEST = (7, 0)


async def inspect_server(server: Server) -> None:
    """Raises StoreError where the server cannot be used; logs a warning for each setting that loses data."""
    shown = server.options.shown
    key = server.options.index_key("runs")
    info = _parsed(await server.ask(key, "INFO"))
    version = info.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST:
        raise StoreError(f"{shown} is Redis {version}: a store needs Redis or Valkey 7.0 or newer")
    if info.get("redis_mode") == "cluster":
        server.clustered = True
        await server.find_nodes()
    server.is_replica = info.get("role") == "slave"
    if server.is_replica:
        _logger.warning("%s is a replica: runs can be read there, not written", shown)
    policy, keeps_log = info.get("maxmemory_policy"), info.get("aof_enabled")
    settings = await _settings(server, key)
    policy, keeps_log = settings.get("maxmemory-policy", policy), settings.get("appendonly", keeps_log)
    if policy not in (None, "noeviction"):
        _logger.warning(
            "%s evicts keys when it is full (maxmemory-policy %s): runs may vanish at any time; "
            "set maxmemory-policy noeviction",
            shown,
            policy,
        )
    if keeps_log in ("no", "0"):
        _logger.warning(
            "%s keeps no log of its writes (appendonly no): runs are lost when it crashes; set appendonly yes", shown
        )


async def _settings(server: Server, key: str) -> dict[str, str]:
    try:
        answer = await server.ask(key, "CONFIG", "GET", "maxmemory-policy", "appendonly")
    except StoreError as error:
        _logger.debug("the settings of %s could not be looked at: %s", server.options.shown, error)
        return {}
    words = [word.decode() for word in answer]
    return dict(zip(words[::2], words[1::2], strict=True))


def _parsed(info: Any) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines}
