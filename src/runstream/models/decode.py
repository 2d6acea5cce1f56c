"""Frames of a Responses stream -> typed events, and what its terminal events mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runstream.errors import ModelStreamBroken
from runstream.events.model_event import TEXT_DELTA_PREFIX, build_event, text_delta_event

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

    from runstream.wire.sse import SSEFrame

__all__ = ["build_event", "decode_frames"]

_decode_json = msgspec.json.Decoder().decode


def decode_frames(
    frames: list[SSEFrame],
) -> tuple[list[ResponseStreamEvent], list[bytes | None], ModelStreamBroken | None]:
    """The events of the frames of one read, and beside each the JSON bytes it came from.

    A `[DONE]` frame, which some servers add, is skipped. At a frame that is no JSON object with a `type` decoding
    stops: the third value is the error to raise once the events before it were handed on.
    """
    events: list[ResponseStreamEvent] = []
    kept: list[bytes | None] = []
    add_event, add_frame = events.append, kept.append
    decode_json, text_delta, build = _decode_json, text_delta_event, build_event
    for frame in frames:
        data = frame.data
        try:
            if data.startswith(TEXT_DELTA_PREFIX):
                try:
                    add_event(text_delta(data))
                    add_frame(data)
                    continue
                except msgspec.ValidationError:
                    pass  # a text delta with fields that the API's own do not have
            event = build(decode_json(data))
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            if data == b"[DONE]":
                continue
            broken = ModelStreamBroken(
                f"The model sent a frame that is not a Responses event ({error!r}): {data[:200]!r}", frame=data
            )
            broken.__cause__ = error
            return events, kept, broken
        add_event(event)
        add_frame(data)
    return events, kept, None
