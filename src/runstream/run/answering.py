"""What a person answers through a handle of a run: checked against what waits, and told to whoever carries it out."""

from __future__ import annotations

from typing import cast

from runstream.agent.items import ToolApprovalItem
from runstream.errors import RunSealed, UserError
from runstream.run.active import ActiveRun
from runstream.run.followed import FollowedRun
from runstream.run.inbox import approval_command, approval_of
from runstream.run.nested import pending_of
from runstream.run.resume import open_requests, waiting_message

__all__ = ["answer"]


async def answer(
    run: ActiveRun | FollowedRun,
    call: ToolApprovalItem | str,
    *,
    approved: bool,
    always: bool,
    message: str | None = None,
) -> None:
    """Let a call be made, or not. The same answer again changes nothing. Raises UserError for a call that does not
    wait, and RunSealed once the run has ended."""
    if not isinstance(cast("object", call), str | ToolApprovalItem):
        raise UserError(f"a call is named by its request or its call id, not by {call!r:.100}")
    call_id = call if isinstance(call, str) else call.call_id
    if run.ended:
        if open_requests(run.fold) or run.interruptions:
            raise UserError(
                "the run has ended, to be gone on with: answer in its state (result.to_state()), and give that to "
                "a runner"
            )
        raise RunSealed(run.run_id)
    waiting = pending_of(run)
    request = next((each for each in waiting if each is call or each.call_id == call_id), None)
    given = [] if isinstance(run, FollowedRun) else [*run.inbox.early, *run.inbox.answers]
    if request is None:
        given = [*run.fold.approvals, *given]
    earlier = next((each for each in reversed(given) if each.call_id == call_id), None)
    if earlier is not None:
        if earlier.approved == approved:
            return
        was = "approved" if earlier.approved else "rejected"
        raise UserError(waiting_message(f"the call {call_id!r} was {was} already", waiting))
    if request is None:
        raise UserError(waiting_message(f"no call {call_id!r} waits for approval", waiting))
    name = request.name or ""
    given_now = approval_of(request.call_id or "", name, approved=approved, always=always, message=message)
    if run.durable is not None:
        await run.durable.send(approval_command(given_now))
    elif isinstance(run, ActiveRun):
        run.inbox.add_answer(given_now)
