"""What the runs of one event loop share for a store: the open store, its writer, the heartbeat, people's commands."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from runstream.clock import Clock
from runstream.errors import AgentsException, LeaseLost, RunNotFound
from runstream.log.base import Command, Store
from runstream.log.lease import LeaseKeeper
from runstream.log.writer import StoreWriter
from runstream.loop_local import LoopLocal

__all__ = ["Hosted", "StoreHost", "host_of", "opened", "run_worker_name", "worker_name"]

_logger = logging.getLogger("runstream")

_GATHERING_S = 0.02
_PAUSE_S = 1.0
"""After a failure of the store, before it is asked for commands again."""


class Hosted(Protocol):
    """A run as its host sees it."""

    @property
    def run_id(self) -> str:
        """Names the run."""
        ...

    @property
    def last_command(self) -> int:
        """Number of the latest command that it has taken."""
        ...

    def take_command(self, command: Command) -> None:
        """Somebody asks something of the run."""
        ...

    def lose(self, error: Exception) -> None:
        """The run is no longer this process's, or cannot be kept."""
        ...


class StoreHost:
    """One store in one event loop."""

    def __init__(self, store: Store, clock: Clock, *, owned: bool) -> None:
        self.store = store
        self.clock = clock
        self.writer = StoreWriter(store, clock)
        self._owned = owned
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Task[None] | None = None
        self._keepers: dict[float, LeaseKeeper] = {}
        self._runs: dict[str, Hosted] = {}
        self._pump: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._due: set[str] = set()
        self._errands: dict[asyncio.Task[None], Callable[[], Coroutine[Any, Any, None]]] = {}

    async def open(self) -> None:
        """Open the store, once for all who ask. Raises StoreError, StoreUnavailable."""
        opening = self._opening
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            opening = self._opening = self._loop.create_task(self.store.open())
        if not opening.done():
            await asyncio.shield(opening)
        opening.result()

    def run_of(self, run_id: str) -> Hosted | None:
        """The run of that id, if it is carried out here."""
        return self._runs.get(run_id)

    def hold(self, run_id: str, epoch: int, lease_s: float, limit_s: float | None = None) -> None:
        """Keep the lease of a run that is this process's, for `limit_s` seconds at the most."""
        keeper = self._keepers.get(lease_s)
        if keeper is None:
            keeper = self._keepers[lease_s] = LeaseKeeper(
                self.store, lease_s, on_lost=self._lost, on_command=self._commanded
            )
        keeper.hold(run_id, epoch, limit_s=limit_s)

    def add(self, run: Hosted, epoch: int, lease_s: float, limit_s: float | None) -> None:
        """A run is carried out here from now on: its lease is kept and its commands are brought."""
        before = self._runs.get(run.run_id)
        self._runs[run.run_id] = run
        if before is not None:
            before.lose(LeaseLost(run.run_id))  # this process has taken it over from itself
        self.hold(run.run_id, epoch, lease_s, limit_s)
        if self._pump is None:
            self._pump = self._loop.create_task(self._bring_commands(), name="runstream commands")
        self._wake.set()

    def remove(self, run: Hosted, epoch: int) -> None:
        """It is not any more."""
        if self._runs.get(run.run_id) is run:
            del self._runs[run.run_id]
        self.drop(run.run_id, epoch)
        if not self._runs and self._pump is not None:
            self._pump.cancel()
            self._pump = None

    def drop(self, run_id: str, epoch: int) -> None:
        """Keep the lease of that epoch no longer."""
        for keeper in self._keepers.values():
            keeper.drop(run_id, epoch)

    def _lost(self, run_id: str) -> None:
        self._in_loop(self._tell_lost, run_id)

    def _commanded(self, run_id: str, number: int) -> None:
        self._in_loop(self._look_for_commands, run_id, number)

    def _in_loop(self, call: object, *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)  # pyright: ignore[reportArgumentType, reportCallIssue]
        except RuntimeError:
            pass  # the loop is closed, and its runs with it

    def _tell_lost(self, run_id: str) -> None:
        run = self._runs.get(run_id)
        if run is not None:
            run.lose(LeaseLost(run_id))

    def _look_for_commands(self, run_id: str, number: int) -> None:
        run = self._runs.get(run_id)
        if run is not None and run.last_command < number:
            self._due.add(run_id)
            self._wake.set()

    async def _bring_commands(self) -> None:
        """Take commands from the store to the runs, for as long as there are runs."""
        while self._runs:
            self._wake.clear()
            try:
                known = {run_id: run.last_command for run_id, run in self._runs.items()}
                for run_id in await self._changed(known):
                    await self.bring(run_id)
            except Exception as error:
                # Whatever it is, the runs go on, and the heartbeat tells of commands as well.
                _logger.warning("commands cannot be read: %s", error)
                await self.clock.sleep(_PAUSE_S)

    async def _changed(self, known: dict[str, int]) -> list[str]:
        waiting = self._loop.create_task(self._wait_commands(known))
        woken = self._loop.create_task(self._wake.wait())
        try:
            await asyncio.wait((waiting, woken), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            # Runs come in crowds: one new question is enough for those of a moment.
            await self.clock.sleep(_GATHERING_S)
            if waiting.done():
                return waiting.result()
            # There is another run, or the heartbeat has seen a command.
            due, self._due = self._due, set()
            return list(due)
        finally:
            for task in (waiting, woken):
                if not task.done():
                    task.cancel()

    async def _wait_commands(self, known: dict[str, int]) -> list[str]:
        return list(await self.store.wait_commands(known))

    async def bring(self, run_id: str) -> None:
        """Give the run the commands that wait for it, in their order."""
        run = self._runs.get(run_id)
        if run is None:
            return
        try:
            commands = await self.store.commands(run_id, run.last_command)
        except RunNotFound:
            return
        for command in commands:
            if command.number > run.last_command:
                run.take_command(command)

    def see_to(self, errand: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Do something that nobody need wait for; where the event loop is shut down before it is done, at its end."""
        task = self._loop.create_task(errand())
        self._errands[task] = errand
        task.add_done_callback(self._seen_to)
        return task

    def _seen_to(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            del self._errands[task]
            task.exception()  # it is told by the errand itself

    async def aclose(self) -> None:
        """Stop everything; close the store if it was opened by its URL."""
        for errand in [errand for task, errand in self._errands.items() if task.cancelled()]:
            with suppress(AgentsException):
                await errand()
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            await asyncio.wait({pump})
        await self.writer.aclose()
        for keeper in self._keepers.values():
            await self._loop.run_in_executor(None, keeper.close)
        if self._owned:
            await self.store.aclose()


async def _close(host: StoreHost) -> None:
    await host.aclose()


_hosts: LoopLocal[StoreHost] = LoopLocal(_close)


def host_of(store: str | Store, clock: Clock) -> StoreHost:
    """The running event loop's host for a store or a URL, not open yet. Raises UserError for a URL of no store."""
    from runstream.log.open_store import open_store

    hosts = _hosts.of_running_loop()
    # By the clock as well: whoever submits a run may have another one than the worker beside it, in tests.
    key = (store if isinstance(store, str) else id(store), id(clock))
    host = hosts.get(key)
    if host is None:
        host = hosts[key] = StoreHost(open_store(store), clock, owned=isinstance(store, str))
    return host


async def opened(store: str | Store, clock: Clock) -> StoreHost:
    """The host, open. Raises StoreError, StoreUnavailable."""
    host = host_of(store, clock)
    await host.open()
    return host


_worker_name: str | None = None


def worker_name() -> str:
    """Names this process among those that work on runs: the machine, the process and a random part."""
    global _worker_name
    if _worker_name is None or f":{os.getpid()}:" not in _worker_name:
        _worker_name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    return _worker_name


def run_worker_name() -> str:
    """Names who works on one run: two runs of this very process that ask for the same one are two."""
    return f"{worker_name()}/{uuid.uuid4().hex[:8]}"
