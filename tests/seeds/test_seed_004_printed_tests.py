"""Seed 004: the three tests that it prints, run as they are printed, one completed line apart."""

from collections.abc import Callable
from typing import Any

import pytest

from runstream import Agent
from runstream.testing import Fault, say

pytestmark = pytest.mark.system

Fragment = Callable[[str], str]
ANSWER = "Recursion is like a function that calls itself."


async def test_streaming_events_of_the_seed(serving: Any, define: Any, fragment: Fragment, agent: Agent[Any]) -> None:
    """Raw events are seen, and the result is complete after the loop."""
    namespace = define(fragment("004_test_streaming_events"), agent=agent)
    async with serving(ANSWER):
        await namespace["test_streaming_events"]()


async def test_streaming_consistency_of_the_seed(
    serving: Any, define: Any, fragment: Fragment, agent: Agent[Any]
) -> None:
    """The text of the deltas equals the final output.

    As printed the test reads `.delta` of every raw event, which only some of the official types have. So its condition
    is completed with the check for text deltas, in that one line.
    """
    printed = fragment("004_test_streaming_consistency")
    branch = 'if event.type == "raw_response_event":'
    assert printed.count(branch) == 1
    completed = printed.replace(branch, f"{branch[:-1]} and isinstance(event.data, ResponseTextDeltaEvent):")
    namespace = define(completed, agent=agent, input="Explain recursion.")
    async with serving(ANSWER):
        await namespace["test_streaming_consistency"]()


async def test_streaming_performance_of_the_seed(
    serving: Any, define: Any, fragment: Fragment, agent: Agent[Any]
) -> None:
    """The first chunk comes within a second, though the answer never ends; its `break` stops the run."""
    namespace = define(fragment("004_test_streaming_performance"), agent=agent, input="Explain recursion.")
    async with serving(say(ANSWER, fault=Fault("silence", after=1))) as endpoint:
        await namespace["test_streaming_performance"]()
        await endpoint.wait_disconnected()


@pytest.mark.parametrize("name", ["events", "performance"])
async def test_a_failed_run_does_not_pass_them(
    serving: Any, define: Any, fragment: Fragment, agent: Agent[Any], name: str
) -> None:
    """They can fail: where the service refuses, its error comes out of their loop."""
    namespace = define(fragment(f"004_test_streaming_{name}"), agent=agent, input="Explain recursion.")
    async with serving(Fault("http_error", status=400, message="refused")):
        with pytest.raises(Exception, match="refused"):
            await namespace[f"test_streaming_{name}"]()
