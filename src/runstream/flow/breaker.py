"""A circuit breaker for each model endpoint: one that fails again and again is not asked for a while.

Closed, calls go through; after so many failures in a row it opens, and calls are refused at once (`CircuitOpen`), so
that a fallback answers without first waiting for a time-out. After a pause it is half open: one call, the probe, goes
through and decides; the others are refused meanwhile.

What counts as a failure: limits of time, broken connections, 5xx, streams that break off. What does not: cancellations,
and answers that blame the request (4xx), which show that the endpoint is there. Nothing here waits, so that state
changes are atomic within an event loop.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

from runstream.agent.model import Model, ModelBatch, ModelBatches, ModelRequest, open_batches
from runstream.agent.response import ModelResponse
from runstream.clock import Clock, system_clock
from runstream.errors import CircuitOpen, ModelStreamTruncated
from runstream.flow.attempts import LIFECYCLE
from runstream.flow.failures import FAILURE_EVENTS, failure_kind, failure_of
from runstream.flow.wrapped import WrappedModel, ask, model_name

__all__ = ["BreakerState", "CircuitBreaker", "CircuitBreakers", "GuardedModel", "Permit"]

_logger = logging.getLogger("runstream")

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]
_COUNTED = frozenset(("timeout", "connection", "server", "broken_stream"))
_ALIVE = frozenset(("refused", "not_found", "incomplete"))


class CircuitBreaker:
    """The breaker of one endpoint. `failures` in a row open it for `open_s` seconds.

    `on_change` is called with the breaker whenever its state has changed; an error of it is logged.
    """

    def __init__(
        self,
        endpoint: str = "the model",
        *,
        failures: int = 5,
        open_s: float = 30.0,
        clock: Clock = system_clock,
        on_change: Callable[[CircuitBreaker], object] | None = None,
    ) -> None:
        if failures < 1:
            raise ValueError(f"failures must be at least 1, not {failures}")
        if not open_s > 0:
            raise ValueError(f"open_s must be a positive number of seconds, not {open_s}")
        self.endpoint = endpoint
        self.failures = failures
        self.open_s = open_s
        self.on_change = on_change
        self._clock = clock
        self._shown: BreakerState = "closed"
        self._in_a_row = 0
        self._opened_at = 0.0
        self._probe: Permit | None = None
        self.last_failure: str | None = None
        """The latest failure that counted, in words: the error itself would hold on to all that it passed through."""

    @property
    def state(self) -> BreakerState:
        """`open` until the pause is over; `half_open` from then until a probe has decided."""
        if self._shown == "open" and self.probe_in_s <= 0:
            return "half_open"
        return self._shown

    @property
    def failures_in_a_row(self) -> int:
        """Failures since the last success."""
        return self._in_a_row

    @property
    def probe_in_s(self) -> float:
        """Seconds until a call may try the endpoint again; 0.0 where one may now."""
        if self._shown == "closed":
            return 0.0
        return max(self._opened_at + self.open_s - self._clock.now(), 0.0)

    def enter(self) -> Permit:
        """Leave to make a call, whose outcome the permit is to be told. Raises CircuitOpen."""
        if self._shown == "closed":
            return Permit(self)
        if self.probe_in_s > 0 or self._probe is not None:
            raise CircuitOpen(self.endpoint, self.probe_in_s, self.last_failure)
        self._probe = Permit(self)
        self._change("half_open")
        return self._probe

    def is_probe(self, permit: Permit) -> bool:
        """Whether that call decides whether the breaker closes."""
        return permit is self._probe

    def close(self) -> None:
        """Let calls through from now on, whatever has failed."""
        self._in_a_row, self._probe = 0, None
        self._change("closed")

    def open(self) -> None:
        """Refuse calls from now on, for the usual pause."""
        self._opened_at, self._probe = self._clock.now(), None
        self._change("open")

    def settle(self, permit: Permit, outcome: bool | None) -> None:
        """A call has ended: well, badly, or without telling anything (None)."""
        was_probe = permit is self._probe
        if was_probe:
            self._probe = None
        if self._shown != "closed" and not was_probe:
            return  # it began before the breaker opened: old news
        if outcome is True:
            self.close()
        elif outcome is False:
            self._in_a_row += 1
            if was_probe or self._in_a_row >= self.failures:
                self.open()

    def _change(self, state: BreakerState) -> None:
        if state == self._shown:
            return
        self._shown = state
        _logger.log(
            logging.INFO if state != "open" else logging.WARNING, "the breaker of %s is %s", self.endpoint, state
        )
        if self.on_change is not None:
            try:
                self.on_change(self)
            except Exception:
                _logger.exception("on_change of the breaker of %s has failed", self.endpoint)


class Permit:
    """Leave for one call. Exactly one of its methods counts, the first that is called."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker: CircuitBreaker | None = breaker

    @property
    def is_probe(self) -> bool:
        """Whether this call decides whether the breaker closes."""
        return self._breaker is not None and self._breaker.is_probe(self)

    def succeed(self) -> None:
        """The endpoint has answered."""
        self._settle(True)

    def fail(self, error: Exception) -> None:
        """The call has failed; whether that counts, is the kind of the error's."""
        kind = failure_kind(error)
        if kind in _COUNTED and self._breaker is not None:
            self._breaker.last_failure = f"{type(error).__name__}: {error}"
        self._settle(False if kind in _COUNTED else True if kind in _ALIVE else None)

    def leave(self) -> None:
        """The call was given up: that tells nothing of the endpoint."""
        self._settle(None)

    def _settle(self, outcome: bool | None) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.settle(self, outcome)


class CircuitBreakers:
    """The breakers of all endpoints that its users ask, made when they are first needed; to be shared by many runs."""

    def __init__(
        self,
        *,
        failures: int = 5,
        open_s: float = 30.0,
        clock: Clock = system_clock,
        on_change: Callable[[CircuitBreaker], object] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "failures": failures,
            "open_s": open_s,
            "clock": clock,
            "on_change": on_change,
        }
        self._named: dict[str, CircuitBreaker] = {}
        self._unnamed: weakref.WeakKeyDictionary[Model, CircuitBreaker] = weakref.WeakKeyDictionary()
        CircuitBreaker(**self._options)  # so that options out of range are refused here

    def of(self, model: Model) -> CircuitBreaker:
        """The breaker of the model's endpoint: its server and name, or the model itself where it has no `endpoint`."""
        endpoint = getattr(model, "endpoint", model)
        known = cast("dict[Any, CircuitBreaker]", self._named if isinstance(endpoint, str) else self._unnamed)
        breaker = known.get(endpoint)
        if breaker is None:
            name = endpoint if isinstance(endpoint, str) else model_name(model)
            breaker = known[endpoint] = CircuitBreaker(name, **self._options)
        return breaker

    def __iter__(self) -> Any:
        """The breakers there are."""
        return iter([*self._named.values(), *self._unnamed.values()])


class GuardedModel(WrappedModel):
    """A model behind a breaker: while that is open, calls raise CircuitOpen at once."""

    def __init__(self, inner: Model, breaker: CircuitBreaker) -> None:
        super().__init__(inner)
        self.breaker = breaker

    async def respond(self, request: ModelRequest) -> ModelResponse:
        permit = self.breaker.enter()
        try:
            response = await ask(self.inner, request)
            permit.succeed()
        except Exception as error:
            permit.fail(error)
            raise
        finally:
            permit.leave()  # a cancellation; otherwise its outcome is told already
        return response

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        return _GuardedBatches(self.breaker, open_batches(self.inner, request))


class _GuardedBatches:
    __slots__ = ("_batches", "_breaker", "_is_probe", "_permit")

    def __init__(self, breaker: CircuitBreaker, batches: ModelBatches) -> None:
        self._breaker = breaker
        self._batches = batches
        self._permit: Permit | None = None
        self._is_probe = False

    def __aiter__(self) -> _GuardedBatches:
        return self

    async def __anext__(self) -> ModelBatch:
        permit = self._permit
        if permit is None:
            permit = self._permit = self._breaker.enter()
            self._is_probe = permit.is_probe
        try:
            batch = await self._batches.__anext__()
        except StopAsyncIteration:
            permit.fail(_no_end())  # counts for nothing after the end of the response
            raise
        except Exception as error:
            permit.fail(error)
            raise
        except BaseException:
            permit.leave()
            raise
        events = cast("list[Any]", batch.events)
        if events:
            kind: str = events[-1].type
            if self._is_probe or not kind.endswith(".delta"):
                self._read(events, kind, permit)
        return batch

    def _read(self, events: list[Any], kind: str, permit: Permit) -> None:
        if kind == "response.completed" or kind == "response.incomplete":
            permit.succeed()
        else:
            failed = next((event for event in events if event.type in FAILURE_EVENTS), None)
            if failed is not None:
                try:
                    permit.fail(failure_of(failed))
                except (AttributeError, TypeError, ValueError) as error:
                    permit.fail(error)
            elif self._is_probe and any(event.type not in LIFECYCLE for event in events):
                permit.succeed()  # others need not wait for the end of a long answer

    async def aclose(self) -> None:
        if self._permit is not None:
            self._permit.leave()
        await self._batches.aclose()


def _no_end() -> Exception:
    return ModelStreamTruncated("The model's stream ended without the end of its response.")
