"""`runstream serve` as a process of its own, for tests of the page, and what they ask the page."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

_TESTS = Path(__file__).parent
_STARTING_S = 20.0


TOKEN = "the-token-of-ann-is-long"


class PageServer:
    """A server of `page_agents`, on a port that stays the same. With `dies` nobody needs a token, and what it leaves
    when it is killed is taken over soon."""

    def __init__(self, folder: Path, *, dies: bool = False) -> None:
        self._folder = folder
        self._hold = folder / "hold"
        self._dies = dies
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns once it listens."""
        port, store = str(self.port), f"sqlite:///{self._folder}/runs.db"
        command = [sys.executable, "-m", "runstream.cli", "serve", "page_agents:agents", "--port", port]
        command += ["--store", store, "--sessions", f"{self._folder}/sessions.db", "--drain", "0s"]
        command += ["--token", f"ann={TOKEN}"]
        if self._dies:
            command = [sys.executable, "page_agents.py", port, store]
        self._process = subprocess.Popen(
            command,
            cwd=_TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_DATA_HOME": str(self._folder), "PAGE_HOLD": str(self._hold)},
        )
        until = time.monotonic() + _STARTING_S
        while not self._listens():
            assert self._process.poll() is None, self._process.communicate()[0]
            assert time.monotonic() < until, "the server has not started"
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def hold_after(self, deltas: int) -> None:
        """Let the agent `Long` say so much and then wait for `go_on`. Before it is asked."""
        self._hold.write_text(str(deltas))

    def go_on(self) -> None:
        """Let it say all."""
        self._hold.unlink(missing_ok=True)

    def ask(self, method: str, path: str, body: Any) -> Any:
        """What it answers to a request beside the page's, of the same person."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=_STARTING_S) as answer:
            return json.load(answer)

    def kill(self) -> None:
        """As a crash: kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None


def say(page: Page, text: str, agent: str | None = None) -> None:
    """Write a message and send it as people do."""
    if agent is not None:
        page.get_by_label("Agent").select_option(agent)
    page.get_by_role("textbox", name="Your message").fill(text)
    page.keyboard.press("Enter")


def shown_answer(page: Page) -> str:
    """The text of the last message that counts, its blocks as they are in the source of plain paragraphs."""
    return page.evaluate(
        """() => {
            const all = [...document.querySelectorAll('.run > .message')];
            const blocks = all.length ? [...all.at(-1).querySelectorAll('.markdown > *')] : [];
            return blocks.map((block) => block.textContent).join('\\n\\n');
        }"""
    )


def wait_for(page: Page, expression: str, argument: Any = None) -> None:
    """Until the JavaScript function holds on the page."""
    page.wait_for_function(expression, arg=argument, timeout=20_000)
