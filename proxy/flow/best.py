"""The first N of many items in some order, with few more than N in memory."""

from __future__ import annotations

import operator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_SPARE = 100
_place = operator.itemgetter(0, 1)


class Best(Generic[T]):
    """The first `limit` of the items added, by key, and by name among equal keys."""

    def __init__(self, limit: int, descending: bool) -> None:
        self._limit, self._descending = limit, descending
        self._found: list[tuple[Any, str, T]] = []
        self._last: tuple[Any, str] | None = None  # items behind this are not among the first

    def __len__(self) -> int:
        return min(len(self._found), self._limit)

    def add(self, key: Any, name: str, item: T) -> None:
        """Add an item."""
        if self._last is not None:
            place = (key, name)
            if (place < self._last) if self._descending else (place > self._last):
                return
        self._found.append((key, name, item))
        if len(self._found) > 2 * self._limit + _SPARE:
            self._cut()
            self._last = self._found[-1][:2]

    def items(self) -> list[T]:
        """The first `limit` items, in order."""
        self._cut()
        return [item for _, _, item in self._found]

    def _cut(self) -> None:
        self._found.sort(key=_place, reverse=self._descending)
        del self._found[self._limit :]
