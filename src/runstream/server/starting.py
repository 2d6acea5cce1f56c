"""How every protocol of the server begins a run and follows it: rights, limits, and their errors, in one place."""

from __future__ import annotations

from typing import Any

from runstream.errors import RunNotFound
from runstream.log.base import RunRecord
from runstream.run.claimed import Job
from runstream.server.access import Action, User
from runstream.server.answers import Refused
from runstream.server.carrier import Stopping, TooManyRuns
from runstream.server.hub import TooManyReaders
from runstream.server.reader import Reader
from runstream.server.requests import checked_input, session_key
from runstream.server.service import Service

__all__ = ["agent_named", "check_right", "find_run", "open_reader", "start_run"]


async def start_run(
    service: Service,
    user: User,
    *,
    agent: str | None,
    given: str | list[Any],
    session: str | None = None,
    run_id: str | None = None,
) -> str:
    """Begin a run for that user; returns its id (`run_id`, or a new one).

    `agent`: a name, None where one agent is served. `given`: the input, checked unless the service trusts its clients.
    `session`: the name of a conversation of the user's. Raises Refused, StoreError, RunExists.
    """
    await check_right(service, user, "create")
    name = agent_named(service, agent)
    if session is not None and not service.keeps_sessions:
        raise Refused(422, "no_sessions", "this server keeps no conversations")
    checked = checked_input(given, service.limits.input_chars, any_items=service.trusts_input)
    context: Any = None if service.context is None else service.context(user.name)
    if hasattr(context, "__await__"):
        context = await context
    job = Job(checked, service.max_turns, context, session_key(session, user.name))
    try:
        return await service.carrier.submit(name, job, user.name, run_id)
    except TooManyRuns:
        raise Refused(
            429, "too_many_runs", f"{service.limits.runs} runs are under way: try again later", {"Retry-After": "1"}
        ) from None
    except Stopping:
        raise Refused(503, "stopping", "the server is about to stop", {"Retry-After": "1"}) from None


def agent_named(service: Service, name: str | None) -> str:
    """The agent's name, as it is or the only one. Raises Refused."""
    names = service.agent_names
    if name is None:
        if len(names) == 1:
            return names[0]
        raise Refused(422, "agent_needed", f"say which agent: {', '.join(names)}")
    if name not in names:
        raise Refused(422, "unknown_agent", f"there is no agent of that name: there are {', '.join(names)}")
    return name


async def check_right(service: Service, user: User, action: Action) -> None:
    """Raises Refused where the user may not do that, whatever the run."""
    if not await service.gate.allows(user, action):
        raise Refused(403, "forbidden", "this is not allowed")


async def find_run(service: Service, user: User, action: Action, run_id: str) -> RunRecord:
    """The run, where the user may do that with it. Another's run is as one that is not there: its id tells nothing.

    Raises RunNotFound, StoreError.
    """
    record = await service.carrier.store.find(run_id)
    if not await service.gate.allows(user, action, run_id, record.owner):
        raise RunNotFound(run_id, service.carrier.store.url)
    return record


def open_reader(service: Service, run_id: str, after: int, *, is_new: bool = False) -> Reader:
    """A reader of the run's events after that seq; to be given to an EventStream, or closed. `is_new`: the run has
    just begun here, so that the store need not be asked. Raises Refused."""
    try:
        reader = service.hub.open(run_id, after)
    except TooManyReaders:
        raise Refused(
            429, "too_many_readers", "the run has as many readers as this server allows", {"Retry-After": "5"}
        ) from None
    if is_new:
        reader.join()
    return reader
