"""Where a command shows a run: events as JSON lines, or lines for a person, coloured where they are seen as such."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from runstream.events.event import Event

__all__ = ["Screen"]


class Screen:
    """Standard output; notes go to standard error."""

    def __init__(self, as_json: bool, *, shows_input: bool = False) -> None:
        from runstream.render.terminal import TerminalRenderer

        self._as_json = as_json
        is_terminal = sys.stdout.isatty()
        self._color = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        width = shutil.get_terminal_size().columns if is_terminal else None
        self._renderer = TerminalRenderer(width=width, color=self._color, shows_input=shows_input)

    def title(self, text: str) -> None:
        """A first line of plain text."""
        if self._as_json:
            click.echo(text, err=True)
        else:
            self._write(f"{text}\n\n")

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
        click.echo(text, err=True)

    def _write(self, piece: str) -> None:
        if piece:
            click.echo(piece, nl=False, color=self._color)
