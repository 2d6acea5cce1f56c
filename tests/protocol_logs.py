"""Logs of runs with all that the protocols of front ends have to tell, for their encoders and official clients."""

from __future__ import annotations

from typing import Any

from runstream import Agent, RunConfig, RunContextWrapper, Runner, function_tool
from runstream.events.event import APPROVAL_RESOLVED, AgentStart, ApprovalResolved, Event, RunQueued, RunStart
from runstream.server.channel import Batch
from runstream.testing import FakeClock, Fault, HandoffTo, Reasoning, Refusal, ScriptedModel, ToolCall, Turn
from view_events import Log, message, support_run

__all__ = ["HOSTILE", "PAUSE_SEQ", "frames_of", "logs", "retold"]

HOSTILE = 'a\n\ndata: {"type":"RUN_ERROR"}\r\n\r\u2028\u2029\x00\x85\ufeff"\\ \U0001f600 \ud800 event: x\n'
PAUSE_SEQ = 40
"""Where `support_run` waits for a person, and for nothing else."""


@function_tool
async def look_up(context: RunContextWrapper[Any], order: int) -> str:
    """Look an order up."""
    context.emit({"percent": 50})
    return f"order {order}: {HOSTILE}"


@function_tool(needs_approval=True)
def refund(order: int) -> str:
    """Pay back."""
    return f"refunded {order}"


@function_tool
def fail() -> str:
    """Fail."""
    raise ValueError("no")


async def _events(agent: Agent[Any], *, cancel_after: int | None = None, max_turns: int = 10) -> list[Event]:
    run = Runner.run_streamed(
        agent, "hi", max_turns=max_turns, run_config=RunConfig(clock=FakeClock(), on_broken_stream="restart")
    )
    found: list[Event] = []
    async for event in run.events():
        found.append(event)
        if len(found) == cancel_after:
            run.cancel()
    return found


def _agent(*turns: Any, **fields: Any) -> Agent[Any]:
    return Agent(name="Desk", model=ScriptedModel(list(turns)), **fields)


def _queued() -> list[Event]:
    """It waits for its place, and says one thing."""
    log = Log()
    log.add("run.start", RunStart("hi"))
    for position in (2, 1, 0):
        log.add("run.queued", RunQueued(position))
    log.add("agent.start", AgentStart())
    log.created()
    said = message("m", "Hello.")
    log.added(said)
    log.delta("Hello.", item_id="m")
    log.done(said)
    log.completed(said)
    log.item("message_output_item", said)
    return log.end(final_output="Hello.").events


def _hosted() -> list[Event]:
    """Tools that the provider runs: one of its own, and one of an MCP server that people are asked about."""
    log = Log().start()
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "x"},
    }
    ask = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "pay", "server_label": "bank", "arguments": "{}"}
    log.created()
    log.added(search)
    log.done(search)
    log.done(ask, 1)
    log.completed(search, ask)
    log.item("tool_call_item", search)
    log.item("mcp_approval_request_item", ask)
    log.item("tool_approval_item", ask, tool_name="pay")
    log.add("approval.resolved", ApprovalResolved("mcpr_1", "pay", approved=True))
    answer = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    log.item("mcp_approval_response_item", answer)
    log.created("resp_2")
    log.delta("Paid.")
    log.completed(message("msg", "Paid."))
    log.item("message_output_item", message("msg", "Paid."))
    return log.end(final_output="Paid.").events


async def logs() -> dict[str, list[Event]]:
    """Each with a name; all but `support` end as their runs did."""
    boss = Agent(name="Boss", model=ScriptedModel(["I am the boss."]))
    expert = Agent(
        name="Expert", model=ScriptedModel([Turn((Reasoning("Hm."), ToolCall("fail"))), "It was lost."]), tools=[fail]
    )
    ask = expert.as_tool("ask_expert", "Ask.")
    both = Turn(("Let me ask.", ToolCall("ask_expert", {"input": "a"}), ToolCall("look_up", {"order": 7})))
    broken = Turn(("one two three four",), fault=Fault("reset", after=2))
    return {
        "support": support_run(),
        "hosted": _hosted(),
        "text": await _events(_agent("Hello there.")),
        "queued": _queued(),
        "hostile": await _events(_agent([Reasoning(HOSTILE), HOSTILE, Refusal(HOSTILE)])),
        "nested": await _events(_agent(both, "Done.", tools=[ask, look_up])),
        "handoff": await _events(_agent(["Wait.", HandoffTo(boss)], handoffs=[boss])),
        "arguments": await _events(_agent(ToolCall("look_up", '{"order": "x'), "Done.", tools=[look_up])),
        "same id": await _events(
            _agent(*[ToolCall("look_up", {"order": n}, call_id="c") for n in (1, 2)], "Done.", tools=[look_up])
        ),
        "retried": await _events(_agent(broken, "Whole.")),
        "failed": await _events(_agent(broken, broken, broken, broken, broken, broken)),
        "too long": await _events(_agent(*[ToolCall("look_up", {"order": 1})] * 3, tools=[look_up]), max_turns=2),
        "cancelled": await _events(_agent(["one two three four", ToolCall("fail")], tools=[fail]), cancel_after=8),
        "interrupted": await _events(_agent(["May I?", ToolCall("refund", {"order": 7})], tools=[refund])),
    }


def frames_of(telling: Any, events: list[Event], *, each: bool = False) -> bytes:
    """What a stream sends of them: batched as one, or each event by itself."""
    body = telling.opening
    for batch in [[event] for event in events] if each else [events]:
        body += telling.encode(Batch(batch, 1))
    return body + telling.closing()


def retold(make: Any, events: list[Event]) -> list[bytes]:
    """The responses that a client gets: up to the first pause, from there on to the next, and so on, as people answer
    one call after the other. `make` gets `told_up_to`, `live_from` and `expected`."""
    found: list[bytes] = []
    place, expected = 0, set[str]()
    while True:
        telling = make(told_up_to=place, live_from=place, expected=expected)
        found.append(frames_of(telling, events))
        if telling.seq >= events[-1].seq or events[-1].data.status == "interrupted":
            return found
        place = telling.seq
        answers = (event.data.call_id for event in events[place:] if event.kind == APPROVAL_RESOLVED)
        expected = {call_id for call_id in [next(answers, None)] if call_id is not None}
