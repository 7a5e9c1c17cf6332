"""The output of programs, copied by the supervisor into logs of bounded size.

    log/NAME.log        the newest, at most LOG_BYTES
    log/NAME.log.1      what came before that, and nothing older
    log/NAME.times[.1]  when it came: pairs of Unix nanoseconds and the size that the log had then

A pipe slows a flood down to the pace of the disk, so that the bound holds at any moment; a file that is cut back now
and then would outgrow it in between. And a disk that is full is the log's trouble, never the program's.
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
TIMES = struct.Struct("=qq")
MAX_TIMES = 65_536
APART_NS = 20_000_000  # what comes within it has one time
CHUNK = 65_536
LAST_CHUNKS = 16  # what a program that has ended may have left in its pipe; a surviving child may write more


def older(path: Path) -> Path:
    """Where `path` goes when it is full."""
    return path.with_name(path.name + ".1")


def times_of(log: Path) -> Path:
    """The file that says when `log` was written."""
    return log.with_suffix(".times")


class Log:
    """The log of one program, appended to by one process."""

    def __init__(self, path: Path) -> None:
        """OSError when it cannot be made."""
        self.path = path
        self._open()

    def write(self, data: bytes) -> None:
        """Append `data`; what the disk does not take is lost."""
        with contextlib.suppress(OSError):
            if self._size and (self._size + len(data) > LOG_BYTES or self._times_count >= MAX_TIMES):
                self._rotate()
            self._note_time()
            self._size += os.write(self._log, data)

    def close(self) -> None:
        """Nothing is written any more."""
        os.close(self._log)
        os.close(self._times)

    def _open(self) -> None:
        self._log, self._times = _append(self.path), _append(times_of(self.path))
        self._size = os.lseek(self._log, 0, os.SEEK_END)
        self._times_count, self._last_ns = os.lseek(self._times, 0, os.SEEK_END) // TIMES.size, 0

    def _note_time(self) -> None:
        now = time.time_ns()
        if now - self._last_ns >= APART_NS:
            self._last_ns = now
            os.write(self._times, TIMES.pack(now, self._size))
            self._times_count += 1

    def _rotate(self) -> None:
        before = self._log, self._times
        try:
            for path in (self.path, times_of(self.path)):
                with contextlib.suppress(FileNotFoundError):
                    path.replace(older(path))
            self._open()
        except OSError:  # no room for another file: begin this one again
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
    """One pipe, emptied into `take` by the running event loop; closed at its end."""

    def __init__(self, reader: int, take: Callable[[bytes], None]) -> None:
        self._reader, self._take = reader, take
        os.set_blocking(reader, False)
        asyncio.get_running_loop().add_reader(reader, self._readable)

    def finish(self) -> None:
        """Take what is there now: the program has ended."""
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
        self._take(chunk)
        return True
