"""The app under granian, and under uvicorn without its faster parts; with them it is in all other tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from redis_server import free_port
from runstream import Agent, function_tool
from runstream.server import create_app
from runstream.testing import ScriptedModel
from serving import Client, frames_of, serving

pytestmark = pytest.mark.system

DESK = """
    from runstream import Agent, function_tool
    from runstream.server import create_app
    from runstream.testing import ScriptedModel, ToolCall

    @function_tool(needs_approval=True)
    def refund() -> str:
        '''Refunds.'''
        return "done"

    script = ScriptedModel([ToolCall("refund"), "It is refunded."], repeat=True)
    desk = Agent(name="Desk", model=script, tools=[refund])
    app = create_app(desk, store="sqlite:///runs.db", drain_s=0.1)
"""
SERVERS = {
    "granian": ["granian", "--interface", "asgi", "--workers", "1"],
    "uvicorn": ["uvicorn", "--loop", "asyncio", "--http", "h11"],
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], tuple[str, subprocess.Popen[str]]]]:
    """`start(name)`: the address that such a server is going to answer at, and its process."""
    processes: list[subprocess.Popen[str]] = []

    def started(name: str) -> tuple[str, subprocess.Popen[str]]:
        (tmp_path / "desk_to_serve.py").write_text(textwrap.dedent(DESK))
        module, *options = SERVERS[name]
        pytest.importorskip(module)
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options, "--host", "127.0.0.1", "--port", str(port), "desk_to_serve:app"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return f"http://127.0.0.1:{port}", process

    yield started
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a server's own processes, too
        except ProcessLookupError:
            pass  # it has ended
        process.communicate()


async def is_ready(client: Client) -> bool:
    try:
        return (await client.json("GET", "/readyz"))[0] == 200
    except aiohttp.ClientError:
        return False


async def readers(client: Client) -> float:
    async with client.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("runstream_server_readers "))


@pytest.mark.parametrize("name", list(SERVERS))
async def test_streams_disconnects_and_stops(
    name: str, start: Callable[[str], tuple[str, subprocess.Popen[str]]], tmp_path: Path
) -> None:
    """Events come while the run waits for who reads them; a reader that goes is noticed; a run that waits when the
    server is told to stop is handed on, and the next server ends it."""
    url, process = start(name)
    async with Client(url) as client:
        while not await is_ready(client):
            assert process.poll() is None, process.communicate()[0]
            await asyncio.sleep(0.05)
        async with client.ask("POST", "/runs", {"input": "hi"}, Accept="text/event-stream") as response:
            run_id = response.headers["Runstream-Run-Id"]
            async for frame in frames_of(response):
                if frame.data["data"].get("type") == "tool_approval_item":
                    break
            call_id = frame.data["data"]["raw"]["call_id"]
            assert await readers(client) == 1
            response.close()
        while await readers(client):  # noqa: ASYNC110 (it is asked over HTTP)
            await asyncio.sleep(0.02)
        async with client.ws_connect(f"/runs/{run_id}/ws?after={frame.id}") as socket:
            status, _ = await client.json("POST", f"/runs/{run_id}/approvals", {"call_id": call_id, "approve": True})
            assert status == 202
            messages = [message.json()["data"] async for message in socket]
        assert messages[-1]["data"]["final_output"] == "It is refunded."
        async with client.ask("HEAD", f"/runs/{run_id}/events") as response:
            assert (response.status, await response.read()) == (200, b"")
        async with client.ask("POST", "/runs", b"x" * 1_040_000) as response:
            assert response.status == 413
        _, begun = await client.json("POST", "/runs", {"input": "hi"})
        async with client.get(f"/runs/{begun['run_id']}/events") as response:
            async for frame in frames_of(response):
                if frame.data["data"].get("type") == "tool_approval_item":
                    break
            response.close()
        while await readers(client):  # noqa: ASYNC110 (it is asked over HTTP)
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode in (0, -signal.SIGTERM), output
    assert "Killing" not in output
    assert "Traceback" not in output

    @function_tool(needs_approval=True)
    def refund() -> str:
        """Refunds."""
        return "done"

    desk = Agent(name="Desk", model=ScriptedModel(["It is refunded."], repeat=True), tools=[refund])
    app = create_app(desk, store=f"sqlite:///{tmp_path}/runs.db")
    async with serving(app) as url, Client(url) as client:
        path = f"/runs/{begun['run_id']}/approvals"
        call_id = frame.data["data"]["raw"]["call_id"]
        assert (await client.json("POST", path, {"call_id": call_id, "approve": True}))[0] == 202
        frames = await client.events(begun["run_id"], frame.id or "")
        assert frames[-1].data["data"]["final_output"] == "It is refunded."
