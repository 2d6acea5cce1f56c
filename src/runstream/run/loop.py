"""The one loop. `run`, `run_sync` and `run_streamed` are this: turns until there is an output, an error or a cancel.

Every path through `drive` writes `run.end` exactly once: after the history was made valid and saved, unless saving
takes longer than its limit or the event loop itself is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias, cast

from runstream.agent.context import AgentHookContext
from runstream.agent.items import HandoffCallItem, ToolCallItem, TResponseInputItem
from runstream.errors import AgentsException, LeaseLost, MaxTurnsExceeded, RunTimeoutError, StoreError
from runstream.events.event import RunStatus
from runstream.run.active import ActiveRun
from runstream.run.approvals import take_answers
from runstream.run.collector import promote_imports
from runstream.run.decide import Final
from runstream.run.fallback import handled
from runstream.run.guardrails import InputGate, check_added_input, check_output, output_guardrails_of
from runstream.run.history import Conversation, cancelled_output, open_calls
from runstream.run.keeper import SessionKeeper
from runstream.run.resume import open_requests, turn_is_open
from runstream.run.scope import done, settle
from runstream.run.tools import call_hooks
from runstream.run.turn import Progress, TurnEnd, finish_open_turn, take_in, take_turn

__all__ = ["drive"]


async def drive(run: ActiveRun) -> None:
    """Run to the end. Raises the run's error, once `run.end` is written."""
    run.begun = True
    progress = Progress(SessionKeeper(run), taken_in=len(run.fold.responses))
    interrupted: BaseException | None = None
    turns: asyncio.Task[_Outcome] | None = None
    if run.log.last_seq == 0:
        run.emit_start()
    try:
        if not run.silenced and run.broken is None:
            # A task of their own: code of the caller's in them may ignore a cancellation, and is left behind then.
            turns = run.scope.spawn(_turns_to_end(run, progress), f"turns of {run.run_id}")
            if run.config.run_limit is None:
                await done(turns)
            else:
                await _wait_within(run, turns, *run.config.run_limit)
    except asyncio.CancelledError as cancelled:
        if run.silenced or run.broken is not None:
            _uncancel()
        else:
            interrupted = cancelled
    except GeneratorExit:
        # The event loop is gone: nothing can be waited for any more.
        run.seal("cancelled", None)
        raise
    save_error, cut_short = None, False
    asked_to_end = run.silenced or interrupted is not None or run.broken is not None
    if _outcome_of(turns, asked_to_end)[0] != "completed" or run.session is not None or run.scope.has_tasks:
        wind_up = partial(_wind_up, run, progress)
        save_error, cut_short = await settle(wind_up, run.clock, 3 * run.config.cancel_timeout_s)
    status, error = ("failed", run.broken) if run.broken is not None else _outcome_of(turns, asked_to_end)
    if save_error is not None:
        # What was to be kept is lost: that outweighs why the run ended.
        save_error.__context__ = error
        error = save_error
    error = await _end(run, "failed" if error is not None else status, error)
    promote_imports()
    try:
        if error is not None:
            raise error
        if interrupted is not None or (cut_short and not run.silenced) or _cancelled_itself(run, turns):
            raise interrupted or asyncio.CancelledError()
    finally:
        # An error's traceback holds this frame: without this the run and its log would wait for the garbage collector.
        del run, progress, turns, error, save_error, interrupted


async def _wait_within(run: ActiveRun, turns: asyncio.Task[_Outcome], limit_s: float, option: str) -> None:
    """Wait for the turns, or for the end of the run's time."""
    try:
        async with run.clock.timeout(limit_s):
            await done(turns)
    except TimeoutError:
        if not run.silenced and run.broken is None:
            run.broken = RunTimeoutError(limit_s, option, turn=run.turn, items=len(run.items))


async def _end(run: ActiveRun, status: RunStatus, error: BaseException | None) -> BaseException | None:
    """Write `run.end`: into the store first, where there is one. Returns the error that the run has in the end."""
    durable = run.durable
    if durable is None or isinstance(error, LeaseLost | StoreError):
        # Where the log is another worker's by now, or cannot be written, the end is told in this process alone.
        run.seal("failed" if error is not None else status, error)
        return error
    event = run.end_event(status, error)
    limit_s = run.config.store_timeout_s + 1  # its own limit comes first
    not_kept, _ = await settle(partial(durable.end, event, status), run.clock, limit_s)
    if not_kept is not None:
        not_kept.__context__ = error
        run.seal("failed", not_kept)
        return not_kept
    run.seal(status, error, event)
    return error


async def _turns_to_end(run: ActiveRun, progress: Progress) -> _Outcome:
    """The turns' outcome. An error is part of it: a task that raises Ctrl-C stops the loop before the run has ended."""
    limits = run.config.load_limits
    try:
        if limits is not None and not run.is_nested:  # it has the place of the run that calls it
            run.place = limits.ask(run.run_id, run.emit_queued)
        if run.config.store is not None and run.durable is None:
            from runstream.run.durable import make_durable

            await make_durable(run)
            await run.committed()  # a run that people know of is one that is kept
        if run.place is not None:
            await run.place.wait()
        run.emit_queued(0)  # also where it is another worker's queue that it stood in
        return await _take_turns(run, progress), None
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        return "failed", error
    finally:
        if run.place is not None:
            run.place.leave()


def _outcome_of(turns: asyncio.Task[_Outcome] | None, asked_to_end: bool) -> _Outcome:
    if turns is None or not turns.done():
        return "cancelled", None
    try:
        return turns.result()
    except asyncio.CancelledError as cancelled:
        if turns.cancelling() or asked_to_end:
            return "cancelled", None
        # Nobody cancelled this run: something that it waited for was, and that must not pass for an end.
        error = AgentsException("Something that the run waited for was cancelled.")
        error.__cause__ = cancelled
        return "failed", error


def _cancelled_itself(run: ActiveRun, turns: asyncio.Task[_Outcome] | None) -> bool:
    """Whether code of the caller's cancelled the task that it ran in."""
    return turns is not None and turns.cancelled() and not run.silenced


def _uncancel() -> None:
    """The cancellation was ours, through `cancel()`: the task itself goes on to its regular end."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


async def _wind_up(run: ActiveRun, progress: Progress) -> None:
    """Stop what still runs, complete the history so that the next turn works with it, and save it."""
    await run.scope.close()
    run.closed = True
    if isinstance(run.broken, LeaseLost):
        if run.hands_over and run.durable is not None:
            await run.durable.hand_back()
        return  # the log and the session are another worker's
    try:
        # A call of the model may break off after its response was complete: then readers have seen it, and it counts.
        for complete in run.fold.responses[progress.taken_in :]:
            take_in(run, progress, complete)
        run.emit_partial()
    finally:
        if not run.interruptions:
            for call in open_calls(run.items):
                run.add_item(cancelled_output(call))
        await progress.keeper.save(last=True)


_Outcome: TypeAlias = tuple[RunStatus, BaseException | None]


async def _take_turns(run: ActiveRun, progress: Progress) -> RunStatus:
    if run.stops_after_turn:
        # Asked for before there was a turn: there is to be none.
        run.emit_agent(run.starting_agent)
        return "cancelled"
    gate = InputGate(run, progress.keeper)
    turn = await _begin(run, progress, gate)
    users_of_tools = {id(item.agent) for item in run.items if isinstance(item, ToolCallItem | HandoffCallItem)}
    while True:
        agent = run.agent
        if turn is None:
            if run.max_turns is not None and run.turn >= run.max_turns:
                error = MaxTurnsExceeded(f"Max turns ({run.max_turns}) exceeded")
                final = await handled(run, "max_turns", error, progress.base)
                if final is None:
                    raise error
                await _finish(run, progress, final)
                return "completed"
            run.check_cancelled()
            run.turn += 1
            work = take_turn(run, progress, tools_used=id(agent) in users_of_tools)
            turn = await gate.pass_beside(progress.base, work)
        if turn.waiting:
            run.interruptions = turn.waiting
            return "interrupted"
        users_of_tools.update([id(agent)] if turn.used_tools else [])
        if turn.final is not None and not run.inbox.inputs:
            run.inbox.close()
            await _finish(run, progress, turn.final)
            return "completed"
        if turn.final is not None and turn.final.message is not None:
            run.emit_item(turn.final.message)
            progress.conversation.items.append(turn.final.message)
        turn = None
        if run.hands_over:
            run.broken = LeaseLost(run.run_id, "it was handed over to another worker")
            return "cancelled"
        await progress.keeper.save()
        await run.pause_between_turns()
        if run.stops_after_turn:
            return "cancelled"
        await _take_inputs(run, progress)
        if run.agent is not agent:
            await _agent_starts(run, progress.conversation)


async def _begin(run: ActiveRun, progress: Progress, gate: InputGate) -> TurnEnd | None:
    """The state before the first turn; what an open turn came to, where the run goes on from one."""
    resumed = run.resumed
    if resumed is None:
        progress.base = await progress.keeper.prepare()
        progress.conversation = _conversation_of(run, progress.base)
        run.emit_agent(run.starting_agent)
        await progress.keeper.save()
        await gate.pass_before(progress.base)
        await _agent_starts(run, progress.conversation)
        return None
    fold = run.fold
    progress.base = await progress.keeper.go_on(resumed)
    if resumed.filtered is not None:
        run.input, run.filtered = resumed.input, resumed.filtered
    progress.taken_in = len(fold.responses)
    is_open = turn_is_open(fold)
    progress.conversation = _conversation_of(run, progress.base)
    progress.conversation.restore(fold, is_open=is_open)
    if resumed.record is not None or fold.agent_name is None:
        run.emit_agent(run.agent, goes_on=True)
    if not fold.responses:
        await progress.keeper.save()
    await gate.pass_before(progress.base)
    if not fold.responses:
        await _agent_starts(run, progress.conversation)
    if not is_open:
        await _take_inputs(run, progress)
        return None
    if resumed.record is not None:
        take_answers(run, open_requests(fold))
    return await gate.pass_beside(progress.base, finish_open_turn(run, progress))


def _conversation_of(run: ActiveRun, base: Sequence[TResponseInputItem]) -> Conversation:
    return Conversation(
        base,
        previous_response_id=run.previous_response_id,
        conversation_id=run.conversation_id,
        auto_previous_response_id=run.auto_previous_response_id,
        omit_reasoning_ids=run.omits_reasoning_ids,
    )


async def _take_inputs(run: ActiveRun, progress: Progress) -> None:
    """What people said meanwhile: the model sees it in its next turn, once the agent's guardrails let it pass."""
    for added in run.inbox.take_inputs():
        await check_added_input(run, progress.keeper, added.items)
        progress.conversation.items += run.emit_input(added)


async def _agent_starts(run: ActiveRun, conversation: Conversation) -> None:
    agent = run.agent
    if run.hooks is None and agent.hooks is None:
        return
    run.context.turn_input = cast("list[Any]", conversation.next_input())
    context = _hook_context(run)
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_agent_start(context, agent),
        agent.hooks is not None and agent.hooks.on_start(context, agent),
    )


async def _finish(run: ActiveRun, progress: Progress, final: Final) -> None:
    run.check_open()
    agent = run.agent
    guarded = output_guardrails_of(run.config, agent)
    run.final_output = None if guarded else final.output
    context = _hook_context(run)
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_agent_end(context, agent, final.output),
        agent.hooks is not None and agent.hooks.on_end(context, agent, final.output),
    )
    if guarded:
        try:
            await check_output(run, progress.keeper, final.output)
        finally:
            if final.message is not None and not run.guardrails.withheld:
                run.emit_item(final.message)
        run.final_output = final.output


def _hook_context(run: ActiveRun) -> AgentHookContext[Any]:
    context = AgentHookContext(
        run.context.context, turn_input=run.context.turn_input, tool_input=run.context.tool_input
    )
    run.context.share_with(context)
    return context
