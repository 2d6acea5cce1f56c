"""The laws that hold whatever was killed. Pure: from final logs, the truth of the tools and what readers saw, to what
is broken, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from chaos.scene import Moment
from runstream.events.event import ATTEMPT_DISCARDED, ITEM, MODEL, RUN_END, RUN_START, Event
from runstream.run.tools import UNCERTAIN_OUTPUT

__all__ = ["Stored", "broken_laws", "broken_readers", "broken_tools"]


@dataclass(slots=True)
class Stored:
    """A run as its store has it in the end."""

    run_id: str
    status: str
    events: list[Event]
    epochs: list[int]
    """Of each event, the epoch that wrote it."""
    deliveries: int = 0

    @property
    def end(self) -> Any:
        """The data of the last event, if it is an end."""
        return self.events[-1].data if self.events and self.events[-1].kind == RUN_END else None


def broken_laws(run: Stored, *, may_be_given_up: bool = False) -> list[str]:
    """Dense seqs; one start, one end; calls answered once; the text that readers saw is what was said.

    `may_be_given_up`: a run shares its worker, and its worker's fate, with one that kills it.
    """
    broken: list[str] = []
    events = run.events
    seqs = [event.seq for event in events]
    if seqs != list(range(1, len(events) + 1)):
        bad = next(index for index, seq in enumerate(seqs) if seq != index + 1)
        broken.append(f"{run.run_id}: seqs are not dense: {seqs[max(0, bad - 2) : bad + 3]} after {bad}")
    kinds = Counter(event.kind for event in events)
    if kinds[RUN_START] != 1 or not events or events[0].kind != RUN_START:
        broken.append(f"{run.run_id}: {kinds[RUN_START]} starts")
    if kinds[RUN_END] != 1 or not events or events[-1].kind != RUN_END:
        broken.append(f"{run.run_id}: {kinds[RUN_END]} ends")
    if any(later < earlier for earlier, later in zip(run.epochs, run.epochs[1:], strict=False)):
        broken.append(f"{run.run_id}: an older epoch wrote after a newer one")
    end = run.end
    is_poison = run.run_id.startswith("poison")
    if is_poison and (end is None or end.error is None or end.error.type != "RunAbandoned"):
        broken.append(f"{run.run_id}: it kills its workers and was not given up: {end}")
    given_up = end is not None and end.error is not None and end.error.type == "RunAbandoned"
    if end is not None and end.status != "completed" and not is_poison and not (may_be_given_up and given_up):
        broken.append(f"{run.run_id}: it ended as {end.status}: {end.error}")
    broken += [f"{run.run_id}: {fault}" for fault in _calls(events)]
    broken += [f"{run.run_id}: {fault}" for fault in _text(events, end)]
    return broken


def _raw(event: Event, name: str) -> Any:
    raw = event.data.raw
    return raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)


def _calls(events: Iterable[Event]) -> list[str]:
    open_calls: set[str] = set()
    known: set[str] = set()
    broken: list[str] = []
    for event in events:
        if event.kind != ITEM:
            continue
        call_id = _raw(event, "call_id")
        if event.data.type in ("tool_call_item", "handoff_call_item"):
            if call_id in known:
                broken.append(f"the call {call_id} is there twice")
            known.add(call_id)
            open_calls.add(call_id)
        elif event.data.type in ("tool_call_output_item", "handoff_output_item"):
            if call_id not in open_calls:
                broken.append(f"an output of {call_id}, which is not open (seq {event.seq})")
            open_calls.discard(call_id)
    return broken + [f"the call {call_id} was never answered" for call_id in sorted(open_calls)]


def _text(events: Iterable[Event], end: Any) -> list[str]:
    """What a view that adds up deltas shows is what the messages say."""
    broken: list[str] = []
    shown: list[tuple[int, str]] = []
    last = ""
    for event in events:
        if event.kind == MODEL and event.data.type == "response.output_text.delta":
            shown.append((event.seq, event.data.delta))
        elif event.kind == ATTEMPT_DISCARDED:
            shown = [entry for entry in shown if entry[0] < event.data.from_seq]
        elif event.kind == ITEM and event.data.type == "message_output_item":
            last = "".join(part["text"] if isinstance(part, dict) else part.text for part in _raw(event, "content"))
            text = "".join(delta for _, delta in shown)
            if text != last:
                broken.append(f"a reader was shown {text!r}, the message says {last!r} (seq {event.seq})")
            shown = []
    if shown:
        broken.append(f"a reader was shown {''.join(delta for _, delta in shown)!r}, which no message says")
    if end is not None and end.status == "completed" and end.final_output != last:
        broken.append(f"the final output is {end.final_output!r}, the last message {last!r}")
    return broken


def broken_tools(runs: Sequence[Stored], moments: Sequence[Moment]) -> list[str]:
    """A tool that is not idempotent ran at most once for each call; what was answered did run."""
    begun = Counter(moment.subject for moment in moments if moment.kind == "begin")
    done = {moment.subject for moment in moments if moment.kind == "end"}
    broken = [
        f"{call_id} was run {count} times" for call_id, count in begun.items() if "charge" in call_id and count > 1
    ]
    for run in runs:
        for event in run.events:
            if event.kind == ITEM and event.data.type == "tool_call_output_item":
                call_id, output = str(_raw(event, "call_id")), _raw(event, "output")
                if str(output).startswith("done ") and call_id not in done:
                    broken.append(f"{call_id} is answered, and never ran to its end")
                elif output == UNCERTAIN_OUTPUT and "charge" not in call_id:
                    broken.append(f"{call_id} may be run again, and was not")
    return broken


def broken_readers(
    runs: dict[str, Stored],
    lines: Iterable[str],
    digest_of: Callable[[Event], str],
    *,
    from_start: bool,
    forgets: bool = False,
) -> tuple[list[str], Counter[str]]:
    """What one reader saw, over all its lives: no gap, nothing twice, nothing that the final log does not say.

    A reader that was told to go back to a seq, since the store had lost what followed it, forgets what followed it. If
    the store `forgets` what it has acknowledged, one that had come to the end by then cannot be told.
    """
    broken: list[str] = []
    counts: Counter[str] = Counter()
    seen: dict[str, list[tuple[int, str]]] = defaultdict(list)
    ends: Counter[str] = Counter()
    outputs: dict[str, str] = {}
    for line in lines:
        kind, run_id, number, _, *rest = line.split(" ")
        run = runs.get(run_id)
        if run is None:
            continue  # the store has lost the whole run
        counts[kind] += 1
        if kind == "saw":
            if seen[run_id] and int(number) != seen[run_id][-1][0] + 1:
                broken.append(f"{run_id}: a reader saw {number} after {seen[run_id][-1][0]}")
            seen[run_id].append((int(number), rest[0]))
        elif kind == "end":
            ends[run_id] += 1
            outputs[run_id] = rest[0]
        elif kind == "resync":
            seen[run_id] = [entry for entry in seen[run_id] if entry[0] <= int(number)]
        elif kind in ("gone", "expired"):
            broken.append(f"{run_id}: a reader was told that its events are gone")
    for run_id, run in runs.items():
        digests = {event.seq: digest_of(event) for event in run.events}
        wrong = [seq for seq, digest in seen[run_id] if digests.get(seq) != digest]
        if wrong and ends[run_id] and forgets:
            counts["forgotten ends"] += 1
            continue
        output = None if run.end is None else run.end.final_output
        if output is not None and outputs.get(run_id) != str(crc32(str(output).encode())):
            broken.append(f"{run_id}: a reader's final output is not that of the log")
        if wrong:
            broken.append(f"{run_id}: a reader saw other events {wrong[:3]} ({len(wrong)}) than the log has")
        if ends[run_id] != 1:
            broken.append(f"{run_id}: a reader saw {ends[run_id]} ends (it had come to {seen[run_id][-1:]})")
        if from_start and (not seen[run_id] or seen[run_id][0][0] != 1):
            broken.append(f"{run_id}: a reader began at {seen[run_id][:1]}")
        if seen[run_id] and run.events and seen[run_id][-1][0] != run.events[-1].seq:
            broken.append(f"{run_id}: a reader's last event is {seen[run_id][-1][0]} of {run.events[-1].seq}")
    return broken, counts
