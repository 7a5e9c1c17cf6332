"""Legs over GUE in user space: one UDP socket for each local endpoint, told apart by the context in every packet."""

from __future__ import annotations

import errno
import socket
from collections import Counter

from oxyctl.agents.sites import sockets
from oxyctl.agents.sites.config import GueConfig, endpoint
from oxyctl.agents.sites.leg import Leg, destination, is_whole, may_fragment
from oxyctl.agents.sites.runs import Run
from oxyctl.net.namespaces import inside_file
from proxy.errors import DropReason
from proxy.wire import ecn, gue
from proxy.wire.gue import Context, Gue

IP_AND_UDP = {4: 28, 6: 48}
READS = 16  # per readiness event: each may bring 64 datagrams
Identity = tuple[int | None, int | None]  # tenant and site


class GueLeg(Leg):
    """One tunnel. What it sends leaves from a port that stands for the inner flow, with the inner traffic class."""

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
        if destination(packet) in self.own:  # it would come back to us for ever
            self.drops[DropReason.TUNNEL_LOOP] += 1
            return
        if len(packet) > self._mtu and not may_fragment(packet):
            self.refuse(packet, self._mtu)
            return
        header = self._headers[packet[0] >> 4]
        size, traffic_class = len(header) + len(packet), ecn.traffic_class(packet, 0)
        run = self._runs[gue.entropy(packet, 0) % len(self._runs)]
        if run.count:
            if not run.takes(size, traffic_class):
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
                self._one_by_one(run)  # the path takes less than the run's size, or the device has no checksums
            else:
                self._judge(error, run)
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

    def _judge(self, error: OSError, run: Run) -> None:
        packet = run.parts[-1]
        assert isinstance(packet, memoryview)
        if run.count > 1:
            for _ in range(run.count):
                self.fail(error)
        elif error.errno != errno.EMSGSIZE:
            self.fail(error)
        elif may_fragment(packet):
            self._in_fragments(run)
        else:
            overhead = IP_AND_UDP[self.remote.version] + len(self._headers[packet[0] >> 4])
            self.refuse(packet, self._owner.path_mtu(self) - overhead)

    def _in_fragments(self, run: Run) -> None:
        sockets.set_may_fragment(run.sock, True)
        try:
            run.send(self._address)
        except OSError as error:
            self.fail(error)
        else:
            self.packets += 1
            self.bytes += run.bytes - len(self._headers[4])
        finally:
            sockets.set_may_fragment(run.sock, False)

    def close(self) -> None:
        self._owner.remove(self)


class GueSocket:
    """What arrives at one endpoint of one namespace. `drops`: of packets that belong to no tunnel. OSError."""

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
        self._legs: dict[str, dict[Identity | None, GueLeg]] = {}  # outer address, then context

    def add(self, leg: GueLeg) -> None:
        """Its packets are its own from now on. OSError: another tunnel has the same peer and context."""
        legs = self._legs.setdefault(str(leg.remote), {})
        if (identity := _identity(leg.context)) in legs:
            raise OSError(errno.EADDRINUSE, f"another tunnel to {leg.remote} has the same context")
        legs[identity] = leg

    def remove(self, leg: GueLeg) -> None:
        legs = self._legs[str(leg.remote)]
        del legs[_identity(leg.context)]
        if not legs:
            del self._legs[str(leg.remote)]

    @property
    def is_used(self) -> bool:
        return bool(self._legs)

    def path_mtu(self, leg: GueLeg) -> int:
        """Bytes of outer packets."""
        return sockets.path_mtu(self._route, leg.remote)

    def receive(self) -> None:
        """Network to tunnels, until there is no more or the budget is spent."""
        touched: set[GueLeg] = set()
        try:
            for _ in range(READS):
                end, ancillary, flags, address = self.sock.recvmsg_into([self._buffer], sockets.CMSG_SPACE)
                outer, size = sockets.read_ancillary(ancillary)
                if flags & socket.MSG_TRUNC:
                    self.drops[DropReason.OVERSIZE] += 1
                    continue
                legs = self._legs.get(address[0].partition("%")[0])
                for start in range(0, end, size or end) if end else (0,):
                    self._deliver(legs, start, min(end, start + (size or end)), outer, touched)
                for leg in touched:  # before the buffer is filled again
                    leg.other.flush()
                touched.clear()
        except BlockingIOError:
            pass
        except OSError:  # an ICMP error about something that was sent
            self.drops[DropReason.TUNNEL_CLOSED] += 1

    def _deliver(
        self, legs: dict[Identity | None, GueLeg] | None, start: int, end: int, outer: int, touched: set[GueLeg]
    ) -> None:
        if legs is None:
            self.drops[DropReason.UNKNOWN_PEER] += 1
            return
        drops = next(iter(legs.values())).drops if len(legs) == 1 else self.drops
        header = gue.parse(self._buffer, start, end)
        if isinstance(header, DropReason):
            drops[header] += 1
            return
        leg = _whose(header, legs)
        if isinstance(leg, DropReason):
            drops[leg] += 1
            return
        packet = self._view[start + header.length : end]
        reason = DropReason.TRUNCATED if not is_whole(packet) else None
        reason = reason or ecn.arrive(self._buffer, start + header.length, outer)
        if reason is None and destination(packet) in leg.own:
            reason = DropReason.TUNNEL_LOOP
        if reason is not None:
            leg.drops[reason] += 1
            return
        leg.other.send(packet)
        touched.add(leg)

    def close(self) -> None:
        for sock in (self.sock, self._route, *self.entropy):
            sock.close()


def _identity(context: Context | None) -> Identity | None:
    return None if context is None else (context.tenant, context.site)


def _whose(header: Gue, legs: dict[Identity | None, GueLeg]) -> GueLeg | DropReason:
    """The tunnel that a packet with this header belongs to. A tunnel without context takes what has none."""
    leg = legs.get(_identity(header.context))
    if leg is None:
        return DropReason.CONTEXT_MISSING if header.context is None else DropReason.FOREIGN_TENANT
    if leg.context is not None and header.context is not None and leg.context.token != header.context.token:
        return DropReason.BAD_TOKEN
    return leg
