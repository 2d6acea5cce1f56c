"""What the tests of the seed documents share: the printed fragments, a frame to run them in, and the service."""

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseTextDeltaEvent

from runstream import Agent, Runner
from runstream.testing import Endpoint

FRAGMENTS = Path(__file__).parent / "fragments"
PROGRAM = ("imports", "environment", "agent", "main", "execution")

Serving = Callable[[Any], AbstractAsyncContextManager[Endpoint]]
Frame = Callable[..., Any]


@pytest.fixture
def fragment() -> Callable[[str], str]:
    """A fragment of a seed, word by word as it is printed there."""
    return lambda name: (FRAGMENTS / f"{name}.txt").read_text()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The complete program of seed 003 in a file: its fragments in the order of the document."""
    path = tmp_path / "3runasyncstreaming.py"
    path.write_text("\n".join((FRAGMENTS / f"003_{name}.txt").read_text() for name in PROGRAM))
    return path


@pytest.fixture
def agent() -> Agent[Any]:
    return Agent(name="Assistant", instructions="You are a helpful assistant.")


@pytest.fixture
def frame() -> Frame:
    """Runs a fragment as the body of a coroutine function, under the imports of the seeds and the names given.

    Returns the variables that the fragment has set.
    """

    async def run(source: str, **given: Any) -> dict[str, Any]:
        body = textwrap.indent(textwrap.dedent(source), "    ")
        scope = _scope(f"async def framed():\n{body}\n    return locals()\n", given)
        return await scope["framed"]()

    return run


@pytest.fixture
def define() -> Frame:
    """Executes a fragment that defines a function or a class, under the same names; returns its namespace."""
    return lambda source, **given: _scope(source, given)


def _scope(source: str, given: dict[str, Any]) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "Agent": Agent,
        "Runner": Runner,
        "ResponseTextDeltaEvent": ResponseTextDeltaEvent,
        "asyncio": asyncio,
        "time": time,
        **given,
    }
    exec(compile(source, "<fragment of a seed>", "exec"), scope)
    return scope


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    """Opens an endpoint that plays the script, and makes it the service of this process."""

    @asynccontextmanager
    async def serve(script: Any) -> AsyncGenerator[Endpoint, None]:
        async with Endpoint(script) as endpoint:
            use(monkeypatch, endpoint)
            yield endpoint

    return serve


@pytest.fixture
def serving_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Endpoint]:
    """The same for code that blocks the event loop: a plain `with`, the endpoint in a thread of its own."""

    class Served(Endpoint):
        def __enter__(self) -> "Served":
            super().__enter__()
            use(monkeypatch, self)
            return self

    return Served


def use(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", "scripted")


@pytest.fixture
def runstream_run() -> Callable[..., subprocess.Popen[str]]:
    """Starts `runstream run SCRIPT` in a process of its own, in the script's folder, with warnings as errors."""

    def start(script: Path, **environment: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "runstream.cli", "run", script.name],
            cwd=script.parent,
            env={**inherited, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
