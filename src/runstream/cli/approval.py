"""What `runstream approve` and `runstream reject` share: which calls of a run wait, and the answer to one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runstream.cli.storage import stored

if TYPE_CHECKING:
    from runstream.agent.items import ToolApprovalItem

__all__ = ["answer"]


async def answer(
    run_id: str, call_id: str | None, url: str, *, approved: bool, always: bool, message: str | None = None
) -> int:
    """Send the answer; without a call id, list what waits."""
    from runstream.run.runner import Runner

    async with stored(url) as store:
        record = await store.find(run_id)
        result = await Runner.attach(run_id, store=store, after=record.first_seq - 1)
        waiting = {item.call_id or "": item for item in result.pending_approvals}
        if record.status == "interrupted":
            raise click.ClickException(
                f"the run {run_id} has ended as interrupted: answers go into its state, for its program; "
                'runs of `runstream worker`, and of RunConfig(on_approval="wait"), wait for theirs'
            )
        if call_id is None:
            if not waiting:
                click.echo(f"nothing waits for an answer in {run_id} ({record.status})", err=True)
            for waiting_id, item in waiting.items():
                click.echo(f"{waiting_id}  {_call(item)}")
            return 0
        item = waiting.get(call_id)
        if item is None:
            others = f"; waiting: {', '.join(waiting)}" if waiting else ""
            raise click.ClickException(f"no call {call_id} waits for an answer in {run_id} ({record.status}){others}")
        if approved:
            await result.approve(item, always=always)
        else:
            await result.reject(item, message=message, always=always)
    click.echo(f"{'approved' if approved else 'rejected'} {_call(item)}")
    return 0


def _call(item: ToolApprovalItem) -> str:
    from runstream.render.terminal import one_line

    return one_line(f"{item.tool_name}({item.arguments or ''}) of {item.agent.name}")
