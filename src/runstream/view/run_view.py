"""A run as an interface shows it: a pure fold of its numbered events. The same events give the same view.

Owns the order of events, the run's own state, and the stored form. Must not know where events come from, nor clocks.

Invariants: a delta costs the same however long the run and its texts are; a view of the events 1 to n, stored or not,
that goes on with the rest is the view of all; what an event has live is not looked at, so that events of this process
and of any store give the same view; an event of a kind that is not known changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from runstream.agent.raw_item import read_field, read_text
from runstream.errors import UserError
from runstream.events.codec import whole_characters
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
    ApprovalResolved,
    ErrorInfo,
    Event,
    ItemAdded,
    RunEnd,
    RunStart,
    RunStatus,
)
from runstream.view.entries import Entry, ErrorEntry, GapEntry, MessageEntry, Strand, ToolEntry
from runstream.view.figures import Figures, figures_of
from runstream.view.growing import FULL, Growing
from runstream.view.response_fold import DELTAS, Book, Spot, key_of
from runstream.view.strand_fold import StrandFold

__all__ = ["HEAD", "RunView", "ViewStatus", "view_of"]

VERSION: Final = 1
HEAD: Final = 0
"""Stands among the ids of what changed for what belongs to no entry: status, agent, turns, usage, approvals."""
ViewStatus: TypeAlias = Literal["new", "running"] | RunStatus

_TOOL_PROGRESS: Final = "tool.progress"


class _Stored(msgspec.Struct, kw_only=True):
    """The stored form. `figures`, and what a later version adds, is for readers only."""

    version: int
    run_id: str | None
    status: ViewStatus
    last_seq: int
    missed: int
    started_at: float | None
    at: float | None
    ended_at: float | None
    final_output: Any
    error: ErrorInfo | None
    usage: dict[str, int] | None
    keep_void: bool
    sparse: bool
    pending_approvals: list[int]
    agent: str | None
    agents: list[Any]
    entries: list[Any]
    turns: list[Any]
    cut: bool
    guardrails: list[Any] = msgspec.field(default_factory=list[Any])
    queue_position: int = 0


class _NoPlace:
    """No delta continues it."""

    delta_class = None


class RunView:
    """Apply a run's events in order; read it at any time.

    With `keep_void=False` what was discarded is taken out instead of marked. `sparse` says that the events are a
    selection (without deltas, without nested agents): what is missing among them is then no loss.
    """

    __slots__ = (
        "_book",
        "_end_usage",
        "_main",
        "_missed",
        "_spot",
        "_spots",
        "_strands",
        "at",
        "ended_at",
        "error",
        "final_output",
        "last_seq",
        "queue_position",
        "run_id",
        "sparse",
        "started_at",
        "status",
    )

    def __init__(self, *, keep_void: bool = True, sparse: bool = False) -> None:
        self.run_id: str | None = None
        self.status: ViewStatus = "new"
        self.queue_position = 0
        """How many runs have to begin before this one may: 1 is next; 0 where it does not wait for its place."""
        self.last_seq = 0
        """Seq of the newest event: the cursor to go on from."""
        self.started_at: float | None = None
        self.at: float | None = None
        """Time of the newest event."""
        self.ended_at: float | None = None
        self.final_output: Any = None
        self.error: ErrorInfo | None = None
        """Why the run failed."""
        self.sparse = sparse
        self._end_usage: dict[str, int] | None = None
        self._missed = 0
        self._book = Book(keep_void=keep_void)
        self._main = StrandFold(self._book, Strand())
        self._strands: dict[tuple[str, ...], StrandFold] = {(): self._main}
        self._spot: Any = _NoPlace
        self._spots: dict[tuple[Any, ...], Spot] = {}
        """The parts that have grown since the latest event that was no delta."""

    # What there is to show.

    @property
    def agent(self) -> str | None:
        """Name of the active agent."""
        return self._main.shown.agent

    @property
    def main(self) -> Strand:
        """The run's own agents, entries and turns; those of nested agents are in the tool entries that run them."""
        return self._main.shown

    @property
    def entries(self) -> list[Entry]:
        """What was said and done, in order. Not to be changed."""
        return self._main.shown.entries

    @property
    def pending_approvals(self) -> list[ToolEntry]:
        """The calls that wait for a person."""
        return [cast("ToolEntry", self._book.index[entry_id]) for entry_id in self._book.pending]

    @property
    def usage(self) -> dict[str, int] | None:
        """Tokens: of the whole run once it has ended, before that of the responses so far."""
        if self._end_usage is not None:
            return self._end_usage
        total: dict[str, int] = {}
        for turn in self._main.shown.turns:
            for name, count in (turn.usage or {}).items():
                total[name] = total.get(name, 0) + count
        return total or None

    @property
    def figures(self) -> Figures:
        """Speed and size of the run so far."""
        tokens = (self.usage or {}).get("total_tokens") or None
        return figures_of(self.started_at, self._main.shown.turns, self.last_seq - self._missed, tokens)

    @property
    def text(self) -> str:
        """The text of the newest message that counts; of a run that was completed with a text, its final output."""
        for entry in reversed(self._main.shown.entries):
            if isinstance(entry, MessageEntry) and not entry.void:
                return entry.text
        return ""

    def find(self, entry_id: int) -> Entry | None:
        """The entry of that id, nested ones included; None where there is none, or none any more."""
        return self._book.index.get(entry_id)

    # Events.

    def apply(self, event: Event) -> tuple[int, ...]:
        """Take in the next event; returns the ids of what it changed: first the entry itself, then the tool entries
        that it is within; HEAD (0) stands for the head of the page. An event that was seen before changes nothing."""
        spot = self._spot
        data: Any = event.data
        seq = event.seq
        if data.__class__ is spot.delta_class and seq == self.last_seq + 1:
            get = data.__dict__.get
            piece = get("delta")
            if (
                get("output_index") == spot.output_index
                and get(spot.index_name) == spot.index
                and event.attempt == spot.attempt
                and event.path == spot.path
                and piece.__class__ is str
            ):
                self.last_seq = seq
                tail = spot.tail
                tail.append(piece)
                if len(tail) >= FULL:
                    spot.text.pack()
                self.at = at = event.at
                turn = spot.turn
                if turn is not None:
                    turn.text_deltas += 1
                    turn.last_text_at = at
                return spot.changed
        if event.kind == MODEL and self._spots:
            # Several calls, or several agents, whose deltas alternate.
            other = self._spots.get(key_of(event))
            if other is not None and other is not spot and seq == self.last_seq + 1:
                self._spot = other
                return self.apply(event)
        return self._take_in(event)

    def _take_in(self, event: Event) -> tuple[int, ...]:
        if event.seq <= self.last_seq:
            return ()
        if self.run_id is None:
            self.run_id = event.run_id
        lost = self._note_gap(event.seq) if event.seq > self.last_seq + 1 else ()
        self.last_seq, self.at = event.seq, event.at
        if self.status == "new":
            self.status = "running"
        strand = self._strands.get(event.path) or self._open_strand(event)
        changed = self._dispatch(event, strand)
        if strand.voided:
            changed += tuple(strand.voided)
            strand.voided.clear()
        return lost + changed

    def _dispatch(self, event: Event, strand: StrandFold) -> tuple[int, ...]:
        kind = event.kind
        if kind == MODEL and event.data.type in DELTAS:
            changed, spot = strand.delta(event)
            if spot is not None:
                self._spot = self._spots[key_of(event)] = spot
            return changed
        self._spot = _NoPlace
        self._spots.clear()
        if kind == MODEL:
            return strand.model(event)
        if kind == ITEM:
            changed = strand.item(event)
            if event.data.type == "tool_call_output_item":
                self._close_nested(event, changed)
            return changed
        if kind == AGENT_START:
            return strand.agent_started(event)
        if kind == APPROVAL_RESOLVED:
            return strand.answered(event.data, event.at, event.agent)
        if kind == ATTEMPT_DISCARDED:
            return strand.discarded(event)
        if kind == INPUT_ADDED:
            return strand.input(event.data.items, event)
        if kind == GUARDRAIL:
            return strand.checked(event)
        if kind == _TOOL_PROGRESS:
            return strand.reported(event, read_text(event.data, "call_id"))
        if kind == RUN_QUEUED and not event.path:
            self.queue_position = event.data.position
            return (HEAD,)
        if kind == RUN_START and not event.path:
            return self._start(event, event.data)
        if kind == RUN_END and not event.path:
            return self._end(event, event.data)
        return ()

    def _note_gap(self, seq: int) -> tuple[int, ...]:
        """Events before this one were not seen."""
        first = self.last_seq + 1
        self.queue_position = 0
        self._missed += seq - first
        self._spot = _NoPlace
        self._spots.clear()
        if self.sparse:
            return ()
        for strand in self._strands.values():
            strand.lose_track()
        gap = GapEntry(id=first, to_seq=seq - 1)
        self._main.add(gap)
        return (gap.id,)

    def _open_strand(self, event: Event) -> StrandFold:
        """The strand of a nested agent, in the entry of the call that runs it."""
        path = event.path
        outer_path = path[:-1]
        outer = self._strands.get(outer_path)
        if outer is None:
            outer = self._open_strand(msgspec.structs.replace(event, path=outer_path))
        card = outer.call(path[-1])
        if card is None:
            # Its beginning was not seen.
            card = ToolEntry(id=min((0, *self._book.index)) - 1, call_id=path[-1], state="running", cut=True)
            card.item_seq = event.seq
            outer.add(card)
            outer.expect_output(card)
        shown = card.nested = card.nested or Strand(cut=card.cut)
        strand = StrandFold(self._book, shown, (card.id, *outer.parents))
        strand.resume()
        self._strands[path] = strand
        return strand

    def _close_nested(self, event: Event, changed: tuple[int, ...]) -> None:
        """A call has its output: what ran under it is over. Its id may be used again, for a strand of its own."""
        for entry_id in changed[:2]:
            card = self._book.index.get(entry_id)
            if isinstance(card, ToolEntry) and card.nested is not None and card.output is not None:
                over = (*event.path, card.call_id or "")
                for path in [path for path in self._strands if path[: len(over)] == over]:
                    self._strands.pop(path).ended("cancelled", event.at)

    def _start(self, event: Event, start: RunStart) -> tuple[int, ...]:
        self.started_at = event.at
        if start.resumed is not None:
            self._continue(event, start.resumed)
            return (HEAD, *self._book.index)
        return (HEAD, *self._main.input(start.input, event))

    def _continue(self, event: Event, resumed: dict[str, Any]) -> None:
        """Show what an earlier run has come to, which this one goes on with."""
        items: list[dict[str, Any]] = resumed.get("items") or []
        first = -len(items) - 1
        told = resumed.get("input")
        if told is not None:
            self._main.input(told, msgspec.structs.replace(event, seq=first))
        for number, item in enumerate(items, start=1):
            added = ItemAdded("", item["type"], item.get("raw"), item.get("more"))
            earlier = msgspec.structs.replace(event, seq=first + number, agent=item.get("agent"), data=added)
            self._main.item(earlier)
        for answer in cast("list[dict[str, Any]]", resumed.get("approvals") or []):
            given = ApprovalResolved(answer["call_id"], answer["tool_name"], answer["approved"])
            self._main.answered(given, None, None)
        self._main.forget_times()

    def _end(self, event: Event, end: RunEnd) -> tuple[int, ...]:
        self.status, self.ended_at, self.queue_position = end.status, event.at, 0
        self.final_output, self.error, self._end_usage = end.final_output, end.error, end.usage
        changed: tuple[int, ...] = (HEAD,)
        for strand in self._strands.values():
            changed += strand.ended(end.status, event.at)
        if end.status != "interrupted":
            self._book.pending.clear()
        if end.error is not None:
            error = ErrorEntry(
                id=event.seq,
                at=event.at,
                agent=event.agent,
                source="run",
                name=end.error.type,
                message=end.error.message,
                code=end.error.code,
                retryable=end.error.retryable,
            )
            self._main.add(error)
            changed += (error.id,)
        return changed

    # The stored form.

    def to_json(self) -> dict[str, Any]:
        """The view as JSON data, with `version` and `figures`; docs/views.md describes it."""
        shown = self._main.shown
        stored = _Stored(
            version=VERSION,
            run_id=self.run_id,
            status=self.status,
            last_seq=self.last_seq,
            missed=self._missed,
            started_at=self.started_at,
            at=self.at,
            ended_at=self.ended_at,
            final_output=self.final_output,
            error=self.error,
            usage=self.usage,
            keep_void=self._book.keep_void,
            sparse=self.sparse,
            pending_approvals=self._book.pending,
            agent=shown.agent,
            agents=shown.agents,
            entries=shown.entries,
            turns=shown.turns,
            cut=shown.cut,
            guardrails=shown.guardrails,
            queue_position=self.queue_position,
        )
        plain: dict[str, Any] = msgspec.to_builtins(stored, enc_hook=_encode)
        plain["figures"] = asdict(self.figures)
        return plain

    def to_string(self) -> str:
        """The same as text."""
        data = self.to_json()
        try:
            return msgspec.json.encode(data).decode()
        except UnicodeEncodeError:
            return msgspec.json.encode(whole_characters(data)).decode()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunView:
        """The view of `to_json`, to go on with `apply` after its `last_seq`.

        Raises UserError for what is none, or was written by a newer version.
        """
        version: Any = read_field(data, "version")
        if not isinstance(version, int) or version > VERSION:
            raise UserError(f"the view has version {version!r}; this version of runstream reads up to {VERSION}")
        try:
            stored = msgspec.convert(data, _Stored)
            fields = {name: data[name] for name in Strand.__struct_fields__ if name != "guardrails"}
            fields["guardrails"] = data.get("guardrails", [])  # views of earlier versions have none
            shown = msgspec.convert(fields, Strand, dec_hook=_decode)
        except (msgspec.ValidationError, KeyError) as error:
            raise UserError(f"this is not the view of a run: {error}") from error
        view = cls(keep_void=stored.keep_void, sparse=stored.sparse)
        view.run_id, view.status, view.last_seq = stored.run_id, stored.status, stored.last_seq
        view.started_at, view.at, view.ended_at = stored.started_at, stored.at, stored.ended_at
        view.final_output, view.error, view._missed = stored.final_output, stored.error, stored.missed
        if view.ended_at is not None:
            view._end_usage = stored.usage
        view.queue_position = stored.queue_position
        view._book.pending = stored.pending_approvals
        view._strands = {}
        view._restore((), shown, ())
        view._main = view._strands[()]
        return view

    @classmethod
    def from_string(cls, text: str | bytes) -> RunView:
        """The view of `to_string`. Raises UserError as `from_json` does."""
        try:
            return cls.from_json(msgspec.json.decode(text))
        except msgspec.DecodeError as error:
            raise UserError(f"this is not the view of a run: {error}") from error

    def _restore(self, path: tuple[str, ...], shown: Strand, parents: tuple[int, ...]) -> None:
        strand = StrandFold(self._book, shown, parents)
        self._strands[path] = strand
        for entry in shown.entries:
            self._book.index[entry.id] = entry
            if isinstance(entry, ToolEntry) and entry.nested is not None:
                inner = (*path, entry.call_id or "")
                self._restore(inner, entry.nested, (entry.id, *parents))
                if entry.output is not None:
                    for over in [each for each in self._strands if each[: len(inner)] == inner]:
                        del self._strands[over]
        strand.resume()

    def __repr__(self) -> str:
        return f"RunView({self.run_id!r}, {self.status}, {len(self.entries)} entries, last_seq={self.last_seq})"


def view_of(events: Iterable[Event], *, keep_void: bool = True, sparse: bool = False) -> RunView:
    """The view of these events of one run, which are in order."""
    view = RunView(keep_void=keep_void, sparse=sparse)
    for event in events:
        view.apply(event)
    return view


def _encode(value: Any) -> Any:
    if isinstance(value, Growing):
        return str(value)
    raise NotImplementedError(f"not part of a view: {value!r}")


def _decode(wanted: type[Any], value: Any) -> Any:
    if wanted is Growing:
        return Growing(value)
    raise NotImplementedError(f"not part of a view: {wanted!r}")
