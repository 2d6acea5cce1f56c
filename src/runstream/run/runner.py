"""The ways to start a run. Signatures are the SDK's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.agent_tool import use_runner
from runstream.agent.context import TContext
from runstream.agent.hooks import RunHooksBase
from runstream.agent.items import TResponseInputItem
from runstream.errors import UserError
from runstream.log.base import Store
from runstream.run.active import ActiveRun
from runstream.run.config import DEFAULT_MAX_TURNS, RunConfig
from runstream.run.error_handlers import RunErrorHandlers
from runstream.run.guardrails import refuse_kept_by_provider
from runstream.run.nested import nesting_of
from runstream.run.result import RunResult, RunResultStreaming
from runstream.run.state import RunState
from runstream.sessions.base import Session

__all__ = ["Runner"]


class Runner:
    """Runs agents: `run` and `run_sync` to the end, `run_streamed` to be watched."""

    @classmethod
    async def run(
        cls,
        starting_agent: Agent[TContext],
        input: str | list[TResponseInputItem] | RunState[TContext],
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
        `conversation_id`. Given a `RunState` as the input, the run goes on from it, with the state's `max_turns`, and
        its context unless another is given.

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
        input: str | list[TResponseInputItem] | RunState[TContext],
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
        input: str | list[TResponseInputItem] | RunState[TContext],
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

    @classmethod
    async def submit(
        cls,
        agent: Agent[Any] | str,
        input: str | list[TResponseInputItem],
        *,
        store: str | Store,
        context: Any = None,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        session_id: str | None = None,
        queue: str = "default",
        owner: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Leave a run to the workers of a store (`runstream worker`, `Worker`), and return its id at once.

        The agent is found by its name, where the worker has it. `context` is JSON data, which the worker's tools and
        hooks get; `session_id` names the conversation, which the worker knows where to keep; `owner` is the person
        whose run it is. Raises UserError for misuse, RunExists, StoreError, StoreUnavailable.
        """
        from runstream.run.fleet import Job, submit

        job = Job(_checked_input(input), _checked_max_turns(max_turns), context, session_id)
        return await submit(store, agent, job, queue=queue, owner=owner, run_id=run_id)

    @classmethod
    async def attach(
        cls,
        run_id: str,
        *,
        store: str | Store,
        after: int | str = 0,
        agents: Iterable[Agent[Any]] = (),
        run_config: RunConfig | dict[str, Any] | None = None,
    ) -> RunResultStreaming:
        """Read a run from wherever it is kept: what was, then what comes, to its end; cancel it, talk to it.

        `after` is the seq, or the cursor, of the last event that was seen. Agents, and those that they may hand over
        to, are found by their names; one that is not given is an agent that only has the name. Its readers see what
        the store has committed. Raises RunNotFound, CursorInvalid, CursorExpired, StoreError, StoreUnavailable.
        """
        from runstream.run.fleet import attach

        return RunResultStreaming(await attach(store, run_id, after, agents, RunConfig.of(run_config)), _nothing)

    @classmethod
    async def resume(
        cls,
        run_id: str,
        agents: Agent[Any] | Iterable[Agent[Any]],
        *,
        store: str | Store,
        context: Any = None,
        session: Session | None = None,
        hooks: RunHooksBase[Any, Any] | None = None,
        run_config: RunConfig | dict[str, Any] | None = None,
        after: int | str = 0,
    ) -> RunResultStreaming:
        """Go on, in this process, with a run whose own process is gone; returns at once, as `attach` does.

        It goes on from its last completed step: an answer that broke off is asked for again; a tool that had begun is
        called again only if it is declared idempotent. It is not ended by its readers' going away. Raises LeaseHeld
        while another worker has it (or was heard of within its lease), RunSealed if it has ended, and as `attach`.
        """
        from runstream.run.fleet import resume

        given = [agents] if isinstance(agents, Agent) else list(agents)
        followed = await resume(
            store, run_id, given, RunConfig.of(run_config), context=context, session=session, hooks=hooks, after=after
        )
        return RunResultStreaming(followed, _nothing)

    run_stream = run_streamed
    """The same: what it returns can be iterated at once with `async for`."""


def _checked_input(input: str | list[TResponseInputItem]) -> str | list[TResponseInputItem]:
    """The input, as a copy where it is a list: the caller may go on with theirs. Raises UserError for what is none."""
    if not isinstance(cast("object", input), str | list):
        raise UserError(f"input must be a string or a list of input items, not {type(input).__name__}")
    for item in input if isinstance(input, list) else ():
        if isinstance(cast("object", item), str):
            raise UserError(
                f"input holds the plain string {item!r:.80}: an item is a dict, as {{'role': 'user', 'content': ...}}"
            )
    return list(input) if isinstance(input, list) else input


def _checked_max_turns(max_turns: int | None) -> int | None:
    if max_turns is not None and (not isinstance(max_turns, int) or isinstance(max_turns, bool) or max_turns < 0):
        raise UserError(f"max_turns must be a whole number from 0, or None for no limit, not {max_turns!r}")
    return max_turns


def _prepare(
    starting_agent: Agent[Any], input: str | list[TResponseInputItem] | RunState[Any, Any], **options: Any
) -> ActiveRun:
    """Check the arguments. Raises UserError or TypeError for what can be known to be wrong before anything is sent."""
    if not isinstance(cast("object", starting_agent), Agent):
        raise UserError(
            f"the first argument must be an Agent, not {type(starting_agent).__name__}: {starting_agent!r:.100}"
        )
    state = input if isinstance(input, RunState) else None
    if state is not None:
        options = state.options(options)
        input = options.pop("input")
    input = _checked_input(cast("Any", input))
    _checked_max_turns(options["max_turns"])
    config = RunConfig.of(options.pop("run_config"))
    config.check_supported()
    nesting = nesting_of(options["context"])
    if nesting is not None:
        config = nesting.config_of(config)
    if config.on_approval == "wait" and config.store is None and not options["streamed"]:
        raise UserError(
            "a run that waits for approval in place is answered through its handle, which run and run_sync do not give "
            "before the end: use run_streamed, a store (to answer through Runner.attach), or on_approval='interrupt'"
        )
    if state is not None and config.reasoning_item_id_policy is None:
        config = replace(config, reasoning_item_id_policy=state.reasoning_item_id_policy)
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
    if options["conversation_id"] or options["previous_response_id"] or options["auto_previous_response_id"]:
        refuse_kept_by_provider(config, starting_agent)
    if options["hooks"] is not None and not isinstance(options["hooks"], RunHooksBase):
        raise TypeError(
            f"Run hooks must be instances of RunHooks. Received {type(options['hooks']).__name__}; AgentHooks go to "
            "Agent(hooks=)"
        )
    run = ActiveRun(agent=starting_agent, input=input, config=config, **options)
    if state is not None:
        state.go_on_as(run, options["context"])
    if nesting is not None:
        nesting.adopt(run, options["context"])
    return run


use_runner(Runner)


def _nothing() -> None:
    """A run that is followed has been started elsewhere."""


def _start(run: ActiveRun) -> None:
    if run.task is None:
        from runstream.run.loop import drive

        run.start(drive(run))
