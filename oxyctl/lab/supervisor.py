"""PID 1 of a lab: builds it, starts and watches its programs, answers for it; when it ends, all of the lab does.

`launch` starts it as `python -m oxyctl.lab.supervisor RUN CHANNEL LOCK TIMEOUT`, with two descriptors. The channel
takes events to the command, as JSON lines, until the command commits the lab; the lock is the lab's, held as long.
A channel that closes without a commit means that the command is gone, and then so is the lab.
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

from oxyctl.errors import OxyctlError
from oxyctl.lab.build import build, write_files
from oxyctl.lab.control import answer
from oxyctl.lab.isolation import become_init, prepare_mounts
from oxyctl.lab.keeper import Keeper
from oxyctl.lab.links import Links
from oxyctl.lab.live import Live
from oxyctl.lab.probes import awaited, until_names, until_ready
from oxyctl.lab.processes import Processes, Program, tail
from oxyctl.lab.shared import SharedPrograms
from oxyctl.lab.site_status import tunnel_statuses
from oxyctl.lab.state import LabDirectory, Phase, State, boot_id, start_ticks
from oxyctl.lab.status import LabStatus, NodeStatus, SupervisorStatus, link_statuses, node_status
from oxyctl.lab.steps import Plan, PlannedNode, Process, Running
from oxyctl.net.namespaces import Namespaces
from oxyctl.net.sockets import shortened
from oxyctl.net.syscalls import set_process_name

COMMIT = b"commit\n"
GRACE_S = 3.0
MAX_QUESTION = 64 << 20  # a whole plan is one
MAX_STORIES = 3  # of nodes that are not ready in time; the others are only named


class NotInTime(OxyctlError):
    """A node that is not ready at the deadline."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class Channel:
    """To the command that builds the lab: events out; in, its commit or its end."""

    def __init__(self, sock: socket.socket, lock: int) -> None:
        self._sock, self._lock = sock, lock

    def tell(self, event: str, **details: Any) -> None:
        """One event; a command that is gone will be noticed where it is listened to."""
        try:
            self._sock.sendall(msgspec.json.encode({"event": event, **details}) + b"\n")
        except OSError:
            pass

    async def committed(self) -> bool:
        """Whether the command committed the lab; False when it is gone."""
        return await asyncio.get_running_loop().sock_recv(self._sock, len(COMMIT)) == COMMIT

    def close(self) -> None:
        """Let the command go, and the next one have the lock."""
        self._sock.close()
        os.close(self._lock)


class Supervisor:
    """One lab, from its plan to its end."""

    def __init__(self, directory: LabDirectory, plan: Plan, channel: Channel, state: State, timeout_s: float) -> None:
        self.directory, self.plan, self.channel, self.state = directory, plan, channel, state
        self.deadline = time.monotonic() + timeout_s
        self.namespaces = Namespaces(directory.namespaces)
        self.processes = Processes(directory, self.namespaces)
        self.links = Links(self.processes, self.namespaces)
        self.shared = SharedPrograms(self.processes)
        self.changing = asyncio.Lock()  # held while anything is made, ended or told; not while it is waited for
        self.live = Live(self)
        self.keeper = Keeper(self)
        self.ready: set[str] = set()
        self.remarks: list[str] = []

    async def run(self) -> None:
        """Until the lab is asked to end, or its command leaves it unfinished. OxyctlError: it could not be built."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._begin_to_stop, stopped)
        loop.add_signal_handler(signal.SIGCHLD, self.processes.reap)
        stop, committed = loop.create_task(stopped.wait()), loop.create_task(self.channel.committed())
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
            if self.state.phase != "starting":  # what never was up has nothing to finish
                await self.processes.stop(GRACE_S)

    def _begin_to_stop(self, stopped: asyncio.Event) -> None:
        """In the state before any other question is answered: who asks after the signal is not told that it is up."""
        if self.state.phase == "up":
            with contextlib.suppress(OSError):
                self._enter_phase("stopping")
        stopped.set()

    async def _up(self) -> None:
        for text in self._build():
            self.channel.tell("step", text=text)
            await asyncio.sleep(0)  # between any two steps a signal, or the end of the command, has its turn
        for link in self.plan.links:
            if link.impairment.is_shaped or link.impairment.down:
                await self.links.set(link)
        await self._until_all_ready()
        await until_names(self.processes, self.deadline - time.monotonic())
        self._check_programs()
        await self._serve()
        self.channel.tell("up")

    def _build(self) -> Iterator[str]:
        write_files(self.plan)
        yield "namespaces of the lab"
        self.remarks += prepare_mounts(self.directory.path, self.directory.namespaces, self.plan.lab)
        yield from build(self.plan, self.namespaces)
        for process in self.plan.processes:
            yield f"start of {process.name}"
            self.processes.start(process)
        yield "until every node is ready"

    async def _until_all_ready(self) -> None:
        """The first that fails ends it; those that are late are told together, for all have the same deadline."""
        waits = [asyncio.create_task(self.until_ready(node, self.deadline)) for node in self.plan.nodes]
        late: list[NotInTime] = []
        for done in asyncio.as_completed(waits):
            try:
                await done
            except NotInTime as error:
                late.append(error)
        if late:
            raise OxyctlError(_describe_late(late))

    async def until_ready(self, node: PlannedNode, deadline: float) -> None:
        """Return when `node` is ready; OxyctlError when it is not at the deadline, or never will be."""
        program = self.processes.programs[node.process]
        probe = asyncio.create_task(until_ready(node, program, self.processes))
        remaining = max(0.0, deadline - time.monotonic())
        futures: set[asyncio.Future[Any]] = {probe, program.exited}
        await asyncio.wait(futures, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
        try:
            if probe.done():
                probe.result()
            elif not program.exited.done():
                raise NotInTime(node.name, "not ready in time")
            if not program.is_running and not _is_done(node, program):
                raise OxyctlError(f"`{_command(program.process)}` {program.describe_exit()}")
        except NotInTime as error:
            raise NotInTime(node.name, str(self._failure(node, program, str(error)))) from None
        except OxyctlError as error:
            raise self._failure(node, program, str(error)) from None
        finally:
            probe.cancel()
        self.ready.add(node.name)
        self.channel.tell("ready", node=node.name, kind=node.kind)

    def _check_programs(self) -> None:
        """A program that only has to run may still have failed while the others became ready."""
        for node in self.plan.nodes:
            program = self.processes.programs[node.process]
            if not program.is_running and not _is_done(node, program):
                raise self._failure(node, program, f"`{_command(program.process)}` {program.describe_exit()}")

    def _failure(self, node: PlannedNode, program: Program, what: str) -> OxyctlError:
        command = "" if what.startswith("`") else f"\n  command: `{_command(program.process)}`"
        lines = tail(program.log)
        return OxyctlError(
            f"node '{node.name}' ({node.kind}): {what}{command}\n  awaited: {awaited(node.probe)}\n  its log:\n{lines}"
        )

    def _commit(self) -> None:
        self._enter_phase("up")
        self.keeper.begin()
        self.channel.close()

    def _enter_phase(self, phase: Phase) -> None:
        self.state = msgspec.structs.replace(self.state, phase=phase)
        self.directory.write_state(self.state)

    async def _serve(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with shortened(self.directory.control) as path:
            sock.bind(path)
        await asyncio.start_unix_server(self._answer, sock=sock, limit=MAX_QUESTION)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection asks one question, a line of JSON, and is told the answer in the last line that comes."""

        def tell(event: str, **details: Any) -> None:
            if not writer.is_closing():
                writer.write(msgspec.json.encode({"event": event, **details}) + b"\n")

        writer.write(await answer(self, reader, tell) + b"\n")
        writer.close()

    async def status(self) -> LabStatus:
        """What `oxyctl lab status` shows."""
        nodes = [self.node_status(node) for node in self.plan.nodes]
        is_whole = not self.links.relay.is_broken and all(
            node.state == "ready" or (node.kind == "process" and node.exit_code == 0) for node in nodes
        )
        return LabStatus(
            name=self.plan.lab,
            source=self.plan.source,
            state="starting" if self.state.phase == "starting" else "up" if is_whole else "degraded",
            directory=str(self.directory.path),
            supervisor=SupervisorStatus(pid=self.state.pid, started=self.state.started),
            nodes=nodes,
            tunnels=await tunnel_statuses(self.plan, self._carrier()),
            links=link_statuses(self.plan, self.links, await self.links.counters()),
            remarks=self.remarks,
        )

    def _carrier(self) -> Program | None:
        """The program of the sites' tunnels, as long as it runs: after that nothing that it said is so."""
        program = self.processes.programs.get("sites")
        return program if program is not None and program.is_running else None

    def node_status(self, node: PlannedNode) -> NodeStatus:
        """How one of them is."""
        kept = self.keeper.kept(node.name)
        return node_status(node, self.processes.programs.get(node.process), node.name in self.ready, kept)


def _is_done(node: PlannedNode, program: Program) -> bool:
    """Whether the program of `node` was only to run, and has."""
    return isinstance(node.probe, Running) and program.exited.done() and program.exited.result() == 0


def _describe_late(late: list[NotInTime]) -> str:
    """The stories of the first few, and the names of all when they are more."""
    stories = [str(error) for error in late[:MAX_STORIES]]
    names = ", ".join(sorted(error.node for error in late))
    return "\n".join([*([f"{len(late)} nodes are not ready in time: {names}"] if len(late) > 1 else []), *stories])


def _command(process: Process) -> str:
    return " ".join([Path(process.command[0]).name, *process.command[1:]])


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
    channel.tell("started", pid=pid)
    asyncio.run(_run(directory, plan, channel, state, timeout_s))


async def _run(directory: LabDirectory, plan: Plan, channel: Channel, state: State, timeout_s: float) -> None:
    await Supervisor(directory, plan, channel, state, timeout_s).run()


def main(arguments: list[str]) -> None:
    """Run the lab in the directory that the first argument names; does not return before the lab's end."""
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
        channel.tell("failed", error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
