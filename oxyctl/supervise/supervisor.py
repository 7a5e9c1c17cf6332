"""PID 1 of a lab: builds it, starts and watches its programs, answers requests. The lab ends with it.

`operate.up` starts it as `python -m oxyctl.supervise.supervisor RUN CHANNEL LOCK TIMEOUT`, with two descriptors. The
channel carries events to the command, as JSON lines, until the command commits the lab; the lab's lock is held as long.
If the channel closes without a commit, the command has ended, and the lab ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from oxyctl.build.isolation import become_init, prepare_mounts
from oxyctl.build.network import build, write_files
from oxyctl.errors import OxyctlError
from oxyctl.net.sockets import shortened
from oxyctl.net.syscalls import set_process_name
from oxyctl.plan.steps import Plan
from oxyctl.supervise.changes import Changes
from oxyctl.supervise.control import Control
from oxyctl.supervise.lab import Channel, RunningLab
from oxyctl.supervise.node_lifecycle import NodeLifecycle
from oxyctl.supervise.probes import until_names
from oxyctl.supervise.processes import Program
from oxyctl.supervise.site_status import tunnel_statuses
from oxyctl.supervise.state import LabDirectory, Phase, State, boot_id, start_ticks
from oxyctl.supervise.status import LabStatus, SupervisorStatus, link_statuses

GRACE_S = 3.0
MAX_REQUEST_BYTES = 64 << 20  # bytes; a request may contain a whole plan


class Supervisor:
    """Supervises one lab, from its plan to its end."""

    def __init__(self, directory: LabDirectory, plan: Plan, channel: Channel, state: State, timeout_s: float) -> None:
        self.lab, self.state = RunningLab(directory, plan, channel, timeout_s), state
        self.nodes = NodeLifecycle(self.lab)
        self.control = Control(self.status, Changes(self.lab, self.nodes), self.nodes)
        self.remarks: list[str] = []

    async def run(self) -> None:
        """Run until the lab is told to end, or its command ends without a commit. OxyctlError: the build failed."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._start_stopping, stopped)
        loop.add_signal_handler(signal.SIGCHLD, self.lab.processes.reap)
        stop, committed = loop.create_task(stopped.wait()), loop.create_task(self.lab.channel.committed())
        try:
            up = loop.create_task(self._up())
            await asyncio.wait({up, stop, committed}, return_when=asyncio.FIRST_COMPLETED)
            if up.done():
                up.result()
                await asyncio.wait({stop, committed}, return_when=asyncio.FIRST_COMPLETED)
                if committed.done() and committed.result():
                    self._commit()
                    await stop
        finally:
            if self.state.phase != "starting":  # a lab that was never up ends at once
                await self.lab.processes.stop(GRACE_S)

    def _start_stopping(self, stopped: asyncio.Event) -> None:
        """Write the new phase at once, so that no request after the signal sees the lab as up."""
        if self.state.phase == "up":
            with contextlib.suppress(OSError):
                self._enter_phase("stopping")
        stopped.set()

    async def _up(self) -> None:
        for text in self._build():
            self.lab.channel.send("step", text=text)
            await asyncio.sleep(0)  # lets signals, and the end of the command, interrupt between steps
        for link in self.lab.plan.links:
            if link.impairment.is_shaped or link.impairment.down:
                await self.lab.links.set(link)
        await self.lab.until_all_ready()
        await until_names(self.lab.processes, self.lab.deadline - time.monotonic())
        self.lab.check_programs()
        await self._serve()
        self.lab.channel.send("up")

    def _build(self) -> Iterator[str]:
        write_files(self.lab.plan)
        yield "namespaces of the lab"
        self.remarks += prepare_mounts(self.lab.directory.path, self.lab.directory.namespaces, self.lab.plan.lab)
        yield from build(self.lab.plan, self.lab.namespaces)
        for process in self.lab.plan.processes:
            yield f"start of {process.name}"
            self.lab.processes.start(process)
        yield "waiting until all nodes are ready"

    def _commit(self) -> None:
        self._enter_phase("up")
        self.nodes.enable_restarts()
        self.lab.trust.follow()
        self.lab.channel.close()

    def _enter_phase(self, phase: Phase) -> None:
        self.state = msgspec.structs.replace(self.state, phase=phase)
        self.lab.directory.write_state(self.state)

    async def _serve(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with shortened(self.lab.directory.control) as path:
            sock.bind(path)
        await asyncio.start_unix_server(self._answer, sock=sock, limit=MAX_REQUEST_BYTES)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one request, a line of JSON, then events, and the answer as the last line."""

        def notify(event: str, **details: Any) -> None:
            if not writer.is_closing():
                writer.write(msgspec.json.encode({"event": event, **details}) + b"\n")

        writer.write(await self.control.answer(reader, notify) + b"\n")
        writer.close()

    async def status(self) -> LabStatus:
        """The status for `oxyctl lab status`."""
        nodes = [self.nodes.status(node) for node in self.lab.plan.nodes]
        is_whole = not self.lab.links.relay.is_broken and all(
            node.state == "ready" or (node.kind == "process" and node.exit_code == 0) for node in nodes
        )
        return LabStatus(
            name=self.lab.plan.lab,
            source=self.lab.plan.source,
            state="starting" if self.state.phase == "starting" else "up" if is_whole else "degraded",
            directory=str(self.lab.directory.path),
            supervisor=SupervisorStatus(pid=self.state.pid, started=self.state.started),
            nodes=nodes,
            tunnels=await tunnel_statuses(self.lab.plan, self._carrier()),
            links=link_statuses(self.lab.plan, self.lab.links, await self.lab.links.counters()),
            remarks=self.remarks,
        )

    def _carrier(self) -> Program | None:
        """The program of the sites' tunnels; None if it is not running: its reports are then outdated."""
        program = self.lab.processes.programs.get("sites")
        return program if program is not None and program.is_running else None


def _supervise(directory: LabDirectory, channel: Channel, timeout_s: float) -> None:
    plan = directory.read_plan()
    if plan is None:
        raise OxyctlError(f"no plan in {directory.path}")
    pid, ticks = become_init(), start_ticks("self")
    assert ticks is not None
    set_process_name(f"lab:{plan.lab}")
    state = State(
        lab=plan.lab,
        source=plan.source,
        phase="starting",
        boot_id=boot_id(),
        pid=pid,
        start_ticks=ticks,
        started=time.time(),
    )
    directory.write_state(state)
    channel.send("started", pid=pid)
    asyncio.run(_run(directory, plan, channel, state, timeout_s))


async def _run(directory: LabDirectory, plan: Plan, channel: Channel, state: State, timeout_s: float) -> None:
    await Supervisor(directory, plan, channel, state, timeout_s).run()


def main(arguments: list[str]) -> None:
    """Run the lab in the directory of the first argument; returns when the lab has ended."""
    run, channel_fd, lock, timeout_s = Path(arguments[0]), int(arguments[1]), int(arguments[2]), float(arguments[3])
    os.chdir("/")
    os.set_inheritable(channel_fd, False)
    os.set_inheritable(lock, False)
    sock = socket.socket(fileno=channel_fd)
    sock.setblocking(False)
    channel = Channel(sock, lock)
    try:
        _supervise(LabDirectory(run), channel, timeout_s)
    except (OxyctlError, OSError) as error:
        channel.send("failed", error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
