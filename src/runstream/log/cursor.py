"""Cursors that leave the process: `<epoch>-<seq>`, which seq a reader has had, and of which history.

Pure. A seq alone does not tell: a store that lost its newest events (a failover to a replica that lagged) writes others
under the same seqs later, by a newer epoch. A cursor is good if the epoch that it names is the one that wrote its seq.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from runstream.errors import CursorExpired, CursorInvalid, UserError

__all__ = ["Cursor", "epoch_of", "resolve"]

_FORM = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")
_LARGEST = 2**63 - 1
_FROM_THE_START = ("", "0", "0-0")
# Of a cursor that cannot be read, so much is shown.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place after an event: `str(cursor)` is what is given to readers in other processes."""

    epoch: int
    """That wrote the event; 0 before the first event."""
    seq: int
    """Of the event; 0 before the first event."""

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises CursorInvalid (`malformed`) for what `str` does not write; "" and "0" are the start."""
        if text in _FROM_THE_START:
            return cls(0, 0)
        match = _FORM.fullmatch(text)
        if match is not None:
            epoch, seq = int(match[1]), int(match[2])
            if epoch <= _LARGEST and seq <= _LARGEST:
                return cls(epoch, seq)
        raise CursorInvalid(text[:_SHOWN], "malformed", 0)


def epoch_of(seq: int, epochs: Sequence[tuple[int, int]]) -> int:
    """The epoch that wrote, or is to write, the event of that seq; 0 before the first event.

    `epochs` as in `RunRecord.epochs`: oldest first, each with the first seq that it may have written.
    """
    if seq < 1:
        return 0
    index = bisect_right(epochs, seq, key=lambda entry: entry[1])
    return epochs[index - 1][0] if index else 0


def resolve(cursor: str | int, epochs: Sequence[tuple[int, int]], first_seq: int, last_seq: int) -> int:
    """The seq to read after, for a log that keeps the events from `first_seq` to `last_seq`.

    An int is a seq of this very history. Raises CursorInvalid: `malformed`; `ahead` of the log; of an `other_history`,
    then `resync_after` is the last seq up to which both are known to be the same. Raises CursorExpired where events
    after the cursor are no longer kept, UserError for what is neither a number nor a text.
    """
    oldest = first_seq - 1
    if isinstance(cursor, str):
        place = Cursor.parse(cursor)
        seq = place.seq
        if epoch_of(seq, epochs) != place.epoch:
            shared = min(_shared(place, epochs), last_seq)
            raise CursorInvalid(cursor, "other_history", max(shared, oldest))
    else:
        seq = cursor
        if not isinstance(cast("object", seq), int) or isinstance(seq, bool):
            raise UserError(f"a cursor is the seq of an event, or the text '<epoch>-<seq>', not {cursor!r:.100}")
        if seq < 0:
            raise CursorInvalid(str(seq), "malformed", oldest)
    if seq > last_seq:
        raise CursorInvalid(str(cursor), "ahead", last_seq)
    if seq < oldest:
        raise CursorExpired(seq, first_seq)
    return seq


def _shared(place: Cursor, epochs: Sequence[tuple[int, int]]) -> int:
    """The last seq up to which the history that the cursor is of is known to be this one."""
    index = bisect_right(epochs, place.epoch, key=lambda entry: entry[0]) - 1
    if index < 0:
        return 0
    epoch, first_seq = epochs[index]
    if epoch != place.epoch:
        # This log has lost an epoch altogether. It took over from the one before it, nobody knows where.
        return first_seq - 1
    # The next epoch found the log at an earlier seq than the cursor's.
    end = epochs[index + 1][1] - 1 if index + 1 < len(epochs) else place.seq
    return min(end, place.seq)
