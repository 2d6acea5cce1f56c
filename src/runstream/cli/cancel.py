"""`runstream cancel RUN`: ask whoever carries a run out to end it."""

from __future__ import annotations

import click

from runstream.cli.storage import finish, store_option, stored

__all__ = ["command"]


@click.command("cancel")
@click.argument("run_id", metavar="RUN")
@store_option
@click.option("--after-turn", is_flag=True, help="Once the turn's tools, handoff and session are done.")
def command(run_id: str, url: str, after_turn: bool) -> None:
    """Stop a run: at once, or after its turn.

    The request is kept: it is carried out as soon as a worker has the run.
    """
    finish(_cancel(run_id, url, after_turn))


async def _cancel(run_id: str, url: str, after_turn: bool) -> int:
    from runstream.log.base import Command

    async with stored(url) as store:
        record = await store.find(run_id)
        await store.send(run_id, Command("cancel", {"mode": "after_turn" if after_turn else "immediate"}))
    when = "after its turn" if after_turn else "at once"
    whom = "no worker has it yet" if record.status == "queued" else f"it is with {record.worker}"
    click.echo(f"{run_id} is to end {when}; {whom}")
    return 0
