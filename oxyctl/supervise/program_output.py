"""The output of programs, copied by the supervisor into logs of bounded size.

    log/NAME.log        the newest output, at most LOG_BYTES
    log/NAME.log.1      the output before that; nothing older is kept
    log/NAME.times[.1]  when it was written: pairs of Unix nanoseconds and the size of the log at that time

Programs write into pipes, which slow a flood of output down to the speed of the disk, so the bound holds at any time; a
file that is truncated now and then would exceed it in between. A full disk never affects the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

LOG_BYTES = 10 << 20
TIMESTAMP = struct.Struct("=qq")
MAX_TIMESTAMPS = 65_536
TIMESTAMP_INTERVAL_NS = 20_000_000  # output within this time shares one time stamp
CHUNK = 65_536
LAST_CHUNKS = 16  # read from the pipe of an ended program; a surviving child may write more later


def rotated(path: Path) -> Path:
    """The name of `path` after rotation."""
    return path.with_name(path.name + ".1")


def timestamps_of(log: Path) -> Path:
    """The file with the times at which `log` was written."""
    return log.with_suffix(".times")


class Log:
    """The log of one program, appended to by one process."""

    def __init__(self, path: Path) -> None:
        """Open or create the log. OSError."""
        self.path = path
        self._open()

    def write(self, data: bytes) -> None:
        """Append `data`; it is lost if the disk is full."""
        with contextlib.suppress(OSError):
            if self._size and (self._size + len(data) > LOG_BYTES or self._times_count >= MAX_TIMESTAMPS):
                self._rotate()
            self._note_time()
            self._size += os.write(self._log, data)

    def close(self) -> None:
        """Close the files."""
        os.close(self._log)
        os.close(self._times)

    def _open(self) -> None:
        self._log, self._times = _append(self.path), _append(timestamps_of(self.path))
        self._size = os.lseek(self._log, 0, os.SEEK_END)
        self._times_count, self._last_ns = os.lseek(self._times, 0, os.SEEK_END) // TIMESTAMP.size, 0

    def _note_time(self) -> None:
        now = time.time_ns()
        if now - self._last_ns >= TIMESTAMP_INTERVAL_NS:
            self._last_ns = now
            os.write(self._times, TIMESTAMP.pack(now, self._size))
            self._times_count += 1

    def _rotate(self) -> None:
        before = self._log, self._times
        try:
            for path in (self.path, timestamps_of(self.path)):
                with contextlib.suppress(FileNotFoundError):
                    path.replace(rotated(path))
            self._open()
        except OSError:  # no space for another file: truncate this one
            self._log, self._times = before
            os.truncate(self._log, 0)
            os.truncate(self._times, 0)
            self._size = self._times_count = 0
        else:
            for fd in before:
                os.close(fd)


def _append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


class Pump:
    """Reads one pipe with the running event loop and passes chunks to `on_chunk`, until the pipe's end."""

    def __init__(self, reader: int, on_chunk: Callable[[bytes], None]) -> None:
        self._reader, self._on_chunk = reader, on_chunk
        os.set_blocking(reader, False)
        asyncio.get_running_loop().add_reader(reader, self._readable)

    def finish(self) -> None:
        """Read the rest of the pipe: the program has ended."""
        for _ in range(LAST_CHUNKS):
            if self._reader < 0 or not self._readable():
                return

    def _readable(self) -> bool:
        try:
            chunk = os.read(self._reader, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1
            return False
        self._on_chunk(chunk)
        return True
