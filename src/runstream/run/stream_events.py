"""The SDK's view of a run's log, and the reader that gives it. Nothing else makes these three classes."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, cast

from runstream.agent.agent import Agent
from runstream.agent.items import RunItem
from runstream.errors import CursorExpired
from runstream.events.event import AGENT_START, ITEM, MODEL, TOOL_PROGRESS, Event
from runstream.log.follow import Follower
from runstream.run.active import ActiveRun
from runstream.run.followed import FollowedRun
from runstream.run.readers import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai.types.responses import ResponseStreamEvent

__all__ = [
    "AgentUpdatedStreamEvent",
    "EventReader",
    "RawResponsesStreamEvent",
    "RunItemStreamEvent",
    "RunReader",
    "StreamEvent",
    "StreamReader",
    "ToolProgressStreamEvent",
    "to_stream_event",
]


@dataclass(slots=True)
class RawResponsesStreamEvent:
    """One event of the model's stream, in the format of the Responses API."""

    data: ResponseStreamEvent
    type: Literal["raw_response_event"] = "raw_response_event"
    # Ours, with defaults: where the event stands in the run's log.
    seq: int = 0
    run_id: str = ""
    agent_name: str | None = None
    path: tuple[str, ...] = ()


@dataclass(slots=True)
class RunItemStreamEvent:
    """An item is complete: a message, a tool call, its output, a handoff."""

    name: Literal[
        "message_output_created",
        "handoff_requested",
        "handoff_occured",
        "tool_called",
        "tool_search_called",
        "tool_search_output_created",
        "tool_output",
        "reasoning_item_created",
        "mcp_approval_requested",
        "mcp_approval_response",
        "mcp_list_tools",
    ]
    item: RunItem
    type: Literal["run_item_stream_event"] = "run_item_stream_event"
    seq: int = 0
    run_id: str = ""
    agent_name: str | None = None
    path: tuple[str, ...] = ()


@dataclass(slots=True)
class AgentUpdatedStreamEvent:
    """The active agent changed: the first one, or after a handoff."""

    new_agent: Agent[Any]
    type: Literal["agent_updated_stream_event"] = "agent_updated_stream_event"
    seq: int = 0
    run_id: str = ""
    agent_name: str | None = None
    path: tuple[str, ...] = ()


@dataclass(slots=True)
class ToolProgressStreamEvent:
    """A running tool reports. Not in the SDK: only `stream_events(progress=True)` gives it."""

    call_id: str
    tool_name: str
    data: Any
    """What it has to say, as plain data."""
    dropped: int = 0
    """How many of its reports before this one were left out."""
    type: Literal["tool_progress_event"] = "tool_progress_event"
    seq: int = 0
    run_id: str = ""
    agent_name: str | None = None
    path: tuple[str, ...] = ()


StreamEvent: TypeAlias = RawResponsesStreamEvent | RunItemStreamEvent | AgentUpdatedStreamEvent


def to_stream_event(event: Event) -> StreamEvent | None:
    """The SDK's event for one of the log; None where the SDK has none."""
    kind = event.kind
    if kind == MODEL:
        return RawResponsesStreamEvent(
            event.data, "raw_response_event", event.seq, event.run_id, event.agent, event.path
        )
    if kind == ITEM and event.live is not None and event.data.type != "tool_approval_item":
        return RunItemStreamEvent(
            event.data.name, event.live, "run_item_stream_event", event.seq, event.run_id, event.agent, event.path
        )
    if kind == AGENT_START:
        agent = event.live if event.live is not None else Agent(name=event.agent or "")
        return AgentUpdatedStreamEvent(
            agent, "agent_updated_stream_event", event.seq, event.run_id, event.agent, event.path
        )
    return None


class RunReader:
    """What all readers have: a place among the run's readers, taken at the first read and given back at the end.

    The run holds the place, not the reader: a reader that nobody holds any more is gone.
    """

    paces_turns = False

    def __init__(self, run: ActiveRun | FollowedRun, start: Callable[[], None], after: int | None = None) -> None:
        self._state: Literal["new", "open", "closed"] = "new"
        self._run = run
        self._start = start
        if after is None:
            after = run.after
        self._place = Place(after, paces_turns=self.paces_turns)
        self._log = run.log_for(after, self._place)
        self._follower = Follower(self._log, after)
        self._loop: asyncio.AbstractEventLoop | None = None

    def _open(self) -> None:
        self._start()
        self._loop = self._run.check_loop()
        self._state = "open"
        self._run.enter(self._place)

    def _close(self) -> None:
        if self._state == "open":
            self._run.leave(self._place)
        self._state = "closed"

    def _from_store(self) -> Follower:
        """Go on in the store, where it keeps what this process does not any more. Raises CursorExpired."""
        after = self._follower.cursor
        log = self._run.log_for(after, self._place)
        if log is self._log:
            log.read(after)  # raises again: nobody keeps it
        self._log = log
        self._follower = Follower(log, after)
        return self._follower

    async def aclose(self) -> None:
        """Stop reading. The last reader of a run that nobody awaits takes the run with it (`RunConfig.on_abandon`);
        this returns once such a run has ended."""
        was_open = self._state == "open"
        self._close()
        if was_open and self._run.silenced:
            await self._run.wait_ended()

    def __del__(self) -> None:
        # `break` and errors in the caller's loop body end here, at once, by reference counting; the garbage collector
        # may come from another thread.
        if self._state != "open" or self._loop is None or self._loop.is_closed():
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._run.leave(self._place)
        else:
            self._loop.call_soon_threadsafe(self._run.leave, self._place)


def _progress(event: Event) -> ToolProgressStreamEvent:
    data = event.data
    return ToolProgressStreamEvent(
        data.call_id,
        data.tool_name,
        data.data,
        data.dropped,
        seq=event.seq,
        run_id=event.run_id,
        agent_name=event.agent,
        path=event.path,
    )


class StreamReader(RunReader):
    """Iterates over the SDK's events of a run; raises the run's error at its end.

    With `nested` those of agents that run as tools, too; with `progress` what tools report.
    """

    paces_turns = True

    def __init__(
        self,
        run: ActiveRun | FollowedRun,
        start: Callable[[], None],
        after: int | None = None,
        *,
        nested: bool = False,
        progress: bool = False,
    ) -> None:
        if run.is_nested:
            self.paces_turns = False  # of all readers, only those of the whole run are waited for
        super().__init__(run, start, after)
        self._path = run.fold.path
        self._nested = nested
        self._progress = progress

    def __aiter__(self) -> StreamReader:
        return self

    def __iter__(self) -> NoReturn:
        raise TypeError("stream_events() is asynchronous: use `async for`, or a plain `for` over the result itself")

    async def __anext__(self) -> StreamEvent:
        if self._state == "new":
            self._open()
        elif self._state == "closed":
            raise StopAsyncIteration
        run, follower, place = self._run, self._follower, self._place
        while True:
            if place.silenced:
                try:
                    await run.wait_ended()
                except BaseException:
                    del self  # as below
                    raise
                self._close()
                self._raise_error()
                raise StopAsyncIteration
            try:
                event = follower.next_nowait()
            except CursorExpired:
                follower = self._from_store()
                continue
            if event is None:
                if follower.at_end:
                    self._close()
                    self._raise_error()
                    raise StopAsyncIteration
                place.waits = True
                if run.gate_seq < math.inf:
                    run.reader_waits()
                try:
                    await follower.wait()
                except BaseException:
                    # Whoever keeps the error keeps this frame, and must not thereby keep the reader open.
                    del self
                    raise
                finally:
                    place.waits = False
                continue
            place.cursor = seq = event.seq
            if seq >= run.gate_seq:
                run.handed_over()
            path = event.path
            if path and not self._nested and path != self._path:
                continue
            if event.kind == MODEL:
                return RawResponsesStreamEvent(event.data, "raw_response_event", seq, event.run_id, event.agent, path)
            view = to_stream_event(event)
            if view is not None:
                return view
            if self._progress and event.kind == TOOL_PROGRESS:
                return cast("StreamEvent", _progress(event))

    def _raise_error(self) -> None:
        self._run.error_told()
        if self._run.error is not None:
            raise self._run.error


class EventReader(RunReader):
    """Iterates over the numbered events of a run, to `run.end`; never raises the run's error."""

    def __aiter__(self) -> EventReader:
        return self

    def __iter__(self) -> NoReturn:
        raise TypeError("events() is asynchronous: use `async for`")

    async def __anext__(self) -> Event:
        if self._state == "new":
            self._open()
        elif self._state == "closed":
            raise StopAsyncIteration
        run, follower, place = self._run, self._follower, self._place
        while True:
            try:
                event = follower.next_nowait()
            except CursorExpired:
                follower = self._from_store()
                continue
            if event is not None:
                place.cursor = event.seq
                return event
            if follower.at_end:
                self._close()
                run.error_told()
                raise StopAsyncIteration
            place.waits = True
            if run.gate_seq < math.inf:
                run.reader_waits()
            try:
                await follower.wait()
            except BaseException:
                del self  # as in StreamReader
                raise
            finally:
                place.waits = False
