"""Checks that run side by side, as tasks of a run's scope, and what the log is told of them.

Must not know what is checked, or when. Invariant: what a guardrail says of its outcome (`output_info`) is in the log
only if everything that was checked with it was let pass: it may quote what is blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from runstream.agent.agent import Agent
from runstream.errors import AgentsException
from runstream.events.codec import plain
from runstream.events.event import GuardrailChecked, GuardrailOutcome, GuardrailSubject
from runstream.run.active import ActiveRun

__all__ = ["Checks", "Told", "all_pass"]

_T = TypeVar("_T")


@dataclass(slots=True)
class Told:
    """What a guardrail has decided."""

    name: str
    outcome: GuardrailOutcome
    began_at: float
    ended_at: float
    info: Any = None
    message: str | None = None

    def event(
        self, about: GuardrailSubject, *, passed: bool, waited_since: float | None, **more: Any
    ) -> GuardrailChecked:
        """For the log; `waited_since` is when the run began to wait for it, None if it did not."""
        since = self.ended_at if waited_since is None else max(waited_since, self.began_at)
        return GuardrailChecked(
            self.name,
            about,
            self.outcome,
            self.began_at,
            max(self.ended_at - self.began_at, 0.0),
            max(self.ended_at - since, 0.0),
            message=self.message,
            info=plain(self.info) if passed else None,
            **more,
        )


class Checks:
    """Checks that run side by side. The first tripwire, or the first error, decides."""

    def __init__(
        self,
        run: ActiveRun,
        agent: Agent[Any],
        about: GuardrailSubject,
        checks: Sequence[tuple[str, Coroutine[Any, Any, Any]]],
        results: list[Any],
        tripped: Callable[[Any], Exception],
    ) -> None:
        self._run = run
        self._agent = agent
        self._about: GuardrailSubject = about
        self._results = results
        self._tripped = tripped
        self._names: dict[asyncio.Task[None], str] = {}
        self._told: list[Told] | None = []
        self.failure: BaseException | None = None
        self.waited_since: float | None = None
        """When the run began to wait for them; None while it does something else."""
        for name, check in checks:
            self._names[run.scope.spawn(self._one(name, check), f"guardrail {name}")] = name

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._names)

    async def _one(self, name: str, check: Coroutine[Any, Any, Any]) -> None:
        began_at = self._run.now()
        try:
            result = await check
        except Exception as error:
            self._note(Told(name, "failed", began_at, self._run.now()))
            self.failure = self.failure or error
            return
        is_tripped = bool(result.output.tripwire_triggered)
        outcome: GuardrailOutcome = "tripped" if is_tripped else "passed"
        self._note(Told(name, outcome, began_at, self._run.now(), result.output.output_info))
        if self.failure is None:
            self._results.append(result)
            if is_tripped:
                self.failure = self._tripped(result)

    def _note(self, told: Told) -> None:
        if self._told is None:
            return
        if told.outcome == "passed" and told.info is None:
            # It says nothing that might quote what another one blocks: it need not wait for the others.
            self._emit(told, passed=True)
        else:
            self._told.append(told)

    def look(self) -> BaseException | None:
        """The failure, if there is one by now. A check that was cut short has not let anything pass."""
        for task, name in self._names.items():
            if task.done() and task.cancelled() and self.failure is None:
                self.failure = AgentsException(f"The guardrail {name!r} was cancelled by something it waited for")
        return self.failure

    def tell(self) -> None:
        """Write what has been decided into the log; once, when nothing else is to come."""
        told, self._told = self._told, None
        passed = self.failure is None and all(task.done() for task in self._names)
        for each in told or ():
            self._emit(each, passed=passed)

    def _emit(self, told: Told, *, passed: bool) -> None:
        event = told.event(self._about, passed=passed, waited_since=self.waited_since)
        self._run.emit_guardrail(event, self._agent)


async def all_pass(run: ActiveRun, checks: Checks, work: asyncio.Task[_T] | None = None) -> _T | None:
    """Return once all have passed and the work is done. Raises what a check, or the work, raises; the others are
    stopped then, within the run's limit."""
    checking: set[asyncio.Task[Any]] = set(checks.tasks)
    pending: set[asyncio.Task[Any]] = {*checking, *([] if work is None else [work])}
    checks.waited_since = run.now() if work is None else None
    try:
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            failed_work = work is not None and work.done() and (work.cancelled() or work.exception() is not None)
            if checks.look() is not None or failed_work:
                break
            if work is not None and work.done() and checks.waited_since is None:
                checks.waited_since = run.now()
            if not pending & checking:
                checks.tell()
    except asyncio.CancelledError:
        for task in pending:
            task.cancel()  # the scope waits for them, within its limit
        raise
    checks.tell()
    if pending:
        run.guardrails.tripped = checks.failure is not None  # code of the caller's may swallow a cancellation
        await run.scope.stop(pending)
    if checks.failure is not None:
        raise checks.failure
    return None if work is None else work.result()
