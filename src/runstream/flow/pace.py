"""When how much of a growing text is shown: the deciding half of `smooth`. Pure: it is told the time and never waits.

The pace is a moving average: so many units a second as have arrived a second within a window up to now. Each arrival
is thereby spread over one window; a burst that piles up speeds the pace up, and nothing is held longer than the window.
The window is three times the pause that is usual between two arrivals, where "usual" weighs pauses by their length: of
a burst of ten deltas and half a second without any, the half second is what a reader must be helped over.

The bound is held by a rule of its own: what has been here for `max_lag_s` goes out at once, if need be without the rest
of its unit.
"""

from __future__ import annotations

import math
from collections import deque

from runstream.flow.text_units import Unit, cuts, last_cut, safe_end

__all__ = ["TextPace"]

# No screen shows more than so many pieces a second: where units come faster, several go out together.
_FRAME_S = 1 / 60
# The window, in usual pauses.
_PAUSES = 3.0
# The window before any pause was seen.
_FIRST_WINDOW_S = 0.25
# How far back pauses count, in seconds of pauses.
_MEMORY_S = 4.0
# A text without a place to cut is cut anyway after so many characters.
_MAX_UNIT = 2000
# Timers may ring this much early.
_EARLY_S = 1e-4


class TextPace:
    """`feed` it what arrives, `take` what is due at the times that `due_at` names. Counts in characters.

    `begin` starts a text: its first arrival is due at once, as far as it holds whole units, or else as it came.
    """

    def __init__(self, by: Unit, rate: float | None, max_lag_s: float) -> None:
        self._by: Unit = by
        self._rate = rate
        self._max_lag_s = max_lag_s
        self._units: deque[int] = deque()
        """Lengths of the whole units that are held, the oldest first."""
        self._in_units = 0
        self._tail = ""
        """What is held of a unit that is not known to be whole."""
        self._arrivals: deque[tuple[int, float]] = deque()
        """Lengths and times of what is held, the oldest first."""
        self._is_first = True
        self._arrived_at: float | None = None
        self._pauses_s = 0.0
        self._squared_pauses = 0.0
        self._window: deque[tuple[int, float]] = deque()
        """Numbers of units and times of what has arrived within the window."""
        self._in_window = 0
        self._began_at = 0.0
        self._interval_s = _FIRST_WINDOW_S
        """Seconds from one unit to the next."""
        self._shown_at = -math.inf
        """When the last unit that was taken was due."""

    def begin(self) -> None:
        """A new text begins, or goes on after something else. Nothing may be held."""
        self._is_first = True
        self._arrived_at = None
        self._window.clear()
        self._in_window = 0

    @property
    def held(self) -> int:
        """How many characters are held."""
        return self._in_units + len(self._tail)

    def feed(self, text: str, now: float) -> None:
        """So much has arrived."""
        if self._arrived_at is not None:
            self._note_pause(now - self._arrived_at)
        self._arrived_at = now
        was_dry = not self._units
        self._arrivals.append((len(text), now))
        self._tail += text
        count = -len(self._units)
        self._cut_units()
        if self._is_first:
            self._began_at = now
            if not self._units:
                self._move(safe_end(self._tail))
            self._is_first = not self._units
            self._shown_at = -math.inf
        count += len(self._units)
        if count:
            self._window.append((count, now))
            self._in_window += count
            self._set_interval(now)
        if was_dry:
            self._shown_at = max(self._shown_at, now - max(self._interval_s, _FRAME_S))

    def due_at(self) -> float:
        """When something is to be taken; infinity while nothing is held."""
        if not self._arrivals:
            return math.inf
        late_at = self._late_at(self._arrivals[0][1])
        return min(late_at, self._next_at()) if self._units else late_at

    def _late_at(self, arrived_at: float) -> float:
        return arrived_at + self._max_lag_s - _EARLY_S

    def _next_at(self) -> float:
        """When the next unit is due by the pace."""
        return self._shown_at + max(self._interval_s, _FRAME_S) - _EARLY_S

    def take(self, now: float) -> int:
        """How many characters are due, taken off; may be 0."""
        late = 0
        for length, at in self._arrivals:
            if now < self._late_at(at):
                break
            late += length
        taken = 0
        if self._units and now >= self._next_at():
            count = min(max(int((now - self._shown_at + _EARLY_S) / self._interval_s), 1), len(self._units))
            self._shown_at += count * self._interval_s
            for _ in range(count):
                taken += self._units.popleft()
        while taken < late and self._units:
            taken += self._units.popleft()
            self._shown_at = now
        self._in_units -= taken
        if taken < late:
            at = last_cut(self._tail, late - taken)
            taken += at
            self._tail = self._tail[at:]
            self._shown_at = now
        self._forget(taken)
        self._set_interval(now)
        return taken

    def take_all(self) -> int:
        """Everything that is held, taken off."""
        taken = self.held
        self._units.clear()
        self._in_units = 0
        self._tail = ""
        self._arrivals.clear()
        return taken

    def _cut_units(self) -> None:
        start = 0
        for at in cuts(self._tail, self._by):
            self._units.append(at - start)
            start = at
        if len(self._tail) - start > _MAX_UNIT:
            at = start + last_cut(self._tail[start:], 1)
            self._units.append(at - start)
            start = at
        self._in_units += start
        self._tail = self._tail[start:]

    def _move(self, length: int) -> None:
        """Count so much of the tail as a unit."""
        if length:
            self._units.append(length)
            self._in_units += length
            self._tail = self._tail[length:]

    def _note_pause(self, pause_s: float) -> None:
        pause_s = min(pause_s, self._max_lag_s)
        kept = math.exp(-pause_s / _MEMORY_S)
        self._pauses_s = self._pauses_s * kept + pause_s
        self._squared_pauses = self._squared_pauses * kept + pause_s * pause_s

    def _set_interval(self, now: float) -> None:
        if self._rate is not None:
            self._interval_s = max(min(1 / self._rate, self._max_lag_s / max(len(self._units), 1)), 1e-6)
            return
        window_s = _FIRST_WINDOW_S
        if self._pauses_s > 0:
            window_s = _PAUSES * self._squared_pauses / self._pauses_s
        window_s = min(max(window_s, _FRAME_S), self._max_lag_s)
        window = self._window
        while window and window[0][1] <= now - window_s:
            self._in_window -= window.popleft()[0]
        count = max(self._in_window, len(self._units), 1)
        self._interval_s = max(window_s / count, 1e-6)

    def _forget(self, taken: int) -> None:
        arrivals = self._arrivals
        while taken > 0:
            length, at = arrivals[0]
            if length > taken:
                arrivals[0] = (length - taken, at)
                return
            taken -= length
            arrivals.popleft()
