"""What `runstream chat` does beside asking: `/usage`, `/agents` and the like, and what it remembers for them.

Must not know terminals: a command gives lines of plain text.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runstream.cli.conversation import Said

if TYPE_CHECKING:
    from runstream.cli.conversation import Conversation
    from runstream.view.run_view import RunView

__all__ = ["COMMANDS", "Ledger", "carry_out", "is_command"]

_SHOWN_CHARS = 300


@dataclass
class Ledger:
    """What was asked and answered since the program began."""

    said: list[Said] = field(default_factory=list[Said])
    runs: list[tuple[str, str, int | None]] = field(default_factory=list[tuple[str, str, int | None]])
    """Id, status and tokens of each run."""
    tokens: dict[str, int] = field(default_factory=dict[str, int])

    def asked(self, text: str) -> None:
        """A question."""
        self.said.append(Said("user", text))

    def answered(self, run_id: str, view: RunView) -> None:
        """What came of it."""
        usage = view.usage or {}
        for name, count in usage.items():
            self.tokens[name] = self.tokens.get(name, 0) + count
        self.runs.append((run_id, view.status, usage.get("total_tokens")))
        if view.text:
            self.said.append(Said("assistant", view.text))


async def _help(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    return [
        *(f"{name:<10}{told}" for name, (_, told) in COMMANDS.items()),
        "",
        "Several lines: Alt-Enter, or a backslash at the end of the line.",
        "Ctrl-C stops the answer, a second one the program. Ctrl-D quits.",
        "What you type while an answer is written is seen by the agent in its next turn.",
        "A call that waits: y, n, always; n REASON tells the model why.",
    ]


async def _agents(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    names = conversation.agents
    if not rest:
        return [f"{'*' if name == conversation.agent else ' '} {n}  {name}" for n, name in enumerate(names, 1)]
    number = int(rest) if rest.isdecimal() and len(rest) < 5 else 0
    chosen = names[number - 1] if 0 < number <= len(names) else None
    for name in names:
        if name.casefold() == rest.casefold():
            chosen = name
    if chosen is None:
        return [f"no agent {rest!r}: there are {', '.join(names)}"]
    conversation.choose(chosen)
    return [f"{chosen} answers now"]


async def _usage(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    tokens = ledger.tokens
    if not tokens:
        return [f"{len(ledger.runs)} answers; tokens unknown"]
    told = [
        f"{tokens.get(name, 0):,} {label}"
        for name, label in (("input_tokens", "in"), ("output_tokens", "out"), ("total_tokens", "in all"))
    ]
    return [f"{len(ledger.runs)} answers, tokens: {', '.join(told)}"]


async def _history(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    said = [*await conversation.earlier()] or ledger.said
    if not said:
        return ["nothing was said yet"]
    found: list[str] = []
    for message in said:
        text = " ".join(message.text.split())
        mark = ">" if message.role == "user" else " "
        found.append(f"{mark} {text if len(text) <= _SHOWN_CHARS else f'{text[:_SHOWN_CHARS]}...'}")
    return found


async def _runs(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    if not ledger.runs:
        return ["no runs yet"]
    found = [
        f"{run_id}  {status}{'' if tokens is None else f'  {tokens:,} tokens'}"
        for run_id, status, tokens in ledger.runs
    ]
    if conversation.where:
        found.append(f"to see one again: runstream watch {ledger.runs[-1][0]} {conversation.where}")
    return found


async def _new(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    await conversation.begin_anew()
    ledger.said.clear()
    return ["a new conversation" + (f": {conversation.session}" if conversation.session else "")]


async def _save(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    if not rest:
        return ["say where: /save FILE.md"]
    said = [*await conversation.earlier()] or ledger.said
    names = {"user": "You", "assistant": "Assistant"}
    text = "\n\n".join(f"## {names[message.role]}\n\n{message.text}" for message in said)
    try:
        path = _write(rest, f"{text}\n")
    except OSError as error:
        return [f"{rest} cannot be written: {error.strerror}"]
    return [f"{len(said)} messages are in {path}"]


def _write(name: str, text: str) -> str:
    """Make a new file of the text; returns its path. Nothing that is there is written over."""
    path = os.path.expanduser(name)
    with open(path, "x", encoding="utf-8", errors="replace") as file:
        file.write(text)
    return path


async def _quit(conversation: Conversation, ledger: Ledger, rest: str) -> list[str]:
    raise EOFError


_Action = Callable[[Any, Ledger, str], Awaitable[list[str]]]
COMMANDS: dict[str, tuple[_Action, str]] = {
    "/help": (_help, "This list."),
    "/agents": (_agents, "Who can answer; /agents NAME chooses."),
    "/usage": (_usage, "Tokens so far."),
    "/history": (_history, "What was said."),
    "/runs": (_runs, "The runs that answered."),
    "/new": (_new, "Begin a new conversation."),
    "/save": (_save, "/save FILE writes the conversation as Markdown."),
    "/quit": (_quit, "Leave; so does Ctrl-D."),
}


def is_command(text: str) -> bool:
    """Whether this is a command and no question."""
    return text.startswith("/") and "\n" not in text


async def carry_out(text: str, conversation: Conversation, ledger: Ledger) -> list[str]:
    """Do what a line with a slash says; returns lines to show. Raises EOFError for `/quit`."""
    name, _, rest = text.partition(" ")
    if name not in COMMANDS:
        return [f"no command {name}: there are {', '.join(COMMANDS)}; a space before the slash makes it a question"]
    return await COMMANDS[name][0](conversation, ledger, rest.strip())
