"""The AI SDK's chats over HTTP, as DefaultChatTransport asks: a new message, or answers; resume; stop."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runstream.server.answers import Refused, json_bytes
from runstream.server.openapi import errors, json_reply
from runstream.server.protocols.ai_sdk import HEADERS, AiSdk, ChatRequest, answers_of, input_items
from runstream.server.protocols.telling import since_answer
from runstream.server.requests import decode_body
from runstream.server.service import Service
from runstream.server.starting import RUN_ID_HEADER, find_run, start_run, user_of
from runstream.server.telling_runs import (
    Answer,
    answer,
    conversation_key,
    follow,
    input_of,
    live_runs,
    new_run_id,
    stop_runs,
    unsaid,
)

__all__ = ["ai_sdk_routes", "openapi_paths"]


def ai_sdk_routes(service: Service) -> list[Any]:
    """The addresses of the protocol, where `useChat` looks for them by default."""
    handlers = _Handlers(service)
    return [
        Route("/api/chat", handlers.send, methods=["POST"]),
        Route("/api/chat/{chat_id}/stream", handlers.resume, methods=["GET"]),
        Route("/api/chat/{chat_id}/stop", handlers.stop, methods=["POST"]),
    ]


class _Handlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def send(self, request: Request) -> Any:
        service, user = self._service, user_of(request)
        chat: ChatRequest = decode_body(await request.body(), ChatRequest)
        key = conversation_key("chat", user, chat.id)
        given = answers_of(chat.messages)
        if given:
            answers = [Answer(id, approved, message=reason) for id, approved, reason in given]
            record, told_up_to, expected = await answer(service, user, answers)
            telling = AiSdk(record.run_id, told_up_to=told_up_to, live_from=record.last_seq, expected=expected)
            return follow(service, telling, HEADERS, after=record.first_seq - 1)
        session = chat.id if service.keeps_sessions else None
        if session is None:
            items = input_items(chat.messages, any_items=service.trusts_input)
        elif chat.trigger == "regenerate-message":
            raise Refused(
                422, "cannot_regenerate", "this server keeps the conversation: what was answered stays. Ask again"
            )
        else:
            items = await unsaid(service, user, session, input_items(since_answer(chat.messages), any_items=False))
        run_id = await start_run(
            service,
            user,
            agent=chat.agent,
            given=input_of(service, items),
            session=session,
            run_id=new_run_id(key),
            is_checked=True,
        )
        return follow(service, AiSdk(run_id), HEADERS, is_new=True)

    async def resume(self, request: Request) -> Any:
        service, user = self._service, user_of(request)
        key = conversation_key("chat", user, request.path_params["chat_id"])
        live = await live_runs(service, user, key)
        if not live:
            return Response(None, 204)
        record = await find_run(service, user, "read", live[0].run_id)
        telling = AiSdk(record.run_id, live_from=record.last_seq)
        return follow(service, telling, HEADERS, after=record.first_seq - 1)

    async def stop(self, request: Request) -> Any:
        key = conversation_key("chat", user_of(request), request.path_params["chat_id"])
        stopped = await stop_runs(self._service, user_of(request), key)
        return Response(json_bytes({"stopped": stopped}), 202 if stopped else 200, media_type="application/json")


def openapi_paths() -> dict[str, Any]:
    """The addresses, for the server's description."""
    body = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "messages": {"type": "array", "items": {"type": "object"}},
            "trigger": {"type": "string"},
            "agent": {"type": ["string", "null"]},
        },
        "required": ["id"],
    }
    stream = {
        "description": "A UI message stream of the AI SDK. Ends with `finish` or `abort`, and `[DONE]`.",
        "headers": {name: {"schema": {"type": "string"}} for name in (RUN_ID_HEADER, *HEADERS)},
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    stopped = {"type": "object", "properties": {"stopped": {"type": "array", "items": {"type": "string"}}}}
    chat_id = {"name": "chat_id", "in": "path", "required": True, "schema": {"type": "string"}}
    any_body: dict[str, Any] = {"content": {"application/json": {"schema": {}}}}
    return {
        "/api/chat": {
            "post": {
                "summary": "A message of a chat, or answers about calls that wait",
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                "responses": {"200": stream, **errors(404, 409, 413, 415, 422, 429)},
            }
        },
        "/api/chat/{chat_id}/stream": {
            "get": {
                "summary": "The answer that is under way in a chat, from its beginning",
                "parameters": [chat_id],
                "responses": {"200": stream, "204": {"description": "There is none"}, **errors(404, 422, 429)},
            }
        },
        "/api/chat/{chat_id}/stop": {
            "post": {
                "summary": "Stop what is under way in a chat",
                "parameters": [chat_id],
                "requestBody": any_body,
                "responses": {
                    "202": json_reply("Being stopped", stopped),
                    "200": json_reply("There was nothing to stop", stopped),
                    **errors(404, 413, 415, 422),
                },
            }
        },
    }
