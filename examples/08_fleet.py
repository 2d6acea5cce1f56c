"""A fleet: three workers in processes of their own, six runs, and a reader that follows one of them to its end.

The worker that has this run is killed in the middle of it: another takes the run over, and the reader goes on reading.
The store is a SQLite file; with `--store redis://localhost` the same fleet spreads over several machines.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile

from openai.types.responses import ResponseTextDeltaEvent

from _service import service
from runstream import Agent, Runner, Worker, function_tool, open_store
from runstream.testing import Script, ToolCall, Turn, When, say


@function_tool(idempotent=True)
async def count_stock(article: str) -> str:
    """How many of an article there are."""
    await asyncio.sleep(0.1)
    return f"{len(article)} x {article}"


agent = Agent(
    name="Stock Keeper", instructions="Count with the tool, then answer in two sentences.", tools=[count_stock]
)


async def work(store: str, name: str) -> None:
    """What `runstream worker MODULE:agent --store ... --concurrency 2 --name ...` does."""
    worker = Worker([agent], store=store, concurrency=2, name=name, run_config={"lease_s": 1.0})
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


async def read(run_id: str, store: str, workers: dict[str, asyncio.subprocess.Process]) -> None:
    """Follow a run from its first event on, wherever it is carried out."""
    runs = open_store(store)
    await runs.open()
    result = await Runner.attach(run_id, store=store, agents=[agent])
    print(f"=== {run_id} ===")
    pieces = 0
    async for event in result.events():
        if event.kind == "model" and isinstance(event.data, ResponseTextDeltaEvent):
            print(event.data.delta, end="", flush=True)
            pieces += 1
            if pieces == 8:
                name = (await runs.find(run_id)).worker or ""
                print(f"\n[its worker, {name}, is killed]")
                workers[name].kill()
        elif event.kind == "attempt.discarded":
            print(f"[void since event {event.data.from_seq}: another worker has taken the run over]")
    print(f"\n[{result.run_id} has ended; its worker was {(await runs.find(run_id)).worker}]")
    await runs.aclose()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=os.environ.get("RUNSTREAM_STORE"))
    parser.add_argument("--work", metavar="NAME", help="be one of the workers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = options.store or f"sqlite:///{directory}/fleet.db"
        if options.work:
            await work(store, options.work)
            return
        async with service(SCRIPT):
            workers = {
                name: await asyncio.create_subprocess_exec(sys.executable, __file__, "--store", store, "--work", name)
                for name in ("worker-1", "worker-2", "worker-3")
            }
            articles = ["kettles", "cups", "spoons", "plates", "lids", "jars"]
            ids = [await Runner.submit(agent, f"How many {article}?", store=store) for article in articles]
            await read(ids[0], store, workers)

            print("\n=== all of them ===")
            for run_id in ids:
                result = await Runner.attach(run_id, store=store, agents=[agent])
                await result.wait()
                print(f"{run_id[:10]}  {result.final_output}")
            for process in workers.values():
                if process.returncode is None:
                    process.terminate()
            statuses = [await process.wait() for process in workers.values()]
            print(f"[the workers have ended with {sorted(statuses)}]")


# What the scripted model does where there is no key: it counts, and answers what it was asked.
SCRIPT = Script(
    [
        Turn([ToolCall("count_stock", {"article": "articles"})], when=When(after_tool=False)),
        Turn(
            say("I have counted everything twice. There is enough of it for the rest of the year.").parts,
            every_s=0.05,
            when=When(after_tool=True),
        ),
    ],
    repeat=True,
)

if __name__ == "__main__":
    asyncio.run(main())
