"""Passes TLS secrets for Wireshark from OpenSSL to the proxy through a pipe, for tenants that log them.

`SSLContext.keylog_filename` opens a file by name, which an inspector may not do; but its own pipe has a name as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable

from proxy.poller import IN, Poller

PIPE_BYTES = 1 << 20  # OpenSSL blocks when it is full, and this process with it; a handshake writes 1 KB
CHUNK = 65_536


class KeyPipe:
    """Reads complete lines in the format of SSLKEYLOGFILE, and passes them to `on_lines`."""

    def __init__(self, poller: Poller, on_lines: Callable[[bytes], None]) -> None:
        self._poller, self._on_lines, self._rest = poller, on_lines, b""
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):  # beyond the user's limit (pipe(7), pipe-user-pages-soft)
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        poller.watch(self._reading, IN, self._ready, self._crashed)

    @property
    def name(self) -> str:
        """The value for `keylog_filename`."""
        return f"/proc/self/fd/{self._writing}"

    @property
    def can_be_opened(self) -> bool:
        """Whether the sandbox lets OpenSSL open it for writing; it does only with Landlock."""
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
                self._on_lines(lines + newline)

    def _crashed(self, error: BaseException) -> None:
        """Drop what cannot be passed on; sessions go on."""
