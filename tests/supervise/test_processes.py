"""Programs of a lab: started, reported, reaped and ended. In the test's own namespaces, so without root."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from oxyctl.errors import OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.plan.steps import Process
from oxyctl.supervise.processes import Processes, tail
from oxyctl.supervise.state import LabDirectory


class Ours(Processes):
    """Reaps only what it started: the test's process has other children."""

    def reap(self):
        for program in self.programs.values():
            if program.is_running:
                pid, status = os.waitpid(program.pid, os.WNOHANG)
                if pid:
                    program.end(status)


@pytest.fixture
def processes(tmp_path):
    directory = LabDirectory(tmp_path / "one")
    directory.log("any").parent.mkdir(parents=True)
    return Ours(directory, Namespaces(directory.namespaces))


def in_loop(processes, scenario):
    async def run():
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, processes.reap)
        return await asyncio.wait_for(scenario(), 20)

    return asyncio.run(run())


async def closed(pump):
    """Return when nobody has the other end of its pipe."""
    turns = asyncio.get_running_loop()
    while pump._reader >= 0:
        turn = turns.create_future()
        turns.call_soon(turn.set_result, None)
        await turn


def process(tmp_path, *command, **more):
    return Process(name="prog", command=list(command), directory=str(tmp_path), **more)


@pytest.mark.parametrize(
    ("script", "exit_code", "told"),
    [
        ("exit 3", 3, "exited with code 3"),
        ("kill -9 $$", -9, "was killed by SIGKILL"),
        ("exit 0", 0, "exited with code 0"),
    ],
)
def test_how_a_program_ended(processes, tmp_path, script, exit_code, told):
    async def scenario():
        program = processes.start(process(tmp_path, "sh", "-c", script))
        return await program.exited, program.describe_exit()

    assert in_loop(processes, scenario) == (exit_code, told)


def test_output_goes_to_the_log_and_the_environment_is_told(processes, tmp_path):
    async def scenario():
        command = ("sh", "-c", "echo $OXYCTL_LAB $COLOUR; pwd; echo oops >&2; read x || echo no input")
        await processes.start(process(tmp_path, *command, environment={"COLOUR": "blue"})).exited

    in_loop(processes, scenario)
    assert (tmp_path / "one/log/prog.log").read_text() == f"one blue\n{tmp_path}\noops\nno input\n"


def test_reports_are_read_and_anything_else_is_logged(processes, tmp_path):
    lines = r"""printf '{"node": "a"'; printf ', "n": 1}\nplain text\n[1]\n{"node": "b"}\n'; echo err >&2"""

    async def scenario():
        program = processes.start(process(tmp_path, "sh", "-c", lines, reports=True))
        while len(program.reports) < 2:
            await program.reported.wait()
        await program.exited
        return program.reports

    assert in_loop(processes, scenario) == [{"node": "a", "n": 1}, {"node": "b"}]
    assert set((tmp_path / "one/log/prog.log").read_text().splitlines()) == {"plain text", "[1]", "err"}


def test_a_directory_can_be_inherited_as_a_descriptor(processes, tmp_path):
    (tmp_path / "here").touch()

    async def scenario():
        command = process(tmp_path, "ls", "/proc/self/fd/3/", inherit=str(tmp_path), reports=True)
        await processes.start(command).exited

    in_loop(processes, scenario)
    assert "here" in tail(tmp_path / "one/log/prog.log")


def test_a_program_that_does_not_exist(processes, tmp_path):
    async def scenario():
        processes.start(process(tmp_path, "no-such-program"))

    with pytest.raises(OxyctlError, match="'prog': cannot start no-such-program: No such file or directory"):
        in_loop(processes, scenario)


def test_stop_asks_first_and_does_not_wait_for_ever(processes, tmp_path):
    async def scenario():
        polite = processes.start(process(tmp_path, "sleep", "600"))
        script = "trap '' TERM; echo '{}'; while :; do read x < /dev/zero; done"
        stubborn = processes.start(Process(name="stubborn", command=["sh", "-c", script], directory="/", reports=True))
        await stubborn.reported.wait()
        await processes.stop(grace_s=0.2)
        ended = await polite.exited, stubborn.is_running
        os.kill(stubborn.pid, signal.SIGKILL)
        await stubborn.exited
        return ended

    assert in_loop(processes, scenario) == (-signal.SIGTERM, True)


def test_a_program_that_is_ended_leaves_no_children_and_no_descriptors(processes, tmp_path):
    """It may be started again as often as one likes: its log is the same, and nothing of it goes on."""

    async def scenario():
        script = "sleep 600 & echo started >&2; echo '{}'; wait"
        counts = []
        for _ in range(3):
            program = processes.start(process(tmp_path, "sh", "-c", script, reports=True))
            await program.reported.wait()
            await processes.end([program], grace_s=5)
            assert program.is_stop_requested
            for pump in program.pumps:  # their other ends are the child's, until it is gone
                await closed(pump)
            counts.append(len(os.listdir("/proc/self/fd")))
        return counts

    assert len(set(in_loop(processes, scenario))) == 1
    assert tail(tmp_path / "one/log/prog.log").split() == ["started"] * 3


def test_one_that_does_not_listen_is_killed(processes, tmp_path):
    async def scenario():
        script = "trap '' TERM; echo '{}'; while :; do read x < /dev/zero; done"
        program = processes.start(process(tmp_path, "sh", "-c", script, reports=True))
        await program.reported.wait()
        await processes.end([program], grace_s=0.1)
        return await program.exited

    assert in_loop(processes, scenario) == -signal.SIGKILL


def test_the_tail_of_a_log(tmp_path):
    log = tmp_path / "log"
    assert tail(log) == "    (its log is empty)"
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    assert tail(log).splitlines()[0] == "    line 4988"
    assert tail(log).splitlines()[-1] == "    line 4999"
