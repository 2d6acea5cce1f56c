"""log/payload: whatever form payloads are kept in, readers see what was written, or are told why they cannot."""

from __future__ import annotations

import hashlib
import itertools
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import RunExists, StoreError, UserError
from runstream.events.segment import decode_segment
from runstream.log.base import Append, Command, NewRun, Segment, Store
from runstream.log.memory_store import MemoryStore
from runstream.log.payload import CodedStore, PayloadCodec, ZlibPayloads

_names = itertools.count()


class ToyCipher:
    """Stands for encryption: another result each time, and a wrong key is noticed. Not for use."""

    def __init__(self, key: bytes, name: str = "toy-1") -> None:
        self.name = name
        self._key = key

    def encode(self, payload: bytes) -> bytes:
        nonce = os.urandom(8)
        return nonce + self._tag(payload) + self._mix(nonce, payload)

    def decode(self, payload: bytes) -> bytes:
        plain = self._mix(payload[:8], payload[16:])
        if self._tag(plain) != payload[8:16]:
            raise ValueError("the key does not fit")
        return plain

    def _mix(self, nonce: bytes, payload: bytes) -> bytes:
        stream = hashlib.shake_128(self._key + nonce).digest(len(payload))
        return bytes(a ^ b for a, b in zip(payload, stream, strict=True))

    def _tag(self, payload: bytes) -> bytes:
        return hashlib.sha256(self._key + payload).digest()[:8]


async def opened(url: str, *codecs: PayloadCodec) -> Store:
    store: Store = MemoryStore(url)
    if codecs:
        store = CodedStore(store, codecs[0], older=codecs[1:])
    await store.open()
    return store


async def filled(url: str, *codecs: PayloadCodec) -> Store:
    """A store with one run, which has a job, a segment and a command."""
    store = await opened(url, *codecs)
    await store.create(NewRun("run", "Desk", job=b"the job"))
    claim = await store.claim_next(["Desk"], "w1", 60.0)
    assert claim is not None
    assert claim.run.job == b"the job"
    await store.append([Append("run", claim.epoch, Segment(1, 2, b"the body" * 100), "waiting")])
    await store.send("run", Command("input", {"said": "the command"}))
    return store


async def contents(store: Store) -> tuple[bytes | None, bytes, bytes, object]:
    """What a reader sees of it."""
    tail = store.tail("run", 0)
    followed = (await tail.next()).segments[0].body
    await tail.aclose()
    job = (await store.find("run")).job
    return job, (await store.read("run", 0)).segments[0].body, followed, (await store.commands("run", 0))[0].data


PLAIN = (b"the job", b"the body" * 100, b"the body" * 100, {"said": "the command"})


@pytest.fixture
def url() -> str:
    return f"memory://payload-{next(_names)}"


@pytest.mark.parametrize("codec", [ZlibPayloads(), ZlibPayloads(1, min_bytes=0), ToyCipher(b"key")])
async def test_payloads_come_back_and_are_not_kept_plain(url: str, codec: PayloadCodec) -> None:
    """Jobs, bodies and commands are as they were for readers with the codec; the store itself has other bytes."""
    store = await filled(url, codec)
    assert await contents(store) == PLAIN
    kept = await contents(await opened(url))
    assert all(one != other for one, other in zip(kept, PLAIN, strict=True))
    if isinstance(codec, ToyCipher):
        assert b"the " not in b"".join(part for part in kept if isinstance(part, bytes))
        assert "the command" not in str(kept[3])


async def test_what_was_written_without_a_codec_is_read(url: str) -> None:
    """A codec can be put before a store that is in use."""
    await filled(url)
    assert await contents(await opened(url, ToyCipher(b"key"))) == PLAIN


async def test_older_codecs_read_what_they_wrote(url: str) -> None:
    """A key can be replaced."""
    old, new = ToyCipher(b"old"), ToyCipher(b"new", "toy-2")
    await filled(url, old)
    store = await opened(url, new, old)
    assert await contents(store) == PLAIN
    await store.send("run", Command("cancel", {}))
    assert [command.data for command in await store.commands("run", 1)] == [{}]
    with pytest.raises(StoreError, match="'toy-2'; this program has 'toy-1'"):
        await (await opened(url, old)).commands("run", 1)


async def test_another_codec_is_told(url: str) -> None:
    """Each reading method says which codec is missing."""
    await filled(url, ZlibPayloads())
    store = await opened(url, ToyCipher(b"key"))
    for reading in (store.find("run"), store.read("run", 0), store.tail("run", 0).next(), store.commands("run", 0)):
        with pytest.raises(StoreError, match=r"'zlib'; this program has 'toy-1': .*older="):
            await reading


async def test_a_wrong_key_is_told(url: str) -> None:
    """What the codec raises becomes a StoreError that says what it was."""
    await filled(url, ToyCipher(b"key"))
    with pytest.raises(StoreError, match="the key does not fit"):
        await (await opened(url, ToyCipher(b"other"))).read("run", 0)


async def test_entering_a_run_can_be_repeated(url: str) -> None:
    """Though the job is written otherwise each time, the same call is known again, and another one is not."""
    store = await opened(url, ToyCipher(b"key"))
    for _ in range(3):
        assert await store.create(NewRun("run", "Desk", job=b"x")) == 0
    for other in (NewRun("run", "Desk", job=b"y"), NewRun("run", "Desk"), NewRun("run", "Other", job=b"x")):
        with pytest.raises(RunExists):
            await store.create(other)


@given(st.binary(max_size=400), st.integers(1, 9), st.integers(0, 100))
def test_zlib_comes_back(payload: bytes, level: int, min_bytes: int) -> None:
    """Any bytes, and never more than one longer."""
    codec = ZlibPayloads(level, min_bytes=min_bytes)
    coded = codec.encode(payload)
    assert codec.decode(coded) == payload
    assert len(coded) <= len(payload) + 1


def test_zlib_makes_logs_shorter() -> None:
    """Text that repeats itself, as records do, shrinks to less than half."""
    payload = b"".join(b'{"v":1,"seq":%d,"kind":"model","agent":"Desk"}\n' % seq for seq in range(50))
    assert len(ZlibPayloads().encode(payload)) < len(payload) / 2
    with pytest.raises(zlib.error):
        ZlibPayloads().decode(b"nothing")


@pytest.mark.parametrize("level", [0, 10])
def test_levels(level: int) -> None:
    """Others than 1 to 9 are refused."""
    with pytest.raises(UserError, match="from 1 to 9"):
        ZlibPayloads(level)


@pytest.mark.parametrize("names", [["a", "a"], [""], ["x" * 256]])
def test_names_tell_codecs_apart(names: list[str]) -> None:
    """Two of one name, and names that cannot be written, are refused."""
    codecs = [ToyCipher(b"key", name) for name in names]
    with pytest.raises(UserError, match="payload codec"):
        CodedStore(MemoryStore(), codecs[0], older=codecs[1:])


async def test_a_reader_without_the_codec_is_told() -> None:
    """The error names the codec that is missing, and says where it goes."""
    store = MemoryStore()
    await store.open()
    coded = CodedStore(store, ToyCipher(b"key"))
    epoch = await coded.create(NewRun("run", "Desk"), worker="w1", lease_s=60.0)
    assert await coded.append([Append("run", epoch, Segment(1, 1, b"{}"))]) == [None]
    (segment,) = (await store.read("run", 0)).segments
    with pytest.raises(StoreError, match="payload codec 'toy-1': open the store with it"):
        decode_segment(segment.body, "run")
    await store.aclose()
