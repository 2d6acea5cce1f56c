"""A run told to one client as parts that begin, grow and end: what protocols that stream parts have in common.

Folds the events into a view, and says through the methods that a protocol overrides what of each entry the client does
not know yet. Pure: no clock, no socket. Belongs to one reader, which gives it the events from the first on.

Invariants: a part begins before it grows and ends once, also where its attempt is discarded or the run is cancelled;
the same events give the same bytes, however they are batched; nothing is told after the end, or after a pause.

A run that waits for nothing but people's approvals is a pause: the telling is over there (`is_over`), since clients of
these protocols answer in a new request. One that goes on after such an answer is given `told_up_to`, the seq up to
which the client knows everything. Pauses before `live_from` are over, and none counts while a call of `expected` waits:
its answer is on the way.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from runstream.events.codec import plain, whole_characters
from runstream.events.event import AGENT_START, ATTEMPT_DISCARDED, MODEL, RUN_END, TOOL_PROGRESS, Event, RunEnd
from runstream.log.cursor import Cursor
from runstream.server.channel import Batch
from runstream.view.entries import (
    DiscardedEntry,
    Entry,
    HandoffEntry,
    InputEntry,
    MessageEntry,
    ReasoningEntry,
    Strand,
    ToolEntry,
)
from runstream.view.response_fold import DELTAS
from runstream.view.run_view import RunView

__all__ = [
    "HEARTBEAT",
    "NOT_WAITING",
    "Call",
    "Said",
    "Telling",
    "frame",
    "is_settled",
    "pause_id",
    "place_of",
    "since_answer",
]

HEARTBEAT: Final = b": \n\n"
NOT_WAITING: Final = "the run has ended instead of waiting for the answer: begin a new one"
"""Why an answer comes to nothing where runs do not wait in place."""

_encode_json = msgspec.json.Encoder(enc_hook=plain).encode


def frame(value: Any) -> bytes:
    """One server-sent event. Lines end with LF: some clients know no other."""
    try:
        return b"data: %b\n\n" % _encode_json(value)
    except UnicodeEncodeError:
        return b"data: %b\n\n" % _encode_json(whole_characters(plain(value)))


def pause_id(run_id: str, seq: int, call_id: str) -> str:
    """How clients name a call that waits: with the run, and with the place up to which they know it, so that the
    server need not remember either."""
    return f"{run_id}/{seq}/{call_id}"


def place_of(given: str) -> tuple[str, int, str] | None:
    """The run, seq and call of a `pause_id`; None for what is none."""
    run_id, _, rest = given.partition("/")
    seq, _, call_id = rest.partition("/")
    if not run_id or not call_id or not seq.isascii() or not seq.isdecimal() or len(seq) > 15:
        return None
    return run_id, int(seq), call_id


class Said:
    """A message or reasoning, as far as it was told."""

    __slots__ = ("agent", "entry", "id", "is_cut", "is_void", "path", "sent", "spot", "state")

    def __init__(self, id: str, entry: MessageEntry | ReasoningEntry, path: tuple[str, ...], agent: str | None) -> None:
        self.id = id
        """Unique among all runs."""
        self.entry = entry
        self.path = path
        self.agent = agent
        self.sent = 0
        """So many characters were told."""
        self.state = "new"
        """`new`, `open`, `ended`"""
        self.spot: Any = None
        """Which piece of it grows at present."""
        self.is_cut = False
        """Whether a piece of it is missing: its whole text, once it is there, does not continue what was told."""
        self.is_void = False


class Call:
    """A call of a tool or a handoff, as far as it was told."""

    __slots__ = ("agent", "entry", "id", "is_void", "path", "sent", "spot", "state")

    def __init__(self, id: str, entry: ToolEntry | HandoffEntry, path: tuple[str, ...], agent: str | None) -> None:
        self.id = id
        """Unique within the run: the model's own id of the call, as long as it does not use one again."""
        self.entry: ToolEntry | HandoffEntry = entry
        self.path = path
        self.agent = agent
        self.sent = 0
        self.state = "new"
        """`new`, `open` (its arguments grow), `ready`, `asked`, `answered`, `ended`"""
        self.spot: Any = None
        self.is_void = False


class Telling:
    """Base of the protocols: an encoding for `EventStream`. Subclasses write frames with `_write`."""

    heartbeat = HEARTBEAT

    def __init__(self, run_id: str, *, told_up_to: int = 0, live_from: int = 0, expected: Collection[str] = ()) -> None:
        self.run_id = run_id
        self.view = RunView()
        self.opening = b""
        self.is_over = False
        """Whether the client's answer is complete, though the run may go on."""
        self.seq = 0
        self.at = 0.0
        """Time of the event at hand, in seconds since the epoch."""
        self.said: dict[int, Said | Call] = {}
        """What was told, by the ids of its entries, in order."""
        self._told_up_to = told_up_to
        self._live_from = live_from
        self._expected = expected
        self._used: set[str] = set()
        self._out: list[bytes] = []

    # The encoding.

    def encode(self, batch: Batch) -> bytes:
        """The frames of the next events."""
        out = self._out
        for event in batch.events:
            if self.is_over:
                break
            self._take(event)
            if event.seq <= self._told_up_to:
                out.clear()
                if event.seq == self._told_up_to:
                    self.resumed()
            elif event.seq >= self._live_from and event.kind != MODEL and not self.is_over and self._is_pause():
                self.paused()
                self.is_over = True
        body = b"".join(out)
        out.clear()
        return body

    def resync(self, reason: str, given: str, after: Cursor) -> bytes:
        """Events are missing: what comes is told all the same."""
        self.gap(reason)
        return self._drain()

    def failure(self, code: str) -> bytes:
        """The stream cannot go on, though the run has not ended."""
        self.broken(code)
        self.is_over = True
        return self._drain()

    def closing(self) -> bytes:
        """All is said with the run's end."""
        return b""

    def _drain(self) -> bytes:
        body = b"".join(self._out)
        self._out.clear()
        return body

    def _write(self, value: dict[str, Any]) -> None:
        self._out.append(frame(value))

    # What happens.

    def _take(self, event: Event) -> None:
        self.seq, self.at = event.seq, event.at
        if _is_delta(event):
            changed = self.view.apply(event)
            if changed:
                self._grow(event, changed[0])
            return
        turns = len(self.view.main.turns)
        changed = self.view.apply(event)
        if len(self.view.main.turns) > turns:
            self.turn_began()
        found = [self.view.find(entry_id) for entry_id in changed if entry_id]
        for entry in found:
            if entry is not None and not isinstance(entry, DiscardedEntry):
                self._show(entry, event)
        if event.kind == AGENT_START:
            self.agent_began(event)
        elif event.kind == TOOL_PROGRESS and changed:
            call = self.said.get(changed[0])
            if isinstance(call, Call):
                self.progressed(call, event)
        elif event.kind == ATTEMPT_DISCARDED:
            for entry in found:
                if isinstance(entry, DiscardedEntry):
                    self.discarded(entry, event)
        elif event.kind == RUN_END:
            for told in list(self.said.values()):
                self._show(told.entry, event)
                self._end_part(told)
            self.ended(event.data)
            self.is_over = True

    def _grow(self, event: Event, entry_id: int) -> None:
        """A delta: told as it is, where it goes on with the one before."""
        told = self.said.get(entry_id)
        spot = _spot_of(event)
        if told is None or told.spot != spot or told.state != "open":
            entry = self.view.find(entry_id)
            if entry is not None:
                self._show(entry, event)
                told = self.said.get(entry_id)
                if told is not None:
                    told.spot = spot
            return
        piece: str = event.data.delta
        if piece:
            told.sent += len(piece)
            if isinstance(told, Call):
                self.call_grew(told, piece)
            else:
                self.said_more(told, piece)

    # What of an entry is new.

    def _show(self, entry: Entry, event: Event) -> None:
        if isinstance(entry, MessageEntry | ReasoningEntry):
            self._show_said(entry, event)
        elif isinstance(entry, ToolEntry | HandoffEntry):
            self._show_call(entry, event)
        elif isinstance(entry, InputEntry) and entry.added:
            self.added(entry)

    def _show_said(self, entry: MessageEntry | ReasoningEntry, event: Event) -> None:
        told = self.said.get(entry.id)
        if told is None:
            if entry.void or not entry.parts:
                return
            told = Said(f"{self.run_id}-{entry.id}", entry, event.path, entry.agent)
        assert isinstance(told, Said)
        if told.state == "ended":
            self._note_void(told)
            return
        told.is_cut = told.is_cut or entry.cut
        text = "" if told.is_cut and not _is_delta(event) else entry.text
        if len(text) > told.sent and not entry.void:
            if told.state == "new":
                self.said[entry.id] = told
                told.state = "open"
                self.said_began(told)
            piece, told.sent = text[told.sent :], len(text)
            self.said_more(told, piece)
        if told.state == "open" and entry.state != "streaming":
            told.state = "ended"
            self.said_ended(told)
        self._note_void(told)

    def _note_void(self, told: Said | Call) -> None:
        if told.entry.void and not told.is_void:
            told.is_void = True
            self.voided(told)

    def _show_call(self, entry: ToolEntry | HandoffEntry, event: Event) -> None:
        told = self.said.get(entry.id)
        if told is None:
            if entry.void or not entry.name:
                return
            told = Call(self._call_id(entry), entry, event.path, entry.agent)
            self.said[entry.id] = told
        assert isinstance(told, Call)
        told.entry = entry  # a call turns out to be a handoff
        if told.state != "ended":
            self._advance(told)
        self._note_void(told)

    def _call_id(self, entry: ToolEntry | HandoffEntry) -> str:
        call_id = entry.call_id or f"call-{entry.id}"
        if call_id in self._used:
            call_id = f"{call_id}-{entry.id}"
        self._used.add(call_id)
        return call_id

    def _advance(self, told: Call) -> None:
        entry = told.entry
        if told.state == "new":
            told.state = "open"
            self.call_began(told)
        if told.state == "open":
            length = len(entry.growing)
            if length > told.sent:
                piece, told.sent = entry.growing.after(told.sent), length
                self.call_grew(told, piece)
            if entry.item_seq is not None or entry.state not in ("arguments", "requested"):
                told.state = "ready"
                self.call_ready(told)
        if isinstance(entry, ToolEntry):
            if entry.state == "waiting" and told.state != "asked":
                told.state = "asked"
            elif entry.answer is not None and told.state == "asked":
                told.state = "answered"
                self.answered(told)
        if is_settled(entry):
            if isinstance(entry, ToolEntry) and entry.nested is not None:
                self._close(entry.nested)
            told.state = "ended"
            self.call_ended(told)

    def _close(self, strand: Strand) -> None:
        """What has run under a call ends with it."""
        for entry in strand.entries:
            told = self.said.get(entry.id)
            if told is not None:
                if isinstance(told, Call) and told.state != "ended":
                    self._advance(told)
                self._end_part(told)
                if isinstance(told, Call) and told.state != "ended":
                    told.state = "ended"
                    self.call_ended(told)

    def _end_part(self, told: Said | Call) -> None:
        """Nothing more of it grows, whether or not its end was seen."""
        if told.state == "open":
            if isinstance(told, Call):
                told.state = "ready"
                self.call_ready(told)
            else:
                told.state = "ended"
                self.said_ended(told)

    # Pauses.

    def _is_pause(self) -> bool:
        """Whether nothing goes on but waiting for people."""
        pending = self.view.pending_approvals
        if not pending or any(entry.call_id in self._expected for entry in pending):
            return False
        return _is_still(self.view.main)

    @property
    def is_answer(self) -> bool:
        """Whether this is what comes of a client's answers."""
        return self._told_up_to > 0

    def waiting(self) -> list[Call]:
        """The calls that wait for a person."""
        found = [self.said.get(entry.id) for entry in self.view.pending_approvals]
        return [told for told in found if isinstance(told, Call)]

    # To be overridden.

    def resumed(self) -> None:
        """What comes next is new to the client."""

    def turn_began(self) -> None:
        """The run's own agent calls its model, for a new turn."""

    def agent_began(self, event: Event) -> None:
        """An agent became the active one of its path."""

    def said_began(self, told: Said) -> None:
        """A message or reasoning begins."""

    def said_more(self, told: Said, piece: str) -> None:
        """It grows; the piece is not empty."""

    def said_ended(self, told: Said) -> None:
        """It is complete, or nothing more of it comes."""

    def call_began(self, told: Call) -> None:
        """The model calls a tool; its arguments may be still to come."""

    def call_grew(self, told: Call, piece: str) -> None:
        """The arguments grow."""

    def call_ready(self, told: Call) -> None:
        """The arguments are complete, or nothing more of them comes."""

    def answered(self, told: Call) -> None:
        """A person has said whether it may run."""

    def call_ended(self, told: Call) -> None:
        """There is an output, or there will be none."""

    def progressed(self, told: Call, event: Event) -> None:
        """A tool that runs reports."""

    def added(self, entry: InputEntry) -> None:
        """A person has said something more."""

    def voided(self, told: Said | Call) -> None:
        """What was told counts as never said; it has ended. `discarded` follows."""

    def discarded(self, entry: DiscardedEntry, event: Event) -> None:
        """An attempt is void, and all that came from it was."""

    def gap(self, reason: str) -> None:
        """Events are missing, which the store keeps no more."""

    def paused(self) -> None:
        """The run waits for people (`waiting`), and this answer ends."""

    def broken(self, code: str) -> None:
        """The stream cannot go on, though the run has not ended."""

    def ended(self, end: RunEnd) -> None:
        """The run has ended; every part of it has."""


def is_settled(entry: ToolEntry | HandoffEntry) -> bool:
    """Whether nothing more comes of the call."""
    if entry.void:
        return True
    if isinstance(entry, HandoffEntry):
        return entry.state != "requested"
    return entry.state not in ("arguments", "waiting", "running", "rejected") or entry.output is not None


def _is_delta(event: Event) -> bool:
    return event.kind == MODEL and event.data.type in DELTAS


def _spot_of(event: Event) -> tuple[Any, ...]:
    """What the deltas of one piece of a part have in common."""
    get = event.data.__dict__.get
    return event.data.__class__, get("content_index"), get("summary_index")


def _is_still(strand: Strand) -> bool:
    """Whether the strand, and what runs under its calls, waits for people alone."""
    if strand.turns and strand.turns[-1].state == "open":
        return False
    for entry in strand.entries:
        if not isinstance(entry, ToolEntry | HandoffEntry) or is_settled(entry):
            continue
        if isinstance(entry, HandoffEntry):
            return False
        if entry.state != "waiting" and not (entry.nested is not None and _waits(entry.nested)):
            return False
    return True


def _waits(strand: Strand) -> bool:
    """Whether it waits for people, and for nothing else."""
    pending = [entry for entry in strand.entries if isinstance(entry, ToolEntry) and not is_settled(entry)]
    return bool(pending) and _is_still(strand)


def since_answer(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the user has said since the last answer: all that counts where the server keeps the conversation."""
    count = 0
    for message in reversed(messages):
        if message.get("role") != "user":
            break
        count += 1
    return messages[len(messages) - count :]
