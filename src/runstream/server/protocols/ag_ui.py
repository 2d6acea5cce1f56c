"""AG-UI 1.0: the run of a thread as its events, and its input as ours. https://docs.ag-ui.com/spec/1.0

A message is a text message, reasoning a span with one message, a call of a tool a tool call with its result; the
active agent is a step, an agent that runs as a tool a subagent. A run that waits for approvals ends with an interrupt
for each, and goes on in the run that resumes them. What was discarded is taken back by a snapshot of what counts.

Invariants: every stream is what the protocol's verifier accepts; it ends with RUN_FINISHED or RUN_ERROR unless it was
cut; lines end with LF, as the official client demands.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, Literal, cast

import msgspec

from runstream.events.event import Event, RunEnd
from runstream.server.protocols.native import redacted
from runstream.server.protocols.telling import HEARTBEAT, NOT_WAITING, Call, Said, Telling, frame, pause_id
from runstream.view.entries import DiscardedEntry, HandoffEntry, InputEntry, MessageEntry, ToolEntry

__all__ = ["PROTOCOL_VERSION", "AgUi", "Resume", "RunAgentInput", "answer_of", "input_items"]

PROTOCOL_VERSION: Final = "1.0"
_ANSWER_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "message": {"type": "string", "description": "What the model is told where it is not."},
        "always": {"type": "boolean", "description": "Whether it holds for all calls of this tool in this run."},
    },
    "required": ["approved"],
}


class Resume(msgspec.Struct):
    """An answer to an interrupt."""

    interruptId: str
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class RunAgentInput(msgspec.Struct):
    """The body of a request. What it has beyond this (state, tools, context, forwardedProps) is not used."""

    threadId: str
    runId: str
    messages: list[dict[str, Any]] = []
    resume: list[Resume] = []


class AgUi(Telling):
    """One run of the protocol. Snapshots restate the messages of the client. `is_known` says that it may have some of
    this run already, as it has asked for it before: that is taken back first."""

    def __init__(
        self,
        run_id: str,
        given: RunAgentInput,
        *,
        told_up_to: int = 0,
        live_from: int = 0,
        expected: Collection[str] = (),
        is_known: bool = False,
    ) -> None:
        super().__init__(run_id, told_up_to=told_up_to, live_from=live_from, expected=expected)
        self._given = given
        # What the client has of this very run is told by its log, and may count no more.
        self._before = [message for message in given.messages if not str(message.get("id")).startswith(f"{run_id}-")]
        self._step: str | None = None
        self._subagents: dict[tuple[str, ...], str] = {}
        self._inputs: dict[int, InputEntry] = {}
        self._void: list[Said | Call] = []
        started = {
            "type": "RUN_STARTED",
            "threadId": given.threadId,
            "runId": given.runId,
            "protocolVersion": PROTOCOL_VERSION,
            "metadata": {"runstream": {"runId": run_id}},
        }
        self.opening = HEARTBEAT + frame(started)
        if is_known:
            self.opening += frame({"type": "MESSAGES_SNAPSHOT", "messages": self._before})

    def _event(self, type: str, path: tuple[str, ...] = (), **fields: Any) -> None:
        event = {"type": type, "timestamp": round(self.at * 1000), **fields}
        if path:
            event["subagentRunId"] = self._subagent(path)
        self._write(event)

    def _custom(self, name: str, value: dict[str, Any], path: tuple[str, ...] = ()) -> None:
        self._event("CUSTOM", path, name=f"runstream.{name}", value=value)

    # Agents.

    def agent_began(self, event: Event) -> None:
        name, previous = event.agent or "", event.data.previous
        if previous is not None:
            self._custom("handoff", {"from": previous, "to": name}, event.path)
        if event.path:
            self._subagent(event.path, name)
        else:
            self._end_step()
            self._begin_step(name)

    def _begin_step(self, name: str) -> None:
        self._step = name
        self._event("STEP_STARTED", stepName=name)

    def _end_step(self) -> None:
        if self._step is not None:
            self._event("STEP_FINISHED", stepName=self._step)
            self._step = None

    def _subagent(self, path: tuple[str, ...], name: str | None = None) -> str:
        """Its id; it is announced if it was not yet."""
        known = self._subagents.get(path)
        if known is not None:
            return known
        parent = self._subagent(path[:-1]) if len(path) > 1 else None
        call = self._call_of(path)
        subagent = f"{self.run_id}-{'-'.join(path) if call is None else call.entry.id}"
        self._subagents[path] = subagent
        started: dict[str, Any] = {"subagentRunId": subagent, "name": name or self._name_of(call)}
        if parent is not None:
            started["parentSubagentRunId"] = parent
        if call is not None:
            started["parentToolCallId"] = call.id
        self._event("SUBAGENT_STARTED", **started)
        return subagent

    def _call_of(self, path: Sequence[str]) -> Call | None:
        *outer, call_id = path
        for told in reversed(self.said.values()):
            if isinstance(told, Call) and told.entry.call_id == call_id and list(told.path) == outer:
                return told
        return None

    def _name_of(self, call: Call | None) -> str:
        nested = call.entry.nested if call is not None and isinstance(call.entry, ToolEntry) else None
        return (nested.agent if nested is not None else None) or "agent"

    def _end_subagents(self, within: tuple[str, ...], *, error: str | None = None) -> None:
        """Those under that path, the innermost first; the outermost with the error, if there is one."""
        for path in sorted(self._subagents, key=len, reverse=True):
            if path[: len(within)] == within:
                subagent = self._subagents.pop(path)
                if error is not None and path == within:
                    self._event("SUBAGENT_ERROR", subagentRunId=subagent, message=error)
                else:
                    self._event("SUBAGENT_FINISHED", subagentRunId=subagent)

    def resumed(self) -> None:
        # What the run before has closed when it paused begins again, where it is needed.
        self._subagents.clear()
        self._step = None
        self._void.clear()
        if self.view.agent is not None:
            self._begin_step(self.view.agent)

    # What is said.

    def said_began(self, told: Said) -> None:
        if isinstance(told.entry, MessageEntry):
            name = {} if told.agent is None else {"name": told.agent}
            self._event("TEXT_MESSAGE_START", told.path, messageId=told.id, role="assistant", **name)
        else:
            self._event("REASONING_START", told.path, messageId=told.id)
            self._event("REASONING_MESSAGE_START", told.path, messageId=told.id, role="reasoning")

    def said_more(self, told: Said, piece: str) -> None:
        is_text = isinstance(told.entry, MessageEntry)
        type = "TEXT_MESSAGE_CONTENT" if is_text else "REASONING_MESSAGE_CONTENT"
        self._event(type, told.path, messageId=told.id, delta=piece)

    def said_ended(self, told: Said) -> None:
        if isinstance(told.entry, MessageEntry):
            self._event("TEXT_MESSAGE_END", told.path, messageId=told.id)
        else:
            self._event("REASONING_MESSAGE_END", told.path, messageId=told.id)
            self._event("REASONING_END", told.path, messageId=told.id)

    def added(self, entry: InputEntry) -> None:
        self._inputs[entry.id] = entry
        message_id = f"{self.run_id}-{entry.id}"
        self._event("TEXT_MESSAGE_START", messageId=message_id, role="user")
        self._event("TEXT_MESSAGE_CONTENT", messageId=message_id, delta=entry.text)
        self._event("TEXT_MESSAGE_END", messageId=message_id)

    # Tools.

    def call_began(self, told: Call) -> None:
        parent = f"{self.run_id}-{told.entry.id}"
        self._event(
            "TOOL_CALL_START", told.path, toolCallId=told.id, toolCallName=told.entry.name, parentMessageId=parent
        )

    def call_grew(self, told: Call, piece: str) -> None:
        self._event("TOOL_CALL_ARGS", told.path, toolCallId=told.id, delta=piece)

    def call_ready(self, told: Call) -> None:
        self._event("TOOL_CALL_END", told.path, toolCallId=told.id)

    def call_ended(self, told: Call) -> None:
        within = (*told.path, told.entry.call_id or "")
        self._end_subagents(within, error=_output(told) if told.entry.state == "failed" else None)
        self._event(
            "TOOL_CALL_RESULT",
            told.path,
            messageId=f"{self.run_id}-{told.entry.id}-output",
            toolCallId=told.id,
            role="tool",
            content=_output(told),
            metadata={"runstream": {"state": told.entry.state}},
        )

    def progressed(self, told: Call, event: Event) -> None:
        report = event.data
        value = {"toolCallId": told.id, "toolName": told.entry.name, "data": _field(report, "data")}
        self._custom("progress", value, told.path)

    # Void attempts.

    def voided(self, told: Said | Call) -> None:
        self._void.append(told)

    def discarded(self, entry: DiscardedEntry, event: Event) -> None:
        void, self._void = self._void, []
        value = {
            "reason": entry.reason,
            "detail": None if entry.detail is None else redacted(entry.detail),
            "nextModel": entry.next_model,
            "messageIds": [told.id for told in void if isinstance(told, Said)],
            "toolCallIds": [told.id for told in void if isinstance(told, Call)],
        }
        self._custom("discarded", value, event.path)
        if void:
            self._event("MESSAGES_SNAPSHOT", messages=self._messages())

    def _messages(self) -> list[dict[str, Any]]:
        """The conversation, as far as it counts."""
        own: list[dict[str, Any]] = []
        for entry_id in sorted((*self.said, *self._inputs)):
            told = self.said.get(entry_id)
            if told is None:
                added = self._inputs[entry_id]
                own.append({"id": f"{self.run_id}-{entry_id}", "role": "user", "content": added.text})
            elif not told.is_void:
                own += self._message_of(told)
        return self._before + own

    def _message_of(self, told: Said | Call) -> list[dict[str, Any]]:
        owner = {"subagentRunId": self._subagent(told.path)} if told.path else {}
        if isinstance(told, Said):
            role = "assistant" if isinstance(told.entry, MessageEntry) else "reasoning"
            return [{"id": told.id, "role": role, "content": told.entry.text[: told.sent], **owner}]
        function = {"name": told.entry.name, "arguments": told.entry.arguments[: told.sent]}
        call = {"id": told.id, "type": "function", "function": function}
        message_id = f"{self.run_id}-{told.entry.id}"
        found: list[dict[str, Any]] = [{"id": message_id, "role": "assistant", "toolCalls": [call], **owner}]
        if told.state == "ended":
            result_id = f"{message_id}-output"
            found.append({"id": result_id, "role": "tool", "toolCallId": told.id, "content": _output(told), **owner})
        return found

    # Ends.

    def gap(self, reason: str) -> None:
        self._custom("gap", {"reason": reason})

    def paused(self) -> None:
        interrupts: list[dict[str, Any]] = []
        for told in self.waiting():
            interrupt: dict[str, Any] = {
                "id": pause_id(self.run_id, self.seq, told.entry.call_id or ""),
                "reason": "tool_call",
                "message": f"The tool {told.entry.name} may run only if you approve.",
                "toolCallId": told.id,
                "responseSchema": _ANSWER_SCHEMA,
            }
            if told.path:
                interrupt["subagentRunId"] = self._subagent(told.path)
            interrupts.append(interrupt)
        for path in sorted(self._subagents, key=len, reverse=True):
            subagent = self._subagents.pop(path)
            own = [each["id"] for each in interrupts if each.get("subagentRunId") == subagent]
            outcome = {"type": "suspended", "interruptIds": own}
            self._event("SUBAGENT_FINISHED", subagentRunId=subagent, outcome=outcome)
        self._end_step()
        self._finish({"type": "interrupt", "interrupts": interrupts})

    def _finish(self, outcome: dict[str, Any], **fields: Any) -> None:
        given = self._given
        self._event("RUN_FINISHED", threadId=given.threadId, runId=given.runId, outcome=outcome, **fields)

    def broken(self, code: str) -> None:
        message = "The stream cannot go on, though the run has not ended: ask for it again with the same runId."
        self._event("RUN_ERROR", message=message, code=code)

    def ended(self, end: RunEnd) -> None:
        if end.status == "interrupted" and self.waiting() and not self.is_answer:
            self.paused()
            return
        self._end_subagents(())
        self._end_step()
        usage: dict[str, Any] = {} if end.usage is None else {"usage": [_usage(end.usage)]}
        if end.status == "completed":
            self._finish({"type": "success"}, result=end.final_output, **usage)
        elif end.error is not None:
            code = end.error.code or end.error.type
            self._event("RUN_ERROR", message=redacted(end.error.message), code=code, **usage)
        elif end.status == "interrupted":
            self._event("RUN_ERROR", message=NOT_WAITING, code="run_ended", **usage)
        else:
            self._finish({"type": "cancelled"}, **usage)


def _field(data: Any, name: str) -> Any:
    return cast("dict[str, Any]", data).get(name) if isinstance(data, dict) else getattr(data, name, None)


def _output(told: Call) -> str:
    """What the tool gave; for people's eyes where it gave nothing."""
    entry = told.entry
    if entry.output is not None:
        return entry.output
    if isinstance(entry, HandoffEntry) and entry.target is not None:
        return msgspec.json.encode({"agent": entry.target}).decode()
    return "" if entry.state == "done" else f"({entry.state})"


def _usage(usage: dict[str, int]) -> dict[str, int]:
    names = {"input_tokens": "inputTokens", "output_tokens": "outputTokens", "total_tokens": "totalTokens"}
    return {given: usage[name] for name, given in names.items() if name in usage}


# The input.


def answer_of(resume: Resume) -> tuple[bool, bool, str | None]:
    """Whether the call may run, whether that holds for all calls of the tool, and what the model is told otherwise.
    Raises ValueError for an answer that says neither yes nor no."""
    if resume.status == "cancelled":
        return False, False, None
    payload = resume.payload
    if isinstance(payload, bool):
        return payload, False, None
    fields = cast("dict[str, Any]", payload) if isinstance(payload, dict) else {}
    approved, message = fields.get("approved"), fields.get("message")
    if not isinstance(approved, bool):
        raise ValueError('the payload of a resolved interrupt is {"approved": true} or {"approved": false}')
    return approved, fields.get("always") is True, message if isinstance(message, str) else None


def input_items(messages: list[dict[str, Any]], *, any_items: bool) -> list[dict[str, Any]]:
    """The messages as input items: what the user and the assistant said. Instructions, and calls of tools with their
    results, only with `any_items`; reasoning and activities never. Raises ValueError for content that is none."""
    items: list[dict[str, Any]] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "user":
            items.append({"role": "user", "content": _content(content)})
        elif role == "assistant":
            if isinstance(content, str) and content:
                items.append({"role": "assistant", "content": content})
            if any_items:
                items += [_call_item(call) for call in cast("list[Any]", message.get("toolCalls") or [])]
        elif role in ("system", "developer") and any_items:
            items.append({"role": role, "content": str(content or "")})
        elif role == "tool" and any_items:
            output = _content(content)
            items.append({"type": "function_call_output", "call_id": str(message.get("toolCallId")), "output": output})
    return items


def _call_item(call: Any) -> dict[str, Any]:
    function = _field(call, "function")
    return {
        "type": "function_call",
        "call_id": str(_field(call, "id")),
        "name": str(_field(function, "name")),
        "arguments": str(_field(function, "arguments") or "{}"),
    }


def _content(content: Any) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("the content of a message is a text, or a list of parts")
    return [_part(part) for part in cast("list[Any]", content)]


def _part(part: Any) -> dict[str, Any]:
    kind, source = _field(part, "type"), _field(part, "source")
    if kind == "text":
        return {"type": "input_text", "text": str(_field(part, "text") or "")}
    value, media_type = _field(source, "value"), _field(source, "mimeType")
    source_type = _field(source, "type")
    if isinstance(value, str) and source_type in ("url", "data"):
        is_data = source_type == "data"
        url = f"data:{media_type};base64,{value}" if is_data else value
        if kind == "image":
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        if kind == "audio" and is_data:
            form = str(media_type).rpartition("/")[2].replace("mpeg", "mp3")
            return {"type": "input_audio", "input_audio": {"data": value, "format": form}}
        if kind in ("document", "file"):
            name = str(_field(_field(part, "metadata"), "filename") or "document")
            return {"type": "input_file", "filename": name, **({"file_data": url} if is_data else {"file_url": url})}
    raise ValueError(f"parts of messages are text, image, audio or document with data or a URL, not {kind!r}")
