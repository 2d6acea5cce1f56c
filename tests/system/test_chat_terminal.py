"""`runstream chat` in a real terminal: a program of its own, behind a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte
import pytest

pytestmark = pytest.mark.system

_PATIENCE_S = 20.0


class Terminal:
    """A program's terminal, and what it shows."""

    def __init__(self, columns: int, rows: int, folder: Path, term: str) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self._fd, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(child)
        self._child = child
        kept = {name: value for name, value in os.environ.items() if name not in ("OPENAI_API_KEY", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runstream.cli", "chat", "shop:desk"],
            stdin=child,
            stdout=child,
            stderr=child,
            env={**kept, "TERM": term, "XDG_DATA_HOME": str(folder)},
            cwd=folder,
            start_new_session=True,
        )

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def shows(self, text: str, times: int = 1) -> None:
        """Wait until the screen shows this so many times."""
        end = time.monotonic() + _PATIENCE_S
        while self.text.count(text) < times:
            assert time.monotonic() < end, f"the screen never showed {text!r}:\n{self.text}"
            self._read(0.1)

    def ended(self) -> int:
        """The exit status, once all that the program has written is read."""
        while self.process.poll() is None:
            self._read(0.05)
        self._read(0.05)
        return self.process.returncode

    def _read(self, wait_s: float) -> None:
        if select.select([self._fd], [], [], wait_s)[0]:
            data = os.read(self._fd, 65_536)
            self.raw += data
            # The program asks where its cursor is.
            if b"\x1b[6n" in data:
                os.write(self._fd, f"\x1b[{self._screen.cursor.y + 1};1R".encode())
            self._stream.feed(data)

    def is_as_before(self) -> bool:
        """Whether the terminal's modes are those that it had at first."""
        return termios.tcgetattr(self._child)[:4] == self.before[:4]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._fd)
        os.close(self._child)


DESK = """
from runstream import Agent
from runstream.testing import ScriptedModel, Turn

words = " ".join(f"word{number}" for number in range(400))
desk = Agent(name="Desk", model=ScriptedModel([Turn((words,), every_s=0.01), "It is **sent**."]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(DESK)
    return tmp_path


def test_a_terminal(folder: Path) -> None:
    """A question, Ctrl-C in the middle of its answer, the next question, Ctrl-D; the terminal is left as it was found.

    The open lines are drawn over each other: what the program writes is a small multiple of what it shows.
    """
    terminal = Terminal(60, 40, folder, "xterm-256color")
    try:
        terminal.shows("/help tells the commands")
        terminal.shows("\n>")
        terminal.type("Where is it?\r")
        terminal.shows("word30")
        terminal.type("\x03")
        terminal.shows("■ stopped")
        terminal.type("And now?\r")
        terminal.shows("It is sent.")
        terminal.shows("first text", 2)
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert terminal.is_as_before()
        assert len(terminal.raw) < 30_000
    finally:
        terminal.close()


def test_a_terminal_that_cannot_be_steered(folder: Path) -> None:
    """With TERM=dumb there are no escape codes: plain lines in, plain text out as it comes."""
    terminal = Terminal(60, 40, folder, "dumb")
    try:
        terminal.shows("agent Desk\n>")
        terminal.type("Where is it?\n")
        terminal.shows("word30")
        terminal.process.send_signal(signal.SIGINT)
        terminal.shows("Error: stopped")
        terminal.type("/quit\n")
        assert terminal.ended() == 1
        assert b"\x1b" not in terminal.raw
    finally:
        terminal.close()
