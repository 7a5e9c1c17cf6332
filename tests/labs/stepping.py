"""`oxyctl` that stops at one step, until it is let go: `python -m tests.labs.stepping PLACE WHO STEP ARGUMENTS...`.

Steps are counted in WHO: the command, its supervisor, or its supervisor from the moment when it is to end the lab. They
are what changes something in the run directory, what the supervisor tells, and the parts of the end. At step STEP the
file PLACE/reached says which it is, and the process waits for somebody to open PLACE/gate.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from oxyctl.operate import down, up
from oxyctl.supervise import supervisor
from oxyctl.supervise.processes import Processes

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.posix_spawn", "subprocess.Popen", "socket.bind"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts down to the step, when this process is the one that stops."""

    def __init__(self, place, number):
        self.place, self.number = Path(place), number
        self.is_counting = False

    def reach(self, name):
        if not self.is_counting:
            return
        self.number -= 1
        if self.number < 0:
            self.is_counting = False
            if (self.place / "open").exists():  # the test is over
                return
            gate = os.open(self.place / "gate", os.O_RDONLY | os.O_NONBLOCK)  # before: let_go needs a reader
            (self.place / "draft").write_text(name)
            (self.place / "draft").rename(self.place / "reached")
            waiting = select.poll()
            waiting.register(gate, select.POLLIN)
            waiting.poll()  # until somebody opens it to write, and closes it
            os.close(gate)

    def audit(self, event, arguments):
        """Before each change in the run directory."""
        if not self.is_counting:
            return
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
            if event in ("os.posix_spawn", "subprocess.Popen", "socket.bind") or self._is_ours(path):
                self.reach(f"{event} {path}")

    def _is_ours(self, path):
        return not path.startswith("/") or path.startswith(os.environ["OXYCTL_RUN_DIR"])


def around(owner, name, steps):
    """Calls of `owner.name` are steps: before, and after."""
    whole = getattr(owner, name)

    def stepping(*arguments, **options):
        steps.reach(f"before {name}")
        result = whole(*arguments, **options)
        steps.reach(f"after {name}")
        return result

    setattr(owner, name, stepping)


def supervise(steps, who, arguments):
    """The supervisor, with its steps."""
    around(supervisor.Channel, "send", steps)
    around(supervisor.Supervisor, "_commit", steps)
    stop = Processes.stop

    async def stopping(processes, grace_s):
        steps.is_counting = who in ("supervisor", "stopping")
        steps.reach("before stop")
        await stop(processes, grace_s)
        steps.reach("after stop")

    Processes.stop = stopping
    steps.is_counting = who == "supervisor"
    supervisor.main(arguments)


def command(steps, who, arguments):
    """The command, with its steps and such a supervisor."""
    from oxyctl.cli import main

    up.SUPERVISOR = f"tests.labs.stepping {steps.place} {who} {steps.number} supervise"
    around(down, "_ends_after", steps)
    steps.is_counting = who == "command"
    sys.argv = ["oxyctl", *arguments]
    main()


if __name__ == "__main__":
    place, who, number, *arguments = sys.argv[1:]
    steps = Steps(place, int(number))
    sys.addaudithook(steps.audit)
    if arguments[0] == "supervise":
        supervise(steps, who, arguments[1:])
    else:
        command(steps, who, arguments)
