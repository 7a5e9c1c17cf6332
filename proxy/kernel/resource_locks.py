"""Locks on resources that two proxies in one network namespace cannot share: abstract sockets of that namespace."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from proxy.errors import ProxyError
from proxy.settings import KernelOffRamp

TABLES = 0x2_0000  # routing tables reserved, from `first_table` on


class ResourceLocks:
    """The locks of one proxy, held until `close`, or until the process ends."""

    def __init__(self, own: KernelOffRamp) -> None:
        """Raises ProxyError if another proxy holds one of them; the message names the setting to change."""
        self._held: list[socket.socket] = []
        taken: list[str] = []
        for name, place in _places(own):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._held.append(sock)
            try:
                sock.bind(f"\0oxy-kernel-{name}-{place}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    self.close()
                    raise
                taken.append(name)
        if taken:
            self.close()
            words = ", ".join(f"{name}: ..." for name in dict.fromkeys(taken))
            raise ProxyError(
                "another proxy in this network namespace uses the same resources: "
                f"give this one its own 'kernel: {{{words}}}'"
            )

    def close(self) -> None:
        """Release the locks."""
        for sock in self._held:
            sock.close()
        self._held.clear()


def _places(own: KernelOffRamp) -> Iterator[tuple[str, object]]:
    """Keys of `kernel:` in proxy.yaml, with names of their resources. Ranges that overlap have a name in common."""
    yield "instance", own.instance
    upper = own.mark >> 16
    yield from (("mark", place) for place in (upper, upper + 1))  # also NFLOG groups
    first, last = own.first_table, own.first_table + TABLES - 1
    yield from (("first_table", place) for place in sorted({first // TABLES, last // TABLES}))
    yield "first_zone", own.first_zone
