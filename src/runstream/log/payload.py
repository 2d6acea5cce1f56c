"""What a store keeps of a run, written in a form of the user's choice: compressed, encrypted.

`CodedStore` stands before any store and passes everything on; segment bodies, jobs and the data of commands go through
a `PayloadCodec`. What it wrote begins with a mark and the codec's name, so that what was written without a codec, or
with an earlier one, can be told. Ids, names of agents, owners, statuses, seqs and times stay readable: the store needs
them.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from runstream.errors import RunExists, StoreError, UserError
from runstream.log.base import Append, Claim, Command, NewRun, Page, Refusal, RunRecord, Segment, Store, Tail
from runstream.log.wrap import StoreWrapper

__all__ = ["CodedStore", "PayloadCodec", "ZlibPayloads"]

# No JSON, and no text in UTF-8, begins with this byte. After it: the length of the codec's name, the name, the data.
_MARK = 0xFF
# The same for commands, whose data is a JSON object: {"$codec": name, "data": base64}.
_COMMAND_MARK = "$codec"


class PayloadCodec(Protocol):
    """One form of payloads. Called in the event loop for each flush and each page: quick, or in a thread of its own.

    `encode` may give other bytes each time (a nonce). `decode` gets exactly what `encode` gave; whatever it raises
    (a wrong key, a damaged body) becomes a StoreError.
    """

    @property
    def name(self) -> str:
        """Written beside each payload, for ever: tells the form and, where there are several, the key."""
        ...

    def encode(self, payload: bytes) -> bytes: ...

    def decode(self, payload: bytes) -> bytes: ...


class ZlibPayloads:
    """Compresses what gets shorter by it."""

    name = "zlib"

    def __init__(self, level: int = 6, *, min_bytes: int = 200) -> None:
        """`level` from 1 (quick) to 9; shorter payloads than `min_bytes` are left as they are."""
        if not 1 <= level <= 9:
            raise UserError(f"the level of ZlibPayloads is from 1 to 9, not {level}")
        self._level = level
        self._min_bytes = min_bytes

    def encode(self, payload: bytes) -> bytes:
        if len(payload) >= self._min_bytes:
            shorter = zlib.compress(payload, self._level)
            if len(shorter) <= len(payload):
                return shorter
        return b"\0" + payload  # what zlib writes begins otherwise

    def decode(self, payload: bytes) -> bytes:
        return payload[1:] if payload[:1] == b"\0" else zlib.decompress(payload)


class CodedStore(StoreWrapper):
    """A store whose payloads are written with `codec`, and read with it or one of the `older` ones.

    `older`: codecs that it was written with before (a key that was replaced). Payloads that were written without a
    codec are read as they are; those of an unknown codec raise StoreError.
    """

    def __init__(self, store: Store, codec: PayloadCodec, *, older: Iterable[PayloadCodec] = ()) -> None:
        super().__init__(store)
        self._codec = codec
        self._codecs: dict[str, PayloadCodec] = {}
        for known in (codec, *older):
            if not 1 <= len(known.name.encode()) <= 255:
                raise UserError(f"the name of a payload codec has 1 to 255 bytes: {known.name!r}")
            if self._codecs.setdefault(known.name, known) is not known:
                raise UserError(f"two payload codecs are named {known.name!r}: nobody could tell what they wrote")
        name = codec.name.encode()
        self._head = bytes((_MARK, len(name))) + name

    # Payloads.

    def _encode(self, payload: bytes) -> bytes:
        return self._head + self._codec.encode(payload)

    def _decode(self, payload: bytes) -> bytes:
        if payload[:1] != b"\xff":
            return payload  # written before there was a codec
        start = 2 + payload[1] if len(payload) > 1 else 2
        return self._decode_with(payload[2:start].decode("utf-8", "replace"), payload[start:])

    def _decode_with(self, name: str, payload: bytes) -> bytes:
        codec = self._codecs.get(name)
        if codec is None:
            known = ", ".join(repr(known) for known in self._codecs)
            raise StoreError(
                f"data in {self.url} was written with the payload codec {name!r}; this program has {known}: "
                "pass the other one too, CodedStore(..., older=[...])"
            )
        try:
            return codec.decode(payload)
        except Exception as error:
            raise StoreError(
                f"the payload codec {name!r} cannot read data in {self.url} (another key, or it is damaged): {error!r}"
            ) from error

    def _decode_run(self, run: RunRecord) -> RunRecord:
        return run if run.job is None else replace(run, job=self._decode(run.job))

    def _decode_claim(self, claim: Claim | None) -> Claim | None:
        return None if claim is None else Claim(self._decode_run(claim.run), claim.epoch)

    def _decode_page(self, page: Page) -> Page:
        segments = [
            Segment(segment.first_seq, segment.last_seq, self._decode(segment.body), segment.epoch)
            for segment in page.segments
        ]
        return replace(page, segments=segments)

    def _decode_command(self, command: Command) -> Command:
        if command.data.keys() != {_COMMAND_MARK, "data"}:
            return command  # sent without a codec
        name: str = command.data[_COMMAND_MARK]
        data: Any = msgspec.json.decode(self._decode_with(name, base64.b64decode(command.data["data"])))
        return replace(command, data=data)

    # The methods that carry payloads.

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        if run.job is None:
            return await self.store.create(run, worker=worker, lease_s=lease_s)
        try:
            return await self.store.create(replace(run, job=self._encode(run.job)), worker=worker, lease_s=lease_s)
        except RunExists:
            # A call that is repeated may be written otherwise this time.
            there = await self.store.find(run.run_id)
            if there.job is None or self._decode(there.job) != run.job:
                raise
            return await self.store.create(replace(run, job=there.job), worker=worker, lease_s=lease_s)

    async def find(self, run_id: str) -> RunRecord:
        return self._decode_run(await self.store.find(run_id))

    async def claim(self, run_id: str, worker: str, lease_s: float) -> Claim | None:
        return self._decode_claim(await self.store.claim(run_id, worker, lease_s))

    async def claim_next(
        self,
        agents: Collection[str],
        worker: str,
        lease_s: float,
        *,
        queues: Collection[str] | None = None,
        wait_s: float = 0.0,
    ) -> Claim | None:
        return self._decode_claim(await self.store.claim_next(agents, worker, lease_s, queues=queues, wait_s=wait_s))

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        coded: list[Append] = []
        for append in appends:
            part = append.segment
            body = self._encode(part.body)
            coded.append(
                Append(append.run_id, append.epoch, Segment(part.first_seq, part.last_seq, body), append.status)
            )
        return await self.store.append(coded)

    async def read(self, run_id: str, after: int, *, max_bytes: int = 1_000_000) -> Page:
        return self._decode_page(await self.store.read(run_id, after, max_bytes=max_bytes))

    def tail(self, run_id: str, after: int) -> Tail:
        return _CodedTail(self, self.store.tail(run_id, after))

    async def send(self, run_id: str, command: Command) -> int:
        coded = base64.b64encode(self._codec.encode(msgspec.json.encode(command.data))).decode()
        data = {_COMMAND_MARK: self._codec.name, "data": coded}
        return await self.store.send(run_id, replace(command, data=data))

    async def commands(self, run_id: str, after: int) -> Sequence[Command]:
        return [self._decode_command(command) for command in await self.store.commands(run_id, after)]


class _CodedTail:
    def __init__(self, store: CodedStore, tail: Tail) -> None:
        self._store = store
        self._tail = tail

    async def next(self) -> Page:
        return self._store._decode_page(await self._tail.next())

    async def aclose(self) -> None:
        await self._tail.aclose()
