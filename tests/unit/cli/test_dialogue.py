"""`runstream chat` at a terminal: keys go in, and what its screen shows is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyte
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from cutting import wire_to
from runstream import Agent, RunConfig, SQLiteSession, function_tool
from runstream.cli.conversation import Conversation, LocalConversation, ServerConversation
from runstream.cli.dialogue import Dialogue, HardQuit
from runstream.server import create_app
from runstream.server.client import ServerClient
from runstream.testing import Fault, ScriptedModel, ToolCall, Turn
from serving import serving

ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"
WORDS = " ".join(f"word{number}" for number in range(60))
SLOW = Turn((WORDS,), every_s=0.01)
_PATIENCE_S = 10.0


class Terminal:
    """A screen that is as high as a test needs, and the keys of whoever sits before it."""

    encoding = "utf-8"

    def __init__(self, keys: Any, columns: int) -> None:
        self._keys = keys
        self.running: asyncio.Task[int]
        self._screen = pyte.Screen(columns, 70)
        self._stream = pyte.Stream(self._screen)
        self._changed = asyncio.Event()

    def write(self, text: str) -> None:
        self._stream.feed(text)

    def flush(self) -> None:
        self._changed.set()

    def isatty(self) -> bool:
        return True

    def type(self, keys: str) -> None:
        self._keys.send_text(keys)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()

    async def shows(self, text: str, times: int = 1) -> None:
        """Wait until the screen shows this so many times."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while self.text.count(text) < times:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"the screen never showed {text!r}:\n{self.text}") from None


@asynccontextmanager
async def talking(conversation: Conversation, *, columns: int = 80) -> AsyncGenerator[Terminal]:
    """A dialogue with that; leaving the block leaves it with Ctrl-D, unless it is over."""
    with create_pipe_input() as keys:
        terminal = Terminal(keys, columns)
        output = Vt100_Output(terminal, lambda: Size(rows=70, columns=columns), term="xterm", enable_cpr=False)
        with create_app_session(input=keys, output=output):
            running = asyncio.create_task(Dialogue(conversation).run())
            terminal.running = running
            await terminal.shows("\n>")
            yield terminal
            if not running.done():
                terminal.type(CTRL_D)
                assert await running == 0


@function_tool(needs_approval=True)
def refund(order: int) -> str:
    """Pay back."""
    return f"paid {order}"


def desk(*steps: Any, tools: Any = (), name: str = "Desk") -> Agent[Any]:
    return Agent(name=name, tools=list(tools), model=ScriptedModel([*steps]))


def local(*agents: Agent[Any], **options: Any) -> LocalConversation:
    return LocalConversation(agents, RunConfig(on_approval="wait", cancel_timeout_s=3), **options)


async def test_questions_and_answers() -> None:
    """An answer is drawn as Markdown, its marks gone, and figures stand below it; the next question knows of it."""
    agent = desk("It is **sent**.\n\n- one\n- two", "Yes.")
    async with talking(local(agent)) as terminal:
        terminal.type("where?" + ENTER)
        await terminal.shows("first text")
        assert "> where?\n\nIt is sent.\n\n • one\n • two\n\nfirst text" in terminal.text
        terminal.type("sure?" + ENTER)
        await terminal.shows("first text", 2)
        assert "> sure?\n\nYes." in terminal.text
    model: Any = agent.model
    assert [item["content"] for item in model.calls[1].input if item.get("role") == "user"] == ["where?", "sure?"]


async def test_ctrl_c_stops_the_answer() -> None:
    """What was shown stays, the program goes on, and the next question is asked with a valid history."""
    agent = desk(SLOW, "Fine.")
    async with talking(local(agent)) as terminal:
        terminal.type("go" + ENTER)
        await terminal.shows("word5 word6")
        terminal.type(CTRL_C)
        await terminal.shows("■ stopped")
        assert "word59" not in terminal.text
        terminal.type("and now?" + ENTER)
        await terminal.shows("Fine.")
    model: Any = agent.model
    roles = [(item.get("role"), item.get("type")) for item in model.calls[1].input]
    assert [role for role, _ in roles] == ["user", "assistant", "user"]


async def test_ctrl_c_twice_leaves_at_once() -> None:
    """While something does not want to stop, the second one ends the program."""
    let_go = asyncio.Event()

    @function_tool
    async def deaf() -> str:
        """Do not stop."""
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                pass
        return "at last"

    async with talking(local(desk(ToolCall("deaf", {}), tools=[deaf]))) as terminal:
        terminal.type("go" + ENTER)
        await terminal.shows("deaf()")
        terminal.type(CTRL_C)
        await terminal.shows("stopping; Ctrl-C again quits at once")
        terminal.type(CTRL_C)
        with pytest.raises(HardQuit):
            await terminal.running
        let_go.set()


async def test_ctrl_c_at_the_prompt() -> None:
    """What is written is taken back; at an empty prompt it leaves."""
    async with talking(local(desk())) as terminal:
        terminal.type("never mind")
        await terminal.shows("> never mind")
        terminal.type(CTRL_C)
        terminal.type(CTRL_C)
        assert await terminal.running == 0
        assert "never mind" not in terminal.text


async def test_approvals() -> None:
    """The person is asked in place, with the whole call: yes, no and why, or always."""
    calls = [ToolCall("refund", {"order": number}) for number in (1, 2, 3, 4)]
    agent = desk(*calls, "Done.", tools=[refund])
    async with talking(local(agent)) as terminal:
        terminal.type("refund all" + ENTER)
        await terminal.shows("Desk wants to call refund(order=1)")
        terminal.type("hm" + ENTER)
        await terminal.shows("n REASON tells the model why")
        terminal.type("y" + ENTER)
        await terminal.shows("Desk wants to call refund(order=2)")
        terminal.type("n too much" + ENTER)
        await terminal.shows("Desk wants to call refund(order=3)")
        terminal.type("always" + ENTER)
        await terminal.shows("Done.")
        decided = [line[: line.index(")") + 1] for line in terminal.lines if line.startswith(("✓", "✗"))]
        assert decided == [f"{mark} refund(order={n})" for n, mark in enumerate("✓✗✓✓", 1)]
        assert "refund(order=2)  rejected: too much" in terminal.text
        assert "paid 4" in terminal.text
    model: Any = agent.model
    assert "too much" in [item.get("output") for item in model.calls[2].input]


async def test_what_is_typed_meanwhile() -> None:
    """It is seen by the agent in its next turn, and stands where the agent saw it."""
    agent = desk(Turn((WORDS,), every_s=0.01), "I hurry.")
    async with talking(local(agent)) as terminal:
        terminal.type("go" + ENTER)
        await terminal.shows("word3")
        terminal.type("/new" + ENTER)
        await terminal.shows("not while an answer is written")
        terminal.type("hurry" + ENTER)
        await terminal.shows("> hurry (waits)")
        await terminal.shows("I hurry.")
        assert "word59\n\n> hurry\n\nI hurry." in terminal.text
        assert "(waits)" not in terminal.text


async def test_what_tools_print() -> None:
    """It stands above the prompt, as does what is logged; nothing is torn apart."""

    @function_tool
    def loud() -> str:
        """Print."""
        print("the tool says this")
        logging.getLogger("of a tool").warning("and logs that")
        return "done"

    async with talking(local(desk(ToolCall("loud", {}), "Said.", tools=[loud]))) as terminal:
        terminal.type("go" + ENTER)
        await terminal.shows("Said.")
        await terminal.shows("first text")
        for line in ("the tool says this", "> go", "Said."):
            assert line in terminal.lines


async def test_several_lines() -> None:
    """A backslash, Alt-Enter, and lines that are pasted are one message."""
    agent = desk("Read.")
    async with talking(local(agent)) as terminal:
        terminal.type("a\\" + ENTER + "b" + ALT_ENTER + "c \x1b[200~d\n  e\x1b[201~" + ENTER)
        await terminal.shows("Read.")
        assert "> a\n  b\n  c d\n    e\n" in terminal.text
    model: Any = agent.model
    assert model.calls[0].input[0]["content"] == "a\nb\nc d\n  e"


async def test_errors_are_told(tmp_path: Path) -> None:
    """A model that fails, a server that refuses: the next question can be asked."""
    agent = desk(Turn(("half of it",), fault=Fault("reset", after=2)), "Better.")
    async with talking(local(agent)) as terminal:
        terminal.type("go" + ENTER)
        await terminal.shows("✗ ModelStreamTruncated: ")
        terminal.type("again" + ENTER)
        await terminal.shows("Better.")


async def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They say what was said and used, choose the agent, begin anew, save; a mistyped one asks no model."""
    monkeypatch.chdir(tmp_path)  # its own name may be longer than a line
    conversation = local(desk("One.", "Two."), desk("Three.", name="Other"))
    async with talking(conversation) as terminal:
        for keys, shown in (
            ("/usage", "0 answers; tokens unknown"),
            ("/history", "nothing was said yet"),
            ("/runs", "no runs yet"),
            ("/help", "/quit     Leave; so does Ctrl-D."),
            ("/nothing", "no command /nothing: there are /help"),
            ("hello", "One."),
            ("/usage", "1 answers, tokens: "),
            ("/history", "> hello\n  One."),
            ("/runs", "  completed"),
            ("/save talk.md", "2 messages are in talk.md"),
            ("/save no/talk.md", "cannot be written"),
            ("/save", "say where: /save FILE.md"),
            ("/agents", "* 1  Desk"),
            ("/agents 7", "no agent '7': there are Desk, Other"),
            ("/agents other", "Other answers now"),
            ("hello", "Three."),
            ("/new", "a new conversation"),
        ):
            terminal.type(keys + ENTER)
            await terminal.shows(shown)
            await terminal.shows("\n>")
    assert (tmp_path / "talk.md").read_text() == "## You\n\nhello\n\n## Assistant\n\nOne.\n"


async def test_a_narrow_screen() -> None:
    """On 30 columns nothing is wider, wide characters included."""
    said = "日本語のテキストがここに長く続いて折り返されます。 " * 3
    agent = desk(ToolCall("refund", {"order": 10**20}), said, tools=[refund])
    async with talking(local(agent), columns=30) as terminal:
        terminal.type("go" + ENTER)
        await terminal.shows("y/n/always>")
        terminal.type("y" + ENTER)
        await terminal.shows("first text")
        answer = terminal.text.partition("✓")[2]
        assert "".join(said.split()) in "".join(answer.split())


async def test_a_conversation_that_is_kept(tmp_path: Path) -> None:
    """With a session the next program goes on where this one was."""

    def session_of(name: str) -> SQLiteSession:
        return SQLiteSession(name, tmp_path / "sessions.db")

    first = local(desk("One."), session="trip", session_of=session_of)
    async with talking(first) as terminal:
        terminal.type("hello" + ENTER)
        await terminal.shows("One.")
        await terminal.shows("first text")
    await first.aclose()
    assert "to go on with this conversation: --session trip" in terminal.text
    agent = desk("Two.")
    second = local(agent, session="trip", session_of=session_of)
    async with talking(second) as terminal:
        await terminal.shows("conversation trip, 2 messages so far")
        terminal.type("and?" + ENTER)
        await terminal.shows("Two.")
    await second.aclose()
    model: Any = agent.model
    assert len(model.calls[0].input) == 3


async def test_a_server(tmp_path: Path) -> None:
    """Through a wire that is cut in the middle of an answer: it is told, and no character is lost or doubled; Ctrl-C
    stops the run on the server; a refusal is told."""
    agent = desk(SLOW, ToolCall("refund", {"order": 1}), "Paid.", SLOW, SLOW, tools=[refund])
    app = create_app(agent, store=f"sqlite:///{tmp_path}/runs.db")
    async with serving(app) as url, wire_to(url) as wire, ServerClient(wire.url) as client:
        conversation = ServerConversation(client, await client.agents(), agent=None, session="one", patience_s=None)
        async with talking(conversation) as terminal:
            terminal.type("go" + ENTER)
            await terminal.shows("word5 word6")
            await wire.cut()
            await terminal.shows("! connection lost (")
            await wire.mend()
            await terminal.shows("! connected again")
            await terminal.shows("first text")
            assert "! this server keeps no conversations" in terminal.text
            assert [word for word in terminal.text.split() if word.startswith("word")] == WORDS.split()
            terminal.type("refund" + ENTER)
            await terminal.shows("y/n/always>")
            terminal.type("y" + ENTER)
            await terminal.shows("Paid.")
            terminal.type("go on" + ENTER)
            await terminal.shows("word5 word6", 2)
            terminal.type(CTRL_C)
            await terminal.shows("■ stopped")
            terminal.type("once more" + ENTER)
            await terminal.shows("word5 word6", 3)
            await wire.cut()
            await terminal.shows("! connection lost (", 2)
            terminal.type(CTRL_C)
            await terminal.shows("✗ nobody knows whether it has stopped")
            assert terminal.text.count("word5 word6") == 3, "what was shown is still there"
            terminal.type("and now?" + ENTER)
            await terminal.shows("✗ ServerUnreachable: ")
        assert "nothing listens there" in terminal.text
        await wire.mend()
        assert [run["status"] for run in await client.runs()][1:] == ["cancelled", "completed", "completed"]
