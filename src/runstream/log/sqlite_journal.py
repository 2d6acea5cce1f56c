"""The binary forms in which the SQLite store keeps segments: pure, bytes in and out.

A *journal row* holds all segments of one flush, of many runs, so that a flush costs one small insert however many runs
it serves. A *stretch* holds neighbouring segments of one run and one epoch: what compaction makes of journal rows.
Neither looks into the bodies. Both are for ever: a new form gets a new version byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from runstream.errors import StoreError
from runstream.log.base import Segment

__all__ = [
    "MAX_SEQ",
    "Entry",
    "JournalRow",
    "decode_journal",
    "decode_stretch",
    "encode_journal",
    "encode_stretch",
    "row_key",
]

_VERSION = 1
# Version, time of the flush, number of segments.
_JOURNAL = Struct("<BdI")
# Run, first seq, epoch, number of seqs, length of the body, whether it ends the run.
_ENTRY = Struct("<QQQIIB")
# Version, number of segments.
_STRETCH = Struct("<BI")
# Number of seqs, length of the body.
_PART = Struct("<II")

_SEQ_BITS = 32
MAX_SEQ = (1 << _SEQ_BITS) - 1


class Entry(NamedTuple):
    """One segment in a journal row."""

    run: int
    segment: Segment
    ends: bool


class JournalRow(NamedTuple):
    """A flush as it is read back; `at` is its time by the clock of its writer."""

    at: float
    entries: list[Entry]


def row_key(run: int, last_seq: int) -> int:
    """The row id of a stretch: rows of a run lie together, in the order of their seqs."""
    return run << _SEQ_BITS | last_seq


def encode_journal(at: float, entries: Sequence[tuple[int, Segment, int, bool]]) -> bytes:
    """A journal row of (run, segment, epoch, whether it ends the run)."""
    pack = _ENTRY.pack
    parts = [_JOURNAL.pack(_VERSION, at, len(entries))]
    bodies: list[bytes] = []
    for run, segment, epoch, ends in entries:
        body, first_seq = segment.body, segment.first_seq
        parts.append(pack(run, first_seq, epoch, segment.last_seq - first_seq + 1, len(body), ends))
        bodies.append(body)
    return b"".join(parts + bodies)


def decode_journal(row: bytes) -> JournalRow:
    """Undo `encode_journal`. Raises StoreError where the row is of a newer version or damaged."""
    at, parts = split_journal(row)
    return JournalRow(
        at,
        [
            Entry(run, Segment(first_seq, first_seq + seqs - 1, body, epoch), bool(ends))
            for run, first_seq, epoch, seqs, body, ends in parts
        ],
    )


def split_journal(row: bytes) -> tuple[float, list[tuple[int, int, int, int, bytes, int]]]:
    """The time, and (run, first seq, epoch, number of seqs, body, whether it ends the run) of each segment."""
    if not row or row[0] != _VERSION:
        raise StoreError(f"a journal row begins with {row[:1].hex() or 'nothing'}, not with {_VERSION:02x}: damaged")
    _, at, count = _JOURNAL.unpack_from(row)
    start = _JOURNAL.size
    position = start + count * _ENTRY.size
    parts: list[tuple[int, int, int, int, bytes, int]] = []
    for run, first_seq, epoch, seqs, length, ends in _ENTRY.iter_unpack(row[start:position]):
        end = position + length
        parts.append((run, first_seq, epoch, seqs, row[position:end], ends))
        position = end
    return at, parts


def encode_stretch(parts: Sequence[tuple[int, bytes]]) -> bytes:
    """(number of seqs, body) of segments that follow one another, of one epoch."""
    pack = _PART.pack
    heads = [pack(seqs, len(body)) for seqs, body in parts]
    return b"".join([_STRETCH.pack(_VERSION, len(parts)), *heads, *[body for _, body in parts]])


def decode_stretch(first_seq: int, epoch: int, row: bytes) -> list[Segment]:
    """Undo `encode_stretch`. Raises StoreError where the row is of a newer version or damaged."""
    if not row or row[0] != _VERSION:
        raise StoreError(f"a stretch begins with {row[:1].hex() or 'nothing'}, not with {_VERSION:02x}: damaged")
    count = _STRETCH.unpack_from(row)[1]
    start = _STRETCH.size
    position = start + count * _PART.size
    segments: list[Segment] = []
    for seqs, length in _PART.iter_unpack(row[start:position]):
        segments.append(Segment(first_seq, first_seq + seqs - 1, row[position : position + length], epoch))
        first_seq += seqs
        position += length
    return segments
