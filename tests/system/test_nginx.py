"""The server behind Debian's nginx: with nothing but a `proxy_pass`, and as docs/server.md says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from debian_tools import skip
from nginx_server import NO_NGINX, NginxServer, install_server
from redis_server import free_port
from runstream import Agent, function_tool
from runstream.cli import _cli
from runstream.server import create_app
from runstream.server.app import service_of
from runstream.testing import FakeClock, ScriptedModel, ToolCall, Turn
from serving import Client, serving

pytestmark = pytest.mark.system

DOCUMENT = Path(__file__).parents[2] / "docs/server.md"
_FOUND = re.search(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
assert _FOUND is not None
DOCUMENTED = _FOUND[1]
# All that Debian's own configuration leaves to the defaults, and as much compression as can be asked for.
PLAIN = """
gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;
server { listen 80; location / { proxy_pass http://127.0.0.1:8000; } }
"""
HEARTBEAT = ": \n\n"
WORDS = "one two three four five"


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """`proxy(configuration, url)`: the address of an nginx in front of that server."""
    program = install_server()
    if program is None:
        skip(NO_NGINX)
    servers: list[NginxServer] = []

    def start(configuration: str, url: str) -> str:
        port = free_port()
        http = configuration.replace("listen 80;", f"listen 127.0.0.1:{port};")
        servers.append(NginxServer(program, tmp_path / "nginx", http.replace("http://127.0.0.1:8000", url), port))
        servers[-1].start()
        return f"http://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop()


class Gated:
    """An agent whose tool waits for the test: what a client has read by then came before the run's end."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

        @function_tool
        async def wait() -> str:
            """Waits."""
            await self.open.wait()
            return "done"

        script = [Turn(("Wait.", ToolCall("wait"))), WORDS]
        self.agent: Agent[Any] = Agent(name="Desk", model=ScriptedModel(script, repeat=True), tools=[wait])


class Bytes:
    """What a client has read of a response, as it comes."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.text = ""

    async def until(self, wanted: str) -> str:
        while wanted not in self.text:
            piece = await self._response.content.readany()
            assert piece, f"the stream ended without {wanted!r}: {self.text[-500:]}"
            self.text += piece.decode()
        return self.text

    async def rest(self) -> str:
        self.text += (await self._response.content.read()).decode()
        return self.text


@pytest.mark.parametrize(("configuration", "path"), [(PLAIN, ""), (DOCUMENTED, "/agents")], ids=["plain", "documented"])
async def test_each_frame_passes_at_once(
    proxy: Callable[[str, str], str], tmp_path: Path, configuration: str, path: str
) -> None:
    """Events and heartbeats reach the client while the run waits for what the client has read; a client that goes is
    gone for the server, too; one that comes again gets what it lacks, once."""
    gated, clock = Gated(), FakeClock(autojump=False)
    app = create_app(gated.agent, store=f"sqlite:///{tmp_path}/runs.db", run_config={"clock": clock}, drain_s=0.0)
    hub: Callable[[], Any] = lambda: service_of(app).hub  # noqa: E731
    async with serving(app, root_path=path) as url, Client(proxy(configuration, url)) as client:
        body, accepts = {"input": "hi"}, {"Accept": "text/event-stream"}
        async with client.ask("POST", f"{path}/runs", body, **accepts) as response:
            assert response.status == 200, await response.text()
            run_id = response.headers["Runstream-Run-Id"]
            assert response.headers.get("Content-Encoding") == ("gzip" if configuration == PLAIN else None)
            read = Bytes(response)
            seen = await read.until('"tool_call_item"')
            await clock.advance(16.0)
            await read.until(HEARTBEAT)
        while hub().reader_count:  # noqa: ASYNC110 (the server has no event for it)
            await asyncio.sleep(0.005)
        last = re.findall(r"^id: (\S+)$", seen, re.MULTILINE)[-1]
        async with client.get(f"{path}/runs/{run_id}/events", headers={"Last-Event-ID": last}) as response:
            read = Bytes(response)
            await read.until("retry")  # it is read on from there before the run goes on
            gated.open.set()
            seen += await read.rest()
        seqs = [int(number) for number in re.findall(r"^id: \d+-(\d+)$", seen, re.MULTILINE)]
        assert seqs == list(range(1, len(seqs) + 1))
        assert '"final_output":"' + WORDS in seen


async def test_below_a_path(proxy: Callable[[str, str], str], tmp_path: Path) -> None:
    """As documented: addresses that the server gives lead to it, WebSockets pass, pages of that name may ask."""
    agent = Agent(name="Desk", model=ScriptedModel([WORDS], repeat=True))
    app = create_app(agent, store=f"sqlite:///{tmp_path}/runs.db", allowed_hosts=["agents.example.com"])
    async with serving(app, root_path="/agents") as url, Client(proxy(DOCUMENTED, url)) as client:
        named = {"Host": "agents.example.com", "Origin": "https://agents.example.com"}
        async with client.ask("POST", "/agents/runs", {"input": "hi"}, **named) as response:
            assert response.status == 201, await response.text()
            location = response.headers["Location"]
        assert location.startswith("/agents/runs/run_")
        assert (await client.json("GET", location))[1]["run_id"] in location
        async with client.ws_connect(f"{location}/ws") as socket:
            messages = [message.json() async for message in socket]
        assert messages[-1]["data"]["kind"] == "run.end"
        assert (await client.json("GET", "/agents/openapi.json"))[1]["servers"] == [{"url": "/agents"}]
        assert (await client.json("GET", "/agents/healthz"))[0] == 200
        status, answer = await client.json("GET", "/agents/runs", Host="evil.com")
        assert (status, answer["error"]["code"]) == (403, "host_not_allowed")


def test_a_path_that_is_none() -> None:
    """`--root-path` without a slash is told as the mistake that it is."""
    result = CliRunner().invoke(_cli, ["serve", "desk:desk", "--root-path", "agents"])
    assert result.exit_code == 2
    assert "'agents'" in result.output
