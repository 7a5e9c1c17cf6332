"""Legs over GRE in user space: one raw socket for each local address, told apart by outer peer and key (RFC 2890)."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from ipaddress import ip_address

from oxyctl.agents.sites import sockets
from oxyctl.agents.sites.config import GreConfig
from oxyctl.agents.sites.leg import Leg, destination, is_whole, may_fragment, slots, views
from oxyctl.agents.sites.refusals import hush, unhush
from oxyctl.net.namespaces import inside_file
from proxy.errors import DropReason
from proxy.wire import ecn, gre
from proxy.wire.gre import Gre

IP_HEADER = {4: 20, 6: 40}


class GreLeg(Leg):
    """One tunnel. Its packets get the inner packet's traffic class, and DF (RFC 6040 4.1, RFC 2784 has no word)."""

    def __init__(self, config: GreConfig, mtu: int, owner: GreSocket, drops: Counter[DropReason]) -> None:
        super().__init__(drops)
        self.config = config
        self.remote = ip_address(config.remote)
        self.last: int | None = None  # sequence number that arrived
        self.own = {ip_address(config.local).packed, self.remote.packed}
        self._mtu, self._owner, self._sequence = mtu, owner, 0
        self._address = (config.remote, 0)
        self._varies = config.checksum or config.sequence
        self._headers = {version: gre.header(version, key=config.key) for version in (4, 6)}
        self._overhead = IP_HEADER[self.remote.version] + gre.BASE_BYTES * (
            1 + (config.key is not None) + config.checksum + config.sequence
        )
        owner.add(self)

    def send(self, packet: memoryview) -> None:
        if destination(packet) in self.own:  # it would come back to us for ever (RFC 2784 4)
            self.drops[DropReason.TUNNEL_LOOP] += 1
            return
        fragment = False
        if len(packet) > self._mtu:
            if not may_fragment(packet):
                self.refuse(packet, self._mtu)
                return
            fragment = True
        self._transmit(self._header(packet), packet, fragment)

    def _header(self, packet: memoryview) -> bytes:
        version = packet[0] >> 4
        if not self._varies:
            return self._headers[version]
        config = self.config
        number = self._sequence if config.sequence else None
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return gre.header(version, packet, key=config.key, sequence=number, checksum=config.checksum)

    def _transmit(self, header: bytes, packet: memoryview, fragment: bool) -> None:
        sock = self._owner.sock
        mark = sockets.with_class(sock.family, ecn.traffic_class(packet, 0))
        if fragment:
            sockets.set_may_fragment(sock, True)
        try:
            sock.sendmsg((header, packet), mark, 0, self._address)
        except OSError as error:
            self._judge(error, header, packet, fragment)
        else:
            self.packets += 1
            self.bytes += len(packet)
        finally:
            if fragment:
                sockets.set_may_fragment(sock, False)

    def _judge(self, error: OSError, header: bytes, packet: memoryview, fragment: bool) -> None:
        if error.errno != errno.EMSGSIZE or fragment:
            self.fail(error)
        elif may_fragment(packet):
            self._transmit(header, packet, True)
        else:
            self.refuse(packet, self._owner.path_mtu(self) - self._overhead)

    def problem(self, header: Gre) -> DropReason | None:
        """Why a packet that arrived with this header must be dropped: its place in the sequence."""
        if not self.config.sequence:
            return None
        if header.sequence is None or (self.last is not None and not gre.is_later(header.sequence, self.last)):
            return DropReason.GRE_SEQUENCE
        self.last = header.sequence
        return None

    def close(self) -> None:
        self._owner.remove(self)


class GreSocket:
    """What arrives at one address of one namespace. `drops`: of packets that belong to no tunnel. OSError."""

    def __init__(self, netns: str, local: str, drops: Counter[DropReason]) -> None:
        self.netns, self.local, self.drops = netns, ip_address(local), drops
        with inside_file(netns):
            self.sock = sockets.open_gre(self.local)
            self._route = sockets.open_route(self.local)
        self.fd = self.sock.fileno()
        self._peers: dict[bytes, dict[int | None, GreLeg]] = {}  # outer address, then key

    def add(self, leg: GreLeg) -> None:
        """Its packets are its own from now on. OSError: another tunnel has the same peer and key."""
        keys = self._peers.setdefault(leg.remote.packed, {})
        if leg.config.key in keys:
            raise OSError(errno.EADDRINUSE, f"another tunnel to {leg.remote} has the same key")
        if not keys:
            hush(self.netns, self.local, leg.remote)
        keys[leg.config.key] = leg

    def remove(self, leg: GreLeg) -> None:
        keys = self._peers[leg.remote.packed]
        del keys[leg.config.key]
        if not keys:
            del self._peers[leg.remote.packed]
            unhush(self.netns, self.local, leg.remote)

    @property
    def is_used(self) -> bool:
        return bool(self._peers)

    def path_mtu(self, leg: GreLeg) -> int:
        """Bytes of outer packets."""
        return sockets.path_mtu(self._route, leg.remote)

    def receive(self) -> None:
        """Network to tunnels, until there is no more or the budget is spent."""
        is_v4, touched = self.local.version == 4, set()
        try:
            for slot, view in zip(slots, views, strict=True):
                if is_v4:  # with its header
                    end = self.sock.recv_into(slot)
                    leg = self._deliver(slot, view, (slot[0] & 15) * 4, end, bytes(view[12:16]), slot[1])
                else:
                    end, ancillary, _, address = self.sock.recvmsg_into([slot], sockets.CMSG_SPACE)
                    source = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
                    leg = self._deliver(slot, view, 0, end, source, sockets.read_ancillary(ancillary)[0])
                if leg is not None:
                    touched.add(leg)
        except BlockingIOError:
            pass
        except OSError:  # an ICMP error about something that we sent
            self.drops[DropReason.TUNNEL_CLOSED] += 1
        for leg in touched:
            leg.other.flush()

    def _deliver(
        self, slot: bytearray, view: memoryview, start: int, end: int, source: bytes, outer: int
    ) -> GreLeg | None:
        """The tunnel that a packet went into, None when it was dropped."""
        keys = self._peers.get(source)
        if keys is None:
            self.drops[DropReason.UNKNOWN_PEER] += 1
            return None
        header = gre.parse(slot, start, end)
        if isinstance(header, DropReason):
            self._whose(keys)[header] += 1
            return None
        leg = keys.get(header.key)
        if leg is None:
            self._whose(keys)[DropReason.GRE_KEY] += 1
            return None
        packet = view[start + header.length : end]
        if not is_whole(packet):
            reason: DropReason | None = DropReason.TRUNCATED
        elif destination(packet) in leg.own:
            reason = DropReason.TUNNEL_LOOP
        else:
            reason = leg.problem(header) or ecn.arrive(slot, start + header.length, outer)
        if reason is not None:
            leg.drops[reason] += 1
            return None
        leg.other.send(packet)
        return leg

    def _whose(self, keys: dict[int | None, GreLeg]) -> Counter[DropReason]:
        """Where a drop is counted that names no key: at the peer's only tunnel, or at none."""
        return next(iter(keys.values())).drops if len(keys) == 1 else self.drops

    def close(self) -> None:
        self.sock.close()
        self._route.close()
