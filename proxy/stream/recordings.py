"""The files that sessions are recorded to, and their retention."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

PRUNE_S = 60.0  # minimum interval between prunings of a tenant's directory
DAY_S = 86_400


class Retention(NamedTuple):
    """Limits on a tenant's recordings; None is unlimited."""

    bytes: int | None = None
    days: float | None = None


class Recordings:
    """The directories of all tenants. A file being recorded is locked, so that it is never deleted."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._pruned: dict[str, float] = {}

    def create(self, tenant: str, name: str, retention: Retention) -> int:
        """Create a file; returns its write-only descriptor. Raises OSError. Old recordings are pruned meanwhile."""
        directory = self._root / tenant
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._prune_soon(directory, retention)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(directory / name.replace("/", "_"), flags, 0o600)
        # The lock belongs to the descriptor, which goes to the recorder, and ends with its last copy (flock(2)).
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def _prune_soon(self, directory: Path, retention: Retention) -> None:
        """Prune in a thread: a directory of a hundred thousand files would delay packets."""
        now = self._clock()
        if retention != Retention() and now - self._pruned.get(directory.name, -PRUNE_S) >= PRUNE_S:
            self._pruned[directory.name] = now
            threading.Thread(target=prune, args=(directory, retention, time.time()), daemon=True).start()


def prune(directory: Path, retention: Retention, now: float) -> None:
    """Delete recordings that are too old, then the oldest until the rest fits. `now`: Unix time in seconds."""
    found = []
    for entry in os.scandir(directory):
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        found.append((facts.st_mtime, facts.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for changed, size, path in sorted(found):
        is_old = retention.days is not None and now - changed > retention.days * DAY_S
        if not is_old and (retention.bytes is None or total <= retention.bytes):
            return
        if _delete(path):
            total -= size


def _delete(path: str) -> bool:
    """Delete a file unless it is being recorded to. Returns whether it was deleted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("the recording %s cannot be deleted: %s", path, error.strerror)
        return False
    return True
