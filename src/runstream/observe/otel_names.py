"""Names and attributes of OpenTelemetry's GenAI semantic conventions, and our own beside them.

Source: github.com/open-telemetry/semantic-conventions-genai (where the conventions live since semantic-conventions
1.42), the documents of its main branch in autumn 2026, which refer to semantic-conventions 1.44: `client-inference.md`,
`execute-tool.md`, `gen-ai-agent-spans.md`, `gen-ai-metrics.md`. Their status is "development": names have changed and
may change again. Older ones that dashboards may still ask for: `gen_ai.client.operation.duration` and
`gen_ai.client.operation.time_to_first_chunk` (now `gen_ai.client.inference.…`), `gen_ai.client.token.usage` (now the
counters `gen_ai.client.inference.usage.…`).

What the conventions have no name for (turns, attempts, handoffs, what became of a run) is under `runstream.`.
"""

from __future__ import annotations

import json
from typing import Any

from runstream.agent.raw_item import read_field
from runstream.events.codec import plain

__all__ = [
    "AGENT_DURATION",
    "DURATION_BOUNDS_S",
    "FIRST_CHUNK",
    "INFERENCE_DURATION",
    "INPUT_TOKENS",
    "OUTPUT_TOKENS",
    "TOOL_DURATION",
    "WORKFLOW_DURATION",
    "as_json",
    "finish_reason",
    "input_messages",
    "output_messages",
    "response_attributes",
]

INFERENCE_DURATION = "gen_ai.client.inference.duration"
FIRST_CHUNK = "gen_ai.client.inference.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.client.inference.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.client.inference.usage.output_tokens"
TOOL_DURATION = "gen_ai.execute_tool.duration"
AGENT_DURATION = "gen_ai.invoke_agent.duration"
WORKFLOW_DURATION = "gen_ai.invoke_workflow.duration"

DURATION_BOUNDS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""The bounds that the conventions give for histograms of durations."""


def response_attributes(response: Any) -> dict[str, Any]:
    """What a response says of itself, without content."""
    usage = read_field(response, "usage")
    found = {
        "gen_ai.response.id": read_field(response, "id"),
        "gen_ai.response.model": read_field(response, "model"),
        "gen_ai.usage.input_tokens": read_field(usage, "input_tokens"),
        "gen_ai.usage.output_tokens": read_field(usage, "output_tokens"),
        "gen_ai.usage.cache_read.input_tokens": read_field(read_field(usage, "input_tokens_details"), "cached_tokens"),
        "gen_ai.usage.reasoning.output_tokens": read_field(
            read_field(usage, "output_tokens_details"), "reasoning_tokens"
        ),
    }
    attributes: dict[str, Any] = {name: value for name, value in found.items() if value is not None and value != ""}
    attributes["gen_ai.response.finish_reasons"] = [finish_reason(response)]
    return attributes


def finish_reason(response: Any) -> str:
    """Why the model stopped, in the conventions' words."""
    status = read_field(response, "status")
    if status == "incomplete":
        reason = read_field(read_field(response, "incomplete_details"), "reason")
        return "length" if reason == "max_output_tokens" else str(reason or "length")
    if status == "failed":
        return "error"
    calls = any(str(read_field(item, "type")).endswith("_call") for item in read_field(response, "output") or ())
    return "tool_call" if calls else "stop"


def output_messages(response: Any) -> str:
    """The answer as `gen_ai.output.messages`: JSON of one message and its parts."""
    parts = [part for item in read_field(response, "output") or () for part in _parts(item)]
    return as_json([{"role": "assistant", "parts": parts, "finish_reason": finish_reason(response)}])


def input_messages(given: str | list[Any]) -> str:
    """What a run was started with as `gen_ai.input.messages`."""
    if isinstance(given, str):
        return as_json([{"role": "user", "parts": [{"type": "text", "content": given}]}])
    roles = {"function_call_output": "tool"}
    messages: list[dict[str, Any]] = []
    for item in given:
        kind = str(read_field(item, "type") or "message")
        role = read_field(item, "role") or roles.get(kind, "assistant")
        messages.append({"role": role, "parts": _parts(item)})
    return as_json(messages)


def _parts(item: Any) -> list[dict[str, Any]]:
    kind = str(read_field(item, "type") or "message")
    if kind == "message":
        content = read_field(item, "content")
        if isinstance(content, str):
            return [{"type": "text", "content": content}]
        return [{"type": "text", "content": _text_of(part)} for part in content or ()]
    if kind == "reasoning":
        pieces = [*(read_field(item, "summary") or ()), *(read_field(item, "content") or ())]
        return [{"type": "reasoning", "content": _text_of(piece)} for piece in pieces]
    call_id = read_field(item, "call_id") or read_field(item, "id")
    if kind == "function_call_output":
        return [{"type": "tool_call_response", "id": call_id, "response": plain(read_field(item, "output"))}]
    arguments = read_field(item, "arguments")
    return [{"type": "tool_call", "id": call_id, "name": read_field(item, "name") or kind, "arguments": arguments}]


def _text_of(part: Any) -> str:
    text = read_field(part, "text")
    return str(read_field(part, "refusal") or f"({read_field(part, 'type')})") if text is None else str(text)


def as_json(value: Any) -> str:
    """Attributes of spans are plain: what has a structure is JSON."""
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
