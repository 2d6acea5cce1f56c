"""Handing the conversation over to another agent, which the model asks for as it calls a tool.

Owns the declaration and how the model's arguments reach `on_handoff`. Must not know runs: who is enabled and what the
next agent gets to see is decided there. Agents are known by their name only.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from typing_extensions import TypeVar

from runstream.agent.context import RunContextWrapper, TContext
from runstream.agent.strict_schema import ensure_strict_json_schema
from runstream.agent.typed_output import strict_object_schema
from runstream.agent.validation import summarize, validate_json
from runstream.errors import ModelBehaviorError, UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from runstream.agent.items import RunItem, TResponseInputItem

__all__ = ["Handoff", "HandoffHistoryMapper", "HandoffInputData", "HandoffInputFilter", "handoff"]

TAgent = TypeVar("TAgent", default=Any)
"""The type of the agent that takes over. Agents are declared in terms of handoffs, so it is not bound here."""


@dataclass(frozen=True)
class HandoffInputData:
    """What the next agent would get to see; an input filter changes it."""

    input_history: str | tuple[TResponseInputItem, ...]
    """The input of the run."""
    pre_handoff_items: tuple[RunItem, ...]
    """The items of earlier turns."""
    new_items: tuple[RunItem, ...]
    """The items of the turn that hands over, the handoff's call and output included."""
    run_context: RunContextWrapper[Any] | None = None
    input_items: tuple[RunItem, ...] | None = None
    """If set, the next agent gets these in place of `new_items`, which then are only kept (in the session)."""

    def clone(self, **kwargs: Any) -> HandoffInputData:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **kwargs)


HandoffInputFilter: TypeAlias = Callable[[HandoffInputData], HandoffInputData | Awaitable[HandoffInputData]]
"""Chooses what the next agent gets to see; plain or async."""
HandoffHistoryMapper: TypeAlias = Callable[[list[Any]], list[Any]]
"""Makes a shorter history of input items."""

OnHandoff: TypeAlias = Callable[..., Any]
"""Called with the context, and with the input if there is an `input_type`; plain or async."""


@dataclass
class Handoff(Generic[TContext, TAgent]):
    """A handoff as the model sees it. `handoff` makes one of an agent.

    Raises UserError for `nest_handoff_history`, which is not supported.
    """

    tool_name: str
    tool_description: str
    input_json_schema: dict[str, Any]
    """The JSON schema of what the model gives along; `{}` for nothing."""
    on_invoke_handoff: Callable[[RunContextWrapper[Any], str], Awaitable[TAgent]]
    """Called with the context and the arguments as JSON text; returns the agent that takes over."""
    agent_name: str
    """The name of the agent that takes over."""
    input_filter: HandoffInputFilter | None = None
    """Chooses what the next agent gets to see; by default everything."""
    nest_handoff_history: bool | None = None
    strict_json_schema: bool = True
    is_enabled: bool | Callable[[RunContextWrapper[Any], Any], bool | Awaitable[bool]] = True
    """Whether the model may hand over: a bool, or a function (plain or async) of the context and the agent."""
    target: Any = field(default=None, init=False, repr=False, compare=False)
    """The agent that takes over, where it is known before the handoff is made."""

    def __post_init__(self) -> None:
        if self.nest_handoff_history:
            raise UserError(
                f"Handoff {self.tool_name!r}: nest_handoff_history is not supported by this version of runstream; "
                "leave it out, and shorten the history with an input_filter"
            )

    def get_transfer_message(self, agent: Any) -> str:
        """What the model is told once `agent` has taken over."""
        return json.dumps({"assistant": agent.name})

    @classmethod
    def default_tool_name(cls, agent: Any) -> str:
        """`transfer_to_` and the agent's name, in letters, digits and underscores."""
        return re.sub(r"[^a-zA-Z0-9_]", "_", f"transfer_to_{agent.name}").lower()

    @classmethod
    def default_tool_description(cls, agent: Any) -> str:
        """What the model is told of the agent where the handoff does not say it otherwise."""
        return f"Handoff to the {agent.name} agent to handle the request. {agent.handoff_description or ''}"


def handoff(
    agent: TAgent,
    tool_name_override: str | None = None,
    tool_description_override: str | None = None,
    on_handoff: OnHandoff | None = None,
    input_type: Any | None = None,
    input_filter: HandoffInputFilter | None = None,
    nest_handoff_history: bool | None = None,
    is_enabled: bool | Callable[[RunContextWrapper[Any], Any], bool | Awaitable[bool]] = True,
) -> Handoff[Any, TAgent]:
    """Let an agent hand over to `agent`.

    `on_handoff` is called when the model asks for it: with the context, and with what the model gave along if there is
    an `input_type`, a value of that type. It cannot choose another agent. Raises UserError where it takes other
    arguments, where an `input_type` has no `on_handoff` or no strict JSON schema, and where `agent` is no agent.
    """
    name = getattr(agent, "name", None)
    if not isinstance(name, str):
        raise UserError(f"handoff expects an Agent, not {agent!r:.100}")
    _check_signature(name, on_handoff, takes_input=input_type is not None)
    adapter, input_json_schema = _describe_input(name, input_type)

    async def invoke(context: RunContextWrapper[Any], input_json: str | None = None) -> TAgent:
        arguments: list[Any] = [context]
        if adapter is not None:
            if input_json is None:
                raise ModelBehaviorError(f"Handoff to {name} expected non-null input, but got None")
            arguments.append(validate_json(input_json, adapter, subject=f"the handoff to {name}", strict=True))
        if on_handoff is not None:
            result = on_handoff(*arguments)
            if inspect.isawaitable(result):
                await result
        return agent

    made: Handoff[Any, TAgent] = Handoff(
        tool_name=tool_name_override or Handoff.default_tool_name(agent),
        tool_description=tool_description_override or Handoff.default_tool_description(agent),
        input_json_schema=input_json_schema,
        on_invoke_handoff=invoke,
        agent_name=name,
        input_filter=input_filter,
        nest_handoff_history=nest_handoff_history,
        is_enabled=is_enabled if isinstance(is_enabled, bool) else _always_async(is_enabled),
    )
    made.target = agent
    return made


def _always_async(
    is_enabled: Callable[[RunContextWrapper[Any], Any], bool | Awaitable[bool]],
) -> Callable[[RunContextWrapper[Any], Any], Awaitable[bool]]:
    async def ask(context: RunContextWrapper[Any], agent: Any) -> bool:
        answer = is_enabled(context, agent)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    return ask


def _check_signature(name: str, on_handoff: OnHandoff | None, *, takes_input: bool) -> None:
    if on_handoff is None:
        if takes_input:
            raise UserError("You must provide on_handoff when input_type is provided")
        return
    if not callable(on_handoff):
        raise UserError(f"Handoff to {name}: on_handoff must be callable, not {on_handoff!r:.100}")
    wanted = ("context", "input") if takes_input else ("context",)
    try:
        inspect.signature(on_handoff).bind(*wanted)
    except TypeError as error:
        what = "two arguments: context and input" if takes_input else "one argument: context"
        hint = "" if takes_input else " (for a second one, the model's input, give an input_type)"
        raise UserError(f"Handoff to {name}: on_handoff must take {what}{hint}; {error}") from error
    except ValueError:
        # Some builtins do not tell their parameters; the call will show.
        return


def _describe_input(name: str, input_type: Any) -> tuple[TypeAdapter[Any] | None, dict[str, Any]]:
    if input_type is None:
        return None, ensure_strict_json_schema({})
    from pydantic import TypeAdapter

    try:
        adapter = TypeAdapter[Any](input_type)
        return adapter, strict_object_schema(adapter.json_schema())
    except Exception as error:
        raise UserError(
            f"Handoff to {name}: input_type {input_type!r:.100} cannot become a strict JSON schema: "
            f"{summarize(error)}. Use a pydantic model, a dataclass or a typing_extensions.TypedDict"
        ) from error
