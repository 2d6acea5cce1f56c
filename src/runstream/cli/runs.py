"""`runstream runs`: the newest runs of a store, as a table or as JSON lines."""

from __future__ import annotations

import click

from runstream.cli.storage import age_text, finish, store_option, stored

__all__ = ["command"]

_STATUSES = ("queued", "running", "waiting", "completed", "failed", "cancelled", "interrupted")


@click.command("runs")
@store_option
@click.option("--status", "statuses", type=click.Choice(_STATUSES), multiple=True, help="May be given again.")
@click.option("--agent", metavar="NAME", help="Runs that began with this agent.")
@click.option("--owner", metavar="NAME", help="Runs of this person.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(
    url: str, statuses: tuple[str, ...], agent: str | None, owner: str | None, limit: int, as_json: bool
) -> None:
    """List the runs of a store, the newest first.

    "queued" waits for a worker, "running" has one or had one that is gone, "waiting" waits for a person (runstream
    approve); the others have ended.
    """
    finish(_list(url, statuses, agent, owner, limit, as_json))


async def _list(
    url: str, statuses: tuple[str, ...], agent: str | None, owner: str | None, limit: int, as_json: bool
) -> int:
    import dataclasses
    import json
    from typing import Any, cast

    from runstream.clock import system_clock
    from runstream.render.terminal import one_line

    async with stored(url) as store:
        records = await store.list_runs(status=cast("Any", statuses) or None, agent=agent, owner=owner, limit=limit)
    if as_json:
        for record in records:
            fields = dataclasses.asdict(record)
            del fields["job"]
            click.echo(json.dumps(fields, ensure_ascii=False))
        return 0
    if not records:
        click.echo("no runs", err=True)
        return 0
    now = system_clock.now()
    rows = [("RUN", "AGENT", "STATUS", "AGE", "EVENTS")]
    for record in records:
        row = (record.run_id, record.agent, record.status, age_text(record, now), str(record.last_seq))
        rows.append(cast("Any", tuple(one_line(field) for field in row)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        fields = [
            f"{field:>{width}}" if n > 2 else f"{field:<{width}}"
            for n, (field, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(fields))
    return 0
