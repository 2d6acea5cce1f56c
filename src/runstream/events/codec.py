"""Events as JSON and back: the lasting form, versioned. `live` is left out; what a newer version wrote survives.

A record is one JSON object: `v` (version of the form), `run`, `seq`, `at`, `kind`, and, unless empty, `agent`,
`attempt`, `path`, `data`. A delta whose frame is still there is written with the model's own bytes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import msgspec

from runstream.events.event import AGENT_START, ITEM, MODEL, RUN_END, RUN_START, AgentStart, ErrorInfo, Event
from runstream.events.event import ItemAdded, RunEnd, RunStart

__all__ = ["VERSION", "decode", "encode", "plain"]

VERSION = 1

_encoder = msgspec.json.Encoder(enc_hook=lambda value: plain(value))
_decoder = msgspec.json.Decoder()


def plain(value: Any) -> Any:
    """The value as JSON data: official and pydantic objects, dataclasses and dicts become dicts, others text."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in cast("list[Any]", value)]
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json", exclude_unset=True, warnings=False)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)


def encode(event: Event) -> bytes:
    """One event as a JSON object, without a line end."""
    record: dict[str, Any] = {
        "v": VERSION,
        "run": event.run_id,
        "seq": event.seq,
        "at": round(event.at, 6),
        "kind": event.kind,
    }
    if event.agent is not None:
        record["agent"] = event.agent
    if event.attempt:
        record["attempt"] = event.attempt
    if event.path:
        record["path"] = event.path
    record["data"] = msgspec.Raw(event.frame) if event.frame is not None else plain(event.data)
    return _encoder.encode(record)


def decode(record: bytes) -> Event:
    """The event of a record. Raises ValueError where it is not one, or of a form this version cannot know."""
    try:
        fields = _decoder.decode(record)
        version = fields["v"]
        if not isinstance(version, int) or version > VERSION:
            raise ValueError(f"the record has version {version!r}; this version of runstream reads up to {VERSION}")
        return Event(
            fields["run"],
            fields["seq"],
            fields["at"],
            fields["kind"],
            fields.get("agent"),
            fields.get("attempt", 0),
            tuple(fields.get("path", ())),
            _decode_data(fields["kind"], fields.get("data")),
        )
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ValueError(f"not an event record ({error!r}): {record[:200]!r}") from error


def _decode_data(kind: str, data: Any) -> Any:
    if kind == MODEL:
        from runstream.events.model_event import build_event

        return build_event(data)
    if kind == RUN_START:
        return RunStart(**_known(RunStart, data))
    if kind == AGENT_START:
        return AgentStart(**_known(AgentStart, data))
    if kind == ITEM:
        return ItemAdded(**_known(ItemAdded, data))
    if kind == RUN_END:
        fields = _known(RunEnd, data)
        error = fields.get("error")
        return RunEnd(**{**fields, "error": ErrorInfo(**_known(ErrorInfo, error)) if error else None})
    return data


def _known(data_class: type[Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that this version knows: a newer one may have added some."""
    names = data_class.__dataclass_fields__
    return {name: value for name, value in fields.items() if name in names}
