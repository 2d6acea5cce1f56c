"""The command `runstream`: its list of commands, help, version, and what it says to a typing error."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from runstream import __version__
from runstream.cli import _cli, serve

COMMANDS = [
    "demo",
    "chat",
    "endpoint",
    "run",
    "serve",
    "worker",
    "submit",
    "runs",
    "watch",
    "top",
    "replay",
    "approve",
    "reject",
    "cancel",
    "delete",
    "sweep",
]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(_cli, arguments, prog_name="runstream")
    return result.exit_code, result.output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(option: str) -> None:
    """Each with a line about it."""
    status, output = run(option)
    assert status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in output


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_help(name: str) -> None:
    """The module of a command is found, and its command is named as in the list."""
    status, output = run(name, "--help")
    assert status == 0
    assert output.startswith(f"Usage: runstream {name} ")


def test_a_server_trusts_its_clients_if_it_is_told_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`--trust-input` is `trusts_input=True` of the app."""
    served: list[bool] = []
    monkeypatch.setattr(serve, "_serve", lambda app, service, *_: served.append(service.trusts_input))
    for options in ((), ("--trust-input",)):
        status, output = run(
            "serve", "--port", "0", "--store", "memory://", "--sessions", str(tmp_path / "s.db"), *options
        )
        assert status == 0, output
    assert served == [False, True]


def test_version() -> None:
    """The package's own."""
    assert run("--version") == (0, f"runstream {__version__}\n")


def test_a_command_that_is_none() -> None:
    """The answer names those that are."""
    status, output = run("dmeo")
    assert status == 2
    assert f"no command 'dmeo': the commands are {', '.join(COMMANDS)}" in output


def test_help_does_not_load_the_runtime() -> None:
    """Neither a model's client nor a server is imported to say what the commands are, nor how each of them goes."""
    code = (
        "import sys; from runstream.cli import _cli\n"
        f"for words in [['--help'], *([name, '--help'] for name in {COMMANDS})]:\n"
        "    try: _cli(words, prog_name='runstream')\n"
        "    except SystemExit: pass\n"
        "heavy = {'openai', 'aiohttp', 'httpx2', 'pydantic', 'griffe', 'sqlite3', 'runstream.agent'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_server_that_cannot_listen() -> None:
    """A port that is taken, and an address that is not this machine's, are told in a line, before a store is opened."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        status, output = run("serve", "--port", port)
    assert (status, output) == (
        1,
        f"Error: port {port} of 127.0.0.1 is taken: choose another --port, or 0 for a free one\n",
    )
    status, output = run("serve", "--host", "192.0.2.1", "--token", "a-token-that-is-long", "--port", "0")
    assert (status, output) == (1, "Error: 192.0.2.1:0 cannot be listened on: Cannot assign requested address\n")
