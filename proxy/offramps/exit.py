"""Devices that lead into the kernel's forwarding: TUN devices in the namespace of the proxy, used as carriers."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network

from proxy.device.interface import bring_up, mtu_of, set_sysctl
from proxy.device.tun import device_name, open_tun
from proxy.errors import DropReason, ProxyError
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.keys import reverse_key
from proxy.flow.tenant import Tenant
from proxy.kernel.carrier import RampCarrier
from proxy.kernel.exit_pump import ExitPump
from proxy.kernel.pump import RampPump
from proxy.kernel.ruleset import FLUSH_PROTOCOL, LEASE_PROTOCOL, REVOKING_TTL
from proxy.offramps.cached_decisions import ExitDecisions, RampDecisions
from proxy.packet.plane import Plane
from proxy.poller import IN, Poller
from proxy.settings.model import InterfaceOnRamp
from proxy.wire import ip
from proxy.wire.virtio import NO_OFFLOAD

QUEUE = 10_000  # packets queued in the kernel for us; beyond it they are lost
MTU = 65_535  # so that no packet is too big for the kernel: tunnels have their own MTUs
LEASE_ADDRESSES = bytes((192, 0, 0, 8)), bytes.fromhex("fd6f7879000000000000000000000001")
FLUSH = ip.header(LEASE_ADDRESSES[0], LEASE_ADDRESSES[0][:-1] + b"\x09", FLUSH_PROTOCOL, 0)
EXIT_NAME, ON_RAMP_NAME, BACK_NAME, UNSOLICITED_NAME = "oxk%d", "oxi%d", "oxb%d", "oxu%d"
SYSCTLS = {
    "net/ipv4/conf/{}/forwarding": 1,
    "net/ipv4/conf/{}/rp_filter": 0,
    "net/ipv4/conf/{}/src_valid_mark": 1,  # reverse path checks by all/rp_filter use our marks, which lead here
    "net/ipv4/conf/{}/send_redirects": 0,
    "net/ipv4/conf/{}/accept_local": 1,  # the proxy's RST to an origin has the host's own source address
    "net/ipv6/conf/{}/force_forwarding": 1,  # Linux 6.17 and later
    "net/ipv6/conf/{}/addr_gen_mode": 1,  # no link-local address, so that only flows come up
    "net/ipv6/conf/{}/accept_ra": 0,
}


class Exit(RampCarrier):
    """The device by which flows of a network leave, with or without offload. Returning packets without a flow are
    stray."""

    kind = "kernel"
    kernel_hops = 1
    can_open_flows = False

    def __init__(
        self,
        tenant: Tenant,
        network: str,
        plane: Plane,
        poller: Poller,
        reserve: Callable[[Tenant], bool],
        *,
        offload: bool,
    ) -> None:
        """`reserve`: see `CachedDecisions`."""
        self._fd, self.interface = open_device(EXIT_NAME, offload=offload)
        super().__init__(self.interface, tenant, plane, mtu=MTU, offload=offload, network=network)
        self.owns = _any_address
        self.exit = partial(os.write, self._fd)
        self._poller = poller
        self.cached_decisions = ExitDecisions(self, plane, reserve)
        self.pump = ExitPump(self._fd, self.header_bytes, self.paths, self.forwards, self.take)
        poller.watch(self._fd, IN, self.pump.ready, self.crashed)

    def send(self, packet: bytes | memoryview) -> None:
        """Give a packet to the kernel's forwarding."""
        try:
            os.write(self._fd, packet)
        except OSError:
            self.count(DropReason.TUNNEL_CLOSED if self.is_closed else DropReason.KERNEL_IP)
        else:
            self.packets_out += 1
            self.bytes_out += len(packet)

    def close(self) -> None:
        """Remove the device."""
        if not self.is_closed:
            self.is_closed = True
            self._poller.forget(self._fd)
            os.close(self._fd)


class InterfaceRamp(RampCarrier):
    """An on-ramp whose clients the kernel sees. Packets to be decided come up by the device, and go back to it."""

    kind = "interface"
    kernel_hops = 1

    def __init__(
        self,
        settings: InterfaceOnRamp,
        tenant: Tenant,
        plane: Plane,
        poller: Poller,
        tun: int,
        reserve: Callable[[Tenant], bool],
    ) -> None:
        """`tun`: the bridge's device with offload, for flows that are read. `reserve`: see `CachedDecisions`."""
        self._fd, self.interface = open_device(ON_RAMP_NAME, offload=True)
        self._back, self.back = open_device(BACK_NAME, offload=True)
        super().__init__(
            "+".join(settings.interfaces), tenant, plane, mtu=min(map(mtu_of, settings.interfaces)), offload=True,
            network=settings.network, user=settings.user,
        )  # fmt: skip
        self.settings = settings
        networks = [ip_network(prefix) for prefix in settings.sources]
        self.owns = lru_cache(4096)(lambda packed: any(ip_address(packed) in network for network in networks))
        self.exit = partial(os.write, self._fd)
        self._poller = poller
        self.pump = RampPump(
            self._fd, tun, self.header_bytes, self.paths, self.sessions, self.take, self._has_ended, self.count,
            self.forwards,
        )  # fmt: skip
        self.cached_decisions = RampDecisions(self, self._fd, plane, reserve)
        poller.add_before_turn(self.cached_decisions.open_pending)
        poller.watch(self._fd, IN, self.pump.ready, self.crashed)

    @property
    def addresses(self) -> list[str]:
        return list(self.settings.sources)

    def take(self, buffer: bytearray, end: int) -> None:
        """Handle a packet that came up: at once if the answer is known, otherwise in the packet plane."""
        if not self.cached_decisions.take(buffer, end):
            self.cached_decisions.open_pending()
            super().take(buffer, end)

    def send(self, packet: bytes | memoryview) -> None:
        """Send one of our own packets to a client, through the interface to it."""
        try:
            os.write(self._back, packet)
        except OSError:
            self.count(DropReason.TUNNEL_CLOSED if self.is_closed else DropReason.KERNEL_IP)

    def revoke(self, flow: Flow) -> None:
        """Stop the kernel from carrying the flow by itself: the next packet in either direction comes up."""
        self._revoke(PROTOCOL_NUMBERS[flow.protocol], flow.key)
        for ramp in self.network.ramps:
            if isinstance(ramp, InterfaceRamp):
                ramp._revoke(PROTOCOL_NUMBERS[flow.protocol], reverse_key(flow.key))

    def _revoke(self, number: int, key: bytes) -> None:
        size = 4 if len(key) < 16 else 16
        source, destination, ports = key[:size], key[size : 2 * size], key[2 * size :] + bytes(8)
        os.write(self._fd, NO_OFFLOAD + ip.header(source, destination, number, 12, ttl=REVOKING_TTL) + ports)

    def renew_lease(self) -> None:
        """Renew the lease in the table (see LEASE_PROTOCOL)."""
        for address in LEASE_ADDRESSES:
            head = ip.header(address, address[:-1] + b"\x09", LEASE_PROTOCOL, 0)
            os.write(self._fd, NO_OFFLOAD + head)

    def flush_log(self) -> None:
        """Have the kernel hand over its log of ends at once (see FLUSH_PROTOCOL): with this packet as the last."""
        os.write(self._fd, NO_OFFLOAD + FLUSH)

    def close(self) -> None:
        """Remove the device."""
        if not self.is_closed:
            self.is_closed = True
            self._poller.forget(self._fd)
            self._poller.remove_before_turn(self.cached_decisions.open_pending)
            os.close(self._fd)
            os.close(self._back)

    def _has_ended(self) -> bool:
        return self.is_closed


def open_device(template: str, *, offload: bool) -> tuple[int, str]:
    """The descriptor and the name of a new device that is up. Raises ProxyError if there is none."""
    try:
        fd = open_tun(template, offload=offload)
        name = device_name(fd)
    except OSError as error:
        raise ProxyError(f"the kernel off-ramp cannot open a TUN device: {error.strerror or error}") from error
    try:
        for sysctl, value in SYSCTLS.items():
            set_sysctl(sysctl.format(name), value)
        bring_up(name, mtu=MTU, queue=QUEUE)
    except OSError as error:
        os.close(fd)
        raise ProxyError(f"the kernel off-ramp cannot set up {name}: {error.strerror or error}") from error
    return fd, name


def is_flush(data: bytes) -> bool:
    """Whether a logged packet is that of `flush_log`."""
    return data[12:20] == FLUSH[12:20] and data[9] == FLUSH_PROTOCOL


def _any_address(address: bytes) -> bool:
    return True
