"""`runstream delete`: remove runs, or all runs of a person, with everything that belongs to them."""

from __future__ import annotations

import click

from runstream.cli.storage import finish, store_option, stored

__all__ = ["command"]


@click.command("delete")
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@store_option
@click.option("--owner", metavar="NAME", help="All runs of this person.")
def command(run_ids: tuple[str, ...], url: str, owner: str | None) -> None:
    """Delete runs, also under their workers and readers: there is no way back.

    The exit status is 1 if one of the runs was not there.
    """
    if bool(run_ids) == (owner is not None):
        raise click.UsageError("name the runs to delete, or a person with --owner")
    finish(_delete(run_ids, url, owner))


async def _delete(run_ids: tuple[str, ...], url: str, owner: str | None) -> int:
    status = 0
    async with stored(url) as store:
        if owner is not None:
            count = await store.delete_owner(owner)
            click.echo(f"deleted {count} run{'' if count == 1 else 's'} of {owner}")
        for run_id in run_ids:
            if await store.delete(run_id):
                click.echo(f"deleted {run_id}")
            else:
                click.echo(f"there is no run {run_id}", err=True)
                status = 1
    return status
