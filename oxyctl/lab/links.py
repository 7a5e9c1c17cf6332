"""The impaired links of a running lab: by the kernel's tbf and netem where it has them, else by a relay of our own.

A link that the relay impairs is unplugged from its network and plugged into a bridge of its own, with one TAP device;
another TAP device is in the network. The node's interface is not touched, so it can be done and undone at any time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import Literal

import msgspec

from oxyctl.agents.impair import Config, LinkConfig
from oxyctl.errors import OxyctlError
from oxyctl.lab.processes import Processes, Program
from oxyctl.lab.shared import reload
from oxyctl.lab.steps import Link, Process
from oxyctl.net import netlink, shaping
from oxyctl.net.impairment import Impairment
from oxyctl.net.namespaces import Namespaces

RELAY = "impair"
FIRST_RELAY_BRIDGE, FIRST_PORT = 30_000, 10_000
QUEUE_PACKETS = 2000  # what waits for the relay's attention
FORCED = "OXYCTL_IMPAIR"  # =user: by the relay, whatever the kernel has
By = Literal["kernel", "user space"]


def link_name(link: Link) -> str:
    """What commands call it."""
    return f"{link.node}:{link.network}"


class Links:
    """How each link of the lab is impaired at the moment."""

    def __init__(self, processes: Processes, namespaces: Namespaces) -> None:
        self._processes, self._namespaces = processes, namespaces
        self._relayed: dict[str, LinkConfig] = {}
        self._shaped: set[str] = set()  # by the kernel
        self._disciplines: frozenset[str] | None = None
        self._generation = 0
        self._counters: dict[str, dict[str, int]] = {}

    def by(self, link: Link) -> By | None:
        """Who impairs it; None when nobody does."""
        name = link_name(link)
        return "user space" if name in self._relayed else "kernel" if name in self._shaped else None

    @property
    def relay(self) -> Program | None:
        """The process that impairs links in user space."""
        return self._processes.programs.get(RELAY)

    async def set(self, link: Link) -> None:
        """Do to the frames of `link` what it says, from now on. OxyctlError, OSError."""
        name, wanted = link_name(link), self._method(link.impairment)
        if self.by(link) == "user space" and wanted != "user space":
            await self._unrelay(link)
        if self.by(link) == "kernel" and wanted != "kernel":
            self._run_both(link, shaping.clear_qdisc(link.port_index), shaping.clear_qdisc(link.index))
            self._shaped.discard(name)
        if wanted == "kernel":
            self._run_both(link, *(self._qdisc(index, link.impairment) for index in (link.port_index, link.index)))
            self._shaped.add(name)
        elif wanted == "user space":
            await self._relay(link)
        netlink.run([shaping.switch(link.port_index, up=not link.impairment.down)])

    async def forget(self, link: Link) -> None:
        """`link` is about to be removed."""
        if self.by(link) == "user space":
            await self._unrelay(link)
        self._shaped.discard(link_name(link))

    async def counters(self) -> dict[str, dict[str, int]]:
        """Frames passed, lost and dropped by the relay, by link."""
        if self._relayed and self.relay is not None and self.relay.is_running:
            with contextlib.suppress(OxyctlError):
                await self._tell_relay()
        return self._counters

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

    async def _relay(self, link: Link) -> None:
        name, number = link_name(link), link.port_index - FIRST_PORT
        is_new = name not in self._relayed
        before = self._relayed.get(name)
        self._relayed[name] = LinkConfig(
            name=name, near=f"near{number}", far=f"far{number}", impairment=link.impairment
        )
        try:
            await self._tell_relay()
            if is_new:
                netlink.run(_wiring(link))
        except (OxyctlError, OSError):
            self._relayed.pop(name) if before is None else self._relayed.update({name: before})
            raise

    async def _unrelay(self, link: Link) -> None:
        bridge = FIRST_RELAY_BRIDGE + link.port_index - FIRST_PORT
        self._relayed.pop(link_name(link))
        netlink.run([shaping.plug(link.port_index, link.bridge_index), shaping.remove_link(bridge)])
        if self.relay is not None and self.relay.is_running:
            await self._tell_relay()

    async def _tell_relay(self) -> None:
        self._generation += 1
        config = Config(generation=self._generation, links=list(self._relayed.values()))
        path = self._processes.directory.path / f"{RELAY}.json"
        if self.relay is None or not self.relay.is_running:
            path.write_bytes(msgspec.json.encode(config))
            command = [sys.executable, "-P", "-m", "oxyctl.agents.impair", str(path)]
            directory = str(self._processes.directory.path)
            self._processes.start(Process(name=RELAY, command=command, directory=directory, reports=True))
            report = await reload(self._program(), path, None, self._generation)
        else:
            report = await reload(self._program(), path, msgspec.json.encode(config), self._generation)
        self._counters = report["links"]
        if report["problems"]:
            raise OxyctlError("; ".join(f"link {name}: {text}" for name, text in report["problems"].items()))

    def _program(self) -> Program:
        assert self.relay is not None
        return self.relay


def _wiring(link: Link) -> list[netlink.Request]:
    """The relay's devices exist; between the node's port and its network goes the way through them."""
    number = link.port_index - FIRST_PORT
    near, far = (socket.if_nametoindex(f"{side}{number}") for side in ("near", "far"))
    bridge = FIRST_RELAY_BRIDGE + number
    requests = [netlink.new_bridge(f"imp{number}", bridge)]
    for index in (near, far):
        requests.append(netlink.set_link(index, mtu=link.mtu, queue=QUEUE_PACKETS))
    return [
        *requests,
        shaping.plug(near, bridge),
        shaping.plug(far, link.bridge_index),
        shaping.plug(link.port_index, bridge),
    ]
