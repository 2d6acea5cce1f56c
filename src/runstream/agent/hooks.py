"""Callbacks about a run: `RunHooks` for all of its agents, `AgentHooks` for one.

Owns the two base classes. Must not know who calls them. Agents and tools are `Any` here, since both are declared in
terms of hooks. Every method does nothing unless it is overridden; an exception in one fails the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from runstream.agent.context import AgentHookContext, RunContextWrapper, TContext

if TYPE_CHECKING:
    from runstream.agent.response import ModelResponse, TResponseInputItem

__all__ = ["AgentHooks", "AgentHooksBase", "RunHooks", "RunHooksBase", "TAgent"]

TAgent = TypeVar("TAgent", default=Any)


class RunHooksBase(Generic[TContext, TAgent]):
    """Callbacks about everything in a run. Subclass it and override what you need."""

    async def on_llm_start(
        self,
        context: RunContextWrapper[TContext],
        agent: Any,
        system_prompt: str | None,
        input_items: list[TResponseInputItem],
    ) -> None:
        """Just before the model is called."""

    async def on_llm_end(self, context: RunContextWrapper[TContext], agent: Any, response: ModelResponse) -> None:
        """The model has answered in full."""

    async def on_agent_start(self, context: AgentHookContext[TContext], agent: TAgent) -> None:
        """An agent begins: the first one, and each that takes over. Its tools must not be changed here."""

    async def on_agent_end(self, context: AgentHookContext[TContext], agent: TAgent, output: Any) -> None:
        """An agent gave the final output."""

    async def on_handoff(self, context: RunContextWrapper[TContext], from_agent: TAgent, to_agent: TAgent) -> None:
        """One agent hands over to another."""

    async def on_tool_start(self, context: RunContextWrapper[TContext], agent: TAgent, tool: Any) -> None:
        """Just before a tool runs. For a function tool, `context` is the call's `ToolContext`."""

    async def on_tool_end(self, context: RunContextWrapper[TContext], agent: TAgent, tool: Any, result: Any) -> None:
        """A tool has run; `result` is what it returned, or the message that its failure became."""


class AgentHooksBase(Generic[TContext, TAgent]):
    """Callbacks about one agent, set as `Agent.hooks`. Subclass it and override what you need."""

    async def on_start(self, context: AgentHookContext[TContext], agent: TAgent) -> None:
        """The agent begins: first, or by taking over. Its tools must not be changed here."""

    async def on_end(self, context: AgentHookContext[TContext], agent: TAgent, output: Any) -> None:
        """The agent gave the final output."""

    async def on_handoff(self, context: RunContextWrapper[TContext], agent: TAgent, source: TAgent) -> None:
        """This agent, `source`, hands over to `agent`. (As in the SDK, it is the hooks of `source` that are called.)"""

    async def on_tool_start(self, context: RunContextWrapper[TContext], agent: TAgent, tool: Any) -> None:
        """Just before a tool of the agent runs. For a function tool, `context` is the call's `ToolContext`."""

    async def on_tool_end(self, context: RunContextWrapper[TContext], agent: TAgent, tool: Any, result: Any) -> None:
        """A tool of the agent has run; `result` is what it returned, or the message that its failure became."""

    async def on_llm_start(
        self,
        context: RunContextWrapper[TContext],
        agent: Any,
        system_prompt: str | None,
        input_items: list[TResponseInputItem],
    ) -> None:
        """Just before the agent's model is called."""

    async def on_llm_end(self, context: RunContextWrapper[TContext], agent: Any, response: ModelResponse) -> None:
        """The agent's model has answered in full."""


RunHooks = RunHooksBase[TContext, Any]
"""The hooks of a run of `Agent`s."""
AgentHooks = AgentHooksBase[TContext, Any]
"""The hooks of an `Agent`."""
