"""The audit log: records as JSON lines in rotated files, written by a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading

import msgspec

from proxy.errors import ProxyError
from proxy.flow.record import FlowRecord
from proxy.settings.model import LineFile

log = logging.getLogger(__name__)

QUEUE_RECORDS = 20_000
BATCH_RECORDS = 1_000
LINGER_S = 0.05  # after the first of a batch: to wake the thread for each costs more than to write it
_STOP = None

Line = FlowRecord | msgspec.Raw  # Raw: JSON already


class JsonLines:
    """A sink of records. `submit` is for the event loop's thread and never blocks; what cannot be kept is counted."""

    def __init__(self, settings: LineFile, *, queue_records: int = QUEUE_RECORDS) -> None:
        """Open or make the file; ProxyError when that cannot be."""
        self._settings = settings
        self._capacity = queue_records
        self._queue: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._overflowed = self._unwritten = 0  # each counted by one thread
        self._is_closed = self._is_failing = False
        self._closing = threading.Event()
        self._encoder = msgspec.json.Encoder()
        try:
            self._fd = self._open()
        except OSError as error:
            raise ProxyError(f"cannot open the audit log {settings.path}: {error.strerror}") from error
        self._writer = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._writer.start()

    @property
    def lost(self) -> int:
        """Records that could not be kept since the proxy started."""
        return self._overflowed + self._unwritten

    def submit(self, record: Line) -> None:
        """Take a record; it must not change any more."""
        if self._is_closed or self._queue.qsize() >= self._capacity:
            self._overflowed += 1
        else:
            self._queue.put(record)

    async def close(self) -> None:
        """Write everything that was submitted, and end the thread."""
        if not self._is_closed:
            self._is_closed = True
            self._closing.set()
            self._queue.put(_STOP)
        await asyncio.to_thread(self._writer.join)

    # What the thread does

    def _run(self) -> None:
        is_running = True
        while is_running:
            records = [self._queue.get()]
            self._closing.wait(LINGER_S)
            with contextlib.suppress(queue.Empty):
                while len(records) < BATCH_RECORDS:
                    records.append(self._queue.get_nowait())
            is_running = _STOP not in records
            self._write([record for record in records if record is not None])
        if self._fd >= 0:
            os.close(self._fd)

    def _write(self, records: list[Line]) -> None:
        if not records:
            return
        try:
            lines = self._encoder.encode_lines(records)
            self._rotate_for(len(lines))
            start = os.fstat(self._fd).st_size
            written = os.write(self._fd, lines)
            if written < len(lines):  # a full disk takes a part: no line is left cut
                os.ftruncate(self._fd, start)
                raise OSError(28, "the disk is full")
        except (OSError, msgspec.EncodeError, UnicodeEncodeError) as error:
            self._unwritten += len(records)
            if not self._is_failing:
                log.error("the audit log %s cannot be written: %s", self._settings.path, error)
            self._is_failing = True
        else:
            if self._is_failing:
                log.warning("the audit log is written again; records lost until now: %d", self.lost)
            self._is_failing = False

    def _rotate_for(self, size: int) -> None:
        """Go on in a new file when this one is full; also when somebody else has moved it away."""
        path = self._settings.path
        if self._fd < 0 or not _is_file(self._fd, path):
            self._reopen()
        elif (has := os.fstat(self._fd).st_size) and has + size > self._settings.max_bytes:
            for number in range(self._settings.files - 1, 0, -1):
                older = f"{path}.{number}"
                newer = f"{path}.{number - 1}" if number > 1 else path
                with contextlib.suppress(FileNotFoundError):
                    os.replace(newer, older)
            if self._settings.files == 1:
                os.unlink(path)
            self._reopen()

    def _reopen(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._fd = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._settings.path, flags, 0o600)


def _is_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
