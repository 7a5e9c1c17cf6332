"""What all flows that leave as packets, by a tunnel or by the kernel, share."""

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
    """Who decides about flows."""

    def ask(self, flow: Flow, then: Callable[[Verdict], None]) -> None:
        """Ask about a flow that begins with an answer, and can only be allowed or denied."""
        ...


class Lifecycle(Protocol):
    """Who enters flows into the tables and announces what becomes of them: `proxy.stream.lifecycle.Lifecycle`."""

    @property
    def admission(self) -> Admission: ...

    @property
    def wheel(self) -> Wheel[Flow]: ...

    def begin(self, flow: Flow, handler: Any, start: Callable[[], None]) -> None:
        """Let `handler` have the flow, enter it, and call `start`."""
        ...

    def resume(self, flow: Flow, handler: Any) -> None:
        """Enter a flow that was begun and decided by a proxy before this one."""
        ...

    def connected(self, flow: Flow) -> None: ...

    def connect_failed(self, flow: Flow) -> None: ...

    def ended(self, flow: Flow) -> None: ...

    def removed(self, flow: Flow) -> None:
        """Nothing of the flow is left."""
        ...

    def watch_idle(self, flow: Flow, timeout_s: float, now: float) -> None:
        """Begin to look whether the flow still moves anything."""
        ...

    def is_idle(self, flow: Flow, timeout_s: float, now: float) -> bool:
        """Whether nothing moved for the whole timeout; if not, it is looked at again later."""
        ...


class Connections(Protocol):
    """What the kernel remembers of flows that leave by it."""

    def begin(self, flow: Flow) -> DropReason | None:
        """The flow is about to leave: its egress address is filled in, or why it must not."""
        ...

    def enter(self, flow: Flow) -> None:
        """The flow has left already, and there was room for it."""
        ...

    def end(self, flow: Flow) -> None:
        """Nothing of it passes any more."""
        ...

    def cut(self, flow: Flow) -> None:
        """The flow ends at once: nothing of it may pass any more."""
        ...

    def beyond(self, flow: Flow) -> Carrier:
        """What a packet of the proxy's own goes by to the origin of a flow that the kernel carries."""
        ...

    def count(self, flows: Iterable[Flow]) -> None:
        """Bring their totals up to date, where the kernel has them."""
        ...

    def catch_up(self, flow: Flow) -> None:
        """Read what the kernel has noted of flows that it carries, and would hand over a little later."""
        ...

    def replace(self, flow: Flow) -> None:
        """A later flow takes its place: its totals are final, and are not to be counted as the later one's."""
        ...

    def settle(self, flow: Flow, done: Callable[[], None]) -> None:
        """The same; `done` is called when its totals are in."""
        ...


@dataclass(slots=True)
class PacketFlows:
    """Whom these flows turn to, and what they count together."""

    lifecycle: Lifecycle
    errors: IcmpErrors
    timeouts: Timeouts
    connections: Connections | None = None  # of flows that leave by the kernel
    idents: itertools.count[int] = field(default_factory=lambda: itertools.count(1))  # of IPv6 fragments
