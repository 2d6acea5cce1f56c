"""`runstream run SCRIPT.py`: what a script written for the OpenAI Agents SDK finds, and what its user sees."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from runstream.testing import Endpoint, ToolCall

pytestmark = pytest.mark.system

RUN = [sys.executable, "-m", "runstream.cli", "run"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHONPATH"))}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Writer":
    monkeypatch.chdir(tmp_path)
    return Writer(tmp_path)


class Writer:
    """Writes scripts to a directory and runs them there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, name: str, source: str) -> str:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return name


def execute(
    *arguments: str, with_python: bool = False, environment: Mapping[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable] if with_python else RUN
    return subprocess.run(
        [*command, *arguments],
        env={**ENVIRONMENT, **(environment or {})},
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
    )


STREAMING = """
    import asyncio

    from agents import Agent, ItemHelpers, Runner, function_tool
    from agents.items import MessageOutputItem, ToolCallOutputItem
    from agents.stream_events import RunItemStreamEvent
    from openai.types.responses import ResponseTextDeltaEvent


    @function_tool
    def how_many_jokes() -> int:
        '''How many jokes to tell.'''
        return 2


    async def main():
        agent = Agent(name="Joker", instructions="Ask how many jokes to tell.", tools=[how_many_jokes], model="m")
        result = Runner.run_streamed(agent, input="Hello")
        async for event in result.stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                print(event.data.delta, end="", flush=True)
            elif event.type == "run_item_stream_event":
                assert isinstance(event, RunItemStreamEvent)
                if isinstance(event.item, ToolCallOutputItem):
                    print("tool:", event.item.output)
                elif isinstance(event.item, MessageOutputItem):
                    print("\\nmessage:", ItemHelpers.text_message_output(event.item))
        print("final:", result.final_output, agent.__class__.__module__)


    if __name__ == "__main__":
        asyncio.run(main())
"""


def test_a_script_of_the_sdk_streams(write: Writer) -> None:
    """Unmodified: its imports of `agents` give runstream's objects, and its text comes over HTTP."""
    script = write("joker.py", STREAMING)
    with Endpoint([ToolCall("how_many_jokes"), "One. Two."]) as endpoint:
        done = execute(script, environment={"OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": "k"})
        endpoint.assert_complete()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "tool: 2\nOne. Two.\nmessage: One. Two.\nfinal: One. Two. runstream.agent.agent\n"


def test_a_script_finds_what_python_gives_it(write: Writer) -> None:
    """Arguments that look like options too, `__name__`, `__file__`, the first place of the path, and its siblings."""
    write("lib/sibling.py", "VALUE = 42")
    script = write(
        "lib/main.py",
        """
        import pickle, sys, typing
        import __main__
        import sibling

        class Point:
            x: "sibling.VALUE.__class__" = 1

        print(sys.argv, __name__, __file__, sys.path[0], sibling.__file__, sibling.VALUE)
        print(typing.get_type_hints(Point), type(pickle.loads(pickle.dumps(Point()))) is Point, __main__.Point is Point)
        print(__doc__, __package__, __spec__)
        """,
    )
    arguments = (script, "in.txt", "--help", "-v", "--model=x", "--", "-")
    ours, python = execute(*arguments), execute(*arguments, with_python=True)
    assert ours.stdout == python.stdout
    assert "['lib/main.py', 'in.txt', '--help', '-v', '--model=x', '--', '-'] __main__" in ours.stdout
    assert (ours.returncode, ours.stderr) == (python.returncode, python.stderr) == (0, "")


def test_a_script_is_its_own_main_module_for_processes(write: Writer) -> None:
    """Functions of the script can be sent to processes that are spawned."""
    source = """
        import multiprocessing

        def double(number):
            return 2 * number

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [1, 2]))
    """
    done = execute(write("main.py", source))
    assert (done.returncode, done.stdout) == (0, "[2, 4]\n")


@pytest.mark.parametrize(
    "source",
    [
        "def inner():\n    raise ValueError('oh')\n\ninner()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('two') from error\n",
        "import json\njson.loads('{')\n",
        "name = input()\n",
        "import click\nraise click.UsageError('mine')\n",
        "raise BrokenPipeError(32, 'Broken pipe')\n",
        "def f(:\n",
        "import broken\n",
        "from . import sibling\n",
        "import asyncio\nasync def main():\n    raise KeyError('gone')\nasyncio.run(main())\n",
        "import sys\nsys.excepthook = lambda *error: print('hooked', error[0].__name__)\nraise ValueError\n",
    ],
)
def test_errors_are_those_of_python(source: str, write: Writer) -> None:
    """The traceback shows the script and what it called, as under `python SCRIPT`; the status is the same."""
    write("broken.py", "x = (\n")
    script = write("main.py", source)
    ours, python = execute(script), execute(script, with_python=True)
    assert ours.stderr == python.stderr
    assert (ours.returncode, ours.stdout) == (python.returncode, python.stdout)
    assert ours.returncode == 1


@pytest.mark.parametrize("code", ["0", "7", "None", "'too late'", "2.5"])
def test_exit_statuses_pass_through(code: str, write: Writer) -> None:
    """Also that of `sys.exit("message")`, which prints it."""
    script = write("main.py", f"import sys\nprint('out')\nsys.exit({code})\n")
    ours, python = execute(script), execute(script, with_python=True)
    assert (ours.returncode, ours.stdout, ours.stderr) == (python.returncode, python.stdout, python.stderr)


def test_a_script_reads_its_standard_input(write: Writer) -> None:
    """It is the script's alone."""
    done = execute(write("main.py", "print(input().upper())"), given="hello\n")
    assert (done.returncode, done.stdout) == (0, "HELLO\n")


def test_ctrl_c_is_the_scripts(write: Writer) -> None:
    """Its cleaning up runs, and what is told, with status 130, is Python's KeyboardInterrupt."""
    source = """
        import time

        try:
            print("ready", flush=True)
            time.sleep(20)
        finally:
            print("cleaned up", flush=True)
    """
    process = subprocess.Popen(
        [*RUN, write("main.py", source)], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output) == (130, "cleaned up\n")
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "click" not in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.py",), "'missing.py' does not exist"),
        ((".",), "'.' is a directory"),
        ((), "Missing argument 'SCRIPT'"),
        (("--fast", "main.py"), "--fast"),
    ],
)
def test_a_script_that_is_none_is_told_in_a_line(arguments: tuple[str, ...], words: str, write: Writer) -> None:
    """A mistake of usage: status 2, and no traceback."""
    done = execute(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("source", ["import agents.voice", "from agents import NoSuchName"])
def test_what_runstream_does_not_offer_is_said(source: str, write: Writer) -> None:
    """An import that cannot be had names what is missing, and who stands in for `agents` here."""
    done = execute(write("main.py", source))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "runstream" in last
    assert "voice" in last or "NoSuchName" in last
