"""The session of a run: what is read from it before the run, and what the run adds to it.

Must not know the loop. Invariant: each item is written once, in the order of the run, and never a call without its
output.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import cast

from runstream.agent.items import ItemHelpers, RunItem, TResponseInputItem
from runstream.agent.raw_item import to_plain
from runstream.errors import UserError
from runstream.run.active import ActiveRun
from runstream.run.history import input_items_of, open_calls, without_orphans
from runstream.run.resume import Kept, Resumed
from runstream.sessions.base import Session

__all__ = ["SessionKeeper"]


class SessionKeeper:
    """Reads the session before the run and writes to it what the run adds, each item once."""

    def __init__(self, run: ActiveRun) -> None:
        self._run = run
        self._input: list[TResponseInputItem] = []
        self._saved = 0
        self._failed = False
        self._writing: asyncio.Task[None] | None = None
        self._replaced: tuple[int, list[RunItem]] | None = None
        self.is_held = False
        """Whether nothing may be written: a guardrail has not let it pass."""

    def replace_since(self, index: int, items: list[RunItem]) -> None:
        """Write these instead of the run's items from that one on."""
        self._replaced = index, items

    async def prepare(self) -> list[TResponseInputItem]:
        """The items that the model is to see first: the session's, then the new input."""
        base = self._run.kept.base = await self._prepare()
        return base

    async def _prepare(self) -> list[TResponseInputItem]:
        run, session = self._run, self._run.session
        new = ItemHelpers.input_to_new_input_list(run.input)
        if session is None:
            return new
        settings = getattr(session, "session_settings", None)
        if settings is not None:
            settings = settings.resolve(run.config.session_settings)
        else:
            settings = run.config.session_settings
        limit = settings.limit if settings is not None else None
        history = without_orphans(await (session.get_items() if limit is None else session.get_items(limit=limit)))
        callback = run.config.session_input_callback
        self._input = new
        if callback is None:
            return [*history, *new]
        combined = callback(list(history), list(new))
        if inspect.isawaitable(combined):
            combined = await combined
        if not isinstance(cast("object", combined), list):
            raise UserError(f"session_input_callback must return a list of items, not {type(combined).__name__}")
        # What the callback kept of the history is saved already. What it made itself is new, unless it is a copy.
        kept, added = {id(item) for item in history}, {id(item) for item in new}
        self._input = [item for item in combined if id(item) in added or (id(item) not in kept and item not in history)]
        return combined

    async def go_on(self, resumed: Resumed) -> list[TResponseInputItem]:
        """`prepare`, for a run that goes on: what it began with.

        Where it is not known what the session has, it is found out: it ends with what it has of this run.
        """
        run, session, saved = self._run, self._run.session, resumed.saved_items
        new = ItemHelpers.input_to_new_input_list(run.input)
        if resumed.base is not None or session is None:
            self._saved = saved or 0
            self._input = [] if resumed.input_saved else new
            base = new if resumed.base is None else resumed.base
            run.kept = Kept(base, self._saved, resumed.input_saved)
            return base
        stored = [to_plain(item) for item in await session.get_items()]
        expected = [to_plain(item) for item in (*new, *input_items_of(run.items))]
        if saved is None:
            counts = range(min(len(stored), len(expected)), 0, -1)
            count = next((count for count in counts if stored[-count:] == expected[:count]), 0)
        else:
            count = len(new) + len(input_items_of(run.items[:saved]))
        self._input = new[count:]
        in_session = max(count - len(new), 0)
        self._saved = _items_before(run.items, in_session)
        base = [*without_orphans(stored[: len(stored) - count]), *new]
        run.kept = Kept(base, self._saved, count >= len(new))
        return base

    async def save(self, *, last: bool = False) -> None:
        """Write what is new since the last save: the input first, then the items.

        A cancellation of the run does not cut a write in two: it goes on, and the `last` save waits for it. After a
        write that failed there is none any more: what comes later makes no sense without it.
        """
        run, session = self._run, self._run.session
        if not last:
            run.check_open()
        if session is None or self._failed:
            return
        await run.committed()  # what the session has of a run must not be ahead of its log
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await self._finish(writing)
        items = list(run.items)
        if self.is_held:
            return
        if open_calls(items):
            return  # in the middle of a turn: a stored call without its output would spoil the next run
        added = items[self._saved :]
        if self._replaced is not None and added:
            index, kept = self._replaced
            added = [*items[self._saved : index], *kept]
        new = [*self._input, *input_items_of(added)]
        self._input, self._saved = [], len(items)
        run.kept.saved, run.kept.input_saved = self._saved, True
        if not new:
            return
        self._writing = asyncio.get_running_loop().create_task(_write(session, new))
        await self._finish(self._writing if last else asyncio.shield(self._writing))
        self._writing = None

    async def _finish(self, writing: asyncio.Future[None]) -> None:
        try:
            await writing
        except Exception:
            self._failed = True
            raise


def _items_before(items: Sequence[RunItem], count: int) -> int:
    """How many items it takes to make so many input items: some make none."""
    for index in range(len(items) + 1):
        if len(input_items_of(items[:index])) >= count:
            return index
    return len(items)


async def _write(session: Session, items: list[TResponseInputItem]) -> None:
    await session.add_items(items)
