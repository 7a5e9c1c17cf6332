"""The bytes of /bytes/N: a fixed pattern, repeated. Nothing is stored, and any part can be computed directly."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

MAX_BYTES = 1 << 40
# A prime: if a middlebox swaps, repeats or omits whole buffers, the digest changes.
PERIOD = 1_048_583
PATTERN = hashlib.shake_128(b"oxyctl").digest(PERIOD)
_STRETCH_BYTES = 16 << 20  # hashed per visit to a thread: some 10 ms


def pieces(start: int, stop: int) -> Iterator[memoryview]:
    """Bytes `start` to `stop`, in pieces of up to 1 MiB that share memory: byte i is PATTERN[i % PERIOD]."""
    view = memoryview(PATTERN)
    while start < stop:
        offset = start % PERIOD
        piece = view[offset : offset + stop - start]
        yield piece
        start += len(piece)


async def sha256(length: int) -> str:
    """SHA-256 of the first `length` bytes in hexadecimal, computed in a thread; stops when cancelled."""
    digest = hashlib.sha256()

    def update(start: int, stop: int) -> None:
        for piece in pieces(start, stop):
            digest.update(piece)

    for start in range(0, length, _STRETCH_BYTES):
        await asyncio.to_thread(update, start, min(start + _STRETCH_BYTES, length))
    return digest.hexdigest()
