"""Where blocks are written: a file, a ring of bounded files, or standard output. Files are always complete."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from oxyctl.errors import OxyctlError

NONBLOCKING_BYTES = select.PIPE_BUF  # a pipe that poll(2) reports as writable accepts this many without blocking
STATISTICS_BYTES = 96  # one interface's statistics
READER_TIMEOUT_S = 2.0  # how long to wait for a reader that has stopped reading, once the capture is to end
_NO_SPACE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file may not grow",
}


class ReaderGone(Exception):
    """The reader of the output is gone: this ends a capture without an error."""


class Sink(Protocol):
    """Takes blocks in order. `write` and `close` may raise ReaderGone, and OxyctlError for lack of space."""

    def write(self, blocks: Sequence[bytes]) -> None: ...

    def extend_head(self, block: bytes) -> None:
        """Write a block that every later file must also begin with."""
        ...

    def close(self, last: Sequence[bytes]) -> None:
        """Write the `last` blocks, and close."""
        ...


class FileSink:
    """A regular file. When the disk is full, it is cut back to its last complete block."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self._name = fd, name
        self._size = os.lseek(fd, 0, os.SEEK_CUR)

    def write(self, blocks: Sequence[bytes]) -> None:
        data = memoryview(b"".join(blocks))
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            self._size += _complete_bytes(blocks, written)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            raise OxyctlError(f"{self._name}: {_NO_SPACE.get(error.errno or 0, error.strerror)}") from None
        self._size += written

    def extend_head(self, block: bytes) -> None:
        self.write([block])

    def close(self, last: Sequence[bytes]) -> None:
        try:
            self.write(last)
        finally:
            os.close(self._fd)


class PipeSink:
    """A pipe, terminal or other device. Even if it is slow or goes away, the capture can end."""

    def __init__(self, fd: int, name: str, wake: int) -> None:
        """`wake` becomes readable when the capture is to end."""
        self._fd, self._name, self._wake = fd, name, wake
        self.has_hang_up = stat.S_ISFIFO(os.fstat(fd).st_mode) or stat.S_ISSOCK(os.fstat(fd).st_mode)

    def fileno(self) -> int:
        """For epoll, which reports a reader that goes away while nothing is written."""
        return self._fd

    def write(self, blocks: Sequence[bytes]) -> None:
        data = memoryview(b"".join(blocks))
        deadline: float | None = None
        while data:
            deadline = self._wait(deadline)
            try:
                data = data[os.write(self._fd, data[:NONBLOCKING_BYTES]) :]
            except (BrokenPipeError, ConnectionResetError):
                raise ReaderGone from None
            except OSError as error:
                raise OxyctlError(f"{self._name}: {_NO_SPACE.get(error.errno or 0, error.strerror)}") from None

    def extend_head(self, block: bytes) -> None:
        self.write([block])

    def close(self, last: Sequence[bytes]) -> None:
        try:
            self.write(last)
        finally:
            os.close(self._fd)

    def _wait(self, deadline: float | None) -> float | None:
        """Wait for space; once the capture is to end, at most GIVE_UP_S."""
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        if poller.poll(0):
            return deadline
        if deadline is None:
            poller.register(self._wake, select.POLLIN)
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = dict(poller.poll(remaining))
        if self._fd in ready:
            return deadline
        if self._wake not in ready:
            raise OxyctlError(f"{self._name}: the reader has stopped reading; its copy may be truncated")
        return self._wait(time.monotonic() + READER_TIMEOUT_S)


class RingSink:
    """Files `path-00001.pcapng` and so on of at most `size` bytes; if there are more than `files`, the oldest goes."""

    def __init__(self, path: Path, size: int, files: int, head: Sequence[bytes]) -> None:
        """`head` begins each file; space is reserved for the end of the last one."""
        self._path, self._size, self._files, self._head = path, size, files, list(head)
        self._reserve = STATISTICS_BYTES * len(head)
        self._written: deque[Path] = deque()
        self._number = self._used = 0
        self._has_packets = False
        self._sink = self._next()

    @property
    def newest(self) -> Path:
        """The file being written, or written last."""
        return self._written[-1]

    def write(self, blocks: Sequence[bytes]) -> None:
        waiting: list[bytes] = []
        for block in blocks:
            if self._has_packets and self._used + len(block) + self._reserve > self._size:
                self._sink.close(waiting)
                waiting, self._sink = [], self._next()
            waiting.append(block)
            self._used += len(block)
            self._has_packets = True
        self._sink.write(waiting)

    def extend_head(self, block: bytes) -> None:
        self._head.append(block)
        self._reserve += STATISTICS_BYTES
        self._used += len(block)
        self._sink.write([block])

    def close(self, last: Sequence[bytes]) -> None:
        self._sink.close(last)

    def _next(self) -> FileSink:
        self._number += 1
        path = self._path.with_name(f"{self._path.stem}-{self._number:05}{self._path.suffix}")
        sink = FileSink(create(path), str(path))
        self._written.append(path)
        if len(self._written) > self._files:
            self._written.popleft().unlink(missing_ok=True)
        sink.write(self._head)
        self._used, self._has_packets = sum(map(len, self._head)), False
        return sink


def create(path: Path) -> int:
    """Create the empty file `path` and return a descriptor. OxyctlError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OxyctlError(f"cannot write {path}: {error.strerror}") from None


def sink_to(fd: int, name: str, wake: int) -> FileSink | PipeSink:
    """The sink for the kind of file that `fd` is."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return FileSink(fd, name)
    return PipeSink(fd, name, wake)


def _complete_bytes(blocks: Sequence[bytes], written: int) -> int:
    """The size of the complete blocks within the first `written` bytes."""
    total = 0
    for block in blocks:
        if total + len(block) > written:
            break
        total += len(block)
    return total
