"""What the caller's error handlers put in the place of an error: a final output, with its message in the log."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from runstream.agent.agent import Agent
from runstream.agent.items import MessageOutputItem, TResponseInputItem
from runstream.agent.output import AgentOutputSchema, output_schema_of
from runstream.errors import MaxTurnsExceeded, ModelBehaviorError, ModelRefusalError
from runstream.events.codec import plain
from runstream.run.active import ActiveRun
from runstream.run.decide import Final
from runstream.run.error_handlers import RunErrorData, RunErrorHandlerInput, RunErrorHandlerResult, handle_error
from runstream.run.guardrails import output_guardrails_of
from runstream.run.history import input_items_of

__all__ = ["handled"]


async def handled(
    run: ActiveRun,
    kind: str,
    error: MaxTurnsExceeded | ModelRefusalError | ModelBehaviorError,
    base: Sequence[TResponseInputItem],
) -> Final | None:
    """The output that the handler of that kind gives, None where there is no such handler or it gives none."""

    def given() -> RunErrorHandlerInput[Any]:
        error.run_data = run.error_details()
        output = input_items_of(run.items)
        data = RunErrorData(run.input, list(run.items), [*base, *output], output, list(run.fold.responses), run.agent)
        return RunErrorHandlerInput(error, run.context, data)

    result: RunErrorHandlerResult | None = await handle_error(run.error_handlers, kind, given)
    if result is None:
        return None
    if result.include_in_history:
        message = _message_of(run.agent, result.final_output)
        if output_guardrails_of(run.config, run.agent):
            return Final(result.final_output, message)
        run.emit_item(message)
    return Final(result.final_output)


def _message_of(agent: Agent[Any], output: Any) -> MessageOutputItem:
    from openai.types.responses import ResponseOutputMessage

    schema = output_schema_of(agent.output_type)
    if isinstance(schema, AgentOutputSchema) and not isinstance(output, str):
        output = schema.wrap(output)
    text = output if isinstance(output, str) else json.dumps(plain(output), ensure_ascii=False, separators=(",", ":"))
    message = ResponseOutputMessage.model_validate(
        {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }
    )
    return MessageOutputItem(agent=agent, raw_item=message)
