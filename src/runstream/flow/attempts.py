"""Streams that are opened again: what retries and fallbacks have in common.

Lifecycle events (`response.created` and the like) are held back until content arrives, so that another attempt before
it stays invisible. Once content was handed on, an error goes up as it is, unless the policy is to begin again: then the
events of the next attempt follow those of the one before, and whoever opened the stream is told (`on_failure`, or
`attempt_listener`) that the earlier ones are void as soon as the later ones come.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import msgspec

from runstream.agent.model import ModelBatch, ModelBatches
from runstream.agent.raw_item import read_field
from runstream.errors import ModelStreamTruncated
from runstream.flow.failures import FAILURE_EVENTS, failure_of

__all__ = [
    "LIFECYCLE",
    "AfterContent",
    "AttemptStream",
    "FailedAttempt",
    "attempt_listener",
    "tell",
]

LIFECYCLE = frozenset(("response.created", "response.queued", "response.in_progress"))

AfterContent: TypeAlias = Literal["fail", "restart", "restart_after_tools"]
"""A stream that breaks once content was shown: fail; begin again, unless a hosted tool was called; begin again."""

# Tools that the provider runs and that change nothing: the same search may be made twice.
_HARMLESS = frozenset(("web_search_call", "file_search_call", "tool_search_call", "reasoning", "message"))
# Calls that the run carries out, once the response is complete.
_LOCAL = frozenset(
    ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call")
)


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt at a model call that failed and is followed by another."""

    error: Exception
    reason: Literal["retry", "fallback"]
    model: str | None = None
    """The model that failed, where it is known."""
    next_model: str | None = None
    """The model that is asked next, where that is another one."""


attempt_listener: ContextVar[Callable[[FailedAttempt], None] | None] = ContextVar("attempt_listener", default=None)
"""Who is told of failed attempts by models that make several: set by a run around each of its model calls."""


def tell(failed: FailedAttempt) -> None:
    """Tell the listener, if there is one."""
    listener = attempt_listener.get()
    if listener is not None:
        listener(failed)


class AttemptStream(abc.ABC):
    """The batches of one attempt after the other. Every stream that was opened is closed."""

    __slots__ = ("_error", "_has_tools", "_is_over", "_reads_events", "_restarts", "_stream", "_under_way")

    def __init__(self, after_content: AfterContent = "fail", *, reads_events: bool = False) -> None:
        """`reads_events`: a failure that comes as an event counts as one, too. Restarting implies it."""
        self._restarts: AfterContent = after_content
        self._reads_events = reads_events or after_content != "fail"
        self._stream: ModelBatches | None = None
        self._under_way = False
        self._is_over = False
        self._has_tools = False
        self._error: Exception | None = None

    @abc.abstractmethod
    def _open(self) -> ModelBatches:
        """The stream of the next attempt."""

    @abc.abstractmethod
    async def _goes_on(self, error: Exception) -> bool:
        """Whether another attempt follows this error; return when it may begin."""

    def __aiter__(self) -> AttemptStream:
        return self

    def __anext__(self) -> Awaitable[ModelBatch]:
        if not self._under_way:
            return self._begin(None)
        # Once there was content, nothing stands between the stream and its reader, unless it might begin again.
        if self._stream is not None and (self._restarts == "fail" or self._is_over):
            return self._stream.__anext__()
        return self._continue()

    async def aclose(self) -> None:
        """Close the stream that is open."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _begin(self, shown: Exception | None) -> ModelBatch:
        """The first content, and what was held back before it; where there is none, what was held back, then the
        error. After `shown`, the error of an attempt whose content was seen, only content is handed on."""
        held: list[_Held] = []
        failure = shown
        while failure is None or await self._goes_on(failure):
            held = []
            stream = self._stream = self._open()
            try:
                async for batch in stream:
                    if all(event.type in LIFECYCLE for event in batch.events):
                        held.append(_Held(batch))
                        del batch
                        continue
                    failed = self._read(batch) if self._reads_events else None
                    if failed is not None:
                        raise failed
                    self._under_way = True
                    return _joined(held, batch)
                raise ModelStreamTruncated("The model's stream ended before it brought anything.")
            except Exception as error:
                failure = error
                await self.aclose()
        self._under_way = True
        if not held or shown is not None:
            raise failure
        self._error = failure
        return _joined(held)

    async def _continue(self) -> ModelBatch:
        """The next batch of a stream that may begin again."""
        if self._stream is None:
            if self._error is None:
                raise StopAsyncIteration
            raise self._error
        batch: ModelBatch | None = None
        failure: Exception | None
        try:
            batch = await self._stream.__anext__()
        except StopAsyncIteration:
            failure = ModelStreamTruncated("The model's stream ended without the end of its response.")
        except Exception as error:
            failure = error
        else:
            if len(batch.events) == 1 and batch.events[0].type.endswith(".delta"):
                return batch
            failure = self._read(batch)
            if failure is None:
                return batch
        await self.aclose()
        if self._restarts == "restart_after_tools" or not self._has_tools:
            return await self._begin(failure)
        if batch is None:
            raise failure
        self._error = failure
        return batch

    def _read(self, batch: ModelBatch) -> Exception | None:
        """Note what the batch has shown; the failure that it tells, if it does."""
        for event in cast("list[Any]", batch.events):
            kind = event.type
            if kind.endswith(".delta"):
                continue
            if kind == "response.output_item.added" or kind == "response.output_item.done":
                item = read_field(event.item, "type")
                self._has_tools |= item not in _LOCAL and item not in _HARMLESS
            elif kind == "response.completed" or kind == "response.incomplete":
                self._is_over = True
            elif kind in FAILURE_EVENTS:
                try:
                    return failure_of(event)
                except (AttributeError, TypeError, ValueError):
                    return None  # whoever writes it down will say so
        return None


class _Held:
    """A batch that is held back: as its frames where it has them, which are a fifth of its events. A model that thinks
    for long before it says anything has sent two of them, and many do so at once."""

    __slots__ = ("_events", "_frames")

    def __init__(self, batch: ModelBatch) -> None:
        self._events = None if all(frame is not None for frame in batch.frames) else batch.events
        self._frames = batch.frames

    def add_to(self, events: list[Any], frames: list[bytes | None]) -> None:
        """Put what is held at the end of these."""
        if self._events is None:
            from runstream.events.model_event import build_event

            events += [build_event(msgspec.json.decode(cast("bytes", frame))) for frame in self._frames]
        else:
            events += self._events
        frames += self._frames


def _joined(held: list[_Held], last: ModelBatch | None = None) -> ModelBatch:
    if last is not None and not held:
        return last
    events: list[Any] = []
    frames: list[bytes | None] = []
    for batch in held:
        batch.add_to(events, frames)
    if last is not None:
        events += last.events
        frames += last.frames
    return ModelBatch(events, frames)
