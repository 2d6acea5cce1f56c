"""The output of a run while it is written: growing snapshots, and the checked output in the end."""

from __future__ import annotations

import math
from typing import Any, Literal, NoReturn

from runstream.agent.output import AgentOutputSchema, AgentOutputSchemaBase, output_schema_of
from runstream.errors import CursorExpired
from runstream.events.event import AGENT_START, ATTEMPT_DISCARDED, MODEL, Event
from runstream.run.stream_events import RunReader
from runstream.wire.partial_json import MISSING, JsonError, PartialJson

__all__ = ["OutputReader"]


class OutputReader(RunReader):
    """Iterates over what the run's output has come to, one snapshot for all deltas that have come since the last one.

    Snapshots are plain data, as far as the JSON goes (see `wire/partial_json`), or the text where the agent has no
    output type. A message, an attempt or a turn begins anew. The last one is the final output itself, checked; the
    run's error is raised in its place.
    """

    _part: tuple[Any, ...] | None = None
    _parser: PartialJson | None = None
    _schema: AgentOutputSchemaBase | None = None
    _is_fresh = False
    _text = ""
    _ending: Literal["no", "due", "over"] = "no"

    def __aiter__(self) -> OutputReader:
        return self

    def __iter__(self) -> NoReturn:
        raise TypeError("stream_output() is asynchronous: use `async for`")

    async def __anext__(self) -> Any:
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
                    del self  # as in StreamReader
                    raise
                return self._end()
            try:
                event = follower.next_nowait()
            except CursorExpired:
                follower = self._from_store()
                continue
            if event is not None:
                place.cursor = event.seq
                self._take_in(event)
                continue
            if self._is_fresh:
                self._is_fresh = False
                shown = self._snapshot()
                if shown is not MISSING:
                    return shown
            if follower.at_end:
                return self._end()
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

    def _end(self) -> Any:
        run = self._run
        self._close()
        run.error_told()
        if run.error is not None:
            raise run.error
        if run.final_output is None:
            raise StopAsyncIteration
        return run.final_output

    def _take_in(self, event: Event) -> None:
        if event.path:
            return
        kind = event.kind
        if kind == MODEL:
            data: Any = event.data
            if data.type == "response.output_text.delta":
                self._add((event.attempt, data.output_index, data.content_index, data.item_id), data.delta)
            elif data.type == "response.created":
                self._part = None
        elif kind == ATTEMPT_DISCARDED:
            self._part = None
            self._is_fresh = False
        elif kind == AGENT_START and event.live is not None:
            self._schema = output_schema_of(event.live.output_type)
            self._part = None

    def _add(self, part: tuple[Any, ...], text: str) -> None:
        if part != self._part:
            self._part = part
            is_text = self._schema is None or self._schema.is_plain_text()
            self._parser, self._text = None if is_text else PartialJson(), ""
        if self._parser is None:
            self._text += text
        else:
            try:
                self._parser.feed(text)
            except JsonError:
                self._parser = _Nothing()  # the check at the end says what is wrong
        self._is_fresh = True

    def _snapshot(self) -> Any:
        if self._parser is None:
            return self._text
        shown = self._parser.snapshot()
        return self._schema.unwrap(shown, MISSING) if isinstance(self._schema, AgentOutputSchema) else shown


class _Nothing(PartialJson):
    """After what is no JSON nothing is shown."""

    __slots__ = ()

    def feed(self, text: str) -> None:
        return
