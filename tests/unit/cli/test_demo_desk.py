"""The demonstration, from within: its agents, its script, its choice of a model, and its verdict on a run."""

from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from runstream import OpenAIProvider, RunConfig, Runner
from runstream.cli.demo import _problem, _service, command, demo_script, support_desk
from runstream.testing import Endpoint, FakeClock, Fault, Script, ToolCall, say


@pytest.fixture(autouse=True)
def _no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_DEFAULT_MODEL"):
        monkeypatch.delenv(name, raising=False)


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(command, arguments, env=environment, prog_name="runstream demo")


@pytest.mark.parametrize("use_responses", [True, False])
async def test_the_desk_plays_its_script_in_less_than_eight_seconds(use_responses: bool) -> None:
    """Both tools are called, one handoff is made, the answer is long enough, and no turn is left over."""
    clock = FakeClock()
    started_at = clock.now()
    async with Endpoint(demo_script(), clock=clock) as endpoint:
        provider = OpenAIProvider(api_key="k", base_url=endpoint.url, use_responses=use_responses)
        result = await Runner.run(support_desk("m"), "Help!", run_config=RunConfig(model_provider=provider))
        endpoint.assert_complete()
    assert [type(item).__name__ for item in result.new_items] == [
        *["MessageOutputItem", "ToolCallItem", "ToolCallOutputItem", "HandoffCallItem", "HandoffOutputItem"],
        *["ToolCallItem", "ToolCallOutputItem", "MessageOutputItem"],
    ]
    assert result.last_agent.name == "Refund Agent"
    assert len(result.final_output.split()) >= 100
    assert 3 < clock.now() - started_at < 7


async def test_tools_know_their_one_order() -> None:
    """A real model that asks for another gets to know that there is none."""
    script = [{"tool_call": "look_up_order", "arguments": {"order_id": "7"}}, "Sorry."]
    async with Endpoint(script) as endpoint:
        provider = OpenAIProvider(api_key="k", base_url=endpoint.url)
        result = await Runner.run(support_desk("m"), "Help!", run_config=RunConfig(model_provider=provider))
    assert "there is no order 7" in str(result.to_input_list())


@pytest.mark.parametrize(
    ("environment", "model", "base_url", "service"),
    [
        ({}, None, None, None),
        ({"OPENAI_API_KEY": ""}, None, None, None),
        ({"OPENAI_BASE_URL": "http://a/v1"}, None, None, None),
        ({"OPENAI_API_KEY": "k"}, None, None, ("gpt", "api.openai.com", None)),
        ({"OPENAI_API_KEY": "k"}, "m", "http://b/v1", ("m", "http://b/v1", None)),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://a/v1"}, "m", None, ("m", "http://a/v1", None)),
        ({}, "m", "http://b/v1", ("m", "http://b/v1", "none")),
        ({}, None, "http://b/v1", ("gpt", "http://b/v1", "none")),
        ({"OPENAI_BASE_URL": "http://a/v1"}, "m", None, ("m", "http://a/v1", "none")),
        ({}, "m", None, click.UsageError),
    ],
)
def test_which_model_is_asked(
    environment: dict[str, str], model: str | None, base_url: str | None, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key, or a model or server that is named, means a real one; a model without a place is an error."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if service is click.UsageError:
        with pytest.raises(click.UsageError, match="--base-url"):
            _service(model, base_url)
        return
    chosen = _service(model, base_url)
    if service is None:
        assert chosen is None
        return
    assert chosen is not None
    name, address, key = service
    assert str(chosen).startswith(f"model {name}")
    assert str(chosen).endswith(f" at {address}")
    assert chosen.api_key == key


@pytest.mark.parametrize(("api", "path"), [("responses", "/v1/responses"), ("chat", "/v1/chat/completions")])
def test_the_same_agents_talk_to_a_real_service(api: str, path: str) -> None:
    """Through the chosen API, under the chosen name, with the user's question; and the first line says so."""
    with Endpoint(demo_script(fast=True)) as endpoint:
        result = invoke("Where is it?", "--api", api, "--model", "their/model", "--base-url", endpoint.url, "--fast")
        asked = endpoint.requests
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == f"model their/model at {endpoint_of(asked)}"
    assert "no LLM" not in result.output
    assert [request.path for request in asked] == [path] * 4
    assert {request.model_name for request in asked} == {"their/model"}
    assert {request.user_text for request in asked} == {"Where is it?"}
    assert asked[0].tool_names == ("look_up_order", "transfer_to_refund_agent")
    assert asked[2].tool_names == ("refund_order",)
    assert [request.headers["authorization"] for request in asked] == ["Bearer none"] * 4


def endpoint_of(requests: list[Any]) -> str:
    return f"http://{requests[0].headers['host']}/v1"


def test_a_key_and_an_address_from_the_environment() -> None:
    """The variables of the official client are enough."""
    with Endpoint(demo_script(fast=True), api_key="secret") as endpoint:
        result = invoke("--fast", OPENAI_API_KEY="secret", OPENAI_BASE_URL=endpoint.url, OPENAI_DEFAULT_MODEL="m")
    assert result.exit_code == 0
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Script([say("Half of an answer", fault=Fault("reset", after=2))]), "broke"),
        (Script([say("Half of an answer", fault=Fault("failed", after=2))]), "ModelStreamFailed"),
        (Script([Fault("http_error", status=401)]), "AuthenticationError"),
        (Script([ToolCall("no_such_tool")]), "no_such_tool"),
    ],
)
def test_a_run_that_fails_is_told_in_one_line(script: Script, words: str) -> None:
    """On standard error, with status 1; what came before stays on standard output."""
    with Endpoint(script) as endpoint:
        result = invoke("--model", "m", "--base-url", endpoint.url, "--fast")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert "Error" not in result.stdout
    assert ("\nHalf of\n" in result.stdout) == (words in ("broke", "ModelStreamFailed"))


def test_a_server_that_is_not_there() -> None:
    """The line names the address that could not be reached."""
    result = invoke("--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "127.0.0.1" in result.stderr
    assert "figures" not in result.stdout


def test_a_model_without_a_place_is_a_mistake_of_usage() -> None:
    """Status 2, as for every wrong option, before anything is asked."""
    result = invoke("--model", "gpt-9")
    assert result.exit_code == 2
    assert "set OPENAI_API_KEY" in result.stderr


@pytest.mark.parametrize(
    ("error", "status", "final_output", "problem"),
    [
        (None, "completed", "Yes.", None),
        (None, "completed", "Y\x1bes.", "the streamed text is not the final output: 'Yes.' is not 'Y\\x1bes.'"),
        (None, "completed", None, "the streamed text is not the final output: 'Yes.' is not None"),
        (None, "interrupted", "Yes.", "the run ended as interrupted, not as completed"),
        (ValueError("two\nlines\x1b[2J"), "failed", None, "ValueError: two lines\\x1b[2J"),
    ],
)
def test_the_verdict(error: Exception | None, status: str, final_output: Any, problem: str | None) -> None:
    """Good is only a completed run whose output is the text that was streamed."""
    result: Any = SimpleNamespace(run_loop_exception=error, final_output=final_output)
    assert _problem(result, status, "Yes.") == problem
