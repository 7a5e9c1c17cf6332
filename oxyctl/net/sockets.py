"""Unix sockets with paths longer than the kernel's limit of 107 bytes (unix(7))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

MAX_PATH_BYTES = 107


def is_too_long(path: str | Path) -> bool:
    """Whether `path` is too long to bind or connect a Unix socket at it."""
    return len(os.fsencode(path)) > MAX_PATH_BYTES


@contextlib.contextmanager
def shortened(path: str | Path) -> Iterator[str]:
    """`path`, or a short path to the same file, valid in this process until the block ends. OSError."""
    if not is_too_long(path):
        yield str(path)
        return
    fd = _open_directory(path)
    try:
        yield _name(fd, path)
    finally:
        os.close(fd)


def short_path(path: str | Path) -> str:
    """`path`, or a short path to the same file, valid until this process ends. OSError."""
    return _name(_open_directory(path), path) if is_too_long(path) else str(path)


def _open_directory(path: str | Path) -> int:
    return os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _name(directory: int, path: str | Path) -> str:
    return f"/proc/self/fd/{directory}/{os.path.basename(path)}"
