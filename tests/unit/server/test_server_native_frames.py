"""The server's own frames: what is in them, what is not, and that nothing can forge others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream import Agent, RunConfig, Runner
from runstream.events.codec import decode, encode
from runstream.events.event import MODEL, RUN_END, ErrorInfo, Event, RunEnd
from runstream.events.model_event import build_event
from runstream.events.segment import decode_segment, encode_segment
from runstream.log.cursor import Cursor
from runstream.server.protocols import native
from runstream.testing import ScriptedModel
from runstream.wire.sse import SSEDecoder
from view_events import support_run

SCHEMAS = [{"type": "function", "name": "pay", "parameters": {"secret": "schema"}}]


def delta(text: str, **more: Any) -> Any:
    fields = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0}
    return build_event({**fields, "delta": text, "sequence_number": 3, "logprobs": [], **more})


def event_of(data: Any, kind: str = MODEL, frame: bytes | None = None) -> Event:
    return Event("run_1", 7, 1795186303.25, kind, "Desk", 1, (), data, None, frame)


def read(frames: bytes) -> list[tuple[str, str, Any]]:
    decoder = SSEDecoder()
    found = decoder.feed(frames)
    assert decoder.close() == b""
    return [((frame.id or b"").decode(), frame.event.decode(), json.loads(frame.data)) for frame in found]


@given(st.text(), st.text())
def test_a_text_goes_out_as_it_came(text: str, agent: str) -> None:
    """One event is one frame, whatever the model and the agents' names hold."""
    event = event_of(delta(text))
    event.agent = agent
    [(cursor, name, data)] = read(native.encode([event], 12))
    assert (cursor, name, data["data"]["delta"], data["agent"]) == ("12-7", "", text, agent)
    assert native.record(event).count(b"\n") == 0


async def test_the_record_is_that_of_the_codec() -> None:
    """Envelope and data of events that hold nothing internal are the stored form, which `decode` reads."""
    result = Runner.run_streamed(Agent(name="Désk", model=ScriptedModel(["Hello\nthere."])), "hi")
    events = [event async for event in result.events()]
    for event in events:
        shown, stored = json.loads(native.record(event)), json.loads(encode(event))
        assert {**shown, "data": None} == {**stored, "data": None}
        if event.kind not in ("run.start", "agent.start") and "response" not in shown["data"]:
            assert shown == stored
        if event.kind not in ("run.start", "agent.start"):
            assert decode(native.record(event)).kind == event.kind


def test_live_and_replayed_are_the_same() -> None:
    """A reader that comes later, or elsewhere, is told the same."""
    for event in support_run():
        if event.kind == "tool.progress":
            continue
        event.frame = None
        [stored] = decode_segment(encode_segment([event]), event.run_id)
        assert json.loads(native.record(stored)) == json.loads(native.record(event))


def test_padding_of_the_provider_is_left_out() -> None:
    """What is in the frame alone is not told to those who are there while it comes: late readers would not know."""
    frame = b'{"type":"response.output_item.added","item":{"type":"message"},"obfuscation":"xyz","output_index":0}'
    event = event_of(build_event(json.loads(frame)), frame=frame)
    assert b"obfuscation" not in native.record(event)


def test_lifecycle_events_keep_what_is_internal() -> None:
    """Instructions, schemas of tools and settings do not leave the server; output and usage do."""
    tools = [{"name": "a", "input_schema": {}}]
    response = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed", "error": None,
        "output": [{"type": "mcp_list_tools", "id": "l", "server_label": "s", "tools": tools}],
        "usage": {"total_tokens": 3}, "instructions": "be secret", "tools": SCHEMAS, "metadata": {"key": "internal"},
        "prompt": {"id": "internal"}, "user": "internal",
    }  # fmt: skip
    raw = {"type": "response.completed", "response": response, "sequence_number": 1}
    for frame in (json.dumps(raw).encode(), None):
        text = native.record(event_of(build_event(json.loads(json.dumps(raw))), frame=frame)).decode()
        data = json.loads(text)["data"]
        assert data["response"]["usage"]["total_tokens"] == 3
        assert data["response"]["output"][0]["tools"] == [{"name": "a"}]
        for word in ("secret", "internal", "input_schema"):
            assert word not in text


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdefgh1234",
        "Authorization: Bearer abcdefgh12345678",
        "cannot connect to redis://user:hunter2hunter2@host:6379",
    ],
)
def test_errors_tell_no_credentials(text: str) -> None:
    """What looks like a key, a token or the password of a URL is taken out of the error that ends a run."""
    end = event_of(RunEnd("failed", ErrorInfo("Oops", text)), RUN_END)
    told = json.loads(native.record(end))["data"]["error"]["message"]
    assert "[redacted]" in told
    for secret in ("abcdefgh", "hunter2"):
        assert secret not in told


def test_a_resync_names_where_to_go_on() -> None:
    """Its id is that place, so that a client that does nothing goes on there."""
    [(cursor, name, data)] = read(native.resync("expired", "3-4\nid: 9", Cursor(5, 6)))
    assert (cursor, name) == ("5-6", "resync")
    assert data == {"reason": "expired", "cursor": "3-4\nid: 9", "after": "5-6"}


def test_heartbeats_and_the_opening_are_no_events() -> None:
    """A client that reads them dispatches nothing."""
    assert read(native.OPENING + native.HEARTBEAT) == []


async def test_halves_of_characters_do_not_stop_a_stream() -> None:
    """What no JSON can hold is told with a substitute."""
    result = Runner.run_streamed(Agent(name="Desk", model=ScriptedModel(["ok"])), "a\ud800b", run_config=RunConfig())
    events = [event async for event in result.events()]
    assert "\ud800" not in native.record(events[0]).decode()


def test_a_view_shows_no_more_than_the_events() -> None:
    """What only the provider can read stays out of snapshots, as out of frames; so do keys in errors, also nested."""
    raw = {"type": "compaction", "id": "c_1", "encrypted_content": "gAAAA"}
    inner = {"entries": [{"type": "error", "message": "wrong key sk-abcdefghijkl"}]}
    view = {
        "run_id": "run_1",
        "error": {"name": "X", "message": "https://u:pw@host failed"},
        "entries": [
            {"type": "message", "text": "hi"},
            {"type": "other", "kind": "compaction", "raw": raw},
            {"type": "tool", "name": "ask", "nested": inner},
            {"type": "tool", "name": "look", "nested": None},
        ],
    }
    shown = native.shown_view(view)
    assert shown["error"]["message"] == "https://[redacted]@host failed"
    message, other, ask, look = shown["entries"]
    assert other["raw"] == {"type": "compaction", "id": "c_1"}
    assert ask["nested"]["entries"][0]["message"] == "wrong key [redacted]"
    assert (message, look) == (view["entries"][0], view["entries"][3])
    assert raw["encrypted_content"] == "gAAAA"
