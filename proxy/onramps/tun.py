"""The TUN on-ramp: a device of the proxy, whose packets belong to one tenant. It needs neither a client nor a lab."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network

from proxy.device.interface import bring_up
from proxy.device.tun import open_tun
from proxy.errors import DropReason, ProxyError
from proxy.flow.tenant import Tenant
from proxy.kernel.carrier import RampCarrier
from proxy.kernel.pump import RampPump
from proxy.packet.plane import Plane
from proxy.poller import IN, Poller
from proxy.settings.model import TunOnRamp

QUEUE = 2000  # packets queued in the kernel for us


class TunRamp(RampCarrier):
    """A TUN device in the proxy's own namespace. The administrator sets the routes into it."""

    kind = "tun"

    def __init__(
        self, settings: TunOnRamp, tenant: Tenant, plane: Plane, poller: Poller, tuns: Mapping[bool, int]
    ) -> None:
        """`tuns`: the descriptors of the bridges' TUN devices, by whether they have offload."""
        super().__init__(
            settings.device, tenant, plane, mtu=settings.mtu, offload=settings.offload, user=settings.user,
            network=settings.network,
        )  # fmt: skip
        networks = [ip_network(prefix) for prefix in settings.sources]
        self._prefixes = settings.sources
        self.owns = lru_cache(4096)(lambda packed: any(ip_address(packed) in network for network in networks))
        self._poller = poller
        try:
            self._fd = open_tun(settings.device, offload=settings.offload)
            bring_up(settings.device, mtu=settings.mtu, queue=QUEUE, addresses=settings.addresses)
        except OSError as error:
            raise ProxyError(f"on-ramp {settings.device}: {error.strerror or error}") from error
        tun = tuns[settings.offload]
        self.pump = RampPump(
            self._fd, tun, self.header_bytes, self.paths, self.sessions, self.take, self._has_ended, self.count,
            self.forwards,
        )  # fmt: skip
        poller.watch(self._fd, IN, self.pump.ready, self.crashed)

    @property
    def addresses(self) -> list[str]:
        return list(self._prefixes)

    def send(self, packet: bytes | memoryview) -> None:
        """Give a packet to the kernel, as received on the device."""
        try:
            os.write(self._fd, packet)
            self.packets_out += 1
            self.bytes_out += len(packet)
        except OSError:
            self.count(DropReason.TUNNEL_CLOSED if self.is_closed else DropReason.KERNEL_IP)

    def close(self) -> None:
        """Remove the device."""
        if not self.is_closed:
            self.is_closed = True
            self._poller.forget(self._fd)
            os.close(self._fd)

    def _has_ended(self) -> bool:
        return self.is_closed
