"""Runs told in the protocols of front ends: followed to their end or to a pause, found by their conversation, answered.

Invariant: a conversation of one user is never that of another, whatever name they give it: the ids of its runs hold a
digest of both.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from runstream.errors import RunSealed
from runstream.log.base import Command, RunRecord
from runstream.server.access import User
from runstream.server.answers import Refused
from runstream.server.guard import later
from runstream.server.protocols.telling import NOT_WAITING, Telling, place_of
from runstream.server.requests import checked_input, session_key
from runstream.server.service import Service
from runstream.server.starting import RUN_ID_HEADER, answer_call, find_run, open_reader, send_command
from runstream.server.streaming import EventStream, UntilOver

__all__ = [
    "Answer",
    "answer",
    "conversation_key",
    "follow",
    "input_of",
    "live_runs",
    "new_run_id",
    "stop_runs",
    "unsaid",
]

_LIVE = ("queued", "running", "waiting")
_MOST_LIVE = 10_000
_LONGEST_NAME = 1000
# Items of a conversation among which its last answer is looked for.
_LOOKED_AT = 100


def conversation_key(kind: str, user: User, name: str) -> str:
    """How the ids of a conversation's runs begin. Raises Refused for a name that is none."""
    if not 0 < len(name) <= _LONGEST_NAME:
        raise Refused(422, "invalid_id", f"a conversation is named by 1 to {_LONGEST_NAME} characters")
    owner = "" if user.name is None else f"={user.name}"
    digest = hashlib.sha256(f"{len(owner)}:{owner}{name}".encode("utf-8", "surrogatepass"))
    return f"{kind}_{digest.hexdigest()[:32]}"


def new_run_id(key: str, name: str | None = None) -> str:
    """Of one more run of the conversation: a new one, or always the same for the same name."""
    if name is None:
        return f"{key}_{uuid.uuid4().hex[:16]}"
    return f"{key}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


async def live_runs(service: Service, user: User, key: str) -> list[RunRecord]:
    """The conversation's runs that have not ended, the newest first. Raises StoreError."""
    records = await service.carrier.store.list_runs(status=_LIVE, owner=user.name, limit=_MOST_LIVE)
    return [record for record in records if record.run_id.startswith(f"{key}_") and record.owner == user.name]


def input_of(service: Service, items: list[dict[str, Any]]) -> list[Any]:
    """The messages of a client as a run's input. Raises Refused."""
    if not items or items[-1].get("role") == "assistant":
        raise Refused(422, "nothing_new", "the last message is not the user's: there is nothing to answer")
    limit, any_items = service.limits.input_chars, service.trusts_input
    checked: Any = checked_input(items, limit, any_items=any_items, is_history=True)
    return checked


async def unsaid(service: Service, user: User, session: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the user's messages since the last answer those that the conversation does not have yet: it has one whose run
    was stopped before there was an answer. The last of them is new in any case."""
    kept = None if len(items) < 2 else await service.carrier.session_of(session_key(session, user.name) or "")
    if kept is None:
        return items
    said: list[Any] = []
    for item in reversed(await kept.get_items(_LOOKED_AT)):
        role = item.get("role")
        if role == "assistant":
            break
        if role == "user":
            said.insert(0, item)
    for count in range(min(len(said), len(items) - 1), 0, -1):
        if said[-count:] == items[:count]:
            return items[count:]
    return items


class Answer:
    """What somebody says about a call, named as the protocol has named it to them."""

    __slots__ = ("always", "approved", "id", "message")

    def __init__(self, id: str, approved: bool, *, always: bool = False, message: str | None = None) -> None:
        self.id = id
        self.approved = approved
        self.always = always
        self.message = message


async def answer(service: Service, user: User, answers: list[Answer]) -> tuple[RunRecord, int, set[str]]:
    """Pass the answers on; returns the run as it was before, the seq up to which the client knows it, and the calls
    whose answers are on the way. What somebody else has answered meanwhile is left as it is.

    Raises Refused, RunNotFound, StoreError.
    """
    places = [place_of(each.id) for each in answers]
    if not places or None in places or len({place[0] for place in places if place is not None}) != 1:
        raise Refused(422, "unknown_call", "answers name the calls of one run, by the ids that it has asked with")
    known = [place for place in places if place is not None]
    run_id, told_up_to = known[0][0], max(place[1] for place in known)
    record = await find_run(service, user, "approve", run_id)
    if record.status == "interrupted":
        raise Refused(409, "run_ended", NOT_WAITING)
    sent: set[str] = set()
    for each, (_, _, call_id) in zip(answers, known, strict=True):
        try:
            await answer_call(
                service, user, run_id, call_id, approve=each.approved, always=each.always, message=each.message
            )
        except RunSealed:
            break  # what has come of it is told all the same
        except Refused as refused:
            if refused.code != "not_waiting":
                raise
        else:
            sent.add(call_id)
    return record, told_up_to, sent


async def stop_runs(service: Service, user: User, key: str) -> list[str]:
    """Cancel what goes on in the conversation; returns the runs. Raises StoreError, RunNotFound."""
    stopped: list[str] = []
    for live in await live_runs(service, user, key):
        record = await find_run(service, user, "cancel", live.run_id)
        try:
            await send_command(service, record, Command("cancel", {"mode": "immediate"}))
        except RunSealed:
            continue  # it has ended meanwhile
        stopped.append(record.run_id)
    return stopped


def follow(
    service: Service, telling: Telling, headers: dict[str, str] | None = None, *, is_new: bool = False, after: int = 0
) -> Any:
    """The answer that tells the run as it goes on. `is_new`: it has just begun here. Raises Refused."""
    run_id = telling.run_id
    reader = open_reader(service, run_id, after, is_new=is_new)
    own = {**(headers or {}), RUN_ID_HEADER: run_id}
    # At a pause the reader is through: nobody waits for what only another request brings about.
    encoding = UntilOver(telling, reader, lambda: telling.is_over)
    return later(EventStream(service.hub, reader, own, encoding=encoding))
