"""A tunnel in memory, for tests: packets to the client are kept in a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from typing import Any

from proxy.flow.flow import Flow
from proxy.flow.path import Path
from proxy.flow.tenant import Tenant
from proxy.packet.fragment import split
from proxy.settings.parts import DEFAULT_NETWORK
from proxy.wire.virtio import HEADER_BYTES, NO_OFFLOAD


class MemoryTunnel:
    """A `proxy.flow.tenant.Carrier` that never blocks and owns `addresses`."""

    kind = "memory"
    kernel_hops = 0
    can_open_flows = True
    exit: Callable[[bytes | memoryview], int] | None = None

    def __init__(
        self,
        tenant: Tenant,
        addresses: Iterable[str],
        *,
        mtu: int = 1280,
        offload: bool = False,
        tunnel_id: str = "memory-1",
        network: str = DEFAULT_NETWORK,
        site: str | None = None,
        prefixes: Iterable[str] = (),
    ) -> None:
        """`prefixes`: the tunnel owns all of their addresses; `site`: the site at its far end, for routes."""
        self.id, self.tenant, self.mtu = tunnel_id, tenant, mtu
        self.user: str | None = None
        self.device: str | None = None
        self.extension: Any = None
        self.header_bytes = HEADER_BYTES if offload else 0
        self.network, self.site, self.penalty = tenant.networks[network], site, 0
        self.gateways = self.network.gateways
        self.flows: dict[int, dict[bytes, Flow]] = {}
        self.paths: dict[bytes, Path] = {}
        self.sessions: dict[bytes, Any] = {}
        self.forwards: dict[bytes, Path] = {}
        self.is_closed = False
        self.sent: list[bytes] = []  # as sent over the tunnel, including the virtio-net header
        self.owned = frozenset(ip_address(text).packed for text in addresses)
        self._prefixes = [ip_network(prefix) for prefix in prefixes]
        tenant.attach(self)

    def owns(self, address: bytes) -> bool:
        return address in self.owned or any(ip_address(address) in prefix for prefix in self._prefixes)

    def sender(self, number: int) -> Callable[[bytes | memoryview], None]:
        return self.send

    def send(self, packet: bytes | memoryview) -> None:
        self.sent.append(bytes(packet))

    def peer_socket(self, number: int) -> None:
        return None

    def deliver(self, packet: bytes) -> None:
        for piece in split(packet, self.mtu, len(self.sent) + 1):
            self.send(NO_OFFLOAD[: self.header_bytes] + piece)

    def close(self) -> None:
        self.is_closed = True

    def take(self) -> list[bytes]:
        """The packets sent since the last call, without virtio-net headers."""
        packets = [packet[self.header_bytes :] for packet in self.sent]
        self.sent.clear()
        return packets
