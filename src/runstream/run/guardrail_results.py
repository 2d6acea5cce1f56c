"""What the guardrails of a run have found, as live objects and as JSON. Must not know runs, or when checks are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from runstream.agent.stream_guardrail import StreamGuardrailResult
from runstream.agent.tool import FunctionTool
from runstream.errors import UserError
from runstream.events.codec import plain
from runstream.run.bind import AgentBook

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
        agents = list(agents)
        tools = [tool for agent in agents for tool in agent.tools if isinstance(tool, FunctionTool)]
        inputs = _by_name((each for agent in agents for each in agent.input_guardrails), InputGuardrail[Any])
        outputs = _by_name((each for agent in agents for each in agent.output_guardrails), OutputGuardrail[Any])
        tool_inputs = _by_name(
            (each for tool in tools for each in tool.tool_input_guardrails or ()), ToolInputGuardrail[Any]
        )
        tool_outputs = _by_name(
            (each for tool in tools for each in tool.tool_output_guardrails or ()), ToolOutputGuardrail[Any]
        )
        return cls(
            [InputGuardrailResult(inputs(each), _output_of(each)) for each in data["input"]],
            [
                OutputGuardrailResult(outputs(each), each["agent_output"], book.find(each["agent"]), _output_of(each))
                for each in data["output"]
            ],
            [ToolInputGuardrailResult(tool_inputs(each), _tool_output_of(each)) for each in data["tool_input"]],
            [ToolOutputGuardrailResult(tool_outputs(each), _tool_output_of(each)) for each in data["tool_output"]],
            input_passed=data["input_passed"],
        )


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


def _by_name(guardrails: Iterable[Any], kind: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    known = {guardrail.get_name(): guardrail for guardrail in guardrails}

    def find(data: dict[str, Any]) -> Any:
        name = data["guardrail"]
        if name not in known:

            def gone(*arguments: Any) -> Any:
                raise UserError(f"the guardrail {name!r} is known by its name only: it came with a kept state")

            known[name] = kind(gone, name)
        return known[name]

    return find
