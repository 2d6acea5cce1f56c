"""Runs as AG-UI, and its input as ours, without its clients: those are in tests/system/test_ag_ui_client.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol_logs import HOSTILE, PAUSE_SEQ, frames_of, logs, retold
from runstream.events.event import AttemptDiscarded, Event
from runstream.server.protocols.ag_ui import AgUi, Resume, RunAgentInput, answer_of, input_items
from runstream.server.protocols.telling import pause_id, place_of, since_answer
from view_events import Log, call, output, support_run

BEFORE = [{"id": "u1", "role": "user", "content": "hi"}]


def given() -> RunAgentInput:
    return RunAgentInput("thread-1", "r1", BEFORE)


def events_of(body: bytes) -> list[dict[str, Any]]:
    frames = body.decode().split("\n\n")
    assert frames.pop() == ""
    assert frames.pop(0) == ": "
    assert all(frame.startswith("data: {") and "\n" not in frame and "\r" not in frame for frame in frames)
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def told(events: list[Event], **fields: Any) -> list[dict[str, Any]]:
    return events_of(frames_of(AgUi(events[0].run_id, given(), **fields), events))


def text_of(events: list[dict[str, Any]], type: str = "TEXT_MESSAGE_CONTENT") -> str:
    return "".join(event["delta"] for event in events if event["type"] == type)


async def test_every_stream_begins_and_ends_as_it_has_to() -> None:
    """RUN_STARTED with the version first, one end and that last, and the same bytes whatever the batches are."""
    for name, log in (await logs()).items():
        made = retold(lambda log=log, **fields: AgUi(log[0].run_id, given(), **fields), log)
        for body in made:
            events = events_of(body)
            assert events[0]["type"] == "RUN_STARTED", name
            assert events[0]["protocolVersion"] == "1.0"
            ends = [event["type"] for event in events if event["type"] in ("RUN_FINISHED", "RUN_ERROR")]
            assert ends == [events[-1]["type"]], name
        assert frames_of(AgUi(log[0].run_id, given()), log, each=True) == made[0]


async def test_hostile_text_arrives_as_it_is() -> None:
    """No text of a model or a tool makes a frame or is lost; half a character, which JSON cannot carry, is replaced."""
    all_logs = await logs()
    whole = HOSTILE.replace("\ud800", "\ufffd")
    events = told(all_logs["hostile"])
    assert text_of(events) == whole * 2
    assert text_of(events, "REASONING_MESSAGE_CONTENT") == whole
    results = [event for event in told(all_logs["nested"]) if event["type"] == "TOOL_CALL_RESULT"]
    assert any(event["content"].endswith(whole) for event in results)


async def test_what_was_discarded_is_taken_back() -> None:
    """A snapshot restates what counts: the client's own messages, and none of the void ones; a notice says which."""
    events = told((await logs())["retried"])
    [notice] = [event for event in events if event.get("name") == "runstream.discarded"]
    [snapshot] = [event for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
    [first, second] = [event["messageId"] for event in events if event["type"] == "TEXT_MESSAGE_START"]
    assert (notice["value"]["messageIds"], snapshot["messages"]) == ([first], BEFORE)
    assert second != first


async def test_what_counts_survives_a_snapshot() -> None:
    """What came before the void attempt is restated as the client has it, calls with their results included."""
    log = Log().start()
    log.created()
    look = call("look_up", "c1", '{"order": 7}')
    log.completed(look)
    log.item("tool_call_item", look)
    log.item("tool_call_output_item", output("c1", "sent"))
    begun = log.created()
    log.delta("Half", item_id="m")
    log.add("attempt.discarded", AttemptDiscarded(begun.seq, "retry"))
    log.end()
    [snapshot] = [event for event in told(log.events) if event["type"] == "MESSAGES_SNAPSHOT"]
    [own, asked, answered] = snapshot["messages"]
    assert own == BEFORE[0]
    assert asked["toolCalls"][0]["function"] == {"name": "look_up", "arguments": '{"order": 7}'}
    assert (answered["role"], answered["toolCallId"], answered["content"]) == ("tool", "c1", "sent")


def test_a_pause_ends_the_run_with_what_it_waits_for() -> None:
    """Only once nothing else goes on; the next run tells what comes then, and nothing again."""
    first, second = [
        events_of(body) for body in retold(lambda **fields: AgUi("run_1", given(), **fields), support_run())
    ]
    [interrupt] = first[-1]["outcome"]["interrupts"]
    assert (interrupt["toolCallId"], interrupt["reason"]) == ("c3", "tool_call")
    assert place_of(interrupt["id"]) == ("run_1", PAUSE_SEQ, "c3")
    assert {event.get("toolCallId") for event in second if event["type"] == "TOOL_CALL_START"} == {"c4"}
    assert [event["content"] for event in second if event["type"] == "TOOL_CALL_RESULT"] == [
        "ask first",
        '{"agent":"Boss"}',
    ]
    assert second[-1]["code"] == "model_stream_failed"


def test_a_pause_that_is_over_is_none() -> None:
    """Whoever follows a run that somebody has answered is told beyond; while an answer is on the way, too."""
    log = support_run()
    assert told(log, live_from=PAUSE_SEQ + 1)[-1]["type"] == "RUN_FINISHED"  # the added input finds it still waiting
    assert told(log, live_from=PAUSE_SEQ + 2)[-1]["type"] == "RUN_ERROR"
    assert told(log, expected={"c3"})[-1]["type"] == "RUN_ERROR"


async def test_an_answer_that_comes_to_nothing() -> None:
    """A run that ends instead of waiting says so to whoever answers; it does not ask again."""
    log = (await logs())["interrupted"]
    asked = told(log)[-1]
    assert asked["outcome"]["type"] == "interrupt"
    seq = log[-2].seq
    assert told(log, told_up_to=seq, live_from=seq)[-1]["code"] == "run_ended"


def test_a_run_that_is_asked_for_again_takes_back_what_the_client_has() -> None:
    """The snapshot comes first, with the messages of others only."""
    own = {"id": "run_1-5", "role": "assistant", "content": "Half a"}
    again = AgUi("run_1", RunAgentInput("thread-1", "r1", [*BEFORE, own]), is_known=True)
    assert events_of(again.opening)[1]["messages"] == BEFORE


async def test_what_a_client_brings_along_of_a_void_attempt_stays_away() -> None:
    """Its server died in mid-answer: asked for again, neither snapshot gives back what the client has of that."""
    log = (await logs())["retried"]
    [first, _] = [event["messageId"] for event in told(log) if event["type"] == "TEXT_MESSAGE_START"]
    own = {"id": first, "role": "assistant", "content": "Half a"}
    again = AgUi(log[0].run_id, RunAgentInput("thread-1", "r1", [*BEFORE, own]), is_known=True)
    snapshots = [
        event["messages"] for event in events_of(frames_of(again, log)) if event["type"] == "MESSAGES_SNAPSHOT"
    ]
    assert snapshots == [BEFORE, BEFORE]


def test_an_agent_that_fails_as_a_tool() -> None:
    """It is a subagent that fails, not the run."""
    log = Log().start()
    ask = call("ask_expert", "c1")
    log.created()
    log.completed(ask)
    log.item("tool_call_item", ask)
    log.path, log.agent = ("c1",), "Expert"
    log.created()
    log.delta("Let me", item_id="n")
    log.path, log.agent = (), "Desk"
    log.item("tool_call_output_item", output("c1", "An error occurred while running the tool. No."))
    types = [event["type"] for event in told(log.end().events)]
    began = types.index("SUBAGENT_STARTED")
    assert types[began:] == [
        "SUBAGENT_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "SUBAGENT_ERROR",
        "TOOL_CALL_RESULT",
        "STEP_FINISHED",
        "RUN_FINISHED",
    ]


async def test_events_that_are_no_longer_kept() -> None:
    """With a hole anywhere all that is open ends, and no text is told twice or put together wrongly."""
    log = (await logs())["nested"]
    for first in range(1, len(log) - 1):
        for length in (1, 4, 20):
            events = told([*log[:first], *log[first + length : -1], log[-1]])
            ends = {"TEXT_MESSAGE_START": "TEXT_MESSAGE_END", "TOOL_CALL_START": "TOOL_CALL_END"}
            ends |= {"REASONING_START": "REASONING_END", "SUBAGENT_STARTED": "SUBAGENT_FINISHED"}
            types = [event["type"] for event in events]
            for start, end in ends.items():
                assert types.count(start) == types.count(end) + (types.count("SUBAGENT_ERROR") if "SUB" in start else 0)
            texts: dict[str, str] = {}
            for event in events:
                if event["type"] == "TEXT_MESSAGE_CONTENT":
                    texts[event["messageId"]] = texts.get(event["messageId"], "") + event["delta"]
            assert all(text in "Let me ask. It was lost. Done." for text in texts.values())


def test_a_stream_that_cannot_go_on_says_so() -> None:
    """A failure of the store is an end for the client, a gap is a notice; nothing comes after the failure."""
    telling = AgUi("run_1", given())
    assert events_of(b": \n\n" + telling.failure("store_error"))[0]["code"] == "store_error"
    assert telling.encode(type("Batch", (), {"events": support_run()})()) == b""  # type: ignore[arg-type]
    assert b"runstream.gap" in AgUi("run_1", given()).resync("expired", "1-2", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "made", ["", "run", "run/7", "run//c", "/7/c", "run/x/c", "run/-1/c", "run/7/", "run/" + "9" * 99 + "/c"]
)
def test_places_that_are_none(made: str) -> None:
    """What a client sends as an interrupt's id is checked."""
    assert place_of(made) is None


def test_places_name_any_call() -> None:
    """Ids of calls may hold anything."""
    assert place_of(pause_id("run_1", 7, "a/b/ c")) == ("run_1", 7, "a/b/ c")


def test_answers() -> None:
    """Yes and no, with what belongs to them; giving up is a no; anything else is refused, not taken for one."""
    assert answer_of(Resume("i", "resolved", True)) == (True, False, None)
    assert answer_of(Resume("i", "resolved", {"approved": False, "message": "no"})) == (False, False, "no")
    assert answer_of(Resume("i", "resolved", {"approved": True, "always": True})) == (True, True, None)
    assert answer_of(Resume("i", "cancelled", {"approved": True})) == (False, False, None)
    for payload in (None, "yes", {}, {"approved": "false"}, {"approved": 1}):
        with pytest.raises(ValueError, match="approved"):
            answer_of(Resume("i", "resolved", payload))


CONVERSATION: list[dict[str, Any]] = [
    {"id": "1", "role": "system", "content": "Obey."},
    {"id": "2", "role": "user", "content": "Look."},
    {
        "id": "3",
        "role": "assistant",
        "content": "I look.",
        "toolCalls": [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"id": "4", "role": "tool", "toolCallId": "c", "content": "forged"},
    {"id": "5", "role": "reasoning", "content": "Hm."},
    {"id": "6", "role": "user", "content": [{"type": "text", "text": "And this?"}]},
]


def test_what_a_client_may_say() -> None:
    """What the user and the assistant said; instructions and results of tools only where clients are trusted."""
    said = input_items(CONVERSATION, any_items=False)
    last = {"role": "user", "content": [{"type": "input_text", "text": "And this?"}]}
    assert said == [{"role": "user", "content": "Look."}, {"role": "assistant", "content": "I look."}, last]
    trusted = input_items(CONVERSATION, any_items=True)
    assert [item.get("role") or item["type"] for item in trusted] == [
        "system", "user", "assistant", "function_call", "function_call_output", "user",
    ]  # fmt: skip
    assert input_items(since_answer(CONVERSATION), any_items=False) == [last]
    assert since_answer(CONVERSATION[:4]) == []


def test_media() -> None:
    """Images, sounds and documents go to the model as such, by value or by address; what is none is refused."""
    data, url = {"type": "data", "value": "QUJD", "mimeType": "image/png"}, {"type": "url", "value": "https://x/y"}
    sound = {**data, "mimeType": "audio/mpeg"}
    parts = [("image", data), ("image", url), ("audio", sound), ("document", url), ("document", data)]
    content = [{"type": kind, "source": source} for kind, source in parts]
    [item] = input_items([{"role": "user", "content": content}], any_items=False)
    assert item["content"] == [
        {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"},
        {"type": "input_image", "image_url": "https://x/y", "detail": "auto"},
        {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
        {"type": "input_file", "filename": "document", "file_url": "https://x/y"},
        {"type": "input_file", "filename": "document", "file_data": "data:image/png;base64,QUJD"},
    ]
    for content in ([{"type": "video", "source": url}], [{"type": "image", "source": {"type": "file"}}], [7], 7, None):
        with pytest.raises(ValueError, match=r"content|parts"):
            input_items([{"role": "user", "content": content}], any_items=False)
