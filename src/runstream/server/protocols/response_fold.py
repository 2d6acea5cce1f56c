"""A run as responses of the OpenAI Responses API: their stream events, numbered, and each response as it stands. Pure.

A run is one response, however many model calls it makes and whatever agents it passes. Tools that the server runs are
`mcp_call` items: a client must not run them. A run that waits for approvals is where a response ends, completed, with
`mcp_approval_request` items: what comes after the answer is the run's next response (`part` 2, 3, …). Agents that run
as tools are seen by the output of their call alone.

Invariants: the same events of the log give the same responses, numbers and ids, in whatever batches they come; every
item that is begun is ended; what an attempt had said that was discarded ends as incomplete, and is not in the output.
"""

from __future__ import annotations

from typing import Any, Final

from runstream.agent.raw_item import read_field, read_text
from runstream.events.event import (
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    ITEM,
    MODEL,
    RUN_END,
    RUN_QUEUED,
    ApprovalResolved,
    Event,
    ItemAdded,
    RunEnd,
)
from runstream.server.protocols import native
from runstream.server.protocols.response_calls import OpenCall, OpenCalls, arguments_of, is_call, name_of
from runstream.server.protocols.response_item import PART_OF_DELTA, PART_OF_EVENT, Item, parts_of, shown_item
from runstream.server.protocols.response_output import Emit, ResponseOutput, without_id
from runstream.server.protocols.response_usage import UsageSum
from runstream.view.texts import output_text

__all__ = ["ResponseFold", "call_approval_id", "response_id"]

_TERMINAL: Final = frozenset(("response.completed", "response.incomplete", "response.failed"))
_ARGUMENT_DELTAS: Final = frozenset(("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"))
_GOES_ON: Final = frozenset((APPROVAL_RESOLVED, ITEM, MODEL, RUN_END))
# Tools that the provider runs within the response: their events go on as they are. What else there is (lists of a
# server's tools, compacted history) concerns the agent alone.
_RELAYED: Final = {
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "mcp_call": "mcp",
}


def response_id(run_id: str, part: int = 1) -> str:
    """The id of a run's response."""
    short = run_id.removeprefix("run_")
    return f"resp_{short}" if part == 1 else f"resp_{short}_{part}"


def call_approval_id(run_id: str, seq: int) -> str:
    """The id of a request for approval, by the seq of its event."""
    return f"mcpr_{run_id.removeprefix('run_')}_{seq}"


class ResponseFold:
    """Give it the events of a run in order, from the first on. `ended` once the response of that `part` is over.

    `part=None` follows the run as a whole and emits nothing: for those who ask what it waits for. With `splits=False`
    all of the run is one response, which waits for approvals as for anything else.
    """

    def __init__(self, run_id: str, emit: Emit | None = None, *, part: int | None = 1, splits: bool = True) -> None:
        self.run_id = run_id
        self._out = ResponseOutput(run_id, emit, part)
        self._wanted = part
        self._splits = splits
        self.begun = False
        """Whether that has begun."""
        self.ended = False
        self.is_waiting = False
        """Whether the run waits for nothing but approvals."""
        self.run_status: str | None = None
        """How the run has ended."""
        self.status = "in_progress"
        self.error: dict[str, Any] | None = None
        self.incomplete_reason: str | None = None
        self.model = ""
        self.created_at = 0.0
        self.completed_at: float | None = None
        self.usage = UsageSum()
        self._by_index: dict[int, Item] = {}
        self._unclaimed: list[Item] = []
        self._calls = OpenCalls()
        self._agent = ""
        self._turn_index = 0
        self._cut_reason: str | None = None

    @property
    def pending(self) -> dict[str, OpenCall]:
        """The calls that wait for an answer, by the ids of their requests."""
        return {call_approval_id(self.run_id, call.asked_seq): call for call in self._calls.pending()}

    @property
    def is_stuck(self) -> bool:
        """Whether the run can do nothing until its calls are answered."""
        return not self.ended and self._calls.all_wait()

    @property
    def part(self) -> int:
        """Which of the run's responses the newest event belongs to."""
        return self._out.part

    @property
    def number(self) -> int:
        """The number of the next stream event."""
        return self._out.number

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items that count and are over."""
        return [item.fields for item in self._out.items if not item.is_open and not item.is_void]

    @property
    def id(self) -> str:
        return response_id(self.run_id, self.part)

    # The run.

    def feed(self, event: Event) -> None:
        """Take in the next event of the log."""
        if self.ended or self.run_status is not None:
            return
        kind, is_own = event.kind, not event.path
        self._out.seq = event.seq
        if is_own and event.agent is not None:
            self._agent = event.agent
        if not self.begun:
            self._begin(event)
        if self.is_waiting:
            if kind not in _GOES_ON:
                return  # somebody has said something: that is not what the run waits for
            if kind == RUN_END and event.data.status == "interrupted":
                self.run_status = event.data.status  # it does not wait in place: nothing comes after the requests
                return
            self._next_part(event)
        if kind == MODEL:
            if is_own:
                self._model(event)
            elif event.data.type in _TERMINAL:
                self.usage.add(event.data.response)
        elif kind == ITEM:
            self._item(event)
        elif kind == APPROVAL_RESOLVED:
            self._resolved(event)
        elif kind == ATTEMPT_DISCARDED:
            self._calls.forget(event.path, event.data.from_seq)
            if is_own:
                self._discard(event.data.from_seq)
        elif kind == RUN_QUEUED:
            self._queued(event.data.position)
        elif kind == RUN_END:
            self._run_ended(event)
            return
        if self._splits and self._calls.all_wait():
            self._wait(event)

    def _begin(self, event: Event) -> None:
        self.begun = True
        self.status = "in_progress"
        self.created_at = event.at
        self.model = self.model or event.agent or ""
        self._lifecycle("response.created")
        self._lifecycle("response.in_progress")

    def _queued(self, position: int) -> None:
        status = "queued" if position else "in_progress"
        if status != self.status:
            self.status = status
            self._lifecycle(f"response.{status}")

    def _next_part(self, event: Event) -> None:
        """A run that waited goes on: that is the next response."""
        self.is_waiting = False
        self._out.begin_part()
        self.completed_at = None
        self._by_index, self._unclaimed, self._turn_index = {}, [], 0
        self.usage.begin_part()
        self._begin(event)
        for call in self._calls.pending():
            call.is_presumed = True
        for call in self._calls.own():
            call.item = None
            if not call.is_pending:
                self._open_known(call)

    def _wait(self, event: Event) -> None:
        """Nothing but answers is waited for: the response is over."""
        self._end(event.at, "completed")
        self.is_waiting = True

    def _run_ended(self, event: Event) -> None:
        end: RunEnd = event.data
        self.run_status = end.status
        self.usage.settle(end.usage)
        status: str = end.status
        error = end.error
        self.incomplete_reason = None
        if status == "failed" and error is not None:
            if error.code == "model_refusal":
                status = "completed"  # its message says so, in the API's own way
            elif error.code == "output_guardrail_tripwire":
                status, self.incomplete_reason = "incomplete", "content_filter"
                for item in self._out.items[self._turn_index :]:
                    item.is_void |= item.fields["type"] == "message"
            elif error.code == "model_stream_failed" and self._cut_reason is not None:
                status, self.incomplete_reason = "incomplete", self._cut_reason
            else:
                code = {"input_guardrail_tripwire": "invalid_prompt"}.get(error.code or "", "server_error")
                if error.type == "RateLimitError":
                    code = "rate_limit_exceeded"
                message = native.redacted(error.message)
                self.error = {"code": code, "message": message, "type": error.code or error.type}
        elif status == "interrupted":
            status = "completed"
        if status == "completed" and self._ends_unfinished():
            status, self.incomplete_reason = "incomplete", self._cut_reason
        self._end(event.at, status)
        self.ended = True

    def _ends_unfinished(self) -> bool:
        """Whether the last thing said broke off, and the run took it for its answer."""
        said = [item for item in self._out.items if item.fields["type"] == "message" and not item.is_void]
        return bool(said) and said[-1].fields["status"] == "incomplete"

    def _end(self, at: float, status: str) -> None:
        for item in self._out.items:
            if item.is_open:
                self._out.break_off(item, is_void=item.call_id is not None and status == "completed")
        self.status, self.completed_at = status, at
        # The API has no event for one that was cancelled.
        self._lifecycle(f"response.{'incomplete' if status == 'cancelled' else status}")
        if self.part == self._wanted:
            self.ended = True

    def _lifecycle(self, kind: str) -> None:
        if self._out.is_told:
            self._out.send(kind, response=self.response())

    def response(self) -> dict[str, Any]:
        """The response as it stands."""
        is_over = self.status not in ("queued", "in_progress")
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self.created_at),
            "status": self.status,
            "background": None,
            "completed_at": int(self.completed_at) if self.completed_at and self.status == "completed" else None,
            "error": self.error,
            "incomplete_details": {"reason": self.incomplete_reason} if self.incomplete_reason is not None else None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "model": self.model,
            "output": self.output,
            "parallel_tool_calls": True,
            "previous_response_id": response_id(self.run_id, self.part - 1) if self.part > 1 else None,
            "reasoning": {"effort": None, "summary": None},
            "temperature": None,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "truncation": "disabled",
            "usage": self.usage.shown() if is_over else None,
            "user": None,
        }

    # What the model says.

    def _model(self, event: Event) -> None:
        data = event.data
        kind: str = data.type
        part_kind = PART_OF_DELTA.get(kind)
        if part_kind is not None:
            item = self._item_at(
                data.output_index, "message" if part_kind in ("output_text", "refusal") else "reasoning"
            )
            name = "summary_index" if part_kind == "summary_text" else "content_index"
            self._out.grow(item, self._out.part_of(item, part_kind, getattr(data, name, None) or 0), data.delta)
        elif kind in _ARGUMENT_DELTAS:
            item = self._item_at(data.output_index, "mcp_call")
            self._out.grow_arguments(item, data.delta)
        elif kind == "response.output_item.added":
            self._open(data.item, data.output_index, event)
        elif kind == "response.output_item.done":
            item = self._by_index.get(data.output_index) or self._open(data.item, data.output_index, event)
            if item is not None:
                self._complete(item, data.item, event)
        elif kind == "response.created":
            self._by_index, self._unclaimed = {}, []
            self._turn_index, self._cut_reason = len(self._out.items), None
        elif kind in _TERMINAL:
            self.usage.add(data.response)
            if kind == "response.incomplete":
                details = read_field(data.response, "incomplete_details")
                self._cut_reason = read_text(details, "reason") or "max_output_tokens"
        elif kind in PART_OF_EVENT or kind == "response.content_part.done":
            self._part_event(kind, data)
        else:
            self._other(kind, data, event)

    def _item_at(self, output_index: int | None, type: str) -> Item:
        """The item at that place of the model's output; a new one where the model has not announced it."""
        item = self._by_index.get(output_index or 0)
        if item is None or not item.is_open or item.fields["type"] != type:
            raw = {"type": "function_call" if type == "mcp_call" else type}
            item = self._add(raw, output_index)
        return item

    def _open(self, raw: Any, output_index: int | None, event: Event) -> Item | None:
        kind = read_text(raw, "type") or ""
        if kind in _RELAYED:
            item = self._out.append({**shown_item(event), "type": kind}, _RELAYED[kind])
            item.is_relayed = True
            self._out.send("response.output_item.added", output_index=item.index, item=item.fields)
        elif kind in ("message", "reasoning") or is_call(kind):
            return self._add(raw, output_index)
        else:
            return None
        if output_index is not None:
            self._by_index[output_index] = item
            self._unclaimed.append(item)
        return item

    def _add(self, raw: Any, output_index: int | None) -> Item:
        """Begin a message, reasoning or a call that the model makes."""
        kind = read_text(raw, "type")
        if kind == "message":
            item = self._out.append({"type": kind, "status": "in_progress", "role": "assistant", "content": []}, "msg")
            phase = read_text(raw, "phase")
            if phase is not None:
                item.fields["phase"] = phase
        elif kind == "reasoning":
            item = self._out.append({"type": kind, "status": "in_progress", "summary": []}, "rs")
        else:
            item = self._out.append_call(self._agent, name_of(raw), read_text(raw, "call_id"))
        self._out.send("response.output_item.added", output_index=item.index, item=item.fields)
        if item.fields["type"] == "mcp_call":
            self._out.send("response.mcp_call.in_progress", output_index=item.index, item_id=item.id)
        if output_index is not None:
            self._by_index[output_index] = item
            self._unclaimed.append(item)
        return item

    def _part_event(self, kind: str, data: Any) -> None:
        """A part begins or ends: where the model says so. Otherwise its first delta and the end of its item do."""
        item = self._by_index.get(data.output_index)
        if item is None or not item.is_open or item.is_relayed:
            return
        raw = data.part if hasattr(data, "part") else None
        part_kind = PART_OF_EVENT.get(kind) or read_text(raw, "type") or ""
        if part_kind not in ("output_text", "refusal", "summary_text", "reasoning_text"):
            return
        name = "summary_index" if part_kind == "summary_text" else "content_index"
        part = self._out.part_of(item, part_kind, getattr(data, name, None) or 0)
        if kind.endswith("part.done"):
            part.annotate(read_field(raw, "annotations"))
            self._out.end_part(item, part, read_field(raw, part.form.text_name))

    def _complete(self, item: Item, raw: Any, event: Event) -> None:
        """The item is as the model wanted it. A call goes on until it has its output."""
        if not item.is_open:
            return
        if item.call_id is not None:
            item.call_id = read_text(raw, "call_id") or item.call_id
            item.fields["name"] = name_of(raw) or item.fields["name"]
            self._out.end_arguments(item, arguments_of(raw))
            return
        if item.is_relayed:
            item.fields = {"id": item.id, **without_id(shown_item(event))}
            self._out.done(item)
            return
        for kind, index, text, citations in parts_of(raw):
            part = self._out.part_of(item, kind, index)
            part.annotate(citations)
            self._out.end_part(item, part, text)
        status = read_text(raw, "status")
        self._out.close_said(item, status if status in ("completed", "incomplete") else "completed")

    def _other(self, kind: str, data: Any, event: Event) -> None:
        """Events of tools that the provider runs, and citations, in the model's own words."""
        item = self._by_index.get(read_field(data, "output_index"))
        if item is None or not item.is_open:
            return
        if kind == "response.output_text.annotation.added":
            part = self._out.part_of(item, "output_text", data.content_index or 0)
            annotation = native.shown(event).get("annotation")
            part.annotations.append(annotation)
            index = len(part.annotations) - 1
            self._out.send(kind, **item.place(part), annotation=annotation, annotation_index=index)
        elif item.is_relayed:
            fields = native.shown(event)
            fields = {name: value for name, value in fields.items() if name not in ("type", "sequence_number")}
            self._out.send(kind, **{**fields, "output_index": item.index, "item_id": item.id})

    # What the run makes of it.

    def _item(self, event: Event) -> None:
        data: ItemAdded = event.data
        raw, kind = data.raw, data.type
        if kind in ("tool_call_output_item", "handoff_output_item"):
            call = self._calls.answered(event.path, read_text(raw, "call_id"))
            if call is not None and not event.path:
                self._answer(call, read_field(raw, "output"), read_text(data.more, "outcome") or "done")
        elif kind == "tool_approval_item":
            self._asked(event)
        elif kind == "mcp_approval_response_item":
            self._calls.answered(event.path, read_text(raw, "approval_request_id"))
        elif kind in ("message_output_item", "reasoning_item", "tool_call_item", "handoff_call_item"):
            item = None if event.path else self._claim(raw, event)
            if is_call(read_text(raw, "type") or ""):
                self._calls.add(event, name_of(raw), arguments_of(raw), item)

    def _claim(self, raw: Any, event: Event) -> Item | None:
        """The item that the model's events have begun; a new one where it was not streamed."""
        kind = read_text(raw, "type") or ""
        wanted = "mcp_call" if is_call(kind) else kind
        fitting = [item for item in self._unclaimed if item.fields["type"] == wanted]
        call_id = read_text(raw, "call_id")
        item = next((item for item in fitting if item.call_id is not None and item.call_id == call_id), None)
        if item is None and fitting:
            item = fitting[0]  # ids of items change from event to event with some servers: the order tells
        if item is None:
            item = self._open(raw, None, event)
        if item is not None:
            if item in self._unclaimed:
                self._unclaimed.remove(item)
            self._complete(item, raw, event)
        return item

    def _answer(self, call: OpenCall, output: Any, outcome: str) -> None:
        item = call.item
        if item is None or not item.is_open:
            item = self._open_known(call)
        text = output_text(output if output is not None else "")
        place = {"output_index": item.index, "item_id": item.id}
        if outcome != "done" or call.is_rejected:
            item.fields["status"] = "failed"
            item.fields["error"] = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": text}]}
            self._out.send("response.mcp_call.failed", **place)
        else:
            item.fields["status"], item.fields["output"] = "completed", text
            self._out.send("response.mcp_call.completed", **place)
        self._out.done(item)

    def _open_known(self, call: OpenCall) -> Item:
        """Begin an item for a call whose arguments are known."""
        item = call.item = self._out.append_call(call.agent, call.name, call.call_id)
        if call.asked_seq:
            item.fields["approval_request_id"] = call_approval_id(self.run_id, call.asked_seq)
        self._out.send("response.output_item.added", output_index=item.index, item=item.fields)
        self._out.send("response.mcp_call.in_progress", output_index=item.index, item_id=item.id)
        self._out.end_arguments(item, call.arguments)
        return item

    def _asked(self, event: Event) -> None:
        """A call waits for a person. Its item, which was begun while the model wrote it, becomes a request."""
        raw = event.data.raw
        call = self._calls.asked(event, name_of(raw), arguments_of(raw))
        if call.item is not None and call.item.is_open:
            self._out.break_off(call.item, is_void=True)
        call.item = None
        self._ask(call)

    def _ask(self, call: OpenCall) -> None:
        request = {
            "type": "mcp_approval_request",
            "server_label": call.agent,
            "name": call.name,
            "arguments": call.arguments,
        }
        item = self._out.append(request, "mcpr")
        item.fields["id"] = call_approval_id(self.run_id, call.asked_seq)
        self._out.send("response.output_item.added", output_index=item.index, item=item.fields)
        self._out.done(item)

    def _resolved(self, event: Event) -> None:
        answer: ApprovalResolved = event.data
        for call in self._calls.resolved(event.path, answer):
            if not event.path:
                self._open_known(call)

    def _discard(self, from_seq: int) -> None:
        """What was said from that seq on was never said. What is told cannot be taken back: it ends as incomplete."""
        for item in self._out.items:
            if item.seq >= from_seq:
                item.is_void = True
                if item.is_open:
                    self._out.break_off(item, is_void=True)
        self._by_index = {index: item for index, item in self._by_index.items() if not item.is_void}
        self._unclaimed = [item for item in self._unclaimed if not item.is_void]
