"""The ways to start a run. Signatures are the SDK's."""

from __future__ import annotations

from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.context import TContext
from runstream.agent.hooks import RunHooksBase
from runstream.agent.items import TResponseInputItem
from runstream.errors import UserError
from runstream.run.active import ActiveRun
from runstream.run.config import DEFAULT_MAX_TURNS, RunConfig
from runstream.run.error_handlers import RunErrorHandlers
from runstream.run.result import RunResult, RunResultStreaming
from runstream.sessions.base import Session

__all__ = ["Runner"]


class Runner:
    """Runs agents: `run` and `run_sync` to the end, `run_streamed` to be watched."""

    @classmethod
    async def run(
        cls,
        starting_agent: Agent[TContext],
        input: str | list[TResponseInputItem],
        *,
        context: TContext | None = None,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        hooks: RunHooksBase[TContext, Any] | None = None,
        run_config: RunConfig | dict[str, Any] | None = None,
        error_handlers: RunErrorHandlers[TContext] | None = None,
        previous_response_id: str | None = None,
        auto_previous_response_id: bool = False,
        conversation_id: str | None = None,
        session: Session | None = None,
    ) -> RunResult:
        """Run the agent to its final output.

        `input` is the user's message, or a list of input items; `context` is handed to tools, hooks and callbacks and
        never sent to the model; a turn is one model call with the tools that it asks for (`max_turns=None`: no limit);
        `session` remembers the conversation, and so does the provider with `previous_response_id` or
        `conversation_id`.

        Raises UserError for misuse, MaxTurnsExceeded, ModelBehaviorError and its kin, the official client's errors
        for failed requests, and what tools raise that are not to report to the model.
        """
        run = _prepare(
            starting_agent,
            input,
            context=context,
            max_turns=max_turns,
            hooks=hooks,
            run_config=run_config,
            error_handlers=error_handlers,
            previous_response_id=previous_response_id,
            auto_previous_response_id=auto_previous_response_id,
            conversation_id=conversation_id,
            session=session,
            streamed=False,
        )
        _start(run)
        await cast("Any", run.task)
        return RunResult.of(run)

    @classmethod
    def run_sync(
        cls,
        starting_agent: Agent[TContext],
        input: str | list[TResponseInputItem],
        *,
        context: TContext | None = None,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        hooks: RunHooksBase[TContext, Any] | None = None,
        run_config: RunConfig | dict[str, Any] | None = None,
        error_handlers: RunErrorHandlers[TContext] | None = None,
        previous_response_id: str | None = None,
        auto_previous_response_id: bool = False,
        conversation_id: str | None = None,
        session: Session | None = None,
    ) -> RunResult:
        """`run`, for code that is not asynchronous. Where an event loop runs already (a notebook), the run gets a
        thread and a loop of its own, and this thread waits."""
        from runstream.run.blocking import run_blocking

        return run_blocking(
            cls.run(
                starting_agent,
                input,
                context=context,
                max_turns=max_turns,
                hooks=hooks,
                run_config=run_config,
                error_handlers=error_handlers,
                previous_response_id=previous_response_id,
                auto_previous_response_id=auto_previous_response_id,
                conversation_id=conversation_id,
                session=session,
            )
        )

    @classmethod
    def run_streamed(
        cls,
        starting_agent: Agent[TContext],
        input: str | list[TResponseInputItem],
        context: TContext | None = None,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        hooks: RunHooksBase[TContext, Any] | None = None,
        run_config: RunConfig | dict[str, Any] | None = None,
        previous_response_id: str | None = None,
        auto_previous_response_id: bool = False,
        conversation_id: str | None = None,
        session: Session | None = None,
        *,
        error_handlers: RunErrorHandlers[TContext] | None = None,
    ) -> RunResultStreaming:
        """Start a run and return at once; its events are read from the result.

        In a running event loop the run starts by itself and goes on whether anybody reads or not. Outside of one it
        starts with the first use: a plain `for` over the result, or a later `async for`. Errors of the run are raised
        by `stream_events()`; arguments that are wrong raise UserError here.
        """
        run = _prepare(
            starting_agent,
            input,
            context=context,
            max_turns=max_turns,
            hooks=hooks,
            run_config=run_config,
            error_handlers=error_handlers,
            previous_response_id=previous_response_id,
            auto_previous_response_id=auto_previous_response_id,
            conversation_id=conversation_id,
            session=session,
            streamed=True,
        )
        result = RunResultStreaming(run, lambda: _start(run))
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return result
        _start(run)
        return result

    run_stream = run_streamed
    """The same: what it returns can be iterated at once with `async for`."""


def _prepare(starting_agent: Agent[Any], input: str | list[TResponseInputItem], **options: Any) -> ActiveRun:
    """Check the arguments. Raises UserError or TypeError for what can be known to be wrong before anything is sent."""
    if not isinstance(cast("object", starting_agent), Agent):
        raise UserError(
            f"the first argument must be an Agent, not {type(starting_agent).__name__}: {starting_agent!r:.100}"
        )
    if not isinstance(cast("object", input), str | list):
        raise UserError(f"input must be a string or a list of input items, not {type(input).__name__}")
    for item in input if isinstance(input, list) else ():
        if isinstance(cast("object", item), str):
            raise UserError(
                f"input holds the plain string {item!r:.80}: an item is a dict, as {{'role': 'user', 'content': ...}}"
            )
    if isinstance(input, list):
        input = list(input)  # the caller may go on with theirs
    max_turns = options["max_turns"]
    if max_turns is not None and (not isinstance(max_turns, int) or isinstance(max_turns, bool) or max_turns < 0):
        raise UserError(f"max_turns must be a whole number from 0, or None for no limit, not {max_turns!r}")
    config = RunConfig.of(options.pop("run_config"))
    config.check_supported()
    session = options["session"]
    if session is not None:
        if not hasattr(session, "get_items") or not hasattr(session, "add_items"):
            raise UserError(f"session must have get_items and add_items, which {type(session).__name__} has not")
        for name in ("conversation_id", "previous_response_id", "auto_previous_response_id"):
            if options[name]:
                raise UserError(
                    f"Session persistence cannot be combined with {name}: either this program remembers the "
                    "conversation or the provider does"
                )
    if options["hooks"] is not None and not isinstance(options["hooks"], RunHooksBase):
        raise TypeError(
            f"Run hooks must be instances of RunHooks. Received {type(options['hooks']).__name__}; AgentHooks go to "
            "Agent(hooks=)"
        )
    return ActiveRun(agent=starting_agent, input=input, config=config, **options)


def _start(run: ActiveRun) -> None:
    if run.task is None:
        from runstream.run.loop import drive

        run.start(drive(run))
