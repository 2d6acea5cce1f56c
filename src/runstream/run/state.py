"""Where a run stands, to be gone on with: answered, added to, kept as JSON, and given to `Runner.run` again.

Owns `RunState` and its JSON. The state is the fold of the run's log and what the log does not tell: the caller's
context, the session, what people have answered and said since. Must not know the loop.

Invariants: a state is a copy, what becomes of its run later does not change it; once it was given to a runner, it
stands where that run stands. Nothing of it is lost in its JSON but live objects: those come with the agents.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeAlias, cast

from typing_extensions import TypeVar

from runstream.agent.agent import Agent
from runstream.agent.context import RunContextWrapper, TContext
from runstream.agent.items import (
    HandoffCallItem,
    InputItem,
    ItemHelpers,
    RunItem,
    ToolApprovalItem,
    ToolCallItem,
    TResponseInputItem,
)
from runstream.agent.tool import FunctionTool
from runstream.errors import UserError
from runstream.events.codec import plain
from runstream.events.event import ApprovalResolved, InputAdded, RunStart
from runstream.log.fold import RunFold
from runstream.run.active import ActiveRun
from runstream.run.bind import AgentBook, reachable_from
from runstream.run.config import DEFAULT_MAX_TURNS
from runstream.run.guardrail_results import GuardrailResults
from runstream.run.inbox import approval_of, input_items_of
from runstream.run.resume import (
    Resumed,
    fold_from_plain,
    fold_to_plain,
    open_requests,
    rebound,
    restore_approvals,
    usage_from_plain,
    waiting_message,
)
from runstream.run.saved_context import ContextDeserializer, ContextSerializer, context_from_plain, context_to_plain
from runstream.run.standing import Standing

__all__ = ["ContextOverride", "RunState"]

TAgent = TypeVar("TAgent", bound="Agent[Any]", default="Agent[Any]")

ContextOverride: TypeAlias = "Mapping[str, Any] | RunContextWrapper[Any]"
ReasoningItemIdPolicy: TypeAlias = Literal["preserve", "omit"]

FORMAT = "runstream.run_state"
VERSION = 1


class RunState(Generic[TContext, TAgent]):
    """Where a run stands: `result.to_state()`, or `RunState.from_string(agent, text)`.

    Answer what waits with `approve` and `reject`, add to the conversation with `add_input`, and go on with
    `Runner.run(agent, state)` or one of its companions. Whoever can write the JSON decides what is approved: keep it
    where only this program can.
    """

    def __init__(
        self,
        context: RunContextWrapper[TContext],
        original_input: str | list[Any],
        starting_agent: TAgent,
        max_turns: int | None = DEFAULT_MAX_TURNS,
        *,
        conversation_id: str | None = None,
        previous_response_id: str | None = None,
        auto_previous_response_id: bool = False,
    ) -> None:
        fold = RunFold()
        given = {
            "previous_response_id": previous_response_id,
            "conversation_id": conversation_id,
            "auto_previous_response_id": auto_previous_response_id or None,
        }
        options = {name: value for name, value in given.items() if value is not None}
        original = original_input if isinstance(original_input, str) else list(original_input)
        fold.start = RunStart(original, max_turns, options or None)
        self._at = Standing(fold, context, starting_agent, original, saved=None)
        self._run: ActiveRun | None = None

    @classmethod
    def standing_at(cls, at: Standing) -> RunState[Any, Any]:
        """The state of that run. Raises UserError for one that has not begun."""
        if at.fold.start is None:
            raise UserError("the run has not begun: there is no state to go on from yet")
        state = cls.__new__(cls)
        state._at, state._run = at.copied(), None
        return state

    # What people decide.

    def get_interruptions(self) -> list[ToolApprovalItem]:
        """The calls that wait for approval, those answered here but not yet carried out among them."""
        return [request for at in _each(self._now()) for request in open_requests(at.fold)]

    def approve(self, approval_item: ToolApprovalItem | str, always_approve: bool = False) -> None:
        """Let the call be made when the run goes on; with `always_approve`, all later calls of the tool by that agent.

        The call may be named by its call id. Raises UserError for one that does not wait; a later answer replaces an
        earlier one.
        """
        self._answer(approval_item, approved=True, always=always_approve)

    def reject(
        self,
        approval_item: ToolApprovalItem | str,
        always_reject: bool = False,
        *,
        rejection_message: str | None = None,
    ) -> None:
        """Let the call not be made, or none of the tool by that agent; the model is told the message, else the
        run's `tool_error_formatter` says what. Raises as `approve`."""
        self._answer(approval_item, approved=False, always=always_reject, message=rejection_message)

    def _answer(
        self, given: ToolApprovalItem | str, *, approved: bool, always: bool, message: str | None = None
    ) -> None:
        at = self._now()
        standings = [(each, request) for each in _each(at) for request in open_requests(each.fold)]
        call_id = given if isinstance(given, str) else given.call_id
        fitting = [each for each in standings if each[1].call_id == call_id]
        # Runs that are nested in one may have calls of one id: then the item itself tells which is meant.
        found = next((each for each in fitting if each[1] is given), fitting[0] if fitting else None)
        if found is None:
            requests = [request for _, request in standings]
            raise UserError(waiting_message(f"no call {call_id!r} waits for approval in this state", requests))
        at, request = found
        if isinstance(given, ToolApprovalItem) and (given.name, given.arguments) != (request.name, request.arguments):
            raise UserError(
                f"the call {call_id!r} of this state is {request.name}({request.arguments}), not "
                f"{given.name}({given.arguments}): the item belongs to another run"
            )
        answer = approval_of(request.call_id or "", request.name or "", approved=approved, always=always)
        if message is not None:
            answer = approval_of(answer.call_id, answer.tool_name, approved=approved, always=always, message=message)
        _decide(at.context, request, answer)
        at.answers = [each for each in at.answers if each.call_id != answer.call_id]
        at.answers.append(answer)

    # What people say.

    @property
    def pending_input(self) -> list[TResponseInputItem]:
        """A copy of what was added and the model has not seen."""
        return copy.deepcopy([item for added in self._now().inputs for item in added.items])

    def add_input(self, input: str | list[TResponseInputItem]) -> None:
        """Say something more: the model sees it in its next turn, after the outputs of the calls that are open.

        Raises UserError where the run has completed, or has no turns left.
        """
        at = self._now()
        fold = at.fold
        if fold.end is not None and fold.end.status == "completed":
            raise UserError(
                "the run has completed: begin a new one with result.to_input_list(), the new message added to it"
            )
        limit = None if fold.start is None else fold.start.max_turns
        if limit is not None and len(fold.responses) >= limit:
            raise UserError(f"the run has used its {limit} turns (max_turns): the model would not see the input")
        at.inputs.append(InputAdded(copy.deepcopy(input_items_of(input))))

    def clear_pending_input(self) -> None:
        """Take back what was added and the model has not seen."""
        self._now().inputs = []

    # Going on.

    def _now(self) -> Standing:
        """Raises UserError while the run that this state was given to goes on."""
        run = self._run
        if run is not None and run.task is not None:
            if not run.ended:
                raise UserError(
                    f"this state goes on as the run {run.run_id!r}: answer and add there (result.approve, "
                    "result.reject, result.send), or take a new state from its result"
                )
            self._at, self._run = Standing.of(run).copied(), None
        return self._at

    def options(self, given: dict[str, Any]) -> dict[str, Any]:
        """What a runner was given for the run that goes on, completed by what the state knows."""
        start = self._now().fold.start
        assert start is not None
        known = start.options or {}
        options = {**given, "input": start.input, "max_turns": start.max_turns}
        for name in ("previous_response_id", "conversation_id", "auto_previous_response_id"):
            options[name] = given[name] or known.get(name, given[name])
        return options

    @property
    def reasoning_item_id_policy(self) -> ReasoningItemIdPolicy | None:
        """How the ids of reasoning items are treated, unless the run that goes on says."""
        return "omit" if self._at.omits_reasoning_ids else None

    def go_on_as(self, run: ActiveRun, context: Any) -> None:
        """Let that run, which has not begun, go on from here. `context` replaces the caller's object, unless None.

        Raises UserError where the state's agent is not among those of the run.
        """
        at = self._now().copied()
        fold = at.fold
        made_elsewhere = _made_elsewhere(at)
        if run.starting_agent is not at.starting_agent and run.starting_agent is not fold.agent:
            at.fold = fold = rebound(fold, _book_of(run.starting_agent, fold))
            at.context = RunContextWrapper(at.context.context, at.context.usage)
            restore_approvals(fold, at.context)
        if context is not None:
            wrapped = isinstance(context, RunContextWrapper)
            at.context.context = cast("RunContextWrapper[Any]", context).context if wrapped else context
        resumed = Resumed(
            fold,
            fold_to_plain(fold),
            saved_items=at.saved,
            base=at.base,
            input_saved=at.input_saved,
            input=at.input,
            filtered=at.filtered,
            context=at.context,
            guardrails=at.guardrails,
        )
        run.go_on(resumed)
        run.inbox.answers, run.inbox.inputs = [*made_elsewhere, *at.answers], at.inputs
        run.suspended = dict(at.nested)
        self._run = run

    # As JSON.

    def to_json(
        self,
        *,
        context_serializer: ContextSerializer | None = None,
        strict_context: bool = False,
        include_tracing_api_key: bool = False,
    ) -> dict[str, Any]:
        """The state as JSON data, of a form of our own.

        The context is kept where it is JSON; `context_serializer` makes a dict of any other. Without one a dataclass
        or a pydantic model is kept as a dict, anything else is left out, with a warning; with `strict_context` those
        raise UserError. `include_tracing_api_key` has no effect.
        """
        at = self._now()
        return self._to_json(at, context_serializer, strict=strict_context)

    def _to_json(self, at: Standing, context_serializer: ContextSerializer | None, *, strict: bool) -> dict[str, Any]:
        kept_base = at.base if at.base is None or at.base != ItemHelpers.input_to_new_input_list(at.input) else "input"
        data = {
            "format": FORMAT,
            "version": VERSION,
            "starting_agent": at.starting_agent.name,
            "status": None if at.fold.end is None else at.fold.end.status,
            "run": fold_to_plain(at.fold),
            "filtered_input": None if at.filtered is None else plain(at.input),
            "usage": plain(at.context.usage),
            "base": kept_base if isinstance(kept_base, str) else plain(kept_base),
            "saved": at.saved,
            "input_saved": at.input_saved,
            "reasoning_item_id_policy": "omit" if at.omits_reasoning_ids else None,
            "context": context_to_plain(at.context.context, context_serializer, strict=strict),
            "answers": [plain(answer) for answer in [*_made_elsewhere(at), *at.answers]],
            "pending_input": [plain(item) for added in at.inputs for item in added.items],
            "guardrails": at.guardrails.to_plain(),
        }
        if at.nested:
            nested = {call_id: self._to_json(inner, None, strict=False) for call_id, inner in at.nested.items()}
            for inner in nested.values():
                inner["context"] = context_to_plain(None, None, strict=False)  # it has the caller's
            data["nested"] = nested
        return data

    def to_string(
        self,
        *,
        context_serializer: ContextSerializer | None = None,
        strict_context: bool = False,
        include_tracing_api_key: bool = False,
    ) -> str:
        """`to_json` as text."""
        return json.dumps(self.to_json(context_serializer=context_serializer, strict_context=strict_context))

    @staticmethod
    async def from_string(
        initial_agent: Agent[Any],
        state_string: str,
        *,
        context_override: ContextOverride | None = None,
        context_deserializer: ContextDeserializer | None = None,
        strict_context: bool = False,
    ) -> RunState[Any, Agent[Any]]:
        """The state of `to_string`. As `from_json`."""
        try:
            data = json.loads(state_string)
        except ValueError as error:
            raise UserError(f"this is not the JSON of a run's state: {error}") from error
        return await RunState.from_json(
            initial_agent,
            data,
            context_override=context_override,
            context_deserializer=context_deserializer,
            strict_context=strict_context,
        )

    @staticmethod
    async def from_json(
        initial_agent: Agent[Any],
        state_json: dict[str, Any],
        *,
        context_override: ContextOverride | None = None,
        context_deserializer: ContextDeserializer | None = None,
        strict_context: bool = False,
    ) -> RunState[Any, Agent[Any]]:
        """The state of `to_json`. Its agents are found by their names, from `initial_agent` on along the handoffs.

        `context_override` takes the place of the kept context, `context_deserializer` makes it of the kept dict;
        without them a context that was no JSON stays a dict, with a warning, or UserError with `strict_context`.
        Raises UserError for what is no state, was written by a newer version, or has an agent that is not there.
        """
        _check_form(state_json)
        try:
            return _from_json(initial_agent, state_json, context_override, context_deserializer, strict_context)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"this is not the state of a run ({error!r})") from error

    # Names of the SDK that have little to do here.

    def set_trace(self, trace: Any) -> None:
        """Nothing: there are no traces."""

    def set_reasoning_item_id_policy(self, policy: ReasoningItemIdPolicy | None) -> None:
        """How the ids of reasoning items are treated, unless the run that goes on says."""
        self._now().omits_reasoning_ids = policy == "omit"

    def get_tool_use_tracker_snapshot(self) -> dict[str, list[str]]:
        """The tools that each agent has called, by name."""
        used: dict[str, list[str]] = {}
        for item in self._now().fold.items:
            if isinstance(item, ToolCallItem | HandoffCallItem) and item.agent is not None:
                name = item.tool_name if isinstance(item, ToolCallItem) else item.raw_item.name
                names = used.setdefault(item.agent.name, [])
                names += [name] if name is not None and name not in names else []
        return used

    def set_tool_use_tracker_snapshot(self, snapshot: Mapping[str, Sequence[str]] | None) -> None:
        """Raises UserError for anything but the present one: which tools were used is read from the run's items."""
        if snapshot and {name: list(tools) for name, tools in snapshot.items()} != self.get_tool_use_tracker_snapshot():
            raise UserError("which tools an agent has used is read from the items of the run, and cannot be set")


def _each(at: Standing) -> Iterator[Standing]:
    """Where the run stands, and the runs nested in it that wait for a person."""
    yield at
    for inner in at.nested.values():
        yield from _each(inner)


def _decide(context: RunContextWrapper[Any], request: ToolApprovalItem, answer: ApprovalResolved) -> None:
    if answer.approved:
        context.approve_tool(request, always_approve=answer.always)
    else:
        context.reject_tool(request, always_reject=answer.always, rejection_message=answer.message)


def _made_elsewhere(at: Standing) -> list[ApprovalResolved]:
    """Decisions about what waits that were made through a context, not through the state."""
    made: list[ApprovalResolved] = []
    told = {answer.call_id for answer in (*at.fold.approvals, *at.answers)}
    for request in open_requests(at.fold):
        call_id, name = request.call_id or "", request.name or ""
        if call_id in told:
            continue
        key = request.tool_lookup_key
        approved = at.context.get_approval_status(name, call_id, tool_lookup_key=key, existing_pending=request)
        if approved is not None:
            message = at.context.get_rejection_message(name, call_id, tool_lookup_key=key, existing_pending=request)
            made.append(approval_of(call_id, name, approved=approved, message=message))
    return made


def _book_of(agent: Agent[Any], fold: RunFold) -> AgentBook:
    """The agents that a run of that agent has. Raises UserError where those that the state needs are not among them."""
    book = AgentBook([agent])
    needed = [fold.agent_name, *(request.agent.name for request in open_requests(fold) if request.agent is not None)]
    for name in needed:
        if name is not None and name not in book:
            raise UserError(
                f"the state needs the agent {name!r}, which is neither {agent.name!r} nor among those that it hands "
                "over to"
            )
    return book


def _check_form(data: Any) -> None:
    if not isinstance(data, dict):
        raise UserError(f"the state of a run is a JSON object, not {type(data).__name__}")
    fields = cast("dict[str, Any]", data)
    if "$schemaVersion" in fields:
        raise UserError("this state was written by the OpenAI Agents SDK: only that can go on with it")
    if fields.get("format") != FORMAT:
        raise UserError(f"this is not the state of a run: its format is {fields.get('format')!r}, not {FORMAT!r}")
    version = fields.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"the state of the run has version {version!r}; this version of runstream reads up to {VERSION}"
        )


def _from_json(
    agent: Agent[Any],
    data: dict[str, Any],
    context_override: ContextOverride | None,
    context_deserializer: Callable[[Mapping[str, Any]], Any] | None,
    strict: bool,
) -> RunState[Any, Agent[Any]]:
    book = AgentBook([agent])
    fold = fold_from_plain(data["run"], book)
    _book_of(agent, fold)
    if isinstance(context_override, RunContextWrapper):
        context: RunContextWrapper[Any] = context_override
    elif context_override is not None:
        context = RunContextWrapper(context_override)
    else:
        context = RunContextWrapper(context_from_plain(data["context"], context_deserializer, strict=strict))
    context.usage = usage_from_plain(data["usage"])
    restore_approvals(fold, context)
    assert fold.start is not None
    current = fold.start.input if data["filtered_input"] is None else data["filtered_input"]
    base = data["base"]
    at = Standing(
        fold,
        context,
        agent,
        current,
        _filtered_from(fold, current, data["filtered_input"] is not None),
        ItemHelpers.input_to_new_input_list(current) if base == "input" else base,
        data["saved"],
        data["input_saved"],
        data["reasoning_item_id_policy"] == "omit",
        [ApprovalResolved(**answer) for answer in data["answers"]],
        [InputAdded(data["pending_input"])] if data["pending_input"] else [],
    )
    if "guardrails" in data:
        at.guardrails = GuardrailResults.from_plain(data["guardrails"], reachable_from([agent]).values(), book)
    else:
        at.guardrails.input_passed = data["status"] in ("completed", "interrupted")
    requests = {request.call_id: request for request in open_requests(fold)}
    for answer in at.answers:
        if answer.call_id in requests:
            _decide(context, requests[answer.call_id], answer)
    if data["status"] is not None:
        from runstream.events.event import RunEnd

        fold.end = RunEnd(data["status"])
    for call_id, inner in data.get("nested", {}).items():
        nested = _from_json(_agent_of_call(fold, call_id), inner, RunContextWrapper(context.context), None, strict)
        at.nested[call_id] = nested._at
    return RunState.standing_at(at)


def _agent_of_call(fold: RunFold, call_id: str) -> Agent[Any]:
    """The agent that a call runs. Raises UserError where the agent that made the call has no such tool any more."""
    for item in reversed(fold.items):
        if isinstance(item, ToolCallItem) and item.call_id == call_id and item.agent is not None:
            for tool in item.agent.tools:
                if isinstance(tool, FunctionTool) and tool.name == item.tool_name and tool.agent is not None:
                    return tool.agent
            raise UserError(
                f"the state needs the tool {item.tool_name!r} of the agent {item.agent.name!r}, which runs an agent; "
                "there is none"
            )
    raise UserError(f"the state has a nested run of the call {call_id!r}, which is not in it")


def _filtered_from(fold: RunFold, current: Any, is_filtered: bool) -> tuple[int, tuple[RunItem, ...]] | None:
    """What a handoff's filter left, as items of the conversation: what the agent saw beyond the replaced input."""
    if not is_filtered or fold.history is None:
        return None
    kept = fold.history[len(ItemHelpers.input_to_new_input_list(current)) :]
    return fold.history_index, tuple(InputItem(agent=fold.agent, raw_item=item) for item in kept)
