"""What the readers of one run share: a bounded ring of batches, each encoded once, or not at all."""

from __future__ import annotations

import pytest

from runstream.events.event import MODEL, RUN_END, Event, RunEnd
from runstream.events.model_event import new_text_delta
from runstream.server.channel import Channel
from runstream.server.protocols import native

FRAME = b"x" * 100


class Reader:
    """A place in the channel."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def deltas(first: int, last: int, *, frame: bytes | None = FRAME) -> list[Event]:
    return [
        Event("r", seq, 1.5, MODEL, "Desk", 1, (), new_text_delta("m", 0, 0, f"{seq} ", seq), None, frame)
        for seq in range(first, last + 1)
    ]


def told(channel: Channel, reader: Reader) -> list[int] | None:
    """The seqs that the ring still has for the reader, which has them then; None: some have left it."""
    batches = channel.read(reader.cursor)
    if batches is None:
        return None
    found = [event.seq for batch in batches for event in batch.events]
    reader.cursor = found[-1] if found else reader.cursor
    return found


def test_each_reader_gets_what_it_lacks_once() -> None:
    """Wherever it is: at the newest batch, within one, or several behind."""
    channel, quick, slow = Channel("r", 0, 10_000), Reader(), Reader()
    assert channel.join(quick)
    assert channel.join(slow)
    channel.publish(deltas(1, 1), 1)
    assert told(channel, quick) == [1]
    channel.publish(deltas(2, 4), 1)
    assert told(channel, quick) == [2, 3, 4]
    channel.publish(deltas(5, 5), 1)
    late = Reader(2)
    assert channel.join(late)
    assert told(channel, late) == [3, 4, 5]
    assert told(channel, slow) == [1, 2, 3, 4, 5]
    assert told(channel, quick) == [5]
    assert told(channel, quick) == []
    assert (quick.woken, slow.woken) == (3, 3)


def test_what_everybody_has_is_let_go() -> None:
    """The newest batch alone stays: who joins from further back reads the store."""
    channel, reader = Channel("r", 0, 10_000), Reader()
    channel.join(reader)
    for seq in range(1, 6):
        channel.publish(deltas(seq, seq), 1)
        told(channel, reader)
    assert channel.first_after == 4
    assert not channel.join(Reader(3))
    assert channel.join(Reader(4))


@pytest.mark.parametrize("frame", [FRAME, None])
def test_the_ring_is_bounded(frame: bytes | None) -> None:
    """A reader that takes nothing keeps no more than the bound, and finds out; events that came as no frame count,
    too."""
    channel, slow = Channel("r", 0, 1_000), Reader()
    channel.join(slow)
    for seq in range(1, 101):
        channel.publish(deltas(seq, seq, frame=frame), 1)
    assert 89 <= channel.first_after < 100
    assert told(channel, slow) is None


def test_a_batch_is_encoded_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """And for nobody where only readers of other protocols follow."""
    encoded: list[int] = []
    encode = native.encode

    def counting(events: list[Event], epoch: int) -> bytes:
        encoded.append(len(events))
        return encode(events, epoch)

    monkeypatch.setattr(native, "encode", counting)
    channel, readers = Channel("r", 0, 10_000), [Reader() for _ in range(100)]
    for reader in readers:
        channel.join(reader)
    for seq in range(1, 4):
        channel.publish(deltas(seq, seq), 1)
    assert encoded == []
    bodies = {b"".join(batch.frames for batch in channel.read(reader.cursor) or ()) for reader in readers}
    assert len(bodies) == 1
    assert encoded == [1, 1, 1]


def test_the_end_is_the_end() -> None:
    """After the batch that has it nothing more comes."""
    channel, reader = Channel("r", 0, 10_000), Reader()
    channel.join(reader)
    channel.publish([*deltas(1, 1), Event("r", 2, 1.5, RUN_END, "Desk", 0, (), RunEnd("completed"))], 1)
    assert channel.ended
    assert channel.over
    assert told(channel, reader) == [1, 2]
