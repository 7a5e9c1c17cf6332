"""The flows of a tenant in short lists, so that all can be read while others begin and end.

Copying a table of a million flows takes a tenth of a second, in which no packet moves; the table itself must not change
while it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

ROOM = 250  # items per list: positions below 257 are integers cached by Python, so they cost no memory


class Shelved(Protocol):
    """An item that stores its list, and its position there."""

    shelf: list[Any] | None
    place: int


class Shelves:
    """Items in lists of at most ROOM. Adding and removing an item takes constant time."""

    def __init__(self) -> None:
        self._shelves: dict[int, list[Any]] = {}  # by the list's id(): the lists that are not empty
        self._open: list[Any] = []

    def put(self, item: Shelved) -> None:
        """Add an item that is in no list."""
        shelf = self._open
        if len(shelf) >= ROOM:
            shelf = self._open = []
        if not shelf:
            self._shelves[id(shelf)] = shelf
        item.shelf, item.place = shelf, len(shelf)
        shelf.append(item)

    def take(self, item: Shelved) -> None:
        """Remove an item. The last one of its list takes its place."""
        shelf = item.shelf
        assert shelf is not None
        last = shelf.pop()
        if last is not item:
            shelf[item.place] = last
            last.place = item.place
        item.shelf = None
        if not shelf:
            del self._shelves[id(shelf)]
        if len(shelf) < len(self._open):  # fill free room before beginning new lists
            self._open = shelf

    def __iter__(self) -> Iterator[list[Any]]:
        """Each list as it is when it is reached. An item that stays throughout comes exactly once."""
        for shelf in list(self._shelves.values()):
            yield shelf.copy()
