"""An agent: a name, instructions, a model and what it may do. A declaration; running it is the run's work."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast

from typing_extensions import TypedDict

from runstream.agent.agent_tool import AgentToolOptions, AgentToolStreamEvent, agent_tool
from runstream.agent.context import RunContextWrapper, TContext
from runstream.agent.guardrail import InputGuardrail, OutputGuardrail
from runstream.agent.handoff import Handoff
from runstream.agent.hooks import AgentHooksBase
from runstream.agent.model import Model
from runstream.agent.output import AgentOutputSchemaBase
from runstream.agent.settings import (
    ModelSettings,
    coerce_model_settings,
    get_default_model_settings,
    implicit_model_settings,
)
from runstream.agent.stream_guardrail import StreamGuardrail
from runstream.agent.tool import (
    FunctionTool,
    FunctionToolResult,
    Tool,
    ToolErrorFunction,
    default_tool_error_function,
)
from runstream.errors import UserError

if TYPE_CHECKING:
    from openai.types.responses.response_prompt_param import ResponsePromptParam

    from runstream.agent.agent_tool_input import StructuredToolInputBuilder

__all__ = [
    "Agent",
    "AgentBase",
    "AgentToolStreamEvent",
    "StopAtTools",
    "ToolUseBehavior",
    "ToolsToFinalOutputFunction",
    "ToolsToFinalOutputResult",
]


@dataclass
class ToolsToFinalOutputResult:
    """What a `tool_use_behavior` function decided."""

    is_final_output: bool
    """True ends the run with `final_output`; False lets the model see the tools' outputs."""
    final_output: Any | None = None


ToolsToFinalOutputFunction: TypeAlias = Callable[
    [RunContextWrapper[TContext], list[FunctionToolResult]],
    ToolsToFinalOutputResult | Awaitable[ToolsToFinalOutputResult],
]


class StopAtTools(TypedDict):
    """The run ends with the output of the first tool called that has one of these names."""

    stop_at_tool_names: list[str]


ToolUseBehavior: TypeAlias = (
    Literal["run_llm_again", "stop_on_first_tool"] | StopAtTools | ToolsToFinalOutputFunction[Any]
)


@dataclass
class AgentBase(Generic[TContext]):
    """What agents of every kind have."""

    name: str
    handoff_description: str | None = None
    """For other agents: when to hand over to this one."""
    tools: list[Tool] = field(default_factory=list[Tool])
    mcp_servers: list[Any] = field(default_factory=list[Any])
    mcp_config: dict[str, Any] = field(default_factory=dict[str, Any])

    async def get_mcp_tools(self, run_context: RunContextWrapper[TContext]) -> list[Tool]:
        """The tools of the agent's MCP servers. Raises UserError where it has any: they are not supported."""
        if self.mcp_servers:
            raise UserError(f"Agent {self.name!r} has mcp_servers, which this version of runstream cannot run")
        return []

    async def get_all_tools(self, run_context: RunContextWrapper[TContext]) -> list[Tool]:
        """The tools that are enabled for this run, in the order of declaration."""
        enabled: list[Tool] = []
        for tool in self.tools:
            if not isinstance(tool, FunctionTool) or await _is_enabled(tool, run_context, self):
                enabled.append(tool)
        return [*await self.get_mcp_tools(run_context), *enabled]


async def _is_enabled(tool: FunctionTool, context: RunContextWrapper[Any], agent: AgentBase[Any]) -> bool:
    setting = tool.is_enabled
    if isinstance(setting, bool):
        return setting
    answer = setting(context, agent)
    return bool(await answer if inspect.isawaitable(answer) else answer)


@dataclass
class Agent(AgentBase[TContext]):
    """A model with instructions, tools and handoffs.

    Raises TypeError at construction for a field of the wrong type, UserError for tools and handoffs that are none.
    Fields and their meaning are the OpenAI Agents SDK's.
    """

    instructions: str | Callable[[RunContextWrapper[TContext], Agent[TContext]], str | Awaitable[str]] | None = None
    """The system prompt, or a function (plain or async) of the context and the agent that makes it at each turn."""
    prompt: Any | None = None
    """A stored prompt of the OpenAI API: a dict with `id`, or a function that makes one."""
    handoffs: list[Agent[Any] | Handoff[TContext, Any]] = field(default_factory=list[Any])
    """Agents that this one may hand the conversation to."""
    model: str | Model | None = None
    """A name, which the run's model provider resolves, or a model; None is the default model."""
    model_settings: ModelSettings = field(default_factory=get_default_model_settings)
    input_guardrails: list[InputGuardrail[TContext]] = field(default_factory=list[Any])
    output_guardrails: list[OutputGuardrail[TContext]] = field(default_factory=list[Any])
    output_type: type[Any] | AgentOutputSchemaBase | None = None
    """The type of the final output; None is text."""
    hooks: AgentHooksBase[TContext, Any] | None = None
    tool_use_behavior: ToolUseBehavior = "run_llm_again"
    """What follows a tool call: asking the model again (the default), ending the run with the first tool's output,
    ending it at tools of certain names, or what a function decides."""
    reset_tool_choice: bool = True
    """Whether `tool_choice` goes back to its default after a tool call, which prevents endless calling."""
    # Ours, beyond the SDK.
    stream_guardrails: list[StreamGuardrail[TContext]] = field(default_factory=list[Any], kw_only=True)
    """Checks on the text while it streams: what they block is shown to nobody."""

    def __post_init__(self) -> None:
        _check(self, "name", str)
        _check(self, "handoff_description", str, None)
        for name in ("tools", "handoffs", "input_guardrails", "output_guardrails", "stream_guardrails", "mcp_servers"):
            _check(self, name, list)
        if self.instructions is not None and not isinstance(self.instructions, str) and not callable(self.instructions):
            raise TypeError(
                f"Agent instructions must be a string, callable, or None, got {type(self.instructions).__name__}"
            )
        if self.model is not None and not isinstance(self.model, str) and not hasattr(self.model, "get_response"):
            raise TypeError(f"Agent model must be a name, a Model, or None, got {type(self.model).__name__}")
        self.model_settings = coerce_model_settings(self.model_settings, name="Agent model_settings")
        if self.model is not None and self.model_settings == get_default_model_settings():
            # What suits the default model may be refused by another.
            self.model_settings = implicit_model_settings(self.model)
        if self.hooks is not None and not isinstance(cast("object", self.hooks), AgentHooksBase):
            raise TypeError(f"Agent hooks must be an AgentHooks instance or None, got {type(self.hooks).__name__}")
        behavior = self.tool_use_behavior
        named = behavior in ("run_llm_again", "stop_on_first_tool")
        if not named and not callable(behavior) and not isinstance(behavior, dict):
            raise TypeError(
                "Agent tool_use_behavior must be 'run_llm_again', 'stop_on_first_tool', StopAtTools or a function, "
                f"got {behavior!r}"
            )
        for tool in self.tools:
            if isinstance(cast("object", tool), Agent):
                raise UserError(
                    f"Agent {self.name!r} has the agent {tool.name!r} among its tools: put it into `handoffs`"
                )
            if callable(tool) and not hasattr(tool, "name"):
                raise UserError(
                    f"Agent {self.name!r} has the plain function {getattr(tool, '__name__', tool)!r} among its tools: "
                    "decorate it with @function_tool"
                )
            if not hasattr(tool, "name"):
                raise UserError(f"Agent {self.name!r} has {tool!r:.80} among its tools, which is no tool")
        for target in self.handoffs:
            if not isinstance(cast("object", target), Agent | Handoff):
                raise UserError(
                    f"Agent {self.name!r} has {target!r} among its handoffs: give an Agent or handoff(agent, ...)"
                )

    def clone(self, **kwargs: Any) -> Agent[TContext]:
        """A copy with some fields changed. Shallow: the copy shares the lists that are not given anew.

        Settings that nobody chose follow the model: where only `model` is given, they are that model's defaults.
        """
        if "model" in kwargs and self.model_settings == implicit_model_settings(self.model):
            kwargs.setdefault("model_settings", implicit_model_settings(kwargs["model"]))
        return dataclasses.replace(self, **kwargs)

    def as_tool(
        self,
        tool_name: str | None,
        tool_description: str | None,
        custom_output_extractor: Callable[[Any], Awaitable[str]] | None = None,
        is_enabled: bool | Callable[[RunContextWrapper[Any], AgentBase[Any]], bool | Awaitable[bool]] = True,
        on_stream: Callable[[AgentToolStreamEvent], Awaitable[None] | None] | None = None,
        run_config: Any | None = None,
        max_turns: int | None = None,
        hooks: Any | None = None,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        session: Any | None = None,
        failure_error_function: ToolErrorFunction | None = default_tool_error_function,
        needs_approval: bool | Callable[[RunContextWrapper[Any], dict[str, Any], str], Awaitable[bool]] = False,
        parameters: type[Any] | None = None,
        input_builder: StructuredToolInputBuilder | None = None,
        include_input_schema: bool = False,
        on_stream_max_pending_events: int | None = 1024,
    ) -> FunctionTool:
        """A tool that runs this agent, for other agents to call. Unlike a handoff it sees only the call's input, and
        the agent that called it goes on.

        The name is made of the agent's where none is given. `parameters` (a dataclass or a pydantic model) declares
        structured arguments, of which `input_builder` makes the input. The output is the final output, or what
        `custom_output_extractor` makes of the run's result. `on_stream` gets the events of the run, one at a time;
        readers of the run that calls it find them in `stream_events(nested=True)`. No event waits in a queue for it, so
        that `on_stream_max_pending_events` limits nothing. The rest is as in `Runner.run`; the
        configuration is that of the run that calls it unless one is given.

        An error of the nested run becomes a message for the model (`failure_error_function`; None raises it). Calls of
        its tools that wait for approval are interruptions of the run that calls it.

        Raises TypeError for `parameters` of another kind, UserError for those that have no strict schema.
        """
        options = AgentToolOptions(
            custom_output_extractor,
            on_stream,
            run_config,
            max_turns,
            hooks,
            previous_response_id,
            conversation_id,
            session,
            parameters,
            input_builder,
            include_input_schema,
        )
        return agent_tool(
            self,
            tool_name or _identifier(self.name),
            tool_description or "",
            options,
            is_enabled=is_enabled,
            needs_approval=needs_approval,
            failure_error_function=failure_error_function,
        )

    async def get_system_prompt(self, run_context: RunContextWrapper[TContext]) -> str | None:
        """The instructions for this run. Raises TypeError where a callable does not take (context, agent)."""
        instructions = self.instructions
        if instructions is None or isinstance(instructions, str):
            return instructions
        parameters = inspect.signature(instructions).parameters
        if len(parameters) != 2:
            raise TypeError(
                f"'instructions' callable must accept exactly 2 arguments (context, agent), "
                f"but got {len(parameters)}: {list(parameters)}"
            )
        made = instructions(run_context, self)
        text = cast("object", await made if inspect.isawaitable(made) else made)
        if text is not None and not isinstance(text, str):
            raise UserError(f"the instructions of agent {self.name!r} must return a string, not {text!r:.80}")
        return text

    async def get_prompt(self, run_context: RunContextWrapper[TContext]) -> ResponsePromptParam | None:
        """The stored prompt for this run, as the API takes it. Raises UserError where it has no `id`."""
        prompt = self.prompt
        if prompt is None:
            return None
        if callable(prompt):
            from runstream.agent.prompt import GenerateDynamicPromptData

            made = prompt(GenerateDynamicPromptData(context=run_context, agent=self))
            prompt = await made if inspect.isawaitable(made) else made
        if not isinstance(prompt, dict) or "id" not in prompt:
            raise UserError(f"Agent {self.name!r}: a prompt is a dict with `id`, not {prompt!r}")
        given = cast("dict[str, Any]", prompt)
        return cast("ResponsePromptParam", {name: given.get(name) for name in ("id", "version", "variables")})


def _identifier(name: str) -> str:
    """The name of an agent as one of a tool: as `Handoff.default_tool_name` makes it."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", name).lower()


_KINDS: dict[type[Any], str] = {str: "a string", list: "a list"}


def _check(agent: Agent[Any], name: str, *types: type[Any] | None) -> None:
    value = getattr(agent, name)
    if not any(value is None if kind is None else isinstance(value, kind) for kind in types):
        wanted = " or ".join("None" if kind is None else _KINDS[kind] for kind in types)
        raise TypeError(f"Agent {name} must be {wanted}, got {type(value).__name__}: {value!r:.100}")
