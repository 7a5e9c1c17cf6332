"""Code shared by tunnels and devices of the kernel off-ramp: memoised paths, counters, single packets in and out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.path import Path
from proxy.flow.tenant import PeerSocket, Tenant
from proxy.kernel.exit_pump import ExitPump
from proxy.kernel.pump import RampPump
from proxy.packet.fragment import split
from proxy.packet.plane import Plane
from proxy.settings.parts import DEFAULT_NETWORK
from proxy.wire.virtio import HEADER_BYTES, NO_OFFLOAD

CONTROL = 0x7B  # "{": neither an IP version nor virtio-net flags begin with it


class RampCarrier:
    """A `proxy.flow.tenant.Carrier` without the parts that differ: address ownership, reading, and `send`."""

    kind = "abstract"
    kernel_hops = 0
    can_open_flows = True
    exit: Callable[[bytes | memoryview], int] | None = None
    extension: Any = None  # the application's data about this tunnel
    pump: RampPump | ExitPump
    owns: Callable[[bytes], bool]

    def __init__(
        self,
        carrier_id: str,
        tenant: Tenant,
        plane: Plane,
        *,
        mtu: int,
        offload: bool,
        network: str = DEFAULT_NETWORK,
        owned: frozenset[bytes] = frozenset(),
        site: str | None = None,
        user: str | None = None,
        device: str | None = None,
    ) -> None:
        self.id, self.tenant, self.mtu, self.user, self.device = carrier_id, tenant, mtu, user, device
        self.network, self.owned, self.site = tenant.networks[network], owned, site
        self.gateways = self.network.gateways
        self.penalty = 0
        self.header_bytes = HEADER_BYTES if offload else 0
        self.flows: dict[int, dict[bytes, Flow]] = {}
        self.paths: dict[bytes, Path] = {}
        self.sessions: dict[bytes, Any] = {}
        self.forwards: dict[bytes, Path] = {}
        self.is_closed = False
        self.refused: str | None = None  # why the policy keeps it from being open
        self.opened_ns = time.time_ns()
        self.packets_out = self.bytes_out = 0
        self.queued_bytes = 0
        self._plane = plane
        self._fragment_ids = 0
        self._send_any = self.send  # one object for all paths, as a bound method takes 64 bytes

    def __repr__(self) -> str:
        return f"<tunnel {self.id} of {self.tenant.name}>"

    @property
    def packets_in(self) -> int:
        return self.pump.packets

    @property
    def bytes_in(self) -> int:
        return self.pump.octets

    @property
    def addresses(self) -> list[str]:
        """The addresses or prefixes that may be sources here, as text."""
        raise NotImplementedError

    def send(self, packet: bytes | memoryview) -> None:
        """Send a packet, with its virtio-net header if this tunnel has one."""
        raise NotImplementedError

    def sender(self, number: int) -> Callable[[bytes | memoryview], None]:
        """The function that sends packets of the flow with this hash; always the same for one flow."""
        return self._send_any

    def peer_socket(self, number: int) -> PeerSocket | None:
        """The socket behind that sender, if a hot loop may use it directly."""
        return None

    def close(self) -> None:
        """Stop reading and writing. The caller ends the flows."""
        raise NotImplementedError

    def deliver(self, packet: bytes) -> None:
        """Send a bare IP packet without options, in fragments if it is larger than the tunnel's MTU."""
        prefix = NO_OFFLOAD if self.header_bytes else b""
        if len(packet) <= self.mtu:
            self.send(prefix + packet)
            return
        self._fragment_ids += 1
        for piece in split(packet, self.mtu, self._fragment_ids):
            self.send(prefix + piece)

    def add_traffic_to_tenant(self) -> None:
        """Add the traffic of a closed tunnel to its tenant's totals."""
        mine = (self.packets_in, self.bytes_in, self.packets_out, self.bytes_out)
        old = self.tenant.closed_traffic
        self.tenant.closed_traffic = (old[0] + mine[0], old[1] + mine[1], old[2] + mine[2], old[3] + mine[3])

    def crashed(self, error: BaseException) -> None:
        """Drop the packet whose handling failed; the tunnel stays open."""
        self.count(DropReason.PROXY_ERROR)

    def count(self, reason: DropReason) -> None:
        """Count a dropped packet."""
        self.tenant.drops[reason] += 1

    def take(self, buffer: bytearray, end: int) -> None:
        """Handle a packet from the tunnel for which no path is memoised."""
        if self.refused is not None:
            reason: DropReason | None = DropReason.DENIED
        elif end and buffer[0] == CONTROL:
            reason = DropReason.BAD_CONTROL
        elif (
            self.exit is None
            and (fast_path := self.network.fast_paths.get(self.header_bytes))
            and fast_path(self, buffer, end)
        ):
            reason = None
        else:
            reason = self._plane.handle(self, buffer, end, time.monotonic(), time.time_ns())
        if reason is not None:
            self.count(reason)
