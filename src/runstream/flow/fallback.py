"""Asking another model where one fails: a chain of models, each with retries and limits of its own.

Before the first content the change is invisible but for who answers. After it the policy decides, as for retries
(`flow/attempts.py`): to fail, or to begin again with the next model, which takes back what was shown. The last model of
a chain may be asked without streaming (`PlainCall`): where only streams are broken, the answer comes at once.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any, TypeAlias, cast

from runstream.agent.model import Model, ModelBatch, ModelBatches, ModelRequest, open_batches
from runstream.agent.response import ModelResponse
from runstream.errors import UserError
from runstream.flow.attempts import AfterContent, AttemptStream, FailedAttempt, attempt_listener, tell
from runstream.flow.failures import FAULTS, FailureKind, failure_kind
from runstream.flow.wrapped import RequestModel, WrappedModel, ask, model_name

__all__ = ["FALLBACK_ON", "Fallback", "FallbackOn", "PlainCall"]

_logger = logging.getLogger("runstream")

FallbackOn: TypeAlias = "Collection[FailureKind] | Callable[[Exception], bool]"
"""The kinds of failures after which the next model is asked, or who decides it."""
FALLBACK_ON: frozenset[FailureKind] = FAULTS.union(("quota", "circuit_open"))


class PlainCall(WrappedModel):
    """A model that is asked without streaming: a stream of it is its whole response, as one event.

    In `RunConfig.fallback_models` the model may be left out: it is the one that the run asked for, then.
    """

    def __init__(self, inner: Model | None = None) -> None:
        super().__init__(cast("Model", inner))

    async def respond(self, request: ModelRequest) -> ModelResponse:
        return await ask(self.inner, request)

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        return self._answer(request)

    async def _answer(self, request: ModelRequest) -> AsyncGenerator[ModelBatch, None]:
        response = await ask(self.inner, request)
        response.answered_by = response.answered_by or model_name(self.inner)
        yield ModelBatch([response.to_completed_event()], [None])


class Fallback(RequestModel):
    """The first of several models that answers. Raises the last one's error where none does; where an error is not one
    of those in `on`, that error, at once.

    `after_content` is for streams that break once content was shown: "restart" asks the next model. Used outside of a
    run, where nobody takes back what was shown, such a stream fails.
    """

    def __init__(self, *models: Model, on: FallbackOn = FALLBACK_ON, after_content: AfterContent = "fail") -> None:
        if not models:
            raise UserError("Fallback needs at least one model")
        self.models: Sequence[Model] = models
        self._on = on
        self._after_content: AfterContent = after_content

    @property
    def model(self) -> str:
        """The name of the first choice."""
        return model_name(self.models[0])

    @property
    def endpoint(self) -> Any:
        """The first choice's."""
        return getattr(self.models[0], "endpoint", self.models[0])

    retries_itself = True
    """A run does not go through the whole chain again."""

    def get_retry_advice(self, request: Any) -> Any:
        return self.models[0].get_retry_advice(request)

    async def close(self) -> None:
        """Close all of them."""
        for model in self.models:
            await model.close()

    async def respond(self, request: ModelRequest) -> ModelResponse:
        for index, model in enumerate(self.models):
            try:
                return await ask(model, request)
            except Exception as error:
                if not self.goes_on(error, index):
                    raise
        raise AssertionError  # the last one has answered or raised

    def stream_batches(self, request: ModelRequest) -> ModelBatches:
        after_content: AfterContent = "fail" if attempt_listener.get() is None else self._after_content
        return _FallbackStream(self, request, after_content)

    def goes_on(self, error: Exception, index: int) -> bool:
        """Whether the model after that one is to be asked; tells the listener so."""
        decides = self._on(error) if callable(self._on) else failure_kind(error) in self._on
        if not decides or index + 1 >= len(self.models):
            return False
        name, other = model_name(self.models[index]), model_name(self.models[index + 1])
        _logger.info("model %s has failed (%s): asking %s", name, type(error).__name__, other)
        tell(FailedAttempt(error, "fallback", name, other))
        return True


class _FallbackStream(AttemptStream):
    __slots__ = ("_chain", "_index", "_request")

    def __init__(self, chain: Fallback, request: ModelRequest, after_content: AfterContent) -> None:
        super().__init__(after_content, reads_events=True)
        self._chain = chain
        self._request = request
        self._index = -1

    def _open(self) -> ModelBatches:
        self._index += 1
        return open_batches(self._chain.models[self._index], self._request)

    async def _goes_on(self, error: Exception) -> bool:
        return self._chain.goes_on(error, self._index)
