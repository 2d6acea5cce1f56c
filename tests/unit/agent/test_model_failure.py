"""What the failure of a model call means, and what models advise about it."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from runstream import ModelRetryAdviceRequest, OpenAIChatCompletionsModel, OpenAIResponsesModel
from runstream.agent.model_failure import advice_on, normalized_error
from runstream.errors import ModelStreamTruncated, ModelTimeoutError

REQUEST = httpx2.Request("POST", "https://api.openai.com/v1/responses")
LOST = openai.APIConnectionError(message="lost", request=REQUEST)
LATE = openai.APITimeoutError(request=REQUEST)


def refused(status: int, headers: dict[str, str] | None = None, body: Any = None) -> openai.APIStatusError:
    return openai.APIStatusError("no", response=httpx2.Response(status, headers=headers, request=REQUEST), body=body)


def asked(error: Exception, **state: Any) -> ModelRetryAdviceRequest:
    return ModelRetryAdviceRequest(error, 1, False, **state)


@pytest.mark.parametrize(
    ("error", "suggested", "safety"),
    [
        (LOST, True, None),
        (LATE, True, None),
        (ModelStreamTruncated("cut"), True, None),
        (refused(408), True, None),
        (refused(409), True, None),
        (refused(429), True, None),
        (refused(500), True, None),
        (refused(500, {"x-should-retry": "false"}), False, None),
        (refused(400, {"x-should-retry": "true"}), True, "safe"),
        (refused(429, body={"code": "insufficient_quota"}), False, None),
    ],
)
def test_what_is_transient_may_be_retried(error: Exception, suggested: bool, safety: str | None) -> None:
    """Faults of the connection and of the server are; the server's own word goes before."""
    advice = advice_on(asked(error))
    assert advice is not None
    assert (advice.suggested, advice.replay_safety, advice.reason) == (suggested, safety, str(error))


@pytest.mark.parametrize("error", [ValueError("x"), refused(400), refused(401), refused(404), ModelTimeoutError(1.0)])
def test_about_anything_else_there_is_no_advice(error: Exception) -> None:
    """A request that is wrong stays wrong, and other errors are not the provider's."""
    assert advice_on(asked(error)) is None


@pytest.mark.parametrize("state", [{"previous_response_id": "r"}, {"conversation_id": "c"}])
def test_where_the_provider_keeps_the_conversation(state: dict[str, str]) -> None:
    """A refused request changed nothing there, so that it is safe to repeat; of a lost one nobody knows."""
    for error, safety in ((refused(429), "safe"), (refused(500), "safe"), (LOST, None)):
        advice = advice_on(asked(error, **state))
        assert advice is not None
        assert advice.replay_safety == safety


def test_what_is_known_of_a_refusal() -> None:
    """Status, code, request id and the pause that the server asks for are told in one form."""
    headers = {"retry-after-ms": "500", "x-request-id": "req_1"}
    known = normalized_error(refused(429, headers, {"error": {"code": "rate_limit"}}))
    assert (known.status_code, known.error_code, known.request_id) == (429, "rate_limit", "req_1")
    assert (known.retry_after, known.is_network_error, known.is_timeout) == (0.5, False, False)
    assert normalized_error(refused(429, body={"code": "busy"})).error_code == "busy"
    assert normalized_error(refused(429, body="text")).error_code is None


@pytest.mark.parametrize(
    ("error", "is_network_error", "is_timeout"),
    [
        (LOST, True, False),
        (LATE, False, True),
        (ModelTimeoutError(1.0), False, True),
        (ModelStreamTruncated("cut"), True, False),
        (ValueError("x"), False, False),
    ],
)
def test_what_is_known_of_other_failures(error: Exception, is_network_error: bool, is_timeout: bool) -> None:
    """Lost connections and time-outs are told apart."""
    known = normalized_error(error)
    assert (known.is_network_error, known.is_timeout) == (is_network_error, is_timeout)


@pytest.mark.parametrize("kind", [OpenAIResponsesModel, OpenAIChatCompletionsModel])
def test_the_models_give_this_advice(kind: Any) -> None:
    """So that `retry_policies.provider_suggested()` has something to follow."""
    model = kind("m", openai.AsyncOpenAI(api_key="k"))
    advice = model.get_retry_advice(asked(refused(429, {"retry-after": "7"})))
    assert (advice.suggested, advice.retry_after) == (True, 7.0)
    assert model.get_retry_advice(asked(ValueError())) is None
