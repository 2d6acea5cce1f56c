"""AG-UI over HTTP: a run of the protocol is a request; one that resumes goes on with the run that has asked."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from runstream.errors import RunExists
from runstream.server.access import User
from runstream.server.answers import Refused
from runstream.server.openapi import errors
from runstream.server.protocols.ag_ui import AgUi, RunAgentInput, answer_of, input_items
from runstream.server.protocols.telling import since_answer
from runstream.server.requests import decode_body
from runstream.server.service import Service
from runstream.server.starting import RUN_ID_HEADER, find_run, start_run, user_of
from runstream.server.telling_runs import Answer, answer, conversation_key, follow, input_of, new_run_id, unsaid

__all__ = ["ag_ui_routes", "openapi_paths"]


def ag_ui_routes(service: Service) -> list[Any]:
    """The addresses of the protocol: one for the only agent, or one for each."""
    handlers = _Handlers(service)
    return [
        Route("/ag-ui", handlers.run, methods=["POST"]),
        Route("/ag-ui/{agent}", handlers.run, methods=["POST"]),
    ]


class _Handlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def run(self, request: Request) -> Any:
        service = self._service
        user = user_of(request)
        given: RunAgentInput = decode_body(await request.body(), RunAgentInput)
        if given.resume:
            return await self._resume(user, given)
        key = conversation_key("agui", user, given.threadId)
        run_id = new_run_id(key, given.runId)
        session = given.threadId if service.keeps_sessions else None
        # Of a client that asks for the same run again, what it has of that run's answer is none of its input.
        before = [message for message in given.messages if not str(message.get("id")).startswith(f"{run_id}-")]
        try:
            if session is None:
                items = input_items(before, any_items=service.trusts_input)
            else:
                items = await unsaid(service, user, session, input_items(since_answer(before), any_items=False))
            await start_run(
                service,
                user,
                agent=request.path_params.get("agent"),
                given=input_of(service, items),
                session=session,
                run_id=run_id,
                is_checked=True,
            )
        except ValueError as error:
            raise Refused(422, "invalid_message", str(error)) from error
        except RunExists:
            # The same run again: a client that has lost its connection.
            record = await find_run(service, user, "read", run_id)
            telling = AgUi(run_id, given, live_from=record.last_seq, is_known=True)
            return follow(service, telling, after=record.first_seq - 1)
        return follow(service, AgUi(run_id, given), is_new=True)

    async def _resume(self, user: User, given: RunAgentInput) -> Any:
        answers: list[Answer] = []
        for each in given.resume:
            try:
                approved, always, message = answer_of(each)
            except ValueError as error:
                raise Refused(422, "invalid_resume", str(error)) from error
            answers.append(Answer(each.interruptId, approved, always=always, message=message))
        record, told_up_to, expected = await answer(self._service, user, answers)
        telling = AgUi(record.run_id, given, told_up_to=told_up_to, live_from=record.last_seq, expected=expected)
        return follow(self._service, telling, after=record.first_seq - 1)


def openapi_paths() -> dict[str, Any]:
    """The addresses, for the server's description."""
    message = {"type": "object", "properties": {"id": {"type": "string"}, "role": {"type": "string"}}}
    resume = {
        "type": "object",
        "properties": {
            "interruptId": {"type": "string"},
            "status": {"enum": ["resolved", "cancelled"]},
            "payload": {},
        },
        "required": ["interruptId", "status"],
    }
    body = {
        "type": "object",
        "properties": {
            "threadId": {"type": "string"},
            "runId": {"type": "string"},
            "messages": {"type": "array", "items": message},
            "resume": {"type": "array", "items": resume},
        },
        "required": ["threadId", "runId"],
    }
    stream = {
        "description": "Server-sent events of AG-UI 1.0. Ends with RUN_FINISHED or RUN_ERROR.",
        "headers": {RUN_ID_HEADER: {"schema": {"type": "string"}}},
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    asking = {
        "summary": "A run of AG-UI",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": stream, **errors(404, 409, 413, 415, 422, 429)},
    }
    agent = {"name": "agent", "in": "path", "required": True, "schema": {"type": "string"}}
    return {"/ag-ui": {"post": asking}, "/ag-ui/{agent}": {"post": {**asking, "parameters": [agent]}}}
