"""Waiting for what people ask of runs, on Redis: the commands of each run are a stream with the ids `<number>-0`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from runstream.errors import StoreError, StoreUnavailable
from runstream.log.base import Command
from runstream.log.redis_hub import Hub, Topic, entry_order
from runstream.log.redis_tail import Patience

__all__ = ["CommandWait", "decode_command"]


def decode_command(entry: Any) -> Command:
    """The command of a stream's entry."""
    entry_id, fields = entry
    return Command(fields[1].decode(), json.loads(fields[3]), entry_order(entry_id)[0])


def _number(entry: Any) -> int:
    return entry_order(entry[0])[0]


class CommandWait:
    """One call of `wait_commands`."""

    def __init__(self, hub: Hub, known: Mapping[str, int]) -> None:
        self._hub = hub
        self._known = known
        self._listeners: list[_Listener] = []
        self._changed = asyncio.Event()
        self._interrupted = False
        self._failure: StoreError | None = None

    async def wait(self) -> Collection[str]:
        patience = Patience(self._hub)
        while True:
            self._listen()
            while not self._interrupted:
                ahead = [listener.run_id for listener in self._listeners if listener.is_ahead]
                if ahead:
                    ahead = await self._not_ended(ahead)
                if ahead:
                    return ahead
                self._changed.clear()
                await self._changed.wait()
            self.close()
            # The server was lost: what was sent meanwhile is found by listening anew, once it answers.
            self._interrupted = False
            failure, self._failure = self._failure, None
            if failure is not None:
                await patience.failure(failure)
            await self._answering(patience)

    def close(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()

    def changed(self) -> None:
        self._changed.set()

    def interrupted(self, error: StoreError | None) -> None:
        self._interrupted = True
        self._failure = error or self._failure
        self._changed.set()

    def _listen(self) -> None:
        for run_id, number in self._known.items():
            self._listeners.append(_Listener(self, self._hub, run_id, number))

    async def _not_ended(self, run_ids: Sequence[str]) -> list[str]:
        """Those whose runs take commands still; the others are not waited for any longer."""
        key_of = self._hub.server.options.run_key
        metas = [key_of(run_id, "meta") for run_id in run_ids]
        try:
            ended = await self._hub.server.together([(meta, ("HGET", meta, "ended")) for meta in metas])
        except StoreUnavailable:
            self._interrupted = True
            return []
        live = [run_id for run_id, end in zip(run_ids, ended, strict=True) if end == b""]
        for listener in self._listeners:
            if listener.is_ahead and listener.run_id not in live:
                listener.close()
        return live

    async def _answering(self, patience: Patience) -> None:
        key = self._hub.server.options.index_key("queues")
        while True:
            try:
                await self._hub.server.ask(key, "EXISTS", key)
            except StoreUnavailable as error:
                await patience.failure(error)
            else:
                return


class _Listener:
    __slots__ = ("_hub", "_number", "_topic", "_wait", "run_id")

    def __init__(self, wait: CommandWait, hub: Hub, run_id: str, number: int) -> None:
        self._wait = wait
        self._hub = hub
        self._number = number
        self.run_id = run_id
        key = hub.server.options.run_key(run_id, "cmd")
        self._topic: Topic | None = hub.join(key, f"{number}-0".encode(), self, decode=_number)

    @property
    def is_ahead(self) -> bool:
        """Whether there is a command with a higher number."""
        return self._topic is not None and entry_order(self._topic.cursor)[0] > self._number

    def close(self) -> None:
        topic, self._topic = self._topic, None
        if topic is not None:
            self._hub.leave(topic, self)

    def take(self, entries: Sequence[Any]) -> None:
        self._wait.changed()

    def reread(self, error: StoreError | None = None) -> None:
        self.close()
        self._wait.interrupted(error)
