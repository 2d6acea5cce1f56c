"""What an app of the server is made of, and its life: started with the app, stopped with it, runs handed on."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runstream.agent.agent import Agent
from runstream.errors import StoreError, UserError
from runstream.log.base import Store
from runstream.run.claimed import SessionFactory
from runstream.run.config import RunConfig
from runstream.server.access import AllowList, Gate
from runstream.server.answers import ErrorShape, Refused, error_body
from runstream.server.carrier import Carrier
from runstream.server.counts import Counts
from runstream.server.hub import Hub
from runstream.server.metrics import ServerMetrics
from runstream.server.snapshots import Snapshots
from runstream.sessions.base import Session

__all__ = ["Limits", "Service", "data_folder", "default_store"]

_logger = logging.getLogger("runstream.server")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on. Beyond it requests are refused (413, 429), and slow readers dropped."""

    runs: int = 1000
    """Runs that are carried out at once."""
    readers_per_run: int = 200
    body_bytes: int = 1_000_000
    body_s: float = 30.0
    """A body that has not come within so long is refused."""
    input_chars: int = 200_000
    """Of the input of a run: the length of a text, or of the JSON of a list."""
    ring_bytes: int = 65_536
    """What is kept of a run for all its readers; who is further behind reads the store."""
    stuck_after_s: float = 60.0
    """A client that takes nothing for so long is dropped."""
    unanswered_s: float = 60.0
    """A streamed chat completion ends once its run has waited so long for a person, whom it has no way to ask."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise UserError(f"Limits.{name} must be positive, not {getattr(self, name)}")


def data_folder() -> Path:
    """Where this user's programs keep their data; made if it is not there, for this user alone."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    folder = base / "runstream"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def default_store() -> str:
    """The store of servers that were not given one: RUNSTREAM_STORE, or a file in the user's data folder."""
    return os.environ.get("RUNSTREAM_STORE") or f"sqlite:///{data_folder() / 'runs.db'}"


class Service:
    """One app's runs, readers and rules. Belongs to the event loop that it was started in."""

    def __init__(
        self,
        agents: Iterable[Agent[Any]],
        *,
        store: str | Store | None,
        config: RunConfig,
        session: Session | SessionFactory | None,
        context: Callable[[str | None], Any | Awaitable[Any]] | None,
        gate: Gate,
        allow: AllowList,
        limits: Limits,
        heartbeat_s: float,
        drain_s: float,
        max_turns: int | None,
        trusts_input: bool,
    ) -> None:
        if config.on_store_failure != "fail":
            raise UserError("runs of a server end where their store fails: on_store_failure must be 'fail'")
        if heartbeat_s <= 0 or drain_s < 0:
            raise UserError(f"heartbeat_s must be positive and drain_s not negative, not {heartbeat_s}, {drain_s}")
        self.agents = list(agents)
        if not self.agents:
            raise UserError("a server needs at least one agent")
        self.gate = gate
        self.allow = allow
        self.limits = limits
        self.context = context
        self.keeps_sessions = session is not None
        self.max_turns = max_turns
        self.trusts_input = trusts_input
        self.error_shapes: dict[str, ErrorShape] = {}
        """By the beginning of a path: the form of errors there, where it is not the server's own."""
        self.unkept: set[str] = set()
        """Runs that are not to be kept, whose requests have been broken off by a server that stops."""
        self.heartbeat_s = heartbeat_s
        self._drain_s = drain_s
        self.carrier = Carrier(
            self.agents,
            store if store is not None else default_store(),
            config,
            session=session,
            max_runs=limits.runs,
            max_deliveries=5,
        )
        self.counts = Counts()
        self.metrics = ServerMetrics(self.carrier, self.counts)
        self._starting: asyncio.Task[None] | None = None
        self._is_stopped = False
        self.hub: Hub = None  # pyright: ignore[reportAttributeAccessIssue]
        """Set once it is started."""
        self.snapshots: Snapshots = None  # pyright: ignore[reportAttributeAccessIssue]

    def error_body(self, path: str, refused: Refused) -> bytes:
        """The body of an answer that is no success, as clients of that path expect it."""
        for start, shape in self.error_shapes.items():
            if path.startswith(start):
                return shape(refused)
        return error_body(refused)

    @property
    def agent_names(self) -> list[str]:
        """Names of the agents that runs may begin with, in their order."""
        return list(dict.fromkeys(agent.name for agent in self.agents))

    async def start(self) -> None:
        """Open the store and begin to work, once for all who ask; again after a stop. Raises StoreError."""
        self._is_stopped = False
        starting = self._starting
        if starting is None or (starting.done() and (starting.cancelled() or starting.exception() is not None)):
            starting = self._starting = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(starting)

    async def wait_started(self) -> None:
        """For requests: the first one starts what nobody has started. What was told to stop stays so: requests that
        come while runs may still end are answered, and begin nothing. Raises StoreError."""
        if not self._is_stopped:
            await self.start()

    @property
    def started(self) -> bool:
        return self._starting is not None and self._starting.done() and not self._starting.cancelled()

    async def _start(self) -> None:
        carrier, limits = self.carrier, self.limits
        carrier.stopping = False
        # What the first run needs is loaded now: it takes half a second, in which nobody else would be served.
        importlib.import_module("runstream.events.model_event")
        await carrier.start()
        self.hub = Hub(
            carrier.store,
            carrier.clock,
            carrier.run_of,
            self.counts,
            max_readers_per_run=limits.readers_per_run,
            ring_bytes=limits.ring_bytes,
            heartbeat_s=self.heartbeat_s,
            stuck_after_s=limits.stuck_after_s,
        )
        self.metrics.begin(self.hub)
        self.snapshots = Snapshots(carrier.store)
        _logger.info("serving %s from %s", ", ".join(self.agent_names), carrier.store.url)

    @property
    def ready(self) -> bool:
        """Whether runs are taken."""
        return self.started and self.carrier.working

    def hurry(self) -> None:
        """Let a stop that is under way hand its runs on at once."""
        self.carrier.begin_stop(0.0)

    async def stop(self) -> None:
        """Take no more runs; those that go on may end, or are handed on; then readers are sent away. Idempotent."""
        if self._starting is None:
            return
        self._is_stopped = True
        starting, self._starting = self._starting, None
        await asyncio.wait((starting,))
        count = self.carrier.run_count
        if count:
            _logger.info("stopping: %d runs may take %g s to end", count, self._drain_s)
        self.carrier.begin_stop(self._drain_s)
        await self.carrier.wait_stopped()
        await self._remove_unkept()
        self.metrics.end()
        if not starting.cancelled() and starting.exception() is None:
            self.hub.close()

    async def _remove_unkept(self) -> None:
        """Nobody can ask for them: whoever they were handed on to would work for nothing."""
        while self.unkept:
            run_id = self.unkept.pop()
            try:
                await self.carrier.store.delete(run_id)
            except StoreError as error:
                _logger.warning("%s was not to be kept, and cannot be removed: %s", run_id, error)
