"""loop_local: things of one event loop each, closed when it shuts down."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from runstream.loop_local import LoopLocal


class Thing:
    """Can be closed."""

    def __init__(self) -> None:
        self.closed_in: list[asyncio.AbstractEventLoop] = []

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed_in.append(asyncio.get_running_loop())


def test_things_are_closed_in_their_loop_when_it_shuts_down() -> None:
    """All of them, once, while the loop still runs."""
    local: LoopLocal[Thing] = LoopLocal(Thing.aclose)

    async def use() -> tuple[list[Thing], asyncio.AbstractEventLoop]:
        things = local.of_running_loop()
        things["a"], things["b"] = Thing(), Thing()
        assert local.of_running_loop() is things
        return list(things.values()), asyncio.get_running_loop()

    things, loop = asyncio.run(use())
    assert [thing.closed_in for thing in things] == [[loop], [loop]]


def test_each_loop_has_its_own() -> None:
    """Nothing of one loop is seen in another, at the same time or later."""
    local: LoopLocal[Thing] = LoopLocal(Thing.aclose)

    async def use() -> int:
        things = local.of_running_loop()
        before = len(things)
        things["a"] = Thing()
        return before

    assert [asyncio.run(use()) for _ in range(3)] == [0, 0, 0]


def test_outside_of_a_loop_there_is_nothing() -> None:
    """RuntimeError, as asyncio says it."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        LoopLocal(Thing.aclose).of_running_loop()


def test_a_loop_that_is_gone_is_not_kept() -> None:
    """Neither by what it had, nor where it was closed without a shutdown."""
    local: LoopLocal[Thing] = LoopLocal(Thing.aclose)

    async def use() -> None:
        local.of_running_loop()["a"] = Thing()

    def play(*, shut_down: bool) -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        if shut_down:
            loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        return weakref.ref(loop)

    gone = play(shut_down=True)
    gc.collect()
    assert gone() is None
    gone = play(shut_down=False)
    asyncio.run(use())  # the next one lets go of those that are closed
    gc.collect()
    assert gone() is None
