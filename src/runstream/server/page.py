"""The page of the server: its files, and the two questions that it asks beside those of the protocol.

Owns how the built files of `static/` are sent: which may be cached, and what a browser must refuse to do on the page.
`make page` builds them. Everything on the page comes from this server; nothing that a model says can run there.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runstream.errors import RunNotFound
from runstream.log.base import RunRecord
from runstream.run.claimed import job_of
from runstream.server.answers import json_bytes, next_list, place_before, run_json
from runstream.server.service import Service
from runstream.server.starting import check_right, user_of
from runstream.view.texts import input_text

__all__ = ["STATIC", "page_routes"]

STATIC: Final = Path(__file__).parent / "static"

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# No script but the page's own files, no HTML made of strings at all (Trusted Types), no request to anybody else, no
# picture from elsewhere: an address in an answer could carry away what is in the conversation.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SHOWN_RUNS: Final = 200
_TITLE_CHARS: Final = 120
_KEPT_TITLES: Final = 2000
# Records that are asked for at once.
_ASKED: Final = 16


def page_routes(service: Service) -> list[Any]:
    """The addresses of the page."""
    page = _Page(service)
    return [
        Route("/", page.index, methods=["GET"]),
        Route("/assets/{name}", page.asset, methods=["GET"]),
        Route("/page/server", page.server, methods=["GET"]),
        Route("/page/runs", page.runs, methods=["GET"]),
    ]


class _File:
    """A file as it is sent. Its name holds a hash of what is in it, unless it is the page itself."""

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.type = _TYPES[path.suffix]
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:20]}"'
        self.caching = "no-cache" if path.suffix == ".html" else "public, max-age=31536000, immutable"
        self._packed: bytes | None = None

    @property
    def packed(self) -> bytes:
        """Compressed when somebody first asks."""
        if self._packed is None:
            self._packed = gzip.compress(self.body, 9, mtime=0)
        return self._packed

    def answer(self, request: Request) -> Response:
        headers = {**_HEADERS, "ETag": self.tag, "Cache-Control": self.caching, "Vary": "Accept-Encoding"}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        body = self.body
        if "gzip" in request.headers.get("accept-encoding", "").lower():
            body = self.packed
            headers["Content-Encoding"] = "gzip"
        return Response(body, 200, headers, self.type)


class _Page:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._index = _File(STATIC / "index.html")
        self._assets = {path.name: _File(path) for path in sorted((STATIC / "assets").iterdir())}
        self._told: OrderedDict[tuple[str, float], tuple[str | None, str | None]] = OrderedDict()
        """Title and conversation of runs, by their ids and times."""

    async def index(self, request: Request) -> Response:
        return self._index.answer(request)

    async def asset(self, request: Request) -> Response:
        found = self._assets.get(request.path_params["name"])
        return Response(None, 404, _HEADERS) if found is None else found.answer(request)

    async def server(self, request: Request) -> Response:
        """What is served here, for people who may use it."""
        service = self._service
        agents = [{"name": name, "description": self._description(name)} for name in service.agent_names]
        return _json({"agents": agents, "sessions": service.keeps_sessions})

    def _description(self, name: str) -> str | None:
        return next((agent.handoff_description for agent in self._service.agents if agent.name == name), None)

    async def runs(self, request: Request) -> Response:
        """The newest runs, or those before a place of the list, with what was asked in them and the conversations that
        they belong to."""
        user = user_of(request)
        await check_right(self._service, user, "list")
        before = place_before(request.query_params.get("before"))
        found = await self._service.carrier.store.list_runs(owner=user.name, limit=_SHOWN_RUNS + 1, before=before)
        records = found[:_SHOWN_RUNS]
        told: list[tuple[str | None, str | None]] = []
        for start in range(0, len(records), _ASKED):
            told += await asyncio.gather(*(self._tell(record) for record in records[start : start + _ASKED]))
        shown = [
            {**run_json(record), "title": title, "session": session if record.owner == user.name else None}
            for record, (title, session) in zip(records, told, strict=True)
        ]
        return _json({"runs": shown, "next": next_list(found, _SHOWN_RUNS)})

    async def _tell(self, record: RunRecord) -> tuple[str | None, str | None]:
        key = (record.run_id, record.created_at)
        known = self._told.get(key)
        if known is None:
            try:
                found = await self._service.carrier.store.find(record.run_id)
            except RunNotFound:  # it was deleted meanwhile
                return None, None
            known = self._told[key] = _title_of(found.job)
            while len(self._told) > _KEPT_TITLES:
                self._told.popitem(last=False)
        return known


def _title_of(body: bytes | None) -> tuple[str | None, str | None]:
    """What was asked, in a line, and the name that its owner knows the conversation by."""
    if body is None:
        return None, None
    try:
        job = job_of(body)
    except ValueError:  # of a newer version
        return None, None
    title = " ".join(input_text(job.input).split())[:_TITLE_CHARS]
    session = None if job.session_id is None else job.session_id.partition("/")[2]
    return title or None, session or None


def _json(value: Any) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(json_bytes(value), 200, headers, "application/json")
