"""One load on one store, as a process of its own: prints one JSON row.

`python -m benchmarks.stores_probe KIND STORE [NUMBER]`. The model is in this process and costs next to nothing, so that
what is measured is the way from a run's log to its store and back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from benchmarks.probe import percentile, resident_bytes

LEASE_S = 2.0
TICKS = 300
TICK_EVERY_S = 0.01
_DELTAS_PER_BATCH = 200
# A reader in a process of its own takes so long to come.
_HEAD_START_S = 2.0


def _model(count: int, *, every_s: float = 0.0, ticks: bool = False) -> Any:
    """A model whose one answer has that many deltas, or ticks that are no deltas and tell their time."""
    from runstream.agent.model import Model, ModelBatch, streams_in_batches
    from runstream.events.model_event import build_event, new_text_delta

    async def batches(*_: Any) -> AsyncGenerator[ModelBatch, None]:
        response = {"id": "r", "object": "response", "output": [], "status": "in_progress"}
        yield ModelBatch([build_event({"type": "response.created", "response": dict(response)})], [None])
        size = 1 if every_s else _DELTAS_PER_BATCH
        await asyncio.sleep(_HEAD_START_S if ticks else 0.0)
        for start in range(0, count, size):
            if ticks:
                made: list[Any] = [build_event({"type": "benchmark.tick", "ns": time.monotonic_ns()})]
            else:
                made = [
                    new_text_delta("m", 0, 0, f"word{number % 100} ", number)
                    for number in range(start, min(start + size, count))
                ]
            yield ModelBatch(made, [None] * len(made))
            await asyncio.sleep(every_s)
        message = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "done", "annotations": []}],
        }
        done = {**response, "status": "completed", "output": [message]}
        yield ModelBatch([build_event({"type": "response.completed", "response": done})], [None])

    class Prepared(Model):
        stream_batches = staticmethod(lambda _request: batches())

        async def get_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("it streams")

        @streams_in_batches("stream_batches")
        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("it streams in batches")

    return Prepared()


def _agent(model: Any) -> Any:
    from runstream import Agent

    return Agent(name="Assistant", model=model)


async def throughput(store: str, runs: int) -> dict[str, Any]:
    """`runs` runs at once, 200,000 deltas in all, to the last committed end."""
    from runstream import RunConfig, Runner

    per_run = 200_000 // runs
    agent = _agent(_model(per_run))
    await Runner.run_streamed(_agent(_model(20)), "warm up", run_config=RunConfig(store=store)).wait()
    cpu_s, wall_s, before = time.process_time(), time.perf_counter(), resident_bytes()
    config = RunConfig(store=store, store_timeout_s=60)
    await asyncio.gather(*(Runner.run_streamed(agent, "go", run_config=config).wait() for _ in range(runs)))
    cpu_s, wall_s, after = time.process_time() - cpu_s, time.perf_counter() - wall_s, resident_bytes()
    total = per_run * runs
    return {
        "events_per_s": total / wall_s,
        "cpu_us_per_event": cpu_s / total * 1e6,
        "growth_mb": None if before is None or after is None else (after - before) / 1e6,
    }


async def replay(store: str, count: int) -> dict[str, Any]:
    """A reader that begins with a stored log of so many events, to its end; median of several."""
    from runstream import RunConfig, Runner

    result = Runner.run_streamed(_agent(_model(count)), "go", run_config=RunConfig(store=store))
    await result.wait()
    seconds: list[float] = []
    for _ in range(7):
        begun = time.perf_counter()
        attached = await Runner.attach(result.run_id, store=store)
        seen = [event.seq async for event in attached.events()]
        seconds.append(time.perf_counter() - begun)
        if len(seen) < count or seen != list(range(1, len(seen) + 1)):
            raise RuntimeError(f"{len(seen)} of {count} events were read")
    return {"replay_ms": percentile(seconds, 0.5) * 1e3}


async def _write_ticks(store: str) -> None:
    from runstream import RunConfig, Runner

    model = _model(TICKS, every_s=TICK_EVERY_S, ticks=True)
    result = Runner.run_streamed(_agent(model), "go", run_config=RunConfig(store=store))
    print(result.run_id, flush=True)
    await result.wait()


async def latency(store: str) -> dict[str, Any]:
    """From an event in one process to its reader in another: events that are no deltas, one every 10 ms."""
    from runstream import Runner, RunNotFound
    from runstream.run.warm import warm_up

    warm_up()  # a process that reads for others has imported what events are made of
    writer = _process("write-ticks", store)
    assert writer.stdout is not None
    run_id = writer.stdout.readline().strip()
    attached = None
    while attached is None:
        try:
            attached = await Runner.attach(run_id, store=store)
        except RunNotFound:
            await asyncio.sleep(0.005)  # it is being entered
    late: list[float] = []
    async for event in attached.events():
        if event.kind == "model" and event.data.type == "benchmark.tick":
            late.append((time.monotonic_ns() - event.data.ns) / 1e6)
    writer.wait()
    return {"latency_ms_p50": percentile(late, 0.5), "latency_ms_p99": percentile(late, 0.99)}


async def _work(store: str) -> None:
    from runstream import RunConfig, Worker

    worker = Worker([_agent(_model(400, every_s=0.02))], store=store, run_config=RunConfig(lease_s=LEASE_S))
    print("ready", flush=True)
    await worker.run()


async def takeover(store: str) -> dict[str, Any]:
    """A worker killed with -9 in the middle of an answer: until a reader sees the first event of the next worker."""
    from runstream import Runner

    workers = [_process("work", store) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    run_id = await Runner.submit("Assistant", "go", store=store)
    attached = await Runner.attach(run_id, store=store)
    killed = 0.0
    outage = 0.0
    async for event in attached.events():
        if event.seq == 60 and not killed:
            holder = _holder_of(await _worker_of(store, run_id))
            os.kill(holder, signal.SIGKILL)
            killed = time.perf_counter()
        elif killed and event.kind == "attempt.discarded":
            outage = time.perf_counter() - killed
            break
    for worker in workers:
        worker.kill()
        worker.wait()
    return {"takeover_s": outage, "takeover_after_lease_s": outage - LEASE_S}


async def _worker_of(store: str, run_id: str) -> str:
    from runstream import open_store

    opened = open_store(store)
    await opened.open()
    try:
        return (await opened.find(run_id)).worker or ""
    finally:
        await opened.aclose()


def _holder_of(worker: str) -> int:
    return int(worker.split(":")[1])


def _process(kind: str, store: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.stores_probe", kind, store]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def main() -> None:
    kind, store, *rest = sys.argv[1:]
    number = int(rest[0]) if rest else 0
    works: dict[str, Any] = {
        "throughput": lambda: throughput(store, number),
        "replay": lambda: replay(store, number),
        "latency": lambda: latency(store),
        "takeover": lambda: takeover(store),
        "write-ticks": lambda: _write_ticks(store),
        "work": lambda: _work(store),
    }
    row = asyncio.run(works[kind]())
    if row is not None:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
