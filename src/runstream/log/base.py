"""What a reader may ask of a log (`Log`), and what keeps logs beyond their process (`Store`).

A store knows nothing of events: it keeps segments, which are opaque bytes with the seqs that they hold. It keeps three
promises, which `runstream.testing.StoreConformance` checks: a segment is there whole or not at all; nobody appends but
the holder of the newest epoch; and the segments of a run are gapless from `first_seq` to `last_seq`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from runstream.events.event import Event, RunStatus

__all__ = [
    "Append",
    "AppendsNow",
    "Claim",
    "Command",
    "CommandKind",
    "Log",
    "NewRun",
    "Page",
    "Refusal",
    "Renewal",
    "Retention",
    "RunRecord",
    "Segment",
    "Store",
    "StoredStatus",
    "Tail",
]

StoredStatus: TypeAlias = Literal["queued", "running", "waiting"] | RunStatus
"""Queued: nobody has begun it, or a worker has handed it back. Waiting: a person has to answer, whether a worker has it
or not. The others are ends."""

CommandKind: TypeAlias = Literal["cancel", "approval", "input"]

Refusal: TypeAlias = Literal["fenced", "sealed", "gone", "gap"]
"""Why a store did not take a segment: a newer epoch has the run; `run.end` is written; the run was deleted or has
expired; the segment does not follow the last one."""


class Log(Protocol):
    """The reading side. Cursors are seqs: 0 is before the first event."""

    @property
    def last_seq(self) -> int:
        """The seq of the newest event; 0 in an empty log."""
        ...

    @property
    def sealed(self) -> bool:
        """Whether `run.end` is written: nothing comes after `last_seq` any more."""
        ...

    def read(self, after: int) -> Sequence[Event]:
        """The next events after that seq, in order, at least one if there is any, at most a few hundred.

        Raises CursorExpired where they are no longer kept. A log that has to fetch them first gives none: `wait` does.
        """
        ...

    def wait(self, after: int) -> Awaitable[None]:
        """Awaiting it returns once there is an event after that seq, or the log is sealed."""
        ...


class Segment(msgspec.Struct, frozen=True):
    """A stretch of a run's events, as one blob. A struct, as `Append`: one is made for every delta of a slow model."""

    first_seq: int
    last_seq: int
    body: bytes
    epoch: int = 0
    """The epoch that wrote it: set by the store where it is read."""


class Append(msgspec.Struct, frozen=True):
    """One run's part of a flush."""

    run_id: str
    epoch: int
    segment: Segment
    status: StoredStatus | None = None
    """The run's new status, from the moment that the segment is there. An end seals the log and frees the lease."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as it is entered into a store."""

    run_id: str
    agent: str
    """Name of the starting agent: who may work on it."""
    owner: str | None = None
    """The person whose run it is, for listing and deletion."""
    queue: str = "default"
    job: bytes | None = None
    """What a worker needs to begin; None for a run that the process that enters it carries out itself."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a store knows of a run. Times are seconds since the epoch, by the store's clock."""

    run_id: str
    agent: str
    status: StoredStatus
    epochs: tuple[tuple[int, int], ...]
    """Every epoch that wrote, oldest first, with the first seq that it may have written: which history a seq is of."""
    first_seq: int
    """The oldest seq that is kept; 1 unless the log was trimmed."""
    last_seq: int
    created_at: float
    updated_at: float
    ended_at: float | None = None
    owner: str | None = None
    queue: str = "default"
    worker: str | None = None
    """Who holds, or held last, the lease."""
    deliveries: int = 0
    """How often the run was claimed, without the times that it was handed back in order."""
    job: bytes | None = field(default=None, repr=False)

    @property
    def epoch(self) -> int:
        """The newest epoch; 0 before the first claim."""
        return self.epochs[-1][0] if self.epochs else 0

    @property
    def ended(self) -> bool:
        """Whether `run.end` is written."""
        return self.ended_at is not None


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that is this worker's now."""

    run: RunRecord
    epoch: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to one heartbeat."""

    held: bool
    """False: the run was taken over, has ended or is gone; whoever asks must stop."""
    last_command: int = 0
    """Number of the newest command to the run: a second way to learn of it, should a notification be lost."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something that a person asks of a run from wherever they are."""

    kind: CommandKind
    data: dict[str, Any]
    """Plain JSON data."""
    number: int = 0
    """Counts from 1 within the run: set by the store."""


@dataclass(frozen=True, slots=True)
class Page:
    """The next segments of a run, and how far its log goes."""

    segments: Sequence[Segment]
    """In order; the first one may begin at or before the cursor, which the reader skips. Empty at the log's end."""
    last_seq: int
    ended: bool
    """Whether `last_seq` is that of `run.end`."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept of runs that have ended, and of those that nobody carries out any more; None is no limit."""

    max_age_s: float | None = None
    """Since the end."""
    max_count: int | None = None
    """The newest so many that have ended."""
    abandoned_age_s: float | None = None
    """Of a run without an end whose worker's lease is over: since anything was written to it. Such runs are left by
    processes that died where no worker goes on with them. On Redis `live_ttl_s` does this by itself."""


class Tail(Protocol):
    """A reader's place in a stored log: first what is there, then what comes."""

    async def next(self) -> Page:
        """The next page: waits until it has a segment or the log has ended. After the end, pages without segments.

        A call that is cancelled loses nothing. Raises CursorExpired where the log was trimmed past the cursor,
        RunNotFound where the run was deleted or has expired, StoreUnavailable.
        """
        ...

    async def aclose(self) -> None:
        """Give the place back. Idempotent."""
        ...


@runtime_checkable
class AppendsNow(Protocol):
    """What a store may have as well, so that a small flush costs neither a task nor a thread's wake-up."""

    def append_now(self, appends: Sequence[Append]) -> Sequence[Refusal | None] | None:
        """As `Store.append`, before it returns, where that takes a moment only.

        None: nothing was written, and `append` is to be called, which also says what is wrong. Never raises.
        """
        ...


class Store(Protocol):
    """Keeps logs of runs, who works on them, and what people ask of them.

    Methods may be called side by side from one event loop; a store belongs to the loop that opened it. Every method
    may raise StoreUnavailable (`retryable`: not reachable, locked, full at present) or StoreError (read-only, of a
    newer version, damaged); what it did not acknowledge may still have been done, and every method can be repeated.
    """

    @property
    def url(self) -> str:
        """Names the store, without secrets."""
        ...

    async def open(self) -> None:
        """Connect, and create what is missing. Idempotent. Logs a warning for settings that lose data."""
        ...

    async def aclose(self) -> None:
        """Release threads, files and connections. Idempotent."""
        ...

    # Runs and who works on them.

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        """Enter a run. With a worker it is claimed at once; returns the epoch. Without one it is queued; returns 0.

        Raises RunExists, unless it was this very call that was repeated (same worker, nothing appended).
        """
        ...

    async def find(self, run_id: str) -> RunRecord:
        """Raises RunNotFound."""
        ...

    async def claim(self, run_id: str, worker: str, lease_s: float) -> Claim | None:
        """Take over a run that has no end and no living lease: raises its epoch to max(epoch + 1, the store's time in
        ms), so that nobody else can append. None while another worker holds it, or if it has ended. It is running then,
        unless it waits for a person: it still does.

        Raises RunNotFound.
        """
        ...

    async def claim_next(
        self,
        agents: Collection[str],
        worker: str,
        lease_s: float,
        *,
        queues: Collection[str] | None = None,
        wait_s: float = 0.0,
    ) -> Claim | None:
        """Claim a run of one of these agents that nobody works on: one with a job, or left by a worker whose lease ran
        out. The oldest of the queue that was served longest ago. None if there is none within `wait_s` seconds."""
        ...

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        """The heartbeat for runs and their epochs, in order. Blocks; called from a thread of its own, so that code
        that holds up the event loop costs no lease."""
        ...

    async def release(self, run_id: str, epoch: int) -> bool:
        """Hand a run back in order: queued again, unless it waits for a person, and the delivery does not count. False
        if it was not held."""
        ...

    # Its log.

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        """Write a flush; at most one segment for each run. One answer for each: None is written.

        Each segment is checked against its run's epoch in the same atomic step. A segment that is there already, by
        the same epoch, counts as written: a flush whose reply was lost can be repeated.
        """
        ...

    async def read(self, run_id: str, after: int, *, max_bytes: int = 1_000_000) -> Page:
        """The segments that hold seqs after that one, at least one if there is any, about so many bytes.

        Raises CursorExpired where the log was trimmed past the cursor, RunNotFound.
        """
        ...

    def tail(self, run_id: str, after: int) -> Tail:
        """Replay, then follow."""
        ...

    # What people ask of it.

    async def send(self, run_id: str, command: Command) -> int:
        """Leave a command for whoever works on the run; returns its number. Raises RunNotFound, RunSealed."""
        ...

    async def commands(self, run_id: str, after: int) -> Sequence[Command]:
        """The commands with higher numbers. Raises RunNotFound."""
        ...

    async def wait_commands(self, known: Mapping[str, int]) -> Collection[str]:
        """Wait until one of these runs has a command with a higher number than the known one; returns such runs.

        Runs that are gone or ended are no reason to return.
        """
        ...

    # Keeping.

    async def list_runs(
        self,
        *,
        status: Collection[StoredStatus] | None = None,
        agent: str | None = None,
        owner: str | None = None,
        limit: int = 100,
        before: tuple[float, str] | None = None,
    ) -> Sequence[RunRecord]:
        """The newest runs first, without their jobs. `before`: `created_at` and id of a run, which may be gone by now;
        only those that were entered before it, so that the last of one list leads to the next. Somebody else's run
        than `owner`'s counts as one that is gone: nobody learns from lists which runs others have."""
        ...

    async def trim(self, run_id: str, before_seq: int) -> int:
        """Let go of whole segments that lie before that seq; returns the oldest seq that is kept."""
        ...

    async def delete(self, run_id: str) -> bool:
        """Remove a run and all that belongs to it, also under its worker and its readers. False if there is none."""
        ...

    async def delete_owner(self, owner: str) -> int:
        """Remove all runs of a person; returns how many."""
        ...

    async def sweep(self, retention: Retention) -> int:
        """Remove ended runs that are not to be kept any longer; returns how many."""
        ...
