"""What each address does. Handlers check who asks, ask the store, and answer; streams are in `streaming.py`."""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from runstream.errors import AgentsException, MissingExtra, RunSealed
from runstream.flow.text_units import Unit
from runstream.log.base import Command, RunRecord
from runstream.log.cursor import Cursor, epoch_of
from runstream.run.inbox import input_command
from runstream.server.access import Action, User
from runstream.server.answers import Refused, json_bytes, next_list, place_before, refusal_of, run_json
from runstream.server.guard import METRICS_PATH, later
from runstream.server.metrics import CONTENT_TYPE
from runstream.server.openapi import describe
from runstream.server.reader import Reader
from runstream.server.requests import AnswerCall, CancelRun, MoreInput, NewRun, checked_input, decode_body
from runstream.server.service import Service
from runstream.server.smoothing import SmoothReader, unit_of
from runstream.server.starting import (
    RUN_ID_HEADER,
    agent_named,
    answer_call,
    check_right,
    delete_run,
    find_run,
    open_reader,
    send_command,
    start_run,
    user_of,
)
from runstream.server.streaming import EventStream, send_messages, start_at

__all__ = ["routes_of"]

_LISTED = 100
_MOST_LISTED = 1000
_STATUSES = frozenset(("queued", "running", "waiting", "completed", "failed", "cancelled", "interrupted"))


def routes_of(service: Service) -> list[Any]:
    """The addresses of an app."""
    handlers = _Handlers(service)
    return [
        Route("/runs", handlers.create, methods=["POST"]),
        Route("/runs", handlers.list_runs, methods=["GET"]),
        Route("/runs/{run_id}", handlers.snapshot, methods=["GET"]),
        Route("/runs/{run_id}", handlers.delete, methods=["DELETE"]),
        Route("/runs/{run_id}/events", handlers.events, methods=["GET"]),
        Route("/runs/{run_id}/cancel", handlers.cancel, methods=["POST"]),
        Route("/runs/{run_id}/approvals", handlers.approve, methods=["POST"]),
        Route("/runs/{run_id}/input", handlers.add_input, methods=["POST"]),
        WebSocketRoute("/runs/{run_id}/ws", handlers.websocket),
        Route("/healthz", handlers.health, methods=["GET"]),
        Route("/readyz", handlers.ready, methods=["GET"]),
        Route(METRICS_PATH, handlers.metrics, methods=["GET"]),
        Route("/openapi.json", handlers.openapi, methods=["GET"]),
    ]


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


class _Handlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def _record(self, user: User, action: Action, run_id: str) -> RunRecord:
        return await find_run(self._service, user, action, run_id)

    # Beginning.

    async def create(self, request: Request) -> Any:
        service = self._service
        body: NewRun = decode_body(await request.body(), NewRun)
        name = agent_named(service, body.agent)
        unit = unit_of(request.query_params.get("smooth"))
        run_id = await start_run(service, user_of(request), agent=name, given=body.input, session=body.session)
        headers = {RUN_ID_HEADER: run_id, "Location": f"{request.scope.get('root_path', '')}/runs/{run_id}"}
        if not _wants_events(request):
            return _json({"run_id": run_id, "agent": name, "cursor": "0-0"}, 201, headers)
        reader = open_reader(service, run_id, 0, is_new=True)
        return later(EventStream(service.hub, reader, headers, paced=self._paced(reader, unit)))

    def _paced(self, reader: Reader, unit: Unit | None) -> SmoothReader | None:
        return None if unit is None else SmoothReader(reader, unit, self._service.carrier.clock)

    # Reading.

    async def events(self, request: Request) -> Any:
        run_id = request.path_params["run_id"]
        record = await self._record(user_of(request), "read", run_id)
        given = request.headers.get("last-event-id")
        if given is None:
            given = request.query_params.get("after", "")
        start = start_at(given, record)
        unit = unit_of(request.query_params.get("smooth"))
        headers = {RUN_ID_HEADER: run_id}
        if record.ended and start.reason is None and start.after.seq >= record.last_seq > 0:
            return Response(None, 204, headers)  # tells an EventSource not to come again
        reader = open_reader(self._service, run_id, start.after.seq)
        return later(EventStream(self._service.hub, reader, headers, start, paced=self._paced(reader, unit)))

    async def websocket(self, websocket: WebSocket) -> None:
        run_id = websocket.path_params["run_id"]
        try:
            record = await self._record(user_of(websocket), "read", run_id)
            start = start_at(websocket.query_params.get("after", ""), record)
            unit = unit_of(websocket.query_params.get("smooth"))
            reader = open_reader(self._service, run_id, start.after.seq)
        except (AgentsException, Refused) as error:
            refused = refusal_of(error) if isinstance(error, AgentsException) else error
            await websocket.close(4000 + (refused.status if refused is not None else 500))
            return
        offered = websocket.scope.get("subprotocols", ())
        try:
            await websocket.accept("runstream" if "runstream" in offered else None)
        except BaseException:
            reader.close()
            raise
        await send_messages(self._service.hub, reader, websocket, start, self._paced(reader, unit))

    async def snapshot(self, request: Request) -> Response:
        record = await self._record(user_of(request), "read", request.path_params["run_id"])
        view = await self._service.snapshots.of(record)
        cursor = Cursor(epoch_of(view["last_seq"], record.epochs), view["last_seq"])
        return _json({**run_json(record), "cursor": str(cursor), "view": view})

    async def list_runs(self, request: Request) -> Response:
        user = user_of(request)
        await check_right(self._service, user, "list")
        query = request.query_params
        limit = query.get("limit", str(_LISTED))
        if not limit.isdecimal() or not 0 < len(limit) < 5 or not 0 < int(limit) <= _MOST_LISTED:
            raise Refused(422, "invalid_limit", f"limit is a number from 1 to {_MOST_LISTED}")
        statuses = query.getlist("status")
        if not _STATUSES.issuperset(statuses):
            raise Refused(422, "invalid_status", f"status is one of {', '.join(sorted(_STATUSES))}")
        shown = int(limit)
        found = await self._service.carrier.store.list_runs(
            status=cast("Any", statuses) or None,
            agent=query.get("agent"),
            owner=user.name,
            limit=shown + 1,
            before=place_before(query.get("before")),
        )
        return _json({"runs": [run_json(record) for record in found[:shown]], "next": next_list(found, shown)})

    # Asking something of a run.

    async def cancel(self, request: Request) -> Response:
        body: CancelRun = decode_body(await request.body(), CancelRun)
        record = await self._record(user_of(request), "cancel", request.path_params["run_id"])
        try:
            await send_command(self._service, record, Command("cancel", {"mode": body.mode}))
        except RunSealed:
            return _json({"run_id": record.run_id, "accepted": False})  # it has ended meanwhile: nothing to stop
        return _json({"run_id": record.run_id, "accepted": True}, 202)

    async def approve(self, request: Request) -> Response:
        body: AnswerCall = decode_body(await request.body(), AnswerCall)
        record = await answer_call(
            self._service,
            user_of(request),
            request.path_params["run_id"],
            body.call_id,
            approve=body.approve,
            always=body.always,
            message=body.message,
        )
        return _json({"run_id": record.run_id, "accepted": True}, 202)

    async def add_input(self, request: Request) -> Response:
        service = self._service
        body: MoreInput = decode_body(await request.body(), MoreInput)
        record = await self._record(user_of(request), "input", request.path_params["run_id"])
        given = checked_input(body.input, service.limits.input_chars, any_items=service.trusts_input)
        await send_command(self._service, record, input_command(given))
        return _json({"run_id": record.run_id, "accepted": True}, 202)

    async def delete(self, request: Request) -> Response:
        record = await self._record(user_of(request), "delete", request.path_params["run_id"])
        await delete_run(self._service, record.run_id)
        return Response(None, 204)

    # About the server.

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        ready = self._service.ready
        return _json({"status": "ready" if ready else "not_ready"}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        if user_of(request).name is not None:
            raise Refused(403, "forbidden", "the figures are for whoever runs the server")
        try:
            body = self._service.metrics.exposition()
        except MissingExtra as error:
            raise Refused(501, "no_metrics", str(error)) from None
        return Response(body, 200, {"Cache-Control": "no-store", "Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        service = self._service
        root = str(request.scope.get("root_path", ""))
        routes = request.app.routes
        return _json(describe(service.agent_names, root, needs_token=not service.gate.is_open, routes=routes))


def _wants_events(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "").lower()
