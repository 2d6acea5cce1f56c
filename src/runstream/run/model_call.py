"""One model call of a run: the request, and its events into the log."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, TypeVar, cast

from runstream.agent.agent import Agent
from runstream.agent.items import ModelResponse
from runstream.agent.model import Model, ModelBatch, ModelBatches, ModelRequest, ModelTracing, open_batches
from runstream.agent.output import AgentOutputSchemaBase
from runstream.agent.settings import ModelSettings, implicit_model_settings
from runstream.errors import ModelStreamTruncated, UserError
from runstream.flow.attempts import attempt_listener
from runstream.flow.failures import failure_of
from runstream.flow.wrapped import ask, model_name
from runstream.run.active import ActiveRun
from runstream.run.config import CallModelData, ModelInputData
from runstream.run.decide import Toolbox
from runstream.run.guardrails import stream_guardrails_of
from runstream.run.history import Conversation, latest_of_each
from runstream.run.hold_back import HoldBack, check_response
from runstream.run.reliability import Attempts, reliable
from runstream.run.run_log import broken_event

__all__ = ["call_model", "input_of", "model_of", "request_of"]

_T = TypeVar("_T")
_logger = logging.getLogger("runstream")

# After the terminal event only the end of the body is to come; reading it lets the connection be used again.
_DRAIN_S = 0.25
# So many events of a fast model are written before the readers get a turn. Few enough that they are still kept as
# objects then, many enough that the turn costs little.
_UNREAD_EVENTS = 32


def model_of(run: ActiveRun, agent: Agent[Any]) -> Model:
    """The model that the run, else the agent, asks for. Raises UserError for a name that the provider cannot serve, and
    for what is no model."""
    chosen: Any = run.config.model if run.config.model is not None else agent.model
    given_by = "RunConfig.model"
    if chosen is None or isinstance(chosen, str):
        provider = run.config.model_provider
        given_by = f"what {type(provider).__name__}.get_model({chosen!r}) returns"
        if not hasattr(provider, "get_model"):
            raise UserError(f"RunConfig.model_provider must be a ModelProvider, not {provider!r:.100}")
        chosen = provider.get_model(chosen)
    if not hasattr(chosen, "get_response"):
        raise UserError(f"{given_by} must be a Model, not {chosen!r:.100}")
    return chosen


def settings_of(run: ActiveRun, agent: Agent[Any], *, tools_used: bool) -> ModelSettings:
    """The agent's settings under the run's. After a tool call `tool_choice` is reset, unless the agent says no."""
    settings = agent.model_settings
    if run.config.model is not None and settings == implicit_model_settings(agent.model):
        # Nobody chose them, so they follow the model that the run asks for.
        settings = implicit_model_settings(run.config.model)
    settings = settings.resolve(run.config.model_settings)
    if tools_used and agent.reset_tool_choice and settings.tool_choice is not None:
        from dataclasses import replace

        settings = replace(settings, tool_choice=None)
    return settings


async def input_of(run: ActiveRun, conversation: Conversation) -> tuple[ModelInputData, Any]:
    """What this turn tells the model, before the run's filter, and the stored prompt, if any.

    The context has the items from here on: whoever decides about tools and handoffs finds them there.
    """
    agent, items = run.agent, conversation.next_input()
    run.context.turn_input = list(items)
    instructions = await agent.get_system_prompt(run.context)
    return ModelInputData(items, instructions), await agent.get_prompt(run.context)


async def request_of(
    run: ActiveRun,
    told: ModelInputData,
    prompt: Any,
    toolbox: Toolbox,
    schema: AgentOutputSchemaBase | None,
    conversation: Conversation,
    settings: ModelSettings,
) -> ModelRequest:
    """The request of this turn, after the run's `call_model_input_filter`."""
    agent, input_items, instructions = run.agent, told.input, told.instructions
    if run.config.call_model_input_filter is not None:
        data = CallModelData(ModelInputData(list(input_items), instructions), agent, run.context.context)
        filtered = run.config.call_model_input_filter(data)
        if inspect.isawaitable(filtered):
            filtered = await filtered
        if not isinstance(cast("object", filtered), ModelInputData):
            raise UserError(f"call_model_input_filter must return ModelInputData, not {type(filtered).__name__}")
        input_items, instructions = latest_of_each(filtered.input), filtered.instructions
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


async def call_model(
    run: ActiveRun, agent: Agent[Any], model: Model, request: ModelRequest, take_in: Callable[[ModelResponse], _T]
) -> tuple[ModelResponse, _T]:
    """Make the call, streamed or not as the run is; its events are in the log when it returns or raises.

    `take_in` is called with the answer as soon as it is complete: the end of the body may be longer in coming, and
    readers need not wait for it. Returns the answer, and what `take_in` made of it.

    Raises ModelTimeoutError past a limit of time, ModelStreamFailed, ModelStreamTruncated, ModelStreamBroken, and the
    official client's errors for requests that failed for good.
    """
    asked = reliable(run, agent, model, request)
    run.attempt = 1
    attempts, count = Attempts(run), len(run.fold.responses)
    guardrails = stream_guardrails_of(run.config, agent)
    listens = attempt_listener.set(attempts.note)
    try:
        if run.streamed:
            batches = open_batches(asked, request)
            if guardrails:
                batches = HoldBack(run, agent, guardrails, batches)
            return await _stream(run, batches, request, attempts, take_in)
        response = await ask(asked, request)
        if guardrails:
            response = await check_response(run, agent, guardrails, response)
        response.answered_by = attempts.begin() or response.answered_by or model_name(model)
        run.emit_response(response.to_completed_event(), response)
        return response, take_in(response)
    except Exception as error:
        if len(run.fold.responses) == count:  # else it was answered, and counts as that
            attempts.count(error)
        raise
    finally:
        attempt_listener.reset(listens)
        attempts.close()


async def _stream(
    run: ActiveRun,
    batches: ModelBatches,
    request: ModelRequest,
    attempts: Attempts,
    take_in: Callable[[ModelResponse], _T],
) -> tuple[ModelResponse, _T]:
    from runstream.events.model_event import DELTA_CLASSES

    count = len(run.fold.responses)
    unread = 0
    async with aclosing(cast("Any", batches)):
        async for batch in batches:
            if attempts.failed:
                attempts.begin()
            failed = run.emit_batch(batch, DELTA_CLASSES)
            unread += len(batch.events)
            if failed is not None:
                try:
                    failure = failure_of(failed)
                except (AttributeError, TypeError, ValueError) as error:
                    raise broken_event(failed, error) from error
                raise failure
            if len(run.fold.responses) > count:
                answer = run.fold.responses[count]
                if request.model_settings.preserve_raw_usage and answer.raw_usage is None:
                    answer.raw_usage = _raw_usage(batch)
                del batch  # as below
                taken = take_in(answer)
                await _drain(run, batches)
                return answer, taken
            if unread >= _UNREAD_EVENTS and run.log.readers_woken:
                # The transport hands over what it has buffered without waiting: the readers get their turn here.
                unread = 0
                await run.clock.sleep(0)
            if run.durable is not None and run.durable.is_behind:
                await run.committed()  # the store is slow: the run waits for it, within its limit
            del batch  # its events are not kept while nothing comes
    raise ModelStreamTruncated(
        "The model did not produce a final response: its stream ended without response.completed, response.failed "
        "or response.incomplete."
    )


def _raw_usage(batch: ModelBatch) -> dict[str, Any] | None:
    for event in batch.events:
        if event.type == "response.completed" and event.response.usage is not None:
            return event.response.usage.model_dump()
    return None


async def _drain(run: ActiveRun, batches: ModelBatches) -> None:
    try:
        async with run.clock.timeout(_DRAIN_S):
            async for _ in batches:
                pass
    except Exception as error:
        # The response is complete: only the connection is lost.
        _logger.debug("after the end of a model's response: %r", error)
