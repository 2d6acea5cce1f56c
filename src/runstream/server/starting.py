"""How every protocol of the server begins a run and follows it: rights, limits, and their errors, in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from runstream.errors import RunNotFound, RunSealed
from runstream.log.base import Command, RunRecord
from runstream.run.claimed import Job
from runstream.run.inbox import approval_command, approval_of
from runstream.run.runner import Runner
from runstream.server.access import Action, User
from runstream.server.answers import Refused
from runstream.server.carrier import Stopping, TooManyRuns
from runstream.server.hub import TooManyReaders
from runstream.server.reader import Reader
from runstream.server.requests import checked_input, session_key
from runstream.server.service import Service

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

__all__ = [
    "RUN_ID_HEADER",
    "agent_named",
    "answer_call",
    "check_right",
    "delete_run",
    "find_run",
    "open_reader",
    "send_command",
    "start_run",
    "user_of",
]


RUN_ID_HEADER = "Runstream-Run-Id"
"""Names the run of an answer that streams it."""


def user_of(connection: HTTPConnection) -> User:
    """Who asks, as the guard has found out."""
    return cast("User", connection.scope["runstream.user"])


async def start_run(
    service: Service,
    user: User,
    *,
    agent: str | None,
    given: str | list[Any],
    session: str | None = None,
    run_id: str | None = None,
    note: Any = None,
    is_checked: bool = False,
) -> str:
    """Begin a run for that user; returns its id (`run_id`, or a new one).

    `agent`: a name, None where one agent is served. `given`: the input, checked unless the caller has done so, by the
    rules of its protocol (`is_checked`).
    `session`: the name of a conversation of the user's. `note`: JSON data to be found in the run's job.
    Raises Refused, StoreError, RunExists.
    """
    await check_right(service, user, "create")
    name = agent_named(service, agent)
    if session is not None and not service.keeps_sessions:
        raise Refused(422, "no_sessions", "this server keeps no conversations")
    if not is_checked:
        given = checked_input(given, service.limits.input_chars, any_items=service.trusts_input)
    context: Any = None if service.context is None else service.context(user.name)
    if hasattr(context, "__await__"):
        context = await context
    job = Job(given, service.max_turns, context, session_key(session, user.name), note)
    try:
        return await service.carrier.submit(name, job, user.name, run_id)
    except TooManyRuns:
        message = f"{service.carrier.run_count} runs are under way, which is all that may: try again later"
        raise Refused(429, "too_many_runs", message, {"Retry-After": "1"}) from None
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


async def send_command(service: Service, record: RunRecord, command: Command) -> None:
    """Ask something of the run. Raises RunSealed where it has ended, StoreError."""
    if record.ended:
        raise RunSealed(record.run_id)
    await service.carrier.store.send(record.run_id, command)
    await service.carrier.host.bring(record.run_id)  # at once, where the run is carried out here


async def delete_run(service: Service, run_id: str) -> None:
    """Delete it for good; where it is carried out here it ends at once. Raises StoreError."""
    carrier = service.carrier
    await carrier.store.delete(run_id)
    hosted = carrier.host.run_of(run_id)
    if hosted is not None:
        hosted.lose(RunNotFound(run_id, carrier.store.url))


async def answer_call(
    service: Service,
    user: User,
    run_id: str,
    call_id: str,
    *,
    approve: bool,
    always: bool = False,
    message: str | None = None,
) -> RunRecord:
    """Say whether a call that waits may be made; returns the run as it was before. Raises RunNotFound, RunSealed,
    Refused where no such call waits, StoreError."""
    record = await find_run(service, user, "approve", run_id)
    if record.ended:
        raise RunSealed(run_id)
    attached = await Runner.attach(run_id, store=service.carrier.store, after=record.first_seq - 1)
    waiting = {item.call_id: item for item in attached.pending_approvals}
    item = waiting.get(call_id)
    if item is None:
        raise Refused(409, "not_waiting", "no such call waits for an answer")
    answer = approval_of(call_id, item.tool_name or "", approved=approve, always=always, message=message)
    await send_command(service, record, approval_command(answer))
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
