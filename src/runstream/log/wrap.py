"""A store that passes everything on to another: what stores that change one thing inherit from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from runstream.log.base import (
    Append,
    Claim,
    Command,
    NewRun,
    Page,
    Refusal,
    Renewal,
    Retention,
    RunRecord,
    Store,
    StoredStatus,
    Tail,
)

__all__ = ["StoreWrapper"]


class StoreWrapper:
    """Implements `Store`; `store` is the one that does the work."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def url(self) -> str:
        return self.store.url

    async def open(self) -> None:
        await self.store.open()

    async def aclose(self) -> None:
        await self.store.aclose()

    async def create(self, run: NewRun, *, worker: str | None = None, lease_s: float = 0.0) -> int:
        return await self.store.create(run, worker=worker, lease_s=lease_s)

    async def find(self, run_id: str) -> RunRecord:
        return await self.store.find(run_id)

    async def claim(self, run_id: str, worker: str, lease_s: float) -> Claim | None:
        return await self.store.claim(run_id, worker, lease_s)

    async def claim_next(
        self,
        agents: Collection[str],
        worker: str,
        lease_s: float,
        *,
        queues: Collection[str] | None = None,
        wait_s: float = 0.0,
    ) -> Claim | None:
        return await self.store.claim_next(agents, worker, lease_s, queues=queues, wait_s=wait_s)

    def renew(self, leases: Sequence[tuple[str, int]], lease_s: float) -> Sequence[Renewal]:
        return self.store.renew(leases, lease_s)

    async def release(self, run_id: str, epoch: int) -> bool:
        return await self.store.release(run_id, epoch)

    async def append(self, appends: Sequence[Append]) -> Sequence[Refusal | None]:
        return await self.store.append(appends)

    async def read(self, run_id: str, after: int, *, max_bytes: int = 1_000_000) -> Page:
        return await self.store.read(run_id, after, max_bytes=max_bytes)

    def tail(self, run_id: str, after: int) -> Tail:
        return self.store.tail(run_id, after)

    async def send(self, run_id: str, command: Command) -> int:
        return await self.store.send(run_id, command)

    async def commands(self, run_id: str, after: int) -> Sequence[Command]:
        return await self.store.commands(run_id, after)

    async def wait_commands(self, known: Mapping[str, int]) -> Collection[str]:
        return await self.store.wait_commands(known)

    async def list_runs(
        self,
        *,
        status: Collection[StoredStatus] | None = None,
        agent: str | None = None,
        owner: str | None = None,
        limit: int = 100,
        before: tuple[float, str] | None = None,
    ) -> Sequence[RunRecord]:
        return await self.store.list_runs(status=status, agent=agent, owner=owner, limit=limit, before=before)

    async def trim(self, run_id: str, before_seq: int) -> int:
        return await self.store.trim(run_id, before_seq)

    async def delete(self, run_id: str) -> bool:
        return await self.store.delete(run_id)

    async def delete_owner(self, owner: str) -> int:
        return await self.store.delete_owner(owner)

    async def sweep(self, retention: Retention) -> int:
        return await self.store.sweep(retention)
