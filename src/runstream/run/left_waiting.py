"""Agents that run as tools and waited for a person when their worker left: where they stand, folded from the log.

Only those are restored that did nothing but wait, and whose calls so can be gone on with. What they were told is not in
the log: their call says it again, from its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runstream.agent.context import RunContextWrapper
from runstream.agent.items import RunItem
from runstream.agent.raw_item import read_text
from runstream.events.event import ITEM, Event
from runstream.log.fold import RunFold
from runstream.run.history import open_calls
from runstream.run.resume import pending_requests, restore_approvals, turn_is_open
from runstream.run.standing import Standing

__all__ = ["left_waiting"]

_Path = tuple[str, ...]


def left_waiting(events: Iterable[Event], fold: RunFold, context: RunContextWrapper[Any]) -> dict[str, Standing]:
    """By call id, where the nested runs of that run stand. `events` are those of the whole log, bound; `fold` is what
    they make of the run itself; `context` is its."""
    folds: dict[_Path, RunFold] = {}
    for event in events:
        if event.kind == ITEM and event.data.type == "tool_call_item":
            begun = (*event.path, read_text(event.data.raw, "call_id") or "")
            for path in [path for path in folds if path[: len(begun)] == begun]:
                del folds[path]  # a model may use the id of a call again
        if event.path:
            folds.setdefault(event.path, RunFold(event.path)).apply(event)
    return _of(fold, (), folds, context)


def _of(
    fold: RunFold, path: _Path, folds: dict[_Path, RunFold], context: RunContextWrapper[Any]
) -> dict[str, Standing]:
    """Those that were called by the run under that path."""
    found: dict[str, Standing] = {}
    for call_id in _open_calls(fold):
        at = _standing((*path, call_id), folds, context)
        if at is not None:
            found[call_id] = at
    return found


def _standing(path: _Path, folds: dict[_Path, RunFold], outer: RunContextWrapper[Any]) -> Standing | None:
    fold = folds.get(path)
    if fold is None or fold.agent is None or not turn_is_open(fold):
        return None
    context: RunContextWrapper[Any] = RunContextWrapper(outer.context, outer.usage)
    restore_approvals(fold, context)
    nested = _of(fold, path, folds, context)
    waiting = {request.call_id for request in pending_requests(fold, context)} | nested.keys()
    if not waiting or any(call_id not in waiting for call_id in _open_calls(fold)):
        return None
    return Standing(fold, context, fold.agent, None, saved=None, nested=nested)


def _open_calls(fold: RunFold) -> list[str]:
    items: list[RunItem] = fold.items[fold.response_index :]
    return [read_text(call.raw_item, "call_id") or "" for call in open_calls(items)]
