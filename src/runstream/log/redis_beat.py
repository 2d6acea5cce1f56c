"""Renewing leases on Redis from a thread that is not the event loop's, over a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from runstream.log.base import Renewal
from runstream.log.redis_link import store_error
from runstream.log.redis_options import RedisOptions
from runstream.log.redis_scripts import RENEW

__all__ = ["RedisBeat"]

_TIMEOUT_S = 2.0
"""Of one answer: a beat that waits for longer has lost leases of the usual length anyway."""
_RUNS = 200
"""Of one call."""


class RedisBeat:
    """Thread-safe. Connects when it is first used."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._client: Any = None

    def renew(
        self, leases: Sequence[tuple[str, int]], lease_s: float, jobs: Mapping[str, tuple[str, str]], *, clustered: bool
    ) -> list[Renewal]:
        """As `Store.renew`. `jobs` says of which queue and agent runs are, so that nobody looks at them in vain."""
        from redis.exceptions import RedisClusterException, RedisError

        renewals: list[Renewal] = []
        size = 1 if clustered else _RUNS
        with self._lock:
            try:
                client = self._connected(clustered=clustered)
                for start in range(0, len(leases), size):
                    renewals += self._renew(client, leases[start : start + size], lease_s, jobs)
            except (RedisError, RedisClusterException, OSError) as error:
                raise store_error(error, self._options.shown) from error
        return renewals

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _renew(
        self, client: Any, leases: Sequence[tuple[str, int]], lease_s: float, jobs: Mapping[str, tuple[str, str]]
    ) -> list[Renewal]:
        key = self._options.run_key
        keys = [key(run_id, part) for run_id, _ in leases for part in ("meta", "log", "cmd")]
        times = (int(lease_s * 1000), self._options.millis("live_ttl_s"))
        # EVAL: its text is sent once a beat, and needs no care after a restart of the server.
        answers = client.eval(RENEW.text, len(keys), *keys, *times, *(epoch for _, epoch in leases))
        renewals: list[Renewal] = []
        later: dict[str, dict[str, bytes]] = {}
        for (run_id, _), (held, last_command, until) in zip(leases, answers, strict=True):
            renewals.append(Renewal(bool(held), last_command))
            job = jobs.get(run_id)
            if held and job is not None:
                later.setdefault(self._options.job_keys(*job)[1], {})[run_id] = until
        for held_key, members in later.items():
            # Only if it is held there still: it may have been handed back this moment.
            client.zadd(held_key, members, xx=True)
        return renewals

    def _connected(self, *, clustered: bool) -> Any:
        if self._client is None:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            keywords = {key: value for key, value in self._options.connection.items() if key != "connection_class"}
            timeout_s = min(_TIMEOUT_S, self._options.timeout_s)
            keywords |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
            if clustered:
                keywords.pop("db", None)
                self._client = redis.RedisCluster(**keywords)
            else:
                if "path" in keywords:
                    keywords["unix_socket_path"] = keywords.pop("path")
                elif self._options.shown.startswith(("rediss:", "valkeys:")):
                    keywords["ssl"] = True
                self._client = redis.Redis(**keywords, retry=Retry(NoBackoff(), 0))
        return self._client
