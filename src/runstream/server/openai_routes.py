"""The addresses of the OpenAI protocols: any program that has an OpenAI client uses the agents as if they were models.

A response, and a completion, is a run. Unless it is one in the background, it is stopped when the client that asked for
it goes away: as with the API, nobody would get it. Who only reads a response along stops nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runstream.errors import RunNotFound, RunSealed
from runstream.log.base import Command, RunRecord
from runstream.run.inbox import approval_command, approval_of, input_command
from runstream.run.runner import Runner
from runstream.server.access import Action, User
from runstream.server.answers import json_bytes
from runstream.server.guard import later
from runstream.server.openai_answers import (
    ForItsClient,
    Whole,
    cancel_run,
    json_answer,
    read_response,
    run_headers,
    stream,
)
from runstream.server.protocols.chat_completions import ChatEncoding, chat_request
from runstream.server.protocols.openai_requests import OpenAIRefused, error_body
from runstream.server.protocols.response_fold import response_id
from runstream.server.protocols.responses import (
    ResponsesEncoding,
    ResponsesRequest,
    encode_json,
    input_items,
    note_of,
    noted,
    responses_request,
    run_and_part,
)
from runstream.server.reader import batches_of
from runstream.server.requests import checked_input
from runstream.server.service import Service
from runstream.server.starting import (
    check_right,
    delete_run,
    find_run,
    open_reader,
    start_run,
    user_of,
)

__all__ = ["openai_routes"]

# What is decoded and folded at once holds up everybody else.
_PAGE_BYTES = 65_536
_CANCELLING_S = 5.0


def openai_routes(service: Service) -> list[Any]:
    """The addresses below /v1, whose errors have the API's shape."""
    service.error_shapes["/v1/"] = error_body
    responses, others = _Responses(service), _Others(service)
    return [
        Route("/v1/responses", responses.create, methods=["POST"]),
        Route("/v1/responses/{response_id}", responses.retrieve, methods=["GET"]),
        Route("/v1/responses/{response_id}", responses.delete, methods=["DELETE"]),
        Route("/v1/responses/{response_id}/cancel", responses.cancel, methods=["POST"]),
        Route("/v1/responses/{response_id}/input_items", responses.list_input, methods=["GET"]),
        Route("/v1/chat/completions", others.create_completion, methods=["POST"]),
        Route("/v1/models", others.list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", others.model, methods=["GET"]),
    ]


def _name(encoding: ResponsesEncoding, record: RunRecord) -> None:
    """What is told of a response that nobody has begun to work on."""
    fold = encoding.fold
    if not fold.begun:
        fold.model, fold.created_at, fold.status = record.agent, record.created_at, "queued"


def _check_model(service: Service, name: str) -> None:
    if name not in service.agent_names:
        raise OpenAIRefused(
            f"The model {name!r:.80} does not exist: there are {', '.join(service.agent_names)}.",
            param="model",
            code="model_not_found",
            status=404,
        )


class _Responses:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Any:
        service, user = self._service, user_of(request)
        asked = responses_request(await request.body(), trusted=service.trusts_input)
        _check_model(service, asked.model)
        if asked.conversation is not None and not service.keeps_sessions:
            raise OpenAIRefused("This server keeps no conversations.", param="conversation")
        checked_input(asked.given or "", service.limits.input_chars, any_items=True)
        if asked.approvals:
            run_id, part = await self._answer(user, asked)
        else:
            run_id, part = await self._start(user, asked), 1
        encoding = ResponsesEncoding(run_id, part=part, about=asked.about, silent=not asked.is_streamed)
        reader = open_reader(service, run_id, 0, is_new=part == 1)
        if asked.in_background:
            if asked.is_streamed:
                return later(stream(service, reader, encoding))
            try:
                await read_response(service.hub, reader, encoding, until_begun=part)
            finally:
                reader.close()
            return json_answer(encode_json(encoding.response()), run_headers(run_id))
        answer = stream(service, reader, encoding) if asked.is_streamed else Whole(service, reader, encoding)
        return later(ForItsClient(service, reader, encoding, answer, is_kept=asked.is_stored))

    async def _start(self, user: User, asked: ResponsesRequest) -> str:
        if not asked.given:
            raise OpenAIRefused("'input' holds nothing for the agent.", param="input")
        given = asked.given
        if asked.previous is not None:
            given = [*await self._history(user, asked.previous), *given]
        return await start_run(
            self._service,
            user,
            agent=asked.model,
            given=given,
            session=asked.conversation,
            note=note_of(asked),
            is_checked=True,
        )

    async def _history(self, user: User, previous: str) -> list[Any]:
        """All that was said up to the end of that response."""
        record, part = await self._find(user, "read", previous, "previous_response_id")
        fold = (await self._folded(record, None)).fold
        if not record.ended:
            what = "waits for approvals: answer them" if fold.is_waiting else "has not ended"
            raise OpenAIRefused(f"The response {previous} {what}.", param="previous_response_id")
        self._check_latest(record, part, fold.part)
        attached = await Runner.attach(record.run_id, store=self._service.carrier.store, after=record.first_seq - 1)
        return list(attached.to_input_list())

    def _check_latest(self, record: RunRecord, part: int, latest: int) -> None:
        if part != latest:
            raise OpenAIRefused(
                f"That response went on as {response_id(record.run_id, latest)}: go on from there.",
                param="previous_response_id",
            )

    async def _answer(self, user: User, asked: ResponsesRequest) -> tuple[str, int]:
        """Answer what the former response has asked for; the run, and which of its responses comes of it."""
        if asked.previous is None:
            raise OpenAIRefused("An approval needs the response that it is for.", param="previous_response_id")
        record, part = await self._find(user, "approve", asked.previous, "previous_response_id")
        fold = (await self._folded(record, None)).fold
        pending = fold.pending
        if not pending or record.ended:
            raise OpenAIRefused(f"The response {asked.previous} waits for no approval.", param="previous_response_id")
        # Some of the requests may have been answered elsewhere: then the next response has begun.
        self._check_latest(record, part, fold.part if fold.is_waiting else fold.part - 1)
        answers = {answer.request_id: answer for answer in asked.approvals}
        if answers.keys() != pending.keys():
            raise OpenAIRefused(f"Answer these requests, all of them: {', '.join(pending)}.", param="input")
        commands: list[Command] = []
        if asked.given:
            if not await self._service.gate.allows(user, "input", record.run_id, record.owner):
                raise OpenAIRefused("This is not allowed.", code="forbidden", status=403)
            commands.append(input_command(asked.given))
        for request_id, call in pending.items():
            answer = answers[request_id]
            message = answer.reason if not answer.approve else None
            commands.append(
                approval_command(approval_of(call.call_id, call.name, approved=answer.approve, message=message))
            )
        await self._send(record, part + 1, commands, asked)
        return record.run_id, part + 1

    async def _send(self, record: RunRecord, part: int, commands: list[Command], asked: ResponsesRequest) -> None:
        """Pass on what begins that response: once, though it may be asked for twice at a time, of whichever servers.
        Raises Refused where it was begun with other answers."""
        carrier, key = self._service.carrier, response_id(record.run_id, part)
        note = {**note_of(asked), "answers": [[each.request_id, each.approve, each.reason] for each in asked.approvals]}
        first, *others = [
            Command(command.kind, {**command.data, "once": f"{key} {index}"}) for index, command in enumerate(commands)
        ]
        first.data["note"] = note
        with contextlib.suppress(RunSealed):  # perhaps since this very answer was given
            await carrier.store.send(record.run_id, first)
        begun_by = await self._beginning_of(record, part)
        if begun_by is None:
            raise OpenAIRefused("The run has ended meanwhile.", param="previous_response_id")
        if (begun_by.kind, begun_by.data) != (first.kind, first.data):
            raise OpenAIRefused("That response was answered otherwise meanwhile.", param="previous_response_id")
        with contextlib.suppress(RunSealed):
            for command in others:
                await carrier.store.send(record.run_id, command)
        await carrier.host.bring(record.run_id)

    async def _beginning_of(self, record: RunRecord, part: int) -> Command | None:
        """What has begun the run's response of that part; None where that was no request for it."""
        once = f"{response_id(record.run_id, part)} 0"
        commands = await self._service.carrier.store.commands(record.run_id, 0)
        return next((command for command in commands if command.data.get("once") == once), None)

    async def _about(self, record: RunRecord, part: int | None) -> dict[str, Any]:
        """What the response repeats of its request."""
        if part is None or part == 1:
            return noted(record.job) if part else {}
        command = await self._beginning_of(record, part)
        return {} if command is None else command.data["note"]["response"]

    # Of a response that is there.

    async def _find(self, user: User, action: Action, given: str, param: str | None = None) -> tuple[RunRecord, int]:
        found = run_and_part(given)
        try:
            if found is None:
                raise RunNotFound(given, self._service.carrier.store.url)
            return await find_run(self._service, user, action, found[0]), found[1]
        except RunNotFound:
            raise OpenAIRefused(
                f"There is no response {given!r:.80}.", param=param, code="not_found", status=404
            ) from None

    async def _asked(self, request: Request, action: Action) -> tuple[RunRecord, int]:
        return await self._find(user_of(request), action, request.path_params["response_id"])

    async def _folded(self, record: RunRecord, part: int | None) -> ResponsesEncoding:
        """The response as the store has it. Raises Refused for one that is not there."""
        if record.first_seq > 1:
            raise OpenAIRefused("The first events of this response are no longer kept.", code="expired", status=404)
        encoding = ResponsesEncoding(record.run_id, part=part, about=await self._about(record, part), silent=True)
        fold, after = encoding.fold, 0
        while not encoding.ended:
            page = await self._service.carrier.store.read(record.run_id, after, max_bytes=_PAGE_BYTES)
            if not page.segments:
                break
            for batch in batches_of(page.segments, record.run_id, after):
                encoding.encode(batch)
                after = batch.last_seq
        _name(encoding, record)
        if part is not None and fold.part != part:
            raise OpenAIRefused("There is no such response.", code="not_found", status=404)
        return encoding

    async def retrieve(self, request: Request) -> Any:
        record, part = await self._asked(request, "read")
        query = request.query_params
        if query.get("stream", "false").lower() != "true":
            return json_answer(encode_json((await self._folded(record, part)).response()), run_headers(record.run_id))
        after = query.get("starting_after", "-1")
        if after != "-1" and (not after.isdecimal() or len(after) > 9):
            raise OpenAIRefused("'starting_after' must be the number of an event.", param="starting_after")
        if part > 1 or record.first_seq > 1:
            await self._folded(record, part)
        encoding = ResponsesEncoding(record.run_id, part=part, about=await self._about(record, part), after=int(after))
        return later(stream(self._service, open_reader(self._service, record.run_id, 0), encoding))

    async def cancel(self, request: Request) -> Response:
        record, part = await self._asked(request, "cancel")
        service = self._service
        if record.ended:
            return json_answer(encode_json((await self._folded(record, part)).response()), run_headers(record.run_id))
        encoding = ResponsesEncoding(record.run_id, part=part, about=await self._about(record, part), silent=True)
        reader = open_reader(service, record.run_id, 0)
        reading = asyncio.create_task(read_response(service.hub, reader, encoding))
        late = asyncio.create_task(service.carrier.clock.sleep(_CANCELLING_S))
        try:
            await cancel_run(service, record.run_id)
            await asyncio.wait((reading, late), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()  # what has not been read is not told as if it were so
        finally:
            reading.cancel()
            late.cancel()
            await asyncio.gather(reading, late, return_exceptions=True)
            reader.close()
        _name(encoding, record)
        return json_answer(encode_json(encoding.response()), run_headers(record.run_id))

    async def delete(self, request: Request) -> Response:
        record, _ = await self._asked(request, "delete")
        await delete_run(self._service, record.run_id)
        given = request.path_params["response_id"]
        return json_answer(json_bytes({"id": given, "object": "response", "deleted": True}))

    async def list_input(self, request: Request) -> Response:
        record, part = await self._asked(request, "read")
        query = request.query_params
        limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
        if not limit.isdecimal() or not 0 < int(limit[:9]) <= 100:
            raise OpenAIRefused("'limit' must be a number from 1 to 100.", param="limit")
        if order not in ("asc", "desc"):
            raise OpenAIRefused("'order' must be 'asc' or 'desc'.", param="order")
        items: list[dict[str, Any]] = []
        page = await self._service.carrier.store.read(record.run_id, 0, max_bytes=1)
        if page.segments and part == 1:
            items = input_items(record.run_id, batches_of(page.segments, record.run_id, 0)[0].events[0])
        if order == "desc":
            items.reverse()
        if after is not None:
            ids = [item["id"] for item in items]
            if after not in ids:
                raise OpenAIRefused("'after' must be the id of an item of this list.", param="after")
            items = items[ids.index(after) + 1 :]
        shown = items[: int(limit)]
        first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
        more = len(items) > len(shown)
        return json_answer(
            encode_json({"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": more})
        )


class _Others:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._made_at = int(service.carrier.clock.now())

    async def create_completion(self, request: Request) -> Any:
        service, user = self._service, user_of(request)
        asked = chat_request(await request.body(), trusted=service.trusts_input)
        _check_model(service, asked.model)
        checked_input(asked.given, service.limits.input_chars, any_items=True)
        run_id = await start_run(service, user, agent=asked.model, given=asked.given, is_checked=True)
        reader = open_reader(service, run_id, 0, is_new=True)
        encoding = ChatEncoding(run_id, has_usage=asked.has_usage, is_whole=not asked.is_streamed)
        answer = stream(service, reader, encoding) if asked.is_streamed else Whole(service, reader, encoding)
        return later(ForItsClient(service, reader, encoding, answer))

    async def list_models(self, request: Request) -> Response:
        await check_right(self._service, user_of(request), "list")
        data = [self._shown(name) for name in self._service.agent_names]
        return json_answer(json_bytes({"object": "list", "data": data}))

    async def model(self, request: Request) -> Response:
        await check_right(self._service, user_of(request), "list")
        name = request.path_params["model"]
        _check_model(self._service, name)
        return json_answer(json_bytes(self._shown(name)))

    def _shown(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._made_at, "owned_by": "runstream"}
