"""The flows of a tenant in short lists, so that all can be read while others begin and end.

Copying a table of a million flows takes a tenth of a second, in which no packet moves; the table itself must not change
while it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

CHUNK_SIZE = 250  # items per list: positions below 257 are integers cached by Python, so they cost no memory


class Chunked(Protocol):
    """An item that stores its list, and its position there."""

    chunk: list[Any] | None
    chunk_index: int


ItemT = TypeVar("ItemT", bound=Chunked)


class ChunkedSet(Generic[ItemT]):
    """Items in lists of at most `CHUNK_SIZE`. Adding and removing an item takes constant time."""

    def __init__(self) -> None:
        self._chunks: dict[int, list[ItemT]] = {}  # by the list's id(): the lists that are not empty
        self._open: list[ItemT] = []

    def add(self, item: ItemT) -> None:
        """Add an item that is in no list."""
        chunk = self._open
        if len(chunk) >= CHUNK_SIZE:
            chunk = self._open = []
        if not chunk:
            self._chunks[id(chunk)] = chunk
        item.chunk, item.chunk_index = chunk, len(chunk)
        chunk.append(item)

    def remove(self, item: ItemT) -> None:
        """Remove an item. The last one of its list takes its place."""
        chunk = item.chunk
        assert chunk is not None
        last = chunk.pop()
        if last is not item:
            chunk[item.chunk_index] = last
            last.chunk_index = item.chunk_index
        item.chunk = None
        if not chunk:
            del self._chunks[id(chunk)]
        if len(chunk) < len(self._open):  # fill free places before a new list
            self._open = chunk

    def __iter__(self) -> Iterator[list[ItemT]]:
        """Each list as it is when it is reached. An item that stays throughout comes exactly once."""
        for chunk in list(self._chunks.values()):
            yield chunk.copy()
