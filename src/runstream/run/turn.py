"""One turn: a model call, and what the model asked for carried out. Knows nothing of how runs begin and end."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.handoff import Handoff, handoff
from runstream.agent.items import (
    MCPApprovalResponseItem,
    ModelResponse,
    ToolApprovalItem,
    ToolCallOutputItem,
    TResponseInputItem,
)
from runstream.agent.output import AgentOutputSchemaBase, output_schema_of
from runstream.agent.tool import FunctionTool, FunctionToolResult, Tool
from runstream.agent.usage import Usage
from runstream.errors import ModelBehaviorError, ModelRefusalError, UserError
from runstream.run.active import ActiveRun
from runstream.run.approvals import HostedSorted, ask_hosted, reject, sort_by_approval, sort_hosted, take_answers
from runstream.run.decide import Final, FunctionCall, Plan, Toolbox, decide_end, plan_of
from runstream.run.fallback import handled
from runstream.run.guardrails import answer_call, refuse_kept_by_provider
from runstream.run.handover import hand_over
from runstream.run.history import Conversation
from runstream.run.keeper import SessionKeeper
from runstream.run.model_call import call_model, input_of, model_of, request_of, settings_of
from runstream.run.nested import requests_of, still_waits
from runstream.run.tools import (
    answer_uncertain_call,
    answer_unknown_calls,
    call_hooks,
    final_output_of_tools,
    run_functions,
)

__all__ = ["Progress", "TurnEnd", "finish_open_turn", "take_in", "take_turn"]

_logger = logging.getLogger("runstream")


class Progress:
    """Where the turns stand: what the end of the run needs of them, also when they break off."""

    __slots__ = ("base", "collisions", "conversation", "keeper", "taken_in", "toolbox")

    conversation: Conversation
    base: Sequence[TResponseInputItem]
    """What the run began with, as input items."""

    def __init__(self, keeper: SessionKeeper, *, taken_in: int) -> None:
        self.keeper = keeper
        self.toolbox: Toolbox | None = None
        """What the agent of this turn may call."""
        self.collisions: frozenset[str] = frozenset()
        """What the log was told of tools of one name: once is enough."""
        self.taken_in = taken_in
        """How many of the run's responses have their items in the log."""


@dataclass(slots=True)
class TurnEnd:
    """What a turn came to."""

    final: Final | None = None
    used_tools: bool = False
    waiting: list[ToolApprovalItem] = field(default_factory=list[ToolApprovalItem])
    """Requests for approval without which the turn cannot end."""


async def take_turn(run: ActiveRun, progress: Progress, *, tools_used: bool) -> TurnEnd:
    """Ask the model, and carry out what it asks for."""
    agent, conversation = run.agent, progress.conversation
    schema = output_schema_of(agent.output_type)
    told, prompt = await input_of(run, conversation)
    progress.toolbox = toolbox = await _toolbox_of(run, progress, agent)
    settings = settings_of(run, agent, tools_used=tools_used)
    request = await request_of(run, told, prompt, toolbox, schema, conversation, settings)
    model = model_of(run, agent)
    input_items = cast("list[TResponseInputItem]", list(request.input))
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_llm_start(run.context, agent, request.system_instructions, input_items),
        agent.hooks is not None
        and agent.hooks.on_llm_start(run.context, agent, request.system_instructions, input_items),
    )
    run.check_cancelled()
    first_item = len(run.items)
    response, plan = await call_model(run, agent, model, request, partial(take_in, run, progress))
    run.check_open()
    conversation.answered(response)
    await call_hooks(
        run,
        run.hooks is not None and run.hooks.on_llm_end(run.context, agent, response),
        agent.hooks is not None and agent.hooks.on_llm_end(run.context, agent, response),
    )
    return await _carry_out(run, progress, plan, schema, first_item)


async def finish_open_turn(run: ActiveRun, progress: Progress) -> TurnEnd:
    """Go on with a turn whose response is in the log, and maybe some of what it asked for."""
    agent, fold = run.agent, run.fold
    schema = output_schema_of(agent.output_type)
    progress.toolbox = await _toolbox_of(run, progress, agent)
    first_item = fold.response_index
    plan = plan_of(agent, progress.toolbox, fold.responses[-1])
    progress.taken_in = len(fold.responses)
    logged = len([item for item in run.items[first_item:] if not _is_answer(item)])
    for item in plan.items[logged:]:
        run.add_item(item)  # the worker was stopped between the response and its items
    return await _carry_out(run, progress, plan, schema, first_item, goes_on=True)


def _is_answer(item: Any) -> bool:
    return isinstance(item, ToolCallOutputItem | ToolApprovalItem | MCPApprovalResponseItem)


async def _carry_out(
    run: ActiveRun,
    progress: Progress,
    plan: Plan,
    schema: AgentOutputSchemaBase | None,
    first_item: int,
    *,
    goes_on: bool = False,
) -> TurnEnd:
    """Do what the plan says; `goes_on` where a part of it may be done already."""
    if plan.error is not None:
        raise plan.error
    run.check_cancelled()
    conversation = progress.conversation
    answered = _answers(run, first_item) if goes_on else {}
    plan.unknown = [call for call in plan.unknown if call.call.call_id not in answered]
    await answer_unknown_calls(run, plan)
    # What was open when a worker broke off may have run, unless a person still had to allow it.
    uncertain = goes_on and run.resumed is not None and run.resumed.taken_over
    carried = _Calls(run, plan, cast("Toolbox", progress.toolbox).tools, answered, uncertain=uncertain)
    waiting = await carried.carry_out()
    if waiting:
        return TurnEnd(used_tools=True, waiting=waiting)
    if plan.handoffs:
        await hand_over(run, plan.handoffs, conversation, first_item)
        return TurnEnd(used_tools=True)
    final = await final_output_of_tools(run, carried.results)
    if final is None:
        final = await _end_of_turn(run, plan, schema, progress.base)
    conversation.items += run.items[first_item:]
    return TurnEnd(final, used_tools=plan.used_tools)


def _answers(run: ActiveRun, first_item: int) -> dict[str, ToolCallOutputItem]:
    """The outputs that the calls of the turn have already."""
    outputs: dict[str, ToolCallOutputItem] = {}
    for item in run.items[first_item:]:
        if isinstance(item, ToolCallOutputItem) and item.call_id is not None:
            outputs[item.call_id] = item
    return outputs


class _Calls:
    """The calls of a turn, while they are carried out: some run, some may wait for people."""

    def __init__(
        self,
        run: ActiveRun,
        plan: Plan,
        tools: Sequence[Tool],
        answered: dict[str, ToolCallOutputItem],
        *,
        uncertain: bool,
    ) -> None:
        self._run = run
        self._plan = plan
        self._tools = tools
        self._uncertain = uncertain
        self._results: dict[int, FunctionToolResult] = {}
        self._left: list[FunctionCall] = []
        self._under_way: dict[asyncio.Task[Any], list[FunctionCall]] = {}
        self._twins: list[tuple[FunctionCall, FunctionCall]] = []
        self._newly_suspended = False
        for planned in plan.functions:
            output = answered.get(planned.call.call_id)
            if output is None:
                self._left.append(planned)
            else:
                self._keep(planned, output)

    @property
    def results(self) -> list[FunctionToolResult]:
        """What the tools gave, in the order of the calls."""
        functions = self._plan.functions
        return [self._results[id(planned)] for planned in functions if id(planned) in self._results]

    def _keep(self, planned: FunctionCall, item: ToolCallOutputItem) -> None:
        self._results[id(planned)] = FunctionToolResult(tool=planned.tool, output=item.output, run_item=item)

    async def carry_out(self) -> list[ToolApprovalItem]:
        """Return once all is done; or what people have to answer first, where the run does not wait for them."""
        run = self._run
        if not self._left and not self._plan.hosted_requests:
            return []
        while True:
            ready, waiting = await self._sort()
            waiting += self._suspended()
            hosted = sort_hosted(run, self._plan.hosted_requests, self._tools)
            waiting += hosted.waiting
            waits_here = bool(waiting) and run.config.on_approval == "wait"
            if run.durable is not None and waiting:
                run.durable.set_status("waiting")
            if ready or waiting:
                await run.committed()  # the call is kept before its tool starts, the request before a person is asked
            if waits_here or self._under_way:
                # Who waits for a person keeps nobody else waiting.
                self._begin(ready, hosted)
            else:
                self._take_in(ready, await run_functions(run, ready))
                await ask_hosted(run, hosted.to_ask)
            if self._newly_suspended:
                self._newly_suspended = False
                continue  # what it waits for belongs to what answers are taken for
            if take_answers(run, waiting):
                if run.durable is not None:
                    run.durable.set_status("running")
                continue
            if not waiting and not self._under_way:
                self._answer_twins()
                return []
            if waiting and not waits_here:
                return waiting
            await self._wait(waiting)

    async def _sort(self) -> tuple[list[FunctionCall], list[ToolApprovalItem]]:
        """The calls that may run now, and the requests for the others."""
        run = self._run
        held = [planned for planned in self._left if self._is_suspended(planned)]
        found = await sort_by_approval(run, [planned for planned in self._left if planned not in held])
        self._left = [*found.waiting_calls, *held]
        for planned, message in found.rejected:
            self._keep(planned, await reject(run, planned, message))
        for planned, message in found.refused:
            self._keep(planned, answer_call(run, planned, message))
        ready = self._without_twins(found.ready)
        if self._uncertain:
            for planned in [each for each in ready if not each.tool.idempotent]:
                ready.remove(planned)
                self._keep(planned, answer_uncertain_call(run, planned))
            self._uncertain = False
        return ready, list(found.waiting)

    def _is_suspended(self, planned: FunctionCall) -> bool:
        """Whether the call runs an agent that waits for a person who has not answered."""
        at = self._run.suspended.get(planned.call.call_id)
        return at is not None and still_waits(at)

    def _suspended(self) -> list[ToolApprovalItem]:
        """What agents that were called as tools wait for."""
        suspended = self._run.suspended
        calls = [planned.call.call_id for planned in self._left if planned.call.call_id in suspended]
        return [request for call_id in calls for request in requests_of(suspended[call_id])]

    def _without_twins(self, ready: Sequence[FunctionCall]) -> list[FunctionCall]:
        """A person has allowed one call: where the model made the same one of one id twice, it is made once."""
        once: list[FunctionCall] = []
        for planned in ready:
            gated = planned.tool.needs_approval is not False
            twin = next((each for each in once if gated and each.call.call_id == planned.call.call_id), None)
            if twin is None:
                once.append(planned)
            else:
                self._twins.append((planned, twin))
        return once

    def _answer_twins(self) -> None:
        for planned, twin in self._twins:
            output = self._results[id(twin)].run_item
            item = dataclasses.replace(cast("ToolCallOutputItem", output))
            self._run.emit_item(item)
            self._keep(planned, item)

    def _begin(self, ready: list[FunctionCall], hosted: HostedSorted) -> None:
        run = self._run
        if ready:
            self._under_way[run.scope.spawn(run_functions(run, ready), "tools")] = ready
        if hosted.to_ask and not any(not calls for calls in self._under_way.values()):
            self._under_way[run.scope.spawn(ask_hosted(run, hosted.to_ask), "on_approval_request")] = []

    def _take_in(self, ready: Sequence[FunctionCall], results: Sequence[FunctionToolResult]) -> None:
        for planned, result in zip(ready, results, strict=True):
            if result.interruptions:
                self._left.append(planned)
                self._newly_suspended = True
            else:
                self._results[id(planned)] = result

    async def _wait(self, waiting: Sequence[ToolApprovalItem]) -> None:
        """Until something is answered, or something under way has ended. Raises what that raised."""
        run = self._run
        answer = run.scope.spawn(run.inbox.wait_answer(), "approval") if waiting else None
        awaited = [*self._under_way, *([] if answer is None else [answer])]
        try:
            run.inbox.tell_idle(not self._under_way)
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            run.inbox.tell_idle(False)
            if answer is not None:
                answer.cancel()
            if run.durable is not None:
                run.durable.set_status("running")  # what waited may have been a nested run that is over
        for task in [task for task in self._under_way if task.done()]:
            ready = self._under_way.pop(task)
            result = task.result()
            if ready:
                self._take_in(ready, result)


def take_in(run: ActiveRun, progress: Progress, response: ModelResponse) -> Plan:
    """Count a complete response and put its items into the log."""
    progress.taken_in = len(run.fold.responses)
    usage = response.usage
    if run.attempt > 1 and usage.requests == 1 and not usage.total_tokens:
        # The attempts that failed have entries of their own; the one that succeeded gets one too.
        usage = Usage.of_failed_request()
    run.context.usage.add(usage)
    plan = plan_of(run.agent, cast("Toolbox", progress.toolbox), response)
    for item in plan.items:
        run.add_item(item)
    return plan


async def _toolbox_of(run: ActiveRun, progress: Progress, agent: Agent[Any]) -> Toolbox:
    """What the agent may call now. Raises UserError, before any request, for declarations that cannot be run."""
    tools = await agent.get_all_tools(run.context)
    for tool in tools:
        if isinstance(tool, FunctionTool) and tool.defer_loading:
            raise UserError(f"Tool {tool.name!r}: defer_loading is not supported by this version of runstream")
    if progress.conversation.kept_by_provider:
        refuse_kept_by_provider(run.config, agent)
    handoffs: list[Handoff[Any, Any]] = []
    for target in agent.handoffs:
        declared = target if isinstance(target, Handoff) else handoff(target)
        enabled = declared.is_enabled
        if not isinstance(enabled, bool):
            answer = enabled(run.context, agent)
            enabled = bool(await answer if inspect.isawaitable(answer) else answer)
        if enabled:
            handoffs.append(declared)
    toolbox = Toolbox(agent, tools, handoffs, on_collision=run.config.tool_name_collision_policy)
    for collision in toolbox.collisions:
        if collision not in progress.collisions:
            progress.collisions |= {collision}
            _logger.warning(collision)
    return toolbox


async def _end_of_turn(
    run: ActiveRun, plan: Plan, schema: AgentOutputSchemaBase | None, base: Sequence[TResponseInputItem]
) -> Final | None:
    try:
        end = decide_end(plan, schema)
    except ModelRefusalError as error:
        final = await handled(run, "model_refusal", error, base)
        if final is None:
            raise
        return final
    except ModelBehaviorError as error:
        final = await handled(run, "invalid_final_output", error, base)
        if final is None:
            raise
        return final
    if isinstance(end, Final):
        return end
    if plan.is_empty:
        # The model would be asked again; a handler may spare it that.
        error = ModelBehaviorError("The model gave no output, though one of the output type was due")
        return await handled(run, "invalid_final_output", error, base)
    return None
