"""`runstream demo` as somebody meets it who has just installed it: in a pipe, in a terminal, and interrupted."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest

from runstream.events.codec import decode
from runstream.render.figures import FiguresFold

pytestmark = pytest.mark.system

DEMO = [sys.executable, "-m", "runstream.cli", "demo"]
ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        # What would change the picture: a key, the choice of no colour, and the size of the tests' own terminal.
        if not name.startswith("OPENAI_") and name not in ("NO_COLOR", "COLUMNS", "LINES")
    },
    "TERM": "xterm-256color",
    "PYTHONWARNINGS": "error",
}


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments], env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=30
    )


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*DEMO, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def in_terminal(columns: int, **environment: str) -> str:
    """What the command sends to a terminal of that width."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*DEMO, "--fast"], env={**ENVIRONMENT, **environment}, stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    received = b""
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:  # Linux reports the end of a terminal so
            break
        if not data:
            break
        received += data
    os.close(parent)
    assert process.wait(timeout=10) == 0
    return received.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_without_a_key_it_plays_the_whole_conversation(api: str) -> None:
    """It says what it is; then text, tools, a handoff, an answer of 100 words and the figures; plain, status 0."""
    shown = demo("--fast", "--api", api)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("scripted model, no LLM")
    labels = [found[1] for line in lines if (found := re.match(r"(user|agent|tool|handoff|figures) {2,}", line))]
    assert labels == ["user", "agent", "tool", "tool", "handoff", "tool", "tool", "figures"]
    answer = shown.stdout.partition("sent\n")[2].partition("figures")[0]
    assert len(answer.split()) >= 100
    figures = r"figures  first text [\d.]+ s, [\d.,]+ text deltas/s, \d+ events, 4 turns, [\d,]+ tokens"
    assert re.fullmatch(figures, lines[-1])


def test_the_question_of_the_user_is_shown() -> None:
    """On one line, with nothing in it that could steer a terminal."""
    shown = demo("--fast", "Where\nis \x1b[2Jit?")
    assert "\nuser     Where is \\x1b[2Jit?\n" in shown.stdout


def test_json_gives_the_events_and_nothing_else() -> None:
    """Every line is an event of one run, numbered without gaps from its start to its end."""
    shown = demo("--fast", "--json")
    assert shown.returncode == 0
    assert shown.stderr == "scripted model, no LLM: a local endpoint plays it over HTTP\n"
    events = [decode(line.encode()) for line in shown.stdout.splitlines()]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (events[0].kind, events[-1].kind) == ("run.start", "run.end")
    assert len({event.run_id for event in events}) == 1
    fold = FiguresFold()
    for event in events:
        fold.apply(event)
    assert fold.last_message == events[-1].data.final_output
    assert [event.agent for event in events if event.kind == "agent.start"] == ["Support Desk", "Refund Agent"]


@pytest.mark.parametrize("arguments", [("--json",), ("--fast", "--json"), ("--fast",), ()])
def test_a_reader_that_goes_away_is_no_traceback(arguments: tuple[str, ...]) -> None:
    """As in `runstream demo --json | head -1`: it ends at once, quietly, without claiming success."""
    process = start(*arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=10) == 1
    assert errors in ("", "scripted model, no LLM: a local endpoint plays it over HTTP\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_stops_the_run(as_json: bool) -> None:
    """In the middle of a text: the run ends as cancelled, the command says so, with status 130."""
    process = start(*(["--json"] if as_json else []))
    assert process.stdout is not None
    shown = b""
    while b"sorry" not in shown:
        shown += os.read(process.stdout.fileno(), 65536)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1] == "stopped: the run was cancelled"
    assert b"Traceback" not in errors
    if as_json:
        last = json.loads((shown + rest).splitlines()[-1])
        assert (last["kind"], last["data"]["status"]) == ("run.end", "cancelled")
    else:
        assert (shown + rest).endswith(b"\n")
        assert b"figures" not in rest


def test_a_terminal_gets_colour_and_whole_words() -> None:
    """Labels in colour, texts without; no text line wider than the terminal."""
    shown = in_terminal(60)
    assert "\x1b[36mtool" in shown
    assert "\x1b[35m\x1b[1mhandoff" in shown
    plain = re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert "\x1b" not in plain
    answer = plain.partition("sent\n")[2].partition("figures")[0]
    assert len(answer.split()) >= 100
    assert 40 < max(len(line) for line in answer.splitlines()) <= 60
    piped = demo("--fast").stdout
    assert answer.split() == piped.partition("sent\n")[2].partition("figures")[0].split()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_it_is_not_wanted(environment: dict[str, str]) -> None:
    """NO_COLOR (no-color.org), and a terminal that has none."""
    assert "\x1b" not in in_terminal(80, **environment)


def test_an_encoding_that_cannot_say_everything_gets_substitutes() -> None:
    """What it cannot say is replaced; the run goes on to its end."""
    process = subprocess.run(
        [*DEMO, "--fast", "Was hei\u00dft \u6f22\u5b57?"],
        env={**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=30,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    assert "\nuser     Was hei\u00dft ???\n" in process.stdout.decode("latin-1")
