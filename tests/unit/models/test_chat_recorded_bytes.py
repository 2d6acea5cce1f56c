"""The recorded bytes of every dialect mean the same wherever the network cuts them."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.errors import AgentsException
from runstream.models.chat_decode import ChatDecoder
from runstream.wire.sse import SSEDecoder, SSEFrame

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORDINGS = {path.stem: path.read_bytes() for path in (Path(__file__).parents[2] / "data" / "chat").glob("*.sse")}


def new_decoder() -> ChatDecoder:
    numbers = itertools.count()
    return ChatDecoder(model="m", new_id=lambda prefix: f"{prefix}_{next(numbers):06}")


def decode(reads: Iterable[bytes]) -> list[Any]:
    """The events of these network reads, as plain values; an error is the last of them."""
    sse, decoder, events = SSEDecoder(), new_decoder(), []
    try:
        for data in reads:
            decoder.feed_frames(sse.feed(data), events)
        events += decoder.close()
    except AgentsException as error:
        events.append((type(error), str(error)))
    return [event if isinstance(event, tuple) else event.model_dump(exclude_unset=True) for event in events]


@cache
def whole(name: str) -> list[Any]:
    return decode([RECORDINGS[name]])


@cache
def events_of_frames(batches: tuple[tuple[SSEFrame, ...], ...]) -> list[Any]:
    """The events of frames that came in these batches: computed once for all cuts that give the same batches."""
    decoder, events = new_decoder(), []
    try:
        for batch in batches:
            decoder.feed_frames(list(batch), events)
        events += decoder.close()
    except AgentsException as error:
        events.append((type(error), str(error)))
    return [event if isinstance(event, tuple) else event.model_dump(exclude_unset=True) for event in events]


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_cut_at_every_place(name: str) -> None:
    """Cutting the bytes in two, at each place, gives the same events."""
    body = RECORDINGS[name]
    for place in range(len(body) + 1):
        sse = SSEDecoder()
        batches = tuple(tuple(sse.feed(piece)) for piece in (body[:place], body[place:]))
        assert events_of_frames(batches) == whole(name), place


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_byte_by_byte(name: str) -> None:
    """One byte a read gives the same events."""
    body = RECORDINGS[name]
    assert decode(body[place : place + 1] for place in range(len(body))) == whole(name)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(RECORDINGS)), data=st.data())
def test_random_splits(name: str, data: st.DataObject) -> None:
    """Any split gives the same events."""
    body = RECORDINGS[name]
    places = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=40)))
    cuts = [0, *places, len(body)]
    assert decode(body[begin:end] for begin, end in itertools.pairwise(cuts)) == whole(name)


@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_one_chunk_a_read_is_all_chunks_at_once(name: str) -> None:
    """How many frames a read brings does not matter."""
    frames = SSEDecoder().feed(RECORDINGS[name])
    assert events_of_frames(tuple((frame,) for frame in frames)) == whole(name)
