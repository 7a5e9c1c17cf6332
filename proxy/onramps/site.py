"""One tunnel to one peer of a site: admission of its packets, sockets towards it, and health probes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address, ip_network

from proxy.context import TunnelContext
from proxy.errors import DropReason
from proxy.flow.tenant import Tenant
from proxy.kernel.carrier import RampCarrier
from proxy.kernel.unconnected import Source
from proxy.offramps.peer_sockets import PeerSocket, open_peer_socket
from proxy.offramps.tunnel import carrier_changed, mtu_changed
from proxy.packet.health import PENALTY, Health, Prober
from proxy.packet.plane import Plane
from proxy.settings.sites import SITE, Probe, Site
from proxy.wire import gue, icmp, ip
from proxy.wire.ip import IPPacket

log = logging.getLogger(__name__)

SOCKETS = 4  # source ports per peer
MIN_MTU = 576


class SiteTunnel(RampCarrier):
    """An unconnected tunnel, open as long as the proxy runs."""

    kind = "gue"

    def __init__(
        self, settings: Site, carrier_id: str, tenant: Tenant, plane: Plane, source: str, peer: tuple[str, int]
    ) -> None:
        """`source`: our address, as configured at the peer, or "" for any. `peer`: the destination of packets."""
        super().__init__(
            carrier_id, tenant, plane, mtu=settings.mtu, offload=False, network=settings.network, site=settings.name
        )
        self.settings, self.peer = settings, peer
        self.context = TunnelContext(
            tenant=tenant.name, addresses=settings.prefixes, network=settings.network, groups=list(settings.groups)
        )  # in the form of a client's introduction
        if settings.probe is not None:
            own = ip_address(settings.probe.source)
            self.gateways = {**self.gateways, own.version: own.packed}
        prefixes = [ip_network(prefix) for prefix in settings.prefixes]
        self.owns = lru_cache(4096)(lambda packed: any(ip_address(packed) in prefix for prefix in prefixes))
        self.source = Source(self.paths, self.sessions, self.forwards, self.take, self.count)
        self._own = ip_address(source).packed if source else None
        self._sockets: list[PeerSocket] = []
        for _ in range(SOCKETS):
            sock = open_peer_socket(source, peer, int.from_bytes(os.urandom(2), "big"))
            self._sockets.append(PeerSocket(sock, headers(settings, tenant), self))
        self.probes = None if settings.probe is None else Probes(self, settings.probe)

    @property
    def packets_in(self) -> int:
        return self.source.packets

    @property
    def bytes_in(self) -> int:
        return self.source.octets

    @property
    def addresses(self) -> list[str]:
        return self.settings.prefixes

    def send(self, packet: bytes | memoryview) -> None:
        """Encapsulate a packet and send it to the peer."""
        self._sockets[gue.entropy(packet, 0) % SOCKETS].send(packet)

    def sender(self, number: int) -> Callable[[bytes | memoryview], None]:
        return self._sockets[number % SOCKETS].send

    def peer_socket(self, number: int) -> PeerSocket:
        return self._sockets[number % SOCKETS]

    @property
    def packets_out(self) -> int:
        return sum(peer_socket.packets for peer_socket in self._sockets)

    @packets_out.setter
    def packets_out(self, value: int) -> None:
        """Ignored: the sockets count their packets."""

    @property
    def bytes_out(self) -> int:
        return sum(peer_socket.octets for peer_socket in self._sockets)

    @bytes_out.setter
    def bytes_out(self, value: int) -> None:
        """Ignored: the sockets count their bytes."""

    def learn_mtu(self, mtu: int) -> None:
        """Lower the MTU, as the path to the peer has a smaller one than the settings."""
        if MIN_MTU <= mtu < self.mtu:
            log.warning("%r: the path to %s takes inner packets of %d bytes, not %d", self, self.peer[0], mtu, self.mtu)
            self.mtu = mtu
            mtu_changed(self)

    def take(self, buffer: bytearray, end: int) -> None:
        """Handle a packet from the site for which no path is memoised."""
        packet = ip.parse(buffer, 0, end)
        if isinstance(packet, IPPacket):
            if packet.destination == self._own:  # if routed, the packet would return here
                self.count(DropReason.TUNNEL_LOOP)
                return
            if self.probes is not None and self.probes.take(buffer, packet):
                return
        super().take(buffer, end)

    def close(self) -> None:
        """Stop sending. The caller ends the flows."""
        if not self.is_closed:
            self.is_closed = True
            if self.probes is not None:
                self.probes.close()
            for peer_socket in self._sockets:
                peer_socket.sock.close()


class Probes:
    """Sends echo requests through one tunnel, and answers those of the peer."""

    def __init__(self, tunnel: SiteTunnel, settings: Probe) -> None:
        self._tunnel = tunnel
        self._address, self._own = ip_address(settings.address).packed, ip_address(settings.source).packed
        self._version = 4 if len(self._own) == 4 else 6
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._prober = Prober(settings.every_s, settings.timeout_s)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def health(self) -> Health:
        return self._prober.monitor.state

    @property
    def rtt_ms(self) -> float | None:
        return None if self._prober.rtt_s is None else self._prober.rtt_s * 1000

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of answered and of unanswered probes."""
        return self._prober.monitor.succeeded, self._prober.monitor.failed

    def start(self) -> None:
        """Start to probe."""
        now = time.monotonic()
        sequence, changed = self._prober.due(now)
        if sequence is not None:
            self._send(self._address, icmp.ECHO_REQUESTS, self._identifier << 16 | sequence, bytes(8))
        if changed:
            self._changed()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._prober.next_due() - now), self.start)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def take(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Take a probe from the other side, or an answer to one of ours. Returns whether `packet` was one."""
        protocol = ip.ICMP if self._version == 4 else ip.ICMPV6
        if packet.destination != self._own or packet.protocol != protocol or packet.is_fragment:
            return False
        if not (packet.source == self._address or self._tunnel.owns(packet.source)):
            self._tunnel.count(DropReason.SPOOFED_SOURCE)
        elif problem := icmp.check(buffer, packet):
            self._tunnel.count(problem)
        elif buffer[packet.l4] == icmp.ECHO_REQUESTS[self._version]:
            rest = int.from_bytes(buffer[packet.l4 + 4 : packet.l4 + 8], "big")
            self._send(packet.source, icmp.ECHO_REPLIES, rest, bytes(buffer[packet.l4 + 8 : packet.end]))
        elif buffer[packet.l4] == icmp.ECHO_REPLIES[self._version] and packet.source == self._address:
            self._answered(*icmp.echo_identity(buffer, packet.l4))
        else:
            self._tunnel.count(DropReason.ICMP_UNSUPPORTED)
        return True

    def _answered(self, identifier: int, sequence: int) -> None:
        if identifier == self._identifier and self._prober.answered(sequence, time.monotonic()):
            self._changed()

    def _changed(self) -> None:
        """Tell the network, as the cost of routes through this tunnel has changed."""
        log.warning("%r is %s", self._tunnel, self.health)
        self._tunnel.penalty = PENALTY[self.health]
        carrier_changed(self._tunnel)

    def _send(self, destination: bytes, kinds: dict[int, int], rest: int, body: bytes) -> None:
        message = icmp.message(self._own + destination, kinds[self._version], 0, rest, body)
        protocol = ip.ICMP if self._version == 4 else ip.ICMPV6
        self._tunnel.deliver(ip.header(self._own, destination, protocol, len(message)) + message)


def carrier_id(settings: Site, peer: str) -> str:
    """`site:berlin`, or `site:berlin@192.0.2.7` for a site with several peers."""
    return SITE + settings.name + (f"@{peer}" if len(settings.peers) > 1 else "")


def headers(settings: Site, tenant: Tenant) -> dict[int, bytes]:
    """The headers before packets to the site, by inner IP version, with the context in each."""
    if settings.version == 1:
        return {4: b"", 6: b""}
    context = None
    if settings.context == "required":
        token = None if settings.token is None else settings.token.encode()
        context = gue.Context(tenant.settings.id, settings.id, token)
    return {version: gue.header(version, context) for version in (4, 6)}
