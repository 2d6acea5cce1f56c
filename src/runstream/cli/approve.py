"""`runstream approve RUN [CALL_ID]`: let a call that waits for a person be made."""

from __future__ import annotations

import click

from runstream.cli.approval import answer
from runstream.cli.storage import finish, store_option

__all__ = ["command"]


@click.command("approve")
@click.argument("run_id", metavar="RUN")
@click.argument("call_id", metavar="[CALL_ID]", required=False)
@store_option
@click.option("--always", is_flag=True, help="All calls of this tool in this run.")
def command(run_id: str, call_id: str | None, url: str, always: bool) -> None:
    """Approve a tool call that waits for it. Without CALL_ID, list what waits in the run."""
    finish(answer(run_id, call_id, url, approved=True, always=always))
