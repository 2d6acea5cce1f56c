"""A run for a person at a terminal: the model's text as it comes, and a line for each tool call, result and handoff.

Owns the layout, and what may reach a terminal at all. Pure: events go in, pieces of text come out, and whoever has the
terminal writes them. Must not know files, terminals' sizes or the environment: the caller says what there is.

Invariants: a line never breaks a text in the middle, it waits for the text's end; control characters of the model, a
tool or a name (but line ends and tabs in texts) are shown escaped, so that no text can steer the terminal; with no
width and no colour the pieces of a text are the model's own, joined.
"""

from __future__ import annotations

import json
import re
import textwrap
import unicodedata
from typing import TYPE_CHECKING, Any, cast

import click

from runstream.agent.raw_item import read_field
from runstream.events.event import (
    AGENT_START,
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    GUARDRAIL,
    INPUT_ADDED,
    ITEM,
    MODEL,
    RUN_END,
    RUN_QUEUED,
    RUN_START,
)
from runstream.view.texts import content_parts, input_text, output_text, queue_text

if TYPE_CHECKING:
    from runstream.events.event import Event

__all__ = ["TerminalRenderer", "arguments_text", "cut", "one_line", "visible"]

_TEXT_DELTAS = ("response.output_text.delta", "response.refusal.delta")
_TEXT_ENDS = frozenset(
    (
        "response.output_text.done",
        "response.refusal.done",
        "response.output_item.done",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "error",
    )
)

_LABEL_COLUMNS = 9
_LABEL_STYLES: dict[str, dict[str, Any]] = {
    "tool": {"fg": "cyan"},
    "handoff": {"fg": "magenta", "bold": True},
    "agent": {"fg": "blue", "bold": True},
    "user": {"fg": "green", "bold": True},
    "figures": {"fg": "yellow"},
    "approval": {"fg": "yellow", "bold": True},
    "void": {"fg": "red"},
    "guard": {"fg": "yellow"},
    "run": {"bold": True},
    "end": {"bold": True},
}
# How much of a tool's arguments or output is shown where the width of a line is not known.
_PLAIN_COLUMNS = 200
# Words begin at most here, so that lines stay readable on a wide screen, and so many columns before the edge, so that a
# word that comes in several pieces still fits.
_MAX_TEXT_COLUMNS = 92
_SPARE_COLUMNS = 8

# Where there is no more room, a line might be two.
_ONE_LINE_COLUMNS = 40
_LINE_BACK = "\x1b[1A\x1b[2K"

# Control characters, line separators and marks that reorder what stands around them, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PIECES = re.compile(r"\n|[ \t]+|[^ \t\n]+")
_WHITESPACE = re.compile(r"[ \t\r\n]+")


def visible(text: str) -> str:
    """The text with its control characters, but line ends and tabs, shown as `\\x1b` or `\\u202e`."""
    return _UNSAFE.sub(_escaped, text)


def one_line(text: str) -> str:
    """The text as a single visible line: every run of spaces, tabs and line ends is one space."""
    return visible(_WHITESPACE.sub(" ", text).strip())


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class TerminalRenderer:
    """Feed it a run's events in order; write what it returns, as it is.

    `width` is the terminal's number of columns: all is then wrapped between words, but tools' lines are cut. Without it
    (a file, a pipe) texts stay as they are. Texts of nested agents are not shown, their tools are. With `shows_input`
    the run's input is shown at its start, for readers who did not give it themselves.
    """

    def __init__(self, *, width: int | None = None, color: bool = False, shows_input: bool = False) -> None:
        self._color = color
        self._shows_input = shows_input
        self._line_columns = max((width or _PLAIN_COLUMNS) - _LABEL_COLUMNS, 20)
        self._screen = width
        self._text_columns = _text_columns(width)
        self._above: str | None = None
        """What was written last: "text" or "line"."""
        self._column = 0
        self._spaces = ""
        """Spaces that are written only if the next word stays on the line."""
        self._part: tuple[Any, ...] | None = None
        """The text that is being written."""
        self._waiting: list[str] = []
        """Lines that came in the middle of a text."""
        self._tool_names: dict[str, str] = {}
        self._is_streamed = False
        """Whether text of the response at hand was shown."""
        self._has_item = False
        """Whether an item has come since the last event of a model."""
        self._text_seq = 0
        """The seq of the newest event whose text was shown."""
        self._tells_place = False
        """Whether the last line says where the run stands in a queue, and can be written over."""

    def feed(self, event: Event) -> str:
        """What to write for the next event; often nothing."""
        kind = event.kind
        if kind == MODEL:
            return "" if event.path else self._model(event)
        if kind == ITEM:
            return self._item(event)
        if kind == GUARDRAIL:
            return self.line("guard", _checked(event.data))
        if kind == RUN_END:
            return self.close()
        return "" if event.path else self._rare(event)

    def _rare(self, event: Event) -> str:
        kind, data = event.kind, event.data
        if kind == AGENT_START:
            if data.previous is None or data.previous == event.agent:
                return self.line("agent", event.agent or "")
            return self.line("handoff", f"{data.previous} -> {event.agent}")
        if kind == ATTEMPT_DISCARDED:
            what = "the text above does not count" if self._text_seq >= data.from_seq else "an attempt does not count"
            self._is_streamed = False
            return self.close() + self.line("void", f"{what}: {data.detail or data.reason}")
        if kind == APPROVAL_RESOLVED:
            answer = "approved" if data.approved else "rejected"
            always = ", and all its calls in this run" if data.always else ""
            message = f": {data.message}" if data.message else ""
            return self.line("approval", f"{answer} {data.tool_name}{always}{message}")
        if kind == INPUT_ADDED:
            return self.line("user", input_text(data.items))
        if kind == RUN_QUEUED:
            return self._place(data.position)
        if kind == RUN_START and self._shows_input and data.resumed is None:
            return self.line("user", input_text(data.input))
        return ""

    def line(self, label: str, text: str) -> str:
        """A line of the caller's own, such as the user's question. It waits, as all lines do, for a text's end."""
        shown = one_line(text)
        if label == "tool":
            shown = cut(shown, self._line_columns)
        elif self._screen is not None:
            shown = f"\n{'':{_LABEL_COLUMNS}}".join(textwrap.wrap(shown, self._line_columns))
        head = f"{label:<{_LABEL_COLUMNS}}"
        if self._color:
            head = click.style(head, **_LABEL_STYLES.get(label, {}))
            shown = click.style(shown, dim=True) if label == "tool" else shown
        self._waiting.append(f"{head}{shown}\n")
        return "" if self._part is not None else self._lines()

    def keep_line(self) -> None:
        """Something else was written below the last line: that is not to be written over."""
        self._tells_place = False

    def close(self) -> str:
        """End the text that is open, if any, and write what waits for it."""
        self._part = None
        return self._end_text() + self._lines()

    # Events.

    def _model(self, event: Event) -> str:
        data = event.data
        if self._has_item:
            self._has_item = self._is_streamed = False
        if data.type in _TEXT_DELTAS and data.delta:
            self._is_streamed = True
            self._text_seq = event.seq
            part = (event.attempt, data.output_index, data.content_index)
            return self._begin_text(part) + self._text(data.delta)
        return self.close() if self._part is not None and data.type in _TEXT_ENDS else ""

    def _item(self, event: Event) -> str:
        name, raw = event.data.name, event.data.raw
        if name == "tool_called":
            return self.line("tool", self._call(raw))
        if name == "tool_output":
            call_id = str(read_field(raw, "call_id"))
            return self.line(
                "tool", f"{self._tool_names.get(call_id, call_id)} -> {output_text(read_field(raw, 'output'))}"
            )
        if name == "tool_approval_item":
            return self.line("approval", f"{self._call(raw)} waits for an answer [{read_field(raw, 'call_id')}]")
        if event.path:
            return ""
        self._has_item = True
        if name == "message_output_created" and not self._is_streamed:
            # The model was not streamed: its message comes whole.
            return self._begin_text((read_field(raw, "id"),)) + self._text(_message_text(raw)) + self.close()
        return ""

    def _place(self, position: int) -> str:
        """Where the run stands: one line that changes, where the terminal lets it; else a line for each change."""
        back = _LINE_BACK if self._tells_place else ""
        told = self.line("run", queue_text(position)) if position else ""
        self._tells_place = bool(told) and self._color and (self._screen or 0) >= _ONE_LINE_COLUMNS
        return back + told

    def _call(self, raw: Any) -> str:
        kind = str(read_field(raw, "type"))
        name = str(read_field(raw, "name") or kind.removesuffix("_call"))
        self._tool_names[str(read_field(raw, "call_id"))] = name
        arguments = read_field(raw, "arguments")
        return name if arguments is None else f"{name}({arguments_text(str(arguments))})"

    # Texts.

    def _begin_text(self, part: tuple[Any, ...]) -> str:
        if part == self._part:
            return ""
        self._tells_place = False
        ended = self.close()
        self._part = part
        gap = "\n" if self._above is not None else ""
        self._above = "text"
        return ended + gap

    def _text(self, text: str) -> str:
        shown = visible(text)
        if self._text_columns is None or self._screen is None:
            if shown:
                self._column = 0 if shown.endswith("\n") else 1
            return shown
        return "".join(self._wrapped(piece, self._text_columns, self._screen) for piece in _PIECES.findall(shown))

    def _wrapped(self, piece: str, columns: int, screen: int) -> str:
        if piece == "\n":
            self._column, self._spaces = 0, ""
            return "\n"
        if piece[0] in " \t":
            self._spaces += piece.expandtabs(4)
            return ""
        spaces, self._spaces = self._spaces, ""
        size = _columns(piece)
        if self._column and spaces and self._column + len(spaces) + size > columns:
            self._column, spaces = 0, "\n"
        else:
            self._column += len(spaces)
        # What is wider than the screen is wrapped by the terminal.
        self._column = (self._column + size - 1) % screen + 1
        return f"{spaces}{piece}"

    def _end_text(self) -> str:
        self._spaces = ""
        is_open = self._column > 0
        self._column = 0
        return "\n" if is_open else ""

    def _lines(self) -> str:
        if not self._waiting:
            return ""
        self._tells_place = False
        lines, self._waiting = "".join(self._waiting), []
        gap = "\n" if self._above == "text" else ""
        self._above = "line"
        return gap + lines


def _checked(told: Any) -> str:
    """What a guardrail has decided, about what, and how long people waited for it."""
    about = f"{told.about.replace('_', ' ')} of {told.tool_name}" if told.tool_name else told.about.replace("_", " ")
    longest = f", at most {told.delay_max_s:.2f} s" if told.delay_max_s else ""
    waited = f", {told.delay_s:.2f} s later{longest}" if told.delay_s >= 0.005 or longest else ""
    return f"{told.name}: {told.outcome} ({about}{waited})"


def _text_columns(width: int | None) -> int | None:
    if width is None:
        return None
    return min(width - _SPARE_COLUMNS, _MAX_TEXT_COLUMNS) if width > 4 * _SPARE_COLUMNS else width


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def cut(text: str, columns: int) -> str:
    """The text, or as much of its beginning as fits into so many columns with `...` after it."""
    if _columns(text) <= columns:
        return text
    kept, taken = "", 3
    for each in text:
        taken += _columns(each)
        if taken > columns:
            break
        kept += each
    return f"{kept}..."


def arguments_text(text: str) -> str:
    """A call's arguments as in Python; what is no JSON object stays as it is."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return text
    if not isinstance(arguments, dict):
        return text
    entries = cast("dict[str, Any]", arguments).items()
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in entries)


def _message_text(raw: Any) -> str:
    return "".join(text for _, text, _ in content_parts(raw))
