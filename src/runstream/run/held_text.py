"""Which of a model's events may be shown, while guardrails check its text. Pure: no waiting, no clock, no calls.

Events stand in a queue in the order in which they came, and leave it in that order. A text delta leaves once every
guardrail has let its text pass; an event that repeats text (a part, an item, a response that is done) once that text
has passed as a whole; any other event with those before it.

A text is one part of a message. Invariant: what a guardrail's latest check has not seen, or what a later one could
still see within one window of something new, stays in the queue, unless the text is complete.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from runstream.agent.model import ModelBatch
from runstream.agent.raw_item import read_field
from runstream.agent.stream_guardrail import HoldBackInfo, StreamedText, Window

__all__ = ["Check", "HeldText", "TextWatch", "texts_of"]

_TEXT_DELTAS = frozenset(("response.output_text.delta", "response.refusal.delta"))
_ENDS = frozenset(("response.completed", "response.incomplete", "response.failed", "error"))

# A sentence ends after its mark and the space behind it, so that "3.14" is not two; or with a line.
_SENTENCE_END = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019\u00bb)\]]*\s+|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d]*|(?<=\S)\n+"
)
_MAY_END = frozenset(".!?\u2026\"'\u201d\u2019\u00bb)]\u3002\uff01\uff1f\u300d\u300f")


class _Text:
    """One part of a message, as far as it has come."""

    __slots__ = ("arrivals", "is_complete", "sentence_ends", "text")

    def __init__(self, text: str = "", *, is_complete: bool = False) -> None:
        self.text = text
        self.is_complete = is_complete
        self.arrivals: list[tuple[int, float]] = []
        """For each delta: where it ends, and when it came."""
        self.sentence_ends: list[int] = []

    def add(self, piece: str, at: float, *, count_sentences: bool) -> None:
        begin = len(self.text)
        self.text += piece
        self.arrivals.append((len(self.text), at))
        if not count_sentences:
            return
        last = self.sentence_ends[-1] if self.sentence_ends else 0
        while begin > last and self.text[begin - 1] in _MAY_END:
            begin -= 1  # what ends a sentence may come in pieces
        for found in _SENTENCE_END.finditer(self.text, begin):
            # What still grows at its end is not over.
            if found.end() < len(self.text) or found.group()[-1].isspace():
                self.sentence_ends.append(found.end())


@dataclass(frozen=True, slots=True)
class Check:
    """A check that is due: of so much of that text."""

    index: int
    length: int
    passes: int
    """How much of the text is let pass if the check finds nothing."""
    given: StreamedText


class TextWatch:
    """What one guardrail has let pass."""

    __slots__ = ("_arrival", "_checked", "_checked_at", "_window", "index", "info", "passed")

    def __init__(self, window: Window, info: HoldBackInfo) -> None:
        self._window = window
        self.info = info
        self.index = 0
        """The text that it looks at."""
        self.passed = 0
        """How much of it may be shown."""
        self._checked = 0
        self._checked_at = float("-inf")
        self._arrival = 0

    @property
    def counts_sentences(self) -> bool:
        """Whether its window is one of sentences."""
        return self._window.sentences is not None

    def restart(self) -> None:
        """The texts so far are void."""
        self.index = self.passed = self._checked = self._arrival = 0

    def has_passed(self, index: int, length: int) -> bool:
        """Whether so much of that text may be shown."""
        return self.index > index or (self.index == index and self.passed >= length)

    def next_check(self, texts: Sequence[_Text], shown: int, now: float) -> Check | float | None:
        """The check that is due now, or when one will be, or None until more has come."""
        while self.index < len(texts):
            text = texts[self.index]
            length = len(text.text)
            if text.is_complete:
                if self._checked < length:
                    return self._check(text, length, length, shown, now)
                self._pass(text, length, now)
                self._next()
                continue
            if self._window.seconds is not None:
                return self._within_seconds(text, self._window.seconds, shown, now)
            return None if self._checked == length else self._within(text, shown, now)
        return None

    def _within(self, text: _Text, shown: int, now: float) -> Check | float | None:
        window, length = self._window, len(text.text)
        if window.characters is not None:
            if length < window.characters or length - self._checked < window.step:
                return None
            return self._check(text, length, length - window.characters + 1, shown, now)
        assert window.sentences is not None
        ends = text.sentence_ends
        new = len(ends) - bisect_right(ends, self._checked)
        if len(ends) < window.sentences or new < window.step:
            return None
        return self._check(text, ends[-1], ends[-window.sentences], shown, now)

    def _within_seconds(self, text: _Text, seconds: float, shown: int, now: float) -> Check | float | None:
        length = len(text.text)
        while self.passed < length:
            waits_since = text.arrivals[self._arrival][1]
            is_checked = self._checked == length
            due = waits_since + seconds
            if not is_checked:
                due = max(due, self._checked_at + self._window.step)
            if now < due:
                return due
            passes = self.passed
            for end, at in islice(text.arrivals, self._arrival, None):
                if at + seconds > now:
                    break
                passes = end
            if not is_checked:
                return self._check(text, length, passes, shown, now)
            self._pass(text, passes, now)  # nothing has come since it was checked
        return None

    def _check(self, text: _Text, length: int, passes: int, shown: int, now: float) -> Check:
        self._checked_at = now
        given = StreamedText(
            text.text[:length],
            text.text[shown:length],
            text.text[self._checked : length],
            text.is_complete and length == len(text.text),
        )
        return Check(self.index, length, passes, given)

    def let_pass(self, check: Check, texts: Sequence[_Text], now: float) -> None:
        """The check has found nothing."""
        self._checked = check.length
        self._pass(texts[check.index], check.passes, now)

    def _pass(self, text: _Text, length: int, now: float) -> None:
        if length <= self.passed:
            return
        self.info.characters += length - self.passed
        self.passed = length
        while self._arrival < len(text.arrivals) and text.arrivals[self._arrival][0] <= length:
            self.info.delays_s.append(now - text.arrivals[self._arrival][1])
            self._arrival += 1

    def _next(self) -> None:
        self.index += 1
        self.passed = self._checked = self._arrival = 0


class HeldText:
    """The queue, the texts in it, and what each guardrail has let pass."""

    def __init__(self, watches: Sequence[TextWatch]) -> None:
        self.watches = watches
        self._counts_sentences = any(watch.counts_sentences for watch in watches)
        self._texts: list[_Text] = []
        self._open: dict[tuple[int, int, bool], int] = {}
        self._complete: dict[str, int] = {}
        self._queue: deque[tuple[Any, bytes | None, int, int]] = deque()
        self._shown: dict[int, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held back."""
        return not self._queue

    def shown_of(self, check: Check) -> str:
        """What has been shown of the text that the check is about."""
        return self._texts[check.index].text[: self._shown.get(check.index, 0)]

    def restart(self) -> None:
        """What came so far is void: another attempt begins. What was held back of it is never shown."""
        self._texts, self._open, self._complete, self._shown = [], {}, {}, {}
        self._queue.clear()
        for watch in self.watches:
            watch.restart()

    def take(self, event: Any, frame: bytes | None, now: float) -> None:
        """Put what has come behind what is held back."""
        index, length = self._note(event, now)
        self._queue.append((event, frame, index, length))

    def complete(self) -> None:
        """Nothing more is to come."""
        for index in self._open.values():
            self._complete_text(index)
        self._open.clear()

    def next_check(self, watch: TextWatch, now: float) -> Check | float | None:
        """As `TextWatch.next_check`."""
        return watch.next_check(self._texts, self._shown.get(watch.index, 0), now)

    def let_pass(self, watch: TextWatch, check: Check, now: float) -> None:
        """The check has found nothing."""
        watch.let_pass(check, self._texts, now)

    def release(self) -> ModelBatch | None:
        """What may be shown now; None where nothing may."""
        events: list[Any] = []
        frames: list[bytes | None] = []
        while self._queue:
            event, frame, index, length = self._queue[0]
            if index >= 0 and not all(watch.has_passed(index, length) for watch in self.watches):
                break
            self._queue.popleft()
            if index >= 0:
                self._shown[index] = max(length, self._shown.get(index, 0))
            events.append(event)
            frames.append(frame)
        return ModelBatch(events, frames) if events else None

    def _note(self, event: Any, now: float) -> tuple[int, int]:
        """The text, and how much of it, that must have passed before the event may be shown; -1 where there is none."""
        kind = event.type
        if kind in _TEXT_DELTAS:
            key = (event.output_index or 0, event.content_index or 0, kind != "response.output_text.delta")
            index = self._open.get(key)
            if index is None:
                index = self._open[key] = len(self._texts)
                self._texts.append(_Text())
            text = self._texts[index]
            text.add(str(event.delta or ""), now, count_sentences=self._counts_sentences)
            return index, len(text.text)
        if kind.endswith(".delta"):
            return -1, 0
        self._end_texts(event)
        needed = -1
        for said in texts_of(event):
            index = self._complete.get(said, -1)
            if index < 0:
                # It comes whole, or otherwise than its deltas: it is checked as it stands.
                index = self._complete[said] = len(self._texts)
                self._texts.append(_Text(said, is_complete=True))
            needed = max(needed, index)
        return (needed, len(self._texts[needed].text)) if needed >= 0 else (-1, 0)

    def _end_texts(self, event: Any) -> None:
        """Texts are complete at the end of their part, of their item, or of the response."""
        kind = event.type
        if kind in _ENDS:
            self.complete()
        elif kind.startswith("response.") and kind.endswith(".done"):
            output, content = read_field(event, "output_index"), read_field(event, "content_index")
            for key in list(self._open):
                if key[0] == (output or 0) and (key[1] == (content or 0) or kind == "response.output_item.done"):
                    self._complete_text(self._open.pop(key))

    def _complete_text(self, index: int) -> None:
        text = self._texts[index]
        text.is_complete = True
        self._complete.setdefault(text.text, index)


def texts_of(event: Any) -> Iterator[str]:
    """The texts of messages that an event which is no delta repeats or brings."""
    kind = event.type
    if kind == "response.output_text.done":
        yield from _given(read_field(event, "text"))
    elif kind == "response.refusal.done":
        yield from _given(read_field(event, "refusal"))
    elif kind in ("response.content_part.added", "response.content_part.done"):
        yield from _in_part(read_field(event, "part"))
    elif kind in ("response.output_item.added", "response.output_item.done"):
        yield from _in_item(read_field(event, "item"))
    else:
        response = read_field(event, "response")
        for item in (read_field(response, "output") or ()) if response is not None else ():
            yield from _in_item(item)


def _in_item(item: Any) -> Iterator[str]:
    if read_field(item, "type") == "message":
        for part in cast("Sequence[Any]", read_field(item, "content") or ()):
            yield from _in_part(part)


def _in_part(part: Any) -> Iterator[str]:
    if read_field(part, "type") in ("output_text", "refusal"):
        yield from _given(read_field(part, "text"))
        yield from _given(read_field(part, "refusal"))


def _given(text: Any) -> Iterator[str]:
    if isinstance(text, str) and text:
        yield text
