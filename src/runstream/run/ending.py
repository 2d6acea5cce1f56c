"""How a run ends, as plain data."""

from __future__ import annotations

from typing import Any

from runstream.agent.usage import Usage
from runstream.events.codec import plain
from runstream.events.event import ErrorInfo, RunEnd, RunStatus

__all__ = ["run_end"]


def run_end(status: RunStatus, error: BaseException | None, final_output: Any, usage: Usage) -> RunEnd:
    """The data of `run.end`."""
    info = None
    if error is not None:
        code, retryable = getattr(error, "code", None), getattr(error, "retryable", False)
        info = ErrorInfo(
            type(error).__name__, _text_of(error), code if isinstance(code, str) else None, retryable is True
        )
    counts = {
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    return RunEnd(status, info, plain(final_output), counts)


def _text_of(error: BaseException) -> str:
    """The error's message; a class that fails to tell it must not keep `run.end` from being written."""
    try:
        return str(error)
    except Exception as failure:
        return f"(its message cannot be shown: {type(failure).__name__})"
