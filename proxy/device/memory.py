"""A tunnel in memory, for tests: what the proxy sends to its client is kept in a list."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from proxy.flow.flow import Path
from proxy.flow.tenant import Tenant
from proxy.packet.fragment import split
from proxy.wire.virtio import HEADER_BYTES, NO_OFFLOAD


class MemoryTunnel:
    """A `proxy.flow.tenant.Carrier` that never blocks and owns `addresses`."""

    kind = "memory"

    def __init__(
        self,
        tenant: Tenant,
        addresses: Iterable[str],
        *,
        mtu: int = 1280,
        offload: bool = False,
        tunnel_id: str = "memory-1",
    ) -> None:
        self.id, self.tenant, self.mtu = tunnel_id, tenant, mtu
        self.user: str | None = None
        self.device: str | None = None
        self.header_bytes = HEADER_BYTES if offload else 0
        self.paths: dict[bytes, Path] = {}
        self.sessions: dict[bytes, Any] = {}
        self.is_closed = False
        self.sent: list[bytes] = []  # as they would stand on the tunnel, virtio-net header included
        self.owns = frozenset(ip_address(text).packed for text in addresses).__contains__
        tenant.carriers[tunnel_id] = self

    def send(self, packet: bytes | memoryview) -> None:
        self.sent.append(bytes(packet))

    def deliver(self, packet: bytes) -> None:
        for piece in split(packet, self.mtu, len(self.sent) + 1):
            self.send(NO_OFFLOAD[: self.header_bytes] + piece)

    def close(self) -> None:
        self.is_closed = True

    def take(self) -> list[bytes]:
        """The bare packets sent since the last call."""
        packets = [packet[self.header_bytes :] for packet in self.sent]
        self.sent.clear()
        return packets
