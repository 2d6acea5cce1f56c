"""`runstream serve` as a process of its own: killed and started again, stopped in order, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from runstream.cli import _cli
from serving import Client, Frame, frames_of

pytestmark = pytest.mark.system

DESK = """
    from runstream import Agent
    from runstream.testing import ScriptedModel, Turn

    WORDS = " ".join(f"word{n}" for n in range(60))
    desk = Agent(name="Desk", model=ScriptedModel([Turn((WORDS,), every_s=0.02)], repeat=True))
"""
WORDS = " ".join(f"word{n}" for n in range(60))


class Served:
    """A server, on a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "desk_to_serve.py").write_text(textwrap.dedent(DESK))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "runstream.cli", "serve", "desk_to_serve:desk", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--store", f"sqlite:///{self._folder}/runs.db", *options],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_DATA_HOME": str(self._folder)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == self.url

    def end(self, number: int) -> tuple[int, str]:
        """Send the signal; the status, and what was printed."""
        assert self.process is not None
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


async def follow(client: Client, run_id: str, seen: list[Frame]) -> None:
    """As an EventSource does: come again from the last event, until the end."""
    while not seen or seen[-1].data["kind"] != "run.end":
        headers = {"Last-Event-ID": seen[-1].id or ""} if seen else {}
        try:
            async with client.get(f"/runs/{run_id}/events", headers=headers) as response:
                async for frame in frames_of(response):
                    seen.append(frame)
        except (aiohttp.ClientError, ConnectionError, AssertionError):
            await asyncio.sleep(0.02)


async def test_killed_in_mid_sentence(served: Served) -> None:
    """`kill -9` while a reader reads: the server that is started next goes on with the run, and the reader has
    every event once."""
    served.start()
    async with Client(served.url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        seen: list[Frame] = []
        reading = asyncio.create_task(follow(client, begun["run_id"], seen))
        while len(seen) < 20:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(served.end, signal.SIGKILL)
        await asyncio.to_thread(served.start)
        await reading
        assert [frame.data["seq"] for frame in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].data["data"]["final_output"] == WORDS
        discarded = [frame.data["data"] for frame in seen if frame.data["kind"] == "attempt.discarded"]
        assert discarded
        assert {each["reason"] for each in discarded} == {"taken_over"}
        again: list[Frame] = []
        await follow(client, begun["run_id"], again)
        assert [(frame.id, frame.data) for frame in again] == [(frame.id, frame.data) for frame in seen]
        _, shown = await client.json("GET", f"/runs/{begun['run_id']}")
        assert shown["view"]["final_output"] == WORDS


async def test_stopped_in_order(served: Served) -> None:
    """SIGTERM lets the run end, its readers see it, and the status is 0."""
    served.start()
    async with Client(served.url) as client:
        async with client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream") as response:
            frames = frames_of(response)
            await anext(frames)
            ending = asyncio.create_task(asyncio.to_thread(served.end, signal.SIGTERM))
            left = [frame async for frame in frames]
            assert left[-1].data["data"]["status"] == "completed"
        status, output = await ending
        assert (status, output) == (0, "")


async def test_the_second_signal_hands_over_at_once(served: Served) -> None:
    """The run is left to the next server; the stream ends, and the client comes again there."""
    served.start()
    async with Client(served.url) as client:
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        seen: list[Frame] = []
        async with client.get(f"/runs/{begun['run_id']}/events") as response:
            async for frame in frames_of(response):
                seen.append(frame)
                if len(seen) == 10:
                    assert served.process is not None
                    served.process.send_signal(signal.SIGTERM)
                    await asyncio.sleep(0.1)
                    served.process.send_signal(signal.SIGTERM)
        assert seen[-1].data["kind"] != "run.end"
        status = await asyncio.to_thread(served.process.wait, 20)
        assert status == 0
        served.process.communicate()
        await asyncio.to_thread(served.start)
        await follow(client, begun["run_id"], seen)
        assert seen[-1].data["data"]["final_output"] == WORDS
        assert [frame.data["seq"] for frame in seen] == list(range(1, len(seen) + 1))


def test_other_machines_need_a_token() -> None:
    """An address that others can reach is refused without one."""
    result = CliRunner().invoke(_cli, ["serve", "desk:desk", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "--token" in result.output


async def test_tokens_of_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """RUNSTREAM_TOKENS keeps them out of the list of processes; an owner stands before his."""
    monkeypatch.setenv("RUNSTREAM_TOKENS", f"ann={'a' * 20} {'x' * 20}")
    await asyncio.to_thread(served.start)
    async with Client(served.url) as client:
        assert (await client.json("GET", "/runs"))[0] == 401
        _, begun = await client.json("POST", "/runs", {"input": "hi"}, Authorization=f"Bearer {'a' * 20}")
        _, listed = await client.json("GET", "/runs", Authorization=f"Bearer {'x' * 20}")
        assert [(run["run_id"], run["owner"]) for run in listed["runs"]] == [(begun["run_id"], "ann")]
        await client.json("POST", f"/runs/{begun['run_id']}/cancel", {}, Authorization=f"Bearer {'x' * 20}")
    await asyncio.to_thread(served.end, signal.SIGTERM)


@pytest.mark.parametrize(
    ("option", "given", "told"),
    [
        ("--store", "sqlite:///nowhere/runs.db", "there is no directory"),
        ("--store", "mysql://runs", "is no URL of a store"),
        ("--sessions", "nowhere/sessions.db", "there is no directory"),
    ],
)
def test_a_place_that_cannot_be_used(
    option: str, given: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said in one line, without a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    result = CliRunner().invoke(_cli, ["serve", "--port", "0", option, given])
    assert (result.exit_code != 0, told in result.output.splitlines()[-1]) == (True, True), result.output
