"""One of several processes that carry runs out: takes those of its agents from a store, and hands on what it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.errors import AgentsException, LeaseLost, StoreError, UserError
from runstream.log.base import Claim, Store
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook, reachable_from
from runstream.run.claimed import AgentMissing, SessionFactory, begin
from runstream.run.config import RunConfig
from runstream.run.host import StoreHost, opened, worker_name
from runstream.run.loop import drive
from runstream.run.readers import RunTask
from runstream.run.warm import warm_up
from runstream.sessions.base import Session

__all__ = ["Worker"]

_logger = logging.getLogger("runstream")
# A line for each run that is begun and that ends here, at level INFO.
_runs_logger = logging.getLogger("runstream.worker")

# How long one question for a job lasts: a worker that is asked to stop comes back from it sooner.
_WAIT_S = 30.0
_PAUSE_S = 1.0
# A run that was delivered so often may be what stops its workers: beside it no other is begun, which would be given up
# with it in the end.
_SUSPECT = 3
# Runs that wait for people take no room, but a little memory and a lease: so many for each run that may work.
_IDLE_PER_SLOT = 64
# Of runs that were left to other workers.
_REMEMBERED = 1000
_HANDED_OVER = "it was handed over to another worker"


class Worker:
    """Carries out runs of these agents, and of those reachable from them by handoff.

    `concurrency` is how many at once, beside those that only wait for a person; `queues` limits it to some (all, if
    None). `session` keeps conversations: a session, or a function from a session id to one. `context` makes the context
    of a run from its id where the job brought none. A run that has stopped `max_deliveries` workers is ended as failed.
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
        self._beginning: set[asyncio.Task[None]] = set()
        self._suspects: set[str] = set()
        self._idle: set[str] = set()
        """Runs that do nothing but wait for a person."""
        self._freed = asyncio.Event()
        self._left_to_others: OrderedDict[str, None] = OrderedDict()
        """Runs that were given back, which is told once each: the newest of them."""
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._drain_s = 0.0

    @property
    def busy_count(self) -> int:
        """How many of its runs take up room: those that only wait for a person do not, unless there are very many."""
        return len(self._runs) - min(len(self._idle), self._concurrency * _IDLE_PER_SLOT)

    @property
    def run_ids(self) -> list[str]:
        """The runs that it carries out at present."""
        return list(self._runs)

    async def run(self) -> None:
        """Work until `stop` is called and every run has ended or was handed on. Raises StoreError if the store cannot
        be opened; later failures of the store, of whatever kind, are logged and waited out."""
        host = await opened(self._store, self._config.clock)
        await asyncio.to_thread(warm_up)
        try:
            while not self._stopping.is_set():
                claim = await self._next_claim(host)
                if claim is not None:
                    await self._begin(host, claim)
        finally:
            if not self._stopping.is_set():
                self.stop(drain_s=0.0)  # cancelled: nothing is left behind
            await self._drain()

    async def take(self, claim: Claim, *, is_new: bool = False) -> None:
        """Carry out a run that was claimed in this worker's name by somebody else, without a question for the next one
        and whatever its `concurrency`. While it stops, the run is given back. `is_new`: it was entered by this claim.
        Raises StoreError."""
        host = await opened(self._store, self._config.clock)
        # A task of its own: who asks for it may be cancelled, and a stop waits for what it has let in.
        beginning = asyncio.get_running_loop().create_task(self._begin(host, claim, is_new=is_new))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        await asyncio.shield(beginning)

    def run_of(self, run_id: str) -> ActiveRun | None:
        """The run of that id, where it is carried out here at present."""
        return self._runs.get(run_id)

    def stop(self, *, drain_s: float = 30.0) -> None:
        """Take no more runs. Those that go on have `drain_s` seconds to end; then they are handed on to another worker,
        at the end of their turn or, as long again later, at once. Those that only wait, for a person or for their
        place, are handed on at once. Called again with `drain_s=0`, it hands all on now.
        """
        if drain_s <= 0:
            self._at_once.set()
        if not self._stopping.is_set():
            self._drain_s = drain_s
            self._stopping.set()

    async def _drain(self) -> None:
        while self._beginning:
            await asyncio.wait(self._beginning)
        for run in list(self._runs.values()):
            if run.run_id in self._idle or run.fold.queue_position:
                _hand_on(run)
        if not await self._ended():
            for run in self._runs.values():
                run.hands_over = True
            if not await self._ended():
                for run in self._runs.values():
                    _hand_on(run)
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _ended(self) -> bool:
        """Whether every run has ended, waiting for it as long as there is time."""
        if not self._tasks or self._at_once.is_set():
            return all(task.done() for task in self._tasks)
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(asyncio.wait(self._tasks)), loop.create_task(self._at_once.wait())]
        try:
            async with self._config.clock.timeout(self._drain_s):
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            for wait in waits:
                wait.cancel()
        return all(task.done() for task in self._tasks)

    async def _next_claim(self, host: StoreHost) -> Claim | None:
        """The next run, or None when there is none for a while, no room for one, or the worker is to stop."""
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(self._stopping.wait())
        try:
            if self.busy_count >= self._concurrency or self._suspects - self._idle:
                self._freed.clear()
                freed = loop.create_task(self._freed.wait())
                try:
                    await asyncio.wait((freed, stopping), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    freed.cancel()
                return None
            claiming = loop.create_task(self._claim(host))
            try:
                await asyncio.wait((claiming, stopping), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                claim = await self._last_claim(claiming)
                if claim is not None:
                    await self._give_back(host, claim)
                raise
            return await self._last_claim(claiming)
        finally:
            stopping.cancel()

    async def _last_claim(self, claiming: asyncio.Task[Claim | None]) -> Claim | None:
        """What the question for a run has come to: a claim that is on its way must not be lost, nor come later."""
        if not claiming.done():
            claiming.cancel()
            await asyncio.wait((claiming,))
        return None if claiming.cancelled() else claiming.result()

    async def _claim(self, host: StoreHost) -> Claim | None:
        try:
            return await host.store.claim_next(
                self._names, self.name, self._config.lease_s, queues=self._queues, wait_s=_WAIT_S
            )
        except Exception as error:  # whatever it is: the runs that go on here are not to be given up with it
            is_expected = isinstance(error, StoreError)
            _logger.warning("no runs can be claimed: %s", error if is_expected else repr(error))
            await self._config.clock.sleep(_PAUSE_S)
            return None

    async def _give_back(self, host: StoreHost, claim: Claim) -> None:
        """Let another worker begin the run at once; without the store it is begun when its lease has run out."""
        try:
            await host.store.release(claim.run.run_id, claim.epoch)
        except StoreError as error:
            _logger.warning("the run %s cannot be given back: %s", claim.run.run_id, error)

    async def _leave_to_others(self, host: StoreHost, claim: Claim, error: AgentMissing) -> None:
        """A run that another worker may have the agent for (a new version that is being rolled out) goes back."""
        run_id = claim.run.run_id
        if claim.run.job is None:
            _logger.error("%s; it is tried again when its lease has run out", error)
            return  # what was not submitted is given out by its lease alone
        await self._give_back(host, claim)
        if run_id in self._left_to_others:
            self._left_to_others.move_to_end(run_id)
            await self._config.clock.sleep(_PAUSE_S)  # nobody else has taken it yet
            return
        self._left_to_others[run_id] = None
        if len(self._left_to_others) > _REMEMBERED:
            self._left_to_others.popitem(last=False)
        _logger.warning("%s; left to other workers", error)

    async def _begin(self, host: StoreHost, claim: Claim, *, is_new: bool = False) -> None:
        run_id = claim.run.run_id
        if self._stopping.is_set():
            await self._give_back(host, claim)
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
                is_new=is_new,
            )
        except AgentMissing as error:
            await self._leave_to_others(host, claim, error)
            return
        except Exception as error:
            # Its lease runs out, and somebody tries again, until its deliveries are used up.
            _logger.error("the run %s cannot be begun: %r", run_id, error)
            return
        self._runs[run_id] = run
        self._idle.discard(run_id)
        record = claim.run
        if record.deliveries >= _SUSPECT:
            self._suspects.add(run_id)
        run.inbox.on_idle = lambda idle: self._note_idle(run, idle)
        how = "taken over" if run.resumed is not None else "begun"
        _runs_logger.info(
            "%s %s (%s, queue %s, delivery %d)", how, run_id, record.agent, record.queue, record.deliveries
        )
        run.start(_told_elsewhere(drive(run)))
        cast("RunTask", run.task).on_cancel = lambda: _leaves(run)
        task = asyncio.get_running_loop().create_task(self._watch(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_idle(self, run: ActiveRun, idle: bool) -> None:
        if self._runs.get(run.run_id) is not run:
            return  # this worker has taken it over from itself
        if idle:
            self._idle.add(run.run_id)
            self._freed.set()
            if self._stopping.is_set():
                _hand_on(run)  # nobody knows how long a person takes
        else:
            self._idle.discard(run.run_id)

    async def _watch(self, run: ActiveRun) -> None:
        begun_at = run.now()
        try:
            await run.wait_ended()
            run.error_told()
            end = run.fold.end
            if isinstance(run.error, LeaseLost):
                _runs_logger.info("left %s: %s", run.run_id, run.error.reason)
            elif end is not None:
                why = "" if run.error is None else f": {run.error!r}"
                _runs_logger.info("ended %s as %s after %.1f s%s", run.run_id, end.status, run.now() - begun_at, why)
        except AgentsException as error:
            _logger.error("the run %s: %s", run.run_id, error)
        finally:
            self._suspects.discard(run.run_id)
            if self._runs.get(run.run_id) is run:
                del self._runs[run.run_id]  # else this worker has taken it over from itself
                self._idle.discard(run.run_id)
            self._freed.set()


def _hand_on(run: ActiveRun) -> None:
    """Leave a run to another worker, now. What it waits for is in the store, as are answers that come meanwhile."""
    run.hands_over = True
    run.break_off(LeaseLost(run.run_id, _HANDED_OVER))


def _leaves(run: ActiveRun) -> bool:
    """Whether its task is to be cancelled. Where that is nobody's wish who knows the run, the event loop ends, which
    cancels every task of it in any order: the run is handed on. One that has not begun would not even notice."""
    if not (run.silenced or run.broken is not None):
        run.hands_over = True
        run.broken = LeaseLost(run.run_id, _HANDED_OVER)
    return run.begun


async def _told_elsewhere(driving: Coroutine[Any, Any, None]) -> None:
    """A run that was handed over is no failure: `asyncio.run` reports those of tasks that it cancels at its end."""
    try:
        await driving
    except LeaseLost:
        pass  # `_watch` has it from the run
