"""The description of the addresses of the other protocols and of the page. What their bodies hold beyond what is named
here is told by their own specifications: AG-UI, the AI SDK, OpenAI's API."""

from __future__ import annotations

from typing import Any

__all__ = ["protocol_paths"]

_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}
_OBJECTS = {"type": "array", "items": _OBJECT}
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


def _stream(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"text/event-stream": {"schema": _TEXT}}}


def _errors(error: dict[str, Any], *statuses: int) -> dict[str, Any]:
    return {str(status): _json("Refused", error) for status in (400, 401, 403, 500, 503, *statuses)}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _body(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_POSTED = (404, 408, 409, 413, 415, 422, 429)


def _ag_ui() -> dict[str, Any]:
    post = {
        "summary": "A run of AG-UI",
        "requestBody": _body(("threadId", "runId"), threadId=_TEXT, runId=_TEXT, messages=_OBJECTS, resume=_OBJECTS),
        "responses": {"200": _stream("Events of AG-UI"), **_errors(_PLAIN_ERROR, *_POSTED)},
    }
    return {
        "/ag-ui": {"post": post},
        "/ag-ui/{agent}": {"post": {**post, "parameters": [_in_path("agent")]}},
    }


def _ai_sdk() -> dict[str, Any]:
    agent = {"type": ["string", "null"], "description": "Needed where there are several."}
    stopped = {
        "type": "object",
        "properties": {"stopped": {"type": "array", "items": _TEXT}},
        "required": ["stopped"],
    }
    chat_id = [_in_path("chat_id")]
    return {
        "/api/chat": {
            "post": {
                "summary": "A message of a chat, or answers",
                "requestBody": _body(("id",), id=_TEXT, messages=_OBJECTS, trigger=_TEXT, agent=agent),
                "responses": {"200": _stream("UI messages of the AI SDK"), **_errors(_PLAIN_ERROR, *_POSTED)},
            }
        },
        "/api/chat/{chat_id}/stream": {
            "get": {
                "summary": "What goes on in a chat, from its begin",
                "parameters": chat_id,
                "responses": {
                    "200": _stream("UI messages of the AI SDK"),
                    "204": {"description": "Nothing goes on"},
                    **_errors(_PLAIN_ERROR, 404, 422, 429),
                },
            }
        },
        "/api/chat/{chat_id}/stop": {
            "post": {
                "summary": "Cancel what goes on in a chat",
                "parameters": chat_id,
                "requestBody": _body(()),
                "responses": {
                    "200": _json("Nothing went on", stopped),
                    "202": _json("Accepted", stopped),
                    **_errors(_PLAIN_ERROR, *_POSTED),
                },
            }
        },
    }


def _openai() -> dict[str, Any]:
    response_id = [_in_path("response_id")]
    truth = {"type": "boolean"}
    posted = _errors(_OPENAI_ERROR, *_POSTED)
    got = _errors(_OPENAI_ERROR, 404, 410, 422, 429)
    either = {
        "description": "A response of OpenAI's API, or its events",
        "content": {"application/json": {"schema": _OBJECT}, "text/event-stream": {"schema": _TEXT}},
    }
    listed = {
        "type": "object",
        "properties": {"object": {"const": "list"}, "data": _OBJECTS},
        "required": ["object", "data"],
    }
    completion = _body(("model", "messages"), model=_TEXT, messages={**_OBJECTS, "minItems": 1}, stream=truth)
    response = _body(
        ("model", "input"),
        model=_TEXT,
        input={"oneOf": [_TEXT, {**_OBJECTS, "minItems": 1}]},
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
    runs = {"type": "object", "properties": {"runs": _OBJECTS}, "required": ["runs"]}
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
                "summary": "The newest runs, with titles",
                "responses": {"200": _json("Runs", runs), **_errors(_PLAIN_ERROR)},
            }
        },
    }


def protocol_paths() -> dict[str, Any]:
    """The path items of all that an app may serve beside the server's own protocol."""
    return {**_ag_ui(), **_ai_sdk(), **_openai(), **_page()}
