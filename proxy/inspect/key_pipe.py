"""Secrets of TLS sessions for Wireshark, where a tenant wants them: from OpenSSL through a pipe to the proxy.

`SSLContext.keylog_filename` opens a file by its name, and an inspector may open none: a pipe of its own has one too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable

from proxy.poller import IN, Poller

PIPE_BYTES = 1 << 20  # OpenSSL waits when it is full, and we with it: a handshake has 1 KB
CHUNK = 65_536


class KeyPipe:
    """Lines as SSLKEYLOGFILE has them, whole ones only; `found` gets them."""

    def __init__(self, poller: Poller, found: Callable[[bytes], None]) -> None:
        self._poller, self._found, self._rest = poller, found, b""
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # the user has enough pipes
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        poller.watch(self._reading, IN, self._ready, self._crashed)

    @property
    def name(self) -> str:
        """What `keylog_filename` is to be."""
        return f"/proc/self/fd/{self._writing}"

    @property
    def can_be_opened(self) -> bool:
        """Whether the sandbox lets OpenSSL write to it: not where there is no Landlock."""
        try:
            os.close(os.open(self.name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._poller.forget(self._reading)
        os.close(self._reading)
        os.close(self._writing)

    def _ready(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            lines, newline, self._rest = (self._rest + os.read(self._reading, CHUNK)).rpartition(b"\n")
            if newline:
                self._found(lines + newline)

    def _crashed(self, error: BaseException) -> None:
        """What cannot be passed on is lost; sessions go on."""
