"""The OpenAPI description of a server. Written by hand: a promise, which tests keep.

Here are the addresses of the server's own protocol; those of the others are in `openapi_protocols`. Where the module of
a route's endpoint has a function `openapi_paths()`, what it returns (path -> path item) is added, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from runstream.flow.text_units import UNITS
from runstream.server.openapi_protocols import SENT_EVENT, protocol_paths

__all__ = ["ERROR_REPLY", "EVENT_STREAM", "describe", "errors", "json_reply"]

_STATUSES = ["queued", "running", "waiting", "completed", "failed", "cancelled", "interrupted"]


def describe(agents: Sequence[str], root: str, *, needs_token: bool, routes: Iterable[Any] = ()) -> dict[str, Any]:
    """The description of a server with these agents and routes, below that path."""
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "runstream", "version": "1", "description": "Runs of agents, and their events."},
        "servers": [{"url": root or "/"}],
        "paths": _paths() | _paths_of_protocols(agents, routes),
        "components": {"schemas": _schemas(agents)},
    }
    if needs_token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _paths_of_protocols(agents: Sequence[str], routes: Iterable[Any]) -> dict[str, Any]:
    routes = list(routes)
    served = {re.sub(r":\w+}", "}", getattr(route, "path", "")) for route in routes}
    modules = dict.fromkeys(getattr(getattr(route, "endpoint", None), "__module__", None) for route in routes)
    paths: dict[str, Any] = {path: item for path, item in protocol_paths(agents).items() if path in served}
    for name in modules:
        tells: Any = getattr(sys.modules.get(name or ""), "openapi_paths", None)
        if tells is not None:
            paths |= tells()
    return paths


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def json_reply(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An answer with that text as its description, whose body is such JSON."""
    return {"description": text, "content": _content(schema)}


EVENT_STREAM: dict[str, Any] = {
    "description": (
        "Server-sent events: `id` is the cursor `<epoch>-<seq>`, `data` one event of the run. An event `resync` says "
        "that the given cursor is no place in the log, and from which one the stream goes on; an event `failure` that "
        "it cannot go on for now. Ends after the event of the kind `run.end`."
    ),
    "headers": {"Runstream-Run-Id": {"schema": {"type": "string"}}},
    "content": {"text/event-stream": {"schema": SENT_EVENT}},
}
_RUN_ID = {"name": "run_id", "in": "path", "required": True, "schema": {"type": "string"}}


ERROR_REPLY: dict[str, Any] = json_reply("Refused", _ref("Error"))


def errors(*statuses: int) -> dict[str, Any]:
    """The refusals of an address: those of every one, and these."""
    everywhere = (400, 401, 403, 500, 503)
    return {str(status): ERROR_REPLY for status in (*everywhere, *statuses)}


def _query(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": _content(_ref(name))}


_SMOOTH = _query(
    "smooth",
    "Events of text come evenly, by this unit, at most a second later: for people who watch them appear.",
    {"enum": list(UNITS)},
)


def _asking(summary: str, body: str) -> dict[str, Any]:
    replies = {"202": json_reply("Accepted", _ref("Accepted")), **errors(404, 408, 409, 413, 415, 422)}
    if body == "Cancel":
        replies["200"] = json_reply("It has ended already", _ref("Accepted"))
    return {"summary": summary, "parameters": [_RUN_ID], "requestBody": _body(body), "responses": replies}


def _paths() -> dict[str, Any]:
    return {
        "/runs": {
            "post": {
                "summary": "Begin a run",
                "description": "With `Accept: text/event-stream` its events are the answer.",
                "parameters": [_SMOOTH],
                "requestBody": _body("NewRun"),
                "responses": {
                    "200": EVENT_STREAM,
                    "201": json_reply("It has begun", _ref("Begun")),
                    **errors(408, 413, 415, 422, 429),
                },
            },
            "get": {
                "summary": "The newest runs",
                "parameters": [
                    _query("status", "May be given again.", {"type": "array", "items": {"enum": _STATUSES}}),
                    _query("agent", "Name of the agent that it began with.", {"type": "string"}),
                    _query("limit", "At most so many.", {"type": "integer", "minimum": 1, "maximum": 1000}),
                    _query("before", "The list's next part: its `next`.", {"type": "string"}),
                ],
                "responses": {"200": json_reply("Runs", _ref("Runs")), **errors(422)},
            },
        },
        "/runs/{run_id}": {
            "get": {
                "summary": "The run as an interface shows it",
                "parameters": [_RUN_ID],
                "responses": {"200": json_reply("A snapshot", _ref("Snapshot")), **errors(404)},
            },
            "delete": {
                "summary": "Remove the run and all that belongs to it",
                "parameters": [_RUN_ID],
                "responses": {"204": {"description": "It is gone"}, **errors(404)},
            },
        },
        "/runs/{run_id}/events": {
            "get": {
                "summary": "The events of a run: what was, then what comes",
                "parameters": [
                    _RUN_ID,
                    _query("after", "The cursor of the last event that was seen.", {"type": "string"}),
                    _SMOOTH,
                    {
                        "name": "Last-Event-ID",
                        "in": "header",
                        "description": "As `after`.",
                        "schema": {"type": "string"},
                    },
                ],
                "responses": {
                    "200": EVENT_STREAM,
                    "204": {"description": "The run has ended, and the cursor is its last event."},
                    **errors(404, 422, 429),
                },
            }
        },
        "/runs/{run_id}/cancel": {"post": _asking("Stop the run, at once or after its turn", "Cancel")},
        "/runs/{run_id}/approvals": {"post": _asking("Answer a call that waits for a person", "Approval")},
        "/runs/{run_id}/input": {"post": _asking("Say something more while the run goes on", "MoreInput")},
        "/healthz": {"get": {"summary": "The process answers", "security": [], "responses": _health("200")}},
        "/readyz": {"get": {"summary": "Runs are taken", "security": [], "responses": _health("200", "503")}},
        "/metrics": {
            "get": {
                "summary": "Figures of the runs and of the server, for Prometheus",
                "responses": {
                    "200": {"description": "Figures", "content": {"text/plain": {"schema": {"type": "string"}}}},
                    **errors(501),
                },
            }
        },
        "/openapi.json": {
            "get": {
                "summary": "This description",
                "responses": {"200": json_reply("OpenAPI", {"type": "object"}), **errors()},
            }
        },
    }


def _health(*statuses: str) -> dict[str, Any]:
    return {status: json_reply("Its status", _ref("Health")) for status in statuses} | {
        "403": ERROR_REPLY,
    }


def _object(required: Sequence[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _part() -> dict[str, Any]:
    """A part of a message that is no text, as in OpenAI's Responses API."""
    kinds = ["input_image", "input_file", "input_audio"]
    return {"type": "object", "properties": {"type": {"enum": kinds}}, "required": ["type"]}


def _schemas(agents: Sequence[str]) -> dict[str, Any]:
    text = {"type": "string"}
    truth = {"type": "boolean"}
    optional_text = {"type": ["string", "null"]}
    moment = {"type": "number", "description": "Seconds since the epoch."}
    part = {"oneOf": [_object(["type", "text"], type={"const": "input_text"}, text=text), _part()]}
    content = {"oneOf": [text, {"type": "array", "items": part}]}
    message = _object(["role", "content"], type={"const": "message"}, role={"const": "user"}, content=content)
    given = {"oneOf": [text, {"type": "array", "items": message, "minItems": 1}]}
    run = {
        "run_id": text,
        "agent": text,
        "status": {"enum": _STATUSES},
        "owner": optional_text,
        "cursor": text,
        "created_at": moment,
        "updated_at": moment,
        "ended_at": {"type": ["number", "null"]},
    }
    needed = ["input", "agent"] if len(agents) > 1 else ["input"]
    agent: dict[str, Any] = {"enum": list(agents) if len(agents) > 1 else [*agents, None]}
    session = {"type": ["string", "null"], "minLength": 1, "maxLength": 200, "pattern": "^[ -~]*$"}
    return {
        "NewRun": {
            **_object(needed, input=given, agent=agent, session=session),
            "additionalProperties": False,
        },
        "Cancel": {**_object([], mode={"enum": ["immediate", "after_turn"]}), "additionalProperties": False},
        "Approval": {
            **_object(["call_id", "approve"], call_id=text, approve=truth, always=truth, message=optional_text),
            "additionalProperties": False,
        },
        "MoreInput": {**_object(["input"], input=given), "additionalProperties": False},
        "Begun": _object(["run_id", "agent", "cursor"], run_id=text, agent=text, cursor=text),
        "Accepted": _object(["run_id", "accepted"], run_id=text, accepted=truth),
        "Run": _object(list(run), **run),
        "Runs": _object(
            ["runs", "next"],
            runs={"type": "array", "items": _ref("Run")},
            next={"type": ["string", "null"], "description": "For `before`; null at the end."},
        ),
        "Snapshot": _object([*run, "view"], **run, view={"type": "object", "description": "See docs/views.md."}),
        "Health": _object(["status"], status=text),
        "Error": _object(["error"], error=_object(["code", "message"], code=text, message=text)),
    }
