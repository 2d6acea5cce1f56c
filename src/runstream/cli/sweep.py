"""`runstream sweep`: remove runs that ended long ago, or beyond a number."""

from __future__ import annotations

import click

from runstream.cli.storage import DurationType, finish, store_option, stored

__all__ = ["command"]


@click.command("sweep")
@store_option
@click.option("--max-age", "max_age_s", type=DurationType(), help="Keep runs for so long after their end: 12h, 7d.")
@click.option("--max-count", type=click.IntRange(0), help="Keep the newest so many that have ended.")
def command(url: str, max_age_s: float | None, max_count: int | None) -> None:
    """Remove runs that have ended and are not to be kept any longer. Call it now and then, from cron for example.

    Runs that go on are never removed.
    """
    if max_age_s is None and max_count is None:
        raise click.UsageError("say what to keep: --max-age 7d, --max-count 1000, or both")
    finish(_sweep(url, max_age_s, max_count))


async def _sweep(url: str, max_age_s: float | None, max_count: int | None) -> int:
    from runstream.log.base import Retention

    async with stored(url) as store:
        count = await store.sweep(Retention(max_age_s, max_count))
    click.echo(f"removed {count} run{'' if count == 1 else 's'}")
    return 0
