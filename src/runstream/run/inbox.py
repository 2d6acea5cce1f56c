"""What people ask of a run while it goes on, until it comes to a point where it can be taken in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

from runstream.agent.item_helpers import ItemHelpers
from runstream.errors import UserError
from runstream.events.event import ApprovalResolved, InputAdded
from runstream.log.base import Command

__all__ = ["Inbox", "approval_command", "approval_of", "input_command"]

_logger = logging.getLogger("runstream")


class Inbox:
    """Answers to requests for approval, and new input, in the order that they came in."""

    __slots__ = ("_once", "_waiter", "answers", "closed", "early", "inputs", "last_command", "on_idle", "taken")

    def __init__(self) -> None:
        self.answers: list[ApprovalResolved] = []
        self.early: list[ApprovalResolved] = []
        """Answers to what nested runs have asked that do not wait yet: they do something else besides."""
        self.inputs: list[InputAdded] = []
        self.last_command = 0
        """Number of the latest command that is here or was."""
        self.taken: set[int] = set()
        """Numbers of commands that another process has carried out before this one went on with the run."""
        self.closed = False
        """Whether new input would come too late."""
        self.on_idle: Callable[[bool], None] | None = None
        """Told when the run does nothing but wait for a person, and when it no longer does."""
        self._waiter: asyncio.Future[None] | None = None
        self._once: set[object] = set()

    def put(self, command: Command) -> None:
        """Take in what came through the store. A command that cannot be understood is left out, and the log told.

        Of those with the same `once` in their data only the first one counts, whoever carries the run out; a `note`
        is for whoever has written it.
        """
        self.last_command = max(self.last_command, command.number)
        data = {name: value for name, value in command.data.items() if name not in ("once", "note")}
        once = command.data.get("once")
        if once is not None:
            if once in self._once:
                return
            self._once.add(once)
        if command.number in self.taken:
            return
        try:
            if command.kind == "approval":
                self.answers.append(ApprovalResolved(**data, command=command.number))
            else:
                self.inputs.append(InputAdded(cast("list[Any]", data["items"]), command.number))
        except (TypeError, KeyError) as error:
            _logger.warning("a %s command cannot be understood (%r): %r", command.kind, error, command.data)
        self.wake()

    def add_input(self, given: str | Sequence[Any]) -> None:
        """New input, from within the process."""
        self.inputs.append(InputAdded(input_items_of(given)))
        self.wake()

    def add_answer(self, answer: ApprovalResolved) -> None:
        """An answer, from within the process."""
        self.answers.append(answer)
        self.wake()

    def close(self) -> None:
        """The run has its output: what is said from now on is not for this run."""
        self.closed = True

    def take_inputs(self) -> list[InputAdded]:
        """What was said since the last time."""
        inputs, self.inputs = self.inputs, []
        return inputs

    def take_answers(self) -> list[ApprovalResolved]:
        """What was answered since the last time, after what was put aside then."""
        answers = [*self.early, *self.answers]
        self.early, self.answers = [], []
        return answers

    def tell_idle(self, idle: bool) -> None:
        """The run has nothing else to do than to wait for an answer, or it has something again."""
        if self.on_idle is not None:
            self.on_idle(idle)

    def wake(self) -> None:
        """Somebody who waits has something to look at."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait_answer(self) -> None:
        """Return once there is an answer."""
        while not self.answers:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None


def input_items_of(given: str | Sequence[Any]) -> list[Any]:
    """New input as items. Raises UserError for what is no input."""
    if not isinstance(cast("object", given), str | list):
        raise UserError(f"input must be a string or a list of input items, not {type(given).__name__}")
    items = ItemHelpers.input_to_new_input_list(cast("Any", given))
    for item in items:
        if not isinstance(cast("object", item), dict):
            raise UserError(f"an input item is a dict, as {{'role': 'user', 'content': ...}}, not {item!r:.80}")
    return cast("list[Any]", items)


def input_command(given: str | Sequence[Any]) -> Command:
    """New input, for a run that is carried out elsewhere."""
    return Command("input", {"items": input_items_of(given)})


def approval_of(
    call_id: str, tool_name: str, *, approved: bool, always: bool = False, message: str | None = None
) -> ApprovalResolved:
    """An answer. Raises UserError for a call id that is none."""
    if not isinstance(cast("object", call_id), str) or not call_id:
        raise UserError(f"a call is named by its call id, a string, not {call_id!r}")
    return ApprovalResolved(call_id, tool_name, approved, always, message)


def approval_command(answer: ApprovalResolved) -> Command:
    """An answer, for a run that is carried out elsewhere."""
    data = {
        "call_id": answer.call_id,
        "tool_name": answer.tool_name,
        "approved": answer.approved,
        "always": answer.always,
        "message": answer.message,
    }
    return Command("approval", data)
