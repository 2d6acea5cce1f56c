"""What the configuration puts around a model: limits of time, rates, breakers, retries, fallbacks, which are operators
of `flow/`; and what the run makes of the attempts that these make.

From the inside out: limits of time, the rate's queue, the breaker, retries; then the chain of models; and around all
what keeps a partial answer. An option that is not set puts nothing there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

from runstream.agent.agent import Agent
from runstream.agent.model import Model, ModelBatches, ModelRequest, open_batches
from runstream.agent.response import ModelResponse
from runstream.agent.settings import ModelSettings, implicit_model_settings
from runstream.agent.usage import Usage
from runstream.errors import CircuitOpen, LoadRefused, UserError
from runstream.flow.attempts import AfterContent, FailedAttempt
from runstream.flow.breaker import GuardedModel
from runstream.flow.fallback import Fallback, PlainCall
from runstream.flow.load import RatedModel
from runstream.flow.partial import PartialModel
from runstream.flow.retry import RetryingModel
from runstream.flow.timeouts import TimedModel, TimeLimits
from runstream.flow.wrapped import WrappedModel, ask
from runstream.run.active import ActiveRun

__all__ = ["Attempts", "reliable"]

_NO_LIMITS = TimeLimits()
_DETAIL_CHARS = 300
# No provider can bill for what it never got.
_NEVER_SENT = (UserError, CircuitOpen, LoadRefused)


def reliable(run: ActiveRun, agent: Agent[Any], model: Model, request: ModelRequest) -> Model:
    """The model as the run asks it. Raises UserError for a fallback model that the provider cannot serve."""
    config = run.config
    keeps_partial = config.on_broken_stream == "continue"
    after_content: AfterContent = "fail" if config.on_broken_stream == "continue" else config.on_broken_stream
    chosen = _guarded(run, model, request, after_content)
    if config.fallback_models:
        others = [_fallback(run, agent, model, other, request, after_content) for other in config.fallback_models]
        chosen = Fallback(chosen, *others, on=config.fallback_on, after_content=after_content)
    return PartialModel(chosen) if keeps_partial and run.streamed else chosen


def _guarded(run: ActiveRun, model: Model, request: ModelRequest, after_content: AfterContent) -> Model:
    config, limits, load = run.config, run.config.time_limits, run.config.load_limits
    inner = model
    if limits is not None or request.model_settings.timeout is not None:
        inner = TimedModel(inner, limits or _NO_LIMITS, clock=run.clock)
    if load is not None and load.limits_rates:
        inner = RatedModel(inner, load.rate_of(model), expected_output_tokens=load.expected_output_tokens)
    if config.circuit_breakers is not None:
        inner = GuardedModel(inner, config.circuit_breakers.of(model))
    return RetryingModel(inner, after_content=after_content, budget=config.retry_budget, clock=run.clock)


def _fallback(
    run: ActiveRun,
    agent: Agent[Any],
    model: Model,
    other: str | Model,
    request: ModelRequest,
    after_content: AfterContent,
) -> Model:
    if isinstance(other, PlainCall):
        return PlainCall(_guarded(run, other.inner or model, request, after_content))
    if not isinstance(other, str):
        return _guarded(run, other, request, after_content)
    found = _guarded(run, run.config.model_provider.get_model(other), request, after_content)
    first = run.config.model if run.config.model is not None else agent.model
    if agent.model_settings not in (implicit_model_settings(agent.model), implicit_model_settings(first)):
        return found
    # Nobody chose the settings, so they follow the model.
    settings = implicit_model_settings(other).resolve(run.config.model_settings)
    return _WithSettings(found, replace(settings, tool_choice=request.model_settings.tool_choice))


class _WithSettings(WrappedModel):
    def __init__(self, inner: Model, settings: ModelSettings) -> None:
        super().__init__(inner)
        self._settings = settings

    async def respond(self, request: ModelRequest) -> ModelResponse:
        return await ask(self.inner, dataclasses.replace(request, model_settings=self._settings))

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        return open_batches(self.inner, dataclasses.replace(request, model_settings=self._settings))


class Attempts:
    """The attempts at one model call, as the run's log, usage and readers see them.

    What an attempt has shown stays until the next one shows something: where none does, people keep what they had.
    """

    __slots__ = ("_run", "_void_from", "failed")

    def __init__(self, run: ActiveRun) -> None:
        self._run = run
        self._void_from: int | None = None
        self.failed: list[FailedAttempt] = []
        """Those that failed since anything was shown."""

    def note(self, failed: FailedAttempt) -> None:
        """An attempt has failed and is followed by another."""
        run = self._run
        run.check_open()  # a run that left this call behind does not ask again
        if self.count(failed.error):
            run.attempt += 1
        if self._void_from is None:
            self._void_from = run.fold.response_seq
        self.failed.append(failed)

    def count(self, error: Exception) -> bool:
        """A failed attempt counts, followed by another or not: the provider may bill for it. False where it was none,
        since nothing was sent."""
        if isinstance(error, _NEVER_SENT):
            return False
        self._run.context.usage.add(Usage.of_failed_request(getattr(error, "usage", None)))
        return True

    def begin(self) -> str | None:
        """What comes next is another attempt's: tell readers what no longer counts, and who answers now, which is
        returned if it is another model."""
        run, failed, void_from = self._run, self.failed, self._void_from
        self.failed, self._void_from = [], None
        change = next((each for each in reversed(failed) if each.reason == "fallback"), None)
        if void_from is None and change is None:
            return None  # nobody has seen anything of it
        told = change or failed[-1]
        detail = _reason_of([each for each in failed if each.reason == "fallback"] or [told])
        if change is not None:
            # The same name: it is asked in one piece, or where else it is served.
            another = change.next_model if change.next_model != change.model else f"another call of {change.model}"
            detail = f"{detail}; {another} takes over"
        run.check_open()
        next_model = None if change is None else change.next_model
        run.emit_discarded(run.log.next_seq if void_from is None else void_from, told.reason, detail, next_model)
        return next_model

    def close(self) -> None:
        """The call is over. The contexts that were copied meanwhile, of timers and of connections that are kept, know
        this object for long: the run must not live as long as they do."""
        del self._run
        self.failed = []


def _reason_of(failed: list[FailedAttempt]) -> str:
    """What has failed, one after the other, each in its share of what may be said."""
    chars = _DETAIL_CHARS // len(failed)
    errors = [" ".join(f"{type(each.error).__name__}: {each.error}".split()) for each in failed]
    short = [error if len(error) <= chars else f"{error[: chars - 1]}\u2026" for error in errors]
    return "; ".join(
        f"{each.model or 'the model'} has failed ({error})" for each, error in zip(failed, short, strict=True)
    )
