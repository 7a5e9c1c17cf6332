"""SIGKILL of the command or the supervisor at every step of `up` and `down`: nothing is left, and nothing blocks."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from pathlib import Path

import pytest

from oxyctl.supervise.state import LabDirectory
from tests.labs.conftest import ROOT, eventually, holding_namespaces, links, mounts, processes_of, state_of, users_of

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

PAIR = """
networks:
  lan: {subnets: [10.0.0.0/24, "fd00::/64"]}
nodes:
  server: {kind: process, networks: [lan], command: [sleep, "600"]}
  client: {kind: process, networks: [lan], command: [sleep, "600"]}
"""

SHARES = 4  # every step is tried, by tests that may run side by side


class Stepped:
    """A command that stops at a step, and what there was of its lab then."""

    def __init__(self, machine):
        self.machine, self.place = machine, machine.directory / "steps"
        self.place.mkdir()
        self.place.chmod(0o777)
        os.mkfifo(self.place / "gate")
        (self.place / "gate").chmod(0o666)
        (machine.directory / "tmp").mkdir()
        (machine.directory / "tmp").chmod(0o777)
        machine.environment["TMPDIR"] = str(machine.directory / "tmp")
        packages = machine.environment.get("PYTHONPATH", "")
        machine.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), packages]))

    @contextlib.contextmanager
    def stopped(self, who, step, *arguments):
        """The command, and the step that it is at; None when it has ended before. Let go when the block ends."""
        reached = self.place / "reached"
        reached.unlink(missing_ok=True)
        command = self.machine.command(*arguments)
        at = command.index("oxyctl")
        command[at : at + 1] = ["tests.labs.stepping", str(self.place), who, str(step)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=self.machine.environment, **pipes) as process:
            eventually(lambda: reached.exists() or process.poll() is not None, f"step {step} of {who}")
            yield process, reached.read_text() if reached.exists() else None

    def let_go(self):
        """Open the gate for whoever still waits at it."""
        with contextlib.suppress(OSError):  # nobody does
            os.close(os.open(self.place / "gate", os.O_WRONLY | os.O_NONBLOCK))

    def open_for_good(self):
        """Nobody stops at a step any more."""
        (self.place / "open").touch()

    def supervisor(self):
        """Its PID: that of the innermost of the processes that were started to supervise."""
        found = [pid for pid, command in processes_of(self.machine.run).items() if " supervise " in command]
        return next((pid for pid in found if state_of(pid)[1] in found), found[-1])

    def is_up(self):
        """Whether the lab was committed, and lives on."""
        state = LabDirectory(self.machine.run / "labs" / "pair").live_state()
        return state is not None and state.phase == "up"

    def check_nothing_lives(self, namespaces, links_before, what):
        """No process, namespace, mount, link, socket, or file outside of the run directory."""
        eventually(lambda: not processes_of(self.machine.run), f"no process after {what}")
        eventually(lambda: not users_of(namespaces), f"nobody is in {namespaces} after {what}")
        assert mounts(self.machine.run) == [], what
        assert links() == links_before, what
        assert str(self.machine.run) not in Path("/proc/net/unix").read_text(), what
        assert {*os.listdir(self.machine.directory)} - {"run"} == {"pair.yaml", "steps", "tmp"}, what
        assert os.listdir(self.machine.directory / "tmp") == [], what


@pytest.fixture
def stepped(machine):
    """A command that stops at a step."""
    return Stepped(machine)


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize(
    ("who", "victim", "at_least"),
    [("command", "command", 6), ("supervisor", "command", 20), ("supervisor", "supervisor", 20)],
)
def test_up(machine, stepped, who, victim, at_least, share):
    if share and not machine.is_rootless:
        pytest.skip("every fourth step as root is enough: rootless is the harder way")
    pair, before = machine.file("pair.yaml", PAIR), links()
    for step in itertools.count(share, SHARES):  # each begins with what the one before it left
        with stepped.stopped(who, step, "lab", "up", pair) as (process, name):
            if name is None:
                break
            with holding_namespaces(processes_of(machine.run)) as namespaces:
                os.kill(process.pid if victim == "command" else stepped.supervisor(), signal.SIGKILL)
                stepped.let_go()
                _, errors = process.communicate(timeout=60)
                what = f"step {step}, {name}: {errors}"
                is_done = name == "after _commit"  # the command had its lab, and was let go
                ends = {-9} if victim == "command" else {0} if is_done else {1}
                assert process.returncode in ends | ({0} if is_done else set()), what  # it may have ended by itself
                eventually(lambda: stepped.is_up() or not processes_of(machine.run), f"an end of {what}")
                if stepped.is_up():  # it was committed: the command had done its work
                    machine.oxyctl("lab", "down", "pair")
                stepped.check_nothing_lives(namespaces, before, what)
                assert "Traceback" not in errors, what
                assert victim == "command" or is_done or not (machine.run / "labs" / "pair").exists(), what
    stepped.open_for_good()
    assert step >= at_least
    assert process.returncode == 0
    assert stepped.is_up()


@pytest.mark.parametrize(
    ("who", "victim", "at_least"),
    [("command", "command", 8), ("stopping", "command", 2), ("stopping", "supervisor", 2)],
)
def test_down(machine, stepped, who, victim, at_least):
    pair, before = machine.file("pair.yaml", PAIR), links()
    was_asked = who == "stopping"  # to end: before that, the lab lives on
    for step in itertools.count():
        with stepped.stopped(who if who == "stopping" else "nobody", step, "lab", "up", pair) as (process, _):
            _, errors = process.communicate(timeout=60)  # whatever the `down` before it left: it comes up
            assert process.returncode == 0, errors
        with holding_namespaces(processes_of(machine.run)) as namespaces:
            with stepped.stopped(who, step, "lab", "down", "pair") as (process, name):
                if name is None:
                    break
                os.kill(process.pid if victim == "command" else stepped.supervisor(), signal.SIGKILL)
                stepped.let_go()
                _, errors = process.communicate(timeout=60)
            what = f"step {step}, {name}: {errors}"
            assert process.returncode == (-9 if victim == "command" else 0), what
            was_asked = was_asked or name == "after _ends_by"
            if was_asked:
                stepped.check_nothing_lives(namespaces, before, what)
            assert "Traceback" not in errors, what
    assert step >= at_least
    assert process.returncode == 0
    stepped.check_nothing_lives(namespaces, before, "down")
