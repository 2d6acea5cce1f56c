"""`runstream chat` where no terminal is: each line is a question, its answer is plain text.

Owns what goes to standard output (answers, and nothing else) and to standard error (tools, handoffs, problems), and
the exit status. A terminal that cannot be steered (TERM=dumb) is answered as the text comes.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import threading
from typing import TYPE_CHECKING

import click

from runstream.cli.slash import Ledger, carry_out, is_command
from runstream.cli.storage import STOPPED
from runstream.events.event import ITEM, MODEL, Event
from runstream.render.terminal import TerminalRenderer, arguments_text, one_line, visible
from runstream.server.client import Lost, Resync
from runstream.view.entries import MessageEntry, ToolEntry
from runstream.view.run_view import RunView

if TYPE_CHECKING:
    from runstream.cli.conversation import Answer, Conversation
    from runstream.server.client import Followed

__all__ = ["PlainChat"]

_NOBODY = "Nobody is there to approve this call."


class PlainChat:
    """Reads questions until there are no more. `run` returns 0 if all were answered."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._ledger = Ledger()
        self._asks = sys.stdin.isatty()
        self._streams = sys.stdout.isatty()
        self._answer: Answer | None = None
        self._is_stopping = False
        self._stopping: asyncio.Future[None] | None = None
        self._decided: set[str] = set()

    async def run(self) -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if self._answer is None or self._is_stopping:
                task.cancel()
            else:
                self._is_stopping = True
                self._stopping = asyncio.ensure_future(self._stop(self._answer))

        try:
            loop.add_signal_handler(signal.SIGINT, interrupt)
        except (NotImplementedError, RuntimeError, ValueError):
            pass  # Windows, and threads other than the first: Ctrl-C ends the program
        click.echo(visible(self._conversation.title), err=True)
        status = 0
        try:
            while (text := await self._question()) is not None:
                if self._asks and is_command(text):
                    for line in await carry_out(text, self._conversation, self._ledger):
                        click.echo(visible(line), err=True)
                elif text.strip():
                    status = await self._ask(text) or status
        except EOFError:
            pass
        except asyncio.CancelledError:
            return STOPPED
        return status

    async def _stop(self, answer: Answer) -> None:
        try:
            await answer.cancel()
        except Exception as error:
            click.echo(f"it could not be stopped: {visible(str(error))}; Ctrl-C again quits", err=True)

    async def _question(self) -> str | None:
        """The next line, with those that a backslash at its end joins to it; None at the end of the input."""
        found: list[str] = []
        while True:
            if self._asks:
                click.echo("> " if not found else "  ", nl=False, err=True)
            line = await _line()
            if not line:
                return "\n".join(found) if found else None
            found.append(line.rstrip("\r\n"))
            if not found[-1].endswith("\\"):
                return "\n".join(found)
            found[-1] = found[-1][:-1]

    async def _ask(self, text: str) -> int:
        """Ask, and print the answer; returns 0 if there was one."""
        self._is_stopping = False
        self._decided.clear()
        self._ledger.asked(text)
        view = RunView()
        width = shutil.get_terminal_size().columns if self._streams else None
        shown = TerminalRenderer(width=width)
        told = None
        try:
            answer = self._answer = await self._conversation.ask(text)
            notice = self._conversation.take_notice()
            if notice is not None:
                click.echo(notice, err=True)
            try:
                async for found in answer:
                    view = await self._see(found, view, shown)
            finally:
                await answer.aclose()
            self._ledger.answered(answer.run_id, view)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
        finally:
            self._answer = None
            if self._streams:
                click.echo(shown.close(), nl=False)
        if told is None and view.status != "completed":
            told = "stopped" if view.error is None else f"{view.error.type}: {view.error.message}"
        if not self._streams:
            texts = [entry.text for entry in view.entries if isinstance(entry, MessageEntry) and not entry.void]
            if texts:
                click.echo(visible("\n\n".join(texts)))
        if told is not None:
            click.echo(f"Error: {visible(told)}", err=True)
        return 0 if told is None else 1

    async def _see(self, found: Followed, view: RunView, shown: TerminalRenderer) -> RunView:
        if isinstance(found, Lost):
            click.echo(f"connection lost ({found.reason}); trying again", err=True)
        elif isinstance(found, Resync):
            if found.reason != "expired":
                click.echo(f"what came after {found.after} does not count: {found.reason}", err=True)
                return RunView(sparse=True)
        elif isinstance(found, Event):
            view.apply(found)
            if self._streams:
                click.echo(shown.feed(found), nl=False)
            elif found.kind != MODEL and not (found.kind == ITEM and found.data.name == "message_output_created"):
                click.echo(shown.feed(found), nl=False, err=True)
            for entry in view.pending_approvals:
                if entry.call_id and entry.call_id not in self._decided:
                    await self._decide(entry, entry.call_id)
        return view

    async def _decide(self, entry: ToolEntry, call_id: str) -> None:
        assert self._answer is not None
        self._decided.add(call_id)
        if not self._asks:
            await self._answer.decide(call_id, approve=False, always=False, message=_NOBODY)
            return
        call = one_line(f"{entry.agent} wants to call {entry.name}({arguments_text(entry.arguments)})")
        click.echo(f"{call}: y, n or always? ", nl=False, err=True)
        word, _, rest = (await _line()).strip().partition(" ")
        approve = word.lower() in ("y", "yes", "a", "always")
        message = None if approve else rest or None
        await self._answer.decide(call_id, approve=approve, always=word.lower() in ("a", "always"), message=message)


async def _line() -> str:
    """A line of standard input; empty at its end. A thread waits for it, which does not hold up the program's end."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        try:
            line = sys.stdin.readline()
        except (OSError, ValueError):
            line = ""
        try:
            loop.call_soon_threadsafe(lambda: found.done() or found.set_result(line))
        except RuntimeError:
            pass  # the program has ended meanwhile

    threading.Thread(target=read, daemon=True, name="runstream chat: input").start()
    return await found
