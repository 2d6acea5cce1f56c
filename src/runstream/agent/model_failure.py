"""What the failure of a model call means: whether the same call may succeed later, when, and what is known of it.

Owns the reading of the official client's errors. Must not know models, policies or runs.
"""

from __future__ import annotations

from runstream.agent.raw_item import read_field
from runstream.agent.retry import ModelRetryAdvice, ModelRetryAdviceRequest, ModelRetryNormalizedError
from runstream.errors import ModelStreamTruncated, ModelTimeoutError

__all__ = ["advice_on", "incomplete_message", "is_transient", "normalized_error", "retry_after_s"]


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later: connection faults, time-outs, 408, 409, 429 and 5xx, a cut stream.

    A server's `x-should-retry` header decides where it is there; an exhausted quota never is transient.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        if error.code == "insufficient_quota":
            return False
        should = error.response.headers.get("x-should-retry")
        if should in ("true", "false"):
            return should == "true"
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | ModelStreamTruncated)


def retry_after_s(error: Exception) -> float | None:
    """The pause that the server asks for, in seconds (`retry-after-ms`, `retry-after` as a number)."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit_s, 0.0)
        except (KeyError, ValueError):
            continue
    return None


_ADVICE = {
    "max_output_tokens": ": raise max_tokens, or ask for less",
    "content_filter": ": the rest was withheld",
}


def incomplete_message(reason: str | None) -> str:
    """What a response that broke off for this reason means, and what to do about it."""
    return f"The model's response is incomplete ({reason or 'no reason given'}){_ADVICE.get(reason or '', '')}."


def normalized_error(error: Exception) -> ModelRetryNormalizedError:
    """What is known of the failure, whichever client raised it."""
    import openai

    is_timeout = isinstance(error, openai.APITimeoutError | ModelTimeoutError)
    return ModelRetryNormalizedError(
        status_code=getattr(error, "status_code", None),
        error_code=_code_of(error),
        message=str(error),
        request_id=getattr(error, "request_id", None),
        retry_after=retry_after_s(error),
        is_network_error=isinstance(error, openai.APIConnectionError | ModelStreamTruncated) and not is_timeout,
        is_timeout=is_timeout,
    )


def _code_of(error: Exception) -> str | None:
    # Some servers put their error one level deeper than where the official client looks for its code.
    code = getattr(error, "code", None) or read_field(read_field(getattr(error, "body", None), "error"), "code")
    return code if isinstance(code, str) else None


def advice_on(request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
    """What the models of the official client advise: to retry what is transient, and not to where the server says so.

    A request that the server refused changed nothing, so that repeating it is safe even where the server keeps the
    conversation; whether one that got lost had begun nobody knows. None where there is nothing to say.
    """
    import openai

    error = request.error
    suggested, told = is_transient(error), None
    if isinstance(error, openai.APIStatusError):
        told = error.response.headers.get("x-should-retry")
        if not suggested and told != "false" and error.code != "insufficient_quota":
            return None
    elif not suggested:
        return None
    is_stateful = request.previous_response_id is not None or request.conversation_id is not None
    is_safe = suggested and isinstance(error, openai.APIStatusError) and (is_stateful or told == "true")
    return ModelRetryAdvice(
        suggested=suggested,
        retry_after=retry_after_s(error),
        replay_safety="safe" if is_safe else None,
        reason=str(error),
        normalized=normalized_error(error),
    )
