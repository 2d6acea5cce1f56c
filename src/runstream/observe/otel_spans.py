"""The spans of one run, begun and ended as its events come, at the events' own times, with explicit parents.

run (`invoke_workflow`) > agent (`invoke_agent`) > turn > model call (`chat`), tools (`execute_tool`), handoffs. A call
that was made more than once has a span for each attempt that the log knows of. Nested agents hang under the span of the
tool call that they run in. Guardrails hang under what they check: a tool call, a turn, an agent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from runstream.agent.raw_item import read_field, read_text
from runstream.events.event import (
    AGENT_START,
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    GUARDRAIL,
    INPUT_ADDED,
    ITEM,
    MODEL,
    RUN_END,
    RUN_START,
    Event,
    GuardrailChecked,
    RunEnd,
)
from runstream.observe.calls import held_up_turn
from runstream.observe.otel_names import as_json, input_messages, output_messages, response_attributes

if TYPE_CHECKING:
    from runstream.observe.observers import ObservedRun
    from runstream.observe.otel_instruments import Recording

__all__ = ["RunSpans"]

_ENDS = frozenset(("response.completed", "response.failed", "response.incomplete", "error"))
# Errors of a model call that left nothing in the log, by the names of the official client's classes.
_REQUEST_ERRORS = (
    "APIError",
    "APIConnectionError",
    "APITimeoutError",
    "APIStatusError",
    "APIResponseValidationError",
    "BadRequestError",
    "AuthenticationError",
    "PermissionDeniedError",
    "NotFoundError",
    "ConflictError",
    "UnprocessableEntityError",
    "RateLimitError",
    "InternalServerError",
)


def _ns(at: float) -> int:
    return int(at * 1e9)


class _Open:
    """A span that is not over."""

    __slots__ = ("attributes", "began_at", "span")

    def __init__(self, span: Span, began_at: float, attributes: dict[str, Any]) -> None:
        self.span = span
        self.began_at = began_at
        self.attributes = attributes
        """What a measurement of it has in common with it."""

    def end(self, at: float, error_type: str | None = None, description: str | None = None) -> float:
        """End it; returns how long it took."""
        if error_type is not None:
            self.attributes["error.type"] = error_type
            self.span.set_attribute("error.type", error_type)
            self.span.set_status(Status(StatusCode.ERROR, description))
        at = max(at, self.began_at)
        self.span.end(_ns(at))
        return at - self.began_at


class _Lane:
    """The run itself, or a nested agent."""

    __slots__ = ("agent", "agents", "attempt", "attempt_at", "call", "is_answered", "last_at", "path", "turn", "turns")

    def __init__(self, path: tuple[str, ...], at: float) -> None:
        self.path = path
        self.last_at = at
        self.agent: _Open | None = None
        self.agents: dict[str | None, Any] = {}
        """The latest span of each agent: a guardrail beside its first turn may tell its outcome after a handoff."""
        self.turn: _Open | None = None
        self.turns = 0
        self.call: _Open | None = None
        self.attempt: int | None = None
        self.attempt_at = at
        self.is_answered = False


class RunSpans:
    """See the module."""

    def __init__(self, recording: Recording, run: ObservedRun, on_end: Callable[[str, None], Any]) -> None:
        self._provider_name = recording.provider_name
        self._run = run
        self._on_end = on_end
        self._tracer = recording.tracer
        self._instruments = recording.instruments
        self._content = recording.record_content
        self._conversation: str | None = None
        self._request_model = run.model
        self._root: _Open | None = None
        self._lanes: dict[tuple[str, ...], _Lane] = {}
        self._tools: dict[tuple[tuple[str, ...], str], list[_Open]] = {}
        self._handoffs: dict[tuple[tuple[str, ...], str], float] = {}
        """When handoffs were called that are not answered yet."""
        # Content that only goes on is passed over.
        self._class: type[Any] | None = None
        self._attempt: int | None = None
        self._path: tuple[str, ...] = ()

    def begin(self, at: float) -> Span:
        """The root span, as a child of what is current now."""
        workflow = self._run.workflow
        attributes: dict[str, Any] = {"gen_ai.operation.name": "invoke_workflow"}
        if workflow is not None:
            attributes["gen_ai.workflow.name"] = workflow
        name = "invoke_workflow" if workflow is None else f"invoke_workflow {workflow}"
        span = self._tracer.start_span(
            name,
            kind=SpanKind.INTERNAL,
            attributes={**attributes, "runstream.run.id": self._run.run_id},
            start_time=_ns(at),
        )
        self._root = _Open(span, at, attributes)
        return span

    def tool_span(self, call_id: str) -> Span | None:
        """The span of a call that goes on, or of the run."""
        for (_, key), waiting in self._tools.items():
            if key == call_id and waiting:
                return waiting[-1].span
        return None if self._root is None else self._root.span

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        if event.data.__class__ is self._class and event.attempt == self._attempt and event.path == self._path:
            return
        at, kind = event.at, event.kind
        if self._root is None:
            self.begin(at)
        lane = self._lanes.get(event.path)
        if lane is None:
            lane = self._lanes[event.path] = _Lane(event.path, at)
        if kind == MODEL:
            self._apply_model(event, lane)
            return
        if kind == GUARDRAIL:
            self._add_guardrail(event, lane)
            if not held_up_turn(event.data):
                return
        elif kind == ITEM:
            self._apply_item(event, lane)
        elif kind == AGENT_START:
            self._start_agent(event, lane)
        elif kind == ATTEMPT_DISCARDED:
            self._discard(event, lane)
        elif kind == APPROVAL_RESOLVED:
            answer = {"gen_ai.tool.name": event.data.tool_name, "gen_ai.tool.call.id": event.data.call_id}
            self._note("runstream.approval.resolved", at, {**answer, "runstream.approved": event.data.approved})
        elif kind == INPUT_ADDED:
            self._note("runstream.input.added", at, {"runstream.items": len(event.data.items)})
        elif kind == RUN_START:
            self._describe(event)
        elif kind == RUN_END and not event.path:
            self._end(event)
        lane.last_at = at

    # Parents and helpers.

    def _start(self, name: str, parent: Span, at: float, attributes: dict[str, Any], *, client: bool = False) -> _Open:
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(parent),
            kind=SpanKind.CLIENT if client else SpanKind.INTERNAL,
            attributes=attributes,
            start_time=_ns(at),
        )
        return _Open(span, at, {name: value for name, value in attributes.items() if name.startswith("gen_ai.")})

    def _span(self) -> Span:
        return trace.INVALID_SPAN if self._root is None else self._root.span

    def _above(self, lane: _Lane) -> Span:
        """What a lane's agents hang under: the call that a nested agent runs in, else the run."""
        if lane.path:
            waiting = self._tools.get((lane.path[:-1], lane.path[-1]))
            if waiting:
                return waiting[-1].span
        return self._span()

    def _note(self, name: str, at: float, attributes: dict[str, Any]) -> None:
        self._span().add_event(name, attributes, _ns(at))

    def _describe(self, event: Event) -> None:
        options: dict[str, Any] = event.data.options or {}
        self._conversation = options.get("conversation_id")
        if self._conversation:
            self._span().set_attribute("gen_ai.conversation.id", self._conversation)
        if self._content:
            self._span().set_attribute("gen_ai.input.messages", input_messages(event.data.input))

    # Agents and turns.

    def _start_agent(self, event: Event, lane: _Lane) -> None:
        if lane.turn is not None and not lane.is_answered:
            return  # a run that goes on elsewhere tells its agent again
        self._end_agent(lane, event.at)
        model = getattr(event.live, "model", None)
        if isinstance(model, str):
            self._request_model = model
        attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": self._provider_name}
        if event.agent is not None:
            attributes["gen_ai.agent.name"] = event.agent
        if self._conversation:
            attributes["gen_ai.conversation.id"] = self._conversation
        lane.agent = self._start(f"invoke_agent {event.agent or ''}".rstrip(), self._above(lane), event.at, attributes)
        lane.agents[event.agent] = lane.agent.span

    def _end_agent(self, lane: _Lane, at: float, error_type: str | None = None, text: str | None = None) -> None:
        self._end_turn(lane, at, error_type, text)
        if lane.agent is not None:
            took_s = lane.agent.end(at, error_type, text)
            attributes = {name: value for name, value in lane.agent.attributes.items() if "conversation" not in name}
            self._instruments.agent.record(took_s, attributes)
            lane.agent = None

    def _begin_turn(self, lane: _Lane) -> Span:
        lane.turns += 1
        above = self._above(lane) if lane.agent is None else lane.agent.span
        lane.turn = self._start(f"turn {lane.turns}", above, lane.last_at, {"runstream.turn": lane.turns})
        lane.is_answered = False
        lane.attempt_at = lane.last_at
        return lane.turn.span

    def _end_turn(self, lane: _Lane, at: float, error_type: str | None = None, text: str | None = None) -> None:
        self._end_call(lane, at, error_type, text)
        if lane.turn is not None:
            lane.turn.end(at, error_type, text)
            lane.turn = None

    # Model calls.

    def _begin_call(self, lane: _Lane, model: str | None, turn: Span, *, streamed: bool) -> _Open:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": self._provider_name,
        }
        if model:
            attributes["gen_ai.request.model"] = model
        more: dict[str, Any] = {"gen_ai.request.stream": True} if streamed else {}
        if self._conversation:
            more["gen_ai.conversation.id"] = self._conversation
        name = f"chat {model}" if model else "chat"
        lane.call = self._start(name, turn, lane.last_at, {**attributes, **more}, client=True)
        lane.call.attributes = attributes
        return lane.call

    def _apply_model(self, event: Event, lane: _Lane) -> None:
        data, at = event.data, event.at
        kind: str = data.type
        response = read_field(data, "response")
        if lane.turn is not None and lane.is_answered:
            self._end_turn(lane, lane.last_at)
        turn = self._begin_turn(lane) if lane.turn is None else lane.turn.span
        call = lane.call
        if call is None:
            model = self._request_model or read_field(response, "model")
            call = self._begin_call(lane, model, turn, streamed=kind not in _ENDS)
        if lane.attempt is not None and lane.attempt != event.attempt:
            self._end_attempt(lane, lane.last_at, "broken")
        lane.attempt = event.attempt
        if kind.endswith(".delta"):
            if self._class is None:
                first_s = at - lane.attempt_at
                call.span.set_attribute("gen_ai.response.time_to_first_chunk", first_s)
                self._instruments.first_chunk.record(first_s, call.attributes)
            self._class, self._attempt, self._path = data.__class__, event.attempt, event.path
        elif kind in _ENDS:
            if response is not None:
                self._describe_response(call, response)
            if kind == "response.completed":
                self._end_attempt(lane, at)
                self._end_call(lane, at)
                lane.is_answered = True
            else:
                self._end_attempt(lane, at, kind.removeprefix("response."))
            lane.last_at = at

    def _describe_response(self, call: _Open, response: Any) -> None:
        found = response_attributes(response)
        call.span.set_attributes(found)
        if "gen_ai.response.model" in found:
            call.attributes["gen_ai.response.model"] = found["gen_ai.response.model"]
        if self._content:
            call.span.set_attribute("gen_ai.output.messages", output_messages(response))
        for instrument, name in (
            (self._instruments.input_tokens, "gen_ai.usage.input_tokens"),
            (self._instruments.output_tokens, "gen_ai.usage.output_tokens"),
        ):
            if name in found:
                instrument.add(found[name], call.attributes)

    def _end_attempt(self, lane: _Lane, at: float, error_type: str | None = None) -> None:
        """An attempt gets a span unless it is the only one."""
        number, lane.attempt = lane.attempt, None
        self._class = None
        if number is not None and lane.call is not None and (number > 1 or error_type is not None):
            attributes = {"runstream.attempt": number}
            self._start(f"attempt {number}", lane.call.span, lane.attempt_at, attributes).end(at, error_type)
        lane.attempt_at = at

    def _end_call(self, lane: _Lane, at: float, error_type: str | None = None, text: str | None = None) -> None:
        if lane.call is None:
            return
        if lane.attempt is not None:
            self._end_attempt(lane, at, error_type)
        self._instruments.inference.record(lane.call.end(at, error_type, text), lane.call.attributes)
        lane.call = None

    def _discard(self, event: Event, lane: _Lane) -> None:
        reason: str = event.data.reason
        attributes: dict[str, Any] = {"runstream.reason": reason, "runstream.from_seq": event.data.from_seq}
        next_model = read_field(event.data, "next_model")
        if next_model is not None:
            attributes["runstream.next_model"] = next_model
        self._note("runstream.attempt.discarded", event.at, attributes)
        if event.data.from_seq < event.seq:
            lane.is_answered = False
        elif lane.call is None and (lane.turn is None or lane.is_answered):
            # A call that failed before anything of it was in the log.
            self._end_turn(lane, lane.last_at)
            self._begin_call(lane, self._request_model, self._begin_turn(lane), streamed=self._run.streamed)
            lane.attempt = event.attempt or 1
        self._end_attempt(lane, event.at, reason)

    # Items.

    def _apply_item(self, event: Event, lane: _Lane) -> None:
        kind, raw, at = event.data.type, event.data.raw, event.at
        key = str(read_field(raw, "call_id"))
        if kind == "tool_call_item":
            self._start_tool(event, lane)
        elif kind == "tool_call_output_item":
            nested = self._lanes.pop((*event.path, key), None)
            if nested is not None:
                self._end_agent(nested, at)
            waiting = self._tools.get((event.path, key))
            if waiting:
                tool = waiting.pop(0)
                if self._content:
                    tool.span.set_attribute("gen_ai.tool.call.result", as_json(read_field(raw, "output")))
                outcome = read_text(event.data.more, "outcome")
                self._end_tool(tool, at, None if outcome in (None, "done") else outcome)
        elif kind == "handoff_call_item":
            self._handoffs[event.path, key] = at
        elif kind == "handoff_output_item":
            more: dict[str, Any] = event.data.more or {}
            target = str(more.get("target") or "")
            attributes = {"runstream.handoff.source": str(more.get("source") or ""), "runstream.handoff.target": target}
            began_at = self._handoffs.pop((event.path, key), at)
            above = self._above(lane) if lane.turn is None else lane.turn.span
            self._start(f"handoff {target}".rstrip(), above, began_at, attributes).end(at)
        elif kind == "tool_approval_item":
            name = read_field(raw, "name")
            self._note("runstream.approval.requested", at, {} if name is None else {"gen_ai.tool.name": str(name)})

    def _start_tool(self, event: Event, lane: _Lane) -> None:
        raw = event.data.raw
        call_id = read_field(raw, "call_id")
        name = str(read_field(raw, "name") or read_field(raw, "type"))
        key = str(call_id or read_field(raw, "id") or "")
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.type": "function" if call_id is not None else "extension",
        }
        above = self._above(lane) if lane.turn is None else lane.turn.span
        tool = self._start(f"execute_tool {name}", above, event.at, {**attributes, "gen_ai.tool.call.id": key})
        tool.attributes = attributes
        if self._content and (arguments := read_field(raw, "arguments")) is not None:
            tool.span.set_attribute("gen_ai.tool.call.arguments", as_json(arguments))
        if call_id is None:
            tool.end(event.at)  # the provider ran it within the model call: when, the log does not tell
        else:
            self._tools.setdefault((event.path, key), []).append(tool)

    def _end_tool(self, tool: _Open, at: float, error_type: str | None = None) -> None:
        self._instruments.tool.record(tool.end(at, error_type), tool.attributes)

    def _add_guardrail(self, event: Event, lane: _Lane) -> None:
        """A check is over when the log tells of it, and has a span of its own times."""
        told: GuardrailChecked = event.data
        attributes: dict[str, Any] = {
            "runstream.guardrail.name": told.name,
            "runstream.guardrail.about": told.about,
            "runstream.guardrail.outcome": told.outcome,
            "runstream.guardrail.delay_s": told.delay_s,
        }
        if told.about == "stream":
            attributes["runstream.guardrail.checks"] = told.checks
            attributes["runstream.guardrail.characters"] = told.characters
            attributes["runstream.guardrail.delay_max_s"] = told.delay_max_s
        above = lane.agents.get(event.agent) or self._above(lane)
        if lane.turn is not None and not told.about.endswith("input"):
            above = lane.turn.span
        if told.call_id is not None:
            attributes["gen_ai.tool.call.id"] = told.call_id
            waiting = self._tools.get((event.path, told.call_id))
            above = waiting[-1].span if waiting else above
        if self._content and told.info is not None:
            attributes["runstream.guardrail.info"] = as_json(told.info)
        span = self._start(f"guardrail {told.name}", above, told.began_at, attributes)
        span.end(told.began_at + told.duration_s, told.outcome if told.outcome == "failed" else None)

    # The end.

    def _end(self, event: Event) -> None:
        end: RunEnd = event.data
        at = event.at
        error_type: str | None = None if end.error is None else end.error.type
        text = end.error.message if self._content and end.error is not None else None
        broken = error_type or ("cancelled" if end.status == "cancelled" else None)
        for tool in [tool for waiting in self._tools.values() for tool in waiting]:
            self._end_tool(tool, at, broken or end.status)
        for lane in sorted(self._lanes.values(), key=lambda lane: -len(lane.path)):
            is_request = error_type is not None and (error_type in _REQUEST_ERRORS or error_type.startswith("Model"))
            if is_request and not lane.path and lane.call is None and (lane.turn is None or lane.is_answered):
                # A call that failed before anything of it was in the log.
                self._end_turn(lane, lane.last_at)
                self._begin_call(lane, self._request_model, self._begin_turn(lane), streamed=self._run.streamed)
            self._end_agent(lane, at, broken, text)
        root = self._root
        if root is not None:
            root.span.set_attribute("runstream.run.status", end.status)
            root.span.set_attributes({f"runstream.usage.{name}": count for name, count in (end.usage or {}).items()})
            if self._content and end.final_output is not None:
                parts = [{"type": "text", "content": as_json(end.final_output)}]
                root.span.set_attribute(
                    "gen_ai.output.messages", as_json([{"role": "assistant", "parts": parts, "finish_reason": "stop"}])
                )
            self._instruments.workflow.record(root.end(at, error_type, text), root.attributes)
        self._on_end(self._run.run_id, None)
