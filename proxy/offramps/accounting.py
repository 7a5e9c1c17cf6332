"""The kernel's reports on flows that it carries by itself: first replies, ends, and totals.

Rules log the headers of packets that begin and end a connection (proxy/kernel/ruleset.py); totals are conntrack's; a
connection that conntrack drops was idle.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from proxy.flow.flow import PROTOCOL_NUMBERS, Flow, address_text
from proxy.flow.keys import reverse_key
from proxy.flow.record import FlowRecord
from proxy.kernel.conntrack import Conntrack, ConntrackEvents
from proxy.kernel.packetlog import PacketLog
from proxy.kernel.ruleset import LOGGED_AT_ONCE, ON_RAMP, SNAP_BYTES
from proxy.offramps.exit import InterfaceRamp, is_flush
from proxy.offramps.tracked_flow import TrackedFlow
from proxy.packet.forward import quoted_key
from proxy.packet.observed import Observed, observe
from proxy.packet.plane import Plane
from proxy.poller import IN, Poller
from proxy.wire.ctnetlink import Entry
from proxy.wire.ip import TCP

log = logging.getLogger(__name__)

INDEX_MASK = 0x7FFF  # the bits of a mark that identify a way
BUDGET = 64  # copies or events per readiness event
SLICE, SLICE_S = 64, 0.005  # connections deleted together, and the interval: 10,000 a second and more
BATCH = 512  # connections per query
MARK_MASK = 0xFFFF_0000  # the bits of a mark that identify the proxy
FINAL_STATES = (6, 7, 8)  # TCP states of conntrack: last ACK, time wait, close (linux/netfilter/nf_conntrack_tcp.h)
SHORT_S = 1.0  # shorter flows are not worth storing
CATCH_UP_S = 0.02  # twice the time for which the kernel buffers copies
DESTROY_TIMEOUT_S = 1.0  # for conntrack's final event on a connection that was deleted
NOTHING: dict[bytes, Flow] = {}
LOG_BYTES = 7680  # of copies per batch: with the kernel's overhead that takes two pages, not 32


class Accounting:
    """The kernel's accounting of the flows of all interface on-ramps of one proxy."""

    def __init__(
        self,
        ramps: Mapping[int, InterfaceRamp],
        zones: Mapping[InterfaceRamp, int],
        conntrack: Conntrack,
        group: int,
        store: Callable[[Flow], None],
    ) -> None:
        """`ramps`: by the index of their way. `group`: the NFLOG group. `store(flow)` stores it for a successor.

        Raises OSError if the kernel has no NFLOG, or no events.
        """
        self.missing: list[FlowRecord] = []  # stored flows that are no longer in conntrack
        self._recent: deque[Flow] = deque()
        self._store = store
        self._ramps, self._zones, self._conntrack = ramps, zones, conntrack
        self._finishing: deque[tuple[Flow, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._caught_up = False
        self._awaited: dict[tuple[int, bytes, int], tuple[Flow, Callable[[], None], float]] = {}
        self._log = PacketLog(group, snap_bytes=SNAP_BYTES, threshold=LOGGED_AT_ONCE, buffer_bytes=LOG_BYTES)
        try:
            self._events = ConntrackEvents()
        except BaseException:
            self._log.close()
            raise

    @property
    def lost(self) -> int:
        """How many times copies or events were lost because we were too slow."""
        return self._log.lost + self._events.lost

    def watch(self, poller: Poller) -> None:
        poller.watch(self._log.fileno(), IN, self._logged, self._crashed)
        poller.watch(self._events.fileno(), IN, self._destroyed, self._crashed)

    def close(self, poller: Poller) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for source in (self._log, self._events):
            poller.forget(source.fileno())
            source.close()

    def finish(self, flow: Flow, done: Callable[[], None]) -> None:
        """Have conntrack delete an ended flow, and call `done` when its final totals are in."""
        self._finishing.append((flow, done))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SLICE_S, self._delete_some)

    def tick(self, now: float) -> None:
        """Store flows, and stop waiting for events that were lost, or about entries that were already gone."""
        self._store_some(now)
        for place in [place for place, (_, _, until) in self._awaited.items() if until < now]:
            self._awaited.pop(place)[1]()

    def _delete_some(self) -> None:
        """Delete ended connections, whose DESTROY events have the totals. A few at a time: packets wait meanwhile."""
        self._timer = None
        finishing, until, wanted = self._finishing, time.monotonic() + DESTROY_TIMEOUT_S, []
        for _ in range(min(SLICE, len(finishing))):
            flow, done = finishing.popleft()
            if _holds_its_key(flow):
                place = self._conntrack_key(flow)
                wanted.append(place)
                self._awaited[place] = flow, done, until
            else:  # the entry is a later flow's
                done()
        if wanted:
            self._conntrack.delete(wanted)
        if finishing:
            self._timer = asyncio.get_running_loop().call_later(SLICE_S, self._delete_some)

    def add(self, flow: Flow) -> None:
        """Add a new flow that the kernel carries."""
        self._recent.append(flow)

    def _store_some(self, now: float) -> None:
        """Store flows that outlive `SHORT_S` for a successor."""
        recent = self._recent
        while recent and recent[0].started_at < now - SHORT_S:
            flow = recent.popleft()
            if not flow.is_ended:
                self._store(flow)

    def recover(self, plane: Plane, orphans: Iterable[FlowRecord], mark: int) -> None:
        """Find in conntrack the flows that a killed proxy has left to the kernel; those not found are put in `missing`.

        Flows that have ended meanwhile get conntrack's totals, if it still has them; how they ended is unknown.
        """
        known: dict[tuple[object, ...], FlowRecord]
        known = {(r.protocol, r.src, r.src_port, r.dst, r.dst_port, r.tenant, r.vnet): r for r in orphans}
        now, now_ns = time.monotonic(), time.time_ns()
        for entry in self._conntrack.dump(mark | ON_RAMP, MARK_MASK | ON_RAMP):
            ramp = self._ramps.get(entry.mark & INDEX_MASK)
            if ramp is None or self._zones[ramp] != entry.zone:
                continue
            place = (*_ends(entry), ramp.tenant.name, ramp.network.name)
            record, is_over = known.get(place), entry.tcp_state in FINAL_STATES
            if is_over and record is None:
                continue
            flow = plane.resume(ramp, entry.protocol, entry.original, now, now_ns)
            if flow is None:
                continue
            if record is not None:
                flow.restore(known.pop(place))
            _copy_counters(flow, entry)
            if not is_over:
                self.add(flow)
            elif flow.handler is not None:
                flow.handler.end("unknown")
        self.missing = list(known.values())

    def count(self, flows: Iterable[Flow]) -> None:
        """Update the totals of flows."""
        wanted = list(flows)
        for at in range(0, len(wanted), BATCH):
            part = wanted[at : at + BATCH]
            entries = self._conntrack.get([self._conntrack_key(flow) for flow in part])
            for flow, entry in zip(part, entries, strict=True):
                if entry is not None:
                    _copy_counters(flow, entry)

    def replace(self, flow: Flow) -> None:
        """Update the flow's totals and delete its conntrack entry, which conntrack would otherwise continue for a new
        connection with the same addresses and ports, as after a reset by the origin."""
        [entry] = self._conntrack.get_and_delete([self._conntrack_key(flow)])
        if entry is not None:
            _copy_counters(flow, entry)

    def catch_up(self, ramp: InterfaceRamp) -> None:
        """Read the copies of all packets so far; a message to the on-ramp's device makes the kernel deliver them."""
        self._caught_up = False
        ramp.flush_log()
        while not self._caught_up and select.select([self._log], [], [], CATCH_UP_S)[0]:
            self._read_log()

    def external_endpoint(self, flow: Flow) -> bytes | None:
        """The address and port by which the origin knows the client, or None. The flow's totals are updated."""
        [entry] = self._conntrack.get([self._conntrack_key(flow)])
        if entry is None:
            return None
        _copy_counters(flow, entry)
        outbound = reverse_key(entry.reply)
        return outbound[: len(flow.source)] + outbound[-4:-2]

    def _conntrack_key(self, flow: Flow) -> tuple[int, bytes, int]:
        assert isinstance(flow.carrier, InterfaceRamp)
        return PROTOCOL_NUMBERS[flow.protocol], flow.key, self._zones[flow.carrier]

    def _open_pending(self) -> None:
        """Open flows whose SYN was returned at once, as reports on them may arrive first."""
        for ramp in self._zones:
            ramp.cached_decisions.open_pending()

    def _logged(self, events: int) -> None:
        self._read_log()

    def _read_log(self) -> None:
        self._open_pending()
        find = self._ramps.get
        for mark, _, data, arrived_ns in self._log.read(BUDGET):
            ramp = find(mark & INDEX_MASK)
            seen = None if ramp is None else observe(data)
            if ramp is None or seen is None:
                self._caught_up = self._caught_up or is_flush(data)
                continue
            if isinstance(seen, Observed):
                table, key = ramp.flows.get(TCP, NOTHING), seen[0]
                if (flow := table.get(key)) is not None:
                    if isinstance(flow.handler, TrackedFlow):  # else a later flow has its ports, and is not decided yet
                        flow.handler.observed(seen, True, arrived_ns)
                else:
                    flow = table.get(reverse_key(key)) or _find_by_reply(ramp, TCP, key)
                    if flow is not None and isinstance(flow.handler, TrackedFlow):
                        flow.handler.observed(seen, False, arrived_ns)
                continue
            quoted = quoted_key(data, seen)
            if quoted is None:
                continue
            flow = ramp.flows.get(quoted[0], NOTHING).get(quoted[1]) or _find_by_reply(
                ramp, quoted[0], reverse_key(quoted[1])
            )
            if flow is not None and isinstance(flow.handler, TrackedFlow) and flow.key == quoted[1]:
                flow.handler.icmp_error_observed(data, seen)

    def _destroyed(self, events: int) -> None:
        self._open_pending()
        destroyed: list[tuple[Flow, Entry]] = []
        for _, entry in self._events.read(BUDGET):
            ramp = self._ramps.get(entry.mark & INDEX_MASK)
            if ramp is None or self._zones[ramp] != entry.zone:
                continue
            awaited = self._awaited.pop((entry.protocol, entry.original, entry.zone), None)
            if awaited is not None:
                _copy_counters(awaited[0], entry)
                awaited[1]()
                continue
            flow = ramp.flows.get(entry.protocol, NOTHING).get(entry.original)
            if flow is None or flow.is_recorded or not isinstance(flow.handler, TrackedFlow):
                continue
            if flow.is_ended:  # conntrack forgets a SYN that was refused by itself
                _copy_counters(flow, entry)
            else:
                destroyed.append((flow, entry))
        if destroyed:
            self._end_destroyed(destroyed)

    def _end_destroyed(self, destroyed: Sequence[tuple[Flow, Entry]]) -> None:
        """End flows that conntrack has dropped, unless an entry exists: then the event was about an earlier connection
        in TIME_WAIT with the same ports, which the flow's SYN replaced."""
        entries = self._conntrack.get([self._conntrack_key(flow) for flow, _ in destroyed])
        for (flow, entry), current in zip(destroyed, entries, strict=True):
            if current is None and not flow.is_ended and isinstance(flow.handler, TrackedFlow):
                _copy_counters(flow, entry)
                flow.handler.entry_destroyed(is_answered=entry.reply_packets > 0)

    def _crashed(self, error: BaseException) -> None:
        """Ignore the error, which is logged. What was read is lost; those flows end by conntrack's timeouts."""


def _find_by_reply(ramp: InterfaceRamp, protocol: int, key: bytes) -> Flow | None:
    """The flow between sites whose replies have this key."""
    found: Flow | None = ramp.network.find_by_reply(protocol, key)
    return found


def _ends(entry: Entry) -> tuple[object, ...]:
    """Protocol, source and destination of its first packet, as records have them."""
    key = entry.original
    size = 4 if len(key) < 16 else 16
    ports = key[2 * size :]
    name = next((name for name, number in PROTOCOL_NUMBERS.items() if number == entry.protocol), None)
    return (
        name, address_text(key[:size]), int.from_bytes(ports[:2], "big"),
        address_text(key[size : 2 * size]), int.from_bytes(ports[2:], "big"),
    )  # fmt: skip


def _holds_its_key(flow: Flow) -> bool:
    """Whether no later flow has taken its addresses and ports."""
    return flow.tenant.find(flow.carrier, PROTOCOL_NUMBERS[flow.protocol], flow.key) is flow


def _copy_counters(flow: Flow, entry: Entry) -> None:
    """Copy the counters of an entry: conntrack counts all of the flow's packets, also those that passed through us."""
    client, origin = flow.client_path, flow.origin_path
    client.packets, client.octets = entry.original_packets, entry.original_octets
    origin.packets, origin.octets = entry.reply_packets, entry.reply_octets
    if origin.packets and flow.protocol != "tcp" and "d" not in flow.history:
        flow.add_history("d")
