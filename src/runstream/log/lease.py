"""The heartbeat of a process: keeps the leases of its runs, from a thread of its own.

A thread, so that code which holds up the event loop costs no lease. A loop that hangs for good is no reason to keep a
run for ever: past the run's own time limit its lease is not renewed any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from runstream.log.base import Store

__all__ = ["LeaseKeeper"]

_logger = logging.getLogger("runstream")


@dataclass(slots=True)
class _Lease:
    epoch: int
    until_s: float | None
    """When renewing stops, by the monotonic clock."""


class LeaseKeeper:
    """Renews leases at a third of their length. `on_lost` and `on_command` are called in the keeper's thread."""

    def __init__(
        self,
        store: Store,
        lease_s: float,
        *,
        on_lost: Callable[[str], None],
        on_command: Callable[[str, int], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._on_command = on_command
        self._monotonic = monotonic
        self._leases: dict[str, _Lease] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def hold(self, run_id: str, epoch: int, *, limit_s: float | None = None) -> None:
        """Keep the run's lease, for `limit_s` seconds at the most."""
        until_s = None if limit_s is None else self._monotonic() + limit_s
        with self._changed:
            self._leases[run_id] = _Lease(epoch, until_s)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="runstream leases", daemon=True)
                self._thread.start()

    def drop(self, run_id: str, epoch: int) -> None:
        """Keep it no longer; one that was claimed anew since is another lease."""
        with self._changed:
            lease = self._leases.get(run_id)
            if lease is not None and lease.epoch == epoch:
                del self._leases[run_id]

    def close(self) -> None:
        """Stop, and wait for the thread."""
        with self._changed:
            self._closed = True
            self._leases.clear()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._closed:  # it may have been closed before this thread came here
                    self._changed.wait(self._lease_s / 3)
                if self._closed:
                    return
            self.beat()

    def beat(self) -> None:
        """Renew every lease once, now."""
        now = self._monotonic()
        with self._changed:
            leases = [
                (run_id, lease.epoch)
                for run_id, lease in self._leases.items()
                if lease.until_s is None or now < lease.until_s
            ]
        if not leases:
            return
        try:
            renewals = self._store.renew(leases, self._lease_s)
        except Exception as error:
            # The next beat tries again; should the lease run out meanwhile, the epoch keeps the log safe.
            _logger.warning("leases could not be renewed: %s", error)
            return
        for (run_id, epoch), renewal in zip(leases, renewals, strict=True):
            with self._changed:
                lease = self._leases.get(run_id)
                if lease is None or lease.epoch != epoch:
                    continue
                if not renewal.held:
                    del self._leases[run_id]
            if not renewal.held:
                self._on_lost(run_id)
            elif renewal.last_command:
                self._on_command(run_id, renewal.last_command)
