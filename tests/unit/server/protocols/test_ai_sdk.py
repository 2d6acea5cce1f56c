"""Runs as UI message streams, and chats as input, without the AI SDK: that is in tests/system/test_ai_sdk_client.py."""

from __future__ import annotations

import json
from typing import Any

from protocol_logs import HOSTILE, PAUSE_SEQ, frames_of, logs, retold
from runstream.events.event import Event
from runstream.server.protocols.ai_sdk import AiSdk, answers_of, input_items
from runstream.server.protocols.telling import place_of, since_answer
from view_events import Log, call, support_run


def chunks_of(body: bytes) -> list[dict[str, Any]]:
    frames = body.decode().split("\n\n")
    assert (frames.pop(0), frames.pop(), frames.pop()) == (": ", "", "data: [DONE]")
    assert all(frame.startswith("data: {") and "\n" not in frame and "\r" not in frame for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def told(events: list[Event], **fields: Any) -> list[dict[str, Any]]:
    return chunks_of(frames_of(AiSdk(events[0].run_id, **fields), events))


def of_type(chunks: list[dict[str, Any]], *types: str) -> list[dict[str, Any]]:
    return [chunk for chunk in chunks if chunk["type"] in types]


async def test_every_stream_ends_as_it_has_to() -> None:
    """`start` first; one `finish` or `abort`, and that last before `[DONE]`; batches change no byte."""
    for name, log in (await logs()).items():
        made = retold(lambda log=log, **fields: AiSdk(log[0].run_id, **fields), log)
        for body in made:
            chunks = chunks_of(body)
            assert chunks[0]["type"] == "start", name
            assert [chunk["type"] for chunk in of_type(chunks, "finish", "abort")] == [chunks[-1]["type"]], name
        assert frames_of(AiSdk(log[0].run_id), log, each=True) == made[0]


async def test_parts_begin_before_they_grow_and_end_once() -> None:
    """Of texts and reasoning, in every run, void attempts included; ids are those of one part alone."""
    for log in (await logs()).values():
        used: set[str] = set()
        is_open: set[str] = set()
        for chunk in told(log):
            kind, _, what = chunk["type"].partition("-")
            if kind not in ("text", "reasoning"):
                continue
            if what == "start":
                assert chunk["id"] not in used
                used.add(chunk["id"])
                is_open.add(chunk["id"])
            assert chunk["id"] in is_open
            if what == "end":
                is_open.remove(chunk["id"])
        assert not is_open


async def test_hostile_text_arrives_as_it_is() -> None:
    """No text of a model or a tool makes a frame or is lost; half a character, which JSON cannot carry, is replaced."""
    all_logs = await logs()
    whole = HOSTILE.replace("\ud800", "\ufffd")
    chunks = told(all_logs["hostile"])
    assert "".join(chunk["delta"] for chunk in of_type(chunks, "text-delta")) == whole * 2
    assert "".join(chunk["delta"] for chunk in of_type(chunks, "reasoning-delta")) == whole
    outputs = of_type(told(all_logs["nested"]), "tool-output-available")
    assert any(chunk["output"].endswith(whole) for chunk in outputs)


async def test_a_discarded_attempt_is_reset() -> None:
    """Each turn is a step of its own, so that what is reset is the attempt and nothing before it."""
    types = [chunk["type"] for chunk in told((await logs())["retried"])]
    assert types.index("data-agent") < types.index("start-step") < types.index("reset-step")
    assert types.count("start-step") == types.count("finish-step") == types.count("reset-step") == 1
    assert types[types.index("reset-step") - 1] == "text-end"


def test_a_pause_asks_and_the_next_response_goes_on() -> None:
    """People are asked once nothing else goes on; then the answer, what came of it, and nothing again."""
    first, second = [chunks_of(body) for body in retold(lambda **fields: AiSdk("run_1", **fields), support_run())]
    [asked] = of_type(first, "tool-approval-request")
    assert first.index(asked) > max(map(first.index, of_type(first, "tool-output-available")))
    assert place_of(asked["approvalId"]) == ("run_1", PAUSE_SEQ, "c3")
    assert first[-1]["messageMetadata"]["status"] == "waiting"
    assert second[0]["messageId"] == first[0]["messageId"]
    [answered] = of_type(second, "tool-approval-response")
    assert (answered["approvalId"], answered["approved"], answered["reason"]) == (
        asked["approvalId"],
        False,
        "ask first",
    )
    assert [chunk["toolCallId"] for chunk in of_type(second, "tool-output-denied")] == ["c3"]
    assert not of_type(second, "tool-approval-request")
    assert {chunk["toolCallId"] for chunk in of_type(second, "tool-input-available")} == {"c4"}


def test_a_replay_beyond_a_pause_has_both() -> None:
    """Whoever loads the page anew gets the request and the answer, as one message."""
    chunks = told(support_run(), live_from=PAUSE_SEQ + 2)
    kinds = ("tool-approval-request", "tool-approval-response", "tool-output-denied")
    assert [chunk["type"] for chunk in of_type(chunks, *kinds)] == list(kinds)


def test_nested_calls_that_ask_have_a_part() -> None:
    """A nested agent's call is data, unless people are to approve it: then it is a tool part of the message."""
    log = Log().start()
    ask, pay = call("ask_expert", "c1"), call("pay", "n1")
    log.created()
    log.completed(ask)
    log.item("tool_call_item", ask)
    log.path, log.agent = ("c1",), "Expert"
    log.created()
    log.completed(pay)
    log.item("tool_call_item", pay)
    log.item("tool_approval_item", pay, tool_name="pay")
    chunks = told(log.events)
    assert [chunk["toolCallId"] for chunk in of_type(chunks, "tool-input-available")] == ["c1", "n1"]
    assert [chunk["toolCallId"] for chunk in of_type(chunks, "tool-approval-request")] == ["n1"]
    [nested] = of_type(chunks, "data-nested")
    assert (nested["data"]["toolCallId"], nested["data"]["agent"], nested["data"]["name"]) == ("c1", "Expert", "pay")


def test_a_call_that_nobody_answers_any_more_is_denied() -> None:
    """A run that is cancelled while it waits leaves a message that validates: no failure of what was not approved."""
    log = Log().start()
    pay = call("pay", "c1")
    log.created()
    log.completed(pay)
    log.item("tool_call_item", pay)
    log.item("tool_approval_item", pay, tool_name="pay")
    paused = len(log.events)
    log.end("cancelled")
    types = [chunk["type"] for chunk in told(log.events, told_up_to=paused, live_from=paused)]
    assert types == ["start", "tool-approval-response", "tool-output-denied", "message-metadata", "abort"]


def test_a_stream_that_cannot_go_on_says_so() -> None:
    """A failure of the store is an error for the client, a gap is data."""
    assert b'"type":"error"' in AiSdk("run_1").failure("store_error")
    assert b'"type":"data-gap"' in AiSdk("run_1").resync("expired", "1-2", None)  # type: ignore[arg-type]


def part(state: str, id: Any, approved: Any, **approval: Any) -> dict[str, Any]:
    return {"type": "tool-pay", "state": state, "approval": {"id": id, "approved": approved, **approval}}


def test_answers() -> None:
    """Those of the last message, if it is the assistant's; what is no answer is none."""
    parts = [part("approval-responded", "a", True), part("approval-responded", "b", False, reason="no")]
    parts += [
        part("output-available", "c", True),
        part("approval-responded", "d", "yes"),
        part("approval-responded", 7, True),
    ]
    last = {"role": "assistant", "parts": [*parts, 7, {"type": "text"}]}
    assert answers_of([last]) == [("a", True, None), ("b", False, "no")]
    assert answers_of([last, {"role": "user", "parts": []}]) == answers_of([]) == []


CHAT: list[dict[str, Any]] = [
    {"id": "1", "role": "system", "parts": [{"type": "text", "text": "Obey."}]},
    {"id": "2", "role": "user", "parts": [{"type": "text", "text": "Look."}, {"type": "data-x", "data": 1}]},
    {
        "id": "3",
        "role": "assistant",
        "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "Hm."},
            {"type": "text", "text": "I look."},
            {
                "type": "tool-look",
                "toolCallId": "c",
                "state": "output-available",
                "input": {"n": 1},
                "output": {"ok": 1},
            },
            {"type": "steering-message", "id": "s", "parts": [{"type": "text", "text": "Quick."}]},
            {"type": "text", "text": ""},
        ],
    },
    {
        "id": "4",
        "role": "user",
        "parts": [
            {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,QUJD"},
            {"type": "file", "mediaType": "text/csv", "url": "https://x/y", "filename": "y.csv"},
        ],
    },
]


def test_what_a_client_may_say() -> None:
    """What the user and the assistant said; instructions and results of tools only where clients are trusted."""
    said = input_items(CHAT, any_items=False)
    assert said[:3] == [
        {"role": "user", "content": [{"type": "input_text", "text": "Look."}]},
        {"role": "assistant", "content": "I look."},
        {"role": "user", "content": [{"type": "input_text", "text": "Quick."}]},
    ]
    assert said[3:] == input_items(since_answer(CHAT), any_items=False)
    assert said[3]["content"] == [
        {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"},
        {"type": "input_file", "filename": "y.csv", "file_url": "https://x/y"},
    ]
    trusted = input_items(CHAT, any_items=True)
    assert [item.get("role") or item["type"] for item in trusted] == [
        "system", "user", "assistant", "function_call", "function_call_output", "user", "user",
    ]  # fmt: skip
    assert (trusted[3]["arguments"], trusted[4]["output"]) == ('{"n":1}', '{"ok":1}')
