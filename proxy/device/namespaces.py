"""Creates and enters Linux namespaces: `unshare` and `setns`, which `os` provides only since Python 3.12."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (unshare(2)). OSError: the kernel refused."""
    _call("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace that `fd` refers to (setns(2)). OSError: the kernel refused."""
    _call("setns", fd, flags)


def current_network() -> int:
    """A descriptor of the calling thread's network namespace; the caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
