"""What goes wrong in `runstream demo --chaos`, and the policies that the run meets it with.

Owns the faults' script, the spare model's, and the configuration. Must not know what is shown of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.flow.breaker import CircuitBreaker
    from runstream.run.config import RunConfig

__all__ = ["THANKS", "chaos_config", "recovery_pause_s"]

THANKS = "Thank you!"
_WELCOME = "You are welcome. I hope the next kettle lasts longer!"


def recovery_pause_s(*, fast: bool) -> float:
    """How long the breaker stays open."""
    return 0.3 if fast else 2.0


async def chaos_config(
    stack: AsyncExitStack,
    turns: list[Any],
    *,
    fast: bool,
    use_responses: bool,
    on_breaker: Callable[[CircuitBreaker], object],
) -> RunConfig:
    """A model that fails in four ways while it plays these turns, a spare one, and what a run does about it.

    The endpoints of both are open for as long as the stack is.
    """
    from dataclasses import replace

    from runstream.agent.retry import ModelRetryBackoffSettings, ModelRetrySettings
    from runstream.agent.settings import ModelSettings
    from runstream.flow.breaker import CircuitBreakers
    from runstream.flow.timeouts import TimeLimits
    from runstream.models.provider import OpenAIProvider
    from runstream.run.config import RunConfig
    from runstream.testing.endpoint import Endpoint
    from runstream.testing.faults import Fault
    from runstream.testing.steps import Message

    *before, answer = turns
    script = [
        Fault("http_error", status=503),
        *before,
        replace(answer, fault=Fault("reset", after=15)),
        replace(answer, fault=Fault("silence", after=30, pings_every_s=0.1)),
        replace(answer, parts=(Message(_WELCOME),)),
    ]
    first = await stack.enter_async_context(Endpoint(script))
    spare = await stack.enter_async_context(Endpoint([answer]))
    other = OpenAIProvider(api_key="scripted", base_url=spare.url, use_responses=use_responses).get_model("spare")
    backoff = ModelRetryBackoffSettings(initial_delay=0.02 if fast else 0.4)
    return RunConfig(
        model_provider=OpenAIProvider(api_key="scripted", base_url=first.url, use_responses=use_responses),
        model_settings=ModelSettings(retry=ModelRetrySettings(max_retries=2, backoff=backoff)),
        time_limits=TimeLimits(connect_s=10, first_content_s=10, idle_s=0.25 if fast else 1.0),
        on_broken_stream="restart",
        fallback_models=[other],
        circuit_breakers=CircuitBreakers(failures=2, open_s=recovery_pause_s(fast=fast), on_change=on_breaker),
    )
