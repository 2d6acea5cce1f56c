"""Where a command shows a run: events as JSON lines, or lines for a person, coloured where they are seen as such."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from runstream.events.event import Event
    from runstream.flow.text_units import Unit

__all__ = ["Screen", "smooth_option"]

T = TypeVar("T")

smooth_option = click.option(
    "--smooth",
    type=click.Choice(["word", "line", "sentence", "character"]),
    help="Let the text appear evenly, by this unit, at most a second after it came.",
)


class Screen:
    """Standard output; notes go to standard error."""

    def __init__(self, as_json: bool, *, shows_input: bool = False, smooth: Unit | None = None) -> None:
        from runstream.render.terminal import TerminalRenderer

        self._as_json = as_json
        self._smooth: Unit | None = None if as_json else smooth
        is_terminal = sys.stdout.isatty()
        self._color = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        width = shutil.get_terminal_size().columns if is_terminal else None
        self._renderer = TerminalRenderer(width=width, color=self._color, shows_input=shows_input)

        self.cursor: int | None = None
        """Of paced events: the seq of the last one that was shown as a whole."""

    def title(self, text: str) -> None:
        """A first line of plain text."""
        if self._as_json:
            click.echo(text, err=True)
        else:
            self._write(f"{text}\n\n")

    def paced(self, events: AsyncIterable[T], told: Callable[[T], object]) -> AsyncGenerator[T, None]:
        """The events as they are to be shown: their text evenly, where that was asked for. `told` is called with each
        as it came, before it is shown."""
        return self._paced(_tapped(events, told)) if self._smooth is not None else _tapped(events, told)

    async def _paced(self, events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        from contextlib import aclosing

        from runstream.flow.smooth import smooth

        assert self._smooth is not None
        paced: Any = smooth(events, by=self._smooth)
        async with aclosing(events), aclosing(paced):
            async for event in paced:
                self.cursor = paced.cursor
                yield event

    def show(self, event: Event) -> bool:
        """Show the next event; whether that wrote whole lines."""
        if self._as_json:
            from runstream.render.json_lines import encode_line

            click.echo(encode_line(event), nl=False)
            return True
        piece = self._renderer.feed(event)
        self._write(piece)
        return piece.endswith("\n")

    def line(self, label: str, text: str) -> None:
        """A line of the command's own; left out where events are shown as JSON."""
        if not self._as_json:
            self._write(self._renderer.line(label, text))

    def close(self) -> None:
        """End a text that is open."""
        if not self._as_json:
            self._write(self._renderer.close())

    def note(self, text: str) -> None:
        """A line on standard error."""
        self._renderer.keep_line()
        click.echo(text, err=True)

    def _write(self, piece: str) -> None:
        if piece:
            click.echo(piece, nl=False, color=self._color)


async def _tapped(events: AsyncIterable[T], told: Callable[[T], object]) -> AsyncGenerator[T, None]:
    async for event in events:
        told(event)
        yield event
