"""Rows of `runs` in the SQLite store's file: how they are read, by what clocks their leases run, who is next.

Knows nothing of threads and transactions: its callers are inside one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runstream.log.base import RunRecord, StoredStatus

if TYPE_CHECKING:
    import sqlite3

__all__ = ["COLUMNS", "RunRow", "Times", "candidate", "epochs_of", "record_of", "select_runs"]

COLUMNS = (
    "number, run_id, agent, owner, queue, creator, status, epoch, epochs, first_seq, last_seq, created_at, updated_at, "
    "ended_at, worker, lease_until, lease_s, deliveries, last_command, has_job, appender"
)


class RunRow:
    """A row of `runs`."""

    __slots__ = tuple(COLUMNS.split(", "))

    number: int
    run_id: str
    agent: str
    owner: str | None
    queue: str
    creator: str | None
    status: StoredStatus
    epoch: int
    epochs: str
    first_seq: int
    last_seq: int
    created_at: float
    updated_at: float
    ended_at: float | None
    worker: str | None
    lease_until: float | None
    lease_s: float
    deliveries: int
    last_command: int
    has_job: int
    appender: str | None

    def __init__(self, values: Iterable[Any]) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            setattr(self, name, value)


def select_runs(connection: sqlite3.Connection, where: str, parameters: Sequence[object]) -> list[RunRow]:
    """Rows of `runs`, by what stands after WHERE."""
    return [RunRow(values) for values in connection.execute(f"SELECT {COLUMNS} FROM runs WHERE {where}", parameters)]


def epochs_of(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((epoch, first_seq) for epoch, first_seq in json.loads(text))


def record_of(row: RunRow, last_seq: int, updated_at: float, job: bytes | None = None) -> RunRecord:
    """The row as others see it, with what the journal knows of it."""
    return RunRecord(
        run_id=row.run_id,
        agent=row.agent,
        status=row.status,
        epochs=epochs_of(row.epochs),
        first_seq=row.first_seq,
        last_seq=max(row.last_seq, last_seq),
        created_at=row.created_at,
        updated_at=max(row.updated_at, updated_at),
        ended_at=row.ended_at,
        owner=row.owner,
        queue=row.queue,
        worker=row.worker,
        deliveries=row.deliveries,
        job=job,
    )


@dataclass(frozen=True, slots=True)
class Times:
    """The store's clocks, in seconds."""

    wall: Callable[[], float]
    """Since the epoch: what people see, and what epochs are made of."""
    monotonic: Callable[[], float]
    """The same for all processes of one boot, whatever the wall clock does: what leases run by."""

    def alive(self, row: RunRow) -> bool:
        """Whether the lease still runs. One that would run longer than it was given for is of an earlier boot."""
        if row.lease_until is None:
            return False
        left_s = row.lease_until - self.monotonic()
        return 0 < left_s <= row.lease_s + 0.001


def candidate(
    connection: sqlite3.Connection, times: Times, agents: Collection[str], queues: Collection[str] | None
) -> RunRow | None:
    """The run that is next to be claimed: the oldest one of the queue that was served longest ago."""
    names = [name for (name,) in connection.execute("SELECT name FROM queues ORDER BY served, name")]
    agent_list = list(agents)
    now = times.monotonic()
    for name in names:
        if queues is not None and name not in queues:
            continue
        found = select_runs(
            connection,
            "ended_at IS NULL AND queue = ? AND agent IN (SELECT value FROM json_each(?)) AND "
            "(lease_until IS NULL AND has_job OR lease_until <= ? OR lease_until > ? + lease_s + 0.001) "
            "ORDER BY number LIMIT 1",
            (name, json.dumps(agent_list), now, now),
        )
        if found:
            return found[0]
    return None
