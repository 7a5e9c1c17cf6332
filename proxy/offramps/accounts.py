"""What the kernel tells of flows that it carries by itself: how they begin to be answered, end, and what they moved.

Headers of what begins and ends a connection are logged by rules (proxy/kernel/ruleset.py); totals are conntrack's; a
connection that conntrack gives up was idle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.kernel.conntrack import Conntrack, ConntrackEvents
from proxy.kernel.packetlog import PacketLog
from proxy.kernel.ruleset import SNAP_BYTES
from proxy.offramps.exit import InterfaceRamp
from proxy.packet.forward import quoted_key
from proxy.packet.observed import Observed, observe
from proxy.poller import IN, Poller
from proxy.wire.ctnetlink import Entry
from proxy.wire.ip import TCP

log = logging.getLogger(__name__)

INDEX = 0x7FFF  # the bits of a mark that tell the way
BUDGET = 256  # copies and events per visit
BATCH = 512  # connections asked for at once


class Accounts:
    """Of all interface on-ramps of one proxy."""

    def __init__(
        self, ramps: Mapping[int, InterfaceRamp], zones: Mapping[InterfaceRamp, int], conntrack: Conntrack, group: int
    ) -> None:
        """`ramps`: by the index of their way; `group`: of NFLOG. OSError: the kernel has no NFLOG, or no events."""
        self._ramps, self._zones, self._conntrack = ramps, zones, conntrack
        self._finishing: list[tuple[Flow, Callable[[], None]]] = []
        self._log = PacketLog(group, snap_bytes=SNAP_BYTES)
        try:
            self._events = ConntrackEvents()
        except BaseException:
            self._log.close()
            raise

    @property
    def lost(self) -> int:
        """Copies and events that we were too slow for."""
        return self._log.lost + self._events.lost

    def watch(self, poller: Poller) -> None:
        poller.watch(self._log.fileno(), IN, self._logged, self._crashed)
        poller.watch(self._events.fileno(), IN, self._destroyed, self._crashed)

    def close(self, poller: Poller) -> None:
        for source in (self._log, self._events):
            poller.forget(source.fileno())
            source.close()

    def finish(self, flow: Flow, done: Callable[[], None]) -> None:
        """Call `done` when the totals of an ended flow are in; conntrack forgets it."""
        self._finishing.append((flow, done))

    def tick(self) -> None:
        """Settle what has ended since."""
        finishing, self._finishing = self._finishing, []
        for at in range(0, len(finishing), BATCH):
            part = finishing[at : at + BATCH]
            entries = self._conntrack.get_and_delete([self._place(flow) for flow, _ in part])
            for (flow, done), entry in zip(part, entries, strict=True):
                if entry is not None:
                    _take(flow, entry)
                done()

    def count(self, flows: Iterable[Flow]) -> None:
        """Bring the totals of flows up to date."""
        wanted = list(flows)
        for at in range(0, len(wanted), BATCH):
            part = wanted[at : at + BATCH]
            for flow, entry in zip(part, self._conntrack.get([self._place(flow) for flow in part]), strict=True):
                if entry is not None:
                    _take(flow, entry)

    def _place(self, flow: Flow) -> tuple[int, bytes, int]:
        assert isinstance(flow.carrier, InterfaceRamp)
        return PROTOCOL_NUMBERS[flow.protocol], flow.key, self._zones[flow.carrier]

    def _logged(self, events: int) -> None:
        for mark, _, data in self._log.read(BUDGET):
            ramp = self._ramps.get(mark & INDEX)
            seen = None if ramp is None else observe(data)
            if ramp is None or seen is None:
                continue
            if isinstance(seen, Observed):
                flow = ramp.flows.get(TCP, {}).get(seen.key)
                if flow is not None and flow.handler is not None:
                    flow.handler.observed(seen, flow.key == seen.key)
                continue
            quoted = quoted_key(data, seen)
            if quoted is None:
                continue
            flow = ramp.flows.get(quoted[0], {}).get(quoted[1])
            if flow is not None and flow.handler is not None and flow.key == quoted[1]:
                flow.handler.told_unreachable(data, seen)

    def _destroyed(self, events: int) -> None:
        for _, entry in self._events.read(BUDGET):
            ramp = self._ramps.get(entry.mark & INDEX)
            if ramp is None or self._zones[ramp] != entry.zone:
                continue
            flow = ramp.flows.get(entry.protocol, {}).get(entry.original)
            if flow is not None and not flow.is_ended and flow.key == entry.original:
                _take(flow, entry)
                flow.handler.given_up(is_answered=entry.reply_packets > 0)

    def _crashed(self, error: BaseException) -> None:
        """The log has it; what was read is lost, conntrack's time-outs end those flows."""


def _take(flow: Flow, entry: Entry) -> None:
    """Conntrack has counted all of the flow's packets, also those that passed by us."""
    client, origin = flow.client_path, flow.origin_path
    client.packets, client.octets = entry.original_packets, entry.original_octets
    origin.packets, origin.octets = entry.reply_packets, entry.reply_octets
