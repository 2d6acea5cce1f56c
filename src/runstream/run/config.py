"""The options of a run: one bag, `RunConfig`. Names and defaults are the OpenAI Agents SDK's; ours are marked so."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast

from runstream.agent.agent import Agent
from runstream.agent.context import TContext
from runstream.agent.guardrail import InputGuardrail, OutputGuardrail
from runstream.agent.handoff import HandoffHistoryMapper, HandoffInputFilter
from runstream.agent.items import TResponseInputItem
from runstream.agent.model import Model, ModelProvider
from runstream.agent.settings import ModelSettings
from runstream.agent.stream_guardrail import StreamGuardrail
from runstream.agent.tool_context import ToolContext
from runstream.clock import Clock, system_clock
from runstream.errors import UserError
from runstream.flow.breaker import CircuitBreakers
from runstream.flow.fallback import FALLBACK_ON, FallbackOn
from runstream.flow.load import LoadLimits
from runstream.flow.pipe import Operator
from runstream.flow.retry import RetryBudget
from runstream.flow.timeouts import TimeLimits
from runstream.log.base import Store
from runstream.sessions.base import SessionSettings

if TYPE_CHECKING:
    from runstream.agent.context import RunContextWrapper

__all__ = [
    "DEFAULT_MAX_TURNS",
    "CallModelData",
    "CallModelInputFilter",
    "ModelInputData",
    "ReasoningItemIdPolicy",
    "RunConfig",
    "SessionInputCallback",
    "ToolErrorFormatter",
    "ToolErrorFormatterArgs",
    "ToolExecutionConfig",
    "ToolNameCollisionPolicy",
    "ToolNotFoundBehavior",
]

DEFAULT_MAX_TURNS = 10

ToolNotFoundBehavior: TypeAlias = Literal["raise_error", "return_error_to_model"]
ToolNameCollisionPolicy: TypeAlias = Literal["warn", "error"]
ReasoningItemIdPolicy: TypeAlias = Literal["preserve", "omit"]


SessionInputCallback: TypeAlias = Callable[
    [list[TResponseInputItem], list[TResponseInputItem]], list[TResponseInputItem] | Awaitable[list[TResponseInputItem]]
]
"""Gets a session's items and the new input; returns what the model is to see."""


@dataclass
class ModelInputData:
    """What a model call sends: the items and the system prompt."""

    input: list[TResponseInputItem]
    instructions: str | None


@dataclass
class CallModelData(Generic[TContext]):
    """What a `call_model_input_filter` gets."""

    model_data: ModelInputData
    agent: Agent[TContext]
    context: TContext | None


CallModelInputFilter: TypeAlias = Callable[[CallModelData[Any]], ModelInputData | Awaitable[ModelInputData]]


@dataclass
class ToolErrorFormatterArgs(Generic[TContext]):
    """What a `tool_error_formatter` gets."""

    kind: Literal["approval_rejected", "tool_not_found", "tool_exception"]
    tool_type: Literal["function", "computer", "shell", "apply_patch", "custom"]
    tool_name: str
    call_id: str
    default_message: str
    run_context: RunContextWrapper[TContext]
    error: Exception | None = None


ToolErrorFormatter: TypeAlias = Callable[[ToolErrorFormatterArgs[Any]], str | Awaitable[str | None] | None]


@dataclass
class ToolExecutionConfig:
    """How a turn's tool calls are run."""

    max_function_tool_concurrency: int | None = None
    """At most so many function tools of one turn at once; None is no limit."""
    pre_approval_tool_input_guardrails: bool = False
    """Whether a call's input guardrails are asked before a person is, too: what they reject is not put to one."""

    def __post_init__(self) -> None:
        limit = self.max_function_tool_concurrency
        if limit is not None and limit < 1:
            raise ValueError(f"tool_execution.max_function_tool_concurrency must be at least 1, not {limit}")


@cache
def _default_model_provider() -> ModelProvider:
    from runstream.models.provider import MultiProvider

    return MultiProvider()


def _default_store() -> str | None:
    return os.environ.get("RUNSTREAM_STORE") or None


def _trace_sensitive_data() -> bool:
    return os.environ.get("OPENAI_AGENTS_TRACE_INCLUDE_SENSITIVE_DATA", "true").lower() in ("1", "true", "yes", "on")


@dataclass
class RunConfig:
    """Settings of one run that are not the agent's. Raises ValueError or UserError for values out of range."""

    model: str | Model | None = None
    """Replaces every agent's model."""
    model_provider: ModelProvider = field(default_factory=_default_model_provider)
    model_settings: ModelSettings | None = None
    """Laid over every agent's settings: what is not None here wins."""
    handoff_input_filter: HandoffInputFilter | None = None
    """Applied at every handoff that has no filter of its own."""
    nest_handoff_history: bool = False
    handoff_history_mapper: HandoffHistoryMapper | None = None
    input_guardrails: list[InputGuardrail[Any]] | None = None
    """Checks on the run's input, besides those of its first agent."""
    output_guardrails: list[OutputGuardrail[Any]] | None = None
    """Checks on the final output, besides those of the last agent."""
    tracing_disabled: bool = False
    """Accepted for compatibility: this package sends no traces anywhere."""
    tracing: dict[str, Any] | None = None
    trace_include_sensitive_data: bool = field(default_factory=_trace_sensitive_data)
    workflow_name: str = "Agent workflow"
    trace_id: str | None = None
    group_id: str | None = None
    trace_metadata: dict[str, Any] | None = None
    session_input_callback: SessionInputCallback | None = None
    """Joins the session's items with the new input: gets both lists, returns what the model is to see."""
    call_model_input_filter: CallModelInputFilter | None = None
    """Changes the input of each model call just before it is sent."""
    tool_error_formatter: ToolErrorFormatter | None = None
    session_settings: SessionSettings | None = None
    reasoning_item_id_policy: ReasoningItemIdPolicy | None = None
    """"omit" leaves the ids of reasoning items out of what is sent to the model."""
    sandbox: Any | None = None
    tool_execution: ToolExecutionConfig | None = None
    tool_not_found_behavior: ToolNotFoundBehavior = "raise_error"
    """A call of a tool that the agent does not have: end the run, or tell the model."""
    tool_name_collision_policy: ToolNameCollisionPolicy = "error"
    """Two tools, or a tool and a handoff, of one name: "error" refuses the run before any request (the SDK's default
    is "warn"); "warn" logs it and keeps the later one."""

    # Ours, beyond the SDK.
    on_abandon: Literal["cancel", "detach"] = field(default="cancel", kw_only=True)
    """What becomes of a run when its last in-process reader goes away and nobody awaits it."""
    cancel_timeout_s: float = field(default=5.0, kw_only=True)
    """How long a cancelled or failed run waits for its tools, hooks, callbacks and models to stop, and then again for
    its session to be saved."""
    max_log_events: int | None = field(default=None, kw_only=True)
    """So many events the log in memory keeps at least; beyond it the oldest go. By default a million, and 20,000 where
    a store keeps them all: readers of older ones get them from there."""
    store: str | Store | None = field(default_factory=_default_store, kw_only=True)
    """Keeps the run's log beyond this process: a URL (`sqlite:///runs.db`, `redis://host`, `memory://name`) or a store;
    the environment variable RUNSTREAM_STORE if not given. None keeps it in memory for as long as the run is."""
    run_id: str | None = field(default=None, kw_only=True)
    """Names the run; made up where it is not given."""
    owner: str | None = field(default=None, kw_only=True)
    """The person whose run it is: a store lists and deletes runs by it."""
    store_timeout_s: float = field(default=10.0, kw_only=True)
    """How long a run waits for a store that is slow or gone."""
    on_store_failure: Literal["fail", "continue"] = field(default="fail", kw_only=True)
    """What becomes of the run after that: it fails, or goes on without its log being kept, which is logged."""
    lease_s: float = field(default=5.0, kw_only=True)
    """A run whose process has not been heard of for so long may be taken over by another."""
    time_limit_s: float | None = field(default=None, kw_only=True)
    """How long the whole run may take; past it it fails with RunTimeoutError. None is no limit."""
    time_limits: TimeLimits | None = field(default=None, kw_only=True)
    """Limits on the phases of each model call, on tools, and on the run."""
    on_broken_stream: Literal["fail", "restart", "restart_after_tools", "continue"] = field(
        default="fail", kw_only=True
    )
    """A model's stream that breaks once people have seen some of it: fail; ask again, as a new attempt, and tell
    readers to take back what they saw (but not where a hosted tool was called meanwhile, unless "restart_after_tools");
    or go on with the text as it stands, marked incomplete."""
    retry_budget: RetryBudget | None = field(default=None, kw_only=True)
    """Bounds the retries of all runs that share it."""
    fallback_models: Sequence[str | Model] = field(default=(), kw_only=True)
    """Asked in this order where the model fails for good: names, models, or `PlainCall()` (the same model once more,
    not streamed)."""
    fallback_on: FallbackOn = field(default=FALLBACK_ON, kw_only=True)
    """After which kinds of failures (`runstream.flow.failures.FailureKind`), or a function that decides it."""
    circuit_breakers: CircuitBreakers | None = field(default=None, kw_only=True)
    """Breakers for the models' endpoints, shared by many runs."""
    load_limits: LoadLimits | None = field(default=None, kw_only=True)
    """How many runs, requests and tokens there may be, for all runs that share it."""
    on_approval: Literal["interrupt", "wait"] = field(default="interrupt", kw_only=True)
    """A call that needs a person's approval: end the run with `interruptions`, to be resumed from its state, as the SDK
    does; or wait in place until `approve` or `reject` is called on any handle of the run."""
    stream_guardrails: list[StreamGuardrail[Any]] | None = field(default=None, kw_only=True)
    """Checks on every agent's text while it streams, besides the agent's own."""
    stream_operators: Sequence[Operator[Any, Any]] = field(default=(), kw_only=True)
    """What each reader of `stream_events()` reads through, from the first to the last, such as `smooth` or an operator
    of your own; the log, `events()` and the run itself have nothing of it."""
    clock: Clock = field(default=system_clock, kw_only=True)

    def __post_init__(self) -> None:
        if self.tool_name_collision_policy not in ("warn", "error"):
            raise ValueError("tool_name_collision_policy must be either 'warn' or 'error'")
        if self.on_abandon not in ("cancel", "detach"):
            raise ValueError(f"on_abandon must be 'cancel' or 'detach', not {self.on_abandon!r}")
        if self.tool_not_found_behavior not in ("raise_error", "return_error_to_model"):
            raise ValueError(
                f"tool_not_found_behavior must be 'raise_error' or 'return_error_to_model', "
                f"not {self.tool_not_found_behavior!r}"
            )
        if self.on_store_failure not in ("fail", "continue"):
            raise ValueError(f"on_store_failure must be 'fail' or 'continue', not {self.on_store_failure!r}")
        if self.on_approval not in ("interrupt", "wait"):
            raise ValueError(f"on_approval must be 'interrupt' or 'wait', not {self.on_approval!r}")
        for name in ("cancel_timeout_s", "store_timeout_s", "lease_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.on_broken_stream not in ("fail", "restart", "restart_after_tools", "continue"):
            raise ValueError(
                "on_broken_stream must be 'fail', 'restart', 'restart_after_tools' or 'continue', not "
                f"{self.on_broken_stream!r}"
            )
        if isinstance(self.fallback_models, str):
            raise ValueError(f"fallback_models must be a list of models, not {self.fallback_models!r}")
        if not all(callable(operator) for operator in self.stream_operators):
            raise ValueError(f"stream_operators must be callables, not {self.stream_operators!r}")
        if isinstance(self.time_limits, dict):
            self.time_limits = TimeLimits(**cast("dict[str, Any]", self.time_limits))
        if self.time_limit_s is not None and self.time_limit_s <= 0:
            raise ValueError(f"time_limit_s must be positive or None, not {self.time_limit_s}")
        if isinstance(self.model_settings, dict):
            self.model_settings = ModelSettings(**cast("dict[str, Any]", self.model_settings))
        if isinstance(self.session_settings, dict):
            self.session_settings = SessionSettings(**cast("dict[str, Any]", self.session_settings))
        if isinstance(self.tool_execution, dict):
            self.tool_execution = ToolExecutionConfig(**cast("dict[str, Any]", self.tool_execution))

    @property
    def kept_events(self) -> int:
        """`max_log_events`, or its default."""
        if self.max_log_events is not None:
            return self.max_log_events
        return 1_000_000 if self.store is None or self.on_store_failure == "continue" else 20_000

    @property
    def run_limit(self) -> tuple[float, str] | None:
        """How long the run may take, and the option that says so: the shorter of `time_limit_s` and
        `time_limits.run_s`; None where there is neither."""
        limits = self.time_limits
        given = (
            (self.time_limit_s, "RunConfig.time_limit_s"),
            (None if limits is None else limits.run_s, "TimeLimits.run_s"),
        )
        return min(((limit_s, option) for limit_s, option in given if limit_s is not None), default=None)

    @property
    def run_limit_s(self) -> float | None:
        """How long the run may take; None for as long as it takes."""
        limit = self.run_limit
        return None if limit is None else limit[0]

    @classmethod
    def of(cls, config: RunConfig | dict[str, Any] | None) -> RunConfig:
        """The config of what a caller passed. Raises UserError for a dict with unknown keys."""
        if config is None:
            # One for all runs, since nobody changes the config of a run: for as long as the environment is the same.
            return _default_config(_default_store(), _trace_sensitive_data())
        if isinstance(config, dict):
            unknown = sorted(config.keys() - {option.name for option in fields(cls)})
            if unknown:
                raise UserError(f"run_config has unknown options: {', '.join(unknown)}")
            return cls(**config)
        if not isinstance(cast("object", config), cls):
            raise UserError(f"run_config must be a RunConfig or a dict, not {type(config).__name__}")
        return config

    def check_supported(self) -> None:
        """Raises UserError for an option of the SDK that this version does not carry out."""
        for name in ("nest_handoff_history", "sandbox"):
            if getattr(self, name):
                raise UserError(f"RunConfig.{name} is not supported by this version of runstream")


ToolContext.read_run_config = RunConfig.of  # it cannot know what a config is


@cache
def _default_config(store: str | None, trace_include_sensitive_data: bool) -> RunConfig:
    return RunConfig(store=store, trace_include_sensitive_data=trace_include_sensitive_data)
