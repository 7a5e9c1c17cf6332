"""The process that impairs links in user space (`oxyctl.agents.impair`): started when needed, and restarted.

An impaired link is moved from its network's bridge into a bridge of its own, with one TAP device; another TAP device
is in the network's bridge. The node's interface is not touched, so this is possible at any time. The TAP devices end
with the process, the bridges stay: a new process adds new devices.
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
QUEUE_PACKETS = 2000  # queue in the kernel while the relay is busy
MAX_EXITS, WITHIN_S = 5, 60.0  # the limit of restarts


def link_name(link: Link) -> str:
    """The name of `link` in commands."""
    return f"{link.node}:{link.network}"


class Relay:
    """The relay process and the links that it impairs, by name, with their counters."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._links: dict[str, Link] = {}
        self._inserted: dict[str, Link] = {}
        self._generation = 0
        self._exits: deque[float] = deque(maxlen=MAX_EXITS)
        self._restarting: asyncio.Task[None] | None = None
        self.counters: dict[str, dict[str, int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._links

    @property
    def program(self) -> Program | None:
        """The process, even if it has ended; None: never started."""
        return self._processes.programs.get(NAME)

    @property
    def is_running(self) -> bool:
        """Whether the process is running."""
        return self.program is not None and self.program.is_running

    @property
    def is_broken(self) -> bool:
        """Whether links are down because the process has ended."""
        return bool(self._links) and not self.is_running

    async def set(self, link: Link) -> None:
        """Apply the impairment of `link`. OxyctlError, OSError: it failed, and nothing has changed."""
        name = link_name(link)
        before = self._links.get(name)
        self._links[name] = link
        try:
            await self.reconfigure()
            if before is None:
                netlink.run([netlink.new_bridge(f"imp{_number(link)}", _bridge(link)), *_insert(link)])
                self._inserted[name] = link
        except (OxyctlError, OSError):
            self._links.pop(name) if before is None else self._links.update({name: before})
            raise

    async def remove(self, link: Link) -> None:
        """Move `link` back into its network's bridge. OxyctlError, OSError."""
        name = link_name(link)
        self._links.pop(name)
        self._inserted.pop(name, None)
        netlink.run([shaping.set_bridge(link.port_index, link.bridge_index), shaping.remove_link(_bridge(link))])
        if self.is_running:
            await self.reconfigure()

    async def reconfigure(self) -> None:
        """Configure the process for all links and read its counters; start it if it is not running. OxyctlError."""
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
            relayed = [link for name, link in self._inserted.items() if name in report["links"]]
            netlink.run([request for link in relayed for request in _insert(link)])
            self._restarting = asyncio.get_running_loop().create_task(self._restart(program))
        self.counters = report["links"]
        if report["problems"]:
            raise OxyctlError("; ".join(f"link {name}: {text}" for name, text in report["problems"].items()))

    def _start(self, path: Path, content: bytes) -> Program:
        path.write_bytes(content)
        command = [sys.executable, "-P", "-m", "oxyctl.agents.impair", str(path)]
        directory = str(self._processes.directory.path)
        return self._processes.start(Process(name=NAME, command=command, directory=directory, reports=True))

    async def _restart(self, program: Program) -> None:
        """Restart the process when it ends, but not too often; the status then shows which links are down."""
        await program.exited
        while self._links and not self._processes.is_stopping and not self._ends_too_often():
            program.output.write(f"the relay of impaired links {program.describe_exit()}: restarted\n".encode())
            with contextlib.suppress(OxyctlError, OSError):
                await self.reconfigure()
                return

    def _ends_too_often(self) -> bool:
        now = time.monotonic()
        is_full = len(self._exits) == MAX_EXITS and now - self._exits[0] < WITHIN_S
        self._exits.append(now)
        return is_full


def _number(link: Link) -> int:
    return link.port_index - FIRST_PORT


def _bridge(link: Link) -> int:
    return FIRST_BRIDGE + _number(link)


def _insert(link: Link) -> list[netlink.Request]:
    """Requests that insert the relay's devices between the node's port and its network."""
    near, far = (socket.if_nametoindex(f"{side}{_number(link)}") for side in ("near", "far"))
    return [
        *(netlink.set_link(index, mtu=link.mtu, queue=QUEUE_PACKETS) for index in (near, far)),
        shaping.set_bridge(near, _bridge(link)),
        shaping.set_bridge(far, link.bridge_index),
        shaping.set_bridge(link.port_index, _bridge(link)),
    ]
