"""Log lines of runs: one for each important event, with fields for machines. No content unless it is asked for.

Owns `RunLogger`, an observer, and `JsonFormatter`. Lines go to the standard `logging` with their fields as `extra`, or
to a structlog logger, if one is given, as keywords. Sampling is by run: a run's lines are all there, or only those of
level WARNING and above.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runstream.agent.raw_item import read_field, read_text
from runstream.errors import UserError
from runstream.events.codec import plain
from runstream.events.event import (
    AGENT_START,
    APPROVAL_RESOLVED,
    ATTEMPT_DISCARDED,
    GUARDRAIL,
    INPUT_ADDED,
    ITEM,
    MODEL,
    RUN_END,
    RUN_QUEUED,
    RUN_START,
    Event,
)
from runstream.observe.metrics import FoldListener, MetricsFold

if TYPE_CHECKING:
    from runstream.observe.figures import AttemptMetrics, ToolMetrics
    from runstream.observe.observers import EventSink, ObservedRun
    from runstream.observe.sketch import Sketch

__all__ = ["JsonFormatter", "RunLogger"]

_Emit = Callable[[int, str, dict[str, Any]], None]


class RunLogger:
    """Observes runs: `set_observers([RunLogger()])`. Lines go to the logger `runstream.runs` unless another is given.

    `sample` is the share of runs (0 to 1) that are logged in full; which ones depends on their ids alone, so that all
    processes choose the same. `content` adds inputs, arguments, outputs and the texts of errors.
    """

    def __init__(self, logger: Any = None, *, sample: float = 1.0, content: bool = False) -> None:
        if not 0 <= sample <= 1:
            raise UserError(f"sample must be from 0 to 1, not {sample}")
        self._logger: Any = logging.getLogger("runstream.runs") if logger is None else logger
        self._is_standard = isinstance(self._logger, (logging.Logger, logging.LoggerAdapter))
        self._sample = sample
        self._content = content

    def __call__(self, run: ObservedRun) -> EventSink:
        is_sampled = zlib.crc32(run.run_id.encode()) < self._sample * 2**32
        lines = _RunLines(self._emit if is_sampled else self._emit_warnings, content=self._content)
        return lines.apply

    def _emit(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self._is_standard:
            self._logger.log(level, event, **fields)
        elif self._logger.isEnabledFor(level):
            text = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
            self._logger.log(level, "%s %s", event, text, extra={"event": event, **fields})

    def _emit_warnings(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if level >= logging.WARNING:
            self._emit(level, event, fields)


def _shown(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(c.isspace() or c in '"=' for c in text) else text


class _RunLines(FoldListener):
    """The lines of one run."""

    def __init__(self, emit: _Emit, *, content: bool) -> None:
        self._emit = emit
        self._content = content
        self._fold = MetricsFold(listener=self)
        self._event: Event | None = None
        self._is_queued = False

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self._event = event
        self._fold.apply(event)
        kind = event.kind
        if kind == MODEL:
            return
        data = event.data
        if kind == ITEM:
            self._item(data)
        elif kind == RUN_START:
            size = {"input_chars": len(data.input)} if isinstance(data.input, str) else {"input_items": len(data.input)}
            self._line(logging.INFO, kind, **size, **self._said("input", data.input))
        elif kind == RUN_QUEUED:
            self._queued(data.position)
        elif kind == AGENT_START:
            self._line(logging.INFO, kind, previous=data.previous)
        elif kind == ATTEMPT_DISCARDED:
            self._line(
                logging.WARNING,
                kind,
                reason=data.reason,
                from_seq=data.from_seq,
                next_model=read_field(data, "next_model"),
            )
        elif kind == APPROVAL_RESOLVED:
            self._line(logging.INFO, kind, tool=data.tool_name, call_id=data.call_id, approved=data.approved)
        elif kind == GUARDRAIL:
            self._line(
                logging.INFO if data.outcome == "passed" else logging.WARNING,
                kind,
                guardrail=data.name,
                about=data.about,
                outcome=data.outcome,
                duration_s=round(data.duration_s, 6),
                delay_s=round(data.delay_s, 6),
                tool=data.tool_name,
                call_id=data.call_id,
            )
        elif kind == INPUT_ADDED:
            self._line(logging.INFO, kind, input_items=len(data.items), **self._said("input", data.items))
        elif kind == RUN_END:
            self._end(data)

    def _line(self, level: int, name: str, **fields: Any) -> None:
        event = self._event
        if event is None:
            return
        where: dict[str, Any] = {"run_id": event.run_id, "seq": event.seq, "agent": event.agent}
        if event.path:
            where["path"] = "/".join(event.path)
        self._emit(level, name, where | {name: value for name, value in fields.items() if value is not None})

    def _said(self, name: str, value: Any) -> dict[str, Any]:
        return {name: plain(value)} if self._content else {}

    def _queued(self, position: int) -> None:
        """One line when the wait begins, and one when it is over."""
        if self._is_queued != bool(position):
            self._is_queued = bool(position)
            waited_s = None if position else round(self._fold.metrics.queued_s, 6)
            self._line(logging.INFO, RUN_QUEUED, position=position, queued_s=waited_s)

    def _item(self, data: Any) -> None:
        raw = data.raw
        if data.type == "tool_call_item":
            name = read_field(raw, "name") or read_field(raw, "type")
            arguments = read_field(raw, "arguments")
            self._line(
                logging.INFO,
                "tool.called",
                tool=name,
                call_id=read_field(raw, "call_id") or read_field(raw, "id"),
                arguments_chars=_size(arguments),
                **self._said("arguments", arguments),
            )
        elif data.type == "handoff_output_item":
            more: dict[str, Any] = data.more or {}
            self._line(logging.INFO, "handoff", source=more.get("source"), target=more.get("target"))
        elif data.type == "tool_approval_item":
            self._line(logging.INFO, "approval.requested", tool=read_field(raw, "name"))

    def _end(self, data: Any) -> None:
        level = logging.ERROR if data.status == "failed" else logging.INFO
        metrics, error = self._fold.metrics, data.error
        self._line(
            level,
            RUN_END,
            status=data.status,
            duration_s=round(metrics.duration_s, 6),
            first_text_s=None if metrics.first.text_s is None else round(metrics.first.text_s, 6),
            turns=len(metrics.turns),
            retries=metrics.retries,
            tools=len(metrics.tools),
            total_tokens=metrics.usage.total_tokens,
            error_type=metrics.error_type,
            error_code=metrics.error_code,
            **({} if error is None else self._said("error", error.message)),
        )

    # What the fold tells.

    def attempt_ended(self, attempt: AttemptMetrics, gaps: Sketch, agent: str | None) -> None:
        self._line(
            logging.INFO if attempt.outcome == "completed" else logging.WARNING,
            "model.ended",
            outcome=attempt.outcome,
            attempt=attempt.number,
            model=attempt.model,
            duration_s=round((attempt.ended_at or attempt.started_at) - attempt.started_at, 6),
            first_text_s=None if attempt.first.text_s is None else round(attempt.first.text_s, 6),
            stalls=attempt.gaps.stalls or None,
            output_tokens=None if attempt.usage is None else attempt.usage.output_tokens,
        )

    def attempt_began(self, number: int, agent: str | None) -> None:
        if number > 1:
            self._line(logging.WARNING, "model.retried", attempt=number)

    def tool_ended(self, tool: ToolMetrics) -> None:
        data = None if self._event is None else self._event.data
        output = None if data is None else read_field(data.raw, "output")
        outcome = None if data is None else read_text(data.more, "outcome")
        self._line(
            logging.WARNING if outcome in ("failed", "timed_out", "unknown") else logging.INFO,
            "tool.output",
            tool=tool.name,
            call_id=tool.call_id,
            outcome=outcome,
            duration_s=round(tool.duration_s or 0.0, 6),
            output_chars=_size(output),
            **self._said("output", output),
        )


def _size(value: Any) -> int | None:
    if value is None:
        return None
    return len(value) if isinstance(value, str) else len(json.dumps(plain(value), ensure_ascii=False))


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (seconds since the epoch), `level`, `logger`, `event` or `message`, the fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        line: dict[str, Any] = {"time": record.created, "level": record.levelname, "logger": record.name}
        if "event" not in fields:
            line["message"] = record.getMessage()
        line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
