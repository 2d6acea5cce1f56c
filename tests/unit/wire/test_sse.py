"""wire/sse: the event stream of the HTML standard, whatever the cuts; what is encoded is decoded again."""

from __future__ import annotations

import builtins
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runstream.wire import sse
from runstream.wire.sse import SSEDecoder, SSEFrame, encode

DATA = Path(__file__).parents[2] / "data" / "sse"

# Name -> (bytes, the frames in them, what close() reports).
CASES: dict[str, tuple[bytes, list[SSEFrame], bytes]] = {
    "one line": (b"data: hello\n\n", [SSEFrame(b"hello")], b""),
    "event and data": (b"event: delta\ndata: {}\n\n", [SSEFrame(b"{}", b"delta")], b""),
    "data before event": (b"data: {}\nevent: delta\n\n", [SSEFrame(b"{}", b"delta")], b""),
    "the last event name counts": (b"event: a\nevent: b\ndata: x\n\n", [SSEFrame(b"x", b"b")], b""),
    "an event name ends with its event": (
        b"event: a\ndata: 1\n\ndata: 2\n\n",
        [SSEFrame(b"1", b"a"), SSEFrame(b"2")],
        b"",
    ),
    "several data lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [SSEFrame(b"a\nb\n\nc")], b""),
    "cr": (b"event: e\rdata: a\rdata: b\r\rdata: c\r\r", [SSEFrame(b"a\nb", b"e"), SSEFrame(b"c")], b""),
    "crlf": (b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [SSEFrame(b"a\nb"), SSEFrame(b"c")], b""),
    "mixed line ends": (
        b"data: a\r\rdata: b\n\r\ndata: c\r\n\ndata: d\r\n\r",
        [*map(SSEFrame, [b"a", b"b", b"c", b"d"])],
        b"",
    ),
    "lf then cr are two line ends": (b"data: a\n\rdata: b\n\n", [SSEFrame(b"a"), SSEFrame(b"b")], b""),
    "byte-order mark": (b"\xef\xbb\xbfdata: a\n\n", [SSEFrame(b"a")], b""),
    "only the first byte-order mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], b""),
    "a mark inside belongs to the data": (b"data: \xef\xbb\xbf\n\n", [SSEFrame(b"\xef\xbb\xbf")], b""),
    "one space is dropped": (b"data:a\n\ndata:  b\n\ndata: \n\n", [*map(SSEFrame, [b"a", b" b", b""])], b""),
    "a field without a colon": (b"data\n\ndata\ndata\n\n", [SSEFrame(b""), SSEFrame(b"\n")], b""),
    "colons in the value": (b"data: a: b:c\n\n", [SSEFrame(b"a: b:c")], b""),
    "comments": (b": ping\n\n:\n\ndata: a\n: in between\ndata: b\n\n: ping\n\n", [SSEFrame(b"a\nb")], b""),
    "unknown fields and cases": (b"foo: 1\nData: 2\n data: 3\ndata: 4\n\n", [SSEFrame(b"4")], b""),
    "no data, no event": (b"event: a\n\nevent: b\nid: 1\n\n", [], b""),
    "an id and then pings": (
        b"id: 7\ndata: a\n\n: ping\n\n: ping\n\nid: 8\n\n: ping\n\n",
        [SSEFrame(b"a", id=b"7")],
        b"",
    ),
    "ids": (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [SSEFrame(b"a", id=b"1"), SSEFrame(b"b", id=b"")], b""),
    "an id with NUL is ignored": (b"id: a\0b\ndata: x\n\n", [SSEFrame(b"x")], b""),
    "retry": (b"retry: 1500\ndata: x\n\n", [SSEFrame(b"x", retry_ms=1500)], b""),
    "retry that is no number": (b"retry: 1.5\nretry: -1\nretry:\nretry: \xd9\xa1\ndata: x\n\n", [SSEFrame(b"x")], b""),
    "retry beyond all reason": (b"retry: " + b"9" * 5000 + b"\ndata: x\n\n", [SSEFrame(b"x")], b""),
    "blank lines": (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n", [SSEFrame(b"a"), SSEFrame(b"b")], b""),
    "unfinished frame": (b"data: a\n\ndata: b\n", [SSEFrame(b"a")], b"data: b"),
    "unfinished line": (b"data: a\n\ndata: b\nda", [SSEFrame(b"a")], b"data: b\nda"),
    "unfinished comment": (b"data: a\n\n: ping\n: pi", [SSEFrame(b"a")], b""),
    "unfinished frame after a comment": (b": ping\nevent: a\r", [], b": ping\nevent: a"),
    "nothing": (b"", [], b""),
    "two bytes": (b"\xef\xbb", [], b"\xef\xbb"),
}


def decode(pieces: list[bytes]) -> tuple[list[SSEFrame], bytes]:
    decoder = SSEDecoder()
    frames: list[SSEFrame] = []
    for piece in pieces:
        frames += decoder.feed(piece)
    return frames, decoder.close()


def by_the_book(data: bytes) -> list[SSEFrame]:
    """The standard's algorithm, line by line over the whole stream."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    frames: list[SSEFrame] = []
    fields: dict[bytes, Any] = {}
    for line in text.split(b"\n")[:-1]:
        if not line:
            if b"data" in fields:
                frames.append(
                    SSEFrame(fields[b"data"][:-1], fields.get(b"event", b""), fields.get(b"id"), fields.get(b"retry"))
                )
            fields = {}
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if name == b"data":
            fields[b"data"] = fields.get(b"data", b"") + value + b"\n"
        elif name == b"event" or (name == b"id" and b"\0" not in value):
            fields[name] = value
        elif name == b"retry" and value and all(digit in b"0123456789" for digit in value):
            fields[name] = int(value)
    return frames


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def recordings() -> list[Path]:
    return sorted(DATA.glob("*.sse"))


@pytest.mark.parametrize("name", CASES)
def test_the_rules_of_the_standard(name: str) -> None:
    """Each rule gives the same frames whole, byte by byte, and cut in two at every place."""
    data, frames, rest = CASES[name]
    assert decode([data]) == (frames, rest)
    assert decode([data[index : index + 1] for index in range(len(data))]) == (frames, rest)
    for place in range(len(data) + 1):
        assert decode([data[:place], data[place:]]) == (frames, rest), place
        assert decode([data[:place], b"", data[place:]]) == (frames, rest), place


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name][0]) < 60])
def test_the_rules_hold_with_two_cuts(name: str) -> None:
    """Each rule gives the same frames cut in three at every pair of places."""
    data, frames, rest = CASES[name]
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            assert decode([data[:first], data[first:second], data[second:]]) == (frames, rest), (first, second)


def test_recordings_are_there() -> None:
    """The tests over recorded streams have something to test."""
    assert len(recordings()) >= 3


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_recorded_streams_are_read_alike_whatever_the_cut(path: Path) -> None:
    """A recorded stream gives the frames of the standard's algorithm, whole, byte by byte and cut at every place."""
    data = path.read_bytes()
    expected = (by_the_book(data), b"")
    assert len(expected[0]) > 3
    assert decode([data]) == expected
    assert decode([data[index : index + 1] for index in range(len(data))]) == expected
    for place in range(0, len(data) + 1):
        assert decode([data[:place], data[place:]]) == expected, place


@given(places=st.lists(st.integers(0, 100_000), max_size=60), which=st.integers(0, 100))
def test_recorded_streams_are_read_alike_at_random_cuts(places: list[int], which: int) -> None:
    """A recorded stream gives the same frames in any pieces."""
    paths = recordings()
    data = paths[which % len(paths)].read_bytes()
    assert decode(cut(data, places)) == (by_the_book(data), b"")


_LINES = st.sampled_from(
    [b"data", b"data:", b"data: x", b"data:  y", b"event: e", b"id: 1", b"id: \0", b"retry: 10", b": ping", b"z", b""]
)
_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(
    lines=st.lists(st.tuples(_LINES, _ENDS), max_size=14),
    places=st.lists(st.integers(0, 200), max_size=30),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
@example(lines=[(b"data: x", b"\r\n"), (b"", b"\r\n"), (b"data: y", b"\r\n"), (b"", b"\r\n")], places=[8, 9], mark=b"")
@example(lines=[(b"data: x", b"\r"), (b"", b"\r"), (b"", b"\n"), (b"data", b"\n"), (b"", b"\r")], places=[8], mark=b"")
def test_any_stream_is_read_as_the_standard_says(
    lines: list[tuple[bytes, bytes]], places: list[int], mark: bytes
) -> None:
    """Any sequence of lines with any line ends, in any pieces, gives what the standard's algorithm gives."""
    data = mark + b"".join(line + end for line, end in lines)
    assert decode(cut(data, places))[0] == by_the_book(data)


@given(data=st.binary(max_size=60), places=st.lists(st.integers(0, 60), max_size=20))
def test_any_bytes_are_read_alike_in_any_pieces(data: bytes, places: list[int]) -> None:
    """Whatever the bytes, cutting them changes neither the frames nor what close() reports."""
    assert decode(cut(data, places)) == decode([data])


def test_a_crlf_that_is_cut_is_one_line_end() -> None:
    """CR LF CR LF in four pieces ends one frame, at the second CR, and makes no blank line too many."""
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\r") == [SSEFrame(b"a")]
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: b\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: c\r\n\r") == [SSEFrame(b"b\nc")]


def test_close_reports_and_forgets() -> None:
    """close() tells what was lost, once."""
    decoder = SSEDecoder()
    decoder.feed(b"data: a")
    assert decoder.close() == b"data: a"
    assert decoder.close() == b""


@pytest.mark.parametrize("size", [1, 3, 9, 10, 11, 12, 40])
def test_a_frame_may_have_max_frame_bytes_and_no_more(size: int) -> None:
    """A frame of the limit's size passes and one byte more is refused, in pieces of any size."""
    for length, fits in ((10, True), (11, False)):
        data = b"data: " + b"x" * (length - 6) + b"\n\n"
        decoder = SSEDecoder(max_frame_bytes=10)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        if fits:
            assert [frame for piece in pieces for frame in decoder.feed(piece)] == [SSEFrame(b"xxxx")]
        else:
            with pytest.raises(ValueError, match="exceeds 10 bytes"):
                [frame for piece in pieces for frame in decoder.feed(piece)]


def test_many_frames_may_be_more_than_max_frame_bytes() -> None:
    """The limit is for one frame: any number of small ones may come in one piece."""
    frames = SSEDecoder(max_frame_bytes=10).feed(b"data: abc\n\n" * 1000 + b"data: tail")
    assert len(frames) == 1000


def test_a_stream_without_a_blank_line_is_refused() -> None:
    """A server that never ends its frame cannot fill the memory."""
    decoder = SSEDecoder(max_frame_bytes=1000)
    for _ in range(1001 // 8):
        assert decoder.feed(b"data: x\n") == []
    with pytest.raises(ValueError, match="1000 bytes"):
        decoder.feed(b"data: x\n")
    assert decoder.close() == b""


class CountingBytearray(bytearray):
    """Counts the bytes that are copied into it and searched in it."""

    work = 0

    def __iadd__(self, other: Any) -> CountingBytearray:
        CountingBytearray.work += len(other)
        return super().__iadd__(other)  # type: ignore[return-value]

    def __add__(self, other: Any) -> Any:
        raise AssertionError("the whole buffer would be copied")

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        CountingBytearray.work += len(self) - start
        return super().find(sub, start, len(self) if end is None else end)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_a_long_frame_in_small_pieces_takes_linear_work(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    """The buffer takes in each byte once and searches it at most three times, however many pieces a frame comes in."""
    monkeypatch.setattr(sse, "bytearray", CountingBytearray, raising=False)
    data = b"data: " + b"x" * 100_000 + b"\n\n"
    CountingBytearray.work = 0
    decoder = SSEDecoder()
    frames: list[SSEFrame] = []
    for start in range(0, len(data), piece_bytes):
        frames += decoder.feed(data[start : start + piece_bytes])
    assert isinstance(decoder._buffer, CountingBytearray)
    assert frames == [SSEFrame(b"x" * 100_000)]
    assert len(data) - piece_bytes <= CountingBytearray.work <= 4 * len(data)
    assert builtins.bytearray is not CountingBytearray


@given(
    data=st.binary(max_size=60),
    event=st.none() | st.text(max_size=10),
    event_id=st.none() | st.text(max_size=10),
)
def test_what_is_encoded_is_decoded(data: bytes, event: str | None, event_id: str | None) -> None:
    """One event in, the same event out, line ends of the data aside; or a ValueError for a field that is no line."""
    unfit = any(character in (event or "") + (event_id or "") for character in "\r\n\0")
    try:
        encoded = encode(data, event=event, id=event_id)
    except ValueError:
        assert unfit
        return
    assert not unfit
    frames, rest = decode([encoded])
    assert rest == b""
    (frame,) = frames
    assert frame.data == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert frame.event == (event or "").encode()
    assert frame.id == (None if event_id is None else event_id.encode())


@pytest.mark.parametrize("text", ["a\ndata: forged", "a\rdata: forged", "a\n\ndata: forged", "a\r\n", "\0"])
@pytest.mark.parametrize("field", ["event", "id"])
def test_fields_cannot_forge_others(field: str, text: str) -> None:
    """A name or an id with a line end or a NUL in it is refused, and the message shows it."""
    with pytest.raises(ValueError, match=f"SSE field '{field}' must be one line"):
        encode(b"{}", **{field: text})


def test_data_cannot_forge_frames() -> None:
    """Data that looks like the end of a frame stays data."""
    forged = b"a\n\nevent: b\ndata: c\r\rid: 1"
    assert decode([encode(forged)]) == ([SSEFrame(b"a\n\nevent: b\ndata: c\n\nid: 1")], b"")


def test_encoded_form() -> None:
    """The bytes on the wire: id, event, data, with LF."""
    assert encode(b"{}", event="delta", id="3-7") == b"id: 3-7\nevent: delta\ndata: {}\n\n"
    assert encode(b"a\nb") == b"data: a\ndata: b\n\n"
    assert encode(b"") == b"data: \n\n"
