"""Seed 003: its complete program under `runstream run`, its fragments, its customisations and its common issues."""

import asyncio
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import colorama
import pytest

from runstream import Agent, Runner
from runstream.testing import Endpoint, Fault, say

pytestmark = pytest.mark.system

ANSWER = "Recursion is like a function that calls itself. Think of it as a Russian doll."
SHOWN = f"=== Starting Stream ===\n{ANSWER}\n=== Stream Complete ===\n"
QUESTION = "Explain recursion in programming in simple terms."


def test_the_program_runs_unmodified(program: Path, runstream_run: Any) -> None:
    """It prints what the seed expects, and nothing else; the request is the one that it describes."""
    with Endpoint(ANSWER) as endpoint:
        process = runstream_run(program, OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY="from-the-environment")
        assert process.communicate(timeout=30) == (SHOWN, "")
        assert process.returncode == 0
    (request,) = endpoint.requests
    assert request.is_streamed
    assert request.headers["authorization"] == "Bearer from-the-environment"
    assert request.model_name == "gpt-4o"
    assert request.instructions == "You are a helpful assistant that explains things clearly."
    assert request.user_text == QUESTION


def test_the_key_may_come_from_a_file(program: Path, runstream_run: Any) -> None:
    """`load_dotenv()` finds the `.env` beside the script, as under plain Python."""
    with Endpoint(ANSWER, api_key="from-the-file") as endpoint:
        (program.parent / ".env").write_text(f"OPENAI_API_KEY=from-the-file\nOPENAI_BASE_URL={endpoint.url}\n")
        process = runstream_run(program)
        assert process.communicate(timeout=30) == (SHOWN, "")
        assert process.returncode == 0


def test_issue_key_not_found(program: Path, runstream_run: Any) -> None:
    """Without a key nothing is sent: the last line of the error says what to set, the status that it failed."""
    with Endpoint(ANSWER) as endpoint:
        process = runstream_run(program, OPENAI_BASE_URL=endpoint.url)
        shown, errors = process.communicate(timeout=30)
    assert shown == "=== Starting Stream ===\n"
    assert "no API key: set the environment variable OPENAI_API_KEY" in errors.splitlines()[-1]
    assert process.returncode == 1
    assert endpoint.requests == []


def test_issue_wrong_key(program: Path, runstream_run: Any) -> None:
    """A key that the service refuses is said to be wrong, after one request."""
    with Endpoint(ANSWER, api_key="right") as endpoint:
        process = runstream_run(program, OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY="wrong")
        _, errors = process.communicate(timeout=30)
    assert errors.splitlines()[-1].startswith("openai.AuthenticationError: Error code: 401")
    assert process.returncode == 1
    assert len(endpoint.requests) == 1


def test_issue_output_appears_all_at_once(program: Path, runstream_run: Any) -> None:
    """It does not: what the model has said is on standard output while the model is still silent over the rest."""
    said = "Recursion is like a function"
    with Endpoint(say(ANSWER, fault=Fault("silence", after=len(said.split())))) as endpoint:
        process = runstream_run(program, OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY="any")
        try:
            assert process.stdout.readline() == "=== Starting Stream ===\n"
            assert process.stdout.read(len(said)) == said
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate()


async def test_issue_stream_events_not_appearing(serving: Any, agent: Agent[Any]) -> None:
    """A plain `for` over `stream_events()`, where `async for` is due, is an error and no empty stream."""
    async with serving(ANSWER):
        result = Runner.run_streamed(agent, QUESTION)
        with pytest.raises(TypeError, match="use `async for`"):
            for _ in result.stream_events():  # type: ignore[attr-defined]
                pass
        assert (await result.wait()).final_output == ANSWER


@pytest.mark.parametrize("name", ["003_event_processing", "003_typing_indicator"])
async def test_event_processing(
    name: str,
    serving: Any,
    frame: Any,
    fragment: Callable[[str], str],
    agent: Agent[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The loop prints the answer, chunk by chunk; with a pause after each chunk, too."""
    async with serving(ANSWER):
        result = Runner.run_streamed(agent, QUESTION)
        await frame(fragment(name), result=result)
    assert capsys.readouterr().out == ANSWER == result.final_output


async def test_progress_indicators(
    serving: Any, frame: Any, fragment: Callable[[str], str], agent: Agent[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each chunk comes with its number."""
    async with serving(say(["Recursion ", "calls ", "itself."])):
        variables = await frame(fragment("003_progress_indicator"), result=Runner.run_streamed(agent, QUESTION))
    assert capsys.readouterr().out == "[1] Recursion [2] calls [3] itself."
    assert variables["chunk_count"] == 3


async def test_colour_coded_streaming(
    serving: Any, frame: Any, fragment: Callable[[str], str], agent: Agent[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal each chunk is green."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    try:
        async with serving(say(["Recursion ", "calls ", "itself."])):
            await frame(fragment("003_color_coded"), result=Runner.run_streamed(agent, QUESTION))
    finally:
        colorama.deinit()
    green = colorama.Fore.GREEN
    assert terminal.getvalue() == f"{green}Recursion {green}calls {green}itself."


async def test_the_environment_fragment(
    serving: Any, frame: Any, fragment: Callable[[str], str], agent: Agent[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that `set_default_openai_key` is given is the one that is sent."""
    from runstream import set_default_openai_key
    from runstream.models.defaults import defaults

    monkeypatch.setattr(defaults, "api_key", None)
    async with serving(ANSWER) as endpoint:
        await frame(
            fragment("003_environment"),
            os=os,
            # What the file held, without a look at the files of whoever runs this.
            load_dotenv=lambda: monkeypatch.setenv("OPENAI_API_KEY", "from-the-file"),
            set_default_openai_key=set_default_openai_key,
        )
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        assert (await Runner.run(agent, QUESTION)).final_output == ANSWER
    assert endpoint.requests[0].headers["authorization"] == "Bearer from-the-file"


async def test_the_agent_and_main_fragments(
    serving: Any, define: Any, fragment: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Put into a program with a loop of its own, they do the same as in theirs."""
    namespace = define(f"{fragment('003_agent')}\n{fragment('003_main')}")
    async with serving(ANSWER) as endpoint:
        await asyncio.create_task(namespace["main"]())
    assert capsys.readouterr().out == SHOWN
    assert endpoint.requests[0].model_name == "gpt-4o"
