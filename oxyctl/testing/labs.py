"""The labs of one pytest process: uniquely named, shared within their scope, and always taken down."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from oxyctl.errors import UsageError
from oxyctl.operate.down import take_down
from oxyctl.operate.up import Interrupted, up
from oxyctl.supervise.state import lab_directory
from oxyctl.testing.guard import Guard
from oxyctl.testing.handles import LabHandle
from oxyctl.topology.file import load, loads
from oxyctl.topology.library import find_file
from oxyctl.topology.model import Lab

MAX_STEM = 30  # characters of a name before the part that makes it unique
Key = tuple[str, str]  # source and owner


def source_of(source: str | Path, bases: Sequence[Path]) -> tuple[Path | None, str]:
    """The path of a lab file, or None and its text. Text has several lines; a path is looked up below `bases`."""
    if isinstance(source, str) and "\n" in source:
        return None, source
    for base in bases:
        if (path := base / source).is_file():
            return path.resolve(), ""
    with contextlib.suppress(UsageError):
        if (path := find_file(str(source))).is_file():
            return path, ""
    raise UsageError(f"no lab file {source} below {' or '.join(map(str, dict.fromkeys(bases)))}")


class Labs:
    """The running labs, by source and owner."""

    def __init__(self, captures: str | None = None) -> None:
        """`captures`: the directory for packets of failed tests."""
        self._has_kept = False
        self._captures = None if captures is None else Path(captures).absolute()
        self._up: dict[Key, LabHandle] = {}
        self._numbers = itertools.count(1)
        self._guard: Guard | None = None
        self._texts: tempfile.TemporaryDirectory[str] | None = None

    def get(self, path: Path | None, text: str, owner: str, timeout_s: float) -> LabHandle:
        """The lab that `owner` has from this file or text, or a new one. DocumentError, OxyctlError, UsageError.

        A test (an owner with `::`) that calls this twice gets two labs.
        """
        key = str(path) if path is not None else text, owner
        while "::" in owner and key in self._up:
            key = key[0] + " ", owner
        if key not in self._up:
            self._up[key] = self._bring_up(path, text, timeout_s)
        return self._up[key]

    def end(self, owners: Sequence[str], *, keep_failed: bool) -> None:
        """Take the labs of `owners` down."""
        for key in [key for key in self._up if key[1] in owners]:
            self._end(self._up.pop(key), keep_failed)

    def close(self, *, keep_failed: bool) -> None:
        """Take all remaining labs down."""
        self.end([owner for _, owner in self._up], keep_failed=keep_failed)
        if self._guard is not None:
            self._guard.close()
        if self._texts is not None and not self._has_kept:
            self._texts.cleanup()

    def _bring_up(self, path: Path | None, text: str, timeout_s: float) -> LabHandle:
        lab = self._load(path, text)
        if self._guard is None:
            self._guard = Guard()
        self._guard.watch(lab.name)  # before anything exists that could be left behind
        try:
            up(lab, timeout_s, lambda event: None)
        except Interrupted:
            self._guard.forget(lab.name)
            raise KeyboardInterrupt from None
        except BaseException:
            self._guard.forget(lab.name)
            raise
        return LabHandle(lab, self._captures)

    def _load(self, path: Path | None, text: str) -> Lab:
        stem = path.stem if path is not None else "text"
        name = f"{re.sub('[^A-Za-z0-9-]', '-', stem)[:MAX_STEM]}-{os.getpid()}-{next(self._numbers)}"
        if path is not None:
            return load(path, f"test-{name}")
        if self._texts is None:
            self._texts = tempfile.TemporaryDirectory(prefix="oxyctl-labs-")
        file = Path(self._texts.name) / f"{name}.yaml"
        file.write_text(text)
        return loads(text, f"test-{name}", str(file))

    def _end(self, handle: LabHandle, keep_failed: bool) -> None:
        assert self._guard is not None
        handle.stop_capture()
        if keep_failed and handle.has_failed:
            self._has_kept = True
        else:
            take_down(lab_directory(handle.name))
        self._guard.forget(handle.name)
