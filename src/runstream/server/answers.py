"""What the server answers where it does not stream: JSON, and errors of one form that tell nothing of its insides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from runstream.errors import (
    AgentsException,
    CursorExpired,
    CursorInvalid,
    RunExists,
    RunNotFound,
    RunSealed,
    StoreError,
    StoreUnavailable,
)
from runstream.events.codec import plain
from runstream.log.base import RunRecord
from runstream.log.cursor import Cursor, epoch_of

__all__ = [
    "ErrorShape",
    "Refused",
    "cursor_of",
    "error_body",
    "json_bytes",
    "next_list",
    "place_before",
    "refusal_of",
    "run_json",
]


class Refused(Exception):
    """A request that is not carried out: the status, a constant for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}
        super().__init__(message)


def json_bytes(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=plain)


ErrorShape = Callable[[Refused], bytes]
"""How the clients of a protocol get to know of an error."""


def error_body(refused: Refused) -> bytes:
    """The body of every answer that is no success."""
    return json_bytes({"error": {"code": refused.code, "message": refused.message}})


def refusal_of(error: AgentsException) -> Refused | None:
    """The answer to an error of the library; None for one that is a fault of the server's."""
    if isinstance(error, RunNotFound):
        return Refused(404, "run_not_found", "there is no such run")
    if isinstance(error, RunSealed | RunExists):
        return Refused(409, error.code, "the run has ended" if isinstance(error, RunSealed) else "there is such a run")
    if isinstance(error, CursorExpired | CursorInvalid):
        return Refused(410, error.code, str(error))
    if isinstance(error, StoreUnavailable):
        return Refused(503, error.code, "the store cannot be reached at present", {"Retry-After": "1"})
    if isinstance(error, StoreError):
        return Refused(500, error.code, "the store failed; the server's log says more")
    return None


def cursor_of(record: RunRecord) -> Cursor:
    """The place after the newest event."""
    return Cursor(epoch_of(record.last_seq, record.epochs), record.last_seq)


def run_json(record: RunRecord) -> dict[str, Any]:
    """What lists of runs tell of one."""
    return {
        "run_id": record.run_id,
        "agent": record.agent,
        "status": record.status,
        "owner": record.owner,
        "cursor": str(cursor_of(record)),
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "ended_at": record.ended_at,
    }


def next_list(records: Sequence[RunRecord], limit: int) -> str | None:
    """What a list of runs names for the one after it (`place_before` reads it for `Store.list_runs`); None at the end.

    `records`: what the store found where it was asked for one more than the list has.
    """
    if len(records) <= limit:
        return None
    last = records[limit - 1]
    return f"{last.created_at!r}~{last.run_id}"


def place_before(text: str | None) -> tuple[float, str] | None:
    """Raises Refused for what is none of `next_list`."""
    if text is None:
        return None
    created_at, _, run_id = text.partition("~")
    try:
        place = (float(created_at), run_id)
    except ValueError:
        place = (math.nan, "")
    if not math.isfinite(place[0]) or not run_id:
        raise Refused(422, "invalid_before", "before is what a list of runs has in next")
    return place
