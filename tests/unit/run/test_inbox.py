"""What people ask of a run, on its way in."""

from __future__ import annotations

from runstream.log.base import Command
from runstream.run.inbox import Inbox, approval_command, approval_of, input_command


def numbered(command: Command, number: int, **more: object) -> Command:
    return Command(command.kind, {**command.data, **more}, number)


def test_what_is_to_count_once() -> None:
    """The first command of a key counts, also where a worker before has carried it out; a note is nobody's."""
    said, yes = input_command("Quickly."), approval_command(approval_of("c1", "pay", approved=True))
    inbox = Inbox()
    inbox.taken = {1}
    for number, command in enumerate((said, said, said, said), 1):
        inbox.put(numbered(command, number, once="a" if number in (1, 2) else "b", note={"x": number}))
    for number in (5, 6):
        inbox.put(numbered(yes, number, once="c", note={}))
    inbox.put(numbered(said, 7))
    inbox.put(numbered(said, 8))
    assert [given.command for given in inbox.take_inputs()] == [3, 7, 8]
    assert [(answer.call_id, answer.command) for answer in inbox.take_answers()] == [("c1", 5)]
    assert inbox.last_command == 8
