"""What is told of nodes that do not become ready. Without namespaces: their programs are played."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from oxyctl.errors import OxyctlError
from oxyctl.supervise import lab as running
from oxyctl.supervise.state import LabDirectory

NODES = "networks: {lan: {subnets: [10.0.0.0/24]}}\nnodes:\n" + "".join(
    f"  n{number}: {{kind: process, networks: [lan], command: [prog, --number, '{number}']}}\n" for number in range(5)
)


@pytest.fixture
def until_ready(tmp_path, plan, monkeypatch):
    """Wait for five nodes, of which those in `ready` become so and those in `failing` end with code 3."""

    def wait(ready=(), failing=()):
        async def probe(node, program, namespaces):
            if node.name not in ready:
                await asyncio.Event().wait()

        async def scenario():
            made = plan(NODES)
            channel = SimpleNamespace(send=lambda event, **details: None)
            lab = running.RunningLab(LabDirectory(tmp_path / "labs" / "test"), made, channel, 0.05)
            for process in made.processes:
                lab.processes.programs[process.name] = program(process, process.name in failing)
            await lab.until_all_ready()

        monkeypatch.setattr(running, "until_ready", probe)
        asyncio.run(scenario())

    def program(process, has_failed):
        log = tmp_path / f"{process.name}.log"
        log.write_text("".join(f"{process.name} line {number}\n" for number in range(20)))
        exited = asyncio.get_running_loop().create_future()
        if has_failed:
            exited.set_result(3)
        return SimpleNamespace(
            process=process,
            log=log,
            exited=exited,
            is_running=not has_failed,
            describe_exit=lambda: "exited with code 3",
        )

    return wait


def test_all_that_are_late_are_named_and_the_first_few_tell_their_story(until_ready):
    with pytest.raises(OxyctlError) as caught:
        until_ready(ready={"n1"})
    first, *lines = str(caught.value).splitlines()
    assert first == "4 nodes are not ready in time: n0, n2, n3, n4"
    assert sum("not ready in time" in line for line in lines) == running.MAX_REPORTS
    assert "  waiting for: its program to keep running" in lines


def test_one_that_is_late_tells_its_command_and_the_last_lines_of_its_log(until_ready):
    with pytest.raises(OxyctlError) as caught:
        until_ready(ready={"n0", "n1", "n2", "n3"})
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "node 'n4' (process): not ready in time",
        "  command: `prog --number 4`",
        "  waiting for: its program to keep running",
    ]
    assert lines[-1] == "    n4 line 19"


def test_one_that_fails_is_told_without_waiting_for_the_others(until_ready):
    with pytest.raises(OxyctlError) as caught:
        until_ready(failing={"n3"})
    assert str(caught.value).startswith("node 'n3' (process): `prog --number 3` exited with code 3\n")


def test_all_ready(until_ready):
    until_ready(ready={f"n{number}" for number in range(5)})
