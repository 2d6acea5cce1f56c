"""Imported once, by the process that all others are forked from: what the first run of a process imports and builds.

Without it each new process is busy for half a second with its first answer, and the trial measures that.
"""

from __future__ import annotations

import asyncio
import tempfile

import redis.asyncio

import runstream.log.redis
from chaos.scene import agents
from runstream import RunConfig, Runner

__all__ = ["redis", "runstream"]


async def _run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for store in (f"sqlite:///{folder}/warm.db", "memory://warm"):
            config = RunConfig(store=store, run_id="warm")
            await Runner.run_streamed(agents(lambda *_: None)[0], "do warm", run_config=config).wait()
            await (await Runner.attach("warm", store=store)).wait()


asyncio.run(_run())
