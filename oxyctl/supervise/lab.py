"""The state of a running lab that all parts of its supervisor share: plan, programs, links, ready nodes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from oxyctl.errors import OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.plan.steps import Plan, PlannedNode, Process, Running
from oxyctl.supervise.links import Links
from oxyctl.supervise.probes import description, until_ready
from oxyctl.supervise.processes import Processes, Program, tail
from oxyctl.supervise.requests import COMMIT
from oxyctl.supervise.shared_programs import SharedPrograms
from oxyctl.supervise.state import LabDirectory
from oxyctl.supervise.trust import Trust

MAX_REPORTS = 3  # nodes not ready in time that are described; others are only named


class NotReadyInTime(OxyctlError):
    """A node that is not ready at the deadline."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class Channel:
    """The connection to the command that builds the lab: sends events, and receives its commit or its end."""

    def __init__(self, sock: socket.socket, lock: int) -> None:
        self._sock, self._lock = sock, lock

    def send(self, event: str, **details: Any) -> None:
        """Send one event. Errors are ignored here: `committed` notices when the command has ended."""
        try:
            self._sock.sendall(msgspec.json.encode({"event": event, **details}) + b"\n")
        except OSError:
            pass

    async def committed(self) -> bool:
        """Wait for the command. Returns whether it committed the lab; False: it has ended."""
        return await asyncio.get_running_loop().sock_recv(self._sock, len(COMMIT)) == COMMIT

    def close(self) -> None:
        """Close the connection to the command, and release the lock for the next one."""
        self._sock.close()
        os.close(self._lock)


class RunningLab:
    """The parts of a running lab, and the readiness of its nodes."""

    def __init__(self, directory: LabDirectory, plan: Plan, channel: Channel, timeout_s: float) -> None:
        self.directory, self.plan, self.channel = directory, plan, channel
        self.deadline = time.monotonic() + timeout_s
        self.namespaces = Namespaces(directory.namespaces)
        self.processes = Processes(directory, self.namespaces)
        self.links = Links(self.processes, self.namespaces)
        self.shared = SharedPrograms(self.processes)
        self.trust = Trust(lambda: self.plan)
        self.change_lock = asyncio.Lock()  # held while changing anything, but not while waiting until nodes are ready
        self.ready: set[str] = set()

    async def until_all_ready(self) -> None:
        """Return when all nodes are ready. OxyctlError: the first failure, or all nodes that are late."""
        waits = [asyncio.create_task(self.until_ready(node, self.deadline)) for node in self.plan.nodes]
        late: list[NotReadyInTime] = []
        for done in asyncio.as_completed(waits):
            try:
                await done
            except NotReadyInTime as error:
                late.append(error)
        if late:
            raise OxyctlError(_describe_late(late))

    async def until_ready(self, node: PlannedNode, deadline: float) -> None:
        """Return when `node` is ready. NotInTime: not at the deadline. OxyctlError: it has failed."""
        program = self.processes.programs[node.process]
        probe = asyncio.create_task(self._until_probed(node, program))
        remaining = max(0.0, deadline - time.monotonic())
        futures: set[asyncio.Future[Any]] = {probe, program.exited}
        await asyncio.wait(futures, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
        try:
            if probe.done():
                probe.result()
            elif not program.exited.done():
                raise NotReadyInTime(node.name, "not ready in time")
            if not program.is_running and not _has_succeeded(node, program):
                raise OxyctlError(f"`{_command(program.process)}` {program.describe_exit()}")
        except NotReadyInTime as error:
            raise NotReadyInTime(node.name, str(self._failure(node, program, str(error)))) from None
        except OxyctlError as error:
            raise self._failure(node, program, str(error)) from None
        finally:
            probe.cancel()
        self.ready.add(node.name)
        self.channel.send("ready", node=node.name, kind=node.kind)

    async def _until_probed(self, node: PlannedNode, program: Program) -> None:
        await until_ready(node, program, self.processes)
        await self.trust.until_complete(node.name)

    def check_programs(self) -> None:
        """Raise OxyctlError if a program has failed after its node became ready."""
        for node in self.plan.nodes:
            program = self.processes.programs[node.process]
            if not program.is_running and not _has_succeeded(node, program):
                raise self._failure(node, program, f"`{_command(program.process)}` {program.describe_exit()}")

    def _failure(self, node: PlannedNode, program: Program, what: str) -> OxyctlError:
        command = "" if what.startswith("`") else f"\n  command: `{_command(program.process)}`"
        return OxyctlError(
            f"node '{node.name}' ({node.kind}): {what}{command}\n"
            f"  waiting for: {description(node.probe)}\n  its log:\n{tail(program.log)}"
        )


def _describe_late(late: list[NotReadyInTime]) -> str:
    """The names of all late nodes, and descriptions of the first ones."""
    reports = [str(error) for error in late[:MAX_REPORTS]]
    names = ", ".join(sorted(error.node for error in late))
    return "\n".join([*([f"{len(late)} nodes are not ready in time: {names}"] if len(late) > 1 else []), *reports])


def _has_succeeded(node: PlannedNode, program: Program) -> bool:
    """Whether the program of `node`, which needs no other readiness, has exited with code 0."""
    return isinstance(node.probe, Running) and program.exited.done() and program.exited.result() == 0


def _command(process: Process) -> str:
    return " ".join([Path(process.command[0]).name, *process.command[1:]])
