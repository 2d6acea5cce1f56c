"""`runstream chat` where no terminal is, and `runstream watch --url`: what goes to which stream, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner, Result

from cutting import wire_to
from runstream import Agent, function_tool
from runstream.cli import _cli, chat
from runstream.cli.demo import demo_script
from runstream.cli.plain_chat import PlainChat
from runstream.server import create_app
from runstream.server.client import ServerClient
from runstream.testing import Fault, Message, ScriptedModel, ToolCall, Turn
from serving import serving

WORDS = " ".join(f"word{number}" for number in range(40))


@function_tool(needs_approval=True)
def refund(order: int) -> str:
    """Pay back."""
    return f"paid {order}"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RUNSTREAM_STORE", "RUNSTREAM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def say(text: str, *arguments: str) -> Result:
    return CliRunner().invoke(_cli, ["chat", *arguments], input=text)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `desk:agents` of agents with these models."""

    def make(*models: Any) -> str:
        module = types.ModuleType("desk_of_a_test")
        module.agents = [  # type: ignore[attr-defined]
            Agent(name=f"Desk {n}", tools=[refund], model=model) for n, model in enumerate(models, 1)
        ]
        monkeypatch.setitem(sys.modules, "desk_of_a_test", module)
        return "desk_of_a_test:agents"

    return make


def test_each_line_is_a_question(desk: Any) -> None:
    """Standard output has the answers as they were written, and nothing else; empty lines are passed over."""
    model = ScriptedModel([[Message("I **look**.")], "Two\n\nlines."])
    result = say("one\n\n  \nfirst \\\nsecond", desk(model))
    assert result.exit_code == 0
    assert result.stdout == "I **look**.\nTwo\n\nlines.\n"
    assert model.calls[1].input[-1]["content"] == "first \nsecond"
    assert len(model.calls[1].input) == 3  # it knows of the first one


def test_calls_that_need_a_person(desk: Any) -> None:
    """Nobody can be asked: they are rejected, and that is told; tools' lines go to standard error."""
    model = ScriptedModel([[Message("I pay."), ToolCall("refund", {"order": 7})], "I may not."])
    result = say("pay", desk(model))
    assert (result.exit_code, result.stdout) == (0, "I pay.\n\nI may not.\n")
    assert "tool     refund(order=7)" in result.stderr
    assert "rejected refund: Nobody is there to approve this call." in result.stderr


def test_what_fails_is_told(desk: Any) -> None:
    """The other questions are asked, and the status is 1; text that does not count is not printed."""
    broken = Turn(("half of it, which is cut",), fault=Fault("reset", after=2))
    result = say("one\ntwo\n", desk(ScriptedModel([broken, "Two."])))
    assert result.exit_code == 1
    assert result.stdout.endswith("Two.\n")
    assert "Error: ModelStreamTruncated: " in result.stderr


def test_who_answers(desk: Any) -> None:
    """The first agent, or the one that is named."""
    agents = desk(ScriptedModel(["First."]), ScriptedModel(["Second."]))
    assert say("hi", agents, "--agent", "Desk 2").stdout == "Second.\n"
    assert say("hi", agents).stdout == "First.\n"
    result = say("hi", agents, "--agent", "Nobody")
    assert result.exit_code == 2
    assert "there is no agent 'Nobody': there are Desk 1, Desk 2" in result.stderr


def test_the_scripted_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key and an agent a script plays, and that is said."""
    monkeypatch.setattr("runstream.cli.demo.demo_script", functools.partial(demo_script, fast=True))
    result = say("one\n")
    assert result.exit_code == 0
    assert "no LLM speaks" in result.stderr
    assert result.stdout.count("Your refund is on its way.") == 1
    assert result.stderr.count("handoff  Support Desk -> Refund Agent") == 1


def test_a_session_and_a_store(desk: Any, tmp_path: Path) -> None:
    """The conversation is kept by its name, its runs in the store."""
    store = f"sqlite:///{tmp_path}/runs.db"
    say("one", desk(ScriptedModel(["One."])), "--session", "trip", "--store", store)
    model = ScriptedModel(["Two."])
    say("two", desk(model), "--session", "trip", "--store", store)
    assert [item["role"] for item in model.calls[0].input] == ["user", "assistant", "user"]
    listed = CliRunner().invoke(_cli, ["runs", "--store", store]).stdout
    assert listed.count("completed") == 2


def test_a_session_that_cannot_be(desk: Any) -> None:
    """A name or a file that is none is said at once."""
    agents = desk(ScriptedModel([]))
    assert "a session is named by 1 to 200 printable characters" in say("", agents, "--session", "a\nb").stderr
    result = say("", agents, "--session", "a", "--sessions", "/nowhere/s.db")
    assert "conversations cannot be kept in /nowhere/s.db: unable to open" in result.stderr


def test_what_does_not_go_together() -> None:
    """A server has its agents; a server that is not there is said to be so."""
    assert "do not go with it" in say("", "a:b", "--url", "http://127.0.0.1:9").stderr
    result = say("hi", "--url", "http://127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: the server http://127.0.0.1:9 cannot be reached: nothing listens there" in result.stderr
    assert "is no URL of a server" in say("hi", "--url", "nonsense").stderr
    for line in (("chat",), ("watch", "run_1")):
        result = CliRunner().invoke(_cli, [*line, "--url", "http://127.0.0.1:9", "--store", "sqlite:///runs.db"])
        assert "--store does not go with it" in result.stderr
        result = CliRunner().invoke(
            _cli, [*line, "--url", "http://127.0.0.1:9"], env={"RUNSTREAM_STORE": "sqlite:///runs.db"}
        )
        assert "nothing listens there" in result.stderr
    assert ", or --url of a server, " in CliRunner().invoke(_cli, ["watch", "run_1"]).stderr


async def test_an_answer_that_cannot_be_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    """That is told; it does not pass for stopped."""

    class Stubborn:
        async def cancel(self) -> None:
            raise ConnectionError("the wire is cut")

    await PlainChat(cast("Any", None))._stop(cast("Any", Stubborn()))
    assert capsys.readouterr().err == "it could not be stopped: the wire is cut; Ctrl-C again quits\n"


def test_without_the_extra(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe needs neither prompt_toolkit nor rich; a terminal says what to install."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("prompt_toolkit", "rich")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("prompt_toolkit", "rich"):
        monkeypatch.setitem(sys.modules, name, None)
    assert say("one", desk(ScriptedModel(["One."]))).stdout == "One.\n"
    with pytest.raises(click.ClickException, match=r"pip install 'runstream\[chat\]'"):
        chat._check_extra()


def test_threads_of_the_agents_module(desk: Any) -> None:
    """A pool that a module keeps for itself is no tool at work: the program ends."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        result = say("hi", desk(ScriptedModel(["Hello."])))
    assert (result.exit_code, result.stdout) == (0, "Hello.\n")
    assert "still at work" not in result.stderr


async def command(*arguments: str, input: str = "") -> Result:
    """The command in a thread, so that this loop can serve it. Where a test fails, nobody waits for its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def work() -> None:
        result = CliRunner().invoke(_cli, [*arguments], input=input)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the test has failed
            loop.call_soon_threadsafe(lambda: done.done() or done.set_result(result))

    threading.Thread(target=work, daemon=True).start()
    return await done


async def test_a_server(tmp_path: Path) -> None:
    """`chat --url` asks it; `watch --url` follows any run of it: whole, from any point, as JSON, across a cut wire,
    from cursors that are none; the exit status tells how the run ended."""
    slow = Turn((WORDS,), every_s=0.01)
    model = ScriptedModel(["Hello.", slow, Turn(("x",), fault=Fault("http_error", status=400))])
    app = create_app(Agent(name="Desk", model=model), store=f"sqlite:///{tmp_path}/runs.db")
    async with serving(app) as url, wire_to(url) as wire, ServerClient(url) as client:
        result = await command("chat", "--url", url, input="hi\n")
        assert (result.exit_code, result.stdout) == (0, "Hello.\n")
        assert "this server keeps no conversations" in result.stderr
        first = (await client.runs())[0]["run_id"]

        second = await client.begin("Go.")
        watching = asyncio.create_task(command("watch", second, "--url", wire.url))
        follower = client.follow(second)
        async for found in follower:
            if found.seq == 20:
                break
        await wire.cut()
        await wire.mend()
        assert [found async for found in follower][-1].data.status == "completed"
        result = await watching
        assert result.exit_code == 0
        assert WORDS in result.stdout
        assert f"run      {second} of Desk, " in result.stdout
        assert "user     Go." in result.stdout
        assert "end      completed\nfigures  " in result.stdout

        count = (await client.run(first))["cursor"].rpartition("-")[2]
        lines = (await command("watch", first, "--url", url, "--json", "--after", "3")).stdout.splitlines()
        assert len(lines) == int(count) - 3
        result = await command("watch", first, "--url", url, "--after", f"7-{count}")
        assert result.exit_code == 0
        assert f"the cursor 7-{count} is no place in the run (the log is another one now" in result.stderr
        end = (await client.run(first))["cursor"]
        result = await command("watch", first, "--url", url, "--after", end)
        assert (result.exit_code, "nothing comes after" in result.stdout) == (0, True)
        result = await command("watch", first, "--url", url, "--after", "9999")
        assert (result.exit_code, f"nothing comes after {end}" in result.stdout) == (0, True)
        assert f"9999 is no place in the run (the log does not reach that far); going on after {end}" in result.stderr

        third = await client.begin("Fail.")
        result = await command("watch", third, "--url", url)
        assert result.exit_code == 1
        assert "end      failed: " in result.stdout
        result = await command("watch", "nobody", "--url", url)
        assert result.exit_code == 1
        assert result.stderr == "Error: the server refuses: there is no such run (404 run_not_found)\n"
