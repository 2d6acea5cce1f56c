"""A webhook for alerts: each is posted as JSON, off everybody's path.

Owns `Webhook`. At most `max_waiting` alerts wait (the oldest go first, which is logged); a post that fails is tried
again a few times; what cannot be delivered is logged and let go.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runstream.clock import Clock, system_clock

if TYPE_CHECKING:
    from runstream.observe.alerts import Alert

__all__ = ["Webhook"]

_logger = logging.getLogger("runstream.alerts")

# A server that says one of these may take the same alert later.
_TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))


class Webhook:
    """A callback of `Alerts`: `Alerts(metrics, rules, on_alert=Webhook("https://…"))`.

    The body has `text` (which chat services show), `name`, `state`, `value`, `threshold`, `at`, `since` and `unit`.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        attempts: int = 4,
        first_pause_s: float = 1.0,
        max_waiting: int = 100,
        close_timeout_s: float = 5.0,
        clock: Clock = system_clock,
    ) -> None:
        self._url = url
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._first_pause_s = first_pause_s
        self._max_waiting = max_waiting
        self._close_timeout_s = close_timeout_s
        self._clock = clock
        self._waiting: deque[Alert] = deque()
        self._sender: asyncio.Task[None] | None = None

    def __call__(self, alert: Alert) -> None:
        """Take the alert in, to be posted soon. To be called in an event loop."""
        if len(self._waiting) >= self._max_waiting:
            lost = self._waiting.popleft()
            _logger.warning("too many alerts wait for the webhook: let go of %r", lost.text)
        self._waiting.append(alert)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_all(), name="runstream webhook")

    async def _send_all(self) -> None:
        import httpx2

        async with httpx2.AsyncClient(timeout=self._timeout_s, headers=self._headers) as client:
            while self._waiting:
                await self._send(client, self._waiting.popleft())

    async def _send(self, client: Any, alert: Alert) -> None:
        import httpx2

        body = {"text": alert.text, **dataclasses.asdict(alert)}
        pause_s = self._first_pause_s
        for attempt in range(1, self._attempts + 1):
            try:
                answer = await client.post(self._url, json=body)
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
                problem, lasting = f"{type(error).__name__}: {error}", isinstance(error, httpx2.InvalidURL)
            else:
                if answer.is_success:
                    return
                problem, lasting = f"status {answer.status_code}", answer.status_code not in _TRANSIENT
            if lasting or attempt == self._attempts:
                _logger.error("the alert %r was not delivered: %s", alert.text, problem)
                return
            await self._clock.sleep(pause_s)
            pause_s *= 2

    async def aclose(self) -> None:
        """Deliver what waits, for `close_timeout_s` seconds at the most."""
        sender = self._sender
        if sender is None or sender.done():
            return
        try:
            async with self._clock.timeout(self._close_timeout_s):
                await asyncio.wait((sender,))
        except TimeoutError:
            sender.cancel()
            await asyncio.wait((sender,))
            _logger.error("%d alerts were not delivered: the webhook took too long", len(self._waiting) + 1)
