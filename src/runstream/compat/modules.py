"""Which of our modules stand behind which module of the OpenAI Agents SDK.

A value lists sources: a module, whose `__all__` it gives, or `module:NAME NAME`. The first source that has a name wins.
"""

from __future__ import annotations

__all__ = ["ALIAS", "LOGGER", "MODULES", "OURS"]

ALIAS = "agents"
LOGGER = "openai.agents"
"""The SDK's logger."""

_SESSION_INPUT = "runstream.run.config:SessionInputCallback"

MODULES: dict[str, tuple[str, ...]] = {
    "agents": ("runstream", "runstream.compat.tracing", "runstream.compat.event_log"),
    "agents.agent": ("runstream.agent.agent", "runstream.agent.prompt"),
    "agents.agent_output": ("runstream.agent.output",),
    "agents.agent_tool_input": ("runstream.agent.agent_tool_input",),
    "agents.decorators": ("runstream.compat.decorators",),
    "agents.exceptions": ("runstream.errors", "runstream.agent.guardrail"),
    "agents.extensions": (),
    "agents.extensions.handoff_filters": ("runstream.compat.handoff_filters",),
    "agents.extensions.handoff_prompt": ("runstream.compat.handoff_prompt",),
    "agents.function_schema": ("runstream.agent.schema",),
    "agents.guardrail": ("runstream.agent.guardrail",),
    "agents.handoffs": ("runstream.agent.handoff",),
    "agents.items": ("runstream.agent.items",),
    "agents.lifecycle": ("runstream.agent.hooks",),
    "agents.logger": ("runstream.compat.event_log:logger",),
    "agents.memory": ("runstream.sessions.base", "runstream.sessions.sqlite", _SESSION_INPUT),
    "agents.memory.session": ("runstream.sessions.base",),
    "agents.memory.session_settings": ("runstream.sessions.base",),
    "agents.memory.sqlite_session": ("runstream.sessions.sqlite",),
    "agents.memory.util": (_SESSION_INPUT,),
    "agents.model_settings": ("runstream.agent.settings",),
    "agents.models": ("runstream.agent.settings",),
    "agents.models.chatcmpl_converter": ("runstream.compat.chat_completions:Converter",),
    "agents.models.chatcmpl_stream_handler": ("runstream.compat.chat_completions:ChatCmplStreamHandler",),
    "agents.models.default_models": ("runstream.agent.settings",),
    "agents.models.interface": ("runstream.agent.model",),
    "agents.models.multi_provider": ("runstream.models.provider",),
    "agents.models.openai_chatcompletions": ("runstream.models.chat_completions",),
    "agents.models.openai_client_utils": (
        "runstream.models.defaults:is_official_openai_base_url is_official_openai_client",
    ),
    "agents.models.openai_provider": ("runstream.models.provider",),
    "agents.models.openai_responses": ("runstream.models.responses", "runstream.compat.responses"),
    "agents.models.reasoning_content_replay": ("runstream.models.chat_messages",),
    "agents.prompts": ("runstream.agent.prompt",),
    "agents.result": ("runstream.run.result",),
    "agents.retry": ("runstream.agent.retry",),
    "agents.run": ("runstream.run.runner", "runstream.run.config", "runstream.agent.context"),
    "agents.run_config": ("runstream.run.config",),
    "agents.run_context": ("runstream.agent.context",),
    "agents.run_error_handlers": ("runstream.run.error_handlers",),
    "agents.run_state": ("runstream.run.state", "runstream.run.saved_context"),
    "agents.stream_events": ("runstream.run.stream_events",),
    "agents.strict_schema": ("runstream.agent.strict_schema",),
    "agents.testing": ("runstream.testing",),
    "agents.testing.model": ("runstream.testing",),
    "agents.tool": ("runstream.agent.tool", "runstream.agent.tool_output"),
    "agents.tool_context": ("runstream.agent.tool_context",),
    "agents.tool_guardrails": ("runstream.agent.guardrail",),
    "agents.tracing": ("runstream.compat.tracing",),
    "agents.usage": ("runstream.agent.usage",),
    "agents.version": ("runstream:__version__",),
}

OURS = frozenset(
    (
        *("AgentStart", "Clock", "CursorExpired", "ErrorInfo", "Event", "InMemorySession", "ItemAdded", "MissingExtra"),
        *("ModelBatch", "ModelRequest", "ModelStreamBroken", "ModelStreamFailed", "ModelStreamTruncated"),
        *("RunEnd", "RunQueued", "RunStart", "ToolProgress", "ToolProgressStreamEvent", "install_as_agents"),
    )
)
"""Names that only we have: `agents.NAME` works, but `from agents import *` leaves out what nobody expects there."""
