"""`runstream chat` at a terminal: a line to write on that is always there, and above it the answer as it comes.

Owns the keys, what is asked of whom, and when the screen is drawn. Imports prompt_toolkit: only for who has it.

Invariants: what stands for good is written once, above; only the lines under way and the prompt are drawn again, at
most every 50 ms; whatever goes wrong with an answer is told, and the next question can be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from prompt_toolkit import PromptSession
from prompt_toolkit.application import in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples, to_formatted_text
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from runstream.cli.above import printed_above
from runstream.cli.slash import COMMANDS, Ledger, carry_out, is_command
from runstream.clock import Clock, system_clock
from runstream.errors import RunSealed
from runstream.events.event import Event
from runstream.render.chat import AnswerLines, Pen
from runstream.render.figures import describe
from runstream.render.terminal import cut, one_line
from runstream.server.client import Lost, Resumed, Resync
from runstream.view.entries import InputEntry, ToolEntry
from runstream.view.texts import queue_text

if TYPE_CHECKING:
    from runstream.cli.conversation import Answer, Conversation

__all__ = ["Dialogue", "HardQuit"]

_FRAME_S: Final = 0.05
_IDLE_FRAMES: Final = 5
"""So many frames without events, and what counts seconds is drawn again."""
_MOST_ROWS: Final = 24
_BEGIN_UPDATE: Final = "\x1b[?2026h"
_END_UPDATE: Final = "\x1b[?2026l"
_STYLE: Final = Style.from_dict({"prompt": "bold ansigreen", "approval": "bold ansiyellow"})


class HardQuit(Exception):
    """The person does not want to wait until an answer has stopped."""


class Dialogue:
    """A conversation in this terminal. `run` returns when the person leaves."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        color: bool = True,
        reasoning: bool = False,
        history_file: str | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._conversation = conversation
        self._color = color
        self._reasoning = reasoning
        self._clock = clock
        self._pen = Pen(color=color)
        self._ledger = Ledger()
        self._task: asyncio.Task[None] | None = None
        """Of the answer that is under way."""
        self._answer: Answer | None = None
        self._reading: asyncio.Task[None] | None = None
        self._painting: asyncio.Task[None] | None = None
        self._lines: AnswerLines | None = None
        self._live: list[str] = []
        self._is_dirty = False
        self._is_stopping = False
        self._connection: str | None = None
        """What is wrong with it."""
        self._decided: set[str] = set()
        self._sent: list[str] = []
        """What was said to the run that its log does not show yet."""
        self._waiting: list[str] = []
        """Questions for later."""
        self._chores: set[asyncio.Task[None]] = set()
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            prompt_continuation=lambda width, line, is_soft: [("", "  ")],
            history=InMemoryHistory() if history_file is None else FileHistory(history_file),
            completer=_Commands(conversation),
            complete_while_typing=Condition(lambda: self._session.default_buffer.text.startswith("/")),
            reserve_space_for_menu=len(COMMANDS),
            key_bindings=self._keys(),
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
            style=_STYLE,
            erase_when_done=True,
            enable_suspend=True,
        )

    async def run(self) -> int:
        """Ask and answer until the person leaves; returns the exit status. Raises HardQuit."""
        # What tools print, and what is logged, goes above the prompt, too.
        with printed_above(lambda lines: self._do(self._print(lines))):
            return await self._converse()

    async def _converse(self) -> int:
        await self._greet()
        loop = asyncio.get_running_loop()
        try:
            # Between two prompts Ctrl-C is no key but a signal.
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
        except (NotImplementedError, RuntimeError, ValueError):
            pass  # Windows, and threads other than the first
        try:
            while True:
                text = await self._session.prompt_async(self._prompt, handle_sigint=False)
                await self._take(text.strip())
        except EOFError:
            await self._leave()
            return 0
        finally:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(signal.SIGINT)
            for task in (*self._chores, self._task, self._reading, self._painting):
                if task is not None:
                    task.cancel()

    async def _greet(self) -> None:
        conversation = self._conversation
        lines = [*self._wrapped(conversation.title)]
        earlier = await conversation.earlier()
        if earlier:
            lines += self._wrapped(f"conversation {conversation.session}, {len(earlier)} messages so far (/history)")
        lines += self._wrapped("/help tells the commands; Ctrl-C stops an answer, Ctrl-D quits")
        await self._print([*lines, ""])

    async def _leave(self) -> None:
        """Stop what goes on, and tell how to come back."""
        task = self._task
        if task is not None:
            self._waiting.clear()
            if not self._is_stopping:
                await self._stop()
            await asyncio.wait([task])
        conversation = self._conversation
        if conversation.session is not None and self._ledger.runs:
            await self._print(self._wrapped(f"to go on with this conversation: --session {conversation.session}"))

    # Keys.

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.document.text_before_cursor.endswith("\\"):
                buffer.delete_before_cursor(1)
                buffer.insert_text("\n")
            elif buffer.text.strip():
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            self._interrupt()

        return keys

    def _interrupt(self) -> None:
        """Ctrl-C: stop the answer; while that is done, the program; without one take back what is written, or leave."""
        app, buffer = self._session.app, self._session.default_buffer
        if self._task is not None:
            if not self._is_stopping:
                self._do(self._stop())
            elif app.is_running:
                app.exit(exception=HardQuit())
        elif buffer.text:
            buffer.reset()
        elif app.is_running:
            app.exit(exception=EOFError())

    def _do(self, work: Any) -> None:
        """Work that keys begin."""
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _stop(self) -> None:
        self._is_stopping = True
        self._is_dirty = True
        answer = self._answer
        if answer is not None:
            try:
                await answer.cancel()
            except Exception as error:
                if self._connection is not None and self._reading is not None:
                    self._reading.cancel()
                    return
                self._is_stopping = False  # it can be tried again
                await self._print(self._wrapped(f"it could not be stopped: {error}", "✗", "red"))

    # What is written.

    async def _take(self, text: str) -> None:
        waiting = self._asked()
        if waiting is not None and not is_command(text):
            await self._decide(waiting, text)
        elif is_command(text):
            await self._print([self._pen(f"> {text}", dim=True)])
            if self._task is not None and text.startswith("/new"):
                told = ["not while an answer is written: Ctrl-C stops it"]
            else:
                told = await carry_out(text, self._conversation, self._ledger)
            await self._print([*(line for each in told for line in self._wrapped(each)), ""])
        elif self._task is None:
            self._begin(text)
        elif self._is_stopping or self._answer is None:
            self._waiting.append(text)
        else:
            await self._send(self._answer, text)
        self._is_dirty = True

    async def _send(self, answer: Answer, text: str) -> None:
        """Say something more to the run that goes on; where that comes too late, it is the next question."""
        try:
            await answer.send(text)
        except RunSealed:
            self._waiting.append(text)
        except Exception as error:
            await self._print(self._wrapped(f"it could not be sent: {error}", "✗", "red"))
        else:
            self._sent.append(text)

    def _asked(self) -> ToolEntry | None:
        """The call that the person has to decide on."""
        if self._lines is None or self._answer is None or self._is_stopping:
            return None
        waiting = self._lines.view.pending_approvals
        return next((entry for entry in waiting if entry.call_id and entry.call_id not in self._decided), None)

    async def _decide(self, entry: ToolEntry, text: str) -> None:
        word, _, rest = text.partition(" ")
        word = word.rstrip(",:;.").lower()
        if word not in ("y", "yes", "n", "no", "a", "always"):
            await self._print(self._wrapped("y, n or always; n REASON tells the model why", "?", "yellow"))
            return
        answer, call_id = self._answer, entry.call_id or ""
        assert answer is not None
        self._decided.add(call_id)
        approve = word[0] != "n"
        try:
            await answer.decide(
                call_id, approve=approve, always=word[0] == "a", message=None if approve else rest.strip() or None
            )
        except Exception as error:
            self._decided.discard(call_id)
            await self._print(self._wrapped(str(error), "✗", "red"))

    # Answers.

    def _begin(self, text: str) -> None:
        self._is_stopping = False
        self._decided.clear()
        self._task = asyncio.create_task(self._ask(text))

    async def _ask(self, text: str) -> None:
        """Ask, and show the answer as it comes."""
        await self._print([*self._wrapped(text, ">", "green"), ""])
        lines = self._lines = AnswerLines(self._columns, color=self._color, reasoning=self._reasoning)
        self._ledger.asked(text)
        self._reading = asyncio.create_task(self._read(text, lines))
        self._painting = asyncio.create_task(self._paint(lines, self._reading))
        problem: str | None = None
        await asyncio.wait([self._reading])
        if self._reading.cancelled():
            where = f": runstream watch {self._answer.run_id} {self._conversation.where}" if self._answer else ""
            problem = f"nobody knows whether it has stopped; to see the run{where}"
        for task in (self._reading, self._painting):
            try:
                await task
            except asyncio.CancelledError:
                if task is not self._reading:
                    raise
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        try:
            await self._end(lines, problem)
        except Exception as error:
            await self._print(self._wrapped(f"{type(error).__name__}: {error}", "✗", "red"))
        finally:
            self._go_on(self._unseen(lines))

    async def _read(self, text: str, lines: AnswerLines) -> None:
        answer = self._answer = await self._conversation.ask(text)
        try:
            notice = self._conversation.take_notice()
            if notice is not None:
                await self._print([*self._wrapped(notice, "!", "yellow"), ""])
            if self._is_stopping:
                await answer.cancel()
            async for found in answer:
                await self._see(found, lines)
        finally:
            await answer.aclose()

    async def _see(self, found: Any, lines: AnswerLines) -> None:
        if isinstance(found, Event):
            lines.feed(found)
        elif isinstance(found, Lost):
            if self._connection is None:
                await self._print(self._wrapped(f"connection lost ({found.reason}); trying again", "!", "yellow"))
            self._connection = "not connected; the answer goes on without us"
        elif isinstance(found, Resumed):
            await self._print(self._wrapped("connected again; going on where it was lost", "!", "yellow"))
            self._connection = None
        else:
            await self._resync(found, lines)
        self._is_dirty = True

    async def _resync(self, found: Resync, lines: AnswerLines) -> None:
        if found.reason == "expired":
            return  # the view shows the gap
        await self._draw(lines)
        lines.begin_again()
        told = (
            f"the server's history is another one ({found.reason}): what was shown after {found.after} does not count"
        )
        await self._print(self._wrapped(told, "↺", "red"))

    async def _end(self, lines: AnswerLines, problem: str | None) -> None:
        """Show the rest, and how it ended."""
        view, answer = lines.view, self._answer
        self._answer = self._connection = None
        lines.close()
        await self._draw(lines)
        last: list[str] = []
        if problem is not None:
            last += self._wrapped(problem, "✗", "red")
        if view.status == "cancelled":
            last += self._wrapped("stopped", "■", "yellow")
        if view.status == "interrupted":
            last += self._wrapped("the run has ended for the sake of a call that waits for an answer", "?", "yellow")
        if view.figures.turns:
            last += self._wrapped(describe(view.figures))
        if answer is not None:
            self._ledger.answered(answer.run_id, view)
        self._live = []
        await self._print(["", *last, ""])

    def _go_on(self, left: list[str]) -> None:
        """The answer is over: what was said meanwhile and not taken up is the next question."""
        self._task = self._answer = self._lines = self._reading = self._connection = None
        waiting, self._waiting, self._sent, self._live = [*left, *self._waiting], [], [], []
        if waiting:
            self._begin("\n".join(waiting))
        self._session.app.invalidate()

    def _unseen(self, lines: AnswerLines) -> list[str]:
        """What was said to the run that it has not taken up."""
        seen = sum(isinstance(entry, InputEntry) and entry.added for entry in lines.view.entries)
        return self._sent[seen:]

    # The screen.

    @property
    def _columns(self) -> int:
        return self._session.app.output.get_size().columns

    def _wrapped(self, text: str, mark: str = "", color: str | None = None) -> list[str]:
        """Lines for good, between words where that is possible; without a mark they are quieter."""
        return self._pen.wrapped(mark, text, color, self._columns)

    def _prompt(self) -> StyleAndTextTuples:
        found: StyleAndTextTuples = []
        if self._live:
            found += to_formatted_text(ANSI("\n".join(self._live) + "\n"))
        asked = self._asked()
        if asked is not None:
            return [*found, ("class:approval", "y/n/always> ")]
        return [*found, ("class:prompt", "> ")]

    async def _paint(self, lines: AnswerLines, reading: asyncio.Task[None]) -> None:
        """Draw, as long as the answer comes. Only the end of the program cancels it: lines for good are given once."""
        idle = 0
        while not reading.done():
            idle = 0 if self._is_dirty else idle + 1
            if self._is_dirty or idle >= _IDLE_FRAMES:
                self._is_dirty, idle = False, 0
                await self._draw(lines)
            await self._clock.sleep(_FRAME_S)

    async def _draw(self, lines: AnswerLines) -> None:
        columns = self._columns
        lines.resize(columns)
        done = lines.finished()
        self._live = self._under_way(lines, columns)
        if done:
            await self._print(done)
        else:
            self._session.app.invalidate()

    def _under_way(self, lines: AnswerLines, columns: int) -> list[str]:
        """The lines between what stands for good and the prompt."""
        rows = self._session.app.output.get_size().rows
        room = max(min(rows - len(self._session.default_buffer.text.split("\n")) - 4, _MOST_ROWS), 1)
        below: list[str] = []
        asked = self._asked()
        if asked is not None:
            below += lines.question(asked, room)
        for text in [*self._unseen(lines), *self._waiting]:
            below.append(self._pen(cut(f"> {one_line(text)} (waits)", columns), dim=True))
        if self._connection is not None:
            below.append(self._pen(cut(self._connection, columns), "yellow"))
        if self._is_stopping:
            below.append(self._pen(cut("stopping; Ctrl-C again quits at once", columns), "yellow"))
        elif asked is None and self._task is not None and self._lines is not None:
            agent = one_line(lines.view.agent or self._conversation.agent)
            place = f" · {queue_text(lines.view.queue_position)}" if lines.view.queue_position else ""
            below.append(self._pen(cut(f"{agent}{place} · Ctrl-C stops", columns), dim=True))
        above = lines.open_lines(room - len(below), self._clock.now())
        return [*above, *([""] if above or lines.has_begun else []), *below]

    async def _print(self, lines: Iterable[str]) -> None:
        """Write lines above the prompt, for good, and draw it anew: for the terminal one change."""
        app = self._session.app
        app.output.write_raw(_BEGIN_UPDATE)
        async with in_terminal():
            app.output.write_raw("".join(f"{line}\r\n" for line in lines))
            app.output.flush()
        app.output.write_raw(_END_UPDATE)
        app.output.flush()


class _Commands(Completer):
    """Commands, and the names of agents."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not is_command(document.text):
            return
        if text.startswith("/agents "):
            written = text.removeprefix("/agents ")
            for name in self._conversation.agents:
                if name.casefold().startswith(written.casefold()):
                    yield Completion(name, start_position=-len(written))
            return
        for name, (_, told) in COMMANDS.items():
            if name.startswith(text):
                yield Completion(name, start_position=-len(text), display_meta=told)
