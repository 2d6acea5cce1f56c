"""`runstream submit AGENT INPUT`: leave a run to the workers of a store, and print its id."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from runstream.cli.loading import is_reference, load_agents
from runstream.cli.storage import finish, store_option, stored

__all__ = ["command"]


@click.command("submit")
@click.argument("agent", metavar="MODULE:AGENT|NAME")
@click.argument("given", metavar="INPUT")
@store_option
@click.option("--queue", metavar="NAME", default="default", show_default=True)
@click.option("--owner", metavar="NAME", help="The person whose run it is: for listing and deletion.")
@click.option("--session", "session_id", metavar="ID", help="The conversation that it goes on with.")
@click.option("--context", metavar="JSON", help="What tools and hooks get as their context.")
@click.option("--max-turns", type=click.IntRange(0), help="Model calls at the most.  [default: 10]")
@click.option("--run-id", metavar="ID", help="Names the run.  [default: made up]")
def command(
    agent: str,
    given: str,
    url: str,
    queue: str,
    owner: str | None,
    session_id: str | None,
    context: str | None,
    max_turns: int | None,
    run_id: str | None,
) -> None:
    """Submit a run and print its id.

    The agent is given as workers find it, MODULE:AGENT, or by its name. INPUT is the user's message; "-" reads it from
    standard input.
    """
    name = agent
    if is_reference(agent) or agent.endswith(".py"):
        loaded = load_agents([agent])
        if len(loaded) != 1:
            raise click.UsageError(f"{agent} holds {len(loaded)} agents: a run begins with one")
        name = loaded[0].name
    try:
        data = None if context is None else json.loads(context)
    except ValueError as error:
        raise click.UsageError(f"--context is not JSON: {error}") from error
    options: dict[str, Any] = {
        "queue": queue,
        "owner": owner,
        "session_id": session_id,
        "context": data,
        "run_id": run_id,
    }
    if max_turns is not None:
        options["max_turns"] = max_turns
    finish(_submit(name, sys.stdin.read() if given == "-" else given, url, options))


async def _submit(name: str, given: str, url: str, options: dict[str, Any]) -> int:
    from runstream.run.runner import Runner

    async with stored(url, creates=True) as store:
        click.echo(await Runner.submit(name, given, store=store, **options))
    return 0
