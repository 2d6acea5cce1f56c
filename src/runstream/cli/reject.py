"""`runstream reject RUN [CALL_ID]`: a call that waits for a person is not to be made."""

from __future__ import annotations

import click

from runstream.cli.approval import answer
from runstream.cli.storage import finish, store_option

__all__ = ["command"]


@click.command("reject")
@click.argument("run_id", metavar="RUN")
@click.argument("call_id", metavar="[CALL_ID]", required=False)
@store_option
@click.option("--always", is_flag=True, help="All calls of this tool in this run.")
@click.option("--message", metavar="TEXT", help="What the model is told.  [default: that it was not approved]")
def command(run_id: str, call_id: str | None, url: str, always: bool, message: str | None) -> None:
    """Reject a tool call that waits for approval. Without CALL_ID, list what waits in the run."""
    finish(answer(run_id, call_id, url, approved=False, always=always, message=message))
