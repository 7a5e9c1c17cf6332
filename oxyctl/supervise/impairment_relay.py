"""The process that impairs links in user space (`oxyctl.agents.impair`): started when needed, and restarted.

A link that it impairs is unplugged from its network and plugged into a bridge of its own, with one TAP device; another
TAP device is in the network. The node's interface is not touched, so it can be done and undone at any time. The TAP
devices end with the process, the bridges stay: a new process plugs new devices in.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

from oxyctl.agents.impair import Config, LinkConfig
from oxyctl.errors import OxyctlError
from oxyctl.net import netlink, shaping
from oxyctl.plan.steps import Link, Process
from oxyctl.supervise.processes import Processes, Program
from oxyctl.supervise.shared_programs import reload

NAME = "impair"
FIRST_BRIDGE, FIRST_PORT = 30_000, 10_000
QUEUE_PACKETS = 2000  # what waits for the relay's attention
MAX_DEATHS, WITHIN_S = 5, 60.0  # more often it is not started again


def link_name(link: Link) -> str:
    """What commands call it."""
    return f"{link.node}:{link.network}"


class Relay:
    """The links that it impairs, by name, and what it says of them."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._links: dict[str, Link] = {}
        self._wired: dict[str, Link] = {}
        self._generation = 0
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._revival: asyncio.Task[None] | None = None
        self.counters: dict[str, dict[str, int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._links

    @property
    def program(self) -> Program | None:
        """The process, also when it has ended."""
        return self._processes.programs.get(NAME)

    @property
    def is_running(self) -> bool:
        """Whether links are relayed at the moment."""
        return self.program is not None and self.program.is_running

    @property
    def is_broken(self) -> bool:
        """Whether links are cut because it has ended."""
        return bool(self._links) and not self.is_running

    async def set(self, link: Link) -> None:
        """Impair `link` as it says, from now on. OxyctlError, OSError: nothing has changed."""
        name = link_name(link)
        before = self._links.get(name)
        self._links[name] = link
        try:
            await self.tell()
            if before is None:
                netlink.run([netlink.new_bridge(f"imp{_number(link)}", _bridge(link)), *_plugs(link)])
                self._wired[name] = link
        except (OxyctlError, OSError):
            self._links.pop(name) if before is None else self._links.update({name: before})
            raise

    async def remove(self, link: Link) -> None:
        """Plug `link` into its network again."""
        name = link_name(link)
        self._links.pop(name)
        self._wired.pop(name, None)
        netlink.run([shaping.set_bridge(link.port_index, link.bridge_index), shaping.remove_link(_bridge(link))])
        if self.is_running:
            await self.tell()

    async def tell(self) -> None:
        """Have it do what the links say, and learn its counters; start it when it is not there."""
        self._generation += 1
        links = [
            LinkConfig(name=name, near=f"near{_number(link)}", far=f"far{_number(link)}", impairment=link.impairment)
            for name, link in self._links.items()
        ]
        content = msgspec.json.encode(Config(generation=self._generation, links=links))
        path = self._processes.directory.path / f"{NAME}.json"
        if self.program is not None and self.program.is_running:
            report = await reload(self.program, path, content, self._generation)
        else:
            program = self._start(path, content)
            report = await reload(program, path, None, self._generation)
            netlink.run(
                [plug for name, link in self._wired.items() if name in report["links"] for plug in _plugs(link)]
            )
            self._revival = asyncio.get_running_loop().create_task(self._revive(program))
        self.counters = report["links"]
        if report["problems"]:
            raise OxyctlError("; ".join(f"link {name}: {text}" for name, text in report["problems"].items()))

    def _start(self, path: Path, content: bytes) -> Program:
        path.write_bytes(content)
        command = [sys.executable, "-P", "-m", "oxyctl.agents.impair", str(path)]
        directory = str(self._processes.directory.path)
        return self._processes.start(Process(name=NAME, command=command, directory=directory, reports=True))

    async def _revive(self, program: Program) -> None:
        """Restart it when it has died, but not endlessly; the status shows which links are then cut."""
        await program.exited
        while self._links and not self._processes.is_stopping and not self._dies_too_often():
            program.output.write(f"the relay of impaired links {program.describe_exit()}: started again\n".encode())
            with contextlib.suppress(OxyctlError, OSError):
                await self.tell()
                return

    def _dies_too_often(self) -> bool:
        now = time.monotonic()
        is_full = len(self._deaths) == MAX_DEATHS and now - self._deaths[0] < WITHIN_S
        self._deaths.append(now)
        return is_full


def _number(link: Link) -> int:
    return link.port_index - FIRST_PORT


def _bridge(link: Link) -> int:
    return FIRST_BRIDGE + _number(link)


def _plugs(link: Link) -> list[netlink.Request]:
    """The relay's devices and the link's bridge exist; the way from the node's port to its network leads through."""
    near, far = (socket.if_nametoindex(f"{side}{_number(link)}") for side in ("near", "far"))
    return [
        *(netlink.set_link(index, mtu=link.mtu, queue=QUEUE_PACKETS) for index in (near, far)),
        shaping.set_bridge(near, _bridge(link)),
        shaping.set_bridge(far, link.bridge_index),
        shaping.set_bridge(link.port_index, _bridge(link)),
    ]
