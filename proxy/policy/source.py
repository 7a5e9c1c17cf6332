"""Sources of policies, which provide texts. Files, for one machine, whose changes are detected."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from proxy.settings import DocumentError

MAX_BYTES = 64 << 20  # per file


class SourceFile(Protocol):
    """One policy: its tenant, and its text."""

    @property
    def path(self) -> str:
        """Its name in messages."""
        ...

    @property
    def tenant(self) -> str | None:
        """The tenant; None: all tenants."""
        ...

    def text(self) -> str:
        """The YAML text. DocumentError: it is not available."""
        ...

    def beside(self, name: str) -> str:
        """The text of a list that the policy names. DocumentError: it is not available."""
        ...


class Source(Protocol):
    """Policies and lists of all tenants. The result of `get` is applied as one transaction, or not at all."""

    def get(self) -> Sequence[SourceFile]:
        """The policies to put in force, global ones first."""
        ...


@dataclass
class FileSource:
    """Policies in files. Lists beside them are named relative to the file that names them."""

    global_paths: Sequence[str]
    tenant_paths: Sequence[tuple[str, str]]  # (tenant, path)
    _read_paths: set[str] = field(default_factory=set)  # files, lists among them

    def get(self) -> list[PolicyFile]:
        """The files, read when used."""
        return [
            *(PolicyFile(path, None, self._read_paths) for path in self.global_paths),
            *(PolicyFile(path, tenant, self._read_paths) for tenant, path in self.tenant_paths),
        ]

    def state(self) -> Hashable:
        """A value that differs when a file has changed: sizes, times and identities of files that were read."""
        return tuple((path, _state(path)) for path in sorted(self._read_paths.copy()))


@dataclass
class PolicyFile:
    """One file."""

    path: str
    tenant: str | None
    read: set[str] = field(default_factory=set)  # paths of files that were read are added

    def text(self) -> str:
        """The text of the file."""
        return self._read(self.path)

    def beside(self, name: str) -> str:
        """The text of another file, relative to this one."""
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
