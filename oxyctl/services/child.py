"""A program that a service runs: its exit is awaited without polling, and its process group is killed with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from oxyctl.services import launch
from oxyctl.services.host import Host


class Child:
    """A running program, the leader of its own session."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()  # like Popen.returncode: negative for a signal
        self._watch = os.pidfd_open(process.pid)
        self._loop.add_reader(self._watch, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        code = self._process.wait()
        if not self.exited.done():
            self.exited.set_result(code)

    def signal(self, number: int) -> None:
        """Send a signal to the program's process group."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)

    async def kill(self) -> None:
        """Kill the program's process group."""
        if self._process.returncode is None:
            self.signal(signal.SIGKILL)
            await asyncio.shield(self.exited)


def spawn(host: Host, command: Sequence[str], **options: object) -> Child:
    """Run `command` on `host` in a session of its own."""
    return Child(host.spawn(command, start_new_session=True, **options))


def dying_with_parent(program: str, *arguments: str) -> list[str]:
    """A command that runs `program`, and has the kernel kill it when this process ends, however it ends."""
    return [*_LAUNCH, "--die-with", str(os.getpid()), program, program, *arguments]


def on_terminal(program: str, *command: str) -> list[str]:
    """A command that runs `program` with standard input as its controlling terminal; `command` includes its name."""
    return [*_LAUNCH, "--terminal", program, *command]


_LAUNCH = [sys.executable, "-I", "-S", launch.__file__]
