"""agent/threads: work in threads of our own, which end with the work."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import pytest

from runstream.agent import threads
from runstream.agent.threads import Workers, call_in_thread


def _threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def _gone(name: str) -> bool:
    for thread in _threads_named(name):
        await asyncio.to_thread(thread.join, 5.0)
    return not _threads_named(name)


async def test_results_and_errors_come_back() -> None:
    """What the work returns or raises arrives, and the thread ends with the work."""
    workers = Workers("test", 2)
    assert await workers.start(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await workers.start(lambda: 1 // 0)
    assert await _gone("test")


async def test_at_most_so_many_at_once_and_in_order() -> None:
    """Beyond the limit, work waits, and begins in the order in which it was given."""
    workers = Workers("test", 2)
    gate, begun = threading.Event(), []

    def work(number: int) -> int:
        begun.append(number)
        gate.wait(5.0)
        return number

    given = [workers.start(lambda number=number: work(number)) for number in range(6)]
    await asyncio.to_thread(_until, lambda: len(begun) == 2)
    assert len(_threads_named("test")) == 2
    gate.set()
    assert await asyncio.gather(*given) == [0, 1, 2, 3, 4, 5]
    assert sorted(begun[:2]) == [0, 1]
    assert await _gone("test")


def _until(holds: Any) -> None:
    for _ in range(5000):
        if holds():
            return
        time.sleep(0.001)
    raise AssertionError


async def test_work_that_was_cancelled_before_it_began_is_not_done() -> None:
    """What waits in the queue can be taken back; what has begun goes on."""
    workers = Workers("test", 1)
    gate, done = threading.Event(), []
    first = workers.start(lambda: gate.wait(5.0))
    second = workers.start(lambda: done.append("second"))
    third = workers.start(lambda: done.append("third"))
    second.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, third)
    assert done == ["third"]
    assert await _gone("test")


async def test_nothing_is_kept() -> None:
    """Neither the work nor its result outlive it in the threads."""
    workers = Workers("test", 1)

    class Result:
        pass

    result = await workers.start(Result)
    seen = weakref.ref(result)
    assert await _gone("test")
    await asyncio.sleep(0)
    del result
    gc.collect()
    assert seen() is None


async def test_without_threads_the_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread is to be had at all the caller is told; where there are some, the work waits for one."""

    class NoThread:
        def __init__(self, **options: Any) -> None:
            raise RuntimeError("can't start new thread")

    workers = Workers("test", 2)
    gate = threading.Event()
    first = workers.start(lambda: gate.wait(5.0))
    with monkeypatch.context() as patch:
        patch.setattr(threads.threading, "Thread", NoThread)
        second = workers.start(lambda: "later")
    gate.set()
    assert (await first, await second) == (True, "later")
    assert await _gone("test")
    with monkeypatch.context() as patch:
        patch.setattr(threads.threading, "Thread", NoThread)
        with pytest.raises(RuntimeError, match="can't start"):
            workers.start(lambda: "never")
    assert await workers.start(lambda: "again") == "again"


async def test_context_variables_go_along() -> None:
    """A plain function sees the context of its caller, and arguments are passed."""
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    assert await call_in_thread(lambda word: (variable.get(), word), "x") == ("set", "x")


async def test_a_tool_in_a_loop_of_its_own_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event loop has its own threads, so that a tool may run an agent with tools."""
    monkeypatch.setattr(threads, "_TOOLS_AT_ONCE", 1)

    def outer() -> str:
        return asyncio.run(call_in_thread(lambda: "inner"))

    loop = asyncio.get_running_loop()
    threads._workers_of_tools.pop(loop, None)
    assert await asyncio.wait_for(call_in_thread(outer), 10.0) == "inner"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """After a fork, with all threads busy in the parent, work in the child is done."""
    script = (
        "import asyncio, os, threading\n"
        "from runstream.agent.threads import Workers\n"
        "workers, gate = Workers('test', 1), threading.Event()\n"
        "async def main():\n"
        "    busy = workers.start(gate.wait)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(0 if asyncio.run(other()) == 7 else 1)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    gate.set()\n"
        "    await busy\n"
        "async def other(): return await workers.start(lambda: 7)\n"
        "asyncio.run(main())\n"
    )
    # In the child asyncio believes to be inside the parent's loop.
    script = script.replace("        os._exit", "        asyncio._set_running_loop(None)\n        os._exit")
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=30)


def test_a_program_that_ends_waits_for_work_that_has_begun() -> None:
    """As with asyncio's own pool, what a plain function has begun is not cut off at the end of the program."""
    script = (
        "import asyncio, time\n"
        "from runstream.agent.threads import Workers\n"
        "workers = Workers('test', 1)\n"
        "def work(): time.sleep(0.2); print('done', flush=True)\n"
        "async def main(): workers.start(work)\n"
        "asyncio.run(main())\n"
    )
    told = subprocess.run([sys.executable, "-c", script], check=True, timeout=30, capture_output=True, text=True)
    assert (told.stdout, told.stderr) == ("done\n", "")
