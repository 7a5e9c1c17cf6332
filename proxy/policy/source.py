"""Where policies come from: a source gives texts. Files, for one machine; they tell when they have changed."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from proxy.settings import DocumentError

MAX_BYTES = 64 << 20  # of one file


class SourceFile(Protocol):
    """One policy: whose it is, and its text."""

    @property
    def path(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def tenant(self) -> str | None:
        """None: of all tenants."""
        ...

    def text(self) -> str:
        """The YAML of it; DocumentError when it cannot be had."""
        ...

    def beside(self, name: str) -> str:
        """The text of a list that it names; DocumentError when it cannot be had."""
        ...


class Source(Protocol):
    """Policies and lists of all tenants. What `get` gives is applied as one transaction, or not at all."""

    def get(self) -> Sequence[SourceFile]:
        """What is in force from now on, the global ones first."""
        ...


@dataclass
class FileSource:
    """Policies in files. Lists beside them are named relative to the file that names them."""

    of_all: Sequence[str]
    of_tenants: Sequence[tuple[str, str]]  # (tenant, path)
    _read: set[str] = field(default_factory=set)  # files, lists among them

    def get(self) -> list[PolicyFile]:
        """The files, to be read now."""
        return [
            *(PolicyFile(path, None, self._read) for path in self.of_all),
            *(PolicyFile(path, tenant, self._read) for tenant, path in self.of_tenants),
        ]

    def state(self) -> Hashable:
        """What is another one when a file has changed that was read: sizes, times and identities."""
        return tuple((path, _state(path)) for path in sorted(self._read.copy()))


@dataclass
class PolicyFile:
    """One file."""

    path: str
    tenant: str | None
    read: set[str] = field(default_factory=set)  # gets what is read

    def text(self) -> str:
        """What stands in it."""
        return self._read(self.path)

    def beside(self, name: str) -> str:
        """What stands in another file, relative to this one."""
        return self._read(str(Path(self.path).parent / name))

    def _read(self, path: str) -> str:
        self.read.add(path)
        try:
            with open(path, "rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise DocumentError((error.strerror or str(error)).lower(), path) from None
        if len(raw) > MAX_BYTES:
            raise DocumentError(f"larger than {MAX_BYTES >> 20} MiB", path)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DocumentError("not UTF-8 text", path, raw.count(b"\n", 0, error.start) + 1, 1) from None


def _state(path: str) -> Hashable:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
