"""Where a run stands: what its log tells, and what it does not: the caller's context, the session, what people said."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, cast

from runstream.agent.agent import Agent
from runstream.agent.context import RunContextWrapper
from runstream.agent.items import RunItem, TResponseInputItem
from runstream.events.event import ApprovalResolved, InputAdded
from runstream.log.fold import RunFold
from runstream.run.active import ActiveRun
from runstream.run.followed import FollowedRun
from runstream.run.guardrail_results import GuardrailResults
from runstream.run.resume import answered_calls

__all__ = ["Standing"]


@dataclass(slots=True)
class Standing:
    """Where a run stands. Of a run that is over it may be kept without a copy."""

    fold: RunFold
    context: RunContextWrapper[Any]
    starting_agent: Agent[Any]
    input: Any
    """What the results show: a handoff's filter may have replaced it."""
    filtered: tuple[int, tuple[RunItem, ...]] | None = None
    base: list[TResponseInputItem] | None = None
    """What the run began with as input items, the session's first; None where that has to be found out."""
    saved: int | None = 0
    """How many of the items the session has; None where that has to be found out."""
    input_saved: bool = False
    omits_reasoning_ids: bool = False
    answers: list[ApprovalResolved] = field(default_factory=list[ApprovalResolved])
    """What people have answered and the run has not taken in."""
    inputs: list[InputAdded] = field(default_factory=list[InputAdded])
    nested: dict[str, Standing] = field(default_factory=dict[str, "Standing"])
    """By call id: where the runs of agents stand that were called as tools and wait for a person."""
    guardrails: GuardrailResults = field(default_factory=GuardrailResults, kw_only=True)

    @classmethod
    def of(cls, run: ActiveRun | FollowedRun) -> Standing:
        """Where that run stands now."""
        if isinstance(run, FollowedRun):
            start = run.book.find(run.record.agent)
            omits, found = run.omits_reasoning_ids, run.guardrails
            return cls(
                *(run.fold, run.context, start, run.input, run.filtered),
                saved=None,
                omits_reasoning_ids=omits,
                guardrails=found,
            )
        answered = answered_calls(run.items[run.fold.response_index :])
        return cls(
            run.fold,
            run.context,
            run.starting_agent,
            run.input,
            run.filtered,
            run.kept.base,
            run.kept.saved,
            run.kept.input_saved,
            run.omits_reasoning_ids,
            [*run.inbox.early, *run.inbox.answers],
            run.inbox.inputs,
            {call_id: at for call_id, at in run.suspended.items() if call_id not in answered},
            guardrails=run.guardrails,
        )

    def copied(self) -> Standing:
        """The same, apart from what may still change."""
        fold = RunFold()
        for name in RunFold.__slots__:
            value = getattr(self.fold, name)
            setattr(fold, name, list(cast("list[Any]", value)) if isinstance(value, list) else value)
        return Standing(
            fold,
            _copied_context(self.context),
            self.starting_agent,
            self.input,
            self.filtered,
            self.base,
            self.saved,
            self.input_saved,
            self.omits_reasoning_ids,
            list(self.answers),
            list(self.inputs),
            {call_id: at.copied() for call_id, at in self.nested.items()},
            guardrails=self.guardrails.copied(),
        )


def _copied_context(context: RunContextWrapper[Any]) -> RunContextWrapper[Any]:
    copied = copy.copy(context)
    copied.usage = copy.deepcopy(context.usage)
    copied.approvals = context.approvals.copy()
    return copied
