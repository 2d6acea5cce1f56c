"""An agent as a tool of another one: the declaration, and what a call of it does.

Must not know runs: whoever defines the runner registers it here. Agents are `Any`, since they are declared in terms of
tools.

Invariant: a call is a run of its own, with decisions of its own about its tools; with the run that calls it shares the
caller's object and the usage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from typing_extensions import TypedDict

from runstream.agent.context import RunContextWrapper
from runstream.agent.item_helpers import ItemHelpers
from runstream.agent.strict_schema import ensure_strict_json_schema
from runstream.agent.tool import FunctionTool, ToolErrorFunction, ToolOrigin, ToolOriginType, with_failure_handling
from runstream.agent.tool_context import ToolContext
from runstream.agent.validation import describe, parse_object
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from openai.types.responses import ResponseFunctionToolCall
    from pydantic import TypeAdapter

    from runstream.agent.agent_tool_input import StructuredInputSchemaInfo, StructuredToolInputBuilder

__all__ = ["AgentTool", "AgentToolInvocation", "AgentToolOptions", "AgentToolStreamEvent", "agent_tool", "use_runner"]

_logger = logging.getLogger("runstream")

_DEFAULT_MAX_TURNS = 10
_runner: Any = None


def use_runner(runner: Any) -> None:
    """Let agents that are called as tools be run by this `Runner`."""
    global _runner
    _runner = runner


@dataclass(frozen=True)
class AgentToolInvocation:
    """The call that a nested run carries out."""

    tool_name: str
    tool_call_id: str
    tool_arguments: str
    """The arguments as the model wrote them: JSON text."""


class AgentToolStreamEvent(TypedDict):
    """What `on_stream` gets."""

    event: Any
    """The event of the nested run, as `stream_events()` gives it."""
    agent: Any
    """The nested agent that is active."""
    tool_call: ResponseFunctionToolCall | None
    """The call that the nested run carries out, where it is known."""


OutputExtractor: TypeAlias = Callable[[Any], Awaitable[str]]
OnStream: TypeAlias = Callable[[AgentToolStreamEvent], Awaitable[None] | None]


@dataclass(frozen=True)
class AgentToolOptions:
    """How the nested run is made, as `Agent.as_tool` takes it."""

    custom_output_extractor: OutputExtractor | None = None
    on_stream: OnStream | None = None
    run_config: Any = None
    max_turns: int | None = None
    hooks: Any = None
    previous_response_id: str | None = None
    conversation_id: str | None = None
    session: Any = None
    parameters: type[Any] | None = None
    input_builder: StructuredToolInputBuilder | None = None
    include_input_schema: bool = False


def agent_tool(
    agent: Any,
    name: str,
    description: str,
    options: AgentToolOptions,
    *,
    is_enabled: Any,
    needs_approval: Any,
    failure_error_function: ToolErrorFunction | None,
) -> FunctionTool:
    """The tool that runs the agent. Raises TypeError or UserError for options that make no sense."""
    if options.on_stream is not None and not callable(options.on_stream):
        raise UserError(f"on_stream must be callable or None, not {options.on_stream!r:.100}")
    call = AgentTool(agent, options)
    return FunctionTool(
        name=name,
        description=description,
        params_json_schema=call.schema,
        on_invoke_tool=with_failure_handling(call.invoke, failure_error_function),
        is_enabled=is_enabled,
        needs_approval=needs_approval,
        _failure_error_function=failure_error_function,
        _origin=ToolOrigin(ToolOriginType.AGENT_AS_TOOL, agent_name=agent.name, agent_tool_name=name),
        _is_agent_tool=True,
        _agent_instance=agent,
    )


class AgentTool:
    """What a call of an agent does."""

    def __init__(self, agent: Any, options: AgentToolOptions) -> None:
        from pydantic import TypeAdapter

        from runstream.agent.agent_tool_input import AgentAsToolInput, build_structured_input_schema_info

        declared = options.parameters
        if declared is not None and not _is_declarable(declared):
            raise TypeError(
                f"parameters of the tool of agent {agent.name!r} must be a dataclass or a pydantic model, not "
                f"{declared!r:.100}"
            )
        self._agent = agent
        self._options = options
        self._adapter: TypeAdapter[Any] = TypeAdapter(AgentAsToolInput if declared is None else declared)
        self.schema: dict[str, Any] = ensure_strict_json_schema(self._adapter.json_schema())
        """The JSON schema of the arguments."""
        self._keeps_input = declared is not None or options.input_builder is not None
        self._info: StructuredInputSchemaInfo | None = None
        if self._keeps_input:
            with_schema = options.include_input_schema and declared is not None
            self._info = build_structured_input_schema_info(self.schema, include_json_schema=with_schema)

    async def invoke(self, context: ToolContext[Any], arguments: str) -> Any:
        """Run the agent; the output for the agent that called it. Raises what the nested run raises."""
        from runstream.agent.agent_tool_input import resolve_agent_tool_input

        if _runner is None:
            raise UserError("an agent that is called as a tool is run by the Runner: import runstream.Runner")
        name = getattr(context, "tool_name", self._agent.name)
        params = self._read(name, arguments)
        nesting = getattr(context, "nesting", None)
        told: Any = None if nesting is None else nesting.state
        if told is None:
            told = await resolve_agent_tool_input(
                params=params, schema_info=self._info, input_builder=self._options.input_builder
            )
            if not isinstance(told, str | list):
                raise ModelBehaviorError(
                    f"Agent tool called with invalid input: the input_builder of {name} must return a string or a "
                    f"list of input items, not {told!r:.100}"
                )
            told = self._taken_over(nesting, cast("Any", told))
        result = await self._run(context, told, params if self._keeps_input else None)
        if nesting is not None and nesting.suspended:
            return None
        return await self._output_of(result)

    def _taken_over(self, nesting: Any, told: Any) -> Any:
        """Where the run goes on that waited for a person when its worker left; what it is told, where it begins."""
        options = self._options
        kept = {"previous_response_id": options.previous_response_id, "conversation_id": options.conversation_id}
        by_provider = {name: value for name, value in kept.items() if value is not None}
        left = None if nesting is None else nesting.go_on(told, self._max_turns, by_provider or None)
        return told if left is None else left

    @property
    def _max_turns(self) -> int:
        return _DEFAULT_MAX_TURNS if self._options.max_turns is None else self._options.max_turns

    def _read(self, name: str, arguments: str) -> Any:
        """The arguments as JSON data. Raises ModelBehaviorError where they do not fit."""
        from pydantic_core import PydanticSerializationError, ValidationError

        values = parse_object(arguments, subject=f"tool {name}")
        try:
            return self._adapter.dump_python(self._adapter.validate_python(values), mode="json")
        except ValidationError as error:
            raise ModelBehaviorError(f"Invalid JSON input for tool {name}: {describe(error)}") from error
        except PydanticSerializationError as error:
            raise ModelBehaviorError(f"The input of tool {name} has no JSON form: {error}") from error

    async def _run(self, context: ToolContext[Any], told: Any, tool_input: Any) -> Any:
        options = self._options
        nested = _nested_context(context, options.run_config, tool_input)
        goes_on = not isinstance(told, str | list)
        settings: dict[str, Any] = {
            "context": nested,
            "max_turns": self._max_turns,
            "hooks": options.hooks,
            "run_config": nested.run_config if isinstance(nested, ToolContext) else options.run_config,
            "previous_response_id": None if goes_on else options.previous_response_id,
            "conversation_id": None if goes_on else options.conversation_id,
            "session": options.session,
        }
        if options.on_stream is None:
            return await _runner.run(starting_agent=self._agent, input=told, **settings)
        result = _runner.run_streamed(starting_agent=self._agent, input=told, **settings)
        try:
            await self._tell(options.on_stream, result, getattr(context, "tool_call", None))
        except BaseException:
            result.cancel()
            if result.run_loop_task is not None:
                await asyncio.wait((result.run_loop_task,))  # within the nested run's limit
            raise
        return result

    async def _tell(self, on_stream: OnStream, result: Any, tool_call: Any) -> None:
        """Hand the events to `on_stream`, in order, each when it has done with the one before. The run does not wait
        for it: what is not handed over yet is in the log. What it raises is logged, and fails nothing."""
        agent = getattr(result, "current_agent", self._agent)
        async for event in result.stream_events():
            if event.type == "agent_updated_stream_event":
                agent = event.new_agent
            try:
                told = on_stream({"event": event, "agent": agent, "tool_call": tool_call})
                if inspect.isawaitable(told):
                    await told
            except Exception:
                _logger.exception("on_stream of the agent %r failed at an event", self._agent.name)

    async def _output_of(self, result: Any) -> Any:
        """What the extractor makes of the run, its final output, or what it said last where that is empty."""
        if self._options.custom_output_extractor is not None:
            return await self._options.custom_output_extractor(result)
        output = result.final_output
        if output not in (None, "") or getattr(result, "output_guardrail_results", None):
            return output
        for item in reversed(cast("list[Any]", getattr(result, "new_items", []))):
            if item.type == "message_output_item":
                text = ItemHelpers.text_message_output(item)
            else:
                text = item.output if item.type == "tool_call_output_item" else None
            if isinstance(text, str) and text:
                return text
        return output


def _is_declarable(declared: object) -> bool:
    from pydantic import BaseModel

    return isinstance(declared, type) and (dataclasses.is_dataclass(declared) or issubclass(declared, BaseModel))


def _nested_context(context: Any, run_config: Any, tool_input: Any) -> Any:
    """The context of the nested run: a new one, so that decisions about tools are not shared."""
    if isinstance(context, ToolContext):
        outer = cast("ToolContext[Any]", context)
        nested = ToolContext(
            outer.context,
            outer.usage,
            outer.tool_name,
            outer.tool_call_id,
            outer.tool_arguments,
            outer.tool_call,
            tool_namespace=outer.tool_namespace,
            agent=outer.agent,
            run_config=outer.run_config if run_config is None else run_config,
            tool_input=tool_input,
        )
        nested.nesting = outer.nesting
        nested.report_to(outer.emit)
        return nested
    given = cast("RunContextWrapper[Any]", context).context if isinstance(context, RunContextWrapper) else context
    return given if tool_input is None else RunContextWrapper(given, tool_input=tool_input)
