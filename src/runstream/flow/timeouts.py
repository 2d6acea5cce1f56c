"""Limits of time on a model call, by phase: until the answer begins, until its first content, between content, in all.

Costs one timer per attempt, not one per read: a watch sleeps until the next deadline there may be, looks what has come
meanwhile, and ends the wait that is under way if that is too late. A consumer that takes its time is no silence.

What counts as content: any event but lifecycle events, keep-alives and empty deltas. Reasoning counts. Comments and
frames without an event never come this far.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from runstream.agent.model import Model, ModelBatch, ModelBatches, ModelRequest, open_batches
from runstream.agent.response import ModelResponse
from runstream.clock import Clock, system_clock
from runstream.errors import ModelTimeoutError, TimeoutPhase
from runstream.flow.attempts import LIFECYCLE
from runstream.flow.wrapped import WrappedModel, ask

__all__ = ["TimeLimits", "TimedModel", "limit_batches", "limit_call"]

_T = TypeVar("_T")
_NO_CONTENT = LIFECYCLE | {"keepalive", "ping", "heartbeat"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """Limits in seconds; None is no limit. Raises ValueError for one that is not a positive number.

    `connect_s`, `first_content_s`, `idle_s` and `model_call_s` hold for each attempt of a model call.
    """

    connect_s: float | None = None
    """Until the response's headers, of a streamed call. Where a model does not tell of them: until its first event."""
    first_content_s: float | None = None
    """Until the first content, of a streamed call."""
    idle_s: float | None = None
    """Between one content and the next, of a streamed call."""
    model_call_s: float | None = None
    """The whole attempt. `ModelSettings.timeout` of an agent goes before it."""
    tool_s: float | None = None
    """A call of a function tool that has no `timeout` of its own. The thread of a plain function cannot be stopped: it
    is left behind, and finds `ToolContext.cancelled` set."""
    run_s: float | None = None
    """The whole run, waiting in a queue included; the same as `RunConfig.time_limit_s`."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"TimeLimits.{entry.name} must be a positive number of seconds or None, not {value}")

    @property
    def has_stream_limits(self) -> bool:
        """Whether there is a limit that only streams have."""
        return not (self.connect_s is None and self.first_content_s is None and self.idle_s is None)


async def limit_call(work: Awaitable[_T], clock: Clock, limit_s: float, option: str) -> _T:
    """The result of the work. Raises ModelTimeoutError if it is not there in `limit_s`."""
    try:
        async with clock.timeout(limit_s):
            try:
                return await work
            except Exception as error:
                # Kept out of the block around: a TimeoutError of the model's own is not ours.
                failure = error
    except TimeoutError as error:
        raise ModelTimeoutError(limit_s, option=option) from error
    raise failure


def limit_batches(
    batches: ModelBatches, limits: TimeLimits, clock: Clock, *, option: str = "TimeLimits.model_call_s"
) -> ModelBatches:
    """The batches of one attempt, within its limits. Raises ModelTimeoutError, which names the phase; `option` is what
    the limit of the whole call is called."""
    return _TimedBatches(batches, limits, clock, option)


class _TimedBatches:
    __slots__ = (
        "_batches",
        "_chars",
        "_clock",
        "_due",
        "_events",
        "_fired",
        "_has_content",
        "_limits",
        "_loop",
        "_now",
        "_option",
        "_reader",
        "_silent_since",
        "_started",
        "_watcher",
    )

    def __init__(self, batches: ModelBatches, limits: TimeLimits, clock: Clock, option: str) -> None:
        self._batches = batches
        self._limits = limits
        self._clock = clock
        self._now = clock.now
        self._option = option
        self._started = 0.0
        self._silent_since: float | None = None
        self._has_content = False
        """Of content that is no text."""
        self._events = 0
        self._chars = 0
        self._reader: asyncio.Task[Any] | None = None
        """Who waits for the next batch now."""
        self._due: TimeoutPhase | None = None
        """A limit that passed while nobody waited."""
        self._fired: TimeoutPhase | None = None
        """The limit for whose sake the wait was ended."""
        self._watcher: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one that it is read in: to ask for it takes longer than all the rest that is done for a batch."""

    def __aiter__(self) -> _TimedBatches:
        return self

    async def __anext__(self) -> ModelBatch:
        if self._watcher is None:
            self._started = self._clock.now()
            self._loop = asyncio.get_running_loop()
            self._watcher = self._loop.create_task(self._watch(), name="time limits of a model call")
        elif self._due is not None:
            raise self._error(self._due)
        if self._silent_since is None:
            self._silent_since = self._now()
        reader = self._reader = cast("asyncio.Task[Any]", asyncio.current_task(self._loop))
        cancelling = reader.cancelling()
        try:
            batch = await self._batches.__anext__()
        except BaseException as error:
            self._reader = None
            phase = self._fired
            # The cancellation was ours alone only if no other request for it is left when ours is taken back.
            if phase is not None and reader.uncancel() <= cancelling:
                raise self._error(phase) from (None if isinstance(error, asyncio.CancelledError) else error)
            self._watcher.cancel()
            raise
        self._reader = None
        if self._fired is not None:
            # What was waited for has swallowed the cancellation.
            reader.uncancel()
            raise self._error(self._fired)
        events = cast("list[Any]", batch.events)
        self._events += len(events)
        for event in events:
            kind: str = event.type
            if kind.endswith(".delta"):
                if event.delta:
                    self._chars += len(event.delta)
                    self._silent_since = None
            elif kind not in _NO_CONTENT:
                self._silent_since = None
                self._has_content = True
        return batch

    async def aclose(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        await self._batches.aclose()

    def _error(self, phase: TimeoutPhase) -> ModelTimeoutError:
        is_whole = phase == "model_call"
        return ModelTimeoutError(
            cast("float", getattr(self._limits, f"{phase}_s")),
            phase=phase,
            option=self._option if is_whole else f"TimeLimits.{phase}_s",
            events=self._events,
            chars=self._chars,
            waited_s=self._clock.now() - self._started,
        )

    async def _watch(self) -> None:
        clock, idle_s = self._clock, self._limits.idle_s
        while True:
            now = clock.now()
            found = self._next_deadline(now)
            left_s = math.inf if found is None else found[0] - now
            if found is not None and left_s <= 0:
                if self._reader is None:
                    self._due = found[1]
                else:
                    self._fired = found[1]
                    self._reader.cancel()
                return
            if idle_s is not None:
                left_s = min(left_s, idle_s)  # a silence that begins meanwhile is found in time
            if left_s == math.inf:
                return
            await clock.sleep(left_s)

    def _next_deadline(self, now: float) -> tuple[float, TimeoutPhase] | None:
        limits, started = self._limits, self._started
        deadlines: list[tuple[float, TimeoutPhase]] = []
        if limits.model_call_s is not None:
            deadlines.append((started + limits.model_call_s, "model_call"))
        if self._has_content or self._chars:
            if limits.idle_s is not None:
                since = now if self._silent_since is None else self._silent_since
                deadlines.append((since + limits.idle_s, "idle"))
        else:
            if limits.first_content_s is not None:
                deadlines.append((started + limits.first_content_s, "first_content"))
            if limits.connect_s is not None and not self._is_connected:
                deadlines.append((started + limits.connect_s, "connect"))
        return min(deadlines, default=None)

    @property
    def _is_connected(self) -> bool:
        told: bool | None = getattr(self._batches, "is_connected", None)
        return self._events > 0 if told is None else told


class TimedModel(WrappedModel):
    """A model whose calls are limited by `limits`; its `ModelSettings.timeout`, if set, limits the whole call."""

    def __init__(self, inner: Model, limits: TimeLimits, *, clock: Clock = system_clock) -> None:
        super().__init__(inner)
        self._limits = limits
        self._clock = clock

    async def respond(self, request: ModelRequest) -> ModelResponse:
        limits, option = self._limits_for(request)
        answer = ask(self.inner, request)
        if limits.model_call_s is None:
            return await answer
        return await limit_call(answer, self._clock, limits.model_call_s, option)

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        limits, option = self._limits_for(request)
        batches = open_batches(self.inner, request)
        if limits.model_call_s is None and not limits.has_stream_limits:
            return batches
        return limit_batches(batches, limits, self._clock, option=option)

    def _limits_for(self, request: ModelRequest) -> tuple[TimeLimits, str]:
        own_s = request.model_settings.timeout
        if own_s is None:
            return self._limits, "TimeLimits.model_call_s"
        limits = self._limits
        return (
            TimeLimits(
                connect_s=limits.connect_s,
                first_content_s=limits.first_content_s,
                idle_s=limits.idle_s,
                model_call_s=own_s,
            ),
            "ModelSettings.timeout",
        )
