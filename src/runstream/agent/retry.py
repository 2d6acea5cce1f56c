"""Whether and when a failed model call is made again: the settings, what a policy is told, and what it may decide.

Owns the declarations and the ready-made, pure policies. Must not know models, HTTP or the clock; waiting and counting
are the work of the flow that retries.

Invariants: a provider's veto (`RetryDecision.veto`) goes before any policy that says yes; a request that the provider
marks as unsafe to repeat is repeated only if a policy says `approve_unsafe_replay`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

__all__ = [
    "ModelRetryAdvice",
    "ModelRetryAdviceRequest",
    "ModelRetryBackoffInput",
    "ModelRetryBackoffSettings",
    "ModelRetryNormalizedError",
    "ModelRetrySettings",
    "RetryDecision",
    "RetryPolicies",
    "RetryPolicy",
    "RetryPolicyContext",
    "evaluate_policy",
    "from_mapping",
    "invalid_field",
    "retry_policies",
]


_Settings = TypeVar("_Settings")


def from_mapping(settings_type: type[_Settings], values: Mapping[Any, Any], path: str = "") -> _Settings:
    """The settings that a mapping describes. Raises TypeError for a key that is no field, naming it and `path`."""
    # Unlike `fields()` this has what is only an argument of the constructor, too.
    names = cast("Any", settings_type).__dataclass_fields__
    unknown = sorted(str(name) for name in values if name not in names)
    if unknown:
        place = f" in {path}" if path else ""
        raise TypeError(f"Unknown model settings{place}: {', '.join(unknown)}")
    return settings_type(**values)


@dataclass
class ModelRetryBackoffSettings:
    """How the pauses between attempts grow. Raises a pydantic ValidationError for a negative number."""

    initial_delay: float | None = None
    """Seconds before the first retry."""
    max_delay: float | None = None
    """The longest pause, in seconds."""
    multiplier: float | None = None
    """What each pause is multiplied by for the next."""
    jitter: bool | None = None
    """Whether pauses vary at random, so that many clients do not return at once."""

    def __post_init__(self) -> None:
        for name in ("initial_delay", "max_delay", "multiplier"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise invalid_field(type(self), name, value, "greater_than_equal", ge=0)

    def to_json_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)


ModelRetryBackoffInput: TypeAlias = ModelRetryBackoffSettings | dict[str, Any]


@dataclass
class ModelRetrySettings:
    """How failed model calls are retried."""

    max_retries: int | None = None
    """Attempts after the first."""
    backoff: ModelRetryBackoffInput | None = None
    """A dict becomes `ModelRetryBackoffSettings`."""
    if TYPE_CHECKING:
        policy: Callable[..., Any] | None = None
        """A `RetryPolicy`. No serialised form has it."""
    else:
        # An attribute but no field, since pydantic, too, would try to serialise a field.
        policy: InitVar[Callable[..., Any] | None] = None

    def __post_init__(self, *init_only: Any) -> None:
        (self.policy,) = init_only
        if isinstance(self.backoff, Mapping):
            self.backoff = from_mapping(ModelRetryBackoffSettings, self.backoff, "retry.backoff")

    def to_json_dict(self) -> dict[str, Any]:
        """All fields but the policy as JSON values."""
        backoff = cast("ModelRetryBackoffSettings | None", self.backoff)
        return {"max_retries": self.max_retries, "backoff": None if backoff is None else backoff.to_json_dict()}

    def merge(self, override: ModelRetrySettings) -> ModelRetrySettings:
        """These settings, with every field that `override` sets in place of ours; the same within `backoff`."""
        merged = _overlay(self, override)
        merged.policy = override.policy or self.policy
        if self.backoff is not None and override.backoff is not None:
            merged.backoff = _overlay(self.backoff, override.backoff)
        return merged


@dataclass
class ModelRetryNormalizedError:
    """What is known of a failure, whichever client raised it."""

    status_code: int | None = None
    error_code: str | None = None
    message: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""
    is_abort: bool = False
    """The caller itself gave up."""
    is_network_error: bool = False
    is_timeout: bool = False


@dataclass
class ModelRetryAdvice:
    """What a model advises about a failure of its own (`Model.get_retry_advice`)."""

    suggested: bool | None = None
    """True: try again; False: do not; None: no opinion."""
    retry_after: float | None = None
    """Seconds to wait."""
    replay_safety: str | None = None
    """`"safe"` if the request had no effect, `"unsafe"` if it may have had one; anything else is unknown."""
    reason: str | None = None
    normalized: ModelRetryNormalizedError | None = None
    """Facts that go before those found in the error."""
    response_started: bool = False
    """Whether the response had begun when the call failed."""


@dataclass
class ModelRetryAdviceRequest:
    """The failure about which a model is asked."""

    error: Exception
    attempt: int
    """1 for the first call."""
    stream: bool
    previous_response_id: str | None = None
    conversation_id: str | None = None


@dataclass
class RetryPolicyContext:
    """The failure about which a policy decides."""

    error: Exception
    attempt: int
    """1 for the first call."""
    max_retries: int
    stream: bool
    normalized: ModelRetryNormalizedError
    provider_advice: ModelRetryAdvice | None = None
    previous_response_id: str | None = None
    conversation_id: str | None = None

    @property
    def response_started(self) -> bool:
        """Whether the response had begun when the call failed."""
        return self.provider_advice is not None and self.provider_advice.response_started

    @property
    def replay_safety(self) -> str:
        """`"safe"`, `"unsafe"` or `"unknown"`, as the provider says."""
        safety = None if self.provider_advice is None else self.provider_advice.replay_safety
        return safety if safety in ("safe", "unsafe") else "unknown"

    @property
    def stateful_request(self) -> bool:
        """Whether the request continues state that the provider keeps."""
        return bool(self.previous_response_id or self.conversation_id)


@dataclass
class RetryDecision:
    """What a policy decided."""

    retry: bool
    delay: float | None = None
    """Seconds to wait; None leaves it to the backoff."""
    reason: str | None = None
    approve_unsafe_replay: bool = False
    """Repeat the request even though the provider says that it may already have had an effect."""
    veto: Literal["final", "unless_approved"] | None = field(default=None, init=False, repr=False, compare=False)
    """Set by the provider's own no: it stops the other policies, or all but an explicit approval of a replay."""
    provider_approves_replay: bool = field(default=False, init=False, repr=False, compare=False)
    """Set by the provider's own yes to a request that had no effect."""


RetryPolicy: TypeAlias = Callable[[RetryPolicyContext], bool | RetryDecision | Awaitable[bool | RetryDecision]]
"""Decides about one failure; may be async. True and False are short for a `RetryDecision`."""


async def evaluate_policy(policy: RetryPolicy, context: RetryPolicyContext) -> RetryDecision:
    """Ask one policy, of either kind."""
    decision = policy(context)
    if isawaitable(decision):
        decision = await decision
    return decision if isinstance(decision, RetryDecision) else RetryDecision(retry=bool(decision))


class RetryPolicies:
    """The ready-made policies; use the instance `retry_policies`."""

    def never(self) -> RetryPolicy:
        """No retry at all."""
        return lambda context: False

    def provider_suggested(self) -> RetryPolicy:
        """What the model's own advice says; its no is a veto that `any` does not overrule."""
        return _follow_advice

    def network_error(self) -> RetryPolicy:
        """Connections that failed or timed out."""
        return lambda context: context.normalized.is_network_error or context.normalized.is_timeout

    def retry_after(self) -> RetryPolicy:
        """Failures for which the provider names a time to wait."""
        return _wait_as_told

    def http_status(self, statuses: Iterable[int]) -> RetryPolicy:
        """Failures with one of these HTTP statuses."""
        allowed = frozenset(statuses)
        return lambda context: context.normalized.status_code in allowed

    def all(self, *policies: RetryPolicy) -> RetryPolicy:
        """Retry if every policy says so; later delays and reasons go before earlier ones. Without policies: never."""

        async def decide(context: RetryPolicyContext) -> RetryDecision:
            merged = RetryDecision(retry=True)
            veto: RetryDecision | None = None
            for policy in policies:
                decision = await evaluate_policy(policy, context)
                if decision.veto == "unless_approved":
                    veto = veto or decision
                elif not decision.retry:
                    return decision
                else:
                    merged = _combine(merged, decision)
            return merged if veto is None else _overrule(veto, merged)

        return decide if policies else self.never()

    def any(self, *policies: RetryPolicy) -> RetryPolicy:
        """Retry if one policy says so and none has a veto; later delays and reasons go before earlier ones."""

        async def decide(context: RetryPolicyContext) -> RetryDecision:
            merged: RetryDecision | None = None
            refusal = RetryDecision(retry=False)
            veto: RetryDecision | None = None
            for policy in policies:
                decision = await evaluate_policy(policy, context)
                if decision.veto == "final":
                    return decision
                if decision.veto == "unless_approved":
                    veto = veto or decision
                elif decision.retry:
                    merged = decision if merged is None else _combine(merged, decision)
                else:
                    refusal = decision
            if veto is not None:
                return veto if merged is None else _overrule(veto, merged)
            return merged or refusal

        return decide if policies else self.never()


retry_policies = RetryPolicies()


def _follow_advice(context: RetryPolicyContext) -> bool | RetryDecision:
    advice = context.provider_advice
    if advice is None or advice.suggested is None:
        return False
    decision = RetryDecision(retry=advice.suggested, reason=advice.reason)
    if advice.suggested:
        decision.delay = advice.retry_after
        decision.provider_approves_replay = context.replay_safety == "safe"
    else:
        decision.veto = "unless_approved" if context.replay_safety == "unsafe" else "final"
    return decision


def _wait_as_told(context: RetryPolicyContext) -> bool | RetryDecision:
    delay = context.normalized.retry_after
    if delay is None and context.provider_advice is not None:
        delay = context.provider_advice.retry_after
    return False if delay is None else RetryDecision(retry=True, delay=delay)


def _combine(first: RetryDecision, second: RetryDecision) -> RetryDecision:
    """Two times yes."""
    combined = RetryDecision(
        retry=True,
        delay=first.delay if second.delay is None else second.delay,
        reason=first.reason if second.reason is None else second.reason,
        approve_unsafe_replay=first.approve_unsafe_replay or second.approve_unsafe_replay,
    )
    combined.provider_approves_replay = first.provider_approves_replay or second.provider_approves_replay
    return combined


def _overrule(veto: RetryDecision, approval: RetryDecision) -> RetryDecision:
    """A veto that an explicit approval lifts, and nothing else."""
    if not approval.approve_unsafe_replay:
        return veto
    decision = dataclasses.replace(approval, reason=approval.reason or veto.reason)
    decision.provider_approves_replay = approval.provider_approves_replay
    return decision


def _overlay(settings: Any, override: Any) -> Any:
    """A copy of the dataclass with the fields that `override` sets."""
    names = [entry.name for entry in dataclasses.fields(settings)]
    changes = {name: getattr(override, name) for name in names if getattr(override, name) is not None}
    return dataclasses.replace(settings, **changes)


def invalid_field(settings_type: type, name: str, value: Any, kind: str, **bounds: float) -> ValueError:
    """The error that pydantic has for a field out of bounds, as code written for the SDK catches that class."""
    from pydantic_core import InitErrorDetails, ValidationError

    details = InitErrorDetails(type=kind, loc=(name,), input=value, ctx=cast("dict[str, Any]", bounds))
    return ValidationError.from_exception_data(settings_type.__name__, [details])
