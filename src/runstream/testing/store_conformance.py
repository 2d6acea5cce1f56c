"""The laws that every store keeps, as tests that the author of a store runs over it."""

from __future__ import annotations

from runstream.testing.store_claim_laws import StoreClaimLaws
from runstream.testing.store_keeping_laws import StoreKeepingLaws
from runstream.testing.store_log_laws import StoreLogLaws
from runstream.testing.store_reader_laws import StoreReaderLaws

__all__ = ["StoreConformance"]


class StoreConformance(StoreLogLaws, StoreReaderLaws, StoreClaimLaws, StoreKeepingLaws):
    """Derive a test class from it, and say in `open_store` what to open; `StoreTrial` has the other hooks.

    The tests are coroutines: pytest-asyncio (`asyncio_mode = "auto"`), anyio or a runner of your own awaits them. They
    wait in real time where the store's clock cannot be moved (`advance`), some seconds in all.
    """
