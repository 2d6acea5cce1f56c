"""`runstream watch RUN`: a run that is carried out elsewhere, or was, in this terminal, from any point."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from runstream.cli.screen import Screen
from runstream.cli.storage import STOPPED, finish, store_option, stored

if TYPE_CHECKING:
    from runstream.events.event import Event
    from runstream.log.base import RunRecord, Store

__all__ = ["command", "end_text", "start_of"]


@click.command("watch")
@click.argument("run_id", metavar="RUN")
@store_option
@click.option("--after", metavar="CURSOR", help="Begin after this event: a cursor or the number of an event.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as JSON lines, and nothing else.")
def command(run_id: str, url: str, after: str | None, as_json: bool) -> None:
    """Follow a run: what was, then what comes, to its end.

    Ctrl-C leaves the run alone and tells where to go on. The exit status is 0 if the run was completed, 1 if it ended
    in another way, 130 after Ctrl-C.
    """
    screen = Screen(as_json, shows_input=True)
    finish(_watch(run_id, url, after, screen))


def start_of(record: RunRecord, after: str | None) -> int:
    """The seq to read after. Raises CursorInvalid, CursorExpired."""
    from runstream.log.cursor import resolve

    if after is None:
        return record.first_seq - 1
    cursor = int(after) if after.isdecimal() and len(after) < 20 else after
    return resolve(cursor, record.epochs, record.first_seq, record.last_seq)


def end_text(event: Event) -> str:
    """How the run ended, in words."""
    error = event.data.error
    return event.data.status if error is None else f"{event.data.status}: {error.type}: {error.message}"


async def _watch(run_id: str, url: str, after: str | None, screen: Screen) -> int:
    from runstream.events.event import RUN_END
    from runstream.render.figures import FiguresFold, describe
    from runstream.run.runner import Runner

    async with stored(url) as store:
        record = await store.find(run_id)
        seq = start_of(record, after)
        fold = FiguresFold()
        try:
            screen.line("run", f"{run_id} of {record.agent}, {_state(record)}")
            result = await Runner.attach(run_id, store=store, after=seq)
            async for event in result.events(after=seq):
                seq = event.seq
                fold.apply(event)
                screen.show(event)
                if event.kind == RUN_END:
                    screen.line("end", end_text(event))
        except asyncio.CancelledError:
            screen.close()
            cursor = await _cursor(store, record, seq)
            screen.note(f"the run goes on; to see the rest: runstream watch {run_id} --after {cursor}")
            return STOPPED
        finally:
            screen.close()  # whatever breaks off in the middle of a text is told on a line of its own
    if fold.figures.turns and after is None:
        screen.line("figures", describe(fold.figures))
    return 0 if fold.status == "completed" else 1


def _state(record: RunRecord) -> str:
    if record.status == "queued":
        return "queued: it waits for a worker"
    if record.ended:
        return record.status
    return f"{record.status}, carried out by {record.worker}"


async def _cursor(store: Store, record: RunRecord, seq: int) -> str:
    """The cursor after that event, in the history as it is now."""
    from runstream.errors import AgentsException
    from runstream.log.cursor import Cursor, epoch_of

    try:
        record = await store.find(record.run_id)
    except AgentsException:
        pass  # what was known at the beginning will do
    return str(Cursor(epoch_of(seq, record.epochs), seq))
