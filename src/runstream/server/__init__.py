"""Agents behind HTTP: `create_app` makes an ASGI application, `runstream serve` runs it."""

from __future__ import annotations

from runstream.server.access import Access, hash_token
from runstream.server.app import create_app
from runstream.server.service import Limits

__all__ = ["Access", "Limits", "create_app", "hash_token"]
