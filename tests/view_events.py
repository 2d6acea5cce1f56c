"""Events to make views of, one after the other, numbered."""

from __future__ import annotations

from typing import Any

from runstream.events.event import (
    AgentStart,
    ApprovalResolved,
    AttemptDiscarded,
    ErrorInfo,
    Event,
    InputAdded,
    ItemAdded,
    RunEnd,
    RunStart,
)
from runstream.events.model_event import build_event

__all__ = ["Log", "call", "message", "output", "support_run"]


def call(name: str, call_id: str, arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    """A call of a function tool."""
    given = {"id": f"fc_{call_id}", "call_id": call_id, "name": name, "arguments": arguments, "status": "completed"}
    return {"type": "function_call", **given, **fields}


def output(call_id: str, value: Any) -> dict[str, Any]:
    """The output of one."""
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def message(item_id: str, *texts: str, status: str = "completed") -> dict[str, Any]:
    """A message of the model."""
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"type": "message", "id": item_id, "role": "assistant", "status": status, "content": content}


class Log:
    """Writes events; each takes half a second."""

    def __init__(self, *, path: tuple[str, ...] = (), agent: str = "Desk") -> None:
        self.events: list[Event] = []
        self.path = path
        self.agent = agent
        self.attempt = 1

    def add(self, kind: str, data: Any, *, attempt: int = 0, skip: int = 0) -> Event:
        seq = (self.events[-1].seq if self.events else 0) + 1 + skip
        event = Event("run_1", seq, 100.0 + seq / 2, kind, self.agent, attempt, self.path, data)
        self.events.append(event)
        return event

    def model(self, type: str, skip: int = 0, **fields: Any) -> Event:
        data = build_event({"type": type, "sequence_number": 0, **fields})
        return self.add("model", data, attempt=self.attempt, skip=skip)

    def item(self, type: str, raw: Any, **more: Any) -> Event:
        return self.add("item", ItemAdded(type.removesuffix("_item"), type, raw, more or None))

    def start(self, given: Any = "hi", **fields: Any) -> Log:
        self.add("run.start", RunStart(given, **fields))
        self.add("agent.start", AgentStart())
        return self

    def end(self, status: Any = "completed", **fields: Any) -> Log:
        self.add("run.end", RunEnd(status, **fields))
        return self

    def created(self, response_id: str = "resp_1") -> Event:
        return self.model("response.created", response={"id": response_id, "model": "scripted", "output": []})

    def completed(self, *items: Any, tokens: tuple[int, int] = (10, 4)) -> Event:
        counts = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        response = {"id": "resp_1", "output": list(items), "usage": {**counts, **details}}
        return self.model("response.completed", response=response)

    def delta(
        self, text: str, *, index: int = 0, item_id: str = "msg", kind: str = "output_text", part: int = 0
    ) -> Event:
        name = "summary_index" if kind.endswith("summary_text") else "content_index"
        fields: dict[str, Any] = {"item_id": item_id, "output_index": index, "delta": text}
        if not kind.endswith("arguments"):
            fields[name] = part
        if kind == "output_text":
            fields["logprobs"] = []
        return self.model(f"response.{kind}.delta", **fields)

    def added(self, raw: dict[str, Any], index: int = 0) -> Event:
        empty = {"content": []} if raw["type"] == "message" else {}
        empty |= {"arguments": ""} if "arguments" in raw else {}
        return self.model(
            "response.output_item.added", output_index=index, item={**raw, **empty, "status": "in_progress"}
        )

    def done(self, raw: dict[str, Any], index: int = 0) -> Event:
        return self.model("response.output_item.done", output_index=index, item=raw)


def support_run() -> list[Event]:
    """A run with everything in it: the golden file is its view."""
    log = Log().start("Where is order 7?")
    log.created()
    log.delta("Half a tho", item_id="msg_0")
    log.add("attempt.discarded", AttemptDiscarded(3, "retry", "the connection was lost"))
    log.attempt = 2
    log.created()
    log.delta("The customer", kind="reasoning_summary_text", item_id="rs_1")
    log.delta(" asks.", kind="reasoning_summary_text", item_id="rs_1")
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "The customer asks."}]}
    log.done(reasoning)
    said = message("msg_1", "Let me look.")
    log.added(said, 1)
    log.delta("Let me", index=1, item_id="msg_1")
    log.delta(" look.", index=1, item_id="msg_1")
    log.done(said, 1)
    look, ask = call("look_up", "c1", '{"order": 7}'), call("ask_expert", "c2", '{"input": "why?"}')
    refund = call("refund", "c3", '{"order": 7}')
    for index, each in enumerate((look, ask, refund), start=2):
        log.added(each, index)
        log.delta(each["arguments"][:5], index=index, item_id=each["id"], kind="function_call_arguments")
        log.delta(each["arguments"][5:], index=index, item_id=each["id"], kind="function_call_arguments")
        log.done(each, index)
    log.completed(reasoning, said, look, ask, refund)
    log.item("reasoning_item", reasoning)
    log.item("message_output_item", said)
    log.item("tool_call_item", look, description="Looks an order up.")
    log.item("tool_call_item", ask)
    log.item("tool_call_item", refund)
    log.item("tool_approval_item", refund, tool_name="refund")
    log.add("tool.progress", {"call_id": "c1", "data": {"percent": 50}})
    log.path, log.agent, log.attempt = ("c2",), "Expert", 1
    log.add("agent.start", AgentStart())
    log.created("resp_n")
    log.delta("It was lost.", item_id="msg_n")
    answer = message("msg_n", "It was lost.")
    log.completed(answer, tokens=(3, 2))
    log.item("message_output_item", answer)
    log.path, log.agent = (), "Desk"
    log.item("tool_call_output_item", output("c2", "It was lost."))
    log.item("tool_call_output_item", output("c1", [{"type": "input_text", "text": "on its way"}]))
    log.add("input.added", InputAdded([{"role": "user", "content": "Quickly, please."}]))
    log.add("approval.resolved", ApprovalResolved("c3", "refund", approved=False, message="ask first"))
    log.item("tool_call_output_item", output("c3", "ask first"))
    log.created("resp_2")
    handoff = call("transfer_to_boss", "c4")
    log.added(handoff)
    log.done(handoff)
    log.completed(handoff)
    log.item("handoff_call_item", handoff)
    log.item("handoff_output_item", output("c4", '{"assistant": "Boss"}'), source="Desk", target="Boss")
    log.agent = "Boss"
    log.add("agent.start", AgentStart("Desk"))
    log.created("resp_3")
    log.delta("I cannot", kind="refusal", item_id="msg_3")
    error = {"code": "server_error", "message": "no more"}
    log.model("response.failed", response={"id": "resp_3", "output": [], "error": error})
    partial = {**message("msg_3", status="incomplete"), "content": [{"type": "refusal", "refusal": "I cannot"}]}
    log.item("message_output_item", partial)
    failure = ErrorInfo(
        "ModelStreamFailed", "The model's response failed (server_error: no more)", "model_stream_failed"
    )
    usage = {"requests": 4, "input_tokens": 33, "output_tokens": 14, "total_tokens": 47}
    return log.end("failed", error=failure, usage=usage).events
