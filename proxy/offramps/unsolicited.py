"""Unsolicited datagrams from outside to one of our ports: admitted or dropped, as the tenant's filtering says.

The kernel's NAT filters by address and port. Rules hand over other datagrams to a port that it translates to (RFC 4787
5), such as TFTP and STUN replies from another port. An admitted datagram gets a connection of its own, with the
mapping of the client's endpoint (REQ-1), and is returned to the kernel, which carries the following ones.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter, deque
from collections.abc import Mapping
from functools import partial

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.keys import reverse_key
from proxy.flow.tenant import Carrier
from proxy.kernel.conntrack import Conntrack
from proxy.kernel.packetlog import PacketLog
from proxy.kernel.ruleset import Way
from proxy.packet.plane import Plane, flow_key
from proxy.poller import IN, Poller
from proxy.wire import ip, udp
from proxy.wire.ip import MAX_PACKET, UDP, IPPacket

BUDGET = 64  # datagrams per readiness event
BATCH = 512
MAX_NEW = 65_536  # flows whose mapping is still to be looked up


class UnsolicitedUDP:
    """Receives unsolicited datagrams by the rules' log, and admits or drops them."""

    def __init__(
        self, group: int, device: int, ways: Mapping[Carrier, Way], marks: Mapping[Carrier, int], conntrack: Conntrack
    ) -> None:
        """`group`: the NFLOG group. `device`: a TUN device, not a way's, for admitted datagrams. OSError: no NFLOG."""
        self._ways, self._marks, self._conntrack, self._device = ways, marks, conntrack, device
        self._plane: Plane | None = None
        self._mapped: dict[bytes, dict[bytes, Flow]] = {}  # by external address and port: its flows, by destination
        self._new: deque[Flow] = deque(maxlen=MAX_NEW)  # flows whose mapping was not looked up yet
        self.drops: Counter[DropReason] = Counter()  # of datagrams for no tenant's flow
        self._log = PacketLog(group, snap_bytes=MAX_PACKET, threshold=1)

    def watch(self, poller: Poller, plane: Plane) -> None:
        """Begin to read."""
        self._plane = plane
        poller.watch(self._log.fileno(), IN, self._ready, self._crashed)

    def close(self, poller: Poller) -> None:
        poller.forget(self._log.fileno())
        self._log.close()
        os.close(self._device)

    def forget(self, flow: Flow) -> None:
        """Forget a flow that has ended."""
        flows = self._mapped.get(flow.virtual or b"")
        if flows is not None and flows.get(flow.destination) is flow:
            del flows[flow.destination]
            if not flows:
                del self._mapped[flow.virtual]

    def _ready(self, events: int) -> None:
        for _, _, data, _ in self._log.read(BUDGET):
            buffer = bytearray(data)
            packet = ip.parse(buffer, 0, len(buffer))
            if isinstance(packet, IPPacket) and packet.protocol == UDP and packet.end - packet.l4 >= udp.HEADER_BYTES:
                udp.complete(buffer, packet)
                self._arrived(buffer, packet)

    def _arrived(self, buffer: bytearray, packet: IPPacket) -> None:
        key = flow_key(buffer, packet)
        external = packet.destination + key[-2:]
        flows = self._mapped.get(external)
        if flows is None or packet.source not in flows:
            self._look_up_mappings()
            flows = self._mapped.get(external, {})
        parent = flows.get(packet.source)
        if parent is None:  # other flows of the mapping may admit it
            parent = next((flow for flow in flows.values() if _admits_any_source(flow)), None)
        if parent is None or parent.tenant.settings.udp_filtering == "address-and-port":
            owner = next(iter(flows.values()), None)
            (self.drops if owner is None else owner.tenant.drops)[DropReason.UNSOLICITED] += 1
            return
        self._admit(parent, key, buffer)

    def _admit(self, parent: Flow, key: bytes, buffer: bytearray) -> None:
        """Open a flow whose first packet is the datagram."""
        assert self._plane is not None
        size = len(parent.source)
        ours = parent.source + key[:size] + parent.source_port.to_bytes(2, "big") + key[-4:-2]
        inject = partial(self._inject, parent, ours, key, buffer)
        reason = self._plane.open_inbound(parent, ours, inject, time.monotonic(), time.time_ns())
        if reason is not None:
            parent.tenant.drops[reason] += 1

    def _inject(self, parent: Flow, original: bytes, reply: bytes, datagram: bytearray) -> DropReason | None:
        """Create the conntrack entry that translates to the client's endpoint, and reinject the datagram."""
        assert parent.egress is not None
        way, mark = self._ways[parent.egress], self._marks[parent.egress]
        try:
            self._conntrack.create(UDP, original, reply, way.zone, mark)
        except OSError as error:
            if error.errno != errno.EEXIST:
                return DropReason.CONNTRACK_FULL
        try:
            os.write(self._device, datagram)
        except OSError:
            return DropReason.KERNEL_IP
        return None

    def add(self, flow: Flow) -> None:
        """Add a new UDP flow. Its mapping is looked up once, when an unsolicited datagram arrives."""
        if flow.tenant.settings.udp_filtering != "address-and-port":
            self._new.append(flow)

    def _look_up_mappings(self) -> None:
        """Look up the mappings of flows that were added since the last time."""
        new = [flow for flow in self._new if not flow.is_ended]
        self._new.clear()
        for at in range(0, len(new), BATCH):
            part = new[at : at + BATCH]
            entries = self._conntrack.get([(UDP, flow.key, self._ways[_egress(flow)].zone) for flow in part])
            for flow, entry in zip(part, entries, strict=True):
                if entry is not None:
                    outbound = reverse_key(entry.reply)  # the reply's reverse: from our external address and port
                    flow.virtual = outbound[: len(flow.source)] + outbound[-4:-2]
                    self._mapped.setdefault(flow.virtual, {})[flow.destination] = flow

    def _crashed(self, error: BaseException) -> None:
        """Ignore the error, which is logged. What was read is lost."""


def _egress(flow: Flow) -> Carrier:
    assert flow.egress is not None
    return flow.egress


def _admits_any_source(flow: Flow) -> bool:
    return flow.tenant.settings.udp_filtering == "endpoint"
