"""The runs that this process carries out: entered here, or left by a server that is gone.

A worker as any other (`run/worker.py`), but for one thing: a run that is entered here is claimed in the same step, so
that its first event does not wait until somebody has asked the store for work. Its job is in the store all the same:
where this process dies, the server that is started next goes on with it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.clock import Clock
from runstream.log.base import Claim, NewRun, RunRecord, Store
from runstream.run.active import ActiveRun
from runstream.run.bind import reachable_from
from runstream.run.claimed import Job, SessionFactory
from runstream.run.config import RunConfig
from runstream.run.host import StoreHost, opened
from runstream.run.worker import Worker
from runstream.sessions.base import Session

__all__ = ["Carrier", "Stopping", "TooManyRuns"]


class TooManyRuns(Exception):
    """As many runs are carried out as the server allows, or as many wait for their place."""


class Stopping(Exception):
    """The server takes no more runs."""


class Carrier:
    """`start` it in the event loop of the server; `stop` hands on what has not ended in time."""

    def __init__(
        self,
        agents: Iterable[Agent[Any]],
        store: str | Store,
        config: RunConfig,
        *,
        session: Session | SessionFactory | None,
        max_runs: int,
        max_deliveries: int,
    ) -> None:
        self.agents = list(agents)
        self.names = list(reachable_from(self.agents))
        self._store = store
        self._config = config
        self._session = session
        self.max_runs = max_runs
        self._max_deliveries = max_deliveries
        self._worker: Worker | None = None
        self._working: asyncio.Task[None] | None = None
        self._host: StoreHost | None = None
        self._entering = 0
        self.stopping = False

    @property
    def clock(self) -> Clock:
        return self._config.clock

    @property
    def host(self) -> StoreHost:
        """The open store. Only once it is started."""
        assert self._host is not None
        return self._host

    @property
    def store(self) -> Store:
        return self.host.store

    @property
    def run_count(self) -> int:
        """How many runs are carried out here, or about to be."""
        return self._entering + (len(self._worker.run_ids) if self._worker is not None else 0)

    @property
    def working(self) -> bool:
        """Whether runs are taken."""
        return self._working is not None and not self._working.done() and not self.stopping

    def run_of(self, run_id: str) -> ActiveRun | None:
        """The run of that id, where it is carried out here."""
        return None if self._worker is None else self._worker.run_of(run_id)

    async def session_of(self, name: str) -> Session | None:
        """The conversation of that name among those of all users; None where none are kept."""
        session = self._session
        if session is None or hasattr(session, "get_items"):
            return cast("Session | None", session)
        made: Any = cast("SessionFactory", session)(name)
        return await made if hasattr(made, "__await__") else made

    async def start(self) -> None:
        """Open the store and begin to work. Raises StoreError."""
        self._host = await opened(self._store, self._config.clock)
        self._worker = Worker(
            self.agents,
            store=self._store,
            concurrency=self.max_runs,
            run_config=self._config,
            session=self._session,
            max_deliveries=self._max_deliveries,
        )
        self._working = asyncio.get_running_loop().create_task(self._worker.run(), name="runstream server worker")

    async def submit(self, agent: str, job: Job, owner: str | None, run_id: str | None = None) -> str:
        """Enter a run and begin it; returns its id, a new one unless given.

        Raises TooManyRuns, Stopping, RunExists, StoreError, StoreUnavailable.
        """
        worker = self._worker
        if worker is None or not self.working:
            raise Stopping
        load = self._config.load_limits
        if self._entering + worker.busy_count >= self.max_runs or (load is not None and load.full):
            raise TooManyRuns
        self._entering += 1
        try:
            is_new = run_id is None  # an id that was given may have been entered before
            run_id = run_id or f"run_{uuid.uuid4().hex}"
            body = job.encode()
            new = NewRun(run_id, agent, owner=owner, job=body)
            epoch = await self.store.create(new, worker=worker.name, lease_s=self._config.lease_s)
            now = self.clock.now()
            record = RunRecord(
                run_id,
                agent,
                "running",
                ((epoch, 1),),
                first_seq=1,
                last_seq=0,
                created_at=now,
                updated_at=now,
                owner=owner,
                worker=worker.name,
                deliveries=1,
                job=body,
            )
            await worker.take(Claim(record, epoch), is_new=is_new)
            return run_id
        finally:
            self._entering -= 1

    def begin_stop(self, drain_s: float) -> None:
        """Take no more runs; those that go on have so long to end, and then to end their turn. Again with 0: now."""
        self.stopping = True
        if self._worker is not None:
            self._worker.stop(drain_s=drain_s)

    async def wait_stopped(self) -> None:
        """Return once every run has ended or was handed on."""
        if self._working is not None:
            await asyncio.wait((self._working,))

    async def aclose(self) -> None:
        """Stop at once."""
        self.begin_stop(0.0)
        await self.wait_stopped()
