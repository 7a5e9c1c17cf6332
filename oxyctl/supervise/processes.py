"""The programs of a lab: started in their nodes' namespaces, logged, and reaped, as PID 1 must."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from oxyctl.errors import OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.plan.steps import INHERITED, Process
from oxyctl.supervise.program_output import Log, Pump
from oxyctl.supervise.state import LabDirectory

TAIL_LINES, TAIL_BYTES = 12, 16 << 10
RESET = [signal.SIGPIPE, signal.SIGXFSZ]  # CPython ignores these signals; programs expect the default


class Program:
    """One started process: its PID inside the lab, its reports, and how it ended."""

    def __init__(self, process: Process, pid: int, output: Log) -> None:
        self.process, self.pid, self.output = process, pid, output
        self.started_at = time.monotonic()
        self.is_stop_requested = False  # to end, by a request
        self.pumps: list[Pump] = []
        self.reports: list[dict[str, Any]] = []
        self.reported = asyncio.Event()  # set, and replaced, at each new report
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def name(self) -> str:
        """The name of its process in the plan."""
        return self.process.name

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self.output.path

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return not self.exited.done()

    def end(self, status: int) -> None:
        """Record that it has ended with this wait status, after copying its last output to its log."""
        for pump in self.pumps:
            pump.finish()
        self.exited.set_result(os.waitstatus_to_exitcode(status))

    def describe_exit(self) -> str:
        """`exited with code 2` or `was killed by SIGKILL`."""
        return describe_exit(self.exited.result())

    def add_report(self, line: bytes) -> None:
        """Add one line of its standard output to the reports; if it is not a JSON object, write it to the log."""
        try:
            report = json.loads(line)
        except ValueError:
            report = None
        if not isinstance(report, dict):
            self.output.write(line)
            return
        self.reports.append(report)
        self.reported.set()
        self.reported = asyncio.Event()


class Processes:
    """All programs of a lab, by name."""

    def __init__(self, directory: LabDirectory, namespaces: Namespaces) -> None:
        self.directory, self.namespaces = directory, namespaces
        self.programs: dict[str, Program] = {}
        self.is_stopping = False
        self.on_exit: Callable[[Program], None] = lambda program: None  # called for each program that has ended
        self._logs: dict[str, Log] = {}  # of all programs that were ever started

    def start(self, process: Process) -> Program:
        """Start `process` in its node's namespaces. OxyctlError: it cannot be executed."""
        environment = os.environ | process.environment | {"OXYCTL_LAB": self.directory.name}
        environment |= {"OXYCTL_NODE": process.node} if process.node else {}
        readers: list[int] = []
        with contextlib.ExitStack() as stack:
            output = _writer(stack, readers)
            reports = _writer(stack, readers) if process.reports else output
            actions: list[tuple[Any, ...]] = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, reports, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ]
            if process.inherit is not None:  # last: another descriptor may have this number
                inherited = _open(stack, Path(process.inherit), os.O_PATH | os.O_DIRECTORY)
                actions.append((os.POSIX_SPAWN_DUP2, inherited, INHERITED))
            log = self._log(process.name)
            try:
                pid = self._spawn(process, environment, actions)
            except OxyctlError:
                for reader in readers:
                    os.close(reader)
                raise
            program = self.programs[process.name] = Program(process, pid, log)
        handlers = [log.write, _LineSplitter(program.add_report).feed]
        program.pumps = [Pump(reader, handler) for reader, handler in zip(readers, handlers, strict=False)]
        return program

    def _log(self, name: str) -> Log:
        """The log of a program, the same one for each start: children of an earlier one may still write to it."""
        if name not in self._logs:
            self._logs[name] = Log(self.directory.log(name))
        return self._logs[name]

    def _spawn(self, process: Process, environment: dict[str, str], actions: list[tuple[Any, ...]]) -> int:
        try:
            with (
                self.namespaces.inside(process.node),
                self.namespaces.seeing_files(process.node),
                contextlib.chdir(process.directory),
            ):
                return os.posix_spawnp(
                    process.command[0],
                    process.command,
                    environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=(),
                    setsigdef=RESET,
                )
        except OSError as error:
            raise OxyctlError(
                f"node '{process.node or process.name}': cannot start {process.command[0]}: {error.strerror}"
            ) from None

    def reap(self) -> None:
        """Reap all children that have ended: programs of the lab, and orphans that PID 1 has inherited."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for program in list(self.programs.values()):
                if program.pid == pid and program.is_running:
                    program.end(status)
                    self.on_exit(program)

    async def end(self, programs: Collection[Program], grace_s: float) -> None:
        """Send SIGTERM; after `grace_s` seconds kill programs that still run, and processes that they left."""
        for program in programs:
            program.is_stop_requested = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            running = [program for program in programs if program.is_running]
            for program in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program.pid, number)
            if running:
                await asyncio.wait([program.exited for program in running], timeout=grace_s)
        for program in programs:
            self.clear(program)

    def clear(self, program: Program) -> None:
        """Kill processes that a program has left in its process group."""
        is_another = any(other.pid == program.pid and other.is_running for other in self.programs.values())
        if not program.is_running and not is_another:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(program.pid, signal.SIGKILL)

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM to all and wait at most `grace_s` seconds: the kernel ends the rest with PID 1."""
        self.is_stopping = True
        running = [program for program in self.programs.values() if program.is_running]
        for program in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(program.pid, signal.SIGTERM)
        if running:
            await asyncio.wait([program.exited for program in running], timeout=grace_s)

    def tail(self, name: str) -> str:
        """The last lines of a program's log, indented, or a remark that it is empty."""
        return tail(self.directory.log(name))


def describe_exit(code: int) -> str:
    """`exited with code 2` or `was killed by SIGKILL`; negative codes are signals."""
    return f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def tail(log: Path) -> str:
    """The last lines of `log`, indented, or a remark that it is empty."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = collections.deque(file.read().decode(errors="replace").splitlines(), TAIL_LINES)
    except OSError:
        lines = collections.deque()
    return "\n".join(f"    {line}" for line in lines) if lines else "    (its log is empty)"


def _open(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    return fd


def _writer(stack: contextlib.ExitStack, readers: list[int]) -> int:
    """The program's end of a new pipe; the other end is added to `readers`."""
    reader, writer = os.pipe()
    stack.callback(os.close, writer)
    readers.append(reader)
    return writer


class _LineSplitter:
    """Splits the chunks from a pipe into lines."""

    def __init__(self, on_line: Callable[[bytes], None]) -> None:
        self._on_line, self._pending = on_line, b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            self._on_line(line + b"\n")
