"""The description of the addresses of the OpenAI protocols and of the page. What bodies hold beyond what is named here
is told by OpenAI's own specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["SENT_EVENT", "protocol_paths"]

_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}
_OBJECTS = {"type": "array", "items": _OBJECT}
_ROLE = {"const": "user"}
SENT_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "Each event of the stream.",
    "properties": {"id": _TEXT, "event": _TEXT, "data": _TEXT},
}


def _some(**properties: Any) -> dict[str, Any]:
    """A list of at least one object with these fields."""
    each = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "array", "items": each, "minItems": 1}


_PLAIN_ERROR = {"$ref": "#/components/schemas/Error"}
_OPENAI_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": _TEXT,
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def _json(text: str, schema: dict[str, Any] = _OBJECT) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _errors(error: dict[str, Any], *statuses: int) -> dict[str, Any]:
    return {str(status): _json("Refused", error) for status in (400, 401, 403, 500, 503, *statuses)}


def _in_path(name: str, schema: dict[str, Any] = _TEXT) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _body(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_POSTED = (404, 408, 409, 413, 415, 422, 429)


def _openai(agents: Sequence[str]) -> dict[str, Any]:
    response_id = [_in_path("response_id")]
    truth = {"type": "boolean"}
    posted = _errors(_OPENAI_ERROR, *_POSTED)
    got = _errors(_OPENAI_ERROR, 404, 410, 422, 429)
    either = {
        "description": "A response of OpenAI's API, or its events",
        "content": {"application/json": {"schema": _OBJECT}, "text/event-stream": {"schema": SENT_EVENT}},
    }
    listed = {
        "type": "object",
        "properties": {"object": {"const": "list"}, "data": _OBJECTS},
        "required": ["object", "data"],
    }
    model = {"enum": list(agents)}
    messages = _some(role=_ROLE, content=_TEXT)
    completion = _body(("model", "messages"), model=model, messages=messages, stream=truth)
    response = _body(
        ("model", "input"),
        model=model,
        input={"oneOf": [{**_TEXT, "minLength": 1}, messages]},
        stream=truth,
        background=truth,
        store=truth,
        previous_response_id={"type": ["string", "null"]},
    )
    return {
        "/v1/responses": {
            "post": {
                "summary": "A run as a response of OpenAI's API",
                "requestBody": response,
                "responses": {"200": either, **posted},
            }
        },
        "/v1/responses/{response_id}": {
            "get": {
                "summary": "A response, or its events",
                "parameters": [
                    *response_id,
                    _in_query("stream", truth),
                    _in_query("starting_after", {"type": "integer", "minimum": 0}),
                ],
                "responses": {"200": either, **got},
            },
            "delete": {
                "summary": "Remove a response, and its run",
                "parameters": response_id,
                "responses": {"200": _json("It is gone"), **got},
            },
        },
        "/v1/responses/{response_id}/cancel": {
            "post": {
                "summary": "Cancel a response",
                "parameters": response_id,
                "requestBody": {**_body(()), "required": False},
                "responses": {"200": _json("The response"), **posted, "410": got["410"]},
            }
        },
        "/v1/responses/{response_id}/input_items": {
            "get": {
                "summary": "What a response was asked",
                "parameters": [
                    *response_id,
                    _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
                    _in_query("order", {"enum": ["asc", "desc"]}),
                    _in_query("after", _TEXT),
                ],
                "responses": {"200": _json("Items", listed), **got},
            }
        },
        "/v1/chat/completions": {
            "post": {
                "summary": "A run as a completion of OpenAI's API",
                "requestBody": completion,
                "responses": {"200": either, **posted, "502": _json("The run failed", _OPENAI_ERROR)},
            }
        },
        "/v1/models": {"get": {"summary": "The agents", "responses": {"200": _json("Models", listed), **got}}},
        "/v1/models/{model}": {
            "get": {"summary": "An agent", "parameters": [_in_path("model")], "responses": {"200": _json("It"), **got}}
        },
    }


def _page() -> dict[str, Any]:
    runs = {
        "type": "object",
        "properties": {"runs": _OBJECTS, "next": {"type": ["string", "null"]}},
        "required": ["runs", "next"],
    }
    files = {kind: {"schema": _TEXT} for kind in ("text/javascript", "text/css", "text/plain", "image/svg+xml")}
    unchanged = {"304": {"description": "As the ETag says"}}
    refused = {status: _json("Refused", _PLAIN_ERROR) for status in ("403", "500", "503")}
    return {
        "/": {
            "get": {
                "summary": "The page",
                "security": [],
                "responses": {
                    "200": {"description": "The page", "content": {"text/html": {"schema": _TEXT}}},
                    **unchanged,
                    **refused,
                },
            }
        },
        "/assets/{name}": {
            "get": {
                "summary": "A file of the page",
                "security": [],
                "parameters": [_in_path("name")],
                "responses": {
                    "200": {"description": "The file", "content": files},
                    "404": {"description": "There is none"},
                    **unchanged,
                    **refused,
                },
            }
        },
        "/page/server": {
            "get": {
                "summary": "What is served here",
                "responses": {"200": _json("Agents, and whether conversations are kept"), **_errors(_PLAIN_ERROR)},
            }
        },
        "/page/runs": {
            "get": {
                "summary": "The newest runs, or those before a place of the list, with titles",
                "parameters": [_in_query("before", _TEXT)],
                "responses": {"200": _json("Runs", runs), **_errors(_PLAIN_ERROR, 422)},
            }
        },
    }


def protocol_paths(agents: Sequence[str]) -> dict[str, Any]:
    """The path items of what an app with these agents may serve beside the server's own protocol."""
    return {**_openai(agents), **_page()}
