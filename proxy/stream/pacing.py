"""Byte rate limits of flows: the kernel's TCP paces them, and each flow's share follows its activity.

SO_MAX_PACING_RATE (socket(7)) bounds the rate of a socket; its send buffer then fills, the proxy stops reading the
other side, and TCP's own window slows the sender down: nothing is dropped, and no packet costs more. In an inspected
session the rates set on its sockets remain.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Sequence

from proxy.flow.flow import Flow
from proxy.stream.metering import Buckets, Meter
from proxy.verdict import Pace

DIVIDE_S = 0.25  # interval between divisions of the limits
MIN_BYTES_PER_S = 1_000.0  # below that a connection starves on its own timers
SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; the socket module does not name it


class _Paced:
    """A flow with its two sockets, and the rate set on them."""

    __slots__ = ("bytes_moved", "flow", "paces", "rate", "socks")

    def __init__(self, flow: Flow, paces: Sequence[Pace], socks: tuple[socket.socket, ...]) -> None:
        self.flow, self.paces, self.socks = flow, paces, socks
        self.bytes_moved = flow.client_payload + flow.origin_payload  # at the last division
        self.rate = 0.0

    def set(self, rate: float) -> None:
        """Set the rate of both sockets, in bytes per second."""
        rate = max(MIN_BYTES_PER_S, rate)
        if abs(rate - self.rate) < 0.05 * self.rate:
            return
        self.rate = rate
        for sock in self.socks:
            if sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("=Q", int(rate)))


class Pacer:
    """Knows the limited flows, and divides each limit among those that move data."""

    def __init__(self) -> None:
        self._pending: dict[Flow, Sequence[Pace]] = {}  # flows that have no sockets yet
        self._paced: dict[Flow, _Paced] = {}
        self._members: Counter[str] = Counter()  # flows per pool
        self._buckets: dict[str, Buckets] = {}  # of the UDP flows of each pool
        self._next_division = 0.0

    def limit(self, flow: Flow, paces: Sequence[Pace]) -> None:
        """Limit this flow by `paces`, as its verdict requires."""
        if (paced := self._paced.get(flow)) is not None:
            paced.paces = paces
        else:
            self._pending[flow] = paces

    def start(self, flow: Flow, *socks: socket.socket) -> None:
        """Begin to pace the flow's sockets."""
        if self._pending and (paces := self._pending.pop(flow, None)) is not None:
            paced = self._paced[flow] = _Paced(flow, paces, socks)
            self._members.update(pace.pool for pace in paces)
            paced.set(min(pace.bytes_per_s / self._members[pace.pool] for pace in paces))  # others follow in `tick`

    def meter(self, flow: Flow) -> Meter | None:
        """The meter for the datagrams of this new flow, or None if it is not limited."""
        if not self._pending or (paces := self._pending.pop(flow, None)) is None:
            return None
        self._paced[flow] = _Paced(flow, paces, ())
        self._members.update(pace.pool for pace in paces)
        for pace in paces:
            if pace.pool not in self._buckets:
                self._buckets[pace.pool] = Buckets(pace.bytes_per_s / self._members[pace.pool])
        return Meter([self._buckets[pace.pool] for pace in paces])

    def tick(self, now: float) -> None:
        """Divide the limits again; forget flows that have ended."""
        if (self._pending or self._paced) and now >= self._next_division:
            self._next_division = now + DIVIDE_S
            self._pending = {flow: paces for flow, paces in self._pending.items() if not flow.is_ended}
            self._paced = {flow: paced for flow, paced in self._paced.items() if not flow.is_ended}
            self._divide()

    def _divide(self) -> None:
        """Divide each limit equally among flows that move data; an idle flow may start at an equal share of all."""
        members: Counter[str] = Counter()
        moving: Counter[str] = Counter()
        datagrams: Counter[str] = Counter()  # moving UDP flows per pool
        limits: dict[str, float] = {}  # of pools with UDP flows
        busy: set[_Paced] = set()
        for paced in self._paced.values():
            bytes_moved = paced.flow.client_payload + paced.flow.origin_payload
            if bytes_moved != paced.bytes_moved or paced.flow.level != "stream":  # inspected bytes are not counted here
                busy.add(paced)
            paced.bytes_moved = bytes_moved
            pools = [pace.pool for pace in paced.paces]
            members.update(pools)
            if paced in busy:
                moving.update(pools)
            if not paced.socks:
                limits.update((pace.pool, pace.bytes_per_s) for pace in paced.paces)
                datagrams.update(pools if paced in busy else ())
        for paced in self._paced.values():
            sharers = moving if paced in busy else members
            paced.set(min(pace.bytes_per_s / sharers[pace.pool] for pace in paced.paces))
        self._members = members
        self._buckets = {pool: buckets for pool, buckets in self._buckets.items() if pool in limits}
        for pool, buckets in self._buckets.items():
            buckets.set(limits[pool] * max(1, datagrams[pool]) / max(1, moving[pool]))
