"""The first N of many items in some order, with few more than N in memory."""

from __future__ import annotations

import operator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_SLACK = 100
_sort_key = operator.itemgetter(0, 1)


class TopN(Generic[T]):
    """The first `limit` of the items added, by key, and by name among equal keys."""

    def __init__(self, limit: int, descending: bool) -> None:
        self._limit, self._descending = limit, descending
        self._items: list[tuple[Any, str, T]] = []
        self._last: tuple[Any, str] | None = None  # items behind this are not among the first

    def __len__(self) -> int:
        return min(len(self._items), self._limit)

    def add(self, key: Any, name: str, item: T) -> None:
        """Add an item."""
        if self._last is not None:
            sort_key = (key, name)
            if (sort_key < self._last) if self._descending else (sort_key > self._last):
                return
        self._items.append((key, name, item))
        if len(self._items) > 2 * self._limit + _SLACK:
            self._trim()
            self._last = self._items[-1][:2]

    def items(self) -> list[T]:
        """The first `limit` items, in order."""
        self._trim()
        return [item for _, _, item in self._items]

    def _trim(self) -> None:
        self._items.sort(key=_sort_key, reverse=self._descending)
        del self._items[self._limit :]
