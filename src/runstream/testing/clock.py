"""Time that stands still until nothing else can happen.

Owns `FakeClock`. With `autojump`, time jumps to the next deadline whenever the event loop has nothing left to run, so
that a test with hours of pauses takes no time and gives the same result each time. Without it, time moves only in
`advance`. Nothing here waits for real time.

How the clock knows that nothing can happen: while somebody waits for it, a callback runs once in each turn of the loop.
If it finds nothing queued behind it several times in a row, then every task is blocked, and each of those turns has
also asked the operating system for ready sockets. What the loop cannot see (a thread, another process, a remote server
that takes its time) it cannot wait for: use `autojump=False` there.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

__all__ = ["FakeClock"]

# Turns of the loop in a row with nothing to run. More than one, since a byte written to a local socket in one turn is
# seen by its reader in the next.
_QUIET_TURNS = 5
# For loops that do not show their queue (uvloop): turns without regard to what runs in them, thus many.
_BLIND_TURNS = 2000


class FakeClock:
    """A `Clock` for tests: starts at `start` (seconds since the epoch), and jumps as the module's text says.

    `autojump` may be changed at any time. One clock serves one event loop at a time, and an event loop one clock: to
    wait for two of them at once raises RuntimeError, since neither knows which deadline comes first.
    """

    def __init__(self, start: float = 1_700_000_000.0, *, autojump: bool = True) -> None:
        self._now = start
        self._autojump = autojump
        self._alarms: list[_Alarm] = []
        self._order = itertools.count()
        self._watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = weakref.WeakKeyDictionary()

    @property
    def autojump(self) -> bool:
        """Whether time moves by itself."""
        return self._autojump

    @autojump.setter
    def autojump(self, value: bool) -> None:
        self._autojump = value
        if value:
            for alarm in self._alarms:
                self._watch(alarm.loop)

    def now(self) -> float:
        return self._now

    async def sleep(self, delay_s: float) -> None:
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        alarm = self._set(loop, delay_s, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            alarm.is_off = True

    def timeout(self, delay_s: float | None) -> AbstractAsyncContextManager[object]:
        return _Timeout(self, delay_s)

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass: every deadline in them comes at its time, and what wakes runs until it waits
        again. Raises ValueError for less than 0 seconds."""
        if not delay_s >= 0:
            raise ValueError(f"time cannot go back: advance({delay_s!r})")
        target = self._now + delay_s
        while True:
            await self.settle()
            deadline = self._next_deadline()
            if deadline is None or deadline > target:
                break
            self._jump(deadline)
        self._now = max(self._now, target)

    async def settle(self) -> None:
        """Wait, without letting time pass, until every other task waits for something."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._watch(loop).waiting.append(future)
        await future

    @property
    def sleepers(self) -> int:
        """How many deadlines are set."""
        return sum(not alarm.is_off for alarm in self._alarms)

    def _set(self, loop: asyncio.AbstractEventLoop, delay_s: float, ring: Callable[[], object]) -> _Alarm:
        if self._autojump:
            self._watch(loop)
        alarm = _Alarm(self._now + delay_s, next(self._order), loop, ring)
        heapq.heappush(self._alarms, alarm)
        return alarm

    def _watch(self, loop: asyncio.AbstractEventLoop) -> _Watch:
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = _Watch(loop, self._on_quiet, self._is_waited_for)
        watch.start()
        return watch

    def _next_deadline(self) -> float | None:
        alarms = self._alarms
        while alarms and (alarms[0].is_off or alarms[0].loop.is_closed()):
            heapq.heappop(alarms)
        return alarms[0].deadline if alarms else None

    def _jump(self, deadline: float) -> None:
        self._now = max(self._now, deadline)
        while (next_deadline := self._next_deadline()) is not None and next_deadline <= self._now:
            alarm = heapq.heappop(self._alarms)
            alarm.is_off = True
            alarm.ring()

    def _is_waited_for(self) -> bool:
        return self._autojump and self._next_deadline() is not None

    def _on_quiet(self) -> bool:
        """Nothing can happen: jump. Returns whether to go on watching."""
        deadline = self._next_deadline() if self._autojump else None
        if deadline is None:
            return False
        self._jump(deadline)
        return self._next_deadline() is not None


class _Alarm:
    __slots__ = ("deadline", "is_off", "loop", "order", "ring")

    def __init__(
        self, deadline: float, order: int, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]
    ) -> None:
        self.deadline = deadline
        self.order = order
        self.loop = loop
        self.ring = ring
        self.is_off = False

    def __lt__(self, other: _Alarm) -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)


# The watch that is at work in each loop. Two would see each other's turns for ever, and never a quiet loop. Not held
# here: its handle holds the loop, which would then be kept for ever, with all that ran in it.
_watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Watch]] = weakref.WeakKeyDictionary()


class _Watch:
    """Looks at one loop, turn by turn, until it is quiet; then lets `settle` return, or else tells the clock."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_quiet: Callable[[], bool], is_needed: Callable[[], bool]
    ) -> None:
        self._loop = weakref.ref(loop)
        self._on_quiet = on_quiet
        self._is_needed = is_needed
        self._is_running = False
        self._turns = 0
        self._handle: asyncio.Handle | None = None
        # It is nobody's: a copy of the caller's would keep what is in it.
        self._context = contextvars.Context()
        self.waiting: list[asyncio.Future[None]] = []

    def start(self) -> None:
        self._turns = 0
        loop = self._loop()
        if loop is not None and not self._is_running:
            known = _watches.get(loop)
            other = None if known is None else known()
            if other is not None and other._is_running:
                other._give_way()
            _watches[loop] = weakref.ref(self)
            self._is_running = True
            self._look_again(loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = loop.call_soon(self._turn, context=self._context)

    def _give_way(self) -> None:
        """Stop for the watch of another clock. Raises RuntimeError if somebody waits for this one."""
        if self._is_needed() or any(not future.done() for future in self.waiting):
            raise RuntimeError(
                "two FakeClocks are waited for in one event loop: pass the same clock to everything (RunConfig, "
                "ScriptedModel, Endpoint and the test itself)"
            )
        self._is_running = False
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self) -> None:
        loop = self._loop()
        if loop is None:
            return
        # asyncio has no public way to ask whether a loop has work; its own loops keep it in this queue.
        queue: Any = getattr(loop, "_ready", None)
        self._turns = 0 if queue else self._turns + 1
        if self._turns < (_BLIND_TURNS if queue is None else _QUIET_TURNS):
            self._look_again(loop)
            return
        self._turns = 0
        settled = [future for future in self.waiting if not future.done()]
        self.waiting.clear()
        for future in settled:
            future.set_result(None)
        if settled or self._on_quiet():
            self._look_again(loop)
        else:
            self._is_running = False
            self._handle = None


class _Timeout:
    """What `asyncio.timeout` does, by the fake clock."""

    def __init__(self, clock: FakeClock, delay_s: float | None) -> None:
        self._clock = clock
        self._delay_s = delay_s
        self._alarm: _Alarm | None = None
        self._is_expired = False

    def expired(self) -> bool:
        """Whether the time ran out before the block ended."""
        return self._is_expired

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a timeout can only be used inside a task")
        self._task = task
        self._cancelling = task.cancelling()
        if self._delay_s is not None:
            self._alarm = self._clock._set(task.get_loop(), max(self._delay_s, 0.0), self._expire)
            if self._delay_s <= 0:
                task.get_loop().call_soon(self._expire_now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._alarm is not None:
            self._alarm.is_off = True
        # The cancellation was ours alone only if no other request for it is left when ours is taken back.
        was_ours = self._is_expired and self._task.uncancel() <= self._cancelling
        if was_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def _expire(self) -> None:
        self._is_expired = True
        self._task.cancel()

    def _expire_now(self) -> None:
        alarm = self._alarm
        if alarm is not None and not alarm.is_off:
            alarm.is_off = True
            self._expire()
