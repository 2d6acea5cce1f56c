"""What a run's log tells of its model calls: a pure reading of events, for replaying them.

Owns `RecordedCall` and how a log is taken apart. Must not know models, stores or clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runstream.agent.raw_item import read_field
from runstream.errors import AgentsException, ModelBehaviorError, ModelStreamTruncated, UserError
from runstream.events.event import AGENT_START, ATTEMPT_DISCARDED, GUARDRAIL, ITEM, MODEL, RUN_END, ErrorInfo, Event
from runstream.testing.script_errors import ModelScriptError

__all__ = ["RecordedCall", "ReplayMismatch", "ReplayedError", "calls_of", "without_void"]

_ENDS = frozenset(("response.completed", "response.incomplete", "response.failed", "error"))
_OUTPUTS = frozenset(("tool_output", "handoff_occured"))
# Errors that end a run without its model having failed: after them there was no further call.
_NOT_THE_MODELS = frozenset(
    (
        "LeaseLost",
        "MaxTurnsExceeded",
        "ModelBehaviorError",
        "ModelRefusalError",
        "RunAbandoned",
        "RunTimeoutError",
        "StoreError",
        "StoreUnavailable",
        "ToolTimeoutError",
        "UserError",
    )
)


class ReplayMismatch(ModelScriptError):
    """A replayed program does not do what the recorded one did."""

    code = "replay_mismatch"


class ReplayedError(AgentsException):
    """An error of the recorded run, raised again: of a class of the same name, with the same message."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One model call of a recorded run."""

    number: int
    """Counts from 1."""
    agent: str | None
    """Name of the agent that made it."""
    batches: tuple[tuple[Event, ...], ...]
    """Its events, by the reads that they came in."""
    pauses_s: tuple[float, ...]
    """Before each batch; the first one is the time to the first event."""
    failed_attempts: int = 0
    """How often it had failed, unseen, before these events came."""
    error: Exception | None = None
    """Raised after the events."""
    is_silent: bool = False
    """Whether after the events nothing came any more, until the run was cancelled."""
    answered: frozenset[str] | None = frozenset()
    """Ids of the calls that tools answered since the call before; None where a filter changed what the model saw."""
    is_sure: bool = True
    """False for a call that left no events: it is only known that the run failed."""

    @property
    def called_tools(self) -> list[str]:
        """Names of the functions that its response calls."""
        items: list[Any] = []
        for batch in self.batches:
            for event in batch:
                if event.data.type == "response.output_item.done":
                    items.append(event.data.item)
                elif event.data.type == "response.completed" and event.data.response.output:
                    items = list(event.data.response.output)
        names = [read_field(item, "name") for item in items if read_field(item, "type") == "function_call"]
        return [name for name in names if isinstance(name, str)]


def without_void(events: Iterable[Event]) -> list[Event]:
    """The events that count: without attempts that were discarded, and without the news of it."""
    kept: list[Event] = []
    for event in events:
        if event.kind == ATTEMPT_DISCARDED:
            from_seq: int = event.data.from_seq
            while kept and kept[-1].seq >= from_seq:
                kept.pop()
        else:
            kept.append(event)
    return kept


def calls_of(events: Sequence[Event], *, discarded: bool = False) -> list[RecordedCall]:
    """The model calls of a log, in order. With `discarded`, also those that were discarded: they break off."""
    reading = _Reading()
    for event in events if discarded else without_void(events):
        if not event.path:
            reading.feed(event)
    return reading.close()


class _Reading:
    def __init__(self) -> None:
        self._calls: list[RecordedCall] = []
        self._open: list[Event] = []
        self._before_at = 0.0
        self._began_at = 0.0
        self._answered: set[str] | None = set()
        self._end: Event | None = None

    def feed(self, event: Event) -> None:
        if event.kind == MODEL:
            kind = event.data.type
            if self._open and (kind == "response.created" or event.attempt != self._open[-1].attempt):
                self._finish(_broken())
            if not self._open:
                self._began_at = self._before_at
            self._open.append(event)
            if kind in _ENDS:
                self._finish(None)
        elif event.kind == RUN_END:
            self._end = event
        elif event.kind != GUARDRAIL:  # which may come in the middle of a response
            if self._open:
                # Its items come after a response; these are of one that had no end, or news of a takeover.
                self._finish(_broken())
            if event.kind == ITEM and event.data.name in _OUTPUTS and self._answered is not None:
                self._answered.add(str(read_field(event.data.raw, "call_id")))
            elif event.kind == AGENT_START and event.data.history is not None:
                self._answered = None
        self._before_at = event.at

    def close(self) -> list[RecordedCall]:
        if self._open:
            self._finish(_broken())
        end = None if self._end is None else self._end.data
        last = self._calls[-1] if self._calls else None
        broke_off = last is not None and last.error is not None
        if end is None or end.status == "completed":
            return self._calls
        if end.status == "cancelled" and broke_off and last is not None:
            self._calls[-1] = replace(last, error=None, is_silent=True)
        elif end.status == "failed" and end.error is not None:
            error = _error_of(end.error)
            if broke_off and last is not None:
                self._calls[-1] = replace(last, error=error)
            elif end.error.type not in _NOT_THE_MODELS and not self._ends_with_failure():
                usage: dict[str, int] = end.usage or {}
                attempts = usage.get("requests", 0) - sum(1 + call.failed_attempts for call in self._calls)
                failures = max(attempts - 1, 0)  # the last one is the error itself
                self._calls.append(
                    RecordedCall(
                        len(self._calls) + 1, None, (), (), failures, error, answered=self._answers(), is_sure=False
                    )
                )
        return self._calls

    def _ends_with_failure(self) -> bool:
        """Whether the last call's own events tell that it failed."""
        return bool(self._calls) and self._calls[-1].batches[-1][-1].data.type != "response.completed"

    def _finish(self, error: Exception | None) -> None:
        events, self._open = self._open, []
        batches: list[list[Event]] = []
        pauses_s: list[float] = []
        before_at = self._began_at
        for event in events:
            # Events that came in one read share their time.
            if batches and batches[-1][-1].at == event.at:
                batches[-1].append(event)
            else:
                batches.append([event])
                pauses_s.append(max(event.at - before_at, 0.0))
            before_at = event.at
        self._calls.append(
            RecordedCall(
                len(self._calls) + 1,
                events[0].agent,
                tuple(tuple(batch) for batch in batches),
                tuple(pauses_s),
                max(events[-1].attempt - 1, 0),
                error,
                answered=self._answers(),
            )
        )

    def _answers(self) -> frozenset[str] | None:
        answered, self._answered = self._answered, set()
        return None if answered is None else frozenset(answered)


def _broken() -> Exception:
    return ModelStreamTruncated("the recording of this model call ends here: it had broken off")


def _error_of(info: ErrorInfo) -> Exception:
    for known in (ModelStreamTruncated, ModelBehaviorError):
        if info.type == known.__name__:
            return known(info.message)
    fields = {"code": info.code, "retryable": info.retryable, "__module__": __name__}
    # What refused a call before it was sent is to count no request here, either: as a UserError does not.
    bases = (ReplayedError, UserError) if info.type in ("CircuitOpen", "LoadRefused") else (ReplayedError,)
    return type(info.type, bases, fields)(info.message)
