"""The health of a tunnel as the site sees it: echo requests through the tunnel to the proxy."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from oxyctl.agents.sites.config import ProbeConfig
from oxyctl.net.namespaces import inside_file
from proxy.packet.health import Health
from proxy.packet.health import Prober as Schedule
from proxy.wire import icmp

SOL_RAW, ICMP_FILTER, ICMP6_FILTER = 255, 1, 1  # linux/icmp.h, linux/icmpv6.h
BUDGET = 64
BODY = b"oxyctl tunnel probe"


class Prober:
    """Probes one tunnel. Calls `on_health` at the first answer and whenever the health changes. Raises OSError."""

    def __init__(self, netns: str, config: ProbeConfig, on_health: Callable[[dict[str, Any]], None]) -> None:
        self._address, self._source = ip_address(config.address), ip_address(config.source)
        self._config, self._on_health = config, on_health
        self.reset()
        with inside_file(netns):
            self._sock = _open(config, self._source.version)
        self.fd = self._sock.fileno()
        version = self._source.version
        self._addresses = self._source.packed + self._address.packed
        self._request, self._reply = icmp.ECHO_REQUESTS[version], icmp.ECHO_REPLIES[version]

    def reset(self) -> None:
        """Forget all earlier probes; late answers to them are ignored."""
        self._schedule = Schedule(self._config.every_s, self._config.timeout_s)
        self._identifier = int.from_bytes(os.urandom(2), "big")

    def next_due(self) -> float:
        """When to call `probe` again."""
        return self._schedule.next_due()

    def probe(self, now: float) -> None:
        """Send a request if one is due; requests not answered in time count as lost."""
        sequence, changed = self._schedule.due(now)
        if changed:
            self._on_health(self.status())
        if sequence is None:
            return
        message = icmp.message(self._addresses, self._request, 0, self._identifier << 16 | sequence, BODY)
        try:
            self._sock.sendto(message, (str(self._address), 0))
        except OSError:  # no device, no route or no room: this request will not be answered
            return

    def receive(self) -> None:
        """Read answers; other ICMP messages that raw sockets receive are ignored."""
        now = time.monotonic()
        try:
            for _ in range(BUDGET):
                message, address = self._sock.recvfrom(2048)
                self._handle_reply(message, address[0].partition("%")[0], now)
        except BlockingIOError:
            pass
        except OSError:  # an ICMP error about a request: it will not be answered
            return

    def _handle_reply(self, message: bytes, source: str, now: float) -> None:
        if self._source.version == 4:
            message = message[(message[0] & 15) * 4 :]
        if source != str(self._address) or len(message) < icmp.HEADER_BYTES or message[0] != self._reply:
            return
        identifier, sequence = icmp.echo_identity(message, 0)
        if identifier != self._identifier:
            return
        first = not self._schedule.monitor.succeeded
        changed = self._schedule.answered(sequence, now)
        if changed or (first and self._schedule.monitor.succeeded):
            self._on_health(self.status())

    def status(self) -> dict[str, Any]:
        """The health, the last round trip in milliseconds, and the counts since the start."""
        monitor, rtt_s = self._schedule.monitor, self._schedule.rtt_s
        return {
            "health": None if not monitor.succeeded and monitor.state is Health.HEALTHY else monitor.state.value,
            "rtt_ms": None if rtt_s is None else round(rtt_s * 1000, 3),
            "answered": monitor.succeeded,
            "lost": monitor.failed,
        }

    def close(self) -> None:
        self._sock.close()


def _open(config: ProbeConfig, version: int) -> socket.socket:
    """A raw socket bound to the device, whatever the routes are, that receives echo replies only."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    if version == 4:
        sock = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
        sock.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF & ~(1 << icmp.ECHO_REPLY)))
    else:
        sock = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        blocked = [0xFFFFFFFF] * 8
        blocked[icmp.ECHO_REPLY_V6 >> 5] &= ~(1 << (icmp.ECHO_REPLY_V6 & 31))
        sock.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *blocked))
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, config.device.encode() + b"\0")
        sock.bind((config.source, 0))
    except OSError as error:
        sock.close()
        what = f"cannot probe from {config.source} on {config.device}"
        raise OSError(error.errno, f"{what}: {os.strerror(error.errno or 0)}") from None
    return sock
