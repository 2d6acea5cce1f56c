"""The webhook of alerts, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runstream.observe import Alert, AlertRule, Alerts, Metrics, Webhook
from runstream.testing import FakeClock


class Receiver:
    """A server that answers with the statuses that the test gives, then 204; None answers nothing at all."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses = list(statuses)
        self.bodies: list[Any] = []
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                self.bodies.append(json.loads(await reader.readexactly(length)))
                status = self.statuses.pop(0) if self.statuses else 204
                if status is None:
                    await reader.read()  # until the client gives up
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(*statuses: int | None) -> AsyncIterator[Receiver]:
    receiver = Receiver(*statuses)
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    try:
        yield receiver
    finally:
        server.close()
        await server.wait_closed()


def alert(name: str = "error rate") -> Alert:
    return Alert(name, "firing", 0.5, 0.05, 100.0, 90.0)


async def test_an_alert_is_posted() -> None:
    """The body has the line for people and the fields for machines."""
    async with receiving() as receiver:
        webhook = Webhook(receiver.url)
        webhook(alert())
        await webhook.aclose()
    assert receiver.bodies == [
        {
            "text": "error rate: 0.5 (threshold 0.05)",
            "name": "error rate",
            "state": "firing",
            "value": 0.5,
            "threshold": 0.05,
            "at": 100.0,
            "since": 90.0,
            "unit": "",
        }
    ]


async def test_what_fails_for_a_while_is_posted_again() -> None:
    """503 and 429 are tried again, after growing pauses; the order is kept."""
    async with receiving(503, 429) as receiver:
        webhook = Webhook(receiver.url, first_pause_s=0.01)
        webhook(alert("one"))
        webhook(alert("two"))
        await webhook.aclose()
    assert [body["name"] for body in receiver.bodies] == ["one", "one", "one", "two"]


async def test_what_is_refused_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    """A lasting refusal is not repeated; too many failures end, too; both are logged."""
    async with receiving(404, 500, 500) as receiver:
        webhook = Webhook(receiver.url, attempts=2, first_pause_s=0.01)
        webhook(alert("refused"))
        webhook(alert("failing"))
        await webhook.aclose()
    assert [body["name"] for body in receiver.bodies] == ["refused", "failing", "failing"]
    assert [record.levelname for record in caplog.records if record.name == "runstream.alerts"] == ["ERROR", "ERROR"]


async def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """A server that is not there is an error in the log, nothing else."""
    webhook = Webhook("http://127.0.0.1:9/hook", attempts=2, first_pause_s=0.01)
    webhook(alert())
    await webhook.aclose()
    assert "was not delivered" in caplog.text


async def test_a_server_that_hangs_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    """Handing an alert over returns at once, the rest waits within its bound, and closing takes bounded time."""
    async with receiving(None) as receiver:
        webhook = Webhook(receiver.url, max_waiting=2, close_timeout_s=0.2)
        webhook(alert("first"))
        while not receiver.bodies:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for name in ("a", "b", "c"):
            webhook(alert(name))
        await webhook.aclose()
    assert len(receiver.bodies) == 1
    assert "let go of 'a: 0.5 (threshold 0.05)'" in caplog.text
    assert "3 alerts were not delivered" in caplog.text


async def test_from_the_figures_to_the_webhook() -> None:
    """Alerts give what fires to the webhook, and close it at the end."""
    clock = FakeClock(autojump=False)
    async with receiving() as receiver:
        rules = [AlertRule("level", lambda _: 2.0, 1.0)]
        async with Alerts(Metrics(clock=clock), rules, on_alert=Webhook(receiver.url)):
            await asyncio.sleep(0)
    assert [body["state"] for body in receiver.bodies] == ["firing"]
