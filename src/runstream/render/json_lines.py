"""Events as JSON lines: one event a line, in the lasting form of `events/codec.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runstream.events.codec import encode

if TYPE_CHECKING:
    from runstream.events.event import Event

__all__ = ["encode_line"]


def encode_line(event: Event) -> bytes:
    """The event as one line of UTF-8, line end included; `events.codec.decode` reads it back."""
    return encode(event) + b"\n"
