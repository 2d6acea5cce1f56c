"""What is done to the processes of a trial."""

from __future__ import annotations

import asyncio
import os
import signal

from chaos.scene import moments_of
from chaos.trial import Trial

__all__ = ["kills", "stops"]

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
