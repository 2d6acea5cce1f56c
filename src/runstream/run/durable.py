"""A run whose log is kept in a store: how it is entered, kept up with, and ended there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from runstream.errors import LeaseLost, RunNotFound, StoreUnavailable
from runstream.events.event import Event, RunStatus
from runstream.log.base import Command, NewRun, StoredStatus
from runstream.log.run_writer import RunWriter
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook
from runstream.run.feed import StoredFeed
from runstream.run.host import StoreHost, opened, run_worker_name

__all__ = ["DurableRun", "make_durable"]

_logger = logging.getLogger("runstream")

# Between two attempts to enter a run into a store that is away.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 1.0
# So long a run that is cancelled waits to hear whether its store has it.
_LAST_CHANCE_S = 1.0


class DurableRun:
    """Between a run that is carried out here and its store."""

    __slots__ = ("_host", "_is_ending", "_run", "_starting_agent", "changed", "run_id", "writer")

    def __init__(self, run: ActiveRun, host: StoreHost, epoch: int) -> None:
        config = run.config
        self._run: ActiveRun | None = run
        self._starting_agent = run.starting_agent
        self.run_id = run.run_id
        self._host = host
        self._is_ending = False
        self.writer = RunWriter(
            host.writer,
            run.log,
            epoch,
            limit_s=config.store_timeout_s,
            goes_on_undurable=config.on_store_failure == "continue",
            on_failure=self.lose,
        )
        self.changed = self.writer.changed  # without a call between them: it is called for each delta
        # A run that hangs must not keep its lease for ever: past its limit, and the time that it has to end, it goes.
        limit_s = None if config.run_limit_s is None else config.run_limit_s + 4 * config.cancel_timeout_s
        host.add(self, epoch, config.lease_s, limit_s)

    @property
    def last_command(self) -> int:
        return 0 if self._run is None else self._run.inbox.last_command

    def take_command(self, command: Command) -> None:
        run = self._run
        if run is None:
            return  # too late
        if command.kind == "cancel":
            run.inbox.last_command = max(run.inbox.last_command, command.number)
            run.cancel("after_turn" if command.data.get("mode") == "after_turn" else "immediate")
        else:
            run.inbox.put(command)

    def lose(self, error: Exception) -> None:
        """Nothing more of this run is kept: it ends here, unless it is to go on without its store."""
        if self._is_ending and isinstance(error, LeaseLost):
            return  # the end frees the lease, and a heartbeat may see that first: the answer to the end itself counts
        if isinstance(error, LeaseLost | RunNotFound):
            # Another worker goes on with it, or somebody has deleted it: there is nothing to go on for.
            self.writer.fail(error)
        elif self.writer.goes_on_undurable:
            return
        if self._run is not None:
            self._run.break_off(error)

    @property
    def epoch(self) -> int:
        return self.writer.epoch

    @property
    def is_behind(self) -> bool:
        return self.writer.is_behind

    async def commit(self) -> None:
        await self.writer.commit()

    async def send(self, command: Command) -> None:
        """Ask something of the run so that it outlives this process."""
        await self._host.store.send(self.run_id, command)
        await self._host.bring(self.run_id)

    async def end(self, event: Event, status: RunStatus) -> None:
        """Keep the end, before anybody is told. Raises LeaseLost, StoreUnavailable, StoreError."""
        self._is_ending = True
        await self.writer.commit_end(event, status)

    def feed(self, after: int) -> StoredFeed:
        """The log as it is kept, from that seq on."""
        book = AgentBook([self._starting_agent])
        return StoredFeed(self._host.store, self.run_id, after, book)

    def leave(self) -> None:
        """The run is over, here at least."""
        self.writer.close()
        self._host.remove(self, self.writer.epoch)
        self._run = None  # which has this one: else it would wait with its log for the collector

    async def hand_back(self) -> None:
        """Let another worker go on with the run. What is in the log is kept first."""
        await self.writer.commit()
        await self._host.store.release(self.run_id, self.writer.epoch)

    def set_status(self, status: StoredStatus) -> None:
        """What the store tells of the run from its next event on. A run that ends for its approvals never waits."""
        if status != "waiting" or (self._run is not None and self._run.config.on_approval == "wait"):
            self.writer.set_status(status)


async def _entered(run: ActiveRun, host: StoreHost, creating: Coroutine[Any, Any, int]) -> int:
    """The epoch of a run that enters its store.

    Where it is cancelled meanwhile the store may have it all the same: then it is a durable run, which ends there, too.
    """
    task = asyncio.get_running_loop().create_task(creating)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            async with run.clock.timeout(_LAST_CHANCE_S):
                await asyncio.wait((task,))
        except TimeoutError:
            pass
        if task.done() and not task.cancelled() and task.exception() is None:
            run.durable = DurableRun(run, host, task.result())
            run.durable.changed(urgent=True)
        raise
    finally:
        task.cancel()


async def make_durable(run: ActiveRun) -> None:
    """Enter the run into its store.

    Raises StoreError, RunExists; StoreUnavailable where the store cannot be opened, or does not take the run within
    `store_timeout_s`. A run that is to go on without its store does so.
    """
    config = run.config
    assert config.store is not None
    failure: StoreUnavailable | None = None
    try:
        async with run.clock.timeout(config.store_timeout_s):
            host = await opened(config.store, run.clock)
            entered = NewRun(run.run_id, run.starting_agent.name, owner=config.owner)
            worker, pause_s = run_worker_name(), _FIRST_PAUSE_S
            while True:
                try:
                    creating = host.store.create(entered, worker=worker, lease_s=config.lease_s)
                    epoch = await _entered(run, host, creating)
                    break
                except StoreUnavailable as error:
                    failure = error
                await run.clock.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
    except TimeoutError:
        why = "" if failure is None else f": {failure}"
        failure = StoreUnavailable(
            f"the store has not taken the run within {config.store_timeout_s:g} s (RunConfig.store_timeout_s){why}"
        )
    except StoreUnavailable as unavailable:
        failure = unavailable  # it cannot even be opened: a wrong URL, more often than not
    else:
        run.durable = DurableRun(run, host, epoch)
        run.durable.changed(urgent=True)
        return
    if config.on_store_failure == "fail":
        raise failure
    _logger.error("%s goes on without its store: %s", run.run_id, failure)
