"""Moves bytes between an SSH channel and the descriptors of its program, with backpressure in both directions."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable

READ_BYTES = 64 << 10
HIGH_WATER = 256 << 10
MAX_HELD_READS = 64  # a program left in the background may never stop writing


class Source:
    """Reads a descriptor when it is readable and not paused; the end of file is b"", once."""

    def __init__(self, fd: int, on_data: Callable[[bytes], None]) -> None:
        self._fd, self._on_data = fd, on_data
        self._loop = asyncio.get_running_loop()
        self._paused = False
        self.is_open = True
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def pause(self) -> None:
        """Stop reading for now."""
        if self.is_open and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Resume reading."""
        if self.is_open and self._paused:
            self._paused = False
            self._loop.add_reader(self._fd, self._read)

    def drain(self) -> None:
        """Read the rest and close: a terminal may hold output of a program that has ended."""
        for _ in range(MAX_HELD_READS):
            if not (self.is_open and self._read()):
                break
        self.close()

    def close(self) -> None:
        """Close the descriptor; nothing more is read."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._fd)
            os.close(self._fd)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: no process has the terminal open
            data = b""
        if not data:
            self.close()
        self._on_data(data)
        return bool(data)


class Drain:
    """Writes to a descriptor as fast as it accepts; `is_full` while much waits; then `on_drained` is called."""

    def __init__(self, fd: int, on_drained: Callable[[], None]) -> None:
        self._fd, self._on_drained = fd, on_drained
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._ending = False
        self._is_open = True
        os.set_blocking(fd, False)

    @property
    def is_full(self) -> bool:
        """Whether too much is waiting."""
        return self._waiting_bytes > HIGH_WATER

    def write(self, data: bytes) -> None:
        """Write now or as soon as possible. Data is discarded once the reader has closed its end."""
        if not self._is_open or self._ending:
            return
        self._waiting.append(memoryview(data))
        self._waiting_bytes += len(data)
        if len(self._waiting) == 1:
            self._loop.add_writer(self._fd, self._flush)
            self._flush()

    def end(self) -> None:
        """Close once waiting data has been written."""
        self._ending = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close at once, and discard waiting data."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _flush(self) -> None:
        was_full = self.is_full
        try:
            while self._waiting:
                written = os.write(self._fd, self._waiting[0])
                self._waiting_bytes -= written
                if written < len(self._waiting[0]):
                    self._waiting[0] = self._waiting[0][written:]
                else:
                    self._waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: the program has closed its input, which is allowed
            self.close()
        if not self._waiting and self._is_open:
            self._loop.remove_writer(self._fd)
            if self._ending:
                self.close()
        if was_full and not self.is_full:
            self._on_drained()
