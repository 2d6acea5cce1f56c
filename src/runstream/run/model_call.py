"""One model call of a run: the request, its retries and its time limit, and its events into the log."""

from __future__ import annotations

import inspect
from contextlib import aclosing
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.items import ModelResponse
from runstream.agent.model import Model, ModelRequest, ModelTracing, open_batches
from runstream.agent.output import AgentOutputSchemaBase
from runstream.agent.settings import ModelSettings
from runstream.agent.usage import Usage
from runstream.errors import ModelStreamFailed, ModelStreamTruncated, ModelTimeoutError, UserError
from runstream.flow.retry import RetryPolicy, policy_of, retry_call, retry_stream
from runstream.run.active import ActiveRun
from runstream.run.config import CallModelData, ModelInputData
from runstream.run.decide import Toolbox
from runstream.run.history import Conversation

__all__ = ["call_model", "model_of", "request_of"]

_FAILURES = frozenset(("response.failed", "response.incomplete", "error"))
# After the terminal event only the end of the body is to come; reading it lets the connection be used again.
_DRAIN_S = 1.0


def model_of(run: ActiveRun, agent: Agent[Any]) -> Model:
    """The model that the run, else the agent, asks for. Raises UserError for a name that the provider cannot serve."""
    chosen = run.config.model if run.config.model is not None else agent.model
    if chosen is None or isinstance(chosen, str):
        return run.config.model_provider.get_model(chosen)
    return chosen


def settings_of(run: ActiveRun, agent: Agent[Any], *, tools_used: bool) -> ModelSettings:
    """The agent's settings under the run's. After a tool call `tool_choice` is reset, unless the agent says no."""
    settings = agent.model_settings.resolve(run.config.model_settings)
    if tools_used and agent.reset_tool_choice and settings.tool_choice is not None:
        from dataclasses import replace

        settings = replace(settings, tool_choice=None)
    return settings


async def request_of(
    run: ActiveRun,
    toolbox: Toolbox,
    schema: AgentOutputSchemaBase | None,
    conversation: Conversation,
    settings: ModelSettings,
) -> ModelRequest:
    """The request of this turn, after the run's `call_model_input_filter`."""
    agent = run.agent
    instructions = await agent.get_system_prompt(run.context)
    prompt = await agent.get_prompt(run.context)
    input_items = conversation.next_input()
    if run.config.call_model_input_filter is not None:
        data = CallModelData(ModelInputData(list(input_items), instructions), agent, run.context.context)
        filtered = run.config.call_model_input_filter(data)
        if inspect.isawaitable(filtered):
            filtered = await filtered
        if not isinstance(cast("object", filtered), ModelInputData):
            raise UserError(f"call_model_input_filter must return ModelInputData, not {type(filtered).__name__}")
        input_items, instructions = filtered.input, filtered.instructions
    run.context.turn_input = list(input_items)
    return ModelRequest(
        system_instructions=instructions,
        input=input_items,
        model_settings=settings,
        tools=toolbox.tools,
        output_schema=schema,
        handoffs=list(toolbox.handoffs.values()),
        tracing=ModelTracing.DISABLED,
        previous_response_id=None if conversation.conversation_id else conversation.previous_response_id,
        conversation_id=conversation.conversation_id,
        prompt=prompt,
    )


async def call_model(run: ActiveRun, model: Model, request: ModelRequest) -> ModelResponse:
    """Make the call, streamed or not as the run is; its events are in the log when it returns or raises.

    Raises ModelTimeoutError past `ModelSettings.timeout`, ModelStreamFailed, ModelStreamTruncated, ModelStreamBroken,
    and the official client's errors for requests that failed for good.
    """
    policy = policy_of(request.model_settings.retry, model, request, stream=run.streamed)
    run.attempt = 1

    def on_failure(error: Exception) -> None:
        # A failed request counts: the provider may bill for it.
        run.attempt += 1
        run.context.usage.add(Usage(requests=1))

    limit_s = request.model_settings.timeout
    try:
        async with run.clock.timeout(limit_s):
            if run.streamed:
                return await _stream(run, model, request, policy, on_failure)
            response = await retry_call(
                lambda: model.get_response(**request.arguments()), policy, run.clock, on_failure
            )
            run.emit_response(response.to_completed_event(), response)
            return response
    except TimeoutError as error:
        if limit_s is None:
            raise
        raise ModelTimeoutError(limit_s) from error


async def _stream(
    run: ActiveRun, model: Model, request: ModelRequest, policy: RetryPolicy, on_failure: Any
) -> ModelResponse:
    from runstream.events.model_event import DELTA_CLASSES

    count = len(run.fold.responses)
    batches = retry_stream(lambda: open_batches(model, request), policy, run.clock, on_failure)
    async with aclosing(batches):
        async for batch in batches:
            run.emit_batch(batch, DELTA_CLASSES)
            if len(run.fold.responses) > count:
                await _drain(run, batches)
                return run.fold.responses[count]
            for event in batch.events[-2:]:
                if event.type in _FAILURES:
                    usage = getattr(getattr(event, "response", None), "usage", None)
                    if usage is not None:
                        run.context.usage.add(Usage.from_response(usage))
                    raise _failure_of(event)
    raise ModelStreamTruncated(
        "The model did not produce a final response: its stream ended without response.completed, response.failed "
        "or response.incomplete."
    )


async def _drain(run: ActiveRun, batches: Any) -> None:
    try:
        async with run.clock.timeout(_DRAIN_S):
            async for _ in batches:
                pass
    except (TimeoutError, ModelStreamTruncated):
        pass  # the response is complete; only the connection is lost


def _failure_of(event: Any) -> ModelStreamFailed:
    if event.type == "error":
        return ModelStreamFailed(
            f"The model's stream reported an error: {event.message}", event_type="error", error_code=event.code
        )
    response = event.response
    if event.type == "response.incomplete":
        reason = getattr(response.incomplete_details, "reason", None) or "no reason given"
        return ModelStreamFailed(
            f"The model's response is incomplete ({reason}).",
            event_type=event.type,
            error_code=reason,
        )
    error = response.error
    said = f"{error.code}: {error.message}" if error is not None else "no error given"
    return ModelStreamFailed(
        f"The model's response failed ({said})", event_type=event.type, error_code=error.code if error else None
    )
