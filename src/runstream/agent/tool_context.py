"""What one tool call gets to know: the run's context, the call itself, and whether it is still wanted.

Owns `ToolContext`. Must not know runs: `run_config` and `agent` are handed through.

Invariants: a `ToolContext` belongs to one call; with its run it shares usage and approvals, with other calls nothing.
What a tool reports once its call is over goes nowhere.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from runstream.agent.context import RunContextWrapper, TContext
from runstream.agent.raw_item import read_text
from runstream.agent.usage import Usage
from runstream.errors import UserError
from runstream.events.event import ToolOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from openai.types.responses import ResponseFunctionToolCall

__all__ = ["ToolContext", "ToolSettingError"]


class ToolSettingError(UserError, ValueError, TypeError):
    """A tool, or the context of one, was made with a wrong value. A ValueError and TypeError too, as in the SDK."""

    code = "tool_setting"


@dataclass(eq=False, init=False)
class ToolContext(RunContextWrapper[TContext]):
    """The context of one tool call; a tool gets it by naming it as the type of its first parameter."""

    tool_name: str
    tool_call_id: str
    tool_arguments: str
    """The arguments as the model wrote them: JSON text."""
    tool_call: ResponseFunctionToolCall | None = None
    tool_namespace: str | None = None
    """The namespace that the model called the tool in, if it gave one."""
    agent: Any | None = None
    """The `Agent` that called the tool."""
    run_config: Any | None = field(default=None, repr=False)
    """The `RunConfig` of the run."""

    read_run_config: ClassVar[Callable[[dict[str, Any]], Any] | None] = None
    """Makes a `RunConfig` of a dict; whoever defines `RunConfig` sets it."""

    def __init__(
        self,
        context: TContext,
        usage: Usage | None = None,
        tool_name: str | None = None,
        tool_call_id: str | None = None,
        tool_arguments: str | None = None,
        tool_call: ResponseFunctionToolCall | None = None,
        *,
        tool_namespace: str | None = None,
        agent: Any | None = None,
        run_config: Any | None = None,
        turn_input: list[Any] | None = None,
        tool_input: Any | None = None,
    ) -> None:
        """Raises ToolSettingError without tool_name, tool_call_id and tool_arguments."""
        super().__init__(
            context=context,
            usage=Usage() if usage is None else usage,
            turn_input=list(turn_input or ()),
            tool_input=tool_input,
        )
        self.tool_name = _required("tool_name", tool_name)
        self.tool_call_id = _required("tool_call_id", tool_call_id)
        self.tool_arguments = _required("tool_arguments", tool_arguments)
        self.tool_call = tool_call
        self.tool_namespace = tool_namespace or read_text(tool_call, "namespace")
        self.agent = agent
        read = type(self).read_run_config
        if isinstance(run_config, dict) and read is not None:
            run_config = read(cast("dict[str, Any]", run_config))
        self.run_config = run_config

    @classmethod
    def from_agent_context(
        cls,
        context: RunContextWrapper[TContext],
        tool_call_id: str,
        tool_call: ResponseFunctionToolCall | None = None,
        agent: Any | None = None,
        *,
        tool_name: str | None = None,
        tool_arguments: str | None = None,
        tool_namespace: str | None = None,
        run_config: Any | None = None,
    ) -> ToolContext[TContext]:
        """The context of a call within the run that `context` belongs to.

        Name and arguments come from `tool_call` unless they are given, agent and run_config from `context` if it is
        the context of a call itself. Raises ToolSettingError where name or arguments are known from neither.
        """
        if isinstance(context, ToolContext):
            agent = context.agent if agent is None else agent
            run_config = context.run_config if run_config is None else run_config
        tool_context = cls(
            context.context,
            context.usage,
            tool_name=tool_name if tool_name is not None or tool_call is None else tool_call.name,
            tool_call_id=tool_call_id,
            tool_arguments=tool_arguments if tool_arguments is not None or tool_call is None else tool_call.arguments,
            tool_call=tool_call,
            tool_namespace=tool_namespace,
            agent=agent,
            run_config=run_config,
            turn_input=context.turn_input,
            tool_input=context.tool_input,
        )
        context.share_with(tool_context)
        return tool_context

    @property
    def qualified_tool_name(self) -> str:
        """The name with its namespace before it, unless that is the name itself."""
        if self.tool_namespace in (None, self.tool_name):
            return self.tool_name
        return f"{self.tool_namespace}.{self.tool_name}"

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for this call any more: its run was cancelled, or it took longer than its timeout.

        A plain function runs in a thread, which cannot be stopped from outside: a long one looks here now and then and
        returns. What it returns then is dropped. May be read from any thread.
        """
        return self._cancellation.is_set()

    def wait_cancelled(self, timeout_s: float | None = None) -> bool:
        """Block the calling thread until the call is cancelled, at most `timeout_s` seconds; tell whether it is.

        For threads, in place of `time.sleep`: in an async tool it would block the event loop.
        """
        return self._cancellation.wait(timeout_s)

    def emit(self, data: Any) -> None:
        """Report how the call is going: every reader of the run's numbered events gets a `tool.progress` with this.

        `data` is text or any JSON value; what is neither is made plain as outputs are. May be called from any thread,
        and returns at once. Reports that come faster than the run can write them are dropped, the oldest first (the
        next one tells how many), and so is what comes after the call's end, or where no run has made this context.
        """
        report = self._report
        if report is not None:
            report(data)

    def report_to(self, report: Callable[[Any], None] | None) -> None:
        """Say where reports go. Called by whoever makes the context."""
        self.__dict__["_report_function"] = report

    @property
    def nesting(self) -> Any | None:
        """Where the run of an agent that is called as this tool belongs; None where no run makes the call."""
        return self.__dict__.get("_nesting")

    @nesting.setter
    def nesting(self, nesting: Any | None) -> None:
        self.__dict__["_nesting"] = nesting

    @property
    def _report(self) -> Callable[[Any], None] | None:
        return self.__dict__.get("_report_function")

    @property
    def outcome(self) -> ToolOutcome:
        """What became of the call, as far as it has come: `done`, unless whoever made it has said otherwise."""
        return self.__dict__.get("_outcome", "done")

    def mark_outcome(self, outcome: ToolOutcome) -> None:
        """Say what became of the call, where its output does not. Called by whoever makes it."""
        self.__dict__["_outcome"] = outcome

    def mark_cancelled(self) -> None:
        """Tell the tool that nobody waits for it. Called by whoever stops waiting."""
        self._cancellation.set()

    @property
    def _cancellation(self) -> threading.Event:
        # Made by whoever asks first, which may be two threads at once: setdefault lets one of them win.
        return self.__dict__.setdefault("_cancellation_event", threading.Event())

    def to_run_context(self) -> RunContextWrapper[TContext]:
        """A context of the same run without the call."""
        context = RunContextWrapper(self.context, self.usage, self.turn_input, self.tool_input)
        self.share_with(context)
        return context


def _required(name: str, value: str | None) -> str:
    if value is None:
        raise ToolSettingError(f"{name} must be passed to ToolContext")
    return value
