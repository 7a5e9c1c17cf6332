"""A node as its services see it: makes sockets and starts programs in its network namespace."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from oxyctl.services import launch
from proxy.device.namespaces import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS, setns

BACKLOG = 4096
ATTEMPTS = 20  # to find a port that is free for both families and protocols
KEEPALIVE_S = 60
UDP_BUFFER_BYTES = 4 << 20

FLAGS = {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS}
Bind = Callable[[str, int], socket.socket]


@dataclass(frozen=True)
class Host:
    """One node. Without `netns` it is this machine, and services listen on `addresses` only."""

    name: str
    addresses: Sequence[str]
    state: Path
    netns: str | None = None
    utsns: str | None = None
    mntns: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # for ssh sessions
    root: Path | None = None
    hosts: Path | None = None  # the names that the dns service answers for
    user_cas: Sequence[Path] = ()  # files with the authorities that sshd trusts; they may appear later

    def keys(self) -> Path:
        """The directory of the node's keys below `state`, readable by its owner only."""
        directory = self.state / "nodes" / self.name
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory

    def listen(self, port: int, *binds: Bind) -> list[socket.socket]:
        """Open a socket with each of `binds` on each address, all on one port; 0 finds a port that is free for all."""
        with entered(self.netns, "net"):
            for remaining in reversed(range(ATTEMPTS if port == 0 else 1)):
                try:
                    return _bind_all(self._listen_addresses(), port, binds or (listen_tcp,))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE or not remaining:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _listen_addresses(self) -> list[str]:
        if self.netns is None:
            return list(self.addresses)
        return ["0.0.0.0", "::"] if has_ipv6() else ["0.0.0.0"]

    def spawn(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program inside the node's namespaces, which a child inherits from the thread that starts it.

        The mount namespace is joined in the child: a thread that shares its working directory cannot (setns(2)).
        """
        if self.mntns is not None:
            options["preexec_fn"] = partial(_see_files, self.mntns, options.get("cwd") or os.getcwd())
        with entered(self.netns, "net"), entered(self.utsns, "uts"):
            return subprocess.Popen(command, **options)

    def open_root(self) -> int | None:
        """A descriptor of the root directory of the node's programs; None if it is ours. Raises OSError."""
        if self.mntns is None:
            return None
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                command = [sys.executable, "-I", "-S", launch.__file__, "--root", str(theirs.fileno())]
                child = self.spawn(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
            child.wait()
        if not descriptors:
            raise OSError(errno.ENOENT, f"the files of node '{self.name}' cannot be seen")
        return descriptors[0]


@contextmanager
def entered(namespace: str | None, kind: Literal["net", "uts"]) -> Iterator[None]:
    """Move the calling thread into the namespace at the path `namespace` for this block, which must not await."""
    if namespace is None:
        yield
        return
    with _opened(f"/proc/thread-self/ns/{kind}") as home, _opened(namespace) as inside:
        setns(inside, FLAGS[kind])
        try:
            yield
        finally:
            setns(home, FLAGS[kind])


def _see_files(namespace: str, directory: str) -> None:
    """In the new process: switch to the node's files, where the working directory may be different or missing."""
    with _opened(namespace) as inside:
        setns(inside, CLONE_NEWNS)
    try:
        os.chdir(directory)
    except OSError:
        os.chdir("/")


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def has_ipv6() -> bool:
    """Whether the kernel has IPv6."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _bind_all(addresses: Sequence[str], port: int, binds: Sequence[Bind]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            for bind in binds:
                sockets.append(bind(address, port))
                port = port or sockets[0].getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind(kind: int, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def listen_tcp(address: str, port: int) -> socket.socket:
    """A non-blocking TCP socket that listens on `address`, for its family only."""
    sock = _bind(socket.SOCK_STREAM, address, port)
    # accepted sockets inherit it; asyncio sets it only on sockets that were made with IPPROTO_TCP
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # accepted sockets inherit it: connections of clients that vanished are closed in the end
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.listen(BACKLOG)
    return sock


def bind_udp(address: str, port: int) -> socket.socket:
    """A non-blocking UDP socket whose buffers hold a burst of large datagrams."""
    sock = _bind(socket.SOCK_DGRAM, address, port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_BYTES)
    return sock
