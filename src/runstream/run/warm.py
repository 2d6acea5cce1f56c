"""What the first run of a process imports and builds, done beforehand: it holds up the event loop for half a second."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["warm_up"]


def warm_up() -> None:
    """Import what every run needs, and compile how its most frequent events are built. Idempotent; may be called in a
    thread."""
    for module in ("runstream.models.responses", "runstream.run.loop", "runstream.events.segment"):
        importlib.import_module(module)
    from runstream.agent.items import ModelResponse
    from runstream.events.model_event import build_event

    usage = {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }
    items: list[dict[str, Any]] = [
        {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "", "annotations": []}],
        },
        {"id": "f", "type": "function_call", "call_id": "c", "name": "n", "arguments": "{}", "status": "completed"},
    ]
    response = {"id": "r", "object": "response", "status": "completed", "output": items, "usage": usage}
    done: Any = build_event({"type": "response.completed", "response": response, "sequence_number": 0})
    ModelResponse.from_response(done.response)
