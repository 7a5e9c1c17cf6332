"""Network, UTS and mount namespaces of nodes, kept alive by files in a directory, where they are found by name."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from oxyctl.net.syscalls import bind, unmount
from proxy.device.namespaces import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS, current_network, setns, unshare

MOUNTS = "mnt"  # only for nodes with files of their own
CLONE_FS = 0x0200
KINDS = {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS}


class Namespaces:
    """The namespaces below `directory`, as `net/NODE` and `uts/NODE`: paths for `nsenter --net=FILE`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._mount_namespaces: dict[str, int] = {}  # mount namespaces by node: they end with this process

    def path(self, node: str, kind: str = "net") -> Path:
        """The file to which a namespace of `node` is bound. `kind`: net, uts or mnt."""
        return self.directory / kind / node

    def create(self, node: str) -> None:
        """Create the namespaces of `node`, with its name as the host name. The calling thread returns to its own."""
        with _returning():
            unshare(CLONE_NEWNET | CLONE_NEWUTS)
            socket.sethostname(node)
            for kind in KINDS:
                file = self.path(node, kind)
                file.parent.mkdir(exist_ok=True)
                file.touch()
                bind(f"/proc/thread-self/ns/{kind}", file)

    def remove(self, node: str) -> None:
        """Unmount the namespaces of `node`: they end with their last process or descriptor."""
        for kind in (*KINDS, MOUNTS):
            file = self.path(node, kind)
            if file.exists():
                with contextlib.suppress(OSError):  # EINVAL: it was never mounted
                    unmount(file)
                file.unlink()
        if node in self._mount_namespaces:
            os.close(self._mount_namespaces.pop(node))

    def enter(self, node: str) -> None:
        """Move the calling thread into the namespaces of `node` permanently."""
        for kind, flag in KINDS.items():
            enter_file(self.path(node, kind), flag)

    @contextlib.contextmanager
    def inside(self, node: str | None) -> Iterator[None]:
        """Move the calling thread into the namespaces of `node` until the block ends. None: it stays where it is."""
        if node is None:
            yield
            return
        with _returning():
            self.enter(node)
            yield

    @contextlib.contextmanager
    def new_mounts(self, node: str) -> Iterator[None]:
        """Move the calling thread into a new mount namespace of `node` until the block ends, and to `/`."""
        with _keeping_mounts():
            unshare(CLONE_NEWNS)
            yield
            descriptor = os.open(f"/proc/thread-self/ns/{MOUNTS}", os.O_RDONLY | os.O_CLOEXEC)
        self._mount_namespaces[node] = descriptor
        # not bind-mounted: since Linux 6.11 that fails if another CPU numbered the namespace (EINVAL)
        file = self.path(node, MOUNTS)
        file.parent.mkdir(exist_ok=True)
        file.symlink_to(f"/proc/{os.readlink('/proc/self')}/fd/{descriptor}")

    def enter_mounts(self, node: str) -> None:
        """Let the calling thread see the files of `node` permanently. If there are any, it changes directory to `/`."""
        file = self.path(node, MOUNTS)
        if file.exists():
            unshare(CLONE_FS)  # setns(2): threads that share a directory cannot be in two mount namespaces
            enter_file(file, CLONE_NEWNS)

    @contextlib.contextmanager
    def seeing_files(self, node: str | None) -> Iterator[None]:
        """Let the calling thread see the files of `node` until the block ends."""
        if node is None or not self.path(node, MOUNTS).exists():
            yield
            return
        with _keeping_mounts():
            self.enter_mounts(node)
            yield


@contextlib.contextmanager
def inside_file(file: str | Path) -> Iterator[None]:
    """Move the calling thread into the network namespace of `file` until the block ends. OSError: there is none."""
    home = current_network()
    try:
        enter_file(file, CLONE_NEWNET)
        yield
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


def enter_file(file: str | Path, flag: int) -> None:
    """Move the calling thread into the namespace at the path `file`. OSError: there is none."""
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


@contextlib.contextmanager
def _keeping_mounts() -> Iterator[None]:
    own = os.open(f"/proc/thread-self/ns/{MOUNTS}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        setns(own, CLONE_NEWNS)
        os.close(own)
