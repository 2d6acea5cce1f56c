"""Observers: what wants every event of every run of this process, without being one of its readers.

An observer is called with each run that begins, and gives a function that gets the run's events in order (or None, if
it does not care for this run). It is off the run's path: it gets events shortly after they are in the log, in the
run's event loop, through one callback for each wake-up and no task; it holds no run back and keeps none alive, and what
it raises is logged and costs it the rest of that run, nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from runstream.errors import AgentsException, CursorExpired, UserError
from runstream.run.active import ActiveRun
from runstream.run.feed import in_background
from runstream.run.observers import run_observers, tool_observers
from runstream.run.result import RunResultStreaming

if TYPE_CHECKING:
    from runstream.events.event import Event
    from runstream.log.memory import MemoryLog

__all__ = ["EventSink", "ObservedRun", "Observer", "observe", "replay", "set_observers"]

_logger = logging.getLogger("runstream.observe")

EventSink = Callable[["Event"], None]


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """What an observer is told of a run before its first event."""

    run_id: str
    agent: str | None = None
    """The starting agent's name."""
    model: str | None = None
    """The model that is asked for, where it has a name; a later agent's is in its `agent.start` (`live`)."""
    workflow: str | None = None
    """`RunConfig.workflow_name`, where the caller has set it."""
    streamed: bool = True
    run: Any = None
    """The `ActiveRun` of a run that is carried out here; hold it weakly."""


class Observer(Protocol):
    """See the module. It may have a method `tool_begins(run_id, call_id)`, called in the task of each tool."""

    def __call__(self, run: ObservedRun, /) -> EventSink | None: ...


_observers: tuple[Observer, ...] = ()


def set_observers(observers: Iterable[Observer]) -> None:
    """From now on these observe every run that begins in this process, in place of those before. Empty: nobody."""
    global _observers
    _observers = tuple(observers)
    for observer in _observers:
        if not callable(observer):
            raise UserError(f"an observer is called with each run: {observer!r:.100} cannot be")
    _set(run_observers, _run_begins, bool(_observers))
    _set(tool_observers, _tool_begins, any(hasattr(observer, "tool_begins") for observer in _observers))


def _set(registry: list[Any], function: Any, wanted: bool) -> None:
    registry[:] = [other for other in registry if other is not function] + [function] * wanted


def _run_begins(run: ActiveRun) -> None:
    sinks = _sinks(_observers, _observed(run))
    if sinks:
        _Tap(run.log, sinks, run.log.last_seq).wait()


def _tool_begins(run: ActiveRun, call_id: str) -> None:
    for observer in _observers:
        begins: Callable[[str, str], None] | None = getattr(observer, "tool_begins", None)
        if begins is not None:
            try:
                begins(run.run_id, call_id)
            except Exception:
                _logger.exception("an observer failed at the begin of a tool")


def _observed(run: ActiveRun) -> ObservedRun:
    config, agent = run.config, run.starting_agent
    model = config.model if config.model is not None else agent.model
    workflow = config.workflow_name
    return ObservedRun(
        run.run_id,
        agent.name,
        _model_name(model),
        None if workflow == type(config).workflow_name else workflow,
        run.streamed,
        run,
    )


def _model_name(model: Any) -> str | None:
    name = model if isinstance(model, str) else getattr(model, "model", None)
    return name if isinstance(name, str) else None


def _sinks(observers: Iterable[Observer], run: ObservedRun) -> list[EventSink]:
    sinks: list[EventSink] = []
    for observer in observers:
        try:
            sink = observer(run)
        except Exception:
            _logger.exception("an observer failed at the begin of the run %s", run.run_id)
            continue
        if sink is not None:
            sinks.append(sink)
    return sinks


def _give(events: Sequence[Event], sinks: list[EventSink]) -> None:
    for sink in tuple(sinks):
        try:
            for event in events:
                sink(event)
        except Exception:
            sinks.remove(sink)
            _logger.exception("an observer failed and sees nothing more of the run %s", events[0].run_id)


class _Tap:
    """Gives the events of a log in memory to sinks as they come. No task: a callback on each wake-up is enough."""

    __slots__ = ("_cursor", "_log", "_sinks", "stopped")

    def __init__(self, log: MemoryLog, sinks: list[EventSink], after: int) -> None:
        self._log = log
        self._sinks = sinks
        self._cursor = after
        self.stopped = False

    def wait(self) -> None:
        self._log.wait(self._cursor).add_done_callback(self._drain)

    def _drain(self, waiter: asyncio.Future[None]) -> None:
        log = self._log
        while self._cursor < log.last_seq and self._sinks and not self.stopped:
            try:
                events = log.read(self._cursor)
            except CursorExpired as expired:
                self._cursor = expired.first_seq - 1
                continue
            _give(events, self._sinks)
            self._cursor = events[-1].seq
        if self._sinks and not self.stopped and not log.sealed:
            self.wait()

    def stop(self) -> None:
        self.stopped = True


def observe(result: RunResultStreaming, *observers: Observer) -> Callable[[], None]:
    """Let these observe one run: one that was begun here, from its first kept event, or one that is attached to.

    Returns a function that ends it; it ends by itself with the run. The run is not held by it: one that nobody reads
    is abandoned as ever. To be called in the run's event loop; raises UserError elsewhere.
    """
    run = result._run
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise UserError("observe() needs a running event loop; set_observers() does not") from None
    if isinstance(run, ActiveRun):
        sinks = _sinks(observers, _observed(run))
        tap = _Tap(run.log, sinks, run.log.first_seq - 1)
        if sinks:
            run.check_loop()
            tap.wait()
        return tap.stop
    sinks = _sinks(observers, ObservedRun(run.run_id, run.agent.name))
    task = in_background(_follow(result, run.after, sinks))

    def stop() -> None:
        loop.call_soon_threadsafe(task.cancel)

    return stop


async def _follow(result: RunResultStreaming, after: int, sinks: list[EventSink]) -> None:
    reader = result.events(after)
    try:
        async for event in reader:
            _give((event,), sinks)
            if not sinks:
                return
    except AgentsException as error:
        _logger.warning("the run %s is observed no longer: %s", result.run_id, error)
    finally:
        await reader.aclose()


def replay(events: Iterable[Event], *observers: Observer) -> None:
    """Give the events of one stored run to observers, as if they came now."""
    sinks: list[EventSink] | None = None
    for event in events:
        if sinks is None:
            sinks = _sinks(observers, ObservedRun(event.run_id, event.agent))
        _give((event,), sinks)
