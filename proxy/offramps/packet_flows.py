"""Code shared by all flows that leave as packets, by a tunnel or by the kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.tenant import Carrier
from proxy.flow.timers import Wheel
from proxy.packet.icmp_errors import IcmpErrors
from proxy.settings.model import Timeouts
from proxy.verdict import Verdict


class Admission(Protocol):
    """Decides about flows."""

    def ask(self, flow: Flow, then: Callable[[Verdict], None]) -> None:
        """Ask about a flow that begins with a reply. Such a flow can only be allowed or denied."""
        ...


class Lifecycle(Protocol):
    """Enters flows into the tables and announces their events: `proxy.stream.lifecycle.Lifecycle`."""

    @property
    def admission(self) -> Admission: ...

    @property
    def wheel(self) -> Wheel[Flow]: ...

    def begin(self, flow: Flow, handler: Any, start: Callable[[], None]) -> None:
        """Make `handler` the flow's handler, enter the flow, and call `start`."""
        ...

    def resume(self, flow: Flow, handler: Any) -> None:
        """Enter a flow that an earlier proxy opened and allowed."""
        ...

    def connected(self, flow: Flow) -> None: ...

    def connect_failed(self, flow: Flow) -> None: ...

    def ended(self, flow: Flow) -> None: ...

    def removed(self, flow: Flow) -> None:
        """Remove the flow from all tables."""
        ...

    def watch_idle(self, flow: Flow, timeout_s: float, now: float) -> None:
        """Start idle checks."""
        ...

    def is_idle(self, flow: Flow, timeout_s: float, now: float) -> bool:
        """Whether nothing moved for the whole timeout. If something did, arm the timer for the next check."""
        ...


class Connections(Protocol):
    """The kernel's state of flows that leave by it."""

    def begin(self, flow: Flow) -> DropReason | None:
        """Admit a flow, and fill in its egress address. Returns the reason if it must not leave."""
        ...

    def enter(self, flow: Flow) -> None:
        """Register a flow that has left already, after there was room for it."""
        ...

    def end(self, flow: Flow) -> None:
        """Delete the entry of a flow that has ended."""
        ...

    def abort(self, flow: Flow) -> None:
        """Delete the entry of a flow at once: none of its packets may pass any more."""
        ...

    def carrier_to_origin(self, flow: Flow) -> Carrier:
        """The carrier of the proxy's own packets to the origin of a flow that the kernel carries."""
        ...

    def count(self, flows: Iterable[Flow]) -> None:
        """Update their totals, if the kernel has them."""
        ...

    def catch_up(self, flow: Flow) -> None:
        """Read what the kernel has logged about flows that it carries, and would deliver a little later."""
        ...

    def replace(self, flow: Flow) -> None:
        """A later flow takes its place: its totals are final, and are not to be counted as the later one's."""
        ...

    def settle(self, flow: Flow, done: Callable[[], None]) -> None:
        """Delete the entry of an ended flow, and call `done` when its totals are final."""
        ...


@dataclass(slots=True)
class PacketFlows:
    """State that these flows share, and the parts of the proxy that they use."""

    lifecycle: Lifecycle
    errors: IcmpErrors
    timeouts: Timeouts
    connections: Connections | None = None  # for flows that leave by the kernel
    idents: itertools.count[int] = field(default_factory=lambda: itertools.count(1))  # for IPv6 fragments
