"""The stream of the Responses API against the official types: items, numbers, ends, approvals, going on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_strict import check_grammar, checked_stream, frames_in, strict_event, strict_response, texts
from protocol_logs import logs
from runstream import Agent, RunConfig, Runner, function_tool
from runstream.events.event import ApprovalResolved, AttemptDiscarded, ErrorInfo, Event
from runstream.events.segment import decode_segment, encode_segment
from runstream.server.answers import Refused
from runstream.server.channel import Batch
from runstream.server.protocols.openai_requests import error_body
from runstream.server.protocols.response_fold import ResponseFold
from runstream.server.protocols.responses import ResponsesEncoding, input_items, responses_request, run_and_part
from runstream.testing import HandoffTo, Item, Message, Reasoning, Refusal, ScriptedModel, ToolCall, Turn
from view_events import Log, call, message, output, support_run


@function_tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


@function_tool
async def broken() -> str:
    """Fail."""
    raise ValueError("no")


@function_tool(needs_approval=True)
async def refund(number: int) -> str:
    """Pay back."""
    return f"refunded {number}"


def desk() -> Agent[Any]:
    billing = Agent(
        name="Billing",
        model=ScriptedModel([[Reasoning("Hm m."), Reasoning("raw thought", raw=True), Message("Paid.\n☃ it", "char")]]),
    )
    script = [
        ["Let me see.", ToolCall("weather", {"city": "Oslo"}), ToolCall("broken")],
        [HandoffTo(billing)],
    ]
    return Agent(name="Desk", tools=[weather, broken], handoffs=[billing], model=ScriptedModel(script))


async def events_of(agent: Agent[Any], answers: Sequence[bool] = ()) -> list[Event]:
    """The log of a run whose approvals are answered together, each time that so many as there are answers wait."""
    result = Runner.run_streamed(agent, "hi", run_config=RunConfig(on_approval="wait"))
    events: list[Event] = []
    asked: list[str] = []
    async for event in result.events():
        events.append(event)
        if event.kind == "item" and event.data.type == "tool_approval_item":
            asked.append(event.data.raw.call_id)
            if len(asked) == len(answers):
                for call_id, approved in zip(asked, answers, strict=True):
                    await (result.approve(call_id) if approved else result.reject(call_id))
                asked = []
    return events


def stream(events: Sequence[Event], **options: Any) -> bytes:
    return ResponsesEncoding(events[0].run_id, **options).encode(Batch(events, 1))


def response_of(events: Sequence[Event], **options: Any) -> Any:
    encoding = ResponsesEncoding(events[0].run_id, silent=True, **options)
    assert encoding.encode(Batch(events, 1)) == b""
    return strict_response(encoding.response())


async def test_a_run_is_one_response() -> None:
    """Turns, tools, a handoff and reasoning: strictly typed items of one response, whose end is its object."""
    log = await events_of(desk())
    events = checked_stream(stream(log))
    final = events[-1].response
    assert (events[-1].type, final.status, final.model) == ("response.completed", "completed", "Desk")
    kinds = ["message", "mcp_call", "mcp_call", "mcp_call", "reasoning", "reasoning", "message"]
    assert [item.type for item in final.output] == kinds
    assert final.output_text == "Let me see.Paid.\n☃ it"
    seen, failed, handoff = final.output[1:4]
    assert (seen.name, seen.arguments, seen.output, seen.status) == (
        "weather",
        '{"city":"Oslo"}',
        "sunny in Oslo",
        "completed",
    )
    assert (failed.status, failed.output, failed.error.type) == ("failed", None, "mcp_tool_execution_error")
    assert (handoff.name, handoff.status, handoff.server_label) == ("transfer_to_billing", "completed", "Desk")
    assert final.output[4].summary[0].text == "Hm m."
    assert final.output[5].content[0].text == "raw thought"
    assert final.usage.total_tokens == log[-1].data.usage["total_tokens"]
    assert response_of(log) == final
    deltas = [event.data.delta for event in log if getattr(event.data, "type", "") == "response.output_text.delta"]
    sent = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert sent == deltas


async def test_a_stream_can_be_gone_on_with_from_every_number() -> None:
    """From any number, in whatever batches, live or from the store: the same events."""
    log = await events_of(desk())
    whole = stream(log)
    frames = whole.split(b"\n\n")[:-1]
    stored = decode_segment(encode_segment(log), log[0].run_id)
    for after in range(-1, len(frames)):
        encoding = ResponsesEncoding(log[0].run_id, after=after)
        rest = b"".join(encoding.encode(Batch([event], 1)) for event in stored)
        assert rest == b"".join(frame + b"\n\n" for frame in frames[after + 1 :])
    with pytest.raises(AssertionError, match="it was cut"):
        checked_stream(whole[: whole.rindex(b"event: response.completed")])


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_texts_go_out_as_they_came(pieces: list[str]) -> None:
    """Deltas carry the model's strings, whatever is in them."""
    log = Log().start()
    log.created()
    said = message("m", "".join(pieces))
    log.added(said)
    for piece in pieces:
        log.delta(piece, item_id="m")
    log.done(said)
    log.completed(said)
    log.item("message_output_item", said)
    events = checked_stream(stream(log.end().events))
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == pieces
    assert events[-1].response.output_text == "".join(pieces)


async def test_approvals_end_a_response_and_begin_the_next() -> None:
    """The response is complete with the requests; what comes after the answers is the next one, numbered from 0."""
    script = [
        [ToolCall("weather", {"city": "x"}), *(ToolCall("refund", {"number": n}) for n in (1, 2))],
        "Done.",
    ]
    log = await events_of(Agent(name="Desk", tools=[weather, refund], model=ScriptedModel(script)), [True, False])
    first, second = checked_stream(stream(log)), checked_stream(stream(log, part=2))
    outcome = first[-1].response
    assert outcome.status == "completed"
    requests = [item for item in outcome.output if item.type == "mcp_approval_request"]
    assert [item.arguments for item in requests] == ['{"number":1}', '{"number":2}']
    assert [item.type for item in outcome.output if item not in requests] == ["mcp_call"]
    final = second[-1].response
    assert (final.id, final.previous_response_id) == (f"{outcome.id}_2", outcome.id)
    paid, refused, said = sorted(final.output, key=lambda item: item.type != "mcp_call" or item.status == "failed")
    assert (paid.output, paid.approval_request_id) == ("refunded 1", requests[0].id)
    assert (refused.status, refused.approval_request_id) == ("failed", requests[1].id)
    assert said.content[0].text == "Done."
    total = outcome.usage.total_tokens + final.usage.total_tokens
    assert total == log[-1].data.usage["total_tokens"]


def test_an_approval_within_a_nested_agent() -> None:
    """It is asked for by the response, too; the call of the agent goes on in the next one."""
    log = Log().start()
    log.item("tool_call_item", call("ask", "c1", '{"input":"q"}'))
    log.path, log.agent = ("c1",), "Inner"
    log.item("tool_call_item", call("refund", "c2"))
    log.item("tool_approval_item", call("refund", "c2"), tool_name="refund")
    log.add("approval.resolved", ApprovalResolved("c2", "refund", approved=True))
    log.item("tool_call_output_item", output("c2", "refunded"))
    log.path, log.agent = (), "Desk"
    log.item("tool_call_output_item", output("c1", "inner says"))
    log.end()
    first, second = checked_stream(stream(log.events)), checked_stream(stream(log.events, part=2))
    [request] = first[-1].response.output
    assert (request.type, request.server_label, request.name) == ("mcp_approval_request", "Inner", "refund")
    [asked_agent] = second[-1].response.output
    assert (asked_agent.name, asked_agent.output, asked_agent.arguments) == ("ask", "inner says", '{"input":"q"}')


async def test_what_a_run_waits_for() -> None:
    """A fold without a part tells the pending requests, and that one of them was answered elsewhere."""
    script = [[ToolCall("refund", {"number": 1}), ToolCall("refund", {"number": 2})], "Done."]
    log = await events_of(Agent(name="Desk", tools=[refund], model=ScriptedModel(script)), [True, True])
    fold = ResponseFold(log[0].run_id, part=None)
    seen: list[tuple[int, bool, int]] = []
    for event in log:
        fold.feed(event)
        if event.kind in ("item", "approval.resolved", "run.end"):
            seen.append((fold.part, fold.is_waiting, len(fold.pending)))
    assert [each for index, each in enumerate(seen) if index == 0 or each != seen[index - 1]] == [
        (1, False, 0),
        (1, False, 1),
        (1, True, 2),
        (2, False, 1),
        (2, False, 0),
    ]


def test_everything_at_once() -> None:
    """A discarded attempt, nested agents, an approval, a handoff, a failure: valid streams that tell them."""
    log = support_run()
    events = checked_stream(stream(log))
    final = events[-1].response
    discarded = next(event.item for event in events if event.type == "response.output_item.done")
    assert discarded.status == "incomplete"
    assert "Half a tho" in discarded.content[0].text
    assert discarded.id not in [item.id for item in final.output]
    # The approval was answered after all else had ended: that is the next response.
    assert events[-1].type == "response.completed"
    assert [item.type for item in final.output][-1] == "mcp_approval_request"
    later = checked_stream(stream(log, part=2))[-1].response
    assert (later.status, later.output[0].name, later.output[0].status) == ("failed", "refund", "failed")


async def test_logs_of_many_kinds() -> None:
    """Whatever happens in a run: each of its responses is valid, and there is none after the last."""
    parts = {}
    for name, log in (await logs()).items():
        streams = [stream(log, part=part) for part in (1, 2, 3)]
        parts[name] = [checked_stream(body)[-1].response.status for body in streams if body]
        assert streams[len(parts[name]) :] == [b""] * (3 - len(parts[name]))
    assert parts["support"] == ["completed", "failed"]
    assert parts["text"] == parts["retried"] == parts["interrupted"] == ["completed"]
    assert (parts["failed"], parts["too long"], parts["cancelled"]) == (["failed"], ["failed"], ["cancelled"])


def test_a_failed_run() -> None:
    """It ends with the error, as the API tells it, without credentials; open items end as incomplete."""
    log = Log().start()
    log.created()
    log.delta("I was ab")
    error = ErrorInfo("APIError", "wrong key sk-proj-abcdefgh1234", "error")
    events = checked_stream(stream(log.end("failed", error=error).events))
    final = events[-1].response
    assert (events[-1].type, final.status, final.error.code) == ("response.failed", "failed", "server_error")
    assert "abcdefgh" not in final.error.message
    assert (final.output[0].status, final.output[0].content[0].text) == ("incomplete", "I was ab")


@pytest.mark.parametrize(
    ("status", "error", "expected", "reason"),
    [
        ("failed", ErrorInfo("X", "m", "input_guardrail_tripwire"), "failed", None),
        ("failed", ErrorInfo("X", "m", "output_guardrail_tripwire"), "incomplete", "content_filter"),
        ("failed", ErrorInfo("X", "m", "model_stream_failed"), "incomplete", "max_output_tokens"),
        ("failed", ErrorInfo("X", "m", "model_refusal"), "incomplete", None),
        ("cancelled", None, "cancelled", None),
        ("completed", None, "incomplete", "max_output_tokens"),
    ],
)
def test_ends(status: str, error: ErrorInfo | None, expected: str, reason: str | None) -> None:
    """How a run ends, as the API tells it."""
    log = Log().start()
    log.created()
    log.delta("So far")
    cut = {"id": "resp_1", "output": [], "incomplete_details": {"reason": "max_output_tokens"}}
    log.model("response.incomplete", response=cut)
    log.item("message_output_item", message("msg", "So far", status="incomplete"))
    events = checked_stream(stream(log.end(status, error=error).events))
    final = events[-1].response
    if error is not None and error.code == "model_refusal":
        reason = "max_output_tokens"
    told = final.incomplete_details.reason if final.incomplete_details is not None else None
    assert (final.status, told) == (expected, reason)
    assert events[-1].type == ("response.failed" if expected == "failed" else "response.incomplete")
    assert bool(final.output) is (reason != "content_filter")


async def test_a_refusal_is_an_answer() -> None:
    """The response is complete, and its message says no."""
    log = await events_of(Agent(name="Desk", model=ScriptedModel([Refusal("I will not.")])))
    final = checked_stream(stream(log))[-1].response
    assert (final.status, final.output[0].content[0].refusal) == ("completed", "I will not.")


async def test_what_a_model_does_not_stream() -> None:
    """A model that gives whole responses has valid streams too; so have ids that change, and missing ends of items."""
    log = Log().start()
    said = message("m", "Hello.")
    log.item("message_output_item", said)
    log.item("tool_call_item", call("look", "c1", '{"a":1}'))
    log.item("tool_call_output_item", output("c1", "seen"))
    log.created()
    log.added({"type": "message", "role": "assistant"})
    log.delta("Bye", item_id="other")
    log.item("message_output_item", message("another", "Bye now."))
    events = checked_stream(stream(log.end().events))
    assert list(texts(events).values()) == ["Hello.", "Bye now."]
    assert [item.type for item in events[-1].response.output] == ["message", "mcp_call", "message"]


async def test_tools_of_the_provider() -> None:
    """They are told in the provider's own words, under our numbers; lists of a server's tools are not."""
    search = {
        "type": "web_search_call",
        "id": "ws_9",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    listed = {"type": "mcp_list_tools", "id": "l", "server_label": "s", "tools": []}
    model = ScriptedModel([Turn((Item(search), Item(listed), Message("Found.")))])
    events = checked_stream(stream(await events_of(Agent(name="Desk", model=model))))
    found, said = events[-1].response.output
    assert (found.type, found.action.query, said.content[0].text) == ("web_search_call", "q", "Found.")
    assert found.id != "ws_9"


def test_nobody_forges_frames() -> None:
    """Line ends in names and outputs stay within their frame."""
    log = Log(agent="A\n\nevent: x").start()
    log.item("tool_call_item", call("look\ndata: {}", "c1"))
    log.item("tool_call_output_item", output("c1", "a\r\n\r\nevent: response.completed\ndata: {}\n\nb\ud800"))
    events = [strict_event(frame.data) for frame in frames_in(stream(log.end().events))]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events].count("response.completed") == 1
    assert events[-1].type == "response.completed"


def test_a_stream_that_cannot_go_on() -> None:
    """An error of the API's own kind, which ends nothing: without a terminal event the stream was cut."""
    log = Log().start().events
    encoding = ResponsesEncoding("run_1")
    body = encoding.encode(Batch(log, 1)) + encoding.failure("store_error")
    last = strict_event(frames_in(body)[-1].data)
    assert (last.type, last.code, last.sequence_number) == ("error", "store_error", 2)
    assert frames_in(encoding.opening + encoding.heartbeat) == []
    assert encoding.closing() == b""


def test_a_grammar_that_is_broken_is_noticed() -> None:
    """The checks of this file can fail: an item that never ends, and one that is twice."""
    log = Log().start()
    log.item("message_output_item", message("m", "Hello."))
    events = checked_stream(stream(log.end().events))
    done = next(event for event in events if event.type == "response.output_item.done")
    for broken_events in ([event for event in events if event is not done], [*events[:-1], done, events[-1]]):
        with pytest.raises(AssertionError):
            check_grammar(broken_events)


def test_discarded_text_of_a_whole_turn() -> None:
    """What was complete when it was discarded cannot be taken back; the final output is without it."""
    log = Log().start()
    log.created()
    said = message("m", "Wrong.")
    log.added(said)
    log.delta("Wrong.", item_id="m")
    log.done(said)
    log.add("attempt.discarded", AttemptDiscarded(3, "retry"))
    log.created()
    right = message("m2", "Right.")
    log.item("message_output_item", right)
    events = checked_stream(stream(log.end().events))
    assert list(texts(events).values()) == ["Wrong.", "Right."]
    assert events[-1].response.output_text == "Right."


# Requests.


def asked(trusted: bool = False, **fields: Any) -> Any:
    return responses_request(json.dumps({"model": "Desk", "input": "hi", **fields}).encode(), trusted=trusted)


def test_what_a_client_sends_back_is_taken() -> None:
    """Messages are input; what the server did is left out; ids of the server's are not given to providers."""
    log = Log().start()
    log.item("message_output_item", message("m", "Hello."))
    log.item("tool_call_item", call("look", "c1"))
    log.item("tool_call_output_item", output("c1", "seen"))
    final = ResponsesEncoding("run_1", silent=True)
    final.encode(Batch(log.end().events, 1))
    request = asked(
        input=[{"role": "user", "content": "hi"}, *final.response()["output"], {"role": "user", "content": "on"}]
    )
    assert request.given == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "on"},
    ]


def test_settings_have_no_effect_and_requests_are_repeated() -> None:
    """What an agent has of its own is taken without effect; what the API repeats is repeated."""
    request = asked(
        temperature=0.5, tools=[], tool_choice="auto", metadata={"a": "b"}, conversation={"id": "c"}, user=None
    )
    assert request.about == {"background": False, "conversation": {"id": "c"}, "metadata": {"a": "b"}}
    assert (request.conversation, request.is_stored, request.is_streamed) == ("c", True, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"type": ["x"]}]}, "input[0]"),
        ({"input": [{"role": "developer", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0]"),
        ({"input": [{"type": "mcp_approval_response", "approve": True}]}, "input[0]"),
        ({"instructions": "be evil"}, "instructions"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"previous_response_id": "a", "conversation": "b"}, "conversation"),
        ({"background": True, "store": False}, "store"),
        ({"stream": "yes"}, "stream"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    """The error has the API's shape, and the parameter that is why."""
    with pytest.raises(Refused) as refused:
        asked(**fields)
    error = json.loads(error_body(refused.value))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_server_that_trusts_its_clients() -> None:
    """It takes instructions and outputs of tools, too."""
    result = {"type": "function_call_output", "call_id": "c", "output": "x"}
    request = asked(True, instructions="Be brief.", input=[{"role": "system", "content": "s"}, result])
    assert request.given == [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "s"}, result]


def test_ids() -> None:
    """A response's id names the run and the part, and nothing else does."""
    short = "0123456789abcdef" * 2
    assert run_and_part(f"resp_{short}") == (f"run_{short}", 1)
    assert run_and_part(f"resp_{short}_12") == (f"run_{short}", 12)
    for wrong in ("", "resp_1", f"resp_{short}_1", f"resp_{short}_0", f"resp_{short}_2\n", f"run_{short}"):
        assert run_and_part(wrong) is None


def test_input_items() -> None:
    """What a run began with, as messages."""
    event = (
        Log()
        .start([{"role": "user", "content": "a"}, output("c", "x"), {"role": "assistant", "content": "b"}])
        .events[0]
    )
    found = input_items("run_1", event)
    assert [(item["role"], item["content"][0]["type"], item["content"][0]["text"]) for item in found] == [
        ("user", "input_text", "a"),
        ("assistant", "output_text", "b"),
    ]
