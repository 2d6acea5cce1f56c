"""What happens in one strand beside the model's stream: items, agents, approvals, reports of tools, void attempts.

Owns the states of tool entries. Pure. An item event is about the entry that the response has begun, if it was streamed.
"""

from __future__ import annotations

from typing import Any, cast

from runstream.agent.raw_item import read_field, read_text
from runstream.events.codec import plain
from runstream.events.event import Event, InputAdded, ItemAdded, RunStatus
from runstream.run.approvals import REJECTED_OUTPUT
from runstream.run.history import CANCELLED_OUTPUT
from runstream.run.tools import UNCERTAIN_OUTPUT
from runstream.view.entries import (
    Answer,
    Checked,
    DiscardedEntry,
    Entry,
    HandoffEntry,
    InputEntry,
    MessageEntry,
    OtherEntry,
    Progress,
    ReasoningEntry,
    StartedAgent,
    Strand,
    ToolEntry,
)
from runstream.view.response_fold import Book, ResponseFold, Said, fill_call
from runstream.view.texts import input_text, output_text

__all__ = ["StrandFold"]

# So many of a tool's reports are kept.
_KEPT_REPORTS = 100
_UNFINISHED = ("arguments", "waiting", "running")
_STATES: dict[str, str] = {
    "failed": "failed",
    "timed_out": "failed",
    "rejected": "rejected",
    "cancelled": "cancelled",
    "unknown": "unknown",
}
# What the model was told of a tool that had failed, where the log does not say what became of it.
_FAILURES = ("An error occurred while running the tool.", "An error occurred while parsing tool arguments.")

_ITEM_CLASSES: dict[str, type[Any]] = {
    "message_output_item": MessageEntry,
    "reasoning_item": ReasoningEntry,
    "tool_call_item": ToolEntry,
    "handoff_call_item": ToolEntry,
    "tool_search_call_item": ToolEntry,
    "mcp_list_tools_item": ToolEntry,
    "mcp_approval_request_item": ToolEntry,
}


class StrandFold(ResponseFold):
    """Events of one path, in their order; all methods return what was changed."""

    def __init__(self, book: Book, shown: Strand, parents: tuple[int, ...] = ()) -> None:
        super().__init__(book, shown, parents)
        self.calls: dict[str, list[ToolEntry | HandoffEntry]] = {}
        """Calls without an output, by their ids, which a model may use again."""

    def resume(self) -> None:
        super().resume()
        for entry in self.shown.entries:
            if isinstance(entry, ToolEntry | HandoffEntry) and entry.item_seq is not None and not _is_over(entry):
                self.expect_output(entry)

    def expect_output(self, entry: ToolEntry | HandoffEntry) -> None:
        """The call goes on until its output is there."""
        if entry.call_id is not None:
            self.calls.setdefault(entry.call_id, []).append(entry)

    def _take_call(self, call_id: str | None) -> ToolEntry | HandoffEntry | None:
        """The first call of that id that has no output; it has one now."""
        waiting = self.calls.get(call_id or "")
        if not waiting:
            return None
        entry = waiting.pop(0)
        if not waiting:
            del self.calls[cast("str", call_id)]
        return entry

    def call(self, call_id: str) -> ToolEntry | None:
        """The latest call of that id that goes on, else the latest one at all."""
        for entry in reversed(self.calls.get(call_id, ())):
            if isinstance(entry, ToolEntry):
                return entry
        for entry in reversed(self.shown.entries):
            if isinstance(entry, ToolEntry) and entry.call_id == call_id:
                return entry
        return None

    # Items.

    def item(self, event: Event) -> tuple[int, ...]:
        """An item is complete."""
        data: ItemAdded = event.data
        if data.type == "tool_call_output_item":
            return self._output(event, data)
        if data.type == "handoff_output_item":
            return self._handed_over(event, data)
        if data.type == "tool_approval_item":
            return self._asked(event, data)
        if data.type == "mcp_approval_response_item":
            return self._hosted_answer(event, data)
        if data.type == "input_item":
            return self.input([data.raw], event)
        entry = self._claim(event, data)
        self.complete(entry, data.raw, event.at)
        entry.item_seq = event.seq
        if data.type == "handoff_call_item" and isinstance(entry, ToolEntry):
            entry = self._as_handoff(entry)
        if isinstance(entry, ToolEntry):
            self._called(entry, data, event.at)
        if isinstance(entry, HandoffEntry):
            self.expect_output(entry)
        return self.changed(entry)

    def _claim(self, event: Event, data: ItemAdded) -> Said:
        """The entry that the response has begun for the item; a new one where it was not streamed."""
        entry_class = _ITEM_CLASSES.get(data.type, OtherEntry)
        item_id, call_id = read_text(data.raw, "id"), read_text(data.raw, "call_id")
        fitting = [entry for entry in self.unclaimed if type(entry) is entry_class]
        for entry in fitting:
            if call_id is not None and isinstance(entry, ToolEntry):
                is_it = entry.call_id == call_id
            else:
                is_it = item_id is not None and entry.item_id == item_id
            if is_it:
                break
        else:
            # Some servers change an item's id from event to event: then the order tells.
            entry = next((each for each in fitting if not each.cut), None)
        if entry is None:
            entry = cast("Said", entry_class(id=event.seq, at=event.at, agent=event.agent, turn=len(self.shown.turns)))
            entry.item_id = item_id
            self.add(entry)
        else:
            self.unclaimed.remove(entry)
        return entry

    def _called(self, entry: ToolEntry, data: ItemAdded, at: float) -> None:
        more = data.more or {}
        entry.title, entry.description = more.get("title"), more.get("description")
        if entry.state == "arguments":
            entry.state, entry.started_at = "running", at
        if not _is_over(entry):
            self.expect_output(entry)

    def _as_handoff(self, entry: ToolEntry) -> HandoffEntry:
        """What looked like a call of a tool while it was streamed is a handoff."""
        badge = HandoffEntry(
            id=entry.id,
            at=entry.at,
            agent=entry.agent,
            turn=entry.turn,
            attempt=entry.attempt,
            output_index=entry.output_index,
            item_id=entry.item_id,
            item_seq=entry.item_seq,
            call_id=entry.call_id,
            name=entry.name,
            growing=entry.growing,
            source=entry.agent,
        )
        entries = self.shown.entries
        for place in range(len(entries) - 1, -1, -1):
            if entries[place] is entry:
                entries[place] = badge
                break
        self.book.index[badge.id] = badge
        return badge

    def _output(self, event: Event, data: ItemAdded) -> tuple[int, ...]:
        raw = data.raw
        call_id = read_text(raw, "call_id")
        entry = self._take_call(call_id)
        if entry is None:
            entry = ToolEntry(id=event.seq, at=event.at, agent=event.agent, call_id=call_id, cut=True)
            entry.kind = str(read_field(raw, "type")).removesuffix("_output")
            entry.item_seq = event.seq
            self.add(entry)
        output = plain(read_field(raw, "output"))
        entry.output = output_text(output)
        entry.ended_at = event.at
        if isinstance(entry, HandoffEntry):
            entry.state = "refused"
            return self.changed(entry)
        if isinstance(output, list):
            entry.content = cast("list[Any]", output)
        if entry.state == "waiting" and entry.id in self.book.pending:
            self.book.pending.remove(entry.id)
        entry.outcome = read_text(data.more, "outcome")
        if entry.state != "rejected":
            entry.state = _state_of(entry.outcome, entry.output)
        return (0, *self.changed(entry))

    def _handed_over(self, event: Event, data: ItemAdded) -> tuple[int, ...]:
        more = data.more or {}
        call_id = read_text(data.raw, "call_id")
        entry = self._take_call(call_id)
        if not isinstance(entry, HandoffEntry):
            entry = HandoffEntry(id=event.seq, at=event.at, agent=event.agent, call_id=call_id, cut=True)
            entry.item_seq = event.seq
            self.add(entry)
        entry.state, entry.ended_at = "done", event.at
        entry.source, entry.target = more.get("source") or entry.source, more.get("target")
        return self.changed(entry)

    # Approvals.

    def _asked(self, event: Event, data: ItemAdded) -> tuple[int, ...]:
        """A call waits for a person."""
        call_id = read_text(data.raw, "call_id") or read_text(data.raw, "id")
        entry = next(
            (
                each
                for each in self.calls.get(call_id or "", ())
                if isinstance(each, ToolEntry) and each.state == "running" and each.answer is None
            ),
            None,
        )
        if entry is None:
            entry = ToolEntry(id=event.seq, at=event.at, agent=event.agent, turn=len(self.shown.turns), cut=True)
            entry.item_seq = event.seq
            fill_call(entry, data.raw, event.at, is_done=True)
            self.add(entry)
            self.expect_output(entry)
        entry.state, entry.started_at = "waiting", None
        self.book.pending.append(entry.id)
        return (0, *self.changed(entry))

    def answered(self, answer: Any, at: float | None, agent: str | None) -> tuple[int, ...]:
        """A person has said whether a call may be made; with `always`, the agent's other calls of the tool, too."""
        changed: list[Entry] = []
        for entry_id in list(self.book.pending):
            entry = self.book.index.get(entry_id)
            if not isinstance(entry, ToolEntry):
                continue
            alike = answer.always and entry.name == answer.tool_name and entry.agent == agent
            if entry.call_id != answer.call_id and not alike:
                continue
            self.book.pending.remove(entry_id)
            entry.answer = Answer(answer.approved, answer.always, answer.message, at)
            if answer.approved:
                entry.state, entry.started_at = "running", at
            else:
                entry.state, entry.ended_at = "rejected", at
            changed.append(entry)
        return (0, *self.changed(*changed))

    def _hosted_answer(self, event: Event, data: ItemAdded) -> tuple[int, ...]:
        """The answer to what the provider has asked about a tool of an MCP server."""
        entry = self._take_call(read_text(data.raw, "approval_request_id"))
        if not isinstance(entry, ToolEntry):
            return ()
        approved = bool(read_field(data.raw, "approve"))
        entry.state = "done" if approved else "rejected"
        entry.answer = entry.answer or Answer(approved, False, read_text(data.raw, "reason"), event.at)
        entry.ended_at = event.at
        if entry.id in self.book.pending:
            self.book.pending.remove(entry.id)
        return (0, *self.changed(entry))

    # What else happens.

    def agent_started(self, event: Event) -> tuple[int, ...]:
        """The active agent changed."""
        name = event.agent or ""
        self.shown.agent = name
        self.shown.agents.append(StartedAgent(event.seq, event.at, name, event.data.previous))
        return (0, *self.parents)

    def discarded(self, event: Event) -> tuple[int, ...]:
        """What came from a seq on is void."""
        data: Any = event.data
        found: list[Entry] = []
        for entry in reversed(self.shown.entries):
            if 0 <= entry.id < data.from_seq:
                break
            if entry.id >= 0 and not entry.void and not isinstance(entry, InputEntry | DiscardedEntry):
                found.append(entry)
        for entry in found:
            if isinstance(entry, ToolEntry | HandoffEntry) and entry.item_seq is not None and not _is_answered(entry):
                self._take_call(entry.call_id)
        self.make_void(found[::-1], event.at)
        notice = DiscardedEntry(
            id=event.seq,
            at=event.at,
            agent=event.agent,
            from_seq=data.from_seq,
            reason=data.reason,
            detail=data.detail,
            next_model=read_text(data, "next_model"),
        )
        self.add(notice)
        return (0, *self.changed(notice))

    def input(self, given: Any, event: Event) -> tuple[int, ...]:
        """People said something."""
        entry = InputEntry(
            id=event.seq,
            at=event.at,
            text=input_text(given),
            items=None if isinstance(given, str) else plain(given),
            added=isinstance(event.data, InputAdded | ItemAdded),
        )
        self.add(entry)
        return self.changed(entry)

    def reported(self, event: Event, call_id: str | None) -> tuple[int, ...]:
        """A tool that runs has something to say."""
        entry = self.call(call_id or "")
        if entry is None:
            return ()
        fields: dict[str, Any] = plain(event.data)
        entry.progress.append(Progress(event.seq, event.at, fields.get("data")))
        del entry.progress[:-_KEPT_REPORTS]
        entry.progress_count += 1 + (fields.get("dropped") or 0)
        return self.changed(entry)

    def checked(self, event: Event) -> tuple[int, ...]:
        """A guardrail has decided."""
        told: dict[str, Any] = plain(event.data)
        known = {name: value for name, value in told.items() if name in Checked.__struct_fields__}
        self.shown.guardrails.append(Checked(seq=event.seq, at=event.at, agent=event.agent, **known))
        return (0, *self.parents)

    def forget_times(self) -> None:
        """Of what an earlier run has said, nobody knows when."""
        for entry in self.shown.entries:
            entry.at = None
            if isinstance(entry, Said):
                entry.ended_at = None
            if isinstance(entry, ToolEntry):
                entry.started_at = None

    def ended(self, status: RunStatus, at: float) -> tuple[int, ...]:
        """Nothing more comes: whatever is open will never end."""
        changed: list[Entry] = []
        for entry in (*self.unclaimed, *(call for calls in self.calls.values() for call in calls)):
            if isinstance(entry, MessageEntry | ReasoningEntry):
                if entry.state == "streaming":
                    entry.state, entry.ended_at = "incomplete", at
                    changed.append(entry)
            elif isinstance(entry, ToolEntry) and entry.state in _UNFINISHED:
                if entry.state == "waiting" and status == "interrupted":
                    continue
                was_running = entry.state == "running" and status != "interrupted"
                entry.state, entry.ended_at = ("unknown" if was_running else "cancelled"), at
                changed.append(entry)
        for turn in self.shown.turns[-1:]:
            if turn.state == "open":
                turn.state, turn.ended_at = "incomplete", at
        return self.changed(*changed) if changed else ()


def _is_over(entry: ToolEntry | HandoffEntry) -> bool:
    """Whether no output is to come. What was rejected still gets one, for the model."""
    return entry.void or _is_answered(entry)


def _is_answered(entry: ToolEntry | HandoffEntry) -> bool:
    if isinstance(entry, HandoffEntry):
        return entry.state != "requested"
    return entry.state not in (*_UNFINISHED, "rejected") or entry.output is not None


def _state_of(outcome: str | None, output: str) -> Any:
    if outcome is not None:
        return _STATES.get(outcome, "done")
    # A log of an earlier version, or an output that is not ours: known by the library's own words.
    if output == REJECTED_OUTPUT:
        return "rejected"
    if output == CANCELLED_OUTPUT:
        return "cancelled"
    if output == UNCERTAIN_OUTPUT:
        return "unknown"
    return "failed" if output.startswith(_FAILURES) else "done"
