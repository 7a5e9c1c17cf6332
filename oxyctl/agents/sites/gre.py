"""Sides over GRE in user space: a raw socket per local address; outer peer and key select the tunnel (RFC 2890)."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from ipaddress import ip_address

from oxyctl.agents.sites import sockets
from oxyctl.agents.sites.config import GreConfig
from oxyctl.agents.sites.side import Side, destination, is_whole, may_fragment, slots, views
from oxyctl.agents.sites.unreachables import allow_unreachables, suppress_unreachables
from oxyctl.net.namespaces import inside_file
from proxy.errors import DropReason
from proxy.wire import ecn, gre
from proxy.wire.gre import Gre

IP_HEADER = {4: 20, 6: 40}


class GreSide(Side):
    """One tunnel. Outer packets copy the inner traffic class (RFC 6040 section 4.1) and have DF set."""

    def __init__(self, config: GreConfig, mtu: int, owner: GreSocket, drops: Counter[DropReason]) -> None:
        super().__init__(drops)
        self.config = config
        self.remote = ip_address(config.remote)
        self.last: int | None = None  # the last sequence number received
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
        if destination(packet) in self.own:  # it would loop forever (RFC 2784 section 4)
            self.drops[DropReason.TUNNEL_LOOP] += 1
            return
        fragment = False
        if len(packet) > self._mtu:
            if not may_fragment(packet):
                self.reject_too_big(packet, self._mtu)
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
            self._handle_send_error(error, header, packet, fragment)
        else:
            self.packets += 1
            self.bytes += len(packet)
        finally:
            if fragment:
                sockets.set_may_fragment(sock, False)

    def _handle_send_error(self, error: OSError, header: bytes, packet: memoryview, fragment: bool) -> None:
        if error.errno != errno.EMSGSIZE or fragment:
            self.count_failure(error)
        elif may_fragment(packet):
            self._transmit(header, packet, True)
        else:
            self.reject_too_big(packet, self._owner.path_mtu(self) - self._overhead)

    def drop_reason(self, header: Gre) -> DropReason | None:
        """Why a packet with this header must be dropped: it is out of sequence. None: it is acceptable."""
        if not self.config.sequence:
            return None
        if header.sequence is None or (self.last is not None and not gre.is_later(header.sequence, self.last)):
            return DropReason.GRE_SEQUENCE
        self.last = header.sequence
        return None

    def close(self) -> None:
        self._owner.remove(self)


class GreSocket:
    """Receives at one address of one namespace. `drops` counts packets that belong to no tunnel. Raises OSError."""

    def __init__(self, netns: str, local: str, drops: Counter[DropReason]) -> None:
        self.netns, self.local, self.drops = netns, ip_address(local), drops
        with inside_file(netns):
            self.sock = sockets.open_gre(self.local)
            self._route = sockets.open_route(self.local)
        self.fd = self.sock.fileno()
        self._peers: dict[bytes, dict[int | None, GreSide]] = {}  # outer address, then key

    def add(self, side: GreSide) -> None:
        """Deliver its packets to this tunnel from now on. OSError: another tunnel has the same peer and key."""
        keys = self._peers.setdefault(side.remote.packed, {})
        if side.config.key in keys:
            raise OSError(errno.EADDRINUSE, f"another tunnel to {side.remote} has the same key")
        if not keys:
            suppress_unreachables(self.netns, self.local, side.remote)
        keys[side.config.key] = side

    def remove(self, side: GreSide) -> None:
        keys = self._peers[side.remote.packed]
        del keys[side.config.key]
        if not keys:
            del self._peers[side.remote.packed]
            allow_unreachables(self.netns, self.local, side.remote)

    @property
    def is_used(self) -> bool:
        return bool(self._peers)

    def path_mtu(self, side: GreSide) -> int:
        """The path MTU in bytes, outer headers included."""
        return sockets.path_mtu(self._route, side.remote)

    def receive(self) -> None:
        """Move packets from the network to the tunnels until the socket is empty or the budget is spent."""
        is_v4, touched = self.local.version == 4, set()
        try:
            for slot, view in zip(slots, views, strict=True):
                if is_v4:  # with its header
                    end = self.sock.recv_into(slot)
                    side = self._deliver(slot, view, (slot[0] & 15) * 4, end, bytes(view[12:16]), slot[1])
                else:
                    end, ancillary, _, address = self.sock.recvmsg_into([slot], sockets.CMSG_SPACE)
                    source = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
                    side = self._deliver(slot, view, 0, end, source, sockets.read_ancillary(ancillary)[0])
                if side is not None:
                    touched.add(side)
        except BlockingIOError:
            pass
        except OSError:  # an ICMP error about something that we sent
            self.drops[DropReason.TUNNEL_CLOSED] += 1
        for side in touched:
            side.other.flush()

    def _deliver(
        self, slot: bytearray, view: memoryview, start: int, end: int, source: bytes, outer: int
    ) -> GreSide | None:
        """Deliver the packet to its tunnel and return the tunnel; None if the packet was dropped."""
        keys = self._peers.get(source)
        if keys is None:
            self.drops[DropReason.UNKNOWN_PEER] += 1
            return None
        header = gre.parse(slot, start, end)
        if isinstance(header, DropReason):
            self._drop_counter(keys)[header] += 1
            return None
        side = keys.get(header.key)
        if side is None:
            self._drop_counter(keys)[DropReason.GRE_KEY] += 1
            return None
        packet = view[start + header.length : end]
        if not is_whole(packet):
            reason: DropReason | None = DropReason.TRUNCATED
        elif destination(packet) in side.own:
            reason = DropReason.TUNNEL_LOOP
        else:
            reason = side.drop_reason(header) or ecn.arrive(slot, start + header.length, outer)
        if reason is not None:
            side.drops[reason] += 1
            return None
        side.other.send(packet)
        return side

    def _drop_counter(self, keys: dict[int | None, GreSide]) -> Counter[DropReason]:
        """The tunnel or socket that counts a drop that names no key: the peer's only tunnel, or the socket."""
        return next(iter(keys.values())).drops if len(keys) == 1 else self.drops

    def close(self) -> None:
        self.sock.close()
        self._route.close()
