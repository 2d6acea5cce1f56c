"""`runstream sweep`: remove runs that ended long ago, or beyond a number."""

from __future__ import annotations

import click

from runstream.cli.storage import DurationType, finish, store_option, stored

__all__ = ["command"]


@click.command("sweep")
@store_option
@click.option("--max-age", "max_age_s", type=DurationType(), help="Keep runs for so long after their end: 12h, 7d.")
@click.option("--max-count", type=click.IntRange(0), help="Keep the newest so many that have ended.")
@click.option(
    "--abandoned",
    "abandoned_age_s",
    type=DurationType(),
    help="Remove runs without an end that no process has, and that nothing was written to for so long.",
)
def command(url: str, max_age_s: float | None, max_count: int | None, abandoned_age_s: float | None) -> None:
    """Remove runs that have ended and are not to be kept any longer. Call it now and then, from cron for example.

    Runs that go on are never removed; with --abandoned, those whose process has died and that no worker took over are.
    """
    if max_age_s is None and max_count is None and abandoned_age_s is None:
        raise click.UsageError("say what to keep: --max-age 7d, --max-count 1000, --abandoned 30d, or several")
    finish(_sweep(url, max_age_s, max_count, abandoned_age_s))


async def _sweep(url: str, max_age_s: float | None, max_count: int | None, abandoned_age_s: float | None) -> int:
    from runstream.log.base import Retention

    async with stored(url) as store:
        count = await store.sweep(Retention(max_age_s, max_count, abandoned_age_s))
    click.echo(f"removed {count} run{'' if count == 1 else 's'}")
    return 0
