"""What must hold of every log, whatever happened to its run. Pure: from the events to what is broken, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from runstream.agent.raw_item import read_field
from runstream.events.event import ATTEMPT_DISCARDED, ITEM, MODEL, RUN_END, RUN_START, Event

__all__ = ["broken_laws"]


def broken_laws(events: Sequence[Event]) -> list[str]:
    """Dense seqs; one start and one end, in their places; calls answered once; the shown text is what was said."""
    broken: list[str] = []
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        broken.append(f"seqs are not dense: {[event.seq for event in events]}")
    kinds = Counter(event.kind for event in events)
    if kinds[RUN_START] != 1 or events[0].kind != RUN_START:
        broken.append(f"{kinds[RUN_START]} starts")
    if kinds[RUN_END] != 1 or events[-1].kind != RUN_END:
        broken.append(f"{kinds[RUN_END]} ends")
    return broken + _calls(events) + _texts(events)


def _calls(events: Sequence[Event]) -> list[str]:
    made: Counter[Any] = Counter()
    answered: Counter[Any] = Counter()
    for event in events:
        if event.kind == ITEM:
            key = *event.path, read_field(event.data.raw, "call_id")
            if event.data.type in ("tool_call_item", "handoff_call_item"):
                made[key] += 1
            elif event.data.type in ("tool_call_output_item", "handoff_output_item"):
                answered[key] += 1
    twice = [f"the call {key} is there {count} times" for key, count in made.items() if count > 1]
    return twice + [f"the calls {made - answered or answered - made} and their outputs differ"] * (made != answered)


def _texts(events: Sequence[Event]) -> list[str]:
    """What a view that adds up deltas shows is what the messages say, in each agent's place."""
    broken: list[str] = []
    shown: defaultdict[Any, list[tuple[int, str]]] = defaultdict(list)
    for event in events:
        path = tuple(event.path)
        if event.kind == MODEL and event.data.type == "response.output_text.delta":
            shown[path].append((event.seq, event.data.delta))
        elif event.kind == ATTEMPT_DISCARDED:
            shown[path] = [entry for entry in shown[path] if entry[0] < event.data.from_seq]
        elif event.kind == ITEM and event.data.type == "message_output_item":
            text = "".join(delta for _, delta in shown.pop(path, ()))
            said = "".join(read_field(part, "text") for part in read_field(event.data.raw, "content"))
            # A call that was not streamed has a message without deltas.
            if text and text != said:
                broken.append(f"a reader was shown {text!r}, the message says {said!r} (seq {event.seq})")
    left = "".join(delta for _, delta in shown[()])
    return broken + [f"a reader was shown {left!r}, which no message says"] * bool(left)
