"""The UI message stream of the AI SDK 7: a run as the parts of one assistant message, and a chat's messages as ours.

A turn of the run's own agent is a step, so that `reset-step` takes back what a discarded attempt has said. Calls are
tool parts named after their tools; what nested agents do comes item by item as `data-nested`; the active agent as
`data-agent`, reports of tools as `data-progress`. A run that waits for approvals ends the stream, and goes on with the
request that brings the answers.

Invariants: every chunk is of the client's schema; the message validates after each of them; a stream that was not cut
has `finish`, `abort` or `error`, and ends with `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, cast

import msgspec

from runstream.events.event import Event, RunEnd
from runstream.server.protocols.native import redacted
from runstream.server.protocols.telling import HEARTBEAT, NOT_WAITING, Call, Said, Telling, frame, pause_id
from runstream.view.entries import DiscardedEntry, HandoffEntry, InputEntry, MessageEntry, ToolEntry

__all__ = ["HEADERS", "AiSdk", "ChatRequest", "answers_of", "input_items"]

HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}
_DONE: Final = b"data: [DONE]\n\n"
_OUR_KINDS: Final = frozenset(("function_call", "custom_tool_call"))


class ChatRequest(msgspec.Struct):
    """The body of DefaultChatTransport; `agent` is ours. What it has beyond this is not used."""

    id: str
    messages: list[dict[str, Any]] = []
    trigger: str = "submit-message"
    agent: str | None = None


class AiSdk(Telling):
    """One response of a chat: the whole run, or what comes after an answer."""

    def __init__(self, run_id: str, *, told_up_to: int = 0, live_from: int = 0, expected: Collection[str] = ()) -> None:
        super().__init__(run_id, told_up_to=told_up_to, live_from=live_from, expected=expected)
        self._in_step = False
        self._requested: dict[int, str] = {}
        """Ids of the approvals that the client was asked for, by the ids of the calls' entries."""
        start = {"type": "start", "messageId": run_id, "messageMetadata": {"runId": run_id}}
        self.opening = HEARTBEAT + frame(start)

    def _chunk(self, type: str, **fields: Any) -> None:
        self._write({"type": type, **fields})

    def _data(self, name: str, id: str, data: dict[str, Any]) -> None:
        self._chunk(f"data-{name}", id=id, data=data)

    # Steps and agents.

    def turn_began(self) -> None:
        self._end_step()
        self._in_step = True
        self._chunk("start-step")

    def _end_step(self) -> None:
        if self._in_step:
            self._in_step = False
            self._chunk("finish-step")

    def agent_began(self, event: Event) -> None:
        if not event.path:
            # In the step before, or before all steps: a discarded attempt does not take it along.
            self._data("agent", f"{self.run_id}-{self.seq}", {"name": event.agent, "previous": event.data.previous})

    # What is said.

    def said_began(self, told: Said) -> None:
        if not told.path:
            self._chunk(f"{_kind(told)}-start", id=told.id)

    def said_more(self, told: Said, piece: str) -> None:
        if not told.path:
            self._chunk(f"{_kind(told)}-delta", id=told.id, delta=piece)

    def said_ended(self, told: Said) -> None:
        if told.path:
            self._nested(told)
        else:
            self._chunk(f"{_kind(told)}-end", id=told.id)

    def added(self, entry: InputEntry) -> None:
        parts = [{"type": "text", "text": entry.text}]
        self._chunk("steering-message", id=f"{self.run_id}-{entry.id}", parts=parts)

    def _nested(self, told: Said | Call) -> None:
        """What a nested agent has said or done, or that it counts no more."""
        data: dict[str, Any] = {"toolCallId": self._outermost(told.path), "agent": told.agent, "depth": len(told.path)}
        if isinstance(told, Said):
            data |= {"kind": "text" if _kind(told) == "text" else "reasoning", "text": told.entry.text}
            id = told.id
        else:
            id = f"{self.run_id}-{told.entry.id}"
            data |= {"kind": "tool", "name": told.entry.name, "input": _input(told), "state": told.entry.state}
            if told.state == "ended":
                data["output"] = told.entry.output
        if told.entry.void:
            data["discarded"] = True
        self._data("nested", id, data)

    def _outermost(self, path: tuple[str, ...]) -> str:
        """Id of the tool part that a nested agent runs under."""
        found = path[0]
        for told in self.said.values():
            if isinstance(told, Call) and not told.path and told.entry.call_id == path[0]:
                found = told.id
        return found

    # Tools.

    def _is_part(self, told: Call) -> bool:
        """Whether the call has a tool part: of nested calls those that people are asked about."""
        return not told.path or told.entry.id in self._requested

    def call_began(self, told: Call) -> None:
        if not told.path:
            self._chunk("tool-input-start", toolCallId=told.id, toolName=told.entry.name, **_executed(told))

    def call_grew(self, told: Call, piece: str) -> None:
        if not told.path:
            self._chunk("tool-input-delta", toolCallId=told.id, inputTextDelta=piece)

    def call_ready(self, told: Call) -> None:
        if told.path:
            self._nested(told)
        else:
            self._whole_input(told)

    def _whole_input(self, told: Call) -> None:
        entry = told.entry
        title = {"title": entry.title} if isinstance(entry, ToolEntry) and entry.title else {}
        self._chunk(
            "tool-input-available",
            toolCallId=told.id,
            toolName=entry.name,
            input=_input(told),
            **_executed(told),
            **title,
        )

    def _request(self, told: Call) -> None:
        """Only at a pause: the answer is taken by what comes after this place in the log."""
        if told.entry.id not in self._requested:
            if told.path:
                self._whole_input(told)
            approval_id = self._requested[told.entry.id] = self._approval_id(told)
            self._chunk("tool-approval-request", approvalId=approval_id, toolCallId=told.id)

    def _approval_id(self, told: Call) -> str:
        return pause_id(self.run_id, self.seq, told.entry.call_id or "")

    def resumed(self) -> None:
        for told in self.waiting():
            self._requested[told.entry.id] = self._approval_id(told)
        self._in_step = False

    def answered(self, told: Call) -> None:
        answer = told.entry.answer if isinstance(told.entry, ToolEntry) else None
        if answer is not None:
            self._request(told)
            self._respond(told, answer.approved, answer.message)

    def _respond(self, told: Call, approved: bool, reason: str | None) -> None:
        given = {} if reason is None else {"reason": reason}
        self._chunk("tool-approval-response", approvalId=self._requested[told.entry.id], approved=approved, **given)

    def call_ended(self, told: Call) -> None:
        entry = told.entry
        if told.path:
            self._nested(told)
        if entry.void or not self._is_part(told):
            return
        if isinstance(entry, HandoffEntry):
            if entry.state == "done":
                self._chunk("tool-output-available", toolCallId=told.id, output={"agent": entry.target})
            else:
                self._chunk("tool-output-error", toolCallId=told.id, errorText=entry.output or "(refused)")
            return
        answer, was_asked = entry.answer, entry.id in self._requested
        if was_asked and answer is None:
            # Nobody will answer any more, and what was not approved cannot have failed.
            self._respond(told, False, f"({entry.state})")
        if was_asked and (answer is None or not answer.approved):
            self._chunk("tool-output-denied", toolCallId=told.id)
        elif entry.state == "done":
            output = entry.output if entry.content is None else entry.content
            self._chunk("tool-output-available", toolCallId=told.id, output=output, **_executed(told))
        else:
            text = entry.output or f"({entry.state})"
            self._chunk("tool-output-error", toolCallId=told.id, errorText=text, **_executed(told))

    def progressed(self, told: Call, event: Event) -> None:
        entry = told.entry
        if isinstance(entry, ToolEntry) and entry.progress:
            data = {"toolCallId": told.id, "toolName": entry.name, "data": entry.progress[-1].data}
            data["count"] = entry.progress_count
            self._data("progress", f"{self.run_id}-{entry.id}-progress", data)

    # Void attempts.

    def voided(self, told: Said | Call) -> None:
        if told.path:
            self._nested(told)

    def discarded(self, entry: DiscardedEntry, event: Event) -> None:
        if not event.path and self._in_step:
            self._chunk("reset-step")
        data = {
            "reason": entry.reason,
            "detail": None if entry.detail is None else redacted(entry.detail),
            "nextModel": entry.next_model,
        }
        self._chunk("data-discarded", data=data, transient=True)

    # Ends.

    def gap(self, reason: str) -> None:
        self._data("gap", f"{self.run_id}-gap", {"reason": reason})

    def paused(self) -> None:
        for told in self.waiting():
            self._request(told)
        self._end_step()
        self._chunk("finish", finishReason="tool-calls", messageMetadata=self._metadata("waiting"))

    def _metadata(self, status: str) -> dict[str, Any]:
        view = self.view
        known: dict[str, Any] = {"runId": self.run_id, "status": status, "agent": view.agent, "usage": view.usage}
        known |= {"startedAt": _ms(view.started_at), "endedAt": _ms(view.ended_at)}
        return {name: value for name, value in known.items() if value is not None}

    def broken(self, code: str) -> None:
        self._chunk("error", errorText=f"the stream cannot go on, though the run has not ended ({code}): resume it")

    def closing(self) -> bytes:
        return _DONE

    def ended(self, end: RunEnd) -> None:
        if end.status == "interrupted" and self.waiting() and not self.is_answer:
            self.paused()
            return
        self._end_step()
        metadata = self._metadata(end.status)
        if end.status == "completed":
            self._chunk("finish", finishReason="stop", messageMetadata=metadata)
        elif end.error is not None or end.status == "interrupted":
            text = NOT_WAITING if end.error is None else redacted(end.error.message)
            self._chunk("message-metadata", messageMetadata=metadata)
            self._chunk("error", errorText=text)
            self._chunk("finish", finishReason="error")
        else:
            self._chunk("message-metadata", messageMetadata=metadata)
            self._chunk("abort", reason=end.status)


def _kind(told: Said) -> str:
    return "text" if isinstance(told.entry, MessageEntry) else "reasoning"


def _executed(told: Call) -> dict[str, bool]:
    """What the provider of the model has run itself."""
    entry = told.entry
    return {"providerExecuted": True} if isinstance(entry, ToolEntry) and entry.kind not in _OUR_KINDS else {}


def _input(told: Call) -> Any:
    entry = told.entry
    arguments = entry.arguments
    if isinstance(entry, ToolEntry) and entry.parsed is not None:
        return entry.parsed
    try:
        return msgspec.json.decode(arguments) if arguments else {}
    except (msgspec.DecodeError, UnicodeEncodeError):
        return arguments


def _ms(at: float | None) -> int | None:
    return None if at is None else round(at * 1000)


# The chat's messages.


def answers_of(messages: list[dict[str, Any]]) -> list[tuple[str, bool, str | None]]:
    """What people have said in the last message about calls that wait: the approval's id, the answer, and why."""
    last = messages[-1] if messages else {}
    found: list[tuple[str, bool, str | None]] = []
    if last.get("role") != "assistant":
        return found
    for part in _parts(last):
        approval = part.get("approval")
        if part.get("state") != "approval-responded" or not isinstance(approval, dict):
            continue
        fields = cast("dict[str, Any]", approval)
        id, approved, reason = fields.get("id"), fields.get("approved"), fields.get("reason")
        if isinstance(id, str) and isinstance(approved, bool):
            found.append((id, approved, reason if isinstance(reason, str) and reason else None))
    return found


def input_items(messages: list[dict[str, Any]], *, any_items: bool) -> list[dict[str, Any]]:
    """The messages as input items: what the user and the assistant said. Instructions, and calls of tools with their
    results, only with `any_items`; reasoning and data never."""
    items: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if role == "user":
            content = [_user_part(part) for part in _parts(message) if part.get("type") in ("text", "file")]
            items += [{"role": "user", "content": content}] if content else []
        elif role == "assistant":
            items += _assistant_items(message, any_items=any_items)
        elif role == "system" and any_items:
            text = "".join(str(part.get("text")) for part in _parts(message) if part.get("type") == "text")
            items.append({"role": "system", "content": text})
    return items


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    given = message.get("parts")
    parts = cast("list[Any]", given) if isinstance(given, list) else []
    return [cast("dict[str, Any]", part) for part in parts if isinstance(part, dict)]


def _assistant_items(message: dict[str, Any], *, any_items: bool) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for part in _parts(message):
        kind, text = str(part.get("type")), part.get("text")
        if kind == "text" and isinstance(text, str) and text:
            items.append({"role": "assistant", "content": text})
        elif kind == "steering-message":
            inner = {"role": "user", "parts": part.get("parts")}
            items += input_items([inner], any_items=False)
        elif any_items and (kind == "dynamic-tool" or kind.startswith("tool-")):
            items += _tool_items(part, kind)
    return items


def _tool_items(part: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    state = part.get("state")
    output = part.get("output") if state == "output-available" else part.get("errorText")
    if state not in ("output-available", "output-error"):
        return []
    call_id = str(part.get("toolCallId"))
    name = str(part.get("toolName")) if kind == "dynamic-tool" else kind.removeprefix("tool-")
    arguments = msgspec.json.encode(part.get("input")).decode()
    said = output if isinstance(output, str) else msgspec.json.encode(output).decode()
    return [
        {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments},
        {"type": "function_call_output", "call_id": call_id, "output": said},
    ]


def _user_part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") == "text":
        return {"type": "input_text", "text": str(part.get("text") or "")}
    url, media_type = str(part.get("url") or ""), str(part.get("mediaType") or "")
    if media_type.startswith("image/"):
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    field = "file_data" if url.startswith("data:") else "file_url"
    return {"type": "input_file", "filename": str(part.get("filename") or "file"), field: url}
