"""What the guardrails of a run have found, as live objects and as JSON. Must not know runs, or when checks are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runstream.agent.agent import Agent
from runstream.agent.guardrail import (
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailResult,
    OutputGuardrail,
    OutputGuardrailResult,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolInputGuardrailResult,
    ToolOutputGuardrail,
    ToolOutputGuardrailResult,
)
from runstream.agent.stream_guardrail import StreamGuardrail, StreamGuardrailResult
from runstream.agent.tool import FunctionTool
from runstream.errors import UserError
from runstream.events.codec import plain
from runstream.events.event import GuardrailChecked
from runstream.run.bind import AgentBook
from runstream.run.config import RunConfig

__all__ = ["GuardrailResults"]


@dataclass(slots=True)
class GuardrailResults:
    """The results so far, each kind in the order in which the checks ended."""

    input: list[InputGuardrailResult] = field(default_factory=list[InputGuardrailResult])
    output: list[OutputGuardrailResult] = field(default_factory=list[OutputGuardrailResult])
    tool_input: list[ToolInputGuardrailResult] = field(default_factory=list[ToolInputGuardrailResult])
    tool_output: list[ToolOutputGuardrailResult] = field(default_factory=list[ToolOutputGuardrailResult])
    stream: list[StreamGuardrailResult] = field(default_factory=list[StreamGuardrailResult])
    """One for each guardrail that has watched a text; it goes on counting while the run goes on."""
    input_passed: bool = False
    """Whether the input guardrails have let the run's input pass."""
    tripped: bool = False
    """Whether a check of the input has ended the run: its turn stops where it stands."""
    withheld: bool = False
    """Whether what the model said last has not been let pass, and is nobody's to keep."""

    def copied(self) -> GuardrailResults:
        """The same, apart from what may still come."""
        return GuardrailResults(
            list(self.input),
            list(self.output),
            list(self.tool_input),
            list(self.tool_output),
            list(self.stream),
            self.input_passed,
        )

    def to_plain(self) -> dict[str, Any]:
        """As JSON data; what the stream guardrails have measured is left out."""
        tools = {"tool_input": self.tool_input, "tool_output": self.tool_output}
        return {
            "input_passed": self.input_passed,
            "input": [_checked(result) for result in self.input],
            "output": [
                {**_checked(result), "agent": result.agent.name, "agent_output": plain(result.agent_output)}
                for result in self.output
            ],
            **{
                kind: [
                    {
                        "guardrail": result.guardrail.get_name(),
                        "output_info": plain(result.output.output_info),
                        "behavior": dict(result.output.behavior),
                    }
                    for result in results
                ]
                for kind, results in tools.items()
            },
        }

    @classmethod
    def from_plain(cls, data: dict[str, Any], agents: Iterable[Agent[Any]], book: AgentBook) -> GuardrailResults:
        """The results of `to_plain`. Guardrails are found by their names among those of the agents and their tools;
        for one that is not there, one stands that has only the name."""
        known = _Known(list(agents))
        return cls(
            [InputGuardrailResult(known.input(each["guardrail"]), _output_of(each)) for each in data["input"]],
            [
                OutputGuardrailResult(
                    known.output(each["guardrail"]), each["agent_output"], book.find(each["agent"]), _output_of(each)
                )
                for each in data["output"]
            ],
            [
                ToolInputGuardrailResult(known.tool_input(each["guardrail"]), _tool_output_of(each))
                for each in data["tool_input"]
            ],
            [
                ToolOutputGuardrailResult(known.tool_output(each["guardrail"]), _tool_output_of(each))
                for each in data["tool_output"]
            ],
            input_passed=data["input_passed"],
        )

    @classmethod
    def from_log(
        cls, told: Iterable[tuple[str | None, GuardrailChecked]], book: AgentBook, config: RunConfig
    ) -> GuardrailResults:
        """The results of a run that another process carries out, or did, as far as its log tells: without what was
        checked, without what guardrails said of what was not let pass, and without the single delays of streams."""
        found, known = cls(), _Known(book.agents, config)
        for agent_name, checked in told:
            if checked.outcome == "failed":
                continue  # it has no result
            agent = book.find(agent_name)
            output = GuardrailFunctionOutput(checked.info, checked.outcome != "passed")
            of_tool = ToolGuardrailFunctionOutput(checked.info, _behavior_of(checked))
            if checked.about in ("input", "added_input"):
                found.input.append(InputGuardrailResult(known.input(checked.name), output))
            elif checked.about == "output":
                found.output.append(OutputGuardrailResult(known.output(checked.name), None, agent, output))
            elif checked.about == "tool_input":
                found.tool_input.append(ToolInputGuardrailResult(known.tool_input(checked.name), of_tool))
            elif checked.about == "tool_output":
                found.tool_output.append(ToolOutputGuardrailResult(known.tool_output(checked.name), of_tool))
            else:
                found.count_stream(known.stream(checked.name), agent, checked)
        return found

    def count_stream(self, guardrail: StreamGuardrail[Any], agent: Agent[Any], checked: GuardrailChecked) -> None:
        """Take in what a stream guardrail has found in one more model call."""
        for result in self.stream:
            if result.guardrail is guardrail and result.agent is agent:
                break
        else:
            result = StreamGuardrailResult(guardrail, None, agent, GuardrailFunctionOutput(None, False))
            self.stream.append(result)
        result.output = GuardrailFunctionOutput(None, checked.outcome != "passed")
        result.info.checks += checked.checks
        result.info.characters += checked.characters


def _checked(result: InputGuardrailResult | OutputGuardrailResult) -> dict[str, Any]:
    return {
        "guardrail": result.guardrail.get_name(),
        "output_info": plain(result.output.output_info),
        "tripwire_triggered": result.output.tripwire_triggered,
    }


def _output_of(data: dict[str, Any]) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(data["output_info"], data["tripwire_triggered"])


def _tool_output_of(data: dict[str, Any]) -> ToolGuardrailFunctionOutput:
    return ToolGuardrailFunctionOutput(data["output_info"], data["behavior"])


def _behavior_of(checked: GuardrailChecked) -> Any:
    if checked.outcome == "rejected":
        return {"type": "reject_content", "message": checked.message or ""}
    return {"type": "allow" if checked.outcome == "passed" else "raise_exception"}


class _Known:
    """Guardrails by their names, among those of the agents and their tools."""

    def __init__(self, agents: Sequence[Agent[Any]], config: RunConfig | None = None) -> None:
        of: list[Any] = [*agents, *([] if config is None else [config])]
        tools = [tool for agent in agents for tool in agent.tools if isinstance(tool, FunctionTool)]
        self.input = _by_name((each for one in of for each in one.input_guardrails or ()), InputGuardrail[Any])
        self.output = _by_name((each for one in of for each in one.output_guardrails or ()), OutputGuardrail[Any])
        self.stream = _by_name(
            (each for one in of for each in one.stream_guardrails or ()),
            _nameless,
        )
        self.tool_input = _by_name(
            (each for tool in tools for each in tool.tool_input_guardrails or ()), ToolInputGuardrail[Any]
        )
        self.tool_output = _by_name(
            (each for tool in tools for each in tool.tool_output_guardrails or ()), ToolOutputGuardrail[Any]
        )


def _nameless(gone: Callable[..., Any], name: str) -> StreamGuardrail[Any]:
    return StreamGuardrail(gone, name=name)


def _by_name(guardrails: Iterable[Any], kind: Callable[..., Any]) -> Callable[[str], Any]:
    """Finds one of these; for a name that none has, one that has only the name."""
    known = {guardrail.get_name(): guardrail for guardrail in guardrails}

    def find(name: str) -> Any:
        if name not in known:

            def gone(*arguments: Any) -> Any:
                raise UserError(f"the guardrail {name!r} is known by its name only: it came with a kept state")

            known[name] = kind(gone, name)
        return known[name]

    return find
