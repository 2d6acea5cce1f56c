"""An answer as a conversation in a terminal shows it: lines that stand for good, and those of what is under way.

Owns which line says what. Must not know terminals: whoever has one asks for lines, some twenty times a second at the
most, however many events there were meanwhile. Pure: times are those of the events, and the one it is asked with.

Invariants: what stands for good is in the order of the log, each entry once it is over (texts: each block of them);
what comes after an entry that is not over waits with it among the lines under way, of which only the last are shown.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from runstream.render.markdown import MarkdownPrinter, StreamedMarkdown
from runstream.render.terminal import arguments_text, cut, one_line, visible
from runstream.view.entries import (
    DiscardedEntry,
    Entry,
    ErrorEntry,
    GapEntry,
    HandoffEntry,
    InputEntry,
    MessageEntry,
    OtherEntry,
    Part,
    ReasoningEntry,
    Strand,
    ToolEntry,
)
from runstream.view.run_view import RunView

if TYPE_CHECKING:
    from runstream.events.event import Event

__all__ = ["AnswerLines", "Pen"]

_TOOL_MARKS: Final = {
    "arguments": ("…", "cyan", ""),
    "running": ("◐", "cyan", ""),
    "waiting": ("?", "yellow", "waits for your answer"),
    "done": ("✓", "green", ""),
    "failed": ("✗", "red", "failed"),
    "rejected": ("✗", "yellow", "rejected"),
    "cancelled": ("■", "yellow", "cancelled"),
    "unknown": ("?", "yellow", "may have had its effect, or not"),
}
_TAIL_CHARS: Final = 400
"""Of what is under way, no more is looked at where only its end is shown."""
_TURNING: Final = "◐◓◑◒"
_TURNS_PER_S: Final = 4
_NEXT: Final = {"retry": "trying again", "taken_over": "another worker goes on"}


class Pen:
    """Writes words in colours and weights; without `color` in weights alone."""

    def __init__(self, *, color: bool = True) -> None:
        self._color = color
        self._console: Any = None

    def __call__(self, text: str, color: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
        """The text, styled; an empty one stays empty."""
        fg = color if self._color else None
        if not text or not (fg or bold or dim):
            return text
        return click.style(text, fg=fg, bold=bold or None, dim=dim or None)

    def wrapped(self, mark: str, text: str, color: str | None, columns: int) -> list[str]:
        """The text behind a mark, in so many columns; without a mark it is quieter."""
        from rich.console import Console
        from rich.text import Text

        indent = 2 if mark else 0
        self._console = self._console or Console()
        lines: list[str] = []
        for line in visible(text).expandtabs(4).split("\n"):
            pieces = Text(line).wrap(self._console, max(columns - indent, 10))
            lines += [piece.plain.rstrip() for piece in pieces] or [""]
        if not mark:
            return [self(line, color, dim=True) for line in lines]
        head = self(mark, color, bold=True)
        return [f"{head if not n else ' '} {line}".rstrip() for n, line in enumerate(lines)]


class AnswerLines:
    """Feed it the events of one run; ask it for lines. Raises MissingExtra where rich is not installed.

    With `reasoning` what a model shows of it is written out, else only counted. With `shows_input` the run's own input
    is shown, for readers who did not give it.
    """

    def __init__(self, width: int, *, color: bool = True, reasoning: bool = False, shows_input: bool = False) -> None:
        self.view = RunView()
        self._columns = max(width, 10)
        self._pen = Pen(color=color)
        self._printer = MarkdownPrinter(width, color=color)
        self._reasoning = reasoning
        self._shows_input = shows_input
        self._place = 0
        """Of the first entry that is not over."""
        self._texts: dict[tuple[int, str, int], tuple[StreamedMarkdown, int]] = {}
        """The texts of the entry at that place, and how many of their characters were taken in."""
        self._above: str | None = None
        """What stands above for good: "text" or "line"."""
        self._shown_from: list[int] = []
        """Ids of the messages of which something stands for good."""
        self._is_closed = False

    @property
    def has_begun(self) -> bool:
        """Whether a line stands for good."""
        return self._above is not None

    def feed(self, event: Event) -> None:
        """Take in the next event."""
        self.view.apply(event)

    def resize(self, width: int) -> None:
        """The terminal has another width: what stands for good stays as it is."""
        if width != self._columns:
            self._columns = max(width, 10)
            self._printer.resize(width)

    def question(self, entry: ToolEntry, rows: int) -> list[str]:
        """What a person needs to know to let a call be made: its arguments whole, as far as so many lines hold them."""
        call = f"{entry.name or entry.kind}({arguments_text(entry.arguments)})"
        told = self.wrapped("?", f"{entry.agent or 'the agent'} wants to call {call}", "yellow")
        if entry.description:
            told += self.wrapped(" ", entry.description)[:3]
        if len(told) > rows:
            return [*told[: max(rows - 1, 1)], self._pen(f"  … {len(told) - rows + 1} more lines", dim=True)]
        return told

    def begin_again(self) -> None:
        """What comes is not what follows what was fed: the log's history is another one."""
        self.view = RunView(sparse=True)
        self._place, self._texts, self._shown_from = 0, {}, []

    def close(self) -> None:
        """No more comes: what is under way stands for good as it is."""
        self._is_closed = True

    def wrapped(self, mark: str, text: str, color: str | None = None) -> list[str]:
        """A text of the caller's own, in the width that there is."""
        return self._pen.wrapped(mark, text, color, self._columns)

    # Lines.

    def finished(self) -> list[str]:
        """The lines that stand for good since they were asked for last."""
        found: list[str] = []
        entries = self.view.entries
        while self._place < len(entries):
            entry = entries[self._place]
            is_over = self._is_over(entry)
            if isinstance(entry, MessageEntry) and not entry.void:
                self._add(found, self._text(entry, is_over=is_over), "text")
            if not is_over:
                break
            self._texts.clear()
            if not isinstance(entry, MessageEntry):
                self._add(found, self._entry(entry, None), "line")
            elif not entry.void and (entry.state == "incomplete" or (entry.state == "streaming" and self._is_closed)):
                self._add(found, [self._pen("(not complete)", dim=True)], "line")
            self._place += 1
        return found

    def open_lines(self, rows: int, now: float) -> list[str]:
        """What is under way, in at most so many lines."""
        found: list[str] = []
        above = self._above
        for entry in self.view.entries[self._place :]:
            if entry.void:
                continue
            kind = "text" if isinstance(entry, MessageEntry) else "line"
            lines = self._open_text(entry, rows) if isinstance(entry, MessageEntry) else self._entry(entry, now)
            if not lines:
                continue
            if above is not None and "text" in (above, kind) and not self._goes_on(entry):
                found.append("")
            found += lines
            above = kind
        return found[-rows:] if rows > 0 else []

    def _goes_on(self, entry: Entry) -> bool:
        return bool(self._shown_from) and self._shown_from[-1] == entry.id

    def _add(self, found: list[str], lines: list[str], kind: str) -> None:
        """Lines for good. Texts stand between empty lines."""
        if not lines:
            return
        goes_on = kind == "text" and self._goes_on(self.view.entries[self._place])
        if self._above is not None and "text" in (self._above, kind) and not goes_on:
            found.append("")
        found += lines
        self._above = kind
        if kind == "text" and not goes_on:
            self._shown_from.append(self.view.entries[self._place].id)

    def _is_over(self, entry: Entry) -> bool:
        if entry.void or self._is_closed or self.view.status not in ("new", "running"):
            return True
        if isinstance(entry, MessageEntry | ReasoningEntry):
            is_over = entry.state != "streaming"
        elif isinstance(entry, ToolEntry):
            is_over = entry.state not in ("arguments", "running", "waiting")
            if entry.state == "rejected" and entry.output is None:
                is_over = False
        elif isinstance(entry, HandoffEntry):
            is_over = entry.state != "requested"
        else:
            return True
        # What a later call of the model has come after has no end that was told.
        return is_over or 0 < entry.turn < len(self.view.main.turns)

    # Texts.

    def _text(self, entry: MessageEntry, *, is_over: bool) -> list[str]:
        found: list[str] = []
        for part in entry.parts:
            place = (entry.id, part.type, part.index)
            text, taken = self._texts.get(place) or (StreamedMarkdown(self._printer), 0)
            piece = part.text_after(taken)
            self._texts[place] = (text, taken + len(piece))
            found += text.feed(piece)
            if is_over:
                found += text.close()
        return found

    def _open_text(self, entry: MessageEntry, rows: int) -> list[str]:
        found: list[str] = []
        for part in entry.parts:
            known = self._texts.get((entry.id, part.type, part.index))
            if known is not None:
                found += known[0].open_lines(rows)
            else:
                # It comes after something that is not over.
                found += self._printer.plain_lines(_tail(part), rows)
        return found

    # Other entries: as they stand for good, or with a time as they are under way.

    def _entry(self, entry: Entry, now: float | None) -> list[str]:
        if isinstance(entry, ToolEntry):
            return [] if entry.void else self._tool(entry, now, self._columns)
        if isinstance(entry, DiscardedEntry):
            return self._discarded(entry)
        if entry.void:
            return []
        if isinstance(entry, ReasoningEntry):
            return self._thought(entry, now)
        if isinstance(entry, HandoffEntry):
            return self._handoff(entry)
        if isinstance(entry, InputEntry):
            return self._input(entry)
        if isinstance(entry, ErrorEntry):
            return self.wrapped("✗", f"{entry.name}: {entry.message}", "red")
        if isinstance(entry, GapEntry):
            return [self._pen(f"… events {entry.id} to {entry.to_seq} are no longer kept", dim=True)]
        if isinstance(entry, OtherEntry):
            return [self._pen(f"· {one_line(entry.kind)}", dim=True)]
        return []

    def _tool(self, entry: ToolEntry, now: float | None, columns: int) -> list[str]:
        pen = self._pen
        mark, color, note = _TOOL_MARKS[entry.state]
        if entry.state == "running" and now is not None:
            mark = _TURNING[int(now * _TURNS_PER_S) % len(_TURNING)]
        if entry.answer is not None and entry.answer.message and entry.state == "rejected":
            note = f"rejected: {one_line(entry.answer.message)}"
        took_s = entry.duration_s
        if took_s is None and now is not None and entry.state == "running" and entry.started_at is not None:
            took_s = max(now - entry.started_at, 0.0)
        if took_s is not None:
            note = f"{note} {_seconds(took_s)}".strip()
        room = max(columns - 2 - (len(note) + 2 if note else 0), 12)
        name = one_line(entry.name or entry.kind.removesuffix("_call"))
        call = cut(f"{name}({one_line(arguments_text(entry.arguments))})", room)
        note = cut(note, columns - 2)
        head = f"{pen(mark, color)} {pen(call[: len(name)], bold=True)}{call[len(name) :]}"
        lines = [f"{head}  {pen(note, None if color == 'green' else color, dim=color == 'green')}" if note else head]
        inner = columns - 2
        if entry.nested is not None:
            lines += [f"{pen('│', dim=True)} {line}" for line in self._nested(entry.nested, now, inner)]
        told = entry.progress[-1].data if entry.progress and entry.output is None else None
        if told is not None:
            lines.append(f"  {pen(cut(_plain_line(told), inner), 'cyan')}")
        if entry.output and entry.state not in ("rejected", "cancelled", "unknown"):
            lines.append(f"  {pen(cut(one_line(entry.output), inner), dim=True)}")
        return lines

    def _nested(self, strand: Strand, now: float | None, columns: int) -> list[str]:
        found: list[str] = []
        for entry in strand.entries:
            if entry.void:
                continue
            if isinstance(entry, ToolEntry):
                found += self._tool(entry, now, columns)
            elif isinstance(entry, HandoffEntry):
                found += self._handoff(entry)
            elif isinstance(entry, MessageEntry) and (entry.state == "streaming" or entry is not strand.entries[-1]):
                # The last one is the output of the call, which is shown as such.
                text = one_line("".join(_tail(part) if now is not None else part.text for part in entry.parts))
                shown = cut(text, columns) if now is None else _end_of(text, columns)
                if shown:
                    found.append(self._pen(shown, dim=True))
            elif isinstance(entry, ErrorEntry):
                found.append(self._pen(cut(f"✗ {entry.name}: {one_line(entry.message)}", columns), "red"))
            elif isinstance(entry, DiscardedEntry):
                found.append(self._pen(cut(f"↺ {one_line(entry.detail or entry.reason)}", columns), "red"))
        return found

    def _thought(self, entry: ReasoningEntry, now: float | None) -> list[str]:
        pen = self._pen
        size = sum(len(part.growing) for part in entry.parts)
        told = f", {size:,} characters" if size else ""
        if entry.state == "streaming" and now is not None:
            took = "" if entry.at is None else f" {_seconds(max(now - entry.at, 0.0))}"
            lines = [pen(f"✻ thinking{took}{told}", "magenta", dim=True)]
            part = entry.parts[-1] if entry.parts else None
            tail = "" if part is None else _tail(part).strip()
            shown = self._printer.plain_lines(tail, 2) if tail else []
            return [*lines, *(f"  {pen(cut(line, self._columns - 2), dim=True)}" for line in shown)]
        took = "" if entry.at is None or entry.ended_at is None else f" for {_seconds(entry.ended_at - entry.at)}"
        lines = [pen(f"✻ thought{took}{told}", "magenta", dim=True)]
        if self._reasoning and size:
            lines += [f"  {line}" for line in self.wrapped("", entry.text.strip())]
        return lines

    def _handoff(self, entry: HandoffEntry) -> list[str]:
        source = one_line(entry.source or entry.agent or "")
        if entry.state == "done":
            return self.wrapped("→", f"{source} hands over to {one_line(entry.target or '')}", "magenta")
        if entry.state == "refused":
            return self.wrapped("✗", f"{one_line(entry.name)} is refused: {entry.output}", "red")
        return self.wrapped("→", one_line(entry.name), "magenta")

    def _input(self, entry: InputEntry) -> list[str]:
        if not entry.added and not self._shows_input:
            return []
        return self.wrapped(">", entry.text, "green")

    def _discarded(self, entry: DiscardedEntry) -> list[str]:
        from_seq = entry.from_seq
        what = "an attempt does not count"
        if any(shown >= from_seq for shown in self._shown_from):
            what = "the text above does not count"
        self._shown_from = [shown for shown in self._shown_from if shown < from_seq]
        goes_on = f"; {one_line(entry.next_model)} answers" if entry.next_model else ""
        goes_on = goes_on or (f"; {_NEXT[entry.reason]}" if entry.reason in _NEXT else "")
        return self.wrapped("↺", f"{what}: {entry.detail or entry.reason}{goes_on}", "red")


def _tail(part: Part) -> str:
    return part.text_after(max(len(part.growing) - _TAIL_CHARS, 0))


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _plain_line(data: Any) -> str:
    if isinstance(data, str):
        return one_line(data)
    return one_line(json.dumps(data, ensure_ascii=False, default=str))


def _end_of(text: str, columns: int) -> str:
    """The end of a text that is being written."""
    if len(text) <= columns:
        return cut(text, columns)
    tail = text[-columns:]
    while cut(tail, columns) != tail:
        tail = tail[1:]
    return f"…{tail[1:]}"
