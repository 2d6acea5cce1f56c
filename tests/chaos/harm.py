"""What is done to the processes of a trial."""

from __future__ import annotations

import asyncio
import os
import signal

from chaos.scene import moments_of
from chaos.trial import Trial
from redis_server import Proxy, RedisServer, in_step

__all__ = ["ends", "failovers", "kills", "odd_runs", "restarts", "stops"]

# The moment that a worker is in, and how much later it is struck, at most: before, in and after tools and answers.
_MOMENTS = (("begin", 0.03), ("end", 0.01), ("model", 0.11), ("claim", 0.02), ("append", 0.02))


async def kills(trial: Trial, count: int) -> None:
    """kill -9 for so many workers, one after the other, at moments of every kind."""
    for _ in range(count):
        kind, spread_s = trial.random.choice(_MOMENTS)
        moment = await trial.next_moment(kind)
        pid = trial.random.choice(list(trial.workers)) if moment is None else moment.pid
        await asyncio.sleep(trial.random.random() * spread_s)
        trial.kill_worker(pid)
        if trial.random.random() < 0.1:
            trial.kill_reader()
        await asyncio.sleep(trial.random.uniform(0.05, 0.4))


async def stops(trial: Trial, count: int) -> None:
    """So many workers are stopped, lose their runs to others, and are woken in the middle of what those do now."""
    for _ in range(count):
        moment = await trial.next_moment(trial.random.choice(("model", "model", "begin", "end")))
        pid = trial.random.choice(list(trial.workers)) if moment is None else moment.pid
        await asyncio.sleep(trial.random.random() * 0.03)
        os.kill(pid, signal.SIGSTOP)
        trial.died(pid)
        trial.counts["stops"] += 1
        holder = {moment.subject: moment.pid for moment in moments_of(trial.plan.moments) if moment.kind == "claim"}
        taken = await trial.next_moment("append", of={run_id for run_id, held_by in holder.items() if held_by == pid})
        await asyncio.sleep(trial.random.random() * (0.2 if taken is not None else 1.0))
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(trial.random.uniform(0.2, 0.5))


async def restarts(trial: Trial, count: int, server: RedisServer) -> None:
    """kill -9 for the redis-server in mid-stream; it comes back with what it had written."""
    for _ in range(count):
        await trial.next_moment(trial.random.choice(("model", "begin", "end", "append")))
        await asyncio.sleep(trial.random.random() * 0.1)
        server.kill()
        trial.counts["server kills"] += 1
        await asyncio.sleep(trial.random.random() * 0.5)
        await asyncio.to_thread(server.start)
        await asyncio.sleep(trial.random.uniform(0.5, 1.5))


async def failovers(trial: Trial, count: int, proxy: Proxy, servers: list[RedisServer]) -> None:
    """So many times the primary dies, and a replica takes its place that has not had its last 0.3 s."""
    primary, replica = servers
    for _ in range(count):
        await trial.next_moment("model")
        await asyncio.sleep(trial.random.random() * 0.1)
        replica.command("REPLICAOF", "NO", "ONE")
        await asyncio.sleep(0.3)
        primary.kill()
        proxy.lead_to(replica.port)
        trial.counts["failovers"] += 1
        await asyncio.sleep(trial.random.uniform(0.5, 1.5))
        primary, replica = replica, primary
        await asyncio.to_thread(replica.start)
        replica.command("REPLICAOF", "127.0.0.1", primary.port)
        await asyncio.to_thread(in_step, primary, replica)


async def ends(trial: Trial, count: int) -> None:
    """SIGTERM for so many workers in mid-run: no delivery counts."""
    trial.delivers_once = True
    for _ in range(count):
        moment = await trial.next_moment(trial.random.choice(("model", "begin", "end")))
        pid = trial.random.choice(list(trial.workers)) if moment is None else moment.pid
        await asyncio.sleep(trial.random.random() * 0.05)
        trial.end_worker(pid)
        await asyncio.sleep(trial.random.uniform(0.2, 0.6))


async def odd_runs(trial: Trial, count: int) -> None:
    """Runs that kill their worker, block its event loop, or hold it up for ever; a few other runs beside them."""
    for number in range(count):
        trial.start_worker()  # for the one that will hang
        for kind in ("block", "poison", "hang"):
            await trial.submit(f"{kind}-{number}")
            await asyncio.sleep(1.0)
    await asyncio.sleep(4.0)
