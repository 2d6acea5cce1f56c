"""Every address of the server with requests that its description allows and forbids: never a 500, never a hang, and
never an answer that the description does not name."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from runstream import Agent, InMemorySession, function_tool
from runstream.server import create_app
from runstream.server.app import service_of
from runstream.server.openapi import describe
from runstream.testing import ScriptedModel, ToolCall
from serving import Client, serving

pytestmark = pytest.mark.system

EXAMPLES = 6
PATIENCE_S = 10.0
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def served_app(store: str) -> Any:
    @function_tool(needs_approval=True)
    def refund() -> str:
        """Refunds."""
        return "done"

    desk = Agent(name="Desk", model=ScriptedModel(["It comes."], repeat=True))
    asks = Agent(name="Asks", model=ScriptedModel([ToolCall("refund"), "Refunded."], repeat=True), tools=[refund])
    sessions: dict[str, InMemorySession] = {}
    return create_app(
        [desk, asks],
        store=store,
        session=lambda name: sessions.setdefault(name, InMemorySession(name)),
        drain_s=0.0,
        heartbeat_s=0.2,
    )


class Served:
    """The app in a thread of its own: schemathesis does not wait."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.described = describe(["Desk", "Asks"], "", needs_token=False, routes=app.routes)
        self.url = ""
        self.known: dict[str, list[str]] = {}
        self._begun = threading.Event()
        self._done: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    async def _serve(self) -> None:
        self._done, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with serving(self.app) as url, Client(url) as client:
            ended = (await client.stream({"input": "hi", "agent": "Desk"}))[0].data["run"]
            waiting = (await client.json("POST", "/runs", {"input": "hi", "agent": "Asks"}))[1]["run_id"]
            self.url = url
            self.known = {
                "run_id": [ended, waiting],
                "response_id": [ended.replace("run_", "resp_"), waiting.replace("run_", "resp_")],
                "agent": ["Desk", "Asks"],
                "model": ["Desk"],
            }
            self._begun.set()
            await self._done.wait()

    def __enter__(self) -> Served:
        self._thread.start()
        self._begun.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._done is not None
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with Served(served_app(f"sqlite:///{tmp_path}/runs.db")) as server:
        yield server


def needed_of(described: dict[str, Any], operation: Any) -> set[str]:
    """What must be in a body: much that may be there as well is refused by its content."""
    body = described["paths"][operation.path][operation.method.lower()].get("requestBody")
    if body is None:
        return set()
    schema = body["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return {*schema.get("required", ()), "messages", "agent"}


def test_every_address_keeps_its_word(served: Served) -> None:
    """What is asked for is made of the description, or breaks it; ids are those of runs that are there, or of none."""
    schema = schemathesis.openapi.from_dict(served.described)
    session = requests.Session()
    asked: set[str] = set()

    def fuzz(operation: Any, mode: GenerationMode) -> None:
        is_whole = operation.path == "/v1/chat/completions"
        needed = needed_of(served.described, operation)
        is_streamed = operation.label in ("GET /runs/{run_id}/events", "GET /v1/responses/{response_id}")

        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            deadline=None,
            database=None,
        )
        @given(case=operation.as_strategy(mode), pick=st.integers(0, 3))
        def each(case: Any, pick: int) -> None:
            for name in case.path_parameters or {}:
                known = served.known.get(name, [])
                if is_streamed:  # that of a run that waits would not end
                    known = known[:1]
                if pick < len(known):
                    case.path_parameters[name] = known[pick]
            if isinstance(case.body, dict) and pick:
                case.body = {name: value for name, value in case.body.items() if name in needed}
            if is_whole and isinstance(case.body, dict) and case.body.get("model") == "Asks":
                case.body["model"] = "Desk"  # the other one's answer waits for a person
            response = case.call(base_url=served.url, session=session, timeout=PATIENCE_S)
            case.validate_response(response, checks=CHECKS)
            asked.add(operation.label)

        try:
            each()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # nothing that it could be asked would be wrong

    with session:
        operations = [found.ok() for found in schema.get_all_operations()]
        # Runs that are there are read, then changed, then stopped, then removed.
        operations.sort(key=lambda each: (["GET", "POST", "DELETE"].index(each.method.upper()), "cancel" in each.path))
        for operation in operations:
            fuzz(operation, GenerationMode.POSITIVE)
            if operation.body or operation.query:
                fuzz(operation, GenerationMode.NEGATIVE)
        assert len(asked) == len(operations)
        ready = session.get(f"{served.url}/readyz", timeout=PATIENCE_S)
        assert ready.status_code == 200
    assert service_of(served.app).hub.reader_count == 0
