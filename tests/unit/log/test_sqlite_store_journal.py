"""log/sqlite_journal: the binary forms of the SQLite store."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import StoreError
from runstream.log.base import Segment
from runstream.log.sqlite_journal import (
    MAX_SEQ,
    Entry,
    decode_journal,
    decode_stretch,
    encode_journal,
    encode_stretch,
    row_key,
)

SEGMENTS = st.tuples(st.integers(1, MAX_SEQ // 2), st.integers(1, 10_000), st.binary(max_size=50))


@given(st.lists(st.tuples(st.integers(1, 2**31 - 1), SEGMENTS, st.integers(1, 2**62), st.booleans())))
def test_a_journal_row_is_read_as_it_was_written(
    given_entries: list[tuple[int, tuple[int, int, bytes], int, bool]],
) -> None:
    """Runs, seqs, epochs, bodies and ends come back, in order."""
    entries = [
        (run, Segment(first, first + count - 1, body), epoch, ends)
        for run, (first, count, body), epoch, ends in given_entries
    ]
    row = decode_journal(encode_journal(1700000000.25, entries))
    assert row.at == 1700000000.25
    assert row.entries == [
        Entry(run, Segment(segment.first_seq, segment.last_seq, segment.body, epoch), ends)
        for run, segment, epoch, ends in entries
    ]


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(1, 1000), st.binary(max_size=50)), min_size=1))
def test_a_stretch_is_read_as_it_was_written(first_seq: int, parts: list[tuple[int, bytes]]) -> None:
    """Each segment keeps its own seqs and body."""
    segments = decode_stretch(first_seq, 7, encode_stretch(parts))
    assert [(segment.last_seq - segment.first_seq + 1, segment.body) for segment in segments] == parts
    assert segments[0].first_seq == first_seq
    assert all(after.first_seq == before.last_seq + 1 for before, after in itertools.pairwise(segments))
    assert {segment.epoch for segment in segments} == {7}


def test_the_forms_are_for_ever() -> None:
    """Rows that were written once are read by every later version."""
    journal = bytes.fromhex(
        "01000000000000f83f01000000"  # version 1, at 1.5, one segment
        "0500000000000000" "0300000000000000" "0900000000000000" "02000000" "02000000" "01"
        "6869"
    )  # fmt: skip
    assert encode_journal(1.5, [(5, Segment(3, 4, b"hi"), 9, True)]) == journal
    assert decode_journal(journal).entries == [Entry(5, Segment(3, 4, b"hi", 9), True)]
    stretch = bytes.fromhex("010100000002000000020000006869")
    assert encode_stretch([(2, b"hi")]) == stretch
    assert decode_stretch(3, 9, stretch) == [Segment(3, 4, b"hi", 9)]


@pytest.mark.parametrize("row", [b"", b"\x02" + bytes(20)])
def test_other_forms_are_refused(row: bytes) -> None:
    """What is of a newer version, or nothing at all, is an error and not an empty log."""
    with pytest.raises(StoreError, match="damaged"):
        decode_journal(row)
    with pytest.raises(StoreError, match="damaged"):
        decode_stretch(1, 1, row)


def test_rows_of_a_run_lie_together() -> None:
    """Keys sort by run, then by seq."""
    keys = [row_key(run, seq) for run in (1, 2, 3) for seq in (0, 1, 500, MAX_SEQ)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
