"""One network and one UTS namespace for each node, kept alive and found again as files in a directory."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from oxyctl.net.syscalls import bind
from proxy.device.namespaces import CLONE_NEWNET, CLONE_NEWUTS, setns, unshare

KINDS = {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS}


class Namespaces:
    """The namespaces below `directory`, as `net/NODE` and `uts/NODE`: the names that `nsenter --net=FILE` takes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, node: str, kind: str = "net") -> Path:
        """The file that stands for one namespace of `node`."""
        return self.directory / kind / node

    def create(self, node: str) -> None:
        """New namespaces for `node`, whose host name is its name. The calling thread returns to its own."""
        with _returning():
            unshare(CLONE_NEWNET | CLONE_NEWUTS)
            socket.sethostname(node)
            for kind in KINDS:
                file = self.path(node, kind)
                file.parent.mkdir(exist_ok=True)
                file.touch()
                bind(f"/proc/thread-self/ns/{kind}", file)

    def enter(self, node: str) -> None:
        """Move the calling thread into the namespaces of `node`, for good."""
        for kind, flag in KINDS.items():
            enter_file(self.path(node, kind), flag)

    @contextlib.contextmanager
    def inside(self, node: str | None) -> Iterator[None]:
        """The calling thread is in the namespaces of `node` (None: stays where it is) until the block ends."""
        if node is None:
            yield
            return
        with _returning():
            self.enter(node)
            yield


def enter_file(file: str | Path, flag: int) -> None:
    """Move the calling thread into the namespace that `file` stands for; OSError when there is none."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, flag)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    own = {flag: os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind, flag in KINDS.items()}
    try:
        yield
    finally:
        for flag, fd in own.items():
            setns(fd, flag)
            os.close(fd)
