"""`runstream worker MODULE:AGENT…`: a process that carries out the runs of a store, until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from runstream.cli.loading import load_agents
from runstream.cli.storage import DurationType, finish, store_option

if TYPE_CHECKING:
    from runstream.agent.agent import Agent
    from runstream.run.worker import Worker

__all__ = ["command"]


@click.command("worker")
@click.argument("references", metavar="MODULE:AGENT...", nargs=-1, required=True)
@store_option
@click.option("--concurrency", type=click.IntRange(1), default=16, show_default=True, help="Runs at once.")
@click.option("--queue", "queues", metavar="NAME", multiple=True, help="Only runs of this queue; may be given again.")
@click.option("--name", help="What the store calls this worker.  [default: machine, process and a random part]")
@click.option(
    "--drain",
    "drain_s",
    type=DurationType(),
    default="30s",
    show_default=True,
    help="After the first signal: how long runs may take to end, and then again to end their turn.",
)
@click.option(
    "--max-deliveries",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="A run that has stopped so many workers is ended as failed.",
)
@click.option("--sessions", metavar="FILE", help="SQLite file with the conversations that runs name (session_id).")
def command(
    references: tuple[str, ...],
    url: str,
    concurrency: int,
    queues: tuple[str, ...],
    name: str | None,
    drain_s: float,
    max_deliveries: int,
    sessions: str | None,
) -> None:
    """Carry out the runs that were submitted to a store, and those whose worker is gone.

    Agents are found in modules of the current folder; runs of theirs, and of the agents that they may hand over to, are
    taken. A call that needs a person's approval waits for it (runstream approve).

    The first Ctrl-C or SIGTERM takes no more runs and lets those that go on end, or hands them over to another worker
    when the time of --drain is up; the second one hands them over at once. The exit status is 0 then.
    """
    agents = load_agents(references)
    _print_runs()
    options: dict[str, Any] = {
        "concurrency": concurrency,
        "queues": queues or None,
        "name": name,
        "max_deliveries": max_deliveries,
    }
    finish(_work(agents, url, sessions, drain_s, options))


def _print_runs() -> None:
    """A line for each run on standard output; warnings go to standard error."""
    line = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(line)
    runs = logging.getLogger("runstream.worker")
    runs.setLevel(logging.INFO)
    runs.propagate = False
    runs.addHandler(handler)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)


async def _work(
    agents: list[Agent[Any]], url: str, sessions: str | None, drain_s: float, options: dict[str, Any]
) -> int:
    from runstream.cli.storage import stored
    from runstream.run.bind import reachable_from
    from runstream.run.config import RunConfig
    from runstream.run.worker import Worker
    from runstream.sessions.sqlite import SQLiteSession

    def session_of(session_id: str) -> Any:
        return SQLiteSession(session_id, sessions or "")

    async with stored(url, creates=True) as store:
        worker = Worker(
            agents,
            store=store,
            run_config=RunConfig(on_approval="wait"),
            session=None if sessions is None else session_of,
            **options,
        )
        logger = logging.getLogger("runstream.worker")
        logger.info("worker %s: runs of %s in %s", worker.name, ", ".join(reachable_from(agents)), store.url)
        _stop_by_signal(worker, drain_s, logger)
        await worker.run()
        logger.info("worker %s has stopped", worker.name)
    return 0


def _stop_by_signal(worker: Worker, drain_s: float, logger: logging.Logger) -> None:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        count = len(worker.run_ids)
        runs = f"{count} run{'' if count == 1 else 's'}"
        if signals == 1:
            logger.info("stopping: %s may take %g s to end; once more to hand over at once", runs, drain_s)
            worker.stop(drain_s=drain_s)
            return
        logger.info("handing over %s; once more to break off", runs)
        worker.stop(drain_s=0)
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows: Ctrl-C cancels the work, which hands the runs over
            return
