"""The store on Redis keeps the laws of stores."""

from __future__ import annotations

import pytest

from runstream.log.base import Store
from runstream.log.redis import RedisStore
from runstream.testing.store_conformance import StoreConformance


class TestRedisStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.store_url = redis_url

    async def open_store(self) -> Store:
        store = RedisStore(self.store_url)
        await store.open()
        return store
