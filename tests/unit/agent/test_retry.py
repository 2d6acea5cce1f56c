"""Laws of the retry policies: they decide, and never wait."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from runstream.agent.retry import (
    ModelRetryAdvice,
    ModelRetryAdviceRequest,
    ModelRetryBackoffSettings,
    ModelRetryNormalizedError,
    ModelRetrySettings,
    RetryDecision,
    RetryPolicyContext,
    evaluate_policy,
    retry_policies,
)


def failure(advice: ModelRetryAdvice | None = None, **facts: Any) -> RetryPolicyContext:
    normalized = ModelRetryNormalizedError(**facts)
    return RetryPolicyContext(RuntimeError("x"), 1, 3, stream=True, normalized=normalized, provider_advice=advice)


def yes(**how: Any):
    return lambda context: RetryDecision(retry=True, **how)


def no(reason: str | None = None):
    return lambda context: RetryDecision(retry=False, reason=reason)


UNSAFE = ModelRetryAdvice(suggested=False, replay_safety="unsafe", reason="unsafe")
NEVER = ModelRetryAdvice(suggested=False, reason="final")
ADVICE = retry_policies.provider_suggested()


@pytest.mark.parametrize("name", ["initial_delay", "max_delay", "multiplier"])
def test_negative_backoffs_are_refused(name):
    """Also inside a dict; zero is fine."""
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ModelRetryBackoffSettings(**{name: -0.1})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ModelRetrySettings(backoff={name: -0.1})
    assert getattr(ModelRetryBackoffSettings(**{name: 0}), name) == 0


def test_settings_as_json():
    """A dict of backoff becomes settings; the policy is not shown and not serialised."""
    settings = ModelRetrySettings(max_retries=2, backoff={"jitter": False}, policy=retry_policies.never())
    assert settings.backoff == ModelRetryBackoffSettings(jitter=False)
    backoff = {"initial_delay": None, "max_delay": None, "multiplier": None, "jitter": False}
    assert settings.to_json_dict() == {"max_retries": 2, "backoff": backoff}
    assert ModelRetrySettings().to_json_dict() == {"max_retries": None, "backoff": None}
    assert "policy" not in repr(settings)
    assert TypeAdapter(ModelRetrySettings).validate_python({"backoff": {"jitter": False}}).backoff == settings.backoff


def test_merging_takes_what_is_set():
    """One side's backoff is kept whole where the other has none."""
    base = ModelRetrySettings(max_retries=1, backoff={"initial_delay": 0.5})
    assert base.merge(ModelRetrySettings(max_retries=0)) == ModelRetrySettings(0, {"initial_delay": 0.5})
    assert ModelRetrySettings(max_retries=3).merge(base) == base
    policy = retry_policies.never()
    assert ModelRetrySettings(policy=policy).merge(base).policy is policy
    assert base.merge(ModelRetrySettings(policy=policy)).policy is policy
    assert replace(ModelRetrySettings(policy=policy), max_retries=1).policy is policy


def test_what_a_policy_is_told():
    """The provider's advice is summed up; what nobody says is unknown."""
    plain = failure()
    assert (plain.replay_safety, plain.response_started, plain.stateful_request) == ("unknown", False, False)
    advised = failure(ModelRetryAdvice(replay_safety="safe", response_started=True))
    advised.conversation_id = "c"
    assert (advised.replay_safety, advised.response_started, advised.stateful_request) == ("safe", True, True)
    assert failure(ModelRetryAdvice(replay_safety="perhaps")).replay_safety == "unknown"
    assert ModelRetryAdviceRequest(RuntimeError("x"), 1, stream=False).conversation_id is None


@pytest.mark.parametrize(
    ("policy", "facts", "retry"),
    [
        (retry_policies.never(), {"is_network_error": True}, False),
        (retry_policies.network_error(), {"is_network_error": True}, True),
        (retry_policies.network_error(), {"is_timeout": True}, True),
        (retry_policies.network_error(), {"status_code": 500}, False),
        (retry_policies.http_status([429, 500]), {"status_code": 429}, True),
        (retry_policies.http_status([429, 500]), {"status_code": 400}, False),
        (retry_policies.http_status([429]), {}, False),
        (retry_policies.retry_after(), {"retry_after": 0.0}, True),
        (retry_policies.retry_after(), {}, False),
    ],
)
async def test_policies_about_one_fact(policy, facts, retry):
    """Each looks at its own fact and at nothing else."""
    assert (await evaluate_policy(policy, failure(**facts))).retry is retry


async def test_the_time_to_wait():
    """What the error says goes before the advice."""
    advice = ModelRetryAdvice(retry_after=7.0)
    assert (await evaluate_policy(retry_policies.retry_after(), failure(advice, retry_after=3.0))).delay == 3.0
    assert (await evaluate_policy(retry_policies.retry_after(), failure(advice))).delay == 7.0


async def test_following_the_advice():
    """Yes, no and no opinion; the no is a veto that a replay's approval may or may not lift."""
    decision = await evaluate_policy(ADVICE, failure(ModelRetryAdvice(True, 2.0, "safe", "busy")))
    assert decision == RetryDecision(retry=True, delay=2.0, reason="busy")
    assert decision.provider_approves_replay
    assert not (await evaluate_policy(ADVICE, failure(ModelRetryAdvice(True)))).provider_approves_replay
    assert (await evaluate_policy(ADVICE, failure(UNSAFE))).veto == "unless_approved"
    final = await evaluate_policy(ADVICE, failure(NEVER))
    assert (final.retry, final.reason, final.veto) == (False, "final", "final")
    for advice in (None, ModelRetryAdvice(retry_after=1.0)):
        assert await evaluate_policy(ADVICE, failure(advice)) == RetryDecision(retry=False)


async def test_policies_may_be_async():
    """A coroutine function decides as well as a function; True and False are short forms."""

    async def policy(context: RetryPolicyContext) -> bool:
        return context.attempt == 1

    assert await evaluate_policy(policy, failure()) == RetryDecision(retry=True)


async def test_any_needs_one_yes():
    """Delays and reasons of later policies win; without a yes the last no stands; without policies, never."""
    both = retry_policies.any(no("a"), yes(delay=1.0, reason="b"), yes(delay=2.0), yes())
    assert await evaluate_policy(both, failure()) == RetryDecision(retry=True, delay=2.0, reason="b")
    neither = retry_policies.any(no("a"), no("b"))
    assert await evaluate_policy(neither, failure()) == RetryDecision(retry=False, reason="b")
    assert not (await evaluate_policy(retry_policies.any(), failure())).retry


async def test_all_needs_every_yes():
    """The first no stands; delays and reasons of later policies win; without policies, never."""
    both = retry_policies.all(yes(delay=1.0, reason="b"), yes(delay=2.0, approve_unsafe_replay=True), yes())
    expected = RetryDecision(retry=True, delay=2.0, reason="b", approve_unsafe_replay=True)
    assert await evaluate_policy(both, failure()) == expected
    one = retry_policies.all(yes(), no("a"), no("b"))
    assert await evaluate_policy(one, failure()) == RetryDecision(retry=False, reason="a")
    assert not (await evaluate_policy(retry_policies.all(), failure())).retry


@pytest.mark.parametrize("combine", [retry_policies.any, retry_policies.all])
async def test_a_final_veto_stands(combine):
    """No other policy overrules the provider's no."""
    policy = combine(yes(approve_unsafe_replay=True), ADVICE, yes(approve_unsafe_replay=True))
    decision = await evaluate_policy(policy, failure(NEVER))
    assert (decision.retry, decision.reason) == (False, "final")


@pytest.mark.parametrize("combine", [retry_policies.any, retry_policies.all])
async def test_a_veto_against_replay_yields_to_its_approval_only(combine):
    """An ordinary yes does not repeat what may have had an effect; an explicit approval does."""
    refused = await evaluate_policy(combine(ADVICE, yes(delay=1.0)), failure(UNSAFE))
    assert (refused.retry, refused.reason) == (False, "unsafe")
    approved = await evaluate_policy(combine(ADVICE, yes(delay=1.0, approve_unsafe_replay=True)), failure(UNSAFE))
    assert approved == RetryDecision(retry=True, delay=1.0, reason="unsafe", approve_unsafe_replay=True)
    alone = await evaluate_policy(combine(ADVICE), failure(UNSAFE))
    assert not alone.retry


async def test_the_providers_approval_survives_combining():
    """That a replay is safe is not lost among other policies."""
    context = failure(ModelRetryAdvice(True, replay_safety="safe"))
    for policy in (retry_policies.any(ADVICE, yes()), retry_policies.all(yes(), ADVICE)):
        assert (await evaluate_policy(policy, context)).provider_approves_replay
