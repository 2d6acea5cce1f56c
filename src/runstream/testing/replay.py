"""A model that says again what the models of a stored run said: any run that went wrong, or right, as a test.

Owns `ReplayModel`. No provider is asked. Tools are the program's own: they are called again, and what the model
"answers" to their outputs is what it answered in the recording.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from runstream.agent.model import Model, ModelBatch, ModelRequest, ModelTracing, streams_in_batches
from runstream.agent.raw_item import read_field
from runstream.agent.response import ModelResponse
from runstream.clock import Clock, system_clock
from runstream.errors import ModelStreamFailed, ModelStreamTruncated, UserError
from runstream.events.codec import decode, plain
from runstream.events.event import GUARDRAIL, Event
from runstream.log.base import Store
from runstream.testing.recording import RecordedCall, ReplayMismatch, calls_of, without_void
from runstream.testing.script_errors import UnconsumedModelSteps, UnexpectedModelCall, shown

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from runstream.agent.response import TResponseInputItem, TResponseStreamEvent

__all__ = ["ReplayModel"]


class _FailedAttempt(ModelStreamTruncated):
    """Stands for an attempt of the recorded run that failed before it brought anything, and was made again."""

    def __init__(self, call: RecordedCall) -> None:
        super().__init__(
            f"model call {call.number} of the recorded run had failed {call.failed_attempts} times before it was "
            "answered, and so it does here; the replayed program did not make it again (ModelSettings.retry)"
        )
        # No pause: that a server asks for none is what the retry policy goes by.
        self.response = SimpleNamespace(headers={"retry-after": "0"})


class ReplayModel(Model):
    """Plays the model calls of recorded events, one after the other, whichever agent asks.

    Events are those of the recording, in the batches in which they came. `speed=1` keeps the recorded pauses too, 10
    makes them ten times shorter; by default there are none. Calls that had failed before they were answered fail as
    often. What a takeover discarded is left out; `discarded=True` plays it, as calls whose stream breaks off. A call
    during which the run was cancelled goes silent where that happened: the test is to cancel there.

    `strict` fails a call that is of another kind than the recorded one: tools that the recorded answer calls are not
    offered, or other calls were answered since the call before. More calls than there were always fail. As a context
    manager it fails, if nothing else did, when calls are left over.
    """

    def __init__(
        self,
        events: Iterable[Event],
        *,
        strict: bool = True,
        discarded: bool = False,
        speed: float | None = None,
        clock: Clock = system_clock,
    ) -> None:
        recorded = list(events)
        if speed is not None and not speed > 0:
            raise UserError(f"speed must be more than 0, or None for no pauses, not {speed!r}")
        self._events = tuple(without_void(recorded))
        self._calls = calls_of(recorded, discarded=discarded)
        self._strict = strict
        self._speed = speed
        self._clock = clock
        self._position = 0
        self._failures = 0
        self._seen: set[str] | None = None
        """Ids of the calls that the requests so far had outputs of; None before the first."""

    @classmethod
    def from_log(
        cls,
        source: Iterable[Event] | str | os.PathLike[str],
        *,
        store: str | Store | None = None,
        strict: bool = True,
        discarded: bool = False,
        speed: float | None = None,
        clock: Clock = system_clock,
    ) -> ReplayModel:
        """The model of a recording: events, a file with events as JSON lines (`runstream replay RUN --instant --json`),
        or the id of a run in `store`, by default in that of the environment variable RUNSTREAM_STORE.

        It reads at once, also where an event loop runs. A store that is open already is not for that: pass its events,
        `[event async for event in (await Runner.attach(run_id, store=store)).events()]`.

        Raises UserError for what is no recording, OSError, RunNotFound, CursorExpired for a log that was trimmed,
        StoreError.
        """
        return cls(_events_of(source, store), strict=strict, discarded=discarded, speed=speed, clock=clock)

    @property
    def events(self) -> tuple[Event, ...]:
        """The recorded events, without those that were discarded."""
        return self._events

    @property
    def calls(self) -> tuple[RecordedCall, ...]:
        """The recorded model calls."""
        return tuple(self._calls)

    @property
    def remaining_calls(self) -> int:
        """How many have not been made again."""
        return sum(call.is_sure for call in self._calls[self._position :])

    @property
    def input(self) -> Any:
        """What the recorded run was started with: a string or a list of input items."""
        start = self._events[0].data if self._events else None
        return getattr(start, "input", None)

    def assert_complete(self) -> None:
        """Raises UnconsumedModelSteps if the program made fewer model calls than the recorded one."""
        left = self.remaining_calls
        if left:
            raise UnconsumedModelSteps(
                f"{left} of {len(self._calls)} recorded model calls were not made, from call {self._position + 1} on",
                remaining_steps=left,
            )

    def assert_same_events(self, events: Iterable[Event]) -> None:
        """Raises AssertionError, which shows the first difference, if these are not the recorded events.

        Compared are kind, agent and data, not times nor ids of runs; discarded attempts count in neither. What
        guardrails decided is compared as a whole, not where it stands.
        """
        recorded_events, was_checked = _apart(self._events)
        given, is_checked = _apart(without_void(events))
        for number, (recorded, new) in enumerate(zip(recorded_events, given, strict=False), start=1):
            for name in ("kind", "agent", "path"):
                was, is_now = getattr(recorded, name), getattr(new, name)
                if was != is_now:
                    raise AssertionError(f"event {number}: {name} was {was!r}, now it is {is_now!r}")
            _compare(f"event {number} ({recorded.kind})", plain(recorded.data), plain(new.data))
        if len(given) != len(recorded_events):
            raise AssertionError(f"there were {len(recorded_events)} events, now there are {len(given)}")
        _compare("guardrails", was_checked, is_checked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An error of the block itself explains more than the calls that it left over.
        if error is None:
            self.assert_complete()

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: Any,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: Any = None,
    ) -> ModelResponse:
        from runstream.log.fold import RunFold

        request = ModelRequest(system_instructions, input, model_settings, tools, output_schema, handoffs, tracing)
        fold, last = RunFold(), ""
        async with aclosing(self._batches(request)) as batches:
            async for batch in batches:
                for event in batch.events:
                    fold.apply_model(event, 1)
                    last = event.type
        if fold.responses:
            return fold.responses[0]
        raise ModelStreamFailed(f"The recorded response ended with {last}.", event_type=last)

    @streams_in_batches("_batches")
    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: Any,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: Any = None,
    ) -> AsyncGenerator[TResponseStreamEvent, None]:
        request = ModelRequest(system_instructions, input, model_settings, tools, output_schema, handoffs, tracing)
        async with aclosing(self._batches(request)) as batches:
            async for batch in batches:
                for event in batch.events:
                    yield event

    async def _batches(self, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
        call = self._next_call(request)
        for batch, pause_s in zip(call.batches, call.pauses_s, strict=True):
            if self._speed is not None and pause_s > 0:
                await self._clock.sleep(pause_s / self._speed)
            yield ModelBatch([event.data for event in batch], [event.frame for event in batch])
        if call.is_silent:
            await asyncio.get_running_loop().create_future()
        if call.error is not None:
            raise call.error

    def _next_call(self, request: ModelRequest) -> RecordedCall:
        if self._position >= len(self._calls):
            raise UnexpectedModelCall(
                f"the recorded run made {len(self._calls)} model calls; this is one more, with the input "
                f"{shown(request.input)}",
                call=request,
                call_index=self._position,
            )
        call = self._calls[self._position]
        if self._failures < call.failed_attempts:
            self._failures += 1
            raise _FailedAttempt(call)
        self._failures = 0
        self._position += 1
        if self._strict:
            self._check(request, call)
        return call

    def _check(self, request: ModelRequest, call: RecordedCall) -> None:
        """Raises ReplayMismatch where the request is of another kind than the recorded one."""
        offered = [read_field(tool, "name") for tool in request.tools]
        offered += [read_field(handoff, "tool_name") for handoff in request.handoffs]
        for name in call.called_tools:
            if name not in offered:
                there = ", ".join(str(each) for each in offered) or "no tools"
                raise ReplayMismatch(
                    f"model call {call.number} was answered with a call of {name!r}, which this request does not offer "
                    f"(it offers {there}); with strict=False it is played all the same"
                )
        items = [] if isinstance(request.input, str) else cast("list[Any]", request.input)
        outputs = {
            str(read_field(item, "call_id")) for item in items if read_field(item, "type") == "function_call_output"
        }
        seen, self._seen = self._seen, outputs | (self._seen or set())
        if seen is None or call.answered is None or not call.is_sure:
            return
        new = frozenset(outputs - seen)
        if new != call.answered:
            raise ReplayMismatch(
                f"before model call {call.number} the tool calls {_names(call.answered)} were answered, here it is "
                f"{_names(new)}; with strict=False it is played all the same"
            )


def _apart(events: Iterable[Event]) -> tuple[list[Event], list[list[Any]]]:
    """The events, and apart from them what guardrails decided: when they did depends on how long things take."""
    kept: list[Event] = []
    checked: list[list[Any]] = []
    for event in events:
        if event.kind == GUARDRAIL:
            data = event.data
            told = [*event.path, event.agent, data.about, data.name, data.outcome, data.call_id, data.message]
            checked.append([str(each) for each in told])
        else:
            kept.append(event)
    return kept, sorted(checked)


def _names(ids: Iterable[str]) -> str:
    return ", ".join(sorted(ids)) or "none"


def _compare(place: str, recorded: Any, new: Any) -> None:
    """Raises AssertionError for the first place in which two JSON values differ."""
    if isinstance(recorded, dict) and isinstance(new, dict):
        was, is_now = cast("dict[str, Any]", recorded), cast("dict[str, Any]", new)
        for name in [*was, *(name for name in is_now if name not in was)]:
            if name not in was or name not in is_now:
                raise AssertionError(f"{place}: {name!r} was {'' if name in was else 'not '}there, now it is not so")
            _compare(f"{place}.{name}", was[name], is_now[name])
    elif isinstance(recorded, list) and isinstance(new, list):
        one, other = cast("list[Any]", recorded), cast("list[Any]", new)
        for index, (old, now) in enumerate(zip(one, other, strict=False)):
            _compare(f"{place}[{index}]", old, now)
        if len(one) != len(other):
            raise AssertionError(f"{place}: there were {len(one)} entries, now there are {len(other)}")
    elif recorded != new:
        raise AssertionError(f"{place}: was {shown(cast('object', recorded))}, now it is {shown(cast('object', new))}")


def _events_of(source: Iterable[Event] | str | os.PathLike[str], store: str | Store | None) -> list[Event]:
    if not isinstance(source, str | os.PathLike):
        return list(source)
    if store is None:
        path = Path(source)
        if path.is_file():
            return _read_file(path)
        store = os.environ.get("RUNSTREAM_STORE") or None
        if store is None:
            raise UserError(
                f"{os.fspath(source)!r} is no file with events; if it is the id of a run, say store= or set "
                "RUNSTREAM_STORE"
            )
    from runstream.run.blocking import run_blocking

    return run_blocking(_read_store(os.fspath(source), store))


def _read_file(path: Path) -> list[Event]:
    events: list[Event] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            events.append(decode(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
    return events


async def _read_store(run_id: str, named: str | Store) -> list[Event]:
    from runstream.events.segment import decode_segment
    from runstream.log.open_store import open_store

    store = open_store(named)
    await store.open()
    try:
        events: list[Event] = []
        while True:
            after = events[-1].seq if events else 0
            page = await store.read(run_id, after)
            if not page.segments:
                return events
            found = [event for segment in page.segments for event in decode_segment(segment.body, run_id)]
            events += [event for event in found if event.seq > after]
    finally:
        await store.aclose()
