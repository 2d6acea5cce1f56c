"""`runstream watch RUN`: a run that is carried out elsewhere, or was, in this terminal, from any point."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from runstream.cli.screen import Screen, smooth_option
from runstream.cli.storage import STOPPED, finish, store_option, stored

if TYPE_CHECKING:
    from runstream.events.event import Event
    from runstream.flow.text_units import Unit
    from runstream.log.base import RunRecord, Store
    from runstream.server.client import Followed

__all__ = ["command", "end_text", "start_of"]


@click.command("watch")
@click.argument("run_id", metavar="RUN")
@click.option("--url", "server_url", metavar="URL", is_eager=True, help="A server's run, as http://127.0.0.1:8000.")
@click.option("--token", envvar="RUNSTREAM_TOKEN", metavar="TOKEN", help="For --url; better in RUNSTREAM_TOKEN.")
@store_option
@click.option("--after", metavar="CURSOR", help="Begin after this event: a cursor or the number of an event.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as JSON lines, and nothing else.")
@smooth_option
def command(
    run_id: str,
    server_url: str | None,
    token: str | None,
    url: str,
    after: str | None,
    as_json: bool,
    smooth: Unit | None,
) -> None:
    """Follow a run of a store, or of a server (--url): what was, then what comes, to its end.

    A connection to a server that is lost is taken up again where it was. Ctrl-C leaves the run alone and tells where to
    go on. The exit status is 0 if the run was completed, 1 if it ended in another way, 130 after Ctrl-C.
    """
    screen = Screen(as_json, shows_input=True, smooth=smooth)
    if server_url is not None:
        finish(_watch_server(run_id, server_url, token, after, screen))
    finish(_watch(run_id, url, after, screen))


def start_of(record: RunRecord, after: str | None) -> int:
    """The seq to read after. Raises CursorInvalid, CursorExpired."""
    from runstream.log.cursor import resolve

    if after is None:
        return record.first_seq - 1
    cursor = int(after) if after.isdecimal() and len(after) < 20 else after
    return resolve(cursor, record.epochs, record.first_seq, record.last_seq)


def _begin(record: RunRecord, after: str | None, screen: Screen) -> int:
    """As `start_of`; where the cursor is no place in the run that is told, and where the events go on instead."""
    from runstream.errors import CursorExpired, CursorInvalid
    from runstream.log.cursor import Cursor, epoch_of

    try:
        return start_of(record, after)
    except CursorInvalid as error:
        reason, seq = error.reason, max(error.resync_after, record.first_seq - 1)
    except CursorExpired as error:
        reason, seq = "expired", error.first_seq - 1
    screen.note(_resync_text(after or "", reason, str(Cursor(epoch_of(seq, record.epochs), seq))))
    return seq


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
        fold = FiguresFold()
        screen.line("run", f"{run_id} of {record.agent}, {_state(record)}")
        seq = _begin(record, after, screen)
        try:
            result = await Runner.attach(run_id, store=store, after=seq)
            async with aclosing(screen.paced(result.events(after=seq), fold.apply)) as events:
                async for event in events:
                    seq = event.seq if screen.cursor is None else screen.cursor
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
        status = fold.status or record.status
        if fold.status is None:
            screen.line("end", f"{status}: nothing comes after {await _cursor(store, record, seq)}")
    if fold.figures.turns and after is None:
        screen.line("figures", describe(fold.figures))
    return 0 if status == "completed" else 1


async def _watch_server(run_id: str, url: str, token: str | None, after: str | None, screen: Screen) -> int:
    from runstream.events.event import Event
    from runstream.log.cursor import Cursor
    from runstream.render.figures import FiguresFold, describe
    from runstream.server.client import Resync, ServerClient

    # The number of an event is no cursor of a server: what comes before is passed over here.
    skipped = int(after) if after is not None and after.isdecimal() and len(after) < 20 else 0
    async with ServerClient(url, token=token) as client:
        record = await client.run(run_id)
        screen.line("run", f"{run_id} of {record['agent']}, {record['status']}")
        begin = "" if skipped or after is None else after
        if skipped > Cursor.parse(record["cursor"]).seq:
            skipped, begin = 0, record["cursor"]
            screen.note(_resync_text(after or "", "ahead", begin))
        follower = client.follow(run_id, begin)
        fold = FiguresFold()

        def told(found: Followed) -> None:
            nonlocal fold
            if isinstance(found, Resync):
                fold = FiguresFold()
            elif isinstance(found, Event):
                fold.apply(found)

        try:
            async with aclosing(screen.paced(follower, told)) as shown:
                async for found in shown:
                    _show(found, screen, skipped)
        except asyncio.CancelledError:
            screen.close()
            cursor = follower.cursor
            if screen.cursor is not None:  # what was read ahead was not shown
                cursor = f"{cursor.partition('-')[0]}-{screen.cursor}"
            screen.note(f"the run goes on; to see the rest: runstream watch {run_id} --url {url} --after {cursor}")
            return STOPPED
        finally:
            follower.close()
            screen.close()
        status = fold.status or (await client.run(run_id))["status"]
        if fold.status is None:
            screen.line("end", f"{status}: nothing comes after {follower.cursor}")
    if fold.figures.turns and after is None:
        screen.line("figures", describe(fold.figures))
    return 0 if status == "completed" else 1


def _show(found: Followed, screen: Screen, skipped: int) -> None:
    """An event, or what happened to the connection."""
    from runstream.events.event import RUN_END, Event
    from runstream.server.client import Lost, Resumed

    if isinstance(found, Event):
        if found.seq > skipped:
            screen.show(found)
        if found.kind == RUN_END:
            screen.line("end", end_text(found))
    elif isinstance(found, Lost):
        screen.note(f"connection lost: {found.reason}; trying again, to go on after {found.after or 'the start'}")
    elif isinstance(found, Resumed):
        screen.note("connected again")
    else:
        screen.note(_resync_text(found.given, found.reason, found.after))


def _resync_text(given: str, reason: str, after: str) -> str:
    """Why the events go on elsewhere than they were asked for, and where."""
    why = {
        "expired": "the events after it are no longer kept",
        "other_history": "the log is another one now: what came after does not count",
        "ahead": "the log does not reach that far",
        "malformed": "it is no cursor",
    }
    return f"the cursor {given[:60]} is no place in the run ({why.get(reason, reason)}); going on after {after}"


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
