"""Counts of records that could not be stored, by tenant and minute, so that an answer can say what it lacks."""

from __future__ import annotations

import threading
from collections.abc import Iterable

MINUTE_NS = 60 * 10**9


class LostRecords:
    """Counted by one thread, saved by another, read by a third. Bounded by the age given to `forget`."""

    def __init__(self, earlier: Iterable[tuple[str, int, int]] = ()) -> None:
        self.total = 0  # since this process started
        self._counts = {(tenant, minute): count for tenant, minute, count in earlier}
        self._unsaved: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def add(self, tenant: str, at: int, count: int = 1) -> None:
        """Count records of `tenant` lost at Unix ns `at`."""
        key = (tenant, at // MINUTE_NS)
        with self._lock:
            self.total += count
            self._counts[key] = self._counts.get(key, 0) + count
            self._unsaved.add(key)

    def count(self, tenant: str | None, since: int | None, until: int | None) -> int:
        """The losses in the minutes that the window touches, of one tenant or (None) of all."""
        low = -1 if since is None else since // MINUTE_NS
        high = 1 << 63 if until is None else until // MINUTE_NS
        with self._lock:
            return sum(
                count
                for (owner, minute), count in self._counts.items()
                if low <= minute <= high and tenant in (None, owner)
            )

    def unsaved(self) -> list[tuple[str, int, int]]:
        """Rows whose count has changed since they were passed to `saved`."""
        with self._lock:
            return [(*key, self._counts[key]) for key in self._unsaved]

    def saved(self, rows: Iterable[tuple[str, int, int]]) -> None:
        with self._lock:
            for tenant, minute, count in rows:
                if self._counts.get((tenant, minute)) == count:
                    self._unsaved.discard((tenant, minute))

    def forget(self, before: int) -> None:
        """Drop losses before Unix ns `before`."""
        with self._lock:
            old = [key for key in self._counts if key[1] < before // MINUTE_NS]
            for key in old:
                del self._counts[key]
                self._unsaved.discard(key)
