"""The impaired links of a running lab: by the kernel's tbf and netem if available, otherwise by a user-space relay."""

from __future__ import annotations

import contextlib
import os
from typing import Literal

from oxyctl.errors import OxyctlError
from oxyctl.net import netlink, shaping
from oxyctl.net.impairment import Impairment
from oxyctl.net.namespaces import Namespaces
from oxyctl.plan.steps import Link
from oxyctl.supervise.impairment_relay import Relay, link_name
from oxyctl.supervise.processes import Processes

FORCED = "OXYCTL_IMPAIR"  # =user: always by the relay
By = Literal["kernel", "user space"]


class Links:
    """The impaired links of the lab."""

    def __init__(self, processes: Processes, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self.relay = Relay(processes)
        self._shaped: set[str] = set()  # by the kernel
        self._disciplines: frozenset[str] | None = None

    def by(self, link: Link) -> By | None:
        """What impairs `link`; None: nothing."""
        name = link_name(link)
        return "user space" if name in self.relay else "kernel" if name in self._shaped else None

    async def set(self, link: Link) -> None:
        """Apply the impairment of `link`. OxyctlError, OSError."""
        name, method = link_name(link), self._method(link.impairment)
        if self.by(link) == "user space" and method != "user space":
            await self.relay.remove(link)
        if self.by(link) == "kernel" and method != "kernel":
            self._run_both(link, shaping.clear_qdisc(link.port_index), shaping.clear_qdisc(link.index))
            self._shaped.discard(name)
        if method == "kernel":
            self._run_both(link, *(self._qdisc(index, link.impairment) for index in (link.port_index, link.index)))
            self._shaped.add(name)
        elif method == "user space":
            await self.relay.set(link)
        netlink.run([shaping.set_up(link.port_index, up=not link.impairment.down)])

    async def forget(self, link: Link) -> None:
        """Stop impairing `link`, which is about to be removed."""
        if self.by(link) == "user space":
            await self.relay.remove(link)
        self._shaped.discard(link_name(link))

    async def counters(self) -> dict[str, dict[str, int]]:
        """Frames passed, lost and dropped by the relay, by link."""
        if self.relay.is_running:
            with contextlib.suppress(OxyctlError):
                await self.relay.reconfigure()
        return self.relay.counters

    def _method(self, impairment: Impairment) -> By | None:
        if not impairment.is_shaped:
            return None
        if self._disciplines is None:
            is_forced = os.environ.get(FORCED) == "user"
            self._disciplines = frozenset() if is_forced else shaping.disciplines()
        needed = {"netem"} if impairment.is_delayed else {"netem", "tbf"}
        return "kernel" if needed & self._disciplines else "user space"

    def _qdisc(self, index: int, impairment: Impairment) -> netlink.Request:
        assert self._disciplines is not None
        if impairment.rate_bits is not None and not impairment.is_delayed and "tbf" in self._disciplines:
            return shaping.set_tbf(index, impairment.rate_bits)
        return shaping.set_netem(index, impairment)

    def _run_both(self, link: Link, port: netlink.Request, interface: netlink.Request) -> None:
        netlink.run([port])
        with self._namespaces.inside(link.node):
            netlink.run([interface])
