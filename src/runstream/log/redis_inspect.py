"""What a Redis store looks at when it is opened: whether the server will do, and whether it keeps what it is given."""

from __future__ import annotations

import logging

from runstream.errors import StoreError, StoreUnavailable
from runstream.log.redis_server import Server

__all__ = ["inspect_server"]

_logger = logging.getLogger("runstream")

_OLDEST = (7, 0)


async def inspect_server(server: Server) -> None:
    """Raises StoreError where the server cannot be used; logs a warning for each setting that loses data."""
    shown = server.options.shown
    key = server.options.index_key("runs")
    greeting = await server.ask(key, "HELLO")  # permitted to everybody
    about = dict(zip(greeting[::2], greeting[1::2], strict=True))
    version = about[b"version"].decode()
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST:
        raise StoreError(f"{shown} is version {version}: a store needs Redis or Valkey 7.0 or newer")
    if about[b"mode"] == b"cluster":
        server.clustered = True
        await server.find_nodes()
    server.is_replica = about[b"role"] != b"master"
    if server.is_replica:
        _logger.warning("%s is a replica: runs can be read there, not written", shown)
    info = await _info(server, key)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        _logger.warning(
            "%s evicts keys when it is full (maxmemory-policy %s): runs may vanish at any time; "
            "set maxmemory-policy noeviction",
            shown,
            policy,
        )
    if info.get("aof_enabled") == "0":
        _logger.warning(
            "%s keeps no log of its writes (appendonly no): runs are lost when it crashes; set appendonly yes", shown
        )


async def _info(server: Server, key: str) -> dict[str, str]:
    try:
        info = await server.ask(key, "INFO")
    except StoreUnavailable:
        raise
    except StoreError as error:
        _logger.debug("the settings of %s could not be looked at: %s", server.options.shown, error)
        return {}
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines}
