"""Limits on load: how many runs at once, how many requests and tokens a minute each model is asked for.

Who comes too early waits in a queue, first in, first out, whose length is bounded: beyond it there is a clear refusal
(`LoadRefused`) instead of a wait without end. Who is cancelled leaves the queue, wherever it stood.

Tokens are reserved by an estimate before a call and corrected by what the model reports after it.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

from runstream.agent.model import Model, ModelBatch, ModelBatches, ModelRequest, open_batches
from runstream.agent.response import ModelResponse
from runstream.clock import Clock, system_clock
from runstream.errors import LoadRefused
from runstream.flow.wrapped import WrappedModel, ask, model_name

__all__ = ["LoadLimits", "Place", "RateLimit", "RatedModel", "estimate_tokens"]

_logger = logging.getLogger("runstream")

# Of text in most languages and models a token is about this long.
_CHARS_PER_TOKEN = 4

_inside: ContextVar[frozenset[int]] = ContextVar("runs_inside", default=frozenset())
"""The limits whose place the current run holds: a run that it starts needs no further one, or both would wait."""


class Place:
    """A run's place: in the queue, then among those that run. `leave` is called once, by whoever got it."""

    __slots__ = ("__weakref__", "_ahead", "_limits", "_ready", "name", "on_move")

    def __init__(self, limits: LoadLimits, name: str, on_move: Callable[[int], object] | None = None) -> None:
        self._limits: LoadLimits | None = limits
        self._ready: asyncio.Future[None] | None = None
        self._ahead = 0
        self.name = name
        """The id of the run."""
        self.on_move = on_move
        """Told the position whenever it has changed."""

    @property
    def position(self) -> int:
        """How many have to begin before the run has begun: 1 is next; 0 once it runs."""
        return self._ahead

    async def wait(self) -> None:
        """Return once the run may begin; who is cancelled meanwhile has left. To be called in the task that carries the
        run out: what that starts counts with it."""
        limits = self._limits
        if self._ready is not None:
            try:
                await self._ready
            except BaseException:
                self.leave()
                raise
        if limits is not None:
            _inside.set(_inside.get() | {id(limits)})

    def leave(self) -> None:
        """Free the place for the next one."""
        limits, self._limits = self._limits, None
        self._ahead = 0
        if limits is not None:
            limits.free(self)

    # Called by the limits.

    def move(self, ahead: int) -> bool:
        """Stand there now; whether that is news."""
        changed, self._ahead = ahead != self._ahead, ahead
        return changed

    def stand(self) -> None:
        """There is none yet: wait for one."""
        self._ready = asyncio.get_running_loop().create_future()

    def admit(self) -> bool:
        """Let the run begin; False where it has been given up meanwhile."""
        ready = self._ready
        self._ahead = 0
        if ready is None or ready.done():
            return False
        ready.set_result(None)
        return True


class LoadLimits:
    """Limits that many runs share, in one event loop. None is no limit.

    `max_runs` run at once; nested runs count with the one that started them. `requests_per_minute` and
    `tokens_per_minute` hold for each model endpoint. At most `max_queue` runs wait, and as many calls for each model;
    the next one gets LoadRefused. `on_position` is called with the `Place` of a run whenever that has moved.
    """

    def __init__(
        self,
        *,
        max_runs: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_queue: int = 100,
        expected_output_tokens: int = 500,
        clock: Clock = system_clock,
        on_position: Callable[[Place], object] | None = None,
    ) -> None:
        for name, value in (
            ("max_runs", max_runs),
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"LoadLimits.{name} must be positive or None, not {value}")
        if max_queue < 0:
            raise ValueError(f"LoadLimits.max_queue must be 0 or more, not {max_queue}")
        self.max_runs = max_runs
        self.max_queue = max_queue
        self.on_position = on_position
        self.expected_output_tokens = expected_output_tokens
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._running: set[Place] = set()
        self._queue: deque[Place] = deque()
        self._named: dict[str, RateLimit] = {}
        self._unnamed: weakref.WeakKeyDictionary[Model, RateLimit] = weakref.WeakKeyDictionary()

    @property
    def running(self) -> int:
        """How many runs have a place."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """How many runs wait."""
        return len(self._queue)

    @property
    def limits_rates(self) -> bool:
        """Whether calls of models are limited."""
        return self._requests_per_minute is not None or self._tokens_per_minute is not None

    @property
    def full(self) -> bool:
        """Whether one more run would be refused."""
        room = self.max_runs is None or (len(self._running) < self.max_runs and not self._queue)
        return not room and len(self._queue) >= self.max_queue

    def ask(self, name: str, on_move: Callable[[int], object] | None = None) -> Place:
        """A place for a run, at the end of the queue if need be: `Place.wait` for it. `on_move` is told its position
        whenever that has changed. Raises LoadRefused where too many wait."""
        place = Place(self, name, on_move)
        if self.max_runs is None or id(self) in _inside.get():
            return place
        if self.full:
            raise LoadRefused("runs", len(self._queue))
        if len(self._running) < self.max_runs and not self._queue:
            self._running.add(place)
        else:
            place.stand()
            self._queue.append(place)
            self._moved()
        return place

    async def enter(self, name: str, on_move: Callable[[int], object] | None = None) -> Place:
        """As `ask`, and the wait for it: both in the task that carries the run out."""
        place = self.ask(name, on_move)
        await place.wait()
        return place

    def free(self, place: Place) -> None:
        """A run has ended, or waits no longer."""
        if place in self._running:
            self._running.remove(place)
        elif place in self._queue:
            self._queue.remove(place)
        else:
            return
        while self._queue and self.max_runs is not None and len(self._running) < self.max_runs:
            following = self._queue.popleft()
            if following.admit():
                self._running.add(following)
                self._tell(following)
        self._moved()

    def _moved(self) -> None:
        for index, place in enumerate(self._queue):
            if place.move(index + 1):
                self._tell(place)

    def _tell(self, place: Place) -> None:
        if place.on_move is not None:
            place.on_move(place.position)
        if self.on_position is not None:
            try:
                self.on_position(place)
            except Exception:
                _logger.exception("LoadLimits.on_position has failed")

    def rate_of(self, model: Model) -> RateLimit:
        """The rates of the model's endpoint."""
        endpoint = getattr(model, "endpoint", model)
        known = cast("dict[Any, RateLimit]", self._named if isinstance(endpoint, str) else self._unnamed)
        rate = known.get(endpoint)
        if rate is None:
            rate = known[endpoint] = RateLimit(
                model_name(model),
                requests_per_minute=self._requests_per_minute,
                tokens_per_minute=self._tokens_per_minute,
                max_queue=self.max_queue,
                clock=self._clock,
            )
        return rate


class RateLimit:
    """So many requests and tokens a minute, evenly: what was not used comes back, up to a minute's worth."""

    def __init__(
        self,
        name: str = "the model",
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_queue: int = 100,
        clock: Clock = system_clock,
    ) -> None:
        self.name = name
        self.max_queue = max_queue
        self._clock = clock
        self._at = clock.now()
        self._limits = (requests_per_minute, tokens_per_minute)
        self._levels = [requests_per_minute or 0.0, tokens_per_minute or 0.0]
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    async def take(self, tokens: int) -> int:
        """Wait for leave to make a call of so many tokens; returns how many were reserved (no more than a minute's
        worth). Raises LoadRefused where too many wait."""
        per_minute = self._limits[1]
        amount = tokens if per_minute is None else min(tokens, int(per_minute))
        if not self._queue and self._wait_s(amount) <= 0:
            self._add(-1, -amount)
            return amount
        if len(self._queue) >= self.max_queue:
            raise LoadRefused(f"calls of {self.name}", len(self._queue))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            while self._queue[0] is not turn:
                await turn
                turn = self._renew(turn)
            while (wait_s := self._wait_s(amount)) > 0:
                try:
                    # What comes back meanwhile wakes whoever is next.
                    async with self._clock.timeout(wait_s):
                        await turn
                except TimeoutError:
                    pass
                turn = self._renew(turn)
            self._add(-1, -amount)
        finally:
            self._queue.remove(turn)
            self._wake()
        return amount

    def correct(self, reserved: int, used: int) -> None:
        """A call has used so many tokens, of those that were reserved for it."""
        self._add(0, reserved - used)
        self._wake()

    def _renew(self, turn: asyncio.Future[None]) -> asyncio.Future[None]:
        """A future that is done wakes nobody again."""
        if not turn.done():
            return turn
        fresh: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[self._queue.index(turn)] = fresh
        return fresh

    def _wake(self) -> None:
        if self._queue and not self._queue[0].done():
            self._queue[0].set_result(None)

    def _add(self, requests: float, tokens: float) -> None:
        self._refill()
        for index, amount in enumerate((requests, tokens)):
            limit = self._limits[index]
            if limit is not None:
                self._levels[index] = min(self._levels[index] + amount, limit)

    def _refill(self) -> None:
        now = self._clock.now()
        passed_s, self._at = now - self._at, now
        for index, limit in enumerate(self._limits):
            if limit is not None:
                self._levels[index] = min(self._levels[index] + passed_s * limit / 60, limit)

    def _wait_s(self, tokens: int) -> float:
        """Seconds until there is enough, by what is used now."""
        self._refill()
        wait_s = 0.0
        for level, limit, amount in zip(self._levels, self._limits, (1, tokens), strict=True):
            if limit is not None and level < amount - 1e-6:
                wait_s = max(wait_s, (amount - level) * 60 / limit)
        return wait_s


def estimate_tokens(request: ModelRequest, expected_output_tokens: int) -> int:
    """The tokens that a call may use: a quarter of its characters, and the longest output that it allows."""
    chars = len(request.system_instructions or "")
    chars += len(request.input) if isinstance(request.input, str) else sum(len(str(item)) for item in request.input)
    return chars // _CHARS_PER_TOKEN + (request.model_settings.max_tokens or expected_output_tokens)


class RatedModel(WrappedModel):
    """A model whose calls wait for their turn."""

    def __init__(self, inner: Model, rate: RateLimit, *, expected_output_tokens: int = 500) -> None:
        super().__init__(inner)
        self.rate = rate
        self._expected_output_tokens = expected_output_tokens

    async def respond(self, request: ModelRequest) -> ModelResponse:
        reserved = await self.rate.take(estimate_tokens(request, self._expected_output_tokens))
        response = await ask(self.inner, request)
        if response.usage.total_tokens:
            self.rate.correct(reserved, response.usage.total_tokens)
        return response

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        tokens = estimate_tokens(request, self._expected_output_tokens)
        return _RatedBatches(self.rate, tokens, open_batches(self.inner, request))


class _RatedBatches:
    """After its first batch nothing is done for a batch but to look whether it is the last."""

    __slots__ = ("_batches", "_rate", "_reserved", "_tokens")

    def __init__(self, rate: RateLimit, tokens: int, batches: ModelBatches) -> None:
        self._rate = rate
        self._tokens = tokens
        self._reserved: int | None = None
        self._batches = batches

    def __aiter__(self) -> _RatedBatches:
        return self

    async def __anext__(self) -> ModelBatch:
        if self._reserved is None:
            self._reserved = await self._rate.take(self._tokens)
        batch = await self._batches.__anext__()
        last: Any = batch.events[-1] if batch.events else None
        if last is not None and last.type in ("response.completed", "response.incomplete", "response.failed"):
            used = getattr(getattr(last.response, "usage", None), "total_tokens", None)
            if isinstance(used, int) and used:
                self._rate.correct(self._reserved, used)
                self._reserved = used
        return batch

    async def aclose(self) -> None:
        await self._batches.aclose()
