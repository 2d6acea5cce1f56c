"""One of several processes that carry runs out: takes those of its agents from a store, and hands on what it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from runstream.agent.agent import Agent
from runstream.errors import AgentsException, LeaseLost, StoreError, UserError
from runstream.log.base import Claim, Store
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook, reachable_from
from runstream.run.claimed import SessionFactory, begin
from runstream.run.config import RunConfig
from runstream.run.host import StoreHost, opened, worker_name
from runstream.run.loop import drive
from runstream.sessions.base import Session

__all__ = ["Worker"]

_logger = logging.getLogger("runstream")

# How long one question for a job lasts: a worker that is asked to stop comes back from it sooner.
_WAIT_S = 30.0
_PAUSE_S = 1.0


class Worker:
    """Carries out runs of these agents, and of those reachable from them by handoff.

    `concurrency` is how many at once; `queues` limits it to some (all, if None). `session` keeps conversations: a
    session, or a function from a session id to one. `context` makes the context of a run from its id where the job
    brought none. A run that has stopped `max_deliveries` workers is ended as failed.
    """

    def __init__(
        self,
        agents: Iterable[Agent[Any]],
        *,
        store: str | Store,
        concurrency: int = 16,
        queues: Iterable[str] | None = None,
        run_config: RunConfig | dict[str, Any] | None = None,
        session: Session | SessionFactory | None = None,
        context: Callable[[str], Any] | None = None,
        max_deliveries: int = 5,
        name: str | None = None,
    ) -> None:
        self._agents = list(agents)
        self._names = frozenset(reachable_from(self._agents))
        if not self._names:
            raise UserError("a worker needs at least one agent")
        if concurrency < 1:
            raise UserError(f"concurrency must be at least 1, not {concurrency}")
        self._store = store
        self._concurrency = concurrency
        self._queues = None if queues is None else frozenset(queues)
        self._config = RunConfig.of(run_config)
        self._session = session
        self._context = context
        self._max_deliveries = max_deliveries
        self.name = name or worker_name()
        self._runs: dict[str, ActiveRun] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()

    @property
    def run_ids(self) -> list[str]:
        """The runs that it carries out at present."""
        return list(self._runs)

    async def run(self) -> None:
        """Work until `stop` is called and every run has ended or was handed on. Raises StoreError if the store cannot
        be opened; later failures of the store are logged and waited out."""
        host = await opened(self._store, self._config.clock)
        try:
            while not self._stopping.is_set():
                claim = await self._next_claim(host)
                if claim is not None:
                    await self._begin(host, claim)
        finally:
            if not self._stopping.is_set():
                self.stop(drain_s=0.0)  # cancelled: nothing is left behind
            while self._tasks:
                await asyncio.wait(self._tasks)

    def stop(self, *, drain_s: float = 30.0) -> None:
        """Take no more runs. Those that go on have `drain_s` seconds to end; then they are handed on to another worker,
        at the end of their turn or, as long again later, at once. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._tasks:
            task = asyncio.get_running_loop().create_task(self._drain(drain_s), name="runstream worker drain")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _drain(self, drain_s: float) -> None:
        runs = [task for task in self._tasks if task is not asyncio.current_task()]
        if not runs:
            return
        if drain_s > 0:
            await self._wait(runs, drain_s)
            for run in self._runs.values():
                run.hands_over = True
            await self._wait([task for task in runs if not task.done()], drain_s)
        for run in list(self._runs.values()):
            run.hands_over = True
            run.break_off(LeaseLost(run.run_id, "it was handed over to another worker"))

    async def _wait(self, tasks: list[asyncio.Task[Any]], limit_s: float) -> None:
        if not tasks:
            return
        try:
            async with self._config.clock.timeout(limit_s):
                await asyncio.wait(tasks)
        except TimeoutError:
            pass

    async def _next_claim(self, host: StoreHost) -> Claim | None:
        """The next run, or None when there is none for a while, no room for one, or the worker is to stop."""
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(self._stopping.wait())
        try:
            if len(self._runs) >= self._concurrency:
                running = [task for task in self._tasks if not task.done()]
                await asyncio.wait((*running, stopping), return_when=asyncio.FIRST_COMPLETED)
                return None
            claiming = loop.create_task(self._claim(host))
            await asyncio.wait((claiming, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not claiming.done():
                # A claim that is on its way must not be lost: it is taken and handed back.
                claiming.cancel()
                await asyncio.wait((claiming,))
            return None if claiming.cancelled() else claiming.result()
        finally:
            stopping.cancel()

    async def _claim(self, host: StoreHost) -> Claim | None:
        try:
            return await host.store.claim_next(
                self._names, self.name, self._config.lease_s, queues=self._queues, wait_s=_WAIT_S
            )
        except StoreError as error:
            _logger.warning("no runs can be claimed: %s", error)
            await self._config.clock.sleep(_PAUSE_S)
            return None

    async def _begin(self, host: StoreHost, claim: Claim) -> None:
        run_id = claim.run.run_id
        if self._stopping.is_set():
            await host.store.release(run_id, claim.epoch)
            return
        try:
            run = await begin(
                claim,
                host,
                AgentBook(self._agents),
                self._config,
                context=None if self._context is None else self._context(run_id),
                session=self._session,
                max_deliveries=self._max_deliveries,
            )
        except Exception as error:
            # Its lease runs out, and somebody tries again, until its deliveries are used up.
            _logger.error("the run %s cannot be begun: %r", run_id, error)
            return
        self._runs[run_id] = run
        run.start(drive(run))
        task = asyncio.get_running_loop().create_task(self._watch(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, run: ActiveRun) -> None:
        try:
            await run.wait_ended()
            run.error_told()
            if run.error is not None and not isinstance(run.error, LeaseLost):
                _logger.info("the run %s has failed: %s", run.run_id, run.error)
        except AgentsException as error:
            _logger.error("the run %s: %s", run.run_id, error)
        finally:
            self._runs.pop(run.run_id, None)
