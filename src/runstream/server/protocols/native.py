"""The server's own protocol: every event as one frame, its id the cursor `<epoch>-<seq>`, its data the event's record.

The record is that of `events/codec`, less what readers need not know: see `shown`. Pure; without state, so that the
bytes of a batch are the same for all readers, from any cursor, live or replayed.

Invariant: a frame is `id:`, at most one `event:` and one `data:` line, whatever models and users write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from runstream.events.codec import VERSION, plain, whole_characters
from runstream.events.event import AGENT_START, GUARDRAIL, ITEM, MODEL, RUN_END, RUN_START, Event
from runstream.log.cursor import Cursor

__all__ = [
    "HEARTBEAT",
    "OPENING",
    "encode",
    "failure",
    "message",
    "record",
    "redacted",
    "resync",
    "resync_message",
    "shown",
    "shown_view",
]

OPENING: Final = b"retry: 1000\n\n"
"""The first bytes of a stream, sent before there is an event: proxies and browsers see that it has begun."""
HEARTBEAT: Final = b": \n\n"

# What readers see of the object that the lifecycle events of a model repeat: the others hold instructions, schemas of
# tools, and settings.
_RESPONSE_FIELDS: Final = (
    "id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "model", "output", "usage",
)  # fmt: skip
_SECRETS: Final = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|xox[abp])[-_][A-Za-z0-9_*-]{8,}|(?i:\bbearer)\s+[^\s'\"]{8,}|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
)

_NONE: Final[dict[str, Any]] = {}

_decode_json = msgspec.json.Decoder().decode
_encode_json = msgspec.json.Encoder(enc_hook=plain).encode


def encode(events: Sequence[Event], epoch: int) -> bytes:
    """The events as server-sent events; all of one epoch."""
    if len(events) == 1:  # so do deltas come
        return b"id: %d-%d\ndata: %b\n\n" % (epoch, events[0].seq, record(events[0]))
    return b"".join([b"id: %d-%d\ndata: %b\n\n" % (epoch, event.seq, record(event)) for event in events])


def message(event: Event, epoch: int) -> str:
    """The same event as a WebSocket message: the fields of the frame as JSON."""
    return b'{"id":"%d-%d","data":%b}'.__mod__((epoch, event.seq, record(event))).decode()


def resync(reason: str, given: str, after: Cursor) -> bytes:
    """Says that a cursor is no place in the log, and where the stream goes on."""
    data = _encode_json({"reason": reason, "cursor": given, "after": str(after)})
    return b"id: %b\nevent: resync\ndata: %b\n\n" % (str(after).encode(), data)


def failure(code: str) -> bytes:
    """Says why a stream ends though its run has not. Without an id: the client goes on from where it was."""
    return b"event: failure\ndata: %b\n\n" % _encode_json({"code": code})


def resync_message(reason: str, given: str, after: Cursor) -> str:
    """`resync` as a WebSocket message."""
    data = {"reason": reason, "cursor": given, "after": str(after)}
    return _encode_json({"id": str(after), "event": "resync", "data": data}).decode()


def record(event: Event) -> bytes:
    """The event's record as JSON in one line."""
    fields = _Record(
        VERSION,
        event.run_id,
        event.seq,
        round(event.at, 6),
        event.kind,
        event.agent,
        event.attempt,
        event.path,
        _plain_delta(event) or shown(event),
    )
    try:
        return _encode_json(fields)
    except UnicodeEncodeError:
        return _encode_json(whole_characters(plain(msgspec.to_builtins(fields, enc_hook=plain))))


class _Record(msgspec.Struct, omit_defaults=True, gc=False):
    v: int
    run: str
    seq: int
    at: float
    kind: str
    agent: str | None = None
    attempt: int = 0
    path: tuple[str, ...] = ()
    data: Any = msgspec.UNSET


def _plain_delta(event: Event) -> dict[str, Any] | None:
    """The fields of a delta's typed event where all of them are plain: the quickest way to its JSON."""
    data = event.data
    fields: dict[str, Any] = getattr(data, "__dict__", _NONE)
    if (
        fields.get("delta").__class__ is str
        and event.kind == MODEL
        and len(data.__pydantic_fields_set__) == len(fields)
        and not data.__pydantic_extra__
    ):
        return fields
    return None


def shown(event: Event) -> Any:
    """The event's data as JSON data, as readers may see it: without instructions, schemas of tools and settings (of
    which the lifecycle events of models hold copies), without what only workers need, errors without credentials."""
    kind = event.kind
    if event.frame is not None:
        data = _decode_json(event.frame)  # ten times as fast as from the typed object
        data.pop("obfuscation", None)
    else:
        data = plain(event.data)
    if not isinstance(data, dict):
        return data
    fields = cast("dict[str, Any]", data)
    if kind == MODEL:
        return _model(fields)
    if kind == ITEM:
        return {**fields, "raw": _item(fields.get("raw"))}
    if kind == RUN_START:
        return {"input": fields["input"], "max_turns": fields["max_turns"]}
    if kind == AGENT_START:
        return {"previous": fields["previous"]}
    if kind == GUARDRAIL:
        return {name: value for name, value in fields.items() if name != "info"}
    if kind == RUN_END and fields["error"] is not None:
        error = fields["error"]
        return {**fields, "error": {**error, "message": redacted(error["message"])}}
    return fields


def _model(fields: dict[str, Any]) -> dict[str, Any]:
    response = fields.get("response")
    if isinstance(response, dict):
        of_response = cast("dict[str, Any]", response)
        kept = {name: of_response[name] for name in _RESPONSE_FIELDS if name in of_response}
        if isinstance(kept.get("output"), list):
            kept["output"] = [_item(item) for item in kept["output"]]
        fields = {**fields, "response": kept}
    if "item" in fields:
        fields = {**fields, "item": _item(fields["item"])}
    return fields


def _item(item: Any) -> Any:
    """An item of a response: of the tools of a remote server only the names, and nothing that only the provider can
    read."""
    if not isinstance(item, dict):
        return item
    fields = cast("dict[str, Any]", item)
    if fields.get("type") == "mcp_list_tools":
        tools = cast("list[dict[str, Any]]", fields.get("tools") or [])
        fields = {**fields, "tools": [{"name": tool.get("name")} for tool in tools]}
    if "encrypted_content" in fields:
        fields = {name: value for name, value in fields.items() if name != "encrypted_content"}
    return fields


def shown_view(view: dict[str, Any]) -> dict[str, Any]:
    """A view as JSON data, as readers may see it: as `shown` for events."""
    kept = _shown_strand(view)
    if kept.get("error"):
        kept["error"] = {**kept["error"], "message": redacted(kept["error"]["message"])}
    return kept


def _shown_strand(strand: dict[str, Any]) -> dict[str, Any]:
    return {**strand, "entries": [_shown_entry(entry) for entry in strand["entries"]]}


def _shown_entry(entry: dict[str, Any]) -> dict[str, Any]:
    kind = entry["type"]
    if kind == "other":
        return {**entry, "raw": _item(entry.get("raw"))}
    if kind == "error":
        return {**entry, "message": redacted(entry["message"])}
    if kind == "tool" and entry.get("nested"):
        return {**entry, "nested": _shown_strand(entry["nested"])}
    return entry


def redacted(text: str) -> str:
    """The text without what looks like a key, a bearer token or the password of a URL."""
    return _SECRETS.sub("[redacted]", text)
