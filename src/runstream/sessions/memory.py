"""A session that lives as long as its object.

Invariant: items are copied on the way in and out, so that nobody changes the conversation from outside. One event loop
uses it at a time; no method gives up control, so each is atomic among the tasks of the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from runstream.agent.raw_item import to_plain
from runstream.sessions.base import SessionABC, SessionSettings, coerce_session_settings, resolve_session_limit

if TYPE_CHECKING:
    from runstream.agent.response import TResponseInputItem

__all__ = ["InMemorySession"]


class InMemorySession(SessionABC):
    """A conversation in memory."""

    def __init__(self, session_id: str, session_settings: SessionSettings | dict[str, Any] | None = None) -> None:
        self.session_id = session_id
        self.session_settings = coerce_session_settings(session_settings or SessionSettings())
        self._items: list[TResponseInputItem] = []

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        limit = resolve_session_limit(limit, self.session_settings)
        # As in SQLite, a negative limit is none.
        newest = self._items if limit is None or limit < 0 else self._items[max(0, len(self._items) - limit) :]
        return [_copy(item) for item in newest]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        self._items.extend([_copy(item) for item in items])

    async def pop_item(self) -> TResponseInputItem | None:
        return self._items.pop() if self._items else None

    async def clear_session(self) -> None:
        self._items.clear()


def _copy(item: TResponseInputItem) -> TResponseInputItem:
    return cast("TResponseInputItem", to_plain(item))
