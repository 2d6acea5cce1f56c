"""`runstream endpoint`: the command as a user in a shell meets it."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from runstream.cli.endpoint import command
from runstream.testing import Script

pytestmark = pytest.mark.system

CODE = "from runstream.cli.endpoint import command; command(prog_name='runstream endpoint')"


class Served:
    """A running command, and what it has printed."""

    def __init__(self, *arguments: str, stdin: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(stdin)
        self.process.stdin.close()
        self.process.stdin = None
        self.lines = [self.process.stdout.readline().rstrip("\n") for _ in range(3)]

    def ask(self, question: str) -> str:
        body = json.dumps({"model": "m", "input": question}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.lines[1]}/responses", body)) as response:
            answer = json.load(response)
        return answer["output"][0]["content"][0]["text"]

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(*arguments: str, stdin: str = "") -> Served:
        running.append(Served(*arguments, stdin=stdin))
        return running[-1]

    yield start
    for served in running:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_cleanly(serve: Callable[..., Served], number: signal.Signals) -> None:
    """The base URL, one line of what to set, an answer that repeats the question, status 0 on Ctrl-C."""
    served = serve()
    assert "no LLM" in served.lines[0]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", served.lines[1])
    assert served.lines[2] == f"export OPENAI_BASE_URL={served.lines[1]} OPENAI_API_KEY=scripted"
    answer = served.ask("How are you?")
    assert answer.startswith('You said: "How are you?". ')
    assert len(answer.split()) > 30
    status, errors = served.stop(number)
    assert status == 0
    assert re.fullmatch(r"POST /v1/responses: 200, \d+ deltas, \d+\.\d\d s, answered\n", errors)


def test_it_plays_a_file(serve: Callable[..., Served], tmp_path: Path) -> None:
    """A script from a file, quietly."""
    path = tmp_path / "script.json"
    path.write_text('["One.", {"say": "Two."}]')
    served = serve(str(path), "--quiet")
    assert [served.ask("x"), served.ask("x")] == ["One.", "Two."]
    assert served.stop(signal.SIGINT) == (0, "")


def test_it_reads_standard_input_and_injects_faults(serve: Callable[..., Served]) -> None:
    """The first two requests meet the fault, the third is answered by the turn that they did not use up."""
    served = serve("-", "--fault", "503", "--fault-times", "2", "--api-key", "k", stdin='["Once."]')
    assert served.lines[2].endswith("OPENAI_API_KEY=k")
    request = urllib.request.Request(f"{served.lines[1]}/responses", b'{"model": "m", "input": "x"}')
    statuses: list[int] = []
    for key in ("k", "k", "wrong"):
        request.add_header("Authorization", f"Bearer {key}")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        statuses.append(caught.value.code)
        caught.value.close()
    assert statuses == [503, 503, 401]
    request.add_header("Authorization", "Bearer k")
    with urllib.request.urlopen(request) as response:
        assert json.load(response)["output"][0]["content"][0]["text"] == "Once."


def test_the_example_of_the_help_is_a_script() -> None:
    """What `--help` shows can be played."""
    shown = CliRunner().invoke(command, ["--help"], terminal_width=200).output
    example = shown[shown.index("{") : shown.index("]}\n\n") + 2]
    assert len(list(Script.from_json(example).steps)) == 4


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["missing.json"], 2, "'missing.json' does not exist"),
        (["wrong.json"], 1, "Error: wrong.json: turn 1: has no field `sya`"),
        (["--fault", "flood"], 1, "Error: fault: must be one of 429, 500, http-error, reset"),
        (["--fault-times", "2"], 2, "--fault-times needs --fault"),
        (["--port", "70000"], 2, "70000 is not in the range"),
        (["--host", "203.0.113.1"], 1, "Error: the endpoint cannot listen on 203.0.113.1:0"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], status: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback: what is wrong, and a status that says so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.json").write_text('[{"sya": "x"}]')
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == status
    assert words in result.output
    assert "Traceback" not in result.output
