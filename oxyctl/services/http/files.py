"""Files below a node's `root`, and none outside it."""

from __future__ import annotations

import io
import mimetypes
import os
import stat
from email.utils import formatdate
from pathlib import Path

from oxyctl.services.http.messages import Part, Request, Response, byte_range


def find(request: Request, root: Path) -> Response | None:
    """The regular file at the path (`index.html` for a directory), or None. Symbolic links may not leave `root`."""
    if "\0" in request.path or request.method not in ("GET", "HEAD"):
        return None
    try:
        base = root.resolve(strict=True)
        path = (base / request.path.lstrip("/")).resolve(strict=True)
        if path.is_dir():
            path = (path / "index.html").resolve(strict=True)
        if not path.is_relative_to(base):
            return None
        # O_NONBLOCK: a FIFO must not hold the loop
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", 0)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return None
    try:
        return _response(request, path, file)
    except BaseException:
        file.close()
        raise


def _response(request: Request, path: Path, file: io.FileIO) -> Response | None:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        return None
    requested = byte_range(request.header("range"), status.st_size)
    start, stop = requested or (0, status.st_size)
    headers = [
        ("Content-Type", mimetypes.guess_type(path.name)[0] or "application/octet-stream"),
        ("Last-Modified", formatdate(status.st_mtime, usegmt=True)),
        ("Accept-Ranges", "bytes"),
    ]
    if requested:
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{status.st_size}"))
    return Response(206 if requested else 200, headers, Part(file, start, stop - start))
