"""The audit log: records as JSON lines in rotated files, written by a separate thread."""

from __future__ import annotations

import contextlib
import errno
import os

import msgspec

from proxy.errors import ProxyError
from proxy.flow.record import FlowRecord
from proxy.settings.model import LineFile
from proxy.telemetry.sink import QUEUE_ITEMS, ThreadedSink

BATCH_RECORDS = 1_000
LINGER_S = 0.05  # after the first of a batch: waking the thread for each record costs more than writing it

Line = FlowRecord | msgspec.Raw  # Raw: already JSON


class JsonLines(ThreadedSink[Line]):
    """Takes records, and lines that are already JSON."""

    def __init__(self, settings: LineFile, *, queue_records: int = QUEUE_ITEMS) -> None:
        """Open or create the file. Raises ProxyError if that is impossible."""
        self._settings = settings
        self._encoder = msgspec.json.Encoder()
        try:
            self._fd = self._open()
        except OSError as error:
            raise ProxyError(f"cannot open the audit log {settings.path}: {error.strerror}") from error
        name = f"records in {settings.path}"
        super().__init__(name, queue_items=queue_records, batch_items=BATCH_RECORDS, linger_s=LINGER_S)

    def _write(self, items: list[Line]) -> str | None:
        try:
            lines = self._encoder.encode_lines(items)
            self._rotate_for(len(lines))
            start = os.fstat(self._fd).st_size
            written = os.write(self._fd, lines)
            if written < len(lines):  # a full disk takes a part: leave no incomplete line
                os.ftruncate(self._fd, start)
                raise OSError(errno.ENOSPC, "the disk is full")
        except (OSError, msgspec.EncodeError, UnicodeEncodeError) as error:
            return str(error)
        return None

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _rotate_for(self, size: int) -> None:
        """Continue in a new file if this one is full, or if another program has moved it."""
        path = self._settings.path
        if self._fd < 0 or not _is_file(self._fd, path):
            self._reopen()
        elif (size_now := os.fstat(self._fd).st_size) and size_now + size > self._settings.max_bytes:
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
