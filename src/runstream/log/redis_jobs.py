"""Which runs wait for a worker, on Redis: where to look for them, in which order, and how to be woken for one.

Must not know what a claim does. A job is hidden for a lease when it is taken; whoever took it claims the run, whose own
meta decides, and says here what came of it. So a job that was lost half way shows up again, and nothing is run twice.

Invariant: of a queue's jobs the oldest that waits is taken, of the queues the one that was served longest ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from runstream.log.redis_link import Command, Lane, Refused, script_command, store_error
from runstream.log.redis_scripts import JOB, TAKE
from runstream.log.redis_server import Server

__all__ = ["Job", "Jobs"]

_DEFAULT_QUEUE = "default"
_LOOK_S = 1.0
"""A waiting worker looks for itself so often: for leases that ran out, new queues, tokens that were lost."""
_TURN_S = 0.1
"""Of a cluster's queues one after the other is waited for, each for so long."""

Job = tuple[str, str, str]
"""Queue, agent, run."""


class Jobs:
    """The jobs of all queues."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._options = server.options
        self._idle: list[Lane] = []
        self._turn = 0

    def command(self, what: str, queue: str, agent: str, run_id: str, pause_s: float = 0.0) -> tuple[str, Command]:
        """`held`: look at the run after so long; `found`: the same unless it is known; `ready`: now; `done`: never."""
        keys = self._options.job_keys(queue, agent)
        return keys[0], script_command(JOB, keys, (what, run_id, max(0, int(pause_s * 1000))))

    def register(self, queue: str) -> tuple[str, Command]:
        """Make a queue known to workers that serve all."""
        key = self._options.index_key("queues")
        return key, ("ZADD", key, "NX", 0, queue)

    async def served(self, queue: str) -> None:
        """The queue goes to the end of the line."""
        key = self._options.index_key("queues")
        await self._server.ask(key, "ZADD", key, int(self._server.clock.now() * 1_000_000), queue)

    async def in_turn(self, queues: Collection[str] | None) -> list[str]:
        """The queues, the one that was served longest ago first."""
        key = self._options.index_key("queues")
        line = [name.decode() for name in await self._server.ask(key, "ZRANGE", key, 0, -1)]
        if queues is None:
            return line if _DEFAULT_QUEUE in line else [_DEFAULT_QUEUE, *line]
        return [name for name in queues if name not in line] + [name for name in line if name in queues]

    async def take(self, queues: Sequence[str], agents: list[str], lease_s: float) -> tuple[Job | None, float]:
        """A run that somebody should claim, hidden from others for a lease; or in how many seconds to look again."""
        pause_s = _LOOK_S
        for queue in queues:
            keys = [key for agent in agents for key in self._options.job_keys(queue, agent)]
            number, found = await self._server.script(TAKE, keys, [max(1, int(lease_s * 1000))])
            if number:
                return (queue, agents[int(number) - 1], str(found, "utf-8")), 0.0
            if found >= 0:
                pause_s = min(pause_s, found / 1000)
        return None, pause_s

    async def wait(self, queues: Sequence[str], agents: Sequence[str], limit_s: float) -> None:
        """Returns once there may be a job, at the latest after so long. Raises StoreUnavailable."""
        if not queues or not agents:
            await self._server.clock.sleep(limit_s)
            return
        if self._server.clustered:
            self._turn += 1
            queues, limit_s = [queues[self._turn % len(queues)]], min(limit_s, _TURN_S)
        keys = [self._options.job_keys(queue, agent)[3] for queue in queues for agent in agents]
        lane = self._idle.pop() if self._idle and not self._server.clustered else None
        if lane is None:
            lane = self._server.new_lane(self._server.address(keys[0]))
            lane.patience_s += _LOOK_S
        whole = False
        try:
            # 0 would be for ever.
            (answer,) = await lane.ask([("BLPOP", *keys, f"{max(limit_s, 0.001):.3f}")])
            whole = not isinstance(answer, Refused)
        finally:
            if whole and not self._server.clustered and self._server.is_open:
                self._idle.append(lane)
            else:
                await asyncio.shield(lane.aclose())
        if isinstance(answer, Refused):
            raise store_error(answer, self._options.shown) from answer

    async def aclose(self) -> None:
        lanes, self._idle = self._idle, []
        for lane in lanes:
            await lane.aclose()
