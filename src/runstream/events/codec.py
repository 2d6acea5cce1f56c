"""Events as JSON and back: the lasting form, versioned. `live` is left out; what a newer version wrote survives.

A record is one JSON object: `v` (version of the form), `run`, `seq`, `at`, `kind`, and, unless empty, `agent`,
`attempt`, `path`, `data`. A delta whose frame is still there is written with the model's own bytes.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, cast

import msgspec

from runstream.events.event import (
    AGENT_START,
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    GUARDRAIL,
    INPUT_ADDED,
    ITEM,
    MODEL,
    RUN_END,
    RUN_QUEUED,
    RUN_START,
    TOOL_PROGRESS,
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    ErrorInfo,
    Event,
    GuardrailChecked,
    InputAdded,
    ItemAdded,
    RunEnd,
    RunQueued,
    RunStart,
    ToolProgress,
)

__all__ = ["VERSION", "decode", "decode_data", "encode", "encode_data", "plain", "whole_characters"]

VERSION = 1

# Of subclasses of these (numpy's numbers, marked-up strings) only the value is kept.
_JSON = (str, int, float, bool)

_DATA_CLASSES: dict[str, type[Any]] = {
    RUN_START: RunStart,
    RUN_QUEUED: RunQueued,
    AGENT_START: AgentStart,
    ITEM: ItemAdded,
    ATTEMPT_DISCARDED: AttemptDiscarded,
    APPROVAL_RESOLVED: ApprovalResolved,
    INPUT_ADDED: InputAdded,
    TOOL_PROGRESS: ToolProgress,
    GUARDRAIL: GuardrailChecked,
}

_encoder = msgspec.json.Encoder(enc_hook=lambda value: plain(value))
_decoder = msgspec.json.Decoder()


def plain(value: Any) -> Any:
    """The value as JSON data: official and pydantic objects, dataclasses and dicts become dicts, others text."""
    if value is None or value.__class__ in _JSON:
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, dict):
        entries = cast("dict[Any, Any]", value).items()
        return {key if key.__class__ is str else str(plain(key)): plain(entry) for key, entry in entries}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in cast("list[Any]", value)]
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        # Official objects hold None for whatever was not sent; what users declare is whole with its defaults.
        is_official = type(value).__module__.startswith(("openai.", "runstream."))
        return dump(mode="json", exclude_unset=is_official, warnings=False, fallback=str)
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
    record["data"] = encode_data(event)
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        return _encoder.encode(whole_characters(record))


def encode_data(event: Event) -> Any:
    """The event's data as JSON data: the model's own bytes where they are still there."""
    frame = event.frame
    if frame is None:
        data = plain(event.data)
        if event.data.__class__ is AgentStart and data["history_input"] is None:
            del data["history_input"]  # as it was before there was such a field
        return data
    # JSON has line ends only between its values, where a space does as well.
    return msgspec.Raw(frame.replace(b"\n", b" ") if b"\n" in frame else frame)


def whole_characters(value: Any) -> Any:
    """The value without halves of surrogate pairs (a tool read bytes as text, a text was cut), which no JSON holds."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return {whole_characters(key): whole_characters(entry) for key, entry in entries}
    if isinstance(value, list):
        return [whole_characters(entry) for entry in cast("list[Any]", value)]
    return value


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
            decode_data(fields["kind"], fields.get("data")),
        )
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an event record ({error!r}): {record[:200]!r}") from error


def decode_data(kind: str, data: Any) -> Any:
    """The data of an event of that kind; takes a dict over. Unknown kinds keep theirs as it is."""
    if kind == MODEL:
        from runstream.events.model_event import build_event

        return build_event(data)
    if kind == RUN_END:
        fields = _known(RunEnd, data)
        error = fields.pop("error", None)
        return RunEnd(**fields, error=ErrorInfo(**_known(ErrorInfo, error)) if error else None)
    data_class = _DATA_CLASSES.get(kind)
    return data if data_class is None else data_class(**_known(data_class, data))


def _known(data_class: type[Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that this version knows: a newer one may have added some."""
    names = data_class.__dataclass_fields__
    return {name: value for name, value in fields.items() if name in names}
