"""A SQLite store whose disk is full: runs fail or go on as configured, nothing is torn, all is well with room again."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

# In a process of its own: the limit on the size of its files stands for the end of the disk. Its first run fills it.
SCRIPT = """
    import asyncio, logging, os, resource
    from runstream import Agent, RunConfig, Runner
    from runstream.testing import ScriptedModel, Turn

    WORDS = "one two three four five six seven eight nine ten " * 2


    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


    def begin(run_id, policy, limit_s):
        agent = Agent(name="Desk", model=ScriptedModel([Turn((WORDS,), every_s=0.01)]))
        config = RunConfig(
            store="sqlite:///runs.db",
            run_id=run_id,
            store_timeout_s=limit_s,
            on_store_failure=policy,
            on_abandon="detach",
        )
        return Runner.run_streamed(agent, "hi", run_config=config)


    async def kept(run_id):
        attached = await Runner.attach(run_id, store="sqlite:///runs.db")
        seqs = []
        try:
            async with asyncio.timeout(0.3):
                async for event in attached.events():
                    seqs.append(event.seq)
        except TimeoutError:
            pass
        assert seqs == list(range(1, len(seqs) + 1))
        return len(seqs), attached.final_output


    async def main():
        logging.disable()
        runs = {"fails": ("fail", 0.3), "goes on": ("continue", 0.3), "waits": ("fail", 20.0)}
        results = {name: begin(name, *options) for name, options in runs.items()}
        for result in results.values():
            async for event in result.events():
                if event.seq == 8:
                    break
        limit(os.path.getsize("runs.db-wal"))
        while results["fails"].is_complete is False or results["goes on"].is_complete is False:
            await asyncio.sleep(0.02)
        print(type(results["fails"].run_loop_exception).__name__)
        print(results["goes on"].final_output == WORDS, results["goes on"].run_loop_exception)
        print(results["waits"].is_complete)
        limit(resource.RLIM_INFINITY)
        await results["waits"].wait()
        print((await kept("waits"))[1] == WORDS)
        for name in ("fails", "goes on"):
            count, output = await kept(name)
            print(count > 3, output)
        late = begin("late", "fail", 5.0)
        await late.wait()
        print((await kept("late"))[1] == WORDS)


    asyncio.run(main())
"""


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """In mid-run: within its limit one run fails, one goes on unkept, and one that has time is whole afterwards."""
    pytest.importorskip("resource")
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "StoreUnavailable",
        "True None",
        "False",
        "True",
        "True None",
        "True None",
        "True",
    ]
