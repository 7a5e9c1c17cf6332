"""Sides over GUE in user space. Each local endpoint has a UDP socket; the context in each packet selects the tunnel."""

from __future__ import annotations

import errno
import socket
from collections import Counter

from oxyctl.agents.sites import sockets
from oxyctl.agents.sites.config import GueConfig, endpoint
from oxyctl.agents.sites.runs import Run
from oxyctl.agents.sites.side import Side, destination, is_whole, may_fragment
from oxyctl.net.namespaces import inside_file
from proxy.errors import DropReason
from proxy.wire import ecn, gue
from proxy.wire.gue import Context, Gue

IP_AND_UDP = {4: 28, 6: 48}
READS = 16  # per readiness event: each may bring 64 datagrams
Identity = tuple[int | None, int | None]  # tenant and site


class GueSide(Side):
    """One tunnel. Its source port is a hash of the inner flow (RFC 8085 section 3.1.11, GUE), and it copies the inner
    traffic class."""

    def __init__(self, config: GueConfig, mtu: int, owner: GueSocket, drops: Counter[DropReason]) -> None:
        super().__init__(drops)
        self.remote, port = endpoint(config.remote)
        self.context = None if config.context is None else config.context.wire
        self.own = {endpoint(config.local)[0].packed, self.remote.packed}
        self._mtu, self._owner = mtu, owner
        self._address = (str(self.remote), port)
        without = config.version == 1
        self._headers = {inner: b"" if without else gue.header(inner, self.context) for inner in (4, 6)}
        self._runs = [Run(sock) for sock in owner.entropy]
        self._waiting: list[Run] = []
        owner.add(self)

    def send(self, packet: memoryview) -> None:
        if destination(packet) in self.own:  # it would loop forever
            self.drops[DropReason.TUNNEL_LOOP] += 1
            return
        if len(packet) > self._mtu and not may_fragment(packet):
            self.reject_too_big(packet, self._mtu)
            return
        header = self._headers[packet[0] >> 4]
        size, traffic_class = len(header) + len(packet), ecn.traffic_class(packet, 0)
        run = self._runs[gue.entropy(packet, 0) % len(self._runs)]
        if run.count:
            if not run.fits(size, traffic_class):
                self._transmit(run)
                self._waiting.append(run)
        else:
            self._waiting.append(run)
        run.add(header, packet, size, traffic_class)

    def flush(self) -> None:
        for run in self._waiting:
            if run.count:
                self._transmit(run)
        self._waiting.clear()

    def _transmit(self, run: Run) -> None:
        try:
            run.send(self._address)
        except OSError as error:
            if run.count > 1 and error.errno in (errno.EMSGSIZE, errno.EINVAL, errno.EIO):
                self._one_by_one(run)  # too large for the path MTU, or no checksum offload
            else:
                self._handle_send_error(error, run)
        else:
            self.packets += run.count
            self.bytes += run.bytes - run.count * len(self._headers[4])
        run.clear()

    def _one_by_one(self, run: Run) -> None:
        parts = run.parts.copy()
        step = 2 if self._headers[4] else 1
        for at in range(0, len(parts), step):
            single = Run(run.sock)
            header, packet = (parts[at], parts[at + 1]) if step == 2 else (b"", parts[at])
            assert isinstance(header, bytes)
            assert isinstance(packet, memoryview)
            single.add(header, packet, len(header) + len(packet), run.traffic_class)
            self._transmit(single)

    def _handle_send_error(self, error: OSError, run: Run) -> None:
        packet = run.parts[-1]
        assert isinstance(packet, memoryview)
        if run.count > 1:
            for _ in range(run.count):
                self.count_failure(error)
        elif error.errno != errno.EMSGSIZE:
            self.count_failure(error)
        elif may_fragment(packet):
            self._in_fragments(run)
        else:
            overhead = IP_AND_UDP[self.remote.version] + len(self._headers[packet[0] >> 4])
            self.reject_too_big(packet, self._owner.path_mtu(self) - overhead)

    def _in_fragments(self, run: Run) -> None:
        sockets.set_may_fragment(run.sock, True)
        try:
            run.send(self._address)
        except OSError as error:
            self.count_failure(error)
        else:
            self.packets += 1
            self.bytes += run.bytes - len(self._headers[4])
        finally:
            sockets.set_may_fragment(run.sock, False)

    def close(self) -> None:
        self._owner.remove(self)


class GueSocket:
    """Receives at one endpoint of one namespace. `drops` counts packets that belong to no tunnel. Raises OSError."""

    def __init__(self, netns: str, local: str, drops: Counter[DropReason]) -> None:
        address, port = endpoint(local)
        self.drops = drops
        with inside_file(netns):
            self.sock = sockets.open_gue(address, port)
            self._route = sockets.open_route(address)
            self.entropy = sockets.open_entropy(address)
        self.fd = self.sock.fileno()
        self._buffer = bytearray(65_536)
        self._view = memoryview(self._buffer)
        self._sides: dict[str, dict[Identity | None, GueSide]] = {}  # outer address, then context

    def add(self, side: GueSide) -> None:
        """Deliver its packets to this tunnel from now on. OSError: another tunnel has the same peer and context."""
        sides = self._sides.setdefault(str(side.remote), {})
        if (identity := _identity(side.context)) in sides:
            raise OSError(errno.EADDRINUSE, f"another tunnel to {side.remote} has the same context")
        sides[identity] = side

    def remove(self, side: GueSide) -> None:
        sides = self._sides[str(side.remote)]
        del sides[_identity(side.context)]
        if not sides:
            del self._sides[str(side.remote)]

    @property
    def is_used(self) -> bool:
        return bool(self._sides)

    def path_mtu(self, side: GueSide) -> int:
        """The path MTU in bytes, outer headers included."""
        return sockets.path_mtu(self._route, side.remote)

    def receive(self) -> None:
        """Move packets from the network to the tunnels until the socket is empty or the budget is spent."""
        touched: set[GueSide] = set()
        try:
            for _ in range(READS):
                end, ancillary, flags, address = self.sock.recvmsg_into([self._buffer], sockets.CMSG_SPACE)
                outer, size = sockets.read_ancillary(ancillary)
                if flags & socket.MSG_TRUNC:
                    self.drops[DropReason.OVERSIZE] += 1
                    continue
                sides = self._sides.get(address[0].partition("%")[0])
                for start in range(0, end, size or end) if end else (0,):
                    self._deliver(sides, start, min(end, start + (size or end)), outer, touched)
                for side in touched:  # before the buffer is filled again
                    side.other.flush()
                touched.clear()
        except BlockingIOError:
            pass
        except OSError:  # an ICMP error about something that was sent
            self.drops[DropReason.TUNNEL_CLOSED] += 1

    def _deliver(
        self, sides: dict[Identity | None, GueSide] | None, start: int, end: int, outer: int, touched: set[GueSide]
    ) -> None:
        if sides is None:
            self.drops[DropReason.UNKNOWN_PEER] += 1
            return
        drops = next(iter(sides.values())).drops if len(sides) == 1 else self.drops
        header = gue.parse(self._buffer, start, end)
        if isinstance(header, DropReason):
            drops[header] += 1
            return
        side = _find_side(header, sides)
        if isinstance(side, DropReason):
            drops[side] += 1
            return
        packet = self._view[start + header.length : end]
        reason = DropReason.TRUNCATED if not is_whole(packet) else None
        reason = reason or ecn.arrive(self._buffer, start + header.length, outer)
        if reason is None and destination(packet) in side.own:
            reason = DropReason.TUNNEL_LOOP
        if reason is not None:
            side.drops[reason] += 1
            return
        side.other.send(packet)
        touched.add(side)

    def close(self) -> None:
        for sock in (self.sock, self._route, *self.entropy):
            sock.close()


def _identity(context: Context | None) -> Identity | None:
    return None if context is None else (context.tenant, context.site)


def _find_side(header: Gue, sides: dict[Identity | None, GueSide]) -> GueSide | DropReason:
    """The tunnel that a packet with this header belongs to. A tunnel without a context takes packets without one."""
    side = sides.get(_identity(header.context))
    if side is None:
        return DropReason.CONTEXT_MISSING if header.context is None else DropReason.FOREIGN_TENANT
    if side.context is not None and header.context is not None and side.context.token != header.context.token:
        return DropReason.BAD_TOKEN
    return side
