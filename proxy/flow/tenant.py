"""One tenant: its flows, its limits, its counters. Nothing of two tenants is ever in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

from proxy.errors import DropReason
from proxy.flow.flow import Flow, Path
from proxy.flow.fragments import Fragments
from proxy.settings.model import TenantSettings


class Carrier(Protocol):
    """A tunnel as flows and the packet plane see it."""

    id: str
    kind: str
    tenant: Tenant
    user: str | None
    device: str | None
    mtu: int
    header_bytes: int  # of virtio-net before each packet: 10 with offload, else 0
    paths: dict[bytes, Path]  # TCP, memoised for packets that arrive here
    sessions: dict[bytes, Any]  # UDP, the same
    is_closed: bool

    def owns(self, address: bytes) -> bool: ...

    def send(self, packet: bytes | memoryview) -> None: ...

    def deliver(self, packet: bytes) -> None: ...

    def close(self) -> None: ...


class Tenant:
    """The flows of one tenant by protocol and key, and what it may hold at once."""

    def __init__(self, name: str, settings: TenantSettings, *, fragments_s: float = 15) -> None:
        self.name = name
        self.settings = settings
        self.flows: dict[int, dict[bytes, Flow]] = {}
        self.carriers: dict[str, Carrier] = {}
        self.count = 0
        self.opened: Counter[str] = Counter()  # flows so far, by protocol
        self.drops: Counter[DropReason] = Counter()
        self.fragments = Fragments(timeout_s=fragments_s, max_bytes=settings.limits.bytes_held)
        self.held_bytes = 0  # queued for its tunnels
        self.closed_traffic = (0, 0, 0, 0)  # of tunnels that are closed: packets and bytes in, packets and bytes out
        self._tokens = float(settings.limits.new_flows_per_s)
        self._filled_at = 0.0

    def find(self, protocol: int, key: bytes) -> Flow | None:
        table = self.flows.get(protocol)
        return table.get(key) if table else None

    def refusal(self, now: float) -> DropReason | None:
        """Why no further flow may start now, or None; a token of the new-flow rate is spent when one may."""
        limits = self.settings.limits
        if self.count >= limits.flows:
            return DropReason.LIMIT_FLOWS
        rate = limits.new_flows_per_s
        self._tokens = min(rate, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1:
            return DropReason.LIMIT_RATE
        self._tokens -= 1
        return None

    def add(self, protocol: int, flow: Flow) -> None:
        table = self.flows.setdefault(protocol, {})
        self.count += flow.key not in table
        table[flow.key] = flow
        self.opened[flow.protocol] += 1

    def remove(self, protocol: int, flow: Flow) -> None:
        """Take the flow out, unless a later flow has its key by now."""
        table = self.flows.get(protocol, {})
        if table.get(flow.key) is flow:
            del table[flow.key]
            self.count -= 1

    def expire_fragments(self, now: float) -> None:
        """Give up datagrams that were not whole in time."""
        if lost := self.fragments.expire(now):
            self.drops[DropReason.FRAGMENT_TIMEOUT] += lost

    def live(self) -> Iterator[Flow]:
        for table in self.flows.values():
            yield from table.values()
