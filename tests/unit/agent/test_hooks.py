"""Laws of the callbacks."""

import inspect
from types import SimpleNamespace

import pytest

from runstream.agent.context import AgentHookContext, RunContextWrapper
from runstream.agent.hooks import AgentHooks, AgentHooksBase, RunHooks, RunHooksBase

CONTEXT = RunContextWrapper(context=None)
HOOK_CONTEXT = AgentHookContext(context=None)
AGENT = SimpleNamespace(name="agent")

METHODS = {
    RunHooksBase: {
        "on_llm_start": (CONTEXT, AGENT, None, []),
        "on_llm_end": (CONTEXT, AGENT, None),
        "on_agent_start": (HOOK_CONTEXT, AGENT),
        "on_agent_end": (HOOK_CONTEXT, AGENT, "output"),
        "on_handoff": (CONTEXT, AGENT, AGENT),
        "on_tool_start": (CONTEXT, AGENT, None),
        "on_tool_end": (CONTEXT, AGENT, None, "result"),
    },
    AgentHooksBase: {
        "on_llm_start": (CONTEXT, AGENT, None, []),
        "on_llm_end": (CONTEXT, AGENT, None),
        "on_start": (HOOK_CONTEXT, AGENT),
        "on_end": (HOOK_CONTEXT, AGENT, "output"),
        "on_handoff": (CONTEXT, AGENT, AGENT),
        "on_tool_start": (CONTEXT, AGENT, None),
        "on_tool_end": (CONTEXT, AGENT, None, "result"),
    },
}


@pytest.mark.parametrize("base", list(METHODS))
async def test_every_method_is_there_and_does_nothing(base):
    """Nothing needs to be overridden, and no method was forgotten or added unseen."""
    found = {name for name, _ in inspect.getmembers(base, inspect.iscoroutinefunction)}
    assert found == set(METHODS[base])
    for name, arguments in METHODS[base].items():
        assert await getattr(base(), name)(*arguments) is None


def test_the_aliases_can_be_subclassed_and_subscripted():
    """`RunHooks`, `RunHooks[Context]` and the same of `AgentHooks` serve as bases; the two kinds stay apart."""

    class Both(RunHooks):
        pass

    class Typed(RunHooks[int]):
        pass

    class Own(AgentHooks[int]):
        pass

    assert isinstance(Both(), RunHooksBase)
    assert isinstance(Typed(), RunHooksBase)
    assert isinstance(Own(), AgentHooksBase)
    assert not isinstance(Own(), RunHooksBase)
    assert isinstance(RunHooks(), RunHooksBase)
