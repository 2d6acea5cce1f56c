"""A board: the newest runs and their figures at one moment, of a store or of this process. For whoever draws it.

Owns `Board`, `Row`, `board_of` and `StoredBoard`, which reads on where it stood and folds each run once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runstream.clock import Clock, system_clock
from runstream.errors import CursorExpired, RunNotFound
from runstream.events.segment import decode_segment
from runstream.observe.metrics import MetricsFold, RunMetrics
from runstream.observe.sketch import Sketch

if TYPE_CHECKING:
    from runstream.log.base import RunRecord, Store
    from runstream.observe.hub import Metrics

__all__ = ["Board", "Row", "StoredBoard", "board_of"]

# What is read of one run at a time: a board that opens on long logs shows what it has, and catches up.
_PAGES = 8
_ACTIVE = ("queued", "running", "waiting")


@dataclass(frozen=True, slots=True)
class Row:
    """A run. None stands for what is not known (yet)."""

    run_id: str
    agent: str | None
    """The one that is at work."""
    status: str
    activity: str
    """What it does, in a few words."""
    age_s: float
    turns: int = 0
    first_text_s: float | None = None
    deltas_per_s: float | None = None
    """Since the last look; of a run that has ended, over its answers."""
    gap_p95_s: float | None = None
    stalls: int = 0
    retries: int = 0
    tokens: int = 0
    events: int = 0
    error: str | None = None
    """The error's type."""


@dataclass(frozen=True, slots=True)
class Board:
    """Runs that go on first, each group with the newest first; and what they amount to."""

    at: float
    source: str
    rows: list[Row]
    counts: dict[str, int]
    """Of the rows, by status."""
    errors: dict[str, int]
    first_text_p50_s: float | None
    first_text_p95_s: float | None
    gap_p95_s: float | None
    stalls: int
    retries: int
    tokens: int
    deltas_per_s: float
    """Of the runs that go on, together."""
    reader_lag: int | None = None
    """How many events the slowest in-process reader is behind; None where that cannot be known."""
    breakers: dict[str, str] = field(default_factory=dict[str, str])


def _row(metrics: RunMetrics, fold: MetricsFold, status: str, age_s: float, rate: float | None = None) -> Row:
    if rate is None and (metrics.status is not None or fold.activity == "answers"):
        rate = metrics.deltas_per_s
    return Row(
        run_id=metrics.run_id,
        agent=fold.active_agent,
        status=metrics.status or status,  # what was read may be newer than what the store said before
        activity="needs approval" if status == "waiting" else fold.activity,
        age_s=age_s,
        turns=fold.turns_begun,
        first_text_s=metrics.first.text_s,
        deltas_per_s=rate,
        gap_p95_s=metrics.gaps.p95_s,
        stalls=metrics.gaps.stalls,
        retries=metrics.retries,
        tokens=metrics.usage.total_tokens,
        events=metrics.events,
        error=metrics.error_type,
    )


def _board(at: float, source: str, rows: Iterable[Row], gaps: Sketch) -> Board:
    ordered = sorted(rows, key=lambda row: (row.status not in _ACTIVE, row.age_s))
    first = Sketch()
    for row in ordered:
        if row.first_text_s is not None:
            first.add(row.first_text_s)
    return Board(
        at=at,
        source=source,
        rows=ordered,
        counts=dict(Counter(row.status for row in ordered)),
        errors=dict(Counter(row.error for row in ordered if row.error is not None)),
        first_text_p50_s=first.quantile(0.5),
        first_text_p95_s=first.quantile(0.95),
        gap_p95_s=gaps.quantile(0.95),
        stalls=sum(row.stalls for row in ordered),
        retries=sum(row.retries for row in ordered),
        tokens=sum(row.tokens for row in ordered),
        deltas_per_s=sum(row.deltas_per_s or 0.0 for row in ordered if row.status in _ACTIVE),
    )


def board_of(metrics: Metrics) -> Board:
    """The runs that go on in this process, with the figures of the window. To be called in their event loop."""
    now = metrics.clock.now()
    snapshot = metrics.snapshot()
    rows = [_row(figures, live.fold, "running", now - live.started_at) for figures, live in metrics.live_runs()]
    board = _board(now, "this process", rows, snapshot.gaps)
    return Board(
        at=now,
        source=board.source,
        rows=board.rows,
        counts={**board.counts, **snapshot.ended},
        errors=snapshot.errors,
        first_text_p50_s=snapshot.first_text.quantile(0.5),
        first_text_p95_s=snapshot.first_text.quantile(0.95),
        gap_p95_s=board.gap_p95_s,
        stalls=snapshot.stalls + board.stalls,
        retries=snapshot.retries + board.retries,
        tokens=board.tokens,
        deltas_per_s=board.deltas_per_s,
        reader_lag=snapshot.reader_lag,
        breakers=snapshot.breakers,
    )


class _Watched:
    """A run of a store, as far as it was read."""

    __slots__ = ("counted_at", "deltas", "fold", "rate", "seq")

    def __init__(self, record: RunRecord) -> None:
        self.fold = MetricsFold()
        self.seq = record.first_seq - 1
        self.deltas = 0
        self.counted_at: float | None = None
        self.rate: float | None = None


class StoredBoard:
    """The newest runs of a store. `read` as often as you like: it reads only what is new."""

    def __init__(self, store: Store, *, limit: int = 50, clock: Clock = system_clock) -> None:
        self._store = store
        self._limit = limit
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    async def read(self) -> Board:
        """The board now. Raises StoreError, StoreUnavailable."""
        records = await self._store.list_runs(limit=self._limit)
        known = {record.run_id for record in records}
        # Runs that go on are shown however many newer ones have ended.
        records = [*records, *await self._store.list_runs(status=_ACTIVE, limit=self._limit)]
        found = {record.run_id: record for record in records}
        self._watched = {run_id: watched for run_id, watched in self._watched.items() if run_id in found}
        rows: list[Row] = []
        gaps = Sketch()
        now = self._clock.now()
        for record in found.values():
            row = await self._read(record, now)
            if row is not None and (record.run_id in known or record.status in _ACTIVE):
                rows.append(row)
                for attempt_gaps in self._watched[record.run_id].fold.gap_sketches:
                    gaps.merge(attempt_gaps)
        return _board(now, self._store.url, rows, gaps)

    async def _read(self, record: RunRecord, now: float) -> Row | None:
        watched = self._watched.get(record.run_id)
        if watched is None:
            watched = self._watched[record.run_id] = _Watched(record)
        try:
            await self._read_on(record, watched)
        except RunNotFound:
            del self._watched[record.run_id]
            return None
        except CursorExpired as expired:
            watched.seq = expired.first_seq - 1
        age_s = max((record.ended_at or now) - record.created_at, 0.0)
        if not watched.seq or watched.fold.last_at == 0.0:
            return Row(record.run_id, record.agent, record.status, "", age_s)
        metrics = watched.fold.metrics
        watched.rate = None
        if record.status == "running":
            if watched.counted_at is not None and now > watched.counted_at:
                watched.rate = (metrics.deltas - watched.deltas) / (now - watched.counted_at)
            watched.deltas, watched.counted_at = metrics.deltas, now
        return _row(metrics, watched.fold, record.status, age_s, watched.rate)

    async def _read_on(self, record: RunRecord, watched: _Watched) -> None:
        for _ in range(_PAGES):
            if watched.seq >= record.last_seq:
                return
            page = await self._store.read(record.run_id, watched.seq)
            if not page.segments:
                return
            for segment in page.segments:
                for event in decode_segment(segment.body, record.run_id):
                    if event.seq > watched.seq:
                        watched.fold.apply(event)
                        watched.seq = event.seq
