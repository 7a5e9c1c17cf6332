"""The unconnected on-ramp: a UDP port where the peer and context of each packet identify its tunnel."""

from __future__ import annotations

import hmac
import socket
from collections import Counter
from collections.abc import Mapping

from proxy.errors import DropReason, ProxyError
from proxy.flow.tenant import Tenant
from proxy.kernel.tos import UDP_GRO
from proxy.kernel.unconnected import GuePump, Source
from proxy.offramps.sockets import overflows
from proxy.onramps.site import SiteTunnel, carrier_id
from proxy.packet.plane import Plane
from proxy.poller import IN, Poller
from proxy.settings.parts import endpoint
from proxy.settings.sites import GueOnRamp, Site
from proxy.wire import gue

IP_RECVTOS, IPV6_RECVTCLASS = 13, 66
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER_BYTES = 8 << 20
MAX_HEADERS = 256  # per peer: a site has one header per address family, and the packets' first bytes vary


class GueRamp:
    """One UDP port and the tunnels of its sites. Packets that match no tunnel are counted here."""

    def __init__(
        self, settings: GueOnRamp, tenants: Mapping[str, Tenant], plane: Plane, poller: Poller, tun: int
    ) -> None:
        """`tun`: the descriptor of the bridge's TUN device without offload."""
        self.settings = settings
        self.drops: Counter[DropReason] = Counter()
        self.tunnels: list[SiteTunnel] = []
        self._poller = poller
        self._known: dict[bytes, dict[bytes, Source]] = {}  # by packed address and header
        self._bare: dict[bytes, SiteTunnel] = {}  # by peer, for packets without context
        self._named: dict[tuple[int | None, int | None, bytes], SiteTunnel] = {}  # by tenant, site and peer
        self._sock = _listen(settings.listen)
        pump = GuePump(self._sock, tun, self._known, self._identify)
        try:
            for site in settings.sites:
                self._open(site, tenants[site.tenant], plane)
        except BaseException:
            self.close()
            raise
        poller.watch(self._sock.fileno(), IN, pump.ready, self._crashed)

    @property
    def overflows(self) -> int:
        """Datagrams that the kernel dropped because we did not read fast enough."""
        return overflows(self._sock)

    def close(self) -> None:
        """Stop receiving. The caller closes the tunnels and ends their flows."""
        self._poller.forget(self._sock.fileno())
        self._sock.close()

    def _open(self, site: Site, tenant: Tenant, plane: Plane) -> None:
        address, _ = endpoint(self.settings.listen)
        for text in site.peers:
            peer, port = endpoint(text)
            host = socket.inet_ntop(self._sock.family, peer.packed)
            source = "" if address.is_unspecified else str(address)
            tunnel = SiteTunnel(site, carrier_id(site, host), tenant, plane, source, (host, port))
            self._known.setdefault(peer.packed, {})
            if site.context == "none":
                self._bare[peer.packed] = tunnel
            else:
                self._named[tenant.settings.id, site.id, peer.packed] = tunnel
            self.tunnels.append(tunnel)
            tenant.attach(tunnel)
            if tunnel.probes is not None:
                tunnel.probes.start()

    def _identify(self, host: bytes, buffer: bytearray, start: int, end: int) -> Source | None:
        """The source of the datagram, or None if it is unknown, and counted."""
        found = self._owner(host, buffer, start, end)
        if isinstance(found, DropReason):
            self.drops[found] += 1
            return None
        tunnel, header = found
        known = self._known[host]
        if len(known) >= MAX_HEADERS:
            known.clear()
        known[bytes(buffer[start : start + header.length + 1])] = tunnel.source
        return tunnel.source

    def _owner(self, host: bytes, buffer: bytearray, start: int, end: int) -> tuple[SiteTunnel, gue.Gue] | DropReason:
        if host not in self._known:
            return DropReason.UNKNOWN_PEER
        header = gue.parse(buffer, start, end)
        if isinstance(header, DropReason):
            return header
        context = header.context
        if context is None:
            bare = self._bare.get(host)
            return DropReason.CONTEXT_MISSING if bare is None else (bare, header)
        tunnel = self._named.get((context.tenant, context.site, host))
        if tunnel is None:
            return DropReason.FOREIGN_TENANT
        token = tunnel.settings.token
        if token is not None and not hmac.compare_digest(token.encode(), context.token or b""):
            return DropReason.BAD_TOKEN
        return tunnel, header

    def _crashed(self, error: BaseException) -> None:
        """Drop the packet whose handling failed; the on-ramp stays open."""
        self.drops[DropReason.PROXY_ERROR] += 1


def _listen(text: str) -> socket.socket:
    address, port = endpoint(text)
    is_ipv4 = address.version == 4
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_INET if is_ipv4 else socket.AF_INET6, kind)
    try:
        if is_ipv4:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        _enlarge(sock)
        sock.bind((str(address), port))
    except OSError as error:
        sock.close()
        raise ProxyError(f"on-ramp {text}: {error.strerror or error}") from error
    return sock


def _enlarge(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
