"""`runstream top`: the runs of a store and their figures, live in this terminal, or once as plain lines."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from runstream.cli.storage import finish, store_option, stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runstream.observe.board import Board, Row
    from runstream.observe.hub import Metrics

__all__ = ["command", "lines_of", "show"]

_COLUMNS = ("RUN", "AGENT", "STATUS", "DOES", "AGE", "TURN", "FIRST TEXT", "DELTAS/S", "P95 GAP", "TOKENS", "EVENTS")
_NUMBERS = _COLUMNS[4:]
_STYLES = {
    "running": "green",
    "queued": "cyan",
    "waiting": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "interrupted": "yellow",
    "completed": "dim",
}


@click.command("top")
@store_option
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="So many of the newest runs.")
@click.option("--every", "every_s", type=click.FloatRange(0.1), default=1.0, show_default=True, metavar="SECONDS")
@click.option("--once", is_flag=True, help="Print them once, as plain lines; so, too, into a file or a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Print them once, as a JSON object.")
def command(url: str, limit: int, every_s: float, once: bool, as_json: bool) -> None:
    """Watch the runs of a store: what each does, how fast it answers, where it stalls.

    Runs that go on come first, the newest on top. Ctrl-C ends. The live view needs the extra "top".
    """
    finish(_top(url, limit, every_s, once=once, as_json=as_json))


async def _top(url: str, limit: int, every_s: float, *, once: bool, as_json: bool) -> int:
    from runstream.observe.board import StoredBoard

    async with stored(url) as store:
        stored_board = StoredBoard(store, limit=limit)
        if as_json:
            import dataclasses
            import json

            click.echo(json.dumps(dataclasses.asdict(await stored_board.read()), ensure_ascii=False))
        elif once or not sys.stdout.isatty():
            for line in lines_of(await stored_board.read()):
                click.echo(line)
        else:
            await _draw(stored_board.read, every_s)
    return 0


async def show(metrics: Metrics, *, every_s: float = 1.0) -> None:
    """The same view of the runs of this process, until it is cancelled. Raises MissingExtra without the extra `top`."""
    from runstream.observe.board import board_of

    async def read() -> Board:
        return board_of(metrics)

    await _draw(read, every_s)


async def _draw(read: Callable[[], Awaitable[Board]], every_s: float) -> None:
    from runstream.errors import MissingExtra, StoreUnavailable

    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise MissingExtra("the live view of runstream top (--once does without)", "top") from error
    from runstream.clock import system_clock

    board, problem = await read(), None
    try:
        with Live(_screen(board, problem), console=Console(), screen=True, auto_refresh=False) as live:
            while True:
                await system_clock.sleep(every_s)
                try:
                    board, problem = await read(), None
                except StoreUnavailable as error:
                    problem = str(error)  # what was there stays on the screen until it can be read again
                live.update(_screen(board, problem), refresh=True)
    except asyncio.CancelledError:
        return  # Ctrl-C


def _screen(board: Board, problem: str | None) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = Text(f"runstream top  {board.source}", style="bold")
    table = Table(box=None, expand=True, header_style="bold reverse", pad_edge=False)
    for name in _COLUMNS:
        flexible = name in ("AGENT", "DOES")
        table.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if flexible else None,
        )
    for row in board.rows:
        table.add_row(*(Text(field) for field in _fields(row)), style=_STYLES.get(row.status, ""))
    parts = [title, *(Text(line) for line in _summary(board)), Text(""), table]
    if problem is not None:
        parts.append(Text(problem, style="bold red"))
    return Group(*parts)


def lines_of(board: Board) -> list[str]:
    """The board as plain lines: the summary, an empty line, and a table."""
    rows = [_COLUMNS, *(_fields(row) for row in board.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    table = [
        "  ".join(
            f"{field:>{width}}" if name in _NUMBERS else f"{field:<{width}}"
            for field, width, name in zip(row, widths, _COLUMNS, strict=True)
        ).rstrip()
        for row in rows
    ]
    return [*_summary(board), "", *(table if board.rows else ["no runs"])]


def _summary(board: Board) -> list[str]:
    counts = ", ".join(f"{count} {status}" for status, count in board.counts.items()) or "none"
    figures = [
        f"first text p50 {_seconds(board.first_text_p50_s)}, p95 {_seconds(board.first_text_p95_s)}",
        f"gap p95 {_seconds(board.gap_p95_s)}",
        f"stalls {board.stalls}",
        f"retries {board.retries}",
        f"{board.deltas_per_s:,.0f} deltas/s",
        f"{board.tokens:,} tokens",
    ]
    if board.reader_lag is not None:
        figures.append(f"reader lag {board.reader_lag:,} events")
    lines = [f"runs: {counts}", "; ".join(figures)]
    if board.errors:
        lines.append("errors: " + ", ".join(f"{count} {name}" for name, count in board.errors.items()))
    if board.breakers:
        lines.append("breakers: " + ", ".join(f"{name} {state}" for name, state in board.breakers.items()))
    return lines


def _fields(row: Row) -> tuple[str, ...]:
    from runstream.render.terminal import one_line

    # Ids share their beginning: their end tells them apart.
    short = row.run_id if len(row.run_id) <= 16 else f"…{row.run_id[-15:]}"
    does = row.activity if row.error is None else row.error
    return (
        one_line(short),
        one_line(row.agent or ""),
        row.status,
        one_line("" if does == row.status else does),
        _age(row.age_s),
        str(row.turns or ""),
        _seconds(row.first_text_s),
        "" if row.deltas_per_s is None else f"{row.deltas_per_s:,.0f}",
        _seconds(row.gap_p95_s),
        f"{row.tokens:,}" if row.tokens else "",
        f"{row.events:,}",
    )


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.001:
        return "<1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _age(seconds: float) -> str:
    for unit_s, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= unit_s:
            return f"{int(seconds / unit_s)} {unit}"
    return f"{int(seconds)} s"
