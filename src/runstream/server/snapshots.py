"""Snapshots of runs: views that are folded from the store, and kept for whoever asks again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from runstream.log.base import RunRecord, Store
from runstream.server.protocols.native import shown_view
from runstream.server.reader import batches_of
from runstream.view.run_view import RunView

__all__ = ["Snapshots"]

_KEPT = 64
# What is decoded and folded at once holds up everybody else.
_PAGE_BYTES = 65_536


class Snapshots:
    """The newest views, each of which goes on from where it was. Holds only what the store has committed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._views: OrderedDict[tuple[str, float], RunView] = OrderedDict()

    async def of(self, record: RunRecord) -> dict[str, Any]:
        """The view of the run as JSON data. Raises RunNotFound, StoreError."""
        key = (record.run_id, record.created_at)
        view = self._views.get(key)
        if view is None or view.last_seq > record.last_seq or view.last_seq < record.first_seq - 1:
            view = RunView()
        # Whoever asks at the same time folds into the same view: events that it has change nothing.
        self._views[key] = view
        self._views.move_to_end(key)
        while len(self._views) > _KEPT:
            self._views.popitem(last=False)
        after = max(view.last_seq, record.first_seq - 1)
        while after < record.last_seq:
            page = await self._store.read(record.run_id, after, max_bytes=_PAGE_BYTES)
            if not page.segments:
                break
            for batch in batches_of(page.segments, record.run_id, after):
                for event in batch.events:
                    view.apply(event)
                after = batch.last_seq
        return shown_view(view.to_json())
